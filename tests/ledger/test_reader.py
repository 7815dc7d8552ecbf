# SPDX-License-Identifier: Apache-2.0
"""Ledgers that are opened for reading alone."""

from __future__ import annotations

import hashlib
import pathlib
import shutil

import pytest
import sqlalchemy as sa

from tests.report import ledgers
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.ledger import Ledger, database

ONE = ledgers.with_(ledgers.GOOD, name='one', rounds=2)
OTHER = ledgers.with_(ledgers.PLAIN, name='other', rounds=1, audited=False)


def digest(path: pathlib.Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()


def test_all_is_read(location: str) -> None:
  ledgers.write(location, ONE, OTHER)
  with (
    Ledger.open(location) as ledger,
    Ledger.open_for_reading(location) as reader,
  ):
    for name in ('one', 'other'):
      assert reader.show(name) == ledger.show(name)
      assert reader.verify(name) == ledger.verify(name)
      assert reader.progress(name) == ledger.progress(name)


def test_nothing_is_written(location: str) -> None:
  ledgers.write(location, ONE)
  with Ledger.open_for_reading(location) as reader:
    with pytest.raises(ledger_lib.LedgerWriteError, match='could not be'):
      reader.open_run('new', {}, delta=0.1)
    with pytest.raises(ledger_lib.LedgerWriteError, match='could not be'):
      reader.record_audit('one', 'utility', {'accuracy': 1.0})
    for statement in ('DROP TABLE audits', 'DELETE FROM runs'):
      with (
        pytest.raises(sa.exc.DBAPIError, match=r'read.?only'),
        reader._engine.execution_options(reading=True).connect() as connection,
      ):
        connection.exec_driver_sql(statement)


def test_not_a_byte_changes(tmp_path: pathlib.Path) -> None:
  """Not even when a log is left that a writer would have worked off."""
  path, copy = tmp_path / 'runs.db', tmp_path / 'copy.db'
  writer = Ledger.open(path)
  ONE.write(writer)
  for end in ('', '-wal'):
    shutil.copy(f'{path}{end}', f'{copy}{end}')
  writer.close()
  before = digest(copy), digest(tmp_path / 'copy.db-wal')
  with Ledger.open_for_reading(copy) as reader:
    assert reader.show('one')['rounds']
    reader.standings()
  assert (digest(copy), digest(tmp_path / 'copy.db-wal')) == before


def test_an_older_schema_is_not_migrated(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'runs.db'
  engine = sa.create_engine(f'sqlite:///{path}')
  database._migrate(engine, '0003')
  engine.dispose()
  before = digest(path)
  with pytest.raises(ledger_lib.OlderLedgerError, match='ledger list --ledger'):
    Ledger.open_for_reading(path)
  assert digest(path) == before


def test_what_is_no_ledger(tmp_path: pathlib.Path) -> None:
  absent = tmp_path / 'absent.db'
  with pytest.raises(ledger_lib.LedgerError, match='no ledger at'):
    Ledger.open_for_reading(absent)
  assert not absent.exists()
  with pytest.raises(ledger_lib.ForeignDatabaseError, match='the folder'):
    Ledger.open_for_reading(tmp_path)
  empty = tmp_path / 'empty.db'
  empty.touch()
  with pytest.raises(ledger_lib.LedgerError, match='the database is empty'):
    Ledger.open_for_reading(empty)
  text = tmp_path / 'notes.txt'
  text.write_text('no database ' * 1000)
  with pytest.raises(ledger_lib.ForeignDatabaseError, match='must be a data'):
    Ledger.open_for_reading(text)


@pytest.mark.parametrize('name', ['a?mode=rwc.db', 'a%20b#c.db', 'é ü.db'])
def test_names_of_files_are_taken_as_they_are(
  tmp_path: pathlib.Path, name: str
) -> None:
  ledgers.write(str(tmp_path / name), OTHER)
  with Ledger.open_for_reading(tmp_path / name) as reader:
    assert reader.names() == ('other',)
    with pytest.raises(ledger_lib.LedgerWriteError, match='readonly'):
      reader.open_run('new', {}, delta=0.1)


def test_a_file_that_takes_its_place_is_read(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'runs.db'
  ledgers.write(str(path), ONE)
  with Ledger.open_for_reading(path) as reader:
    assert reader.names() == ('one',)
    for end in ('', '-wal', '-shm'):
      pathlib.Path(f'{path}{end}').unlink(missing_ok=True)
    with pytest.raises(ledger_lib.LedgerError, match='cannot be read'):
      reader.names()
    ledgers.write(str(path), OTHER)
    assert reader.names() == ('other',)


def test_runs_are_told_at_once(location: str) -> None:
  with Ledger.open(location) as ledger:
    assert ledger.standings() == ()
    settings = {**ONE.settings, 'population_name': 'patients'}
    run = ledger.open_run('one', settings, delta=0.1)
    OTHER.write(ledger)
    before = ledger.standings()
    assert [standing.name for standing in before] == ['one', 'other']
    assert [standing.population for standing in before] == ['patients', None]
    assert [each.progress for each in before] == [
      ledger.progress(name) for name in ('one', 'other')
    ]
    assert before[0].recorded_at == ''
    assert ledger.standings() == before
    run.reserve(ONE.charge(200))
    after = ledger.standings()
    assert after[0] != before[0]
    assert after[1] == before[1]
    newest = ledger.snapshot('one').entries[-1]
    assert after[0].recorded_at == newest['recorded_at']
    assert after[0].tips[1] == newest['hash']
