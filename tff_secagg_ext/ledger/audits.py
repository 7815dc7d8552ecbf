# SPDX-License-Identifier: Apache-2.0
"""What audits of a run have found, as values and as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
import numbers
from typing import Any, TypeAlias

from tff_secagg_ext import _validate
from tff_secagg_ext.ledger import chain as chain_lib
from tff_secagg_ext.ledger import records, rows, writers

JsonValue: TypeAlias = (
  bool
  | int
  | float
  | str
  | Sequence['JsonValue']
  | Mapping[str, 'JsonValue']
  | None
)
# The audits that there are, and 'gate', which is a verdict on them.
KINDS = (
  'one_shot',
  'one_run',
  'memorization',
  'membership',
  'implementation',
  'utility',
  'gate',
)


@dataclasses.dataclass(frozen=True)
class AuditRecord:
  """One audit of a run.

  Attributes:
    kind: One of `KINDS`.
    figures: What it found, JSON values by name.
    recorded_at: UTC, ISO 8601.
    number: Its number among the audits of the run, from 1, without gaps.
    entries: How many entries the run had when it was recorded: the audit says
      nothing of later ones.
    auditor: The process that recorded it.
    versions: Those of Python and of the packages that it ran with.
  """

  kind: str
  figures: Mapping[str, JsonValue]
  recorded_at: str
  number: int
  entries: int
  auditor: str
  versions: Mapping[str, str]


def check_kind(kind: object) -> str:
  """Returns `kind`.

  Raises:
    TypeError: If it is not a string.
    ValueError: If no audit is of that kind; names the nearest.
  """
  if not isinstance(kind, str):
    raise TypeError(f'`kind` must be a string. Found {kind!r}.')
  if kind not in KINDS:
    raise ValueError(
      f'`kind` must be one of {", ".join(map(repr, KINDS))}. Found'
      f' {kind!r}.{_validate.nearest(kind, KINDS)}'
    )
  return kind


def check_figures(figures: object) -> dict[str, JsonValue]:
  """Returns figures as plain JSON values; numpy's scalars become Python's.

  Raises:
    TypeError: If they are no mapping, or hold what JSON cannot.
    ValueError: If a number is not finite; names it.
  """
  if not isinstance(figures, Mapping):
    raise TypeError(
      '`figures` must map names to JSON values. Found'
      f' {type(figures).__name__}.'
    )
  return {
    _check_name(name, 'figures'): _plain(value, str(name))
    for name, value in figures.items()
  }


def new_row(
  found: rows.RunRows, kind: str, figures: Mapping[str, JsonValue]
) -> dict[str, Any]:
  """Returns the row of the next audit of a run, chained to what is there."""
  chain = found.chain
  row = {
    'run_id': found.run['id'],
    'number': len(found.audits) + 1,
    'kind': kind,
    'figures': records.to_text(figures),
    'entries': len(found.entries),
    'entry': chain.end(chain.entries),
    'auditor': writers.this_process(),
    'versions': records.to_text(dict(writers.versions())),
    'recorded_at': records.now(),
    'salt': chain_lib.new_salt(),
    'previous': chain.end(chain.audits),
  }
  return {**row, 'hash': chain_lib.hash_of(rows.audit_record(row))}


def to_audit(row: rows.Row) -> AuditRecord:
  """Returns a row as a value."""
  return AuditRecord(
    kind=row['kind'],
    figures=json.loads(row['figures']),
    recorded_at=row['recorded_at'],
    number=row['number'],
    entries=row['entries'],
    auditor=row['auditor'],
    versions=json.loads(row['versions']),
  )


def _check_name(name: object, where: str) -> str:
  if not isinstance(name, str):
    raise TypeError(f'The names in `{where}` must be strings. Found {name!r}.')
  return name


def _plain(value: object, where: str) -> JsonValue:
  value = records.unwrapped(value)
  if value is None or isinstance(value, (bool, str)):
    return value
  if isinstance(value, numbers.Integral):
    return int(value)
  if isinstance(value, numbers.Real):
    if not math.isfinite(value):
      raise ValueError(
        f'The figure `{where}` must be finite. Found {value!r}. Record None,'
        ' and say why in another figure.'
      )
    return float(value)
  if isinstance(value, Mapping):
    return {
      _check_name(name, where): _plain(each, f'{where}.{name}')
      for name, each in value.items()
    }
  if isinstance(value, (list, tuple)):
    return [_plain(each, f'{where}[{i}]') for i, each in enumerate(value)]
  raise TypeError(
    f'The figure `{where}` must be a JSON value. Found'
    f' {type(value).__name__}. Give numbers, strings, lists and mappings.'
  )
