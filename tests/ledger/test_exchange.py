# SPDX-License-Identifier: Apache-2.0
"""Runs leave a ledger and enter another, whole; redacted ones only leave."""

from __future__ import annotations

from collections.abc import Callable
import hashlib
import json
import pathlib
from typing import Any

import pytest
import sqlalchemy as sa

from tests.ledger import conftest, test_chain
from tests.ledger import test_ledger as shared
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.ledger.ledger import Ledger


@pytest.fixture(scope='module')
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
  """A run, exported whole."""
  with Ledger.open(tmp_path_factory.mktemp('exchange') / 'runs.db') as ledger:
    test_chain.write(ledger)
    return list(ledger.export('mine'))


@pytest.fixture(scope='module')
def redacted(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
  """Another run, with its cohorts left out."""
  with Ledger.open(tmp_path_factory.mktemp('redacted') / 'runs.db') as ledger:
    test_chain.write(ledger)
    return list(ledger.export('mine', redacted=True))


@pytest.fixture
def ledger(tmp_path: pathlib.Path) -> Any:
  with Ledger.open(tmp_path / 'new.db') as opened:
    yield opened


def changed(lines: list[str], number: int, **fields: Any) -> list[str]:
  """Returns lines with fields of one changed; `None` removes a field."""
  record = {**json.loads(lines[number - 1]), **fields}
  record = {k: v for k, v in record.items() if v is not ...}
  text = json.dumps(record, sort_keys=True, separators=(',', ':'))
  return [*lines[: number - 1], text, *lines[number:]]


@pytest.mark.parametrize('there', conftest.PARAMS)
@pytest.mark.parametrize('here', conftest.PARAMS)
def test_an_import_has_the_head_of_the_export(
  here: str, there: str, new_location: Callable[[str], str]
) -> None:
  with (
    Ledger.open(new_location(here)) as source,
    Ledger.open(new_location(there)) as target,
  ):
    test_chain.write(source)
    target.open_run('other', {}, delta=0.1).reserve(shared.ROUND)
    lines = source.export('mine')
    assert target.import_run(lines) == 'mine'
    assert target.verify('mine') == source.verify('mine')
    assert target.export('mine') == lines
    for view in (False, True):
      shown = target.show('mine', server_view=view)
      assert shown == source.show('mine', server_view=view)
    # The imported run goes on, with what it had spent.
    run = shared.open_run(target)
    (attempt,) = run.open_attempts
    run.commit(attempt, shared.ROUND, {})
    assert target.verify('mine').entries == test_chain.ENTRIES + 1
    assert target.verify('other').entries == 1


def test_a_run_that_is_there_is_left_as_it_is(
  ledger: Ledger, lines: list[str]
) -> None:
  ledger.import_run(lines)
  before = ledger.export('mine')
  assert ledger.import_run(lines) == 'mine'
  assert ledger.export('mine') == before
  run = shared.open_run(ledger)
  with pytest.raises(
    ledger_lib.ExportError, match=r"has another run 'mine': its head is 4\.9\."
  ):
    ledger.import_run(lines)
  assert run.attempts == 5


def test_a_migrated_run_keeps_its_mark(
  ledger: Ledger, lines: list[str]
) -> None:
  ledger.import_run(lines)
  assert json.loads(lines[1])['inherited'] is None
  assert ledger._read('mine').run['inherited'] is None


@pytest.mark.parametrize(
  ('number', 'text', 'message'),
  [
    (1, '[]', 'Line 1 is not an object'),
    (4, '{', r'Line 4 is not JSON \(Expecting'),
    (4, '', 'Line 4 is not JSON'),
    (5, '{"a":1,"a":2}', 'Line 5 has a field twice'),
    (6, '{"a":NaN}', 'Line 6 has the number NaN'),
    (7, '{"what":"run"}', "Line 7 must be of a entry; it is of 'run'"),
  ],
)
def test_lines_that_are_no_records_are_named(
  ledger: Ledger, lines: list[str], number: int, text: str, message: str
) -> None:
  bad = [*lines[: number - 1], text, *lines[number:]]
  with pytest.raises(ledger_lib.ExportError, match=message):
    ledger.import_run(bad)
  assert ledger.names() == ()


@pytest.mark.parametrize(
  ('number', 'fields', 'message'),
  [
    (1, {'version': 3}, 'Line 1 must be of version 2; it is of 3, as a later'),
    (1, {'version': 0}, r'Line 1 must be of version 2; it is of 0\. Give'),
    (1, {'head': 'x'}, 'Line 1 has no head'),
    (1, {'redacted': 0}, 'Line 1 has the redacted 0'),
    (2, {'version': 9}, 'Line 2 .* of 9, as a later .* upgrade this one'),
    (2, {'settings': 'x'}, "Line 2 has the settings 'x'"),
    (2, {'more': 1}, r"too many, of the fields \['more'\]"),
    (3, {'writer': ...}, r"Line 3 lacks, .* \['writer'\]"),
    (6, {'round': True}, 'Line 6 has the round True'),
    (6, {'release_epsilon': 'x'}, "Line 6 has the release_epsilon 'x'"),
    (6, {'charge': {}}, r'Line 6 is no entry \(`kind` must be'),
    (6, {'reasons': {}}, 'Line 6 is no entry'),
    (6, {'measurements': {'a': [1]}}, 'Line 6 is no entry'),
  ],
)
def test_lines_with_wrong_fields_are_named(
  ledger: Ledger,
  lines: list[str],
  number: int,
  fields: dict[str, Any],
  message: str,
) -> None:
  with pytest.raises(ledger_lib.ExportError, match=message):
    ledger.import_run(changed(lines, number, **fields))
  assert ledger.names() == ()


def test_lines_that_were_altered_or_are_missing_are_named(
  ledger: Ledger, lines: list[str]
) -> None:
  for bad, message in (
    (changed(lines, 7, note='x'), 'entry 2, or the session that wrote it'),
    (changed(lines, 2, delta=0.5), 'the run was altered'),
    ([*lines[:6], *lines[7:]], 'entry 2 is missing'),
    ([*lines[:6], lines[7], lines[6], *lines[8:]], 'entry 2 is missing'),
    (lines[:-1], 'entry 9 is missing, and all after it up to 9'),
  ):
    with pytest.raises(ledger_lib.BrokenChainError, match=message):
      ledger.import_run(bad)
  for few in ([], lines[:1]):
    with pytest.raises(
      ledger_lib.ExportError, match=f'Line {len(few) + 1} is missing'
    ):
      ledger.import_run(few)
  shorter = json.loads(lines[0])['head'].split('.')
  assert shorter[:2] == ['3', '9']
  assert ledger.names() == ()


def test_an_import_is_one_transaction(location: str, lines: list[str]) -> None:
  with Ledger.open(location) as ledger:
    with ledger._engine.begin() as connection:
      refuse = (
        'CREATE TRIGGER refuse BEFORE INSERT ON entries WHEN NEW.sequence = 5'
        " BEGIN SELECT RAISE(ABORT, 'no'); END"
        if connection.dialect.name == 'sqlite'
        else 'ALTER TABLE entries ADD CHECK (sequence <> 5)'
      )
      connection.exec_driver_sql(refuse)
    with pytest.raises(
      ledger_lib.ExportError, match="refuses the rows of run 'mine'"
    ):
      ledger.import_run(lines)
    assert ledger.names() == ()
    with ledger._engine.connect() as connection:
      counts = [
        connection.execute(sa.text(f'SELECT COUNT(*) FROM {table}')).scalar()
        for table in ('runs', 'sessions', 'entries')
      ]
    assert counts == [0, 0, 0]


def test_a_redacted_export_tells_no_cohort(redacted: list[str]) -> None:
  text = '\n'.join(redacted)
  for secret in ('survivors', '17', 'salt', 'recorded_at'):
    found = [line for line in redacted if secret in _without_hashes(line)]
    assert not found, secret
  assert '"redacted":true' in text
  entry = json.loads(redacted[-2])
  assert entry['protocol'] == {'threat': 'curious', 'verified': True}


def _without_hashes(line: str) -> str:
  """Digits of hashes and of the time may be those of a secret."""
  record = json.loads(line)
  for name in ('hash', 'previous', 'hidden', 'session', 'head'):
    record.pop(name, None)
  for name in ('created_at', 'opened_at', 'writer', 'charge'):
    record.pop(name, None)
  for name in ('release_epsilon', 'server_epsilon', 'versions'):
    record.pop(name, None)
  return json.dumps(record)


def test_a_redacted_export_cannot_be_imported(
  ledger: Ledger, redacted: list[str]
) -> None:
  with pytest.raises(
    ledger_lib.ExportError, match='A redacted export cannot be imported: a run'
  ):
    ledger.import_run(redacted)
  # Nor can one that only says that it is whole.
  with pytest.raises(ledger_lib.ExportError, match="'recorded_at', 'salt'"):
    ledger.import_run(changed(redacted, 1, redacted=False))


def test_a_redacted_export_is_verified_with_the_head_of_the_whole(
  tmp_path: pathlib.Path,
) -> None:
  with Ledger.open(tmp_path / 'runs.db') as ledger:
    test_chain.write(ledger)
    head = ledger.verify('mine')
    whole, redacted = (
      list(ledger.export('mine', redacted=r)) for r in (False, True)
    )
  for lines in (whole, redacted):
    assert ledger_lib.verify_export(lines, head) == ('mine', head)
  for number, fields in (
    (9, {'hidden': 'a' * 64}),
    (9, {'release_epsilon': 0.0}),
    (9, {'protocol': None}),
    (2, {'settings': {}}),
  ):
    with pytest.raises(ledger_lib.BrokenChainError):
      ledger_lib.verify_export(changed(redacted, number, **fields))
  with pytest.raises(ledger_lib.BrokenChainError, match='written anew'):
    ledger_lib.verify_export(
      redacted, ledger_lib.Head(head.sessions, head.entries, 'a' * 64)
    )
  # Each line is what was hashed, as anybody can compute.
  for line in redacted[2:]:
    record = json.loads(line)
    wanted = record.pop('hash')
    text = json.dumps(record, sort_keys=True, separators=(',', ':'))
    assert hashlib.sha256(text.encode()).hexdigest() == wanted


def test_equal_cohorts_have_unequal_commitments(redacted: list[str]) -> None:
  """So that nobody who tries all sizes finds one."""
  entries = [json.loads(line) for line in redacted[5:]]
  hidden = [entry['hidden'] for entry in entries]
  assert len(set(hidden)) == len(hidden) == test_chain.ENTRIES


def test_a_broken_run_is_not_exported(tmp_path: pathlib.Path) -> None:
  location = f'sqlite:///{tmp_path / "runs.db"}'
  with Ledger.open(location) as ledger:
    test_chain.write(ledger)
    test_chain.forge(location, 'UPDATE entries SET note = 1 WHERE sequence = 2')
    with pytest.raises(ledger_lib.BrokenChainError, match='entry 2, or'):
      ledger.export('mine')
    with pytest.raises(ledger_lib.UnknownRunError, match="no run 'x'"):
      ledger.export('x')
