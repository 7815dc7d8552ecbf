# SPDX-License-Identifier: Apache-2.0
"""Runs the migrations on the connection that `database` has open.

Alembic executes this file itself; the transaction belongs to the caller, so a
migration is applied whole or not at all.
"""

from __future__ import annotations

from alembic import context

context.configure(
  connection=context.config.attributes['connection'],
  version_table=context.config.attributes['version_table'],
)
context.run_migrations()
