# SPDX-License-Identifier: Apache-2.0
"""Entries as rows of the database, and back."""

from __future__ import annotations

import dataclasses
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
from tff_secagg_ext.ledger import database, records, schema
from tff_secagg_ext.ledger.records import Attempt, Entry


def to_row(entry: Entry, run_id: int) -> dict[str, Any]:
  """Returns the columns of `entry`."""
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


def read_entries(engine: sa.Engine, run_id: int) -> list[Entry]:
  """Returns all entries of a run, oldest first."""
  query = (
    sa.select(schema.entries)
    .where(schema.entries.c.run_id == run_id)
    .order_by(schema.entries.c.sequence)
  )
  with database.reading(engine).connect() as connection:
    return [_from_row(row) for row in connection.execute(query).mappings()]


def _from_row(row: sa.RowMapping) -> Entry:
  reasons = json.loads(row['reasons'])
  waivers = tuple(Waiver(**fields) for fields in reasons.get('waivers', ()))
  charge = from_json(row['charge'])
  if not isinstance(charge, Round):
    raise TypeError(f'A charge must be a Round. Found {charge!r}.')
  return Entry(
    sequence=row['sequence'],
    session=row['session_id'],
    attempt=Attempt(row['round'], row['attempt']),
    kind=row['kind'],
    charge=charge,
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
