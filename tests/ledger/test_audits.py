# SPDX-License-Identifier: Apache-2.0
"""Audits are kept, chained and exported as entries are."""

from __future__ import annotations

from collections.abc import Callable
import json
import math
import pathlib
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from tests.ledger import conftest, test_chain
from tests.ledger import test_ledger as shared
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.ledger import audits as audits_lib
from tff_secagg_ext.ledger import chain as chain_lib
from tff_secagg_ext.ledger import rows
from tff_secagg_ext.ledger.ledger import Ledger

ONE_SHOT = {
  'lower_bound': 1.25,
  'delta': 1e-5,
  'view': 'release',
  'alarm': False,
  'rounds': [1, 2],
  'by_round': {'1': None},
}
SERVER = {**ONE_SHOT, 'view': 'server', 'lower_bound': 4321.5}
MEMBERSHIP = {'auc': 0.612345}


def write(ledger: Ledger) -> None:
  """Writes a run of nine entries, and three audits."""
  test_chain.write(ledger)
  ledger.record_audit('mine', 'one_shot', ONE_SHOT)
  ledger.record_audit('mine', 'one_shot', SERVER)
  ledger.record_audit('mine', 'membership', MEMBERSHIP)


def test_audits_are_read_as_they_were_recorded(location: str) -> None:
  with Ledger.open(location) as ledger:
    run = shared.open_run(ledger)
    assert ledger.audits('mine') == ()
    first = ledger.record_audit('mine', 'one_shot', ONE_SHOT)
    attempt = run.reserve(shared.ROUND)
    second = ledger.record_audit('mine', 'utility', {'accuracy': 0.75})
    # The writer does not notice.
    run.commit(attempt, shared.ROUND, {})
  with Ledger.open(location) as ledger:
    assert ledger.audits('mine') == (first, second)
    assert first.figures == ONE_SHOT
    assert [(a.kind, a.number, a.entries) for a in (first, second)] == [
      ('one_shot', 1, 0),
      ('utility', 2, 1),
    ]
    assert second.auditor == ledger_lib.ledger.opening.writers.this_process()
    assert second.versions['python']
    assert second.recorded_at > first.recorded_at
    assert ledger.verify('mine').audits == 2
    # An audit is about its run alone.
    ledger.open_run('other', {}, delta=0.1)
    assert ledger.audits('other') == ()


def test_scalars_of_numpy_become_plain(location: str) -> None:
  with Ledger.open(location) as ledger:
    shared.open_run(ledger)
    figures = {'a': np.float32(0.5), 'b': (np.int64(3), np.bool_(True))}
    recorded = ledger.record_audit('mine', 'utility', figures)  # type: ignore[arg-type]
    assert recorded.figures == {'a': 0.5, 'b': [3, True]}


@pytest.mark.parametrize(
  ('kind', 'figures', 'error', 'message'),
  [
    (3, {}, TypeError, r'`kind` must be a string\. Found 3'),
    ('one_shoot', {}, ValueError, r"Found 'one_shoot'\. The nearest is 'one_s"),
    ('x', {}, ValueError, r"'gate'\. Found 'x'\.$"),
    ('utility', [1], TypeError, '`figures` must map names .* Found list'),
    ('utility', {1: 2}, TypeError, 'names in `figures` must be strings'),
    ('utility', {'a': {1: 2}}, TypeError, 'names in `a` must be strings'),
    ('utility', {'a': math.nan}, ValueError, 'figure `a` must be finite'),
    (
      'utility',
      {'a': {'b': [1, math.inf]}},
      ValueError,
      r'`a\.b\[1\]` must be finite\. Found inf\. Record None',
    ),
    ('utility', {'a': {3}}, TypeError, r'`a` must be a JSON value\. Found set'),
    ('utility', {'a': np.zeros(2)}, TypeError, 'Found ndarray. Give numbers'),
  ],
)
def test_what_is_no_audit_is_refused(
  tmp_path: pathlib.Path,
  kind: Any,
  figures: Any,
  error: type[Exception],
  message: str,
) -> None:
  with Ledger.open(tmp_path / 'runs.db') as ledger:
    shared.open_run(ledger)
    with pytest.raises(error, match=message):
      ledger.record_audit('mine', kind, figures)
    assert ledger.audits('mine') == ()


def test_an_unknown_run_names_the_nearest(tmp_path: pathlib.Path) -> None:
  with Ledger.open(tmp_path / 'runs.db') as ledger:
    shared.open_run(ledger)
    for ask in (
      lambda: ledger.record_audit('mien', 'utility', {}),
      lambda: ledger.audits('mien'),
    ):
      with pytest.raises(
        ledger_lib.UnknownRunError,
        match=r"no run 'mien'\. It has: 'mine'\. The nearest is 'mine'",
      ):
        ask()


@pytest.mark.parametrize(
  'statement', ['UPDATE audits SET kind = kind', 'DELETE FROM audits']
)
def test_audits_are_never_changed_or_removed(
  location: str, statement: str
) -> None:
  with Ledger.open(location) as ledger:
    write(ledger)
    with (
      pytest.raises(sa.exc.IntegrityError, match='append-only'),
      ledger._engine.begin() as connection,
    ):
      connection.exec_driver_sql(statement)


def test_the_database_numbers_audits_without_gaps(location: str) -> None:
  names = [c.name for c in ledger_lib.ledger.schema.audits.columns]
  for number in ('2', '9'):
    copied = ', '.join(number if n == 'number' else n for n in names)
    verb = 'INSERT OR REPLACE' if location.startswith('sqlite') else 'INSERT'
    with Ledger.open(location) as ledger:
      if not ledger.names():
        write(ledger)
      with (
        pytest.raises(sa.exc.IntegrityError, match='numbered without gaps'),
        ledger._engine.begin() as connection,
      ):
        connection.exec_driver_sql(
          f'{verb} INTO audits ({", ".join(names)}) SELECT {copied}'
          ' FROM audits WHERE number = 1'
        )


_SWAP = [
  'UPDATE audits SET number = 99 WHERE number = 1',
  'UPDATE audits SET number = 1 WHERE number = 2',
  'UPDATE audits SET number = 2 WHERE number = 99',
]
_TAMPERINGS = {
  'figures': (
    ['UPDATE audits SET figures = \'{"a":1}\' WHERE number = 2'],
    'audit 2 was altered',
  ),
  'a kind': (
    ["UPDATE audits SET kind = 'utility' WHERE number = 3"],
    'audit 3 was altered',
  ),
  'figures that are not JSON': (
    ["UPDATE audits SET figures = '{' WHERE number = 1"],
    'audit 1 was altered',
  ),
  'a missing audit': (
    ['DELETE FROM audits WHERE number = 2'],
    'audit 2 is missing',
  ),
  'a missing audit, the others renumbered': (
    [
      'DELETE FROM audits WHERE number = 1',
      'UPDATE audits SET number = number - 1 WHERE number = 2',
      'UPDATE audits SET number = number - 1 WHERE number = 3',
    ],
    'audit 1 is missing: audit 2 is in its place',
  ),
  'reordered audits': (_SWAP, 'audit 1 was reordered: it is at 2'),
  'an audit of another run': (
    ['UPDATE audits SET run_id = (SELECT MAX(id) FROM runs)'],
    'the run was altered: its first audit was written for another',
  ),
  'entries that are cut off': (
    ['DELETE FROM entries WHERE sequence > 7'],
    'entry 8 is missing, and all after it up to 9, which audit 1 counts',
  ),
}


@pytest.mark.parametrize('what', _TAMPERINGS)
def test_the_first_audit_that_was_altered_is_named(
  location: str, what: str
) -> None:
  statements, expected = _TAMPERINGS[what]
  with Ledger.open(location) as ledger:
    write(ledger)
    ledger.open_run('other', {}, delta=0.1)
  test_chain.forge(location, *statements)
  run = 'other' if 'another run' in what else 'mine'
  with Ledger.open(location) as ledger:
    with pytest.raises(
      ledger_lib.BrokenChainError, match=f"run '{run}' is broken: {expected}"
    ):
      ledger.verify(run)
    with pytest.raises(ledger_lib.BrokenChainError, match=expected):
      ledger.record_audit(run, 'utility', {})


def test_entries_that_were_written_anew_are_not_those_that_were_audited(
  tmp_path: pathlib.Path,
) -> None:
  with Ledger.open(tmp_path / 'runs.db') as ledger:
    write(ledger)
    found = ledger._read('mine')
  last = {**found.entries[-1], 'release_epsilon': 0.0}
  record = rows.entry_record(last, found.chain.entries[-1]['session'])
  last['hash'] = chain_lib.hash_of(record)
  forged = rows.RunRows(
    found.run, found.sessions, [*found.entries[:-1], last], found.audits
  )
  fault = 'entry 9 is not the one that audit 1 followed'
  assert forged.chain.fault() == fault


def test_a_kept_head_shows_audits_that_are_cut_off(location: str) -> None:
  with Ledger.open(location) as ledger:
    test_chain.write(ledger)
    before = ledger.verify('mine')
    assert str(before).count('.') == 2
    ledger.record_audit('mine', 'utility', {})
    head = ledger.verify('mine', str(before))
    assert str(head).startswith('3.9.1.')
    ledger.record_audit('mine', 'utility', {})
    assert ledger.verify('mine', head).audits == 2
  test_chain.forge(location, 'DELETE FROM audits')
  with Ledger.open(location) as ledger:
    assert ledger.verify('mine', before).audits == 0
    with pytest.raises(
      ledger_lib.BrokenChainError, match='audit 1 is missing, and all after it'
    ):
      ledger.verify('mine', head)


def test_all_of_an_audit_is_bound(tmp_path: pathlib.Path) -> None:
  with Ledger.open(tmp_path / 'runs.db') as ledger:
    write(ledger)
    found = ledger._read('mine')
  assert found.chain.fault() is None
  for column, value in found.audits[1].items():
    if column == 'run_id':
      continue
    changed = {**found.audits[1], column: test_chain._other(value)}
    audits = [found.audits[0], changed, found.audits[2]]
    forged = rows.RunRows(found.run, found.sessions, found.entries, audits)
    assert forged.chain.fault(), column


def test_auditors_that_race_are_all_recorded(location: str) -> None:
  """While the run's writer goes on, too."""
  script = textwrap.dedent("""
    import sys
    from tests.ledger import test_ledger as t
    with t.Ledger.open(sys.argv[1]) as ledger:
      for i in range(5):
        ledger.record_audit('mine', 'utility', {'i': i})
  """)
  with Ledger.open(location) as ledger:
    run = shared.open_run(ledger)
    command = [sys.executable, '-c', script, location]
    racers = [subprocess.Popen(command) for _ in range(2)]
    while any(racer.poll() is None for racer in racers):
      if run.attempts < 20:
        run.commit(run.reserve(shared.ROUND), shared.ROUND, {})
      ledger.verify('mine')
    assert [racer.wait() for racer in racers] == [0] * 2
    assert ledger.verify('mine').audits == 10
    found = [a.figures['i'] for a in ledger.audits('mine')]
  assert sorted(found) == sorted([*range(5)] * 2)


@pytest.mark.parametrize('there', conftest.PARAMS)
@pytest.mark.parametrize('here', conftest.PARAMS)
def test_audits_are_exported_and_imported(
  here: str, there: str, new_location: Callable[[str], str]
) -> None:
  with (
    Ledger.open(new_location(here)) as source,
    Ledger.open(new_location(there)) as target,
  ):
    write(source)
    lines = source.export('mine')
    assert json.loads(lines[0])['version'] == 2
    target.import_run(lines)
    assert target.export('mine') == lines
    assert target.audits('mine') == source.audits('mine')
    assert target.verify('mine') == source.verify('mine')
    target.record_audit('mine', 'utility', {'accuracy': 0.5})
    assert target.verify('mine').audits == 4
    with pytest.raises(ledger_lib.ExportError, match="another run 'mine'"):
      target.import_run(lines)


@pytest.fixture(scope='module')
def exports(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
  """A run with audits: whole, and redacted."""
  with Ledger.open(tmp_path_factory.mktemp('audits') / 'runs.db') as ledger:
    write(ledger)
    return [list(ledger.export('mine', redacted=r)) for r in (False, True)]


def test_a_run_without_audits_is_exported_as_ever(
  tmp_path: pathlib.Path,
) -> None:
  with Ledger.open(tmp_path / 'runs.db') as ledger:
    test_chain.write(ledger)
    header = json.loads(ledger.export('mine')[0])
  assert header['version'] == 1
  assert header['head'].count('.') == 2


def test_a_redacted_export_hides_what_is_the_coordinators(
  exports: list[list[str]],
) -> None:
  whole, redacted = exports
  text = '\n'.join(redacted[-3:])
  for secret in ('4321.5', '0.612345', 'auditor', 'recorded_at', 'salt'):
    assert secret in '\n'.join(whole[-3:])
    assert secret not in text
  figures = [json.loads(line)['figures'] for line in redacted[-3:]]
  assert figures == [ONE_SHOT, None, None]
  assert ledger_lib.verify_export(redacted) == ledger_lib.verify_export(whole)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'kind': 'x'}, r'Line 17 is no audit \(`kind` must be one of'),
    ({'figures': None}, 'Line 17 has the figures None'),
    ({'salt': ...}, r"Line 17 lacks, .* \['salt'\]"),
    ({'what': 'entry'}, "Line 17 must be of a audit; it is of 'entry'"),
    ({'entries': True}, 'Line 17 has the entries True'),
  ],
)
def test_lines_that_are_no_audits_are_named(
  exports: list[list[str]],
  tmp_path: pathlib.Path,
  fields: dict[str, Any],
  message: str,
) -> None:
  lines = list(exports[0])
  assert len(lines) == 17
  record = {**json.loads(lines[-1]), **fields}
  lines[-1] = json.dumps({k: v for k, v in record.items() if v is not ...})
  with Ledger.open(tmp_path / 'runs.db') as ledger:
    with pytest.raises(ledger_lib.ExportError, match=message):
      ledger.import_run(lines)
    assert ledger.names() == ()


def test_altered_lines_of_audits_are_named(exports: list[list[str]]) -> None:
  for lines, place in ((exports[0], 2), (exports[1], 1)):
    record = json.loads(lines[13 + place])
    record['figures'] = {'a': 1}
    changed = [*lines]
    changed[13 + place] = json.dumps(record)
    with pytest.raises(
      ledger_lib.BrokenChainError, match=f'audit {place} was altered'
    ):
      ledger_lib.verify_export(changed)
  with pytest.raises(
    ledger_lib.BrokenChainError, match='audit 3 is missing, and all after it'
  ):
    ledger_lib.verify_export(exports[1][:-1])


def test_the_release_view_sees_what_may_be_published(
  tmp_path: pathlib.Path,
) -> None:
  with Ledger.open(tmp_path / 'runs.db') as ledger:
    write(ledger)
    ledger.record_audit('mine', 'gate', {'holds': True})
    shown = ledger.show('mine')['audits']
    assert [a['figures'] for a in shown] == [ONE_SHOT, None, None, None]
    assert {a['recorded_at'] for a in shown} == {None}
    assert {a['auditor'] for a in shown} == {None}
    assert [a['number'] for a in shown] == [1, 2, 3, 4]
    whole = ledger.show('mine', server_view=True)['audits']
    recorded = ledger.audits('mine')
    assert [a['figures'] for a in whole] == [a.figures for a in recorded]
    assert [a['recorded_at'] for a in whole] == [
      a.recorded_at for a in recorded
    ]


def test_an_audit_that_cannot_be_written_says_so(
  tmp_path: pathlib.Path,
) -> None:
  with Ledger.open(tmp_path / 'runs.db') as ledger:
    shared.open_run(ledger)
    with ledger._engine.begin() as connection:
      connection.exec_driver_sql(
        'CREATE TRIGGER full BEFORE INSERT ON audits BEGIN SELECT'
        " RAISE(ABORT, 'the disk is full'); END"
      )
    with pytest.raises(
      ledger_lib.LedgerWriteError,
      match=r"audit 'utility' of run 'mine' .* \(the disk is full\)\. Check",
    ):
      ledger.record_audit('mine', 'utility', {})
    assert ledger.verify('mine').audits == 0


def test_kinds_are_those_of_the_contract() -> None:
  assert audits_lib.KINDS == (
    'one_shot',
    'one_run',
    'memorization',
    'membership',
    'implementation',
    'utility',
    'gate',
  )
