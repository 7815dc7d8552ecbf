# SPDX-License-Identifier: Apache-2.0
"""How far a run is, for those who watch it, without reading its rows."""

from __future__ import annotations

import dataclasses

import sqlalchemy as sa

from tff_secagg_ext.ledger import database, schema, writers


@dataclasses.dataclass(frozen=True)
class Progress:
  """How far a run is at one moment.

  Attributes:
    sessions: The number of its newest session in this ledger; grows.
    entries: How many entries it has.
    audits: How many audits it has.
    writing: Whether the process that opened it last is still running, between
      rounds too; `None` if that cannot be told: it is of another host, and not
      connected to the database.
  """

  sessions: int
  entries: int
  audits: int
  writing: bool | None


def progress(connection: sa.Connection, run_id: int) -> Progress:
  """Returns how far the run with that number is: one row of each table."""
  sessions, entries, audits = schema.sessions, schema.entries, schema.audits
  newest = connection.execute(
    sa.select(sessions.c.id, sessions.c.writer)
    .where(sessions.c.run_id == run_id)
    .order_by(sessions.c.id.desc())
    .limit(1)
  ).one_or_none()
  # Both are numbered from 1, without gaps.
  made, audited = (
    connection.execute(
      sa.select(sa.func.coalesce(sa.func.max(column), 0)).where(
        column.table.c.run_id == run_id
      )
    ).scalar_one()
    for column in (entries.c.sequence, audits.c.number)
  )
  if newest is None:
    return Progress(0, made, audited, False)
  writing = writers.lives(newest.writer)
  if not writing and database.is_connected(connection, newest.writer):
    writing = True
  return Progress(newest.id, made, audited, writing)
