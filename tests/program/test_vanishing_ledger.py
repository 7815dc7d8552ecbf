# SPDX-License-Identifier: Apache-2.0
"""The ledger fails in the middle of a round: it is not released.

Once the ledger is back, nothing that was spent is lost, and none is double.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import json
import os
import pathlib
import shutil
import sqlite3
import subprocess
import tempfile
from typing import Any

import pytest

from tests.ledger import postgresql
from tests.program import conftest
from tff_secagg_ext import accounting, ledger, program
from tff_secagg_ext._compat import tff
from tff_secagg_ext.ledger import database

DELTA = 1e-5
CLIENTS = conftest.CLIENTS
COHORTS = program.FixedCohorts(2 * CLIENTS, CLIENTS)
NOT_RELEASED = 'Nothing of it may be released'


class Place:
  """Where a ledger is, and how it goes away and comes back."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.location = str(folder / 'runs.db')

  def fail(self) -> None:
    raise NotImplementedError

  def mend(self) -> None:
    raise NotImplementedError

  def end(self) -> None:
    """Removes what the place has made outside of its folder."""

  def files(self) -> list[pathlib.Path]:
    """The files of the ledger."""
    return list(self.folder.glob('runs.db*'))


class Moved(Place):
  """An unmounted disk: the files are there, and elsewhere."""

  def fail(self) -> None:
    (self.folder / 'elsewhere').mkdir()
    for file in self.files():
      file.rename(self.folder / 'elsewhere' / file.name)

  def mend(self) -> None:
    for file in self.files():
      file.unlink()
    for file in (self.folder / 'elsewhere').iterdir():
      file.rename(self.folder / file.name)


class Replaced(Moved):
  """Another ledger takes its place."""

  def fail(self) -> None:
    super().fail()
    ledger.Ledger.open(self.location).close()


class Removed(Place):
  """The files are deleted, and restored as they were then."""

  def fail(self) -> None:
    (self.folder / 'copy').mkdir()
    for file in self.files():
      shutil.copy(file, self.folder / 'copy')
      file.unlink()

  def mend(self) -> None:
    for file in self.files():
      file.unlink()
    for file in (self.folder / 'copy').iterdir():
      shutil.copy(file, self.folder)


class Full(Place):
  """A small disk, filled by somebody else."""

  def __init__(self, folder: pathlib.Path):
    super().__init__(folder / 'disk')
    self.folder.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', self.folder]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
      pytest.skip('mounting a small disk takes root')

  def fail(self) -> None:
    try:
      with open(self.folder / 'filling', 'wb', buffering=0) as file:
        while True:
          file.write(bytes(4096))
    except OSError:
      pass

  def mend(self) -> None:
    (self.folder / 'filling').unlink()

  def end(self) -> None:
    subprocess.run(['umount', '--lazy', self.folder], check=True)


class Stopped(Place):
  """A server of PostgreSQL that is killed, and started again."""

  def __init__(self, folder: pathlib.Path):
    if not postgresql.is_installed():
      pytest.skip('PostgreSQL is not installed')
    super().__init__(folder)
    self._place = pathlib.Path(tempfile.mkdtemp())
    self._server = postgresql.Server(self._place)
    self._server.start()
    self.location = self._server.make('vanishing')

  def fail(self) -> None:
    self._server.kill()

  def mend(self) -> None:
    self._server.start()

  def end(self) -> None:
    self._server.stop()
    shutil.rmtree(self._place)


@pytest.fixture(params=[Moved, Replaced, Removed, Full, Stopped])
def place(
  request: pytest.FixtureRequest,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Place]:
  if request.param is Full:
    # A log that has room for many rounds would not notice a full disk.
    monkeypatch.setattr(database, '_RESERVED_BYTES', 4096)
  made: Place = request.param(tmp_path)
  yield made
  made.end()


def record(process: Any, aggregator: Any, location: Any) -> Any:
  return program.PrivacyRecorder(
    process,
    aggregator,
    ledger=location,
    run='a',
    sampling=COHORTS.sampling,
    delta=DELTA,
  )


def attempts(location: Any) -> list[tuple[int, str]]:
  """Round and status of each attempt, all of which epsilon counts."""
  with ledger.Ledger.open(location, create=False) as opened:
    opened.verify('a')
    shown = opened.show('a')
  every = [(r['round'], a) for r in shown['rounds'] for a in r['attempts']]
  charges = [accounting.from_json(json.dumps(a['charge'])) for _, a in every]
  expected = accounting.release_epsilon(charges, DELTA).value
  assert shown['release_epsilon'] == pytest.approx(expected)
  return [(number, attempt['status']) for number, attempt in every]


class During(tff.Computation):
  """A computation that does something else before it returns."""

  def __init__(self, original: Any, action: Callable[[], object]):
    self._original, self._action = original, action

  @property
  def type_signature(self) -> Any:
    return self._original.type_signature

  def __call__(self, *args: Any) -> Any:
    output = self._original(*args)
    self._action()
    return output

  def __hash__(self) -> int:
    return id(self)


def test_a_round_of_a_recorder_is_not_returned(
  process: Any, aggregator: Any, data: list[Any], place: Place
) -> None:
  recorder = record(process, aggregator, place.location)
  state = recorder.next(recorder.initialize(), data[:CLIENTS]).state
  original = recorder.next._computation
  recorder.next._computation = During(original, place.fail)
  with pytest.raises(ledger.LedgerError, match=f'{NOT_RELEASED}|cannot be'):
    recorder.next(state, data[:CLIENTS])
  recorder.next._computation = original
  with pytest.raises(ledger.LedgerError):
    recorder.next(state, data[:CLIENTS])
  place.mend()
  again = record(process, aggregator, place.location)
  again.next(state, data[:CLIENTS])
  found = attempts(place.location)
  assert found[0] == (1, 'committed')
  # The round that was not returned is charged, be its entry there or not.
  assert len(found) >= 3
  assert [status for _, status in found].count('reserved') == 0
  assert found[-1][1] == 'committed'
  rounds = [number for number, status in found if status == 'committed']
  assert rounds == list(range(1, len(rounds) + 1))


def test_training_releases_no_round_and_goes_on_with_it(
  process: Any,
  aggregator: Any,
  data: list[Any],
  place: Place,
  tmp_path: pathlib.Path,
) -> None:
  released: list[int] = []
  calls: list[int] = []

  def client_data(members: Any) -> list[Any]:
    calls.append(len(calls))
    if len(calls) == 2:
      place.fail()
    return [data[member] for member in members]

  def train() -> Any:
    return program.train(
      record(process, aggregator, place.location),
      client_data,
      program.TrainingPlan(3, COHORTS, tmp_path / 'checkpoints'),
      on_round=lambda r: released.append(r.entry.attempt.round),
    )

  with pytest.raises(ledger.LedgerError, match=f'{NOT_RELEASED}|cannot be'):
    train()
  assert released == [1]
  place.mend()
  result = train()
  assert attempts(place.location) == [(n, 'committed') for n in (1, 2, 3)]
  # The second was committed from its checkpoint; it may be on record already.
  assert released in ([1, 2, 3], [1, 3])
  assert len(calls) == 3
  assert result.participations.sum() == 3 * CLIENTS
  assert result.state.aggregator['round'] == 3


def test_of_two_recorders_one_returns_nothing(
  process: Any, aggregator: Any, data: list[Any], tmp_path: pathlib.Path
) -> None:
  location = tmp_path / 'runs.db'
  first = record(process, aggregator, location)
  second = record(process, aggregator, location)
  state = first.initialize()

  def intrude() -> None:
    with pytest.raises(ledger.ConcurrentWriterError, match='somebody else'):
      second.next(state, data[:CLIENTS])

  first.next._computation = During(first.next._computation, intrude)
  first.next(state, data[:CLIENTS])
  with pytest.raises(ledger.ConcurrentWriterError, match='somebody else'):
    second.next(state, data[:CLIENTS])
  assert attempts(location) == [(1, 'committed')]


def test_a_recorder_names_the_row_that_was_altered(
  process: Any, aggregator: Any, data: list[Any], tmp_path: pathlib.Path
) -> None:
  location = tmp_path / 'runs.db'
  recorder = record(process, aggregator, location)
  recorder.next(recorder.initialize(), data[:CLIENTS])
  connection = sqlite3.connect(location, isolation_level=None)
  connection.execute('DROP TRIGGER entries_no_update')
  connection.execute(
    'UPDATE entries SET release_epsilon = 0.1 WHERE sequence = 2'
  )
  connection.close()
  with pytest.raises(ledger.BrokenChainError, match=r"run 'a' .*: entry 2"):
    record(process, aggregator, location)
