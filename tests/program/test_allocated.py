# SPDX-License-Identifier: Apache-2.0
"""Allocated cohorts: what is drawn, and what a killed run makes of it."""

from __future__ import annotations

from collections.abc import Sequence
import json
import pathlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats

from tests.program import conftest
import tff_secagg_ext
from tff_secagg_ext import accounting, execution, ledger, program

KEY = bytes(range(32))
POPULATION = 4 * conftest.CLIENTS
COHORTS = program.AllocatedCohorts(POPULATION, 1, 4, 1, POPULATION)


def turn(attempt: int, key: bytes = KEY) -> program.Turn:
  return program.Turn(attempt, lambda: key)


@given(
  st.integers(2, 40), st.integers(1, 6), st.integers(0, 9), st.integers(0, 5)
)
def test_each_client_is_in_as_many_rounds_of_each_epoch(
  population: int, times: int, more: int, number: int
) -> None:
  length = times + more
  cohorts = program.AllocatedCohorts(population, times, length, 1, population)
  attempts = range(number * length, (number + 1) * length)
  drawn = [cohorts.draw(turn(attempt)) for attempt in attempts]
  members = np.concatenate([np.array(c.members, int) for c in drawn])
  assert (np.bincount(members, minlength=population) == times).all()
  for cohort in drawn:
    assert list(cohort.members) == sorted(set(cohort.members))
    claim = cohorts.sampling
    assert cohort.claim == (
      claim if cohort.members else accounting.unclaimed(claim)
    )


def test_the_cohort_of_an_attempt_is_the_same_whenever_it_is_drawn() -> None:
  cohorts = program.AllocatedCohorts(1000, 2, 20, 1, 1000)
  first = [cohorts.draw(turn(attempt)) for attempt in range(40)]
  assert [cohorts.draw(turn(attempt)) for attempt in range(40)] == first
  # Another epoch, or another key, is another allocation.
  assert first[:20] != first[20:]
  other = [cohorts.draw(turn(attempt, bytes(32))) for attempt in range(20)]
  assert all(a != b for a, b in zip(first, other, strict=False))


def test_subsets_are_uniform() -> None:
  """All 10 pairs of 5 rounds; false alarm below 1e-6."""
  cohorts = program.AllocatedCohorts(50_000, 2, 5, 1, 50_000)
  taken = np.zeros((5, 50_000), bool)
  for attempt in range(5):
    taken[attempt, list(cohorts.draw(turn(attempt)).members)] = True
  pairs = taken.astype(int) @ taken.T.astype(int)
  counts = pairs[np.triu_indices(5, 1)]
  assert counts.sum() == 50_000
  assert stats.chisquare(counts).pvalue > 1e-6
  # Clients and epochs are independent: neighbours meet as often as others.
  meetings = int((taken[0, :-1] & taken[0, 1:]).sum())
  law = stats.binom(49_999, 0.16)
  assert abs(meetings - law.mean()) < 6 * 1.5 * law.std()


def test_cohorts_out_of_bounds_claim_nothing() -> None:
  small = program.AllocatedCohorts(10, 1, 2, 10, 10).draw(turn(0))
  assert len(small.members) < 10
  large = program.AllocatedCohorts(100, 1, 2, 1, 5).draw(turn(0))
  assert len(large.members) == 5
  for cohort in (small, large):
    assert cohort.claim == accounting.RandomAllocation(1, 2, hidden=False)


def test_bounds_for_a_run_are_those_of_the_account() -> None:
  bounds = accounting.allocated_cohort_bounds(3400, 1 / 34, 150, 1e-4)
  cohorts = program.AllocatedCohorts.for_run(
    3400, 1, 34, rounds=150, delta=1e-4
  )
  assert (cohorts.minimum, cohorts.maximum) == (bounds.minimum, bounds.maximum)
  assert cohorts.expected == pytest.approx(100)
  assert 0 < cohorts.minimum < 100 < cohorts.maximum < 200


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((1, 1, 2, 1, 1), '`population` must be at least 2'),
    ((10, 3, 2, 1, 1), '`participations` must be at most 2'),
    ((10, 1, 2, 0, 1), '`minimum` must be at least 1'),
    ((10, 1, 2, 6, 5), '`maximum` must be at least 6'),
  ],
)
def test_bad_cohorts(arguments: tuple[int, ...], message: str) -> None:
  with pytest.raises(ValueError, match=message):
    program.AllocatedCohorts(*arguments)


def _aggregator() -> Any:
  return tff_secagg_ext.ddp_secure_aggregator(
    1.0,
    conftest.CLIENTS,
    cohorts='poisson',
    min_contributors=1,
    max_contributors=POPULATION + 1,
  )


@pytest.fixture(scope='module')
def aggregator() -> Any:
  return _aggregator()


@pytest.fixture(scope='module')
def process(aggregator: Any) -> Any:
  return conftest.build(aggregator)


class Setting:
  """A run with allocated cohorts that can be given up and taken up again."""

  def __init__(
    self, process: Any, aggregator: Any, data: list[Any], folder: pathlib.Path
  ):
    self.process, self.aggregator, self.data = process, aggregator, data
    self.folder = folder
    self.drawn: list[tuple[int, ...]] = []
    self.fails: list[Exception] = []

  def recorder(self) -> program.PrivacyRecorder:
    return program.PrivacyRecorder(
      self.process,
      self.aggregator,
      ledger=self.folder / 'runs.db',
      run=program.RunDescription('a', population=POPULATION),
      sampling=COHORTS.sampling,
      # So large that empty cohorts are rare enough.
      delta=0.9,
    )

  def train(self, rounds: int) -> program.TrainingResult:
    recorder = self.recorder()

    def client_data(members: Sequence[int]) -> list[Any]:
      self.drawn.append(tuple(members))
      if self.fails:
        raise self.fails.pop()
      return [self.data[i] for i in members]

    plan = program.TrainingPlan(rounds, COHORTS, self.folder / 'checkpoints')
    return program.train(recorder, client_data, plan)

  def charges(self) -> list[accounting.Round]:
    with ledger.Ledger.open(self.folder / 'runs.db') as opened:
      shown = opened.show('a')
    found = [
      accounting.from_json(json.dumps(attempt['charge']))
      for item in shown['rounds']
      for attempt in item['attempts']
    ]
    return [each for each in found if isinstance(each, accounting.Round)]


@pytest.fixture
def setting(
  process: Any, aggregator: Any, data: list[Any], tmp_path: pathlib.Path
) -> Setting:
  return Setting(process, aggregator, data, tmp_path)


def test_lost_attempts_use_their_place_up(setting: Setting) -> None:
  """8 attempts are two epochs, whatever was lost or given up in between."""
  setting.train(1)
  setting.fails.append(RuntimeError('lost'))
  with pytest.raises(RuntimeError, match='lost'):
    setting.train(3)
  setting.train(3)
  # An abort is run again by the loop itself.
  aborted = execution.RoundAborted('too few', 'mask', sum_known=False)
  setting.fails.append(aborted)
  result = setting.train(6)
  assert result.rounds == 6 and len(setting.drawn) == 8
  for epoch in (setting.drawn[:4], setting.drawn[4:]):
    members = np.concatenate([np.array(m, int) for m in epoch])
    assert sorted(members) == list(range(POPULATION))
  names = [getattr(c.sampling, 'epoch', None) for c in setting.charges()]
  assert names == ['a/1'] * 4 + ['a/2'] * 4
  assert result.participations.max() <= 2
  # What was aborted before any mask was taken off cost nothing.
  assert [bool(c.events) for c in setting.charges()].count(False) >= 1


def test_a_run_without_its_key_is_not_continued(setting: Setting) -> None:
  setting.train(1)
  (setting.folder / 'checkpoints' / 'cohorts.key').unlink()
  with pytest.raises(program.RunKeyError, match='must be kept as long as'):
    setting.train(2)
  assert len(setting.charges()) == 1


def test_the_ledger_tells_the_epochs_and_not_who_is_in_them(
  setting: Setting,
) -> None:
  setting.train(2)
  key = (setting.folder / 'checkpoints' / 'cohorts.key').read_bytes()
  stored = (setting.folder / 'runs.db').read_bytes()
  assert key not in stored and key.hex().encode() not in stored
  expected = accounting.RandomAllocation(1, 4, 'a/1')
  for charge, members in zip(setting.charges(), setting.drawn, strict=True):
    claim = expected if members else accounting.unclaimed(expected)
    assert charge.sampling == claim


def test_rounds_beside_the_loop_claim_nothing(setting: Setting) -> None:
  recorder = setting.recorder()
  state = recorder.initialize()
  recorder.next(state, setting.data[:5])
  (charge,) = setting.charges()
  assert charge.sampling == accounting.NoSampling()


@pytest.mark.parametrize(
  'claim',
  [
    accounting.PoissonSampling(0.5),
    accounting.RandomAllocation(1, 5),
    accounting.RandomAllocation(1, 4, 'a/9'),
  ],
)
def test_what_the_run_does_not_claim_is_refused(
  setting: Setting, claim: accounting.Sampling
) -> None:
  account = setting.recorder().account
  message = "`claim` must be what run 'a' claims of its cohorts"
  with pytest.raises(ValueError, match=message):
    account.reserve(5, claim)
  assert not setting.charges()
