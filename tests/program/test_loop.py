# SPDX-License-Identifier: Apache-2.0
"""The loop: where it was stopped, and where it goes on."""

from __future__ import annotations

from collections.abc import Callable
import os
import pathlib
import shutil
import signal
from typing import Any

import numpy as np
import pytest

from tests.program import conftest
from tff_secagg_ext import accounting, ledger, program
from tff_secagg_ext.program import checkpoints

CLIENTS = conftest.CLIENTS
COHORTS = program.FixedCohorts(4 * CLIENTS, CLIENTS)


class Setting:
  """A run that can be given up and taken up again."""

  def __init__(
    self, process: Any, aggregator: Any, data: list[Any], folder: pathlib.Path
  ):
    self.process, self.aggregator, self.data = process, aggregator, data
    self.folder = folder
    self.seen: list[program.RoundRecord] = []
    self.drawn: list[tuple[int, ...]] = []

  def train(
    self, rounds: int, on_round: Callable[[Any], None] | None = None
  ) -> program.TrainingResult:
    recorder = program.PrivacyRecorder(
      self.process,
      self.aggregator,
      ledger=self.folder / 'runs.db',
      run='a',
      sampling=COHORTS.sampling,
      delta=1e-5,
    )

    def client_data(members: Any) -> list[Any]:
      self.drawn.append(tuple(members))
      return [self.data[i] for i in members]

    return program.train(
      recorder,
      client_data,
      program.TrainingPlan(rounds, COHORTS, self.folder / 'checkpoints'),
      on_round=on_round or self.seen.append,
    )

  def attempts(self) -> list[tuple[int, str]]:
    with ledger.Ledger.open(self.folder / 'runs.db') as opened:
      shown = opened.show('a')
    return [
      (r['round'], a['status']) for r in shown['rounds'] for a in r['attempts']
    ]

  def checkpoints(self) -> list[pathlib.Path]:
    found = (self.folder / 'checkpoints').glob('round_state_*')
    return sorted(found, key=lambda p: int(p.name.rsplit('_', 1)[1]))


@pytest.fixture
def setting(
  process: Any, aggregator: Any, data: list[Any], tmp_path: pathlib.Path
) -> Setting:
  return Setting(process, aggregator, data, tmp_path)


def test_it_trains_and_goes_on_where_it_was(setting: Setting) -> None:
  first = setting.train(2)
  assert (first.rounds, first.interrupted) == (2, False)
  second = setting.train(3)
  assert [r.entry.attempt.round for r in setting.seen] == [1, 2, 3]
  assert setting.attempts() == [(n, 'committed') for n in (1, 2, 3)]
  assert second.state.aggregator['round'] == 3
  assert second.participations.sum() == 3 * CLIENTS
  counted = np.bincount(np.concatenate(setting.drawn), minlength=4 * CLIENTS)
  assert (counted == second.participations).all()
  # Nothing is left to do.
  assert setting.train(3).rounds == 3
  assert len(setting.drawn) == 3


def test_a_round_saved_and_not_committed_is_committed_from_there(
  setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
  def die(*_: Any) -> None:
    raise ledger.LedgerWriteError('killed')

  with monkeypatch.context() as patch:
    patch.setattr(ledger.Run, 'commit', die)
    with pytest.raises(ledger.LedgerWriteError, match='killed'):
      setting.train(2)
  assert setting.attempts() == [(1, 'reserved')]
  assert setting.seen == []
  setting.train(2)
  assert setting.attempts() == [(1, 'committed'), (2, 'committed')]
  assert [r.entry.attempt.round for r in setting.seen] == [1, 2]
  assert len(setting.drawn) == 2


def test_a_round_not_saved_is_lost_and_run_again(
  setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
  def die(*_: Any) -> None:
    raise OSError('killed')

  with monkeypatch.context() as patch:
    patch.setattr(checkpoints.Checkpoints, 'save', die)
    with pytest.raises(OSError, match='killed'):
      setting.train(1)
  setting.train(1)
  assert setting.attempts() == [(1, 'lost'), (1, 'committed')]
  release = setting.seen[0].entry.release.value
  charge = setting.seen[0].entry.charge
  expected = accounting.release_epsilon([charge] * 2, 1e-5).value
  assert release == pytest.approx(expected)


def test_a_round_that_was_committed_is_released_when_the_run_goes_on(
  setting: Setting,
) -> None:
  def killed(record: program.RoundRecord) -> None:
    setting.seen.append(record)
    if record.entry.attempt.round == 2:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    setting.train(3, on_round=killed)
  setting.train(3)
  assert [r.entry.attempt.round for r in setting.seen] == [1, 2, 2, 3]
  assert setting.attempts() == [(n, 'committed') for n in (1, 2, 3)]
  assert setting.seen[1].entry == setting.seen[2].entry
  setting.train(3)
  assert len(setting.seen) == 4


def test_a_broken_checkpoint_is_passed_over(setting: Setting) -> None:
  setting.train(2)
  newest = setting.checkpoints()[-1]
  (newest / 'saved_model.pb').write_bytes(b'half')
  unfinished = newest.with_name('round_state_9_temp1234')
  unfinished.mkdir()
  result = setting.train(3)
  assert setting.attempts() == [(n, 'committed') for n in (1, 2, 3)]
  # The training of round 2 is gone, and what it spent is not.
  assert result.state.aggregator['round'] == 2
  assert not unfinished.exists()


def test_without_checkpoints_or_with_those_of_another_run_it_refuses(
  setting: Setting,
) -> None:
  setting.train(1)
  kept = setting.folder / 'kept'
  shutil.move(setting.folder / 'checkpoints', kept)
  with pytest.raises(program.CheckpointError, match='1 committed rounds'):
    setting.train(2)
  shutil.rmtree(setting.folder / 'checkpoints')
  shutil.move(kept, setting.folder / 'checkpoints')
  for file in setting.folder.glob('runs.db*'):
    file.unlink()
  with pytest.raises(program.CheckpointError, match='has never had'):
    setting.train(2)


def test_ctrl_c_ends_after_the_round_and_can_be_resumed(
  setting: Setting,
) -> None:
  def interrupt(record: program.RoundRecord) -> None:
    setting.seen.append(record)
    os.kill(os.getpid(), signal.SIGINT)

  before = signal.getsignal(signal.SIGINT)
  result = setting.train(3, interrupt)
  assert (result.rounds, result.interrupted) == (1, True)
  assert signal.getsignal(signal.SIGINT) == before
  assert setting.train(2).rounds == 2
  assert setting.attempts() == [(1, 'committed'), (2, 'committed')]


def test_a_second_ctrl_c_ends_at_once(setting: Setting) -> None:
  def interrupt(members: Any) -> Any:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError('not reached')

  setting.data = _Raising(interrupt)  # type: ignore[assignment]
  with pytest.raises(KeyboardInterrupt):
    setting.train(1)
  assert setting.attempts() == [(1, 'lost')]


class _Raising:
  def __init__(self, function: Callable[[Any], Any]):
    self._function = function

  def __getitem__(self, index: int) -> Any:
    return self._function(index)


def test_other_cohorts_than_the_recorder_claims_are_refused(
  setting: Setting,
) -> None:
  recorder = program.PrivacyRecorder(
    setting.process,
    setting.aggregator,
    ledger=setting.folder / 'runs.db',
    run='a',
    sampling=accounting.NoSampling(),
    delta=1e-5,
  )
  plan = program.TrainingPlan(1, COHORTS, setting.folder / 'checkpoints')
  with pytest.raises(ValueError, match='sampled as the recorder claims'):
    program.train(recorder, lambda members: [], plan)


def test_bad_plans() -> None:
  with pytest.raises(ValueError, match='`rounds` must be at least 1'):
    program.TrainingPlan(0, COHORTS, 'x')
  with pytest.raises(ValueError, match='`keep` must be at least 2'):
    program.TrainingPlan(1, COHORTS, 'x', keep=1)
