# SPDX-License-Identifier: Apache-2.0
"""Cohorts: who is in, and what may be said of it."""

from __future__ import annotations

import secrets

import numpy as np
import pytest
from scipy import stats

from tff_secagg_ext import accounting
from tff_secagg_ext.program import FixedCohorts, PoissonCohorts


def test_coins_are_independent_and_of_the_stated_probability() -> None:
  """False alarm below 1e-6; a probability off by 10 % is rejected."""
  cohorts = PoissonCohorts(50, 10, 1, 50)
  rounds = 4000
  taken = np.zeros((rounds, 50))
  for row in taken:
    row[list(cohorts.draw().members)] = 1
  total = taken.sum()
  law = stats.binom(rounds * 50, 0.2)
  assert law.ppf(5e-8) <= total <= law.isf(5e-8)
  wrong = stats.binom(rounds * 50, 0.22)
  assert not wrong.ppf(5e-8) <= total <= wrong.isf(5e-8)
  # The sizes have the variance of independent coins.
  scaled = taken.sum(axis=1).var() / (50 * 0.2 * 0.8)
  assert abs(scaled - 1) < 6 * np.sqrt(2 / rounds)
  # So does a single client, and neighbours are not correlated.
  correlation = np.corrcoef(taken[:, 0], taken[:, 1])[0, 1]
  assert abs(correlation) < 6 / np.sqrt(rounds)


def test_a_client_is_in_exactly_if_its_word_is_below_the_threshold(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  threshold = 2**62
  words = np.asarray([threshold - 1, threshold, 0, 2**64 - 1], np.uint64)
  monkeypatch.setattr(secrets, 'token_bytes', lambda size: words.tobytes())
  assert PoissonCohorts(4, 1, 1, 4).draw().members == (0, 2)


def test_probability_one_takes_everybody() -> None:
  assert PoissonCohorts(9, 9, 1, 9).draw().members == tuple(range(9))


def test_cohorts_in_bounds_claim_their_sampling() -> None:
  cohort = PoissonCohorts(100, 50, 1, 100).draw()
  assert cohort.claim == accounting.PoissonSampling(0.5)


def test_large_cohorts_are_cut_at_random_and_claim_nothing() -> None:
  """Each of 10 is kept in 4 of 10 rounds; false alarm below 1e-6."""
  cohorts = PoissonCohorts(10, 10, 1, 4)
  rounds = 3000
  kept = np.zeros(10)
  for _ in range(rounds):
    cohort = cohorts.draw()
    assert cohort.claim == accounting.NoSampling()
    assert len(set(cohort.members)) == 4
    kept[list(cohort.members)] += 1
  law = stats.binom(rounds, 0.4)
  assert (law.ppf(5e-8) <= kept).all()
  assert (kept <= law.isf(5e-8)).all()


def test_small_cohorts_are_kept_and_claim_nothing() -> None:
  cohort = PoissonCohorts(10, 1, 10, 10).draw()
  assert len(cohort.members) < 10
  assert cohort.claim == accounting.NoSampling()


def test_bounds_for_a_run_are_those_of_the_account() -> None:
  bounds = accounting.poisson_cohort_bounds(360, 100, 60, 1e-3)
  cohorts = PoissonCohorts.for_run(360, 100, rounds=60, delta=1e-3)
  assert (cohorts.minimum, cohorts.maximum) == (bounds.minimum, bounds.maximum)


def test_fixed_cohorts_are_uniform_subsets() -> None:
  """False alarm below 1e-6."""
  cohorts = FixedCohorts(10, 3)
  rounds = 3000
  pairs = np.zeros((10, 10))
  for _ in range(rounds):
    cohort = cohorts.draw()
    assert cohort.claim == accounting.FixedSizeSampling(3, 10)
    assert len(set(cohort.members)) == 3
    pairs[np.ix_(cohort.members, cohort.members)] += 1
  ones, twos = stats.binom(rounds, 3 / 10), stats.binom(rounds, 6 / 90)
  expected = [(np.diag(pairs), ones), (pairs[np.triu_indices(10, 1)], twos)]
  for counts, law in expected:
    assert (law.ppf(1e-9) <= counts).all()
    assert (counts <= law.isf(1e-9)).all()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((0, 1, 1, 1), '`population` must be at least 1'),
    ((10, 0, 1, 1), '`expected` must be above 0'),
    ((10, 1e-30, 1, 1), '`expected` must be above 0'),
    ((10, 11, 1, 1), '`expected` must be in'),
    ((10, 5, 0, 9), '`minimum` must be at least 1'),
    ((10, 5, 6, 5), '`maximum` must be at least 6'),
  ],
)
def test_bad_poisson_cohorts(arguments: tuple[int, ...], message: str) -> None:
  with pytest.raises(ValueError, match=message):
    PoissonCohorts(*arguments)


def test_bad_fixed_cohorts() -> None:
  with pytest.raises(ValueError, match='`population` must be at least 1'):
    FixedCohorts(0, 1)
  with pytest.raises(ValueError, match='`size` must be at most 10'):
    FixedCohorts(10, 11)
