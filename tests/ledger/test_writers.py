# SPDX-License-Identifier: Apache-2.0
"""Who else writes a run, and ledgers that vanish while it is written."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import textwrap
import time

import pytest

from tests.ledger import conftest, kill_database, postgresql
from tests.ledger import test_ledger as shared
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.ledger.ledger import Ledger

# A process that says it is of another host, and reserves a round.
ELSEWHERE = textwrap.dedent("""
  import socket, sys
  socket.gethostname = lambda: 'elsewhere'
  from tests.ledger import test_ledger as t
  run = t.open_run(t.Ledger.open(sys.argv[1]))
  run.reserve(t.ROUND)
  print('reserved', flush=True)
  input()
""")


def _open_until(ledger: Ledger, seconds: float) -> ledger_lib.Run:
  """Opens the run as soon as it is not refused."""
  end = time.monotonic() + seconds
  while True:
    try:
      return shared.open_run(ledger)
    except ledger_lib.ConcurrentWriterError:
      if time.monotonic() > end:
        raise
      time.sleep(0.05)


@pytest.mark.parametrize('kind', ['postgresql'])
def test_a_writer_of_another_host_is_named_until_it_is_gone(
  kind: str, new_location: conftest.NewLocation
) -> None:
  location = new_location(kind)
  process = subprocess.Popen(
    [sys.executable, '-c', ELSEWHERE, location],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout is not None
  assert process.stdout.readline() == 'reserved\n'
  with Ledger.open(location) as ledger:
    with pytest.raises(
      ledger_lib.ConcurrentWriterError,
      match=f'by the process elsewhere:{process.pid}:[0-9]+ .*attempt 1 of',
    ):
      shared.open_run(ledger)
    process.kill()
    process.communicate()
    run = _open_until(ledger, 20.0)
    assert list(run.open_attempts) == [ledger_lib.Attempt(1, 1)]


@pytest.mark.parametrize('suffix', ['', '-wal'])
@pytest.mark.parametrize('moved', [True, False])
def test_a_file_that_vanishes_in_a_round_releases_nothing(
  tmp_path: pathlib.Path, suffix: str, moved: bool
) -> None:
  path = tmp_path / 'runs.db'
  with Ledger.open(path) as ledger:
    run = shared.open_run(ledger)
    attempt = run.reserve(shared.ROUND)
    file = pathlib.Path(f'{path}{suffix}')
    if moved:
      file.rename(tmp_path / 'elsewhere')
    else:
      file.unlink()
    with pytest.raises(
      ledger_lib.LedgerWriteError, match='Nothing of it may be released'
    ):
      run.commit(attempt, shared.ROUND, {})
    with pytest.raises(ledger_lib.LedgerWriteError, match='could not be'):
      run.reserve(shared.ROUND)


def test_a_file_that_is_replaced_in_a_round_releases_nothing(
  tmp_path: pathlib.Path,
) -> None:
  path, other = tmp_path / 'runs.db', tmp_path / 'other.db'
  Ledger.open(other).close()
  with Ledger.open(path) as ledger:
    run = shared.open_run(ledger)
    attempt = run.reserve(shared.ROUND)
    other.rename(path)
    with pytest.raises(
      ledger_lib.LedgerWriteError, match='another file took its place'
    ):
      run.commit(attempt, shared.ROUND, {})


def test_a_server_that_vanishes_in_a_round_releases_nothing(
  own_server: postgresql.Server,
) -> None:
  with Ledger.open(own_server.make('vanishing')) as ledger:
    run = shared.open_run(ledger)
    run.commit(run.reserve(shared.ROUND), shared.ROUND, {})
    attempt = run.reserve(shared.ROUND)
    own_server.kill()
    with pytest.raises(
      ledger_lib.LedgerWriteError, match='Nothing of it may be released'
    ):
      run.commit(attempt, shared.ROUND, {})
    with pytest.raises(ledger_lib.LedgerError, match='cannot be read'):
      run.reserve(shared.ROUND)
    own_server.start()
    assert run.status(attempt) == 'reserved'
    run.commit(attempt, shared.ROUND, {})
    assert run.entries[-1].release.value == shared.release(
      shared.ROUND, shared.ROUND
    )
    assert ledger.verify('mine').entries == 4


def test_a_server_that_is_killed_loses_and_doubles_nothing(
  own_server: postgresql.Server,
) -> None:
  writer, found = kill_database.kill_and_restart(own_server, 10, seed=1)
  assert found == []
  assert writer.failures >= 1
  assert len(writer.released) >= 10
