# SPDX-License-Identifier: Apache-2.0
"""What opening a run for writing does to the rows of the ledger."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from tff_secagg_ext.ledger import chain as chain_lib
from tff_secagg_ext.ledger import (
  database,
  errors,
  records,
  rows,
  schema,
  view,
  writers,
)


def open_rows(
  connection: sa.Connection, name: str, settings: str, delta: float
) -> tuple[rows.RunRows, dict[str, Any]]:
  """Returns the rows of a run as it was, and the row of a new session of it.

  Args:
    connection: A transaction that is alone.
    name: The name of the run.
    settings: Its settings as canonical JSON.
    delta: At which epsilon is told.

  Raises:
    RunSettingsError: If the run exists with other settings; names them.
    ConcurrentWriterError: If a living process has an attempt of it open.
    BrokenChainError: If rows of the run were altered or are missing.
  """
  run_id = _find_or_insert(connection, name, settings, delta)
  found = rows.read(connection, run_id)
  found.chain.check()
  _check_writer(connection, found)
  return found, _insert_session(connection, found)


def _find_or_insert(
  connection: sa.Connection, name: str, settings: str, delta: float
) -> int:
  row = (
    connection.execute(sa.select(schema.runs).where(schema.runs.c.name == name))
    .mappings()
    .one_or_none()
  )
  if row is None:
    inserted = connection.execute(
      sa.insert(schema.runs).values(
        name=name, settings=settings, delta=delta, created_at=records.now()
      )
    ).inserted_primary_key
    assert inserted is not None
    return int(inserted[0])
  found = {'delta': row['delta'], **json.loads(row['settings'])}
  wanted = {'delta': delta, **json.loads(settings)}
  differing = view.differences(found, wanted)
  if differing:
    raise errors.RunSettingsError(
      f'Run {name!r} exists with other settings: {"; ".join(differing)}.'
      ' Use another run name, or the settings that it was begun with.'
    )
  return int(row['id'])


def _insert_session(
  connection: sa.Connection, found: rows.RunRows
) -> dict[str, Any]:
  row = {
    'run_id': found.run['id'],
    'writer': writers.this_process(),
    'versions': records.to_text(dict(writers.versions())),
    'opened_at': records.now(),
    'previous': found.chain.end(found.chain.sessions),
  }
  number = len(found.sessions) + 1
  row['hash'] = chain_lib.hash_of(rows.session_record(row, number))
  inserted = connection.execute(
    sa.insert(schema.sessions).values(row)
  ).inserted_primary_key
  assert inserted is not None
  return {'id': inserted[0], **row}


def _check_writer(connection: sa.Connection, found: rows.RunRows) -> None:
  """Refuses a run of which another living process has an attempt open."""
  opened: dict[records.Attempt, int] = {}
  for row in found.entries:
    attempt = records.Attempt(row['round'], row['attempt'])
    if row['kind'] == schema.RESERVED:
      opened[attempt] = row['session_id']
    else:
      opened.pop(attempt, None)
  names = {session['id']: session['writer'] for session in found.sessions}
  for attempt, session in opened.items():
    writer = names[session]
    if writers.lives_elsewhere(writer) or (
      writer != writers.this_process()
      and database.is_connected(connection, writer)
    ):
      raise errors.ConcurrentWriterError(
        f'Run {found.run["name"]!r} is being written by the process {writer}'
        f' (host, number and start): {attempt} is open. Wait for it or end'
        ' it, or use another run name.'
      )
