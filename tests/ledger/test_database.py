# SPDX-License-Identifier: Apache-2.0
"""Where a ledger can be, and what happens where it cannot."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap

import pytest

from tests.ledger import test_ledger as shared
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.ledger import database
from tff_secagg_ext.ledger.ledger import Ledger


def test_sqlite_syncs_every_commit(tmp_path: pathlib.Path) -> None:
  engine = database.open_engine(tmp_path / 'runs.db')
  with engine.connect() as connection:
    full = 2
    assert connection.exec_driver_sql('PRAGMA synchronous').scalar() == full
    mode = connection.exec_driver_sql('PRAGMA journal_mode').scalar()
    assert mode == 'wal'
  engine.dispose()


def test_a_folder_is_refused(tmp_path: pathlib.Path) -> None:
  with pytest.raises(ledger_lib.ForeignDatabaseError, match='Found the folder'):
    Ledger.open(tmp_path)


def test_a_missing_folder_is_named(tmp_path: pathlib.Path) -> None:
  with pytest.raises(ledger_lib.LedgerError, match='folder of the ledger'):
    Ledger.open(tmp_path / 'none' / 'runs.db')


def test_a_missing_file_is_made_only_if_asked(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'runs.db'
  with pytest.raises(ledger_lib.LedgerError, match='There is no ledger at'):
    Ledger.open(path, create=False)
  assert not path.exists()
  Ledger.open(path).close()
  Ledger.open(str(path), create=False).close()
  Ledger.open(f'sqlite:///{path}', create=False).close()


@pytest.mark.parametrize(
  ('location', 'kind', 'message'),
  [
    (3, TypeError, 'must be a path or an SQLAlchemy URL. Found 3'),
    ('', ValueError, 'Found an SQLite URL without a path'),
    ('sqlite://', ValueError, 'Found an SQLite URL without a path'),
    ('mysql://host/x', ValueError, "SQLite or PostgreSQL. Found 'mysql'"),
    ('sqlite//://x', ValueError, 'cannot be parsed'),
  ],
)
def test_other_locations_are_refused(
  location: str, kind: type[Exception], message: str
) -> None:
  with pytest.raises(kind, match=message):
    Ledger.open(location)


def test_a_password_is_not_in_the_error() -> None:
  with pytest.raises(ledger_lib.LedgerError, match='cannot be opened') as info:
    Ledger.open('postgresql://me:hunter2@127.0.0.1:1/x')
  assert 'hunter2' not in str(info.value)


def test_a_database_of_something_else_is_left_alone(
  tmp_path: pathlib.Path,
) -> None:
  path = tmp_path / 'other.db'
  with contextlib.closing(sqlite3.connect(path)) as connection:
    connection.execute('CREATE TABLE holidays (day)')
    connection.commit()
  before = path.read_bytes()
  with pytest.raises(
    ledger_lib.ForeignDatabaseError, match="found the table 'holidays'"
  ):
    Ledger.open(path)
  assert path.read_bytes() == before


def test_a_file_of_something_else_is_left_alone(
  tmp_path: pathlib.Path,
) -> None:
  path = tmp_path / 'letter.txt'
  path.write_text('Dear diary, ' * 100)
  before = path.read_bytes()
  with pytest.raises(
    ledger_lib.ForeignDatabaseError, match='must be a database'
  ):
    Ledger.open(path)
  assert path.read_bytes() == before


def test_a_newer_ledger_is_refused(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'runs.db'
  Ledger.open(path).close()
  with contextlib.closing(sqlite3.connect(path)) as connection:
    connection.execute(
      f"UPDATE {database.VERSION_TABLE} SET version_num = '9999'"
    )
    connection.commit()
  with pytest.raises(
    ledger_lib.NewerLedgerError, match=r"version '9999'.*Upgrade"
  ):
    Ledger.open(path)


@contextlib.contextmanager
def _unprivileged(folder: pathlib.Path) -> Iterator[None]:
  """Makes a folder read-only, for root too."""
  folder.chmod(0o555)
  if os.geteuid():
    yield
  else:
    os.seteuid(65534)
    try:
      yield
    finally:
      os.seteuid(0)
  folder.chmod(0o755)


def test_a_read_only_ledger_is_refused() -> None:
  folder = pathlib.Path(tempfile.mkdtemp())
  path = folder / 'runs.db'
  Ledger.open(path).close()
  path.chmod(0o444)
  for target in (path, folder / 'new.db'):
    with (
      _unprivileged(folder),
      pytest.raises(
        ledger_lib.LedgerError, match=r'cannot be opened.*can be written'
      ),
    ):
      Ledger.open(target)
  shutil.rmtree(folder)


_FILL = textwrap.dedent("""
  import resource, signal, sys
  from tests.ledger import test_ledger as t
  ledger = t.Ledger.open(sys.argv[1])
  run = t.open_run(ledger)
  run.commit(run.reserve(t.ROUND), t.ROUND, {})
  attempt = run.reserve(t.ROUND)
  LIMIT
  try:
    for _ in range(2000):
      run.commit(attempt, t.ROUND, {'filling': 'x' * 100000})
      print('released', attempt.round, flush=True)
      attempt = run.reserve(t.ROUND)
  except t.ledger_lib.LedgerWriteError as error:
    assert 'Nothing of it may be released' in str(error), error
    print('refused', attempt.round, flush=True)
""")
_FILE_LIMIT = textwrap.dedent("""
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))
""")


def _fill(path: pathlib.Path, limit: str) -> list[str]:
  done = subprocess.run(
    [sys.executable, '-c', _FILL.replace('LIMIT', limit), str(path)],
    check=True,
    capture_output=True,
    text=True,
  )
  return done.stdout.splitlines()


def _check_filled(lines: list[str], path: pathlib.Path) -> None:
  """What was released is committed, and what was refused is charged."""
  assert lines[-1].startswith('refused')
  released = [int(line.split()[1]) for line in lines[:-1]]
  with Ledger.open(path) as ledger:
    shown = ledger.show('mine')
    statuses = {r['round']: r['status'] for r in shown['rounds']}
    assert all(statuses[number] == 'committed' for number in released)
    charges = sum(len(r['attempts']) for r in shown['rounds'])
    expected = shared.release(*[shared.ROUND] * charges)
    assert shown['release_epsilon'] == pytest.approx(expected)
    run = shared.open_run(ledger)
    run.commit(run.reserve(shared.ROUND), shared.ROUND, {})
  with contextlib.closing(sqlite3.connect(path)) as connection:
    assert connection.execute('PRAGMA integrity_check').fetchone() == ('ok',)


def test_a_file_at_its_limit_releases_nothing_and_corrupts_nothing(
  tmp_path: pathlib.Path,
) -> None:
  path = tmp_path / 'runs.db'
  lines = _fill(path, _FILE_LIMIT)
  _check_filled(lines, path)


def test_a_full_disk_releases_nothing_and_corrupts_nothing(
  tmp_path: pathlib.Path,
) -> None:
  disk = tmp_path / 'disk'
  disk.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', str(disk)]
  if os.geteuid() or subprocess.run(mount, check=False).returncode:
    pytest.skip('mounting a small disk takes root')
  try:
    lines = _fill(disk / 'runs.db', '')
    for file in disk.iterdir():
      shutil.copy(file, tmp_path)
  finally:
    subprocess.run(['umount', str(disk)], check=True)
  _check_filled(lines, tmp_path / 'runs.db')
