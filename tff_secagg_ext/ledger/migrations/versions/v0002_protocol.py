# SPDX-License-Identifier: Apache-2.0
"""How the vectors of an attempt were summed, and what that cost."""

from __future__ import annotations

from alembic import op
import sqlalchemy as sa

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
  op.add_column('entries', sa.Column('protocol', sa.Text))


def downgrade() -> None:
  raise NotImplementedError('A ledger is append-only: it has no way back.')
