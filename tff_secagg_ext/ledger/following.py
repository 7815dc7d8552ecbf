# SPDX-License-Identifier: Apache-2.0
"""How far a run is, for those who watch it, without reading its rows."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import sqlalchemy as sa

from tff_secagg_ext.ledger import chain, database, schema, writers
from tff_secagg_ext.ledger import rows as rows_lib


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
  writing = is_writing(connection, newest.writer)
  return Progress(newest.id, made, audited, writing)


@dataclasses.dataclass(frozen=True)
class Standing:
  """A run among others at one moment, without its entries.

  Two that are equal are of a run that nobody has added to in between.

  Attributes:
    name: Of the run.
    population: The name of the population that it declares; `None` if none.
    opened_at: When it was opened last, UTC, ISO 8601; empty if it never was.
    recorded_at: When its newest entry was written; it tells how long rounds
      take, and is the coordinator's alone. Empty without any.
    progress: How far it is.
    tips: The hashes of its newest session, entry and audit.
  """

  name: str
  population: str | None
  opened_at: str
  recorded_at: str
  progress: Progress
  tips: tuple[str, str, str]


def standings(connection: sa.Connection) -> tuple[Standing, ...]:
  """Returns all runs, oldest first, in one query."""
  runs, sessions, entries = schema.runs, schema.sessions, schema.entries
  audits = schema.audits
  session, entry, audit = map(
    _newest, (sessions.c.id, entries.c.sequence, audits.c.number)
  )
  query = (
    sa.select(
      runs.c.name,
      runs.c.settings,
      sessions.c.id,
      sessions.c.writer,
      sessions.c.opened_at,
      entries.c.sequence,
      entries.c.recorded_at,
      audits.c.number,
      sessions.c.hash.label('session_tip'),
      entries.c.hash.label('entry_tip'),
      audits.c.hash.label('audit_tip'),
    )
    .select_from(runs)
    .outerjoin(sessions, sessions.c.id == session)
    .outerjoin(
      entries, (entries.c.run_id == runs.c.id) & (entries.c.sequence == entry)
    )
    .outerjoin(
      audits, (audits.c.run_id == runs.c.id) & (audits.c.number == audit)
    )
    .order_by(runs.c.id)
  )
  rows = connection.execute(query).mappings().all()
  # A writer has many runs: whether it lives is asked once.
  writing = {
    writer: is_writing(connection, writer)
    for writer in {row['writer'] for row in rows}
  }
  return tuple(_standing(row, writing[row['writer']]) for row in rows)


def _standing(row: sa.RowMapping, writing: bool | None) -> Standing:
  counts = (row['id'] or 0, row['sequence'] or 0, row['number'] or 0)
  return Standing(
    row['name'],
    _population(row['settings']),
    row['opened_at'] or '',
    row['recorded_at'] or '',
    Progress(*counts, writing),
    (row['session_tip'] or '', row['entry_tip'] or '', row['audit_tip'] or ''),
  )


def _newest(number: sa.Column[int]) -> sa.ScalarSelect[int]:
  """Returns the largest number that rows of a run have, by their index."""
  rows = number.table.alias()
  return (
    sa.select(sa.func.max(rows.c[number.name]))
    .where(rows.c.run_id == schema.runs.c.id)
    .correlate(schema.runs)
    .scalar_subquery()
  )


def is_writing(connection: sa.Connection, writer: str | None) -> bool | None:
  """Whether a process is still running; `None` if that cannot be told."""
  if writer is None:
    return False
  lives = writers.lives(writer)
  if not lives and database.is_connected(connection, writer):
    return True
  return lives


@functools.lru_cache(maxsize=1024)
def _population(settings: str) -> str | None:
  try:
    name = json.loads(settings).get('population_name')
  except (ValueError, AttributeError):
    return None  # It was altered: its chain tells.
  return name if isinstance(name, str) else None


@dataclasses.dataclass(frozen=True)
class Growth:
  """What a run has got since a head of it was told.

  Attributes:
    head: The head that it has now.
    rows: What is new.
  """

  head: chain.Head
  rows: rows_lib.RunRows


def growth(
  connection: sa.Connection, name: str, head: chain.Head
) -> Growth | None:
  """Returns what is newer than `head` in a run, without the rest of it.

  Guarantees:
    - rows that are returned are as they were written, and follow those of the
      head; of older rows but the newest, nothing is known.

  Args:
    connection: A transaction.
    name: The name of the run.
    head: What an earlier check of the whole chain has returned.

  Returns:
    The new rows; `None` if they do not follow: then the whole run is to be
    checked.
  """
  query = sa.select(schema.runs).where(schema.runs.c.name == name)
  run = connection.execute(query).mappings().one_or_none()
  if run is None:
    return None
  found = rows_lib.RunRows(
    dict(run),
    _tail(connection, schema.sessions.c.id, run['id'], 0),
    _tail(connection, schema.entries.c.sequence, run['id'], head.entries),
    _tail(connection, schema.audits.c.number, run['id'], head.audits),
  )
  now = found.chain.check_since(head)
  if now is None:
    return None
  new = rows_lib.RunRows(
    found.run,
    found.sessions[head.sessions :],
    [row for row in found.entries if row['sequence'] > head.entries],
    [row for row in found.audits if row['number'] > head.audits],
  )
  return Growth(now, new)


def _tail(
  connection: sa.Connection, number: sa.Column[int], run_id: int, first: int
) -> list[dict[str, Any]]:
  """Returns the rows of a run from a number on, in their order."""
  table = number.table
  query = sa.select(table).where(table.c.run_id == run_id, number >= first)
  rows = connection.execute(query.order_by(number)).mappings()
  return [dict(row) for row in rows]
