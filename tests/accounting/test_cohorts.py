# SPDX-License-Identifier: Apache-2.0
"""Bounds on cohorts of random size, against exact binomial sums."""

from __future__ import annotations

from collections.abc import Callable
import fractions
import math

import numpy as np
import pytest
from scipy import stats

from tff_secagg_ext import accounting


@pytest.mark.parametrize('population', [7, 40])
def test_exact_binomial_tails(population: int) -> None:
  expected, rounds, delta = population * 0.3, 5, 0.4
  found = accounting.poisson_cohort_bounds(population, expected, rounds, delta)
  p = fractions.Fraction(expected / population)

  def probability(sizes: range) -> fractions.Fraction:
    return sum(
      (
        math.comb(population, k) * p**k * (1 - p) ** (population - k)
        for k in sizes
      ),
      fractions.Fraction(0),
    )

  allowed = delta / 200 / rounds
  below = probability(range(found.minimum))
  above = probability(range(found.maximum + 1, population + 1))
  assert below <= allowed
  assert above <= allowed
  assert probability(range(found.minimum + 1)) > allowed
  assert probability(range(found.maximum, population + 1)) > allowed
  assert found.failure_probability == pytest.approx(
    float(rounds * (below + above)), rel=1e-9
  )


@pytest.mark.parametrize(
  ('population', 'expected', 'rounds', 'delta'),
  [
    (3400, 100.0, 1500, 1 / 3400),
    (360, 100, 60, 1e-5),
    (10**7, 5e3, 10**4, 1e-8),
  ],
)
def test_failure_is_within_a_hundredth_of_delta(
  population: int, expected: float, rounds: int, delta: float
) -> None:
  found = accounting.poisson_cohort_bounds(population, expected, rounds, delta)
  law = stats.binom(population, expected / population)
  exact = rounds * (law.cdf(found.minimum - 1) + law.sf(found.maximum))
  assert found.failure_probability == pytest.approx(exact, rel=1e-6)
  assert delta / 400 < found.failure_probability <= delta / 100
  assert 0 < found.minimum < expected < found.maximum < population


def test_everybody() -> None:
  found = accounting.poisson_cohort_bounds(50, 50, 10, 1e-5)
  assert found == accounting.CohortBounds(50, 50, 0.0)


def test_tiny_cohorts_may_be_empty() -> None:
  found = accounting.poisson_cohort_bounds(1000, 2.0, 100, 1e-5)
  assert found.minimum == 0
  assert 10 < found.maximum < 30


def test_simulated_runs_stay_inside() -> None:
  """False alarm: 2e4 runs at failure 5e-6 in all, 0.1."""
  found = accounting.poisson_cohort_bounds(500, 60.0, 20, 5e-4)
  cohorts = np.random.default_rng(7).binomial(500, 0.12, (20_000, 20))
  outside = (cohorts < found.minimum) | (cohorts > found.maximum)
  assert outside.any(axis=1).sum() <= 3


@pytest.mark.parametrize(
  ('call', 'error', 'match'),
  [
    (lambda f: f(0, 1.0, 1, 0.1), ValueError, '`population`.*at least 1'),
    (lambda f: f(10, 0.0, 1, 0.1), ValueError, 'A run needs clients'),
    (lambda f: f(10, 11.0, 1, 0.1), ValueError, 'mean size of a cohort'),
    (lambda f: f(10, 5.0, 0, 0.1), ValueError, '`rounds`.*at least 1'),
    (lambda f: f(10, 5.0, 1, 0.0), ValueError, r'`delta` must be in \(0, 1\)'),
    (lambda f: f(10, 5.0, 1.5, 0.1), TypeError, '`rounds`.*an integer'),
  ],
)
def test_refuses(
  call: Callable[..., object], error: type[Exception], match: str
) -> None:
  with pytest.raises(error, match=match):
    call(accounting.poisson_cohort_bounds)


@pytest.mark.parametrize(
  ('probability', 'odds'), [(0.1, 1.0), (0.5, 1.0), (0.75, 3.0), (1.0, 1.0)]
)
def test_too_small_a_cohort_counts_more_where_all_are_needed(
  probability: float, odds: float
) -> None:
  sampling = accounting.PoissonSampling(probability)
  assert accounting.odds_of_being_needed(sampling) == pytest.approx(odds)


def test_being_needed_is_within_the_odds_of_too_small_a_cohort() -> None:
  for population, q, least in [(20, 0.75, 12), (50, 0.9, 40), (40, 0.3, 6)]:
    needed = q * stats.binom(population - 1, q).pmf(least - 1)
    too_small = stats.binom(population, q).cdf(least - 1)
    odds = accounting.odds_of_being_needed(accounting.PoissonSampling(q))
    assert needed <= odds * too_small


@pytest.mark.parametrize(('population', 'rate'), [(3400, 1 / 34), (20, 0.5)])
def test_allocated_cohorts_stay_in_bounds_with_any_client_and_without(
  population: int, rate: float
) -> None:
  rounds, delta = 150, 1e-3
  found = accounting.allocated_cohort_bounds(population, rate, rounds, delta)
  others = stats.binom(population - 1, rate)
  outside = others.cdf(found.minimum - 1) + others.sf(found.maximum - 1)
  assert found.failure_probability == pytest.approx(rounds * outside, rel=1e-6)
  assert found.failure_probability <= delta / 100
  tighter = others.sf(found.maximum - 2)
  assert tighter > delta / 200 / rounds


def test_allocated_cohorts_need_two_clients() -> None:
  with pytest.raises(ValueError, match='`population` must be at least 2'):
    accounting.allocated_cohort_bounds(1, 0.5, 1, 0.1)
  with pytest.raises(ValueError, match=r'`rate` must be in \[0, 1\]'):
    accounting.allocated_cohort_bounds(10, 1.5, 1, 0.1)
