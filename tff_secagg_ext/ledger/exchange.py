# SPDX-License-Identifier: Apache-2.0
"""Runs as lines of JSON: exported, checked, imported.

| line | `what` | holds |
| --- | --- | --- |
| 1 | `export` | the version of the format, the head of the chain, `redacted` |
| 2 | `run` | the run |
| then | `session` | one opening of it a line, oldest first |
| then | `entry` | one entry a line, by number |
| then | `audit` | one audit a line, by number |

Lines from the second on are the records of `chain`, in canonical JSON. In a
redacted export they are what is hashed: the hash of a line is the SHA-256 of
the line without its field `hash`. A run without audits is written as version 1,
which earlier packages read too, one with audits as version 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json
from typing import Any, NoReturn

import sqlalchemy as sa

from tff_secagg_ext.ledger import (
  audits,
  database,
  errors,
  records,
  rows,
  schema,
)
from tff_secagg_ext.ledger import chain as chain_lib
from tff_secagg_ext.ledger.chain import Chain, Head

_VERSIONS = (1, 2)

_Fields = Mapping[str, type | tuple[type, ...]]
_LINKED: _Fields = {'what': str, 'number': int, 'previous': str, 'hash': str}
_NUMBER = (int, float, type(None))
_OBJECT_OR_NONE = (dict, type(None))
_EXPORT: _Fields = {'what': str, 'version': int, 'head': str, 'redacted': bool}
_FIELDS: Mapping[str, _Fields] = {
  'run': {
    'what': str,
    'version': int,
    'name': str,
    'settings': dict,
    'delta': float,
    'created_at': str,
    'inherited': _OBJECT_OR_NONE,
  },
  'session': {**_LINKED, 'writer': str, 'versions': dict, 'opened_at': str},
  'entry': {
    **_LINKED,
    'session': str,
    'round': int,
    'attempt': int,
    'kind': str,
    'charge': dict,
    'measurements': dict,
    'note': str,
    'release_epsilon': _NUMBER,
    'server_epsilon': _NUMBER,
    'reasons': dict,
    'protocol': _OBJECT_OR_NONE,
  },
  'audit': {
    **_LINKED,
    'kind': str,
    'figures': dict,
    'entries': int,
    'entry': str,
    'versions': dict,
  },
}
# What a record has besides: whole, or redacted.
_HIDDEN: Mapping[str, _Fields] = {
  'session': {},
  'entry': {'recorded_at': str, 'salt': str},
  'audit': {'recorded_at': str, 'auditor': str, 'salt': str},
}
_COMMITTED: Mapping[str, _Fields] = {
  'session': {},
  'entry': {'hidden': str},
  'audit': {'hidden': str, 'figures': _OBJECT_OR_NONE},
}
_ORDER = ('session', 'entry', 'audit')


@dataclasses.dataclass(frozen=True)
class Export:
  """What an export says, once its chain has been verified.

  Attributes:
    chain: The records.
    redacted: Whether they are only what the release view may see.
  """

  chain: Chain
  redacted: bool

  def importable(self) -> Chain:
    """Returns the chain, of which all is known.

    Raises:
      ExportError: If it is redacted.
    """
    if self.redacted:
      raise errors.ExportError(
        'A redacted export cannot be imported: a run that goes on needs what'
        ' it leaves out. Found a redacted one. Check it with `ledger verify'
        ' --export`, or import one that was exported without --redacted.'
      )
    return self.chain


def dump(chain: Chain, *, redacted: bool) -> Sequence[str]:
  """Returns the lines of an export, without their ends.

  Raises:
    BrokenChainError: If the chain does not verify.
  """
  header = {
    'what': 'export',
    'version': _VERSIONS[bool(chain.audits)],
    'redacted': redacted,
    'head': str(chain.check()),
  }
  records_ = [chain.run, *chain.sessions, *chain.entries, *chain.audits]
  if redacted:
    records_ = [chain_lib.redacted(record) for record in records_]
  return [records.to_text(dict(line)) for line in (header, *records_)]


def load(lines: Iterable[str]) -> Export:
  """Returns what `dump` gave, checked line by line and as a chain.

  Raises:
    ExportError: If a line is not one of an export; names its number.
    BrokenChainError: If the lines are not as they were written.
  """
  parsed = [_parse(number, line) for number, line in enumerate(lines, 1)]
  _check_version(1, parsed, _VERSIONS)
  _check_version(2, parsed, (chain_lib.VERSION,))
  header, run, *rest = parsed
  _check(1, header, 'export', _EXPORT)
  _check(2, run, 'run', _FIELDS['run'])
  found: dict[str, list[dict[str, Any]]] = {what: [] for what in _ORDER}
  more = _COMMITTED if header['redacted'] else _HIDDEN
  what = 'session'
  for number, record in enumerate(rest, 3):
    what = _kind(what, record)
    _check(number, record, what, {**_FIELDS[what], **more[what]})
    _check_values(number, record)
    found[what].append(record)
  chain = Chain(run, *(found[what] for what in _ORDER))
  _check_head(header['head'], chain)
  return Export(chain, header['redacted'])


def _kind(before: str, record: Mapping[str, Any]) -> str:
  """Returns what a line is of, or should be of if it is out of order."""
  what = record.get('what')
  if what in _ORDER[_ORDER.index(before) :]:
    return str(what)
  return 'audit' if before == 'audit' else 'entry'


def _check_version(
  number: int, parsed: Sequence[Mapping[str, Any]], versions: Sequence[int]
) -> None:
  if len(parsed) < number:
    _refuse(number, 'is missing')
  found = parsed[number - 1].get('version')
  if found not in versions:
    what = f'must be of version {versions[-1]}; it is of {found!r}'
    if isinstance(found, int) and found > versions[-1]:
      what += ', as a later tff-secagg-ext writes it: upgrade this one'
    _refuse(number, what)


def verify_export(
  lines: Iterable[str], kept: Head | None = None
) -> tuple[str, Head]:
  """Checks an export, redacted or not; returns the run's name and its head.

  Args:
    lines: What `Ledger.export` gave.
    kept: As in `Ledger.verify`.

  Raises:
    ExportError: If a line is not one of an export; names its number.
    BrokenChainError: If the run is not as it was written.
  """
  chain = load(lines).chain
  return str(chain.run['name']), chain.check(kept)


def add(engine: sa.Engine, chain: Chain) -> None:
  """Adds a chain that is whole to the ledger, all of it or nothing.

  Raises:
    ExportError: If another run of that name is there, or the ledger refuses it.
    LedgerWriteError: If it could not be written.
  """
  name = chain.run['name']
  try:
    with engine.begin() as connection:
      database.alone(connection)
      insert(connection, chain)
  except sa.exc.IntegrityError as error:
    raise errors.ExportError(
      f'The ledger refuses the rows of run {name!r}'
      f' ({str(error.orig).strip()}). Export it anew.'
    ) from error
  except sa.exc.DBAPIError as error:
    raise errors.LedgerWriteError(
      f'Run {name!r} could not be imported ({str(error.orig).strip()}). Check'
      ' that the ledger can be written and that the disk has room.'
    ) from error


def insert(connection: sa.Connection, chain: Chain) -> None:
  """Adds a chain that is whole to the ledger.

  Raises:
    ExportError: If another run of that name is there.
  """
  name = chain.run['name']
  same = connection.execute(
    sa.select(schema.runs.c.id).where(schema.runs.c.name == name)
  ).scalar()
  if same is not None:
    found = rows.read(connection, same).chain
    if found.fault() or found.head() != chain.head():
      raise errors.ExportError(
        f'The ledger has another run {name!r}: its head is {found.head()},'
        f' that of the export {chain.head()}. Import into another ledger.'
      )
    return
  inserted = connection.execute(
    sa.insert(schema.runs).values(rows.to_columns(chain.run))
  ).inserted_primary_key
  assert inserted is not None
  run_id, sessions = int(inserted[0]), {}
  for record in chain.sessions:
    row = {**rows.to_columns(record), 'run_id': run_id}
    key = connection.execute(sa.insert(schema.sessions).values(row))
    assert key.inserted_primary_key is not None
    sessions[record['hash']] = int(key.inserted_primary_key[0])
  entries = [
    {
      **rows.to_columns(record),
      'run_id': run_id,
      'session_id': sessions[record['session']],
    }
    for record in chain.entries
  ]
  audited = [
    {**rows.to_columns(record), 'run_id': run_id} for record in chain.audits
  ]
  for table, added in ((schema.entries, entries), (schema.audits, audited)):
    if added:
      connection.execute(sa.insert(table), added)


def _parse(number: int, line: str) -> dict[str, Any]:
  def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
      _refuse(number, 'has a field twice')
    return dict(pairs)

  def no_constant(name: str) -> NoReturn:
    _refuse(number, f'has the number {name}')

  try:
    record = json.loads(
      line, object_pairs_hook=unique, parse_constant=no_constant
    )
  except ValueError as error:
    if isinstance(error, errors.ExportError):
      raise
    _refuse(number, f'is not JSON ({error})')
  if not isinstance(record, dict):
    _refuse(number, 'is not an object')
  return record


def _check(
  number: int, record: Mapping[str, Any], what: str, fields: _Fields
) -> None:
  """Refuses a line that is not a `what`, with these fields and no others."""
  if record.get('what') != what:
    _refuse(number, f'must be of a {what}; it is of {record.get("what")!r}')
  if set(record) != set(fields):
    differing = sorted(set(record) ^ set(fields))
    _refuse(number, f'lacks, or has too many, of the fields {differing}')
  for name, kinds in fields.items():
    value = record[name]
    wrong_bool = isinstance(value, bool) and kinds is not bool
    if wrong_bool or not isinstance(value, kinds):
      _refuse(number, f'has the {name} {value!r}')


def _check_head(text: str, chain: Chain) -> None:
  try:
    head = Head.parse(text)
  except ValueError as error:
    _refuse(1, f'has no head ({error})')
  found = chain.check(head)
  if found != head:
    _refuse(1, f'has another head than the lines after it, {found}')


def _check_values(number: int, record: Mapping[str, Any]) -> None:
  """Refuses an entry or an audit that no ledger could read."""
  what = record['what']
  blank = {'recorded_at': '', 'salt': '', 'session_id': 0}
  try:
    if what == 'entry':
      rows.to_entry({**blank, **rows.to_columns(record)})
    elif what == 'audit':
      audits.check_kind(record['kind'])
  except (KeyError, TypeError, ValueError) as error:
    _refuse(number, f'is no {what} ({error})')


def _refuse(number: int, what: str) -> NoReturn:
  raise errors.ExportError(
    f'Line {number} {what}. Give a file as `ledger export` wrote it.'
  )
