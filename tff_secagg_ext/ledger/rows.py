# SPDX-License-Identifier: Apache-2.0
"""Runs as rows of the database, as values, and as records of a hash chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import json
import math
from typing import Any

import sqlalchemy as sa

from tff_secagg_ext.accounting import (
  Epsilon,
  Round,
  Waiver,
  from_json,
  to_json,
)
from tff_secagg_ext.ledger import chain as chain_lib
from tff_secagg_ext.ledger import records, schema
from tff_secagg_ext.ledger.chain import Chain, Record
from tff_secagg_ext.ledger.records import Attempt, Entry

Row = Mapping[str, Any]

# Columns that hold JSON.
ENTRY_JSON = ('charge', 'measurements', 'reasons', 'protocol')
_JSON = {
  'run': ('settings', 'inherited'),
  'session': ('versions',),
  'entry': ENTRY_JSON,
  'audit': ('figures', 'versions'),
}
# Columns that mean something in their database alone, and those of a number.
_LOCAL = ('id', 'run_id', 'session_id', 'sequence')


@dataclasses.dataclass(frozen=True)
class RunRows:
  """All rows of one run.

  Attributes:
    run: Its row in `runs`.
    sessions: Its rows in `sessions`, oldest first.
    entries: Its rows in `entries`, by sequence.
    audits: Its rows in `audits`, by number.
  """

  run: Row
  sessions: Sequence[Row]
  entries: Sequence[Row]
  audits: Sequence[Row] = ()

  @functools.cached_property
  def chain(self) -> Chain:
    """The records of the run, whole."""
    hashes = {row['id']: row['hash'] for row in self.sessions}
    return Chain(
      run_record(self.run),
      [session_record(row, n) for n, row in enumerate(self.sessions, 1)],
      [
        entry_record(row, hashes.get(row['session_id'])) for row in self.entries
      ],
      [audit_record(row) for row in self.audits],
    )

  def parsed(self) -> list[Entry]:
    """Returns the entries as values."""
    return [to_entry(row) for row in self.entries]


def read(connection: sa.Connection, run_id: int) -> RunRows:
  """Returns all rows of the run with that number."""
  found = read_without_entries(connection, run_id)
  rows = connection.execute(entries_of(run_id)).mappings()
  return dataclasses.replace(found, entries=[dict(row) for row in rows])


def read_without_entries(connection: sa.Connection, run_id: int) -> RunRows:
  """Returns the rows of a run but for its entries, of which there are many."""
  runs, sessions, audits = schema.runs, schema.sessions, schema.audits
  queries = (
    sa.select(runs).where(runs.c.id == run_id),
    sa.select(sessions)
    .where(sessions.c.run_id == run_id)
    .order_by(sessions.c.id),
    sa.select(audits)
    .where(audits.c.run_id == run_id)
    .order_by(audits.c.number),
  )
  (run,), found_sessions, found_audits = (
    [dict(row) for row in connection.execute(query).mappings()]
    for query in queries
  )
  return RunRows(run, found_sessions, (), found_audits)


def entries_of(run_id: int) -> sa.Select[Any]:
  """Returns the query for the entries of a run, by sequence."""
  entries = schema.entries
  return (
    sa.select(entries)
    .where(entries.c.run_id == run_id)
    .order_by(entries.c.sequence)
  )


def run_record(row: Row) -> dict[str, Any]:
  """Returns the record of a run; its hash is computed, not stored."""
  return {'version': chain_lib.VERSION, **_record('run', row)}


def session_record(row: Row, number: int) -> dict[str, Any]:
  """Returns the record of a session, the `number`th of its run."""
  return {'number': number, **_record('session', row)}


def entry_record(row: Row, session: str | None) -> dict[str, Any]:
  """Returns the record of an entry, given the hash of its session."""
  return {
    'number': row['sequence'],
    'session': session,
    **_record('entry', row),
  }


def audit_record(row: Row) -> dict[str, Any]:
  """Returns the record of an audit."""
  return _record('audit', row)


def to_columns(record: Record) -> dict[str, Any]:
  """Returns the columns that a record has of its row."""
  what = record['what']
  columns = {
    name: value
    for name, value in record.items()
    if name not in ('what', 'version', 'number', 'session')
  }
  number = {'entry': 'sequence', 'audit': 'number'}.get(what)
  if number is not None:
    columns[number] = record['number']
  for name in _JSON[what]:
    if columns[name] is not None:
      columns[name] = records.to_text(columns[name])
  return columns


def chained_anew(found: RunRows, inherited: Record) -> RunRows:
  """Returns rows that nobody has chained yet, with their hashes."""
  run = {**found.run, 'inherited': records.to_text(inherited)}
  start = previous = chain_lib.hash_of(run_record(run))
  sessions = []
  for number, row in enumerate(found.sessions, 1):
    row = {**row, 'previous': previous}
    previous = chain_lib.hash_of(session_record(row, number))
    sessions.append({**row, 'hash': previous})
  hashes = {row['id']: row['hash'] for row in sessions}
  entries, previous = [], start
  for row in found.entries:
    row = {**row, 'previous': previous, 'salt': chain_lib.new_salt()}
    previous = chain_lib.hash_of(entry_record(row, hashes[row['session_id']]))
    entries.append({**row, 'hash': previous})
  return RunRows(run, sessions, entries)


def to_row(entry: Entry, run_id: int) -> dict[str, Any]:
  """Returns the columns of `entry`, but for those of the chain."""
  reasons: dict[str, list[Any]] = {
    'release': list(entry.release.reasons),
    'server': list(entry.server.reasons),
  }
  waivers = [dataclasses.asdict(waiver) for waiver in entry.waivers]
  if waivers:
    reasons['waivers'] = waivers
  return {
    'run_id': run_id,
    'sequence': entry.sequence,
    'session_id': entry.session,
    'round': entry.attempt.round,
    'attempt': entry.attempt.attempt,
    'kind': entry.kind,
    'charge': to_json(entry.charge),
    'measurements': records.to_text(dict(entry.measurements)),
    'note': entry.note,
    'release_epsilon': records.finite(entry.release),
    'server_epsilon': records.finite(entry.server),
    'reasons': records.to_text(reasons),
    'recorded_at': entry.recorded_at,
    'protocol': None
    if entry.protocol is None
    else records.to_text(dict(entry.protocol)),
  }


def to_entry(row: Row) -> Entry:
  """Returns a row as a value.

  Raises:
    TypeError: If a column is of the wrong kind.
    ValueError: If it has no value that was ever written.
  """
  reasons = json.loads(row['reasons'])
  waivers = tuple(Waiver(**fields) for fields in reasons.get('waivers', ()))
  return Entry(
    sequence=row['sequence'],
    session=row['session_id'],
    attempt=Attempt(row['round'], row['attempt']),
    kind=row['kind'],
    charge=to_charge(row['charge']),
    measurements=records.measured(json.loads(row['measurements'])),
    note=row['note'],
    release=_epsilon(row['release_epsilon'], reasons['release'], waivers),
    server=_epsilon(row['server_epsilon'], reasons['server'], waivers),
    recorded_at=row['recorded_at'],
    protocol=json.loads(row['protocol'] or 'null'),
  )


def _epsilon(
  value: float | None, reasons: list[str], waivers: tuple[Waiver, ...]
) -> Epsilon:
  return Epsilon(math.inf if value is None else value, tuple(reasons), waivers)


@functools.lru_cache(maxsize=1024)
def to_charge(text: str) -> Round:
  """Returns the text of a charge as a value.

  Raises:
    TypeError: If it is of another event.
    ValueError: If it is of none.
  """
  charge = from_json(text)
  if not isinstance(charge, Round):
    raise TypeError(f'A charge must be a Round. Found {charge!r}.')
  return charge


def _record(what: str, row: Row) -> dict[str, Any]:
  record = {name: row[name] for name in row if name not in _LOCAL}
  for name in _JSON[what]:
    text = record[name]
    record[name] = _parsed(text) if isinstance(text, str) else text
  return {'what': what, **record}


@functools.lru_cache(maxsize=1024)
def _parsed(text: str) -> Any:
  """Returns what a text of JSON says; the text itself if it was altered.

  No row was written with it, so its hash does not fit. Texts of a run repeat,
  and nothing changes what is returned.
  """
  try:
    return json.loads(text)
  except ValueError:
    return text
