# SPDX-License-Identifier: Apache-2.0
"""Calibration: within the target, as near as stated, or the nearest."""

from __future__ import annotations

import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from tests.oracles import filters as oracle
from tff_secagg_ext import accounting

DELTA = 1e-5


def _round(z: float, q: float | None = None) -> accounting.Round:
  event = accounting.NoisedSumEvent(
    'distributed_dgauss', 10_000.0, 1000.0 * z, 100, 64
  )
  sampling: accounting.Sampling = accounting.NoSampling()
  if q is not None:
    sampling = accounting.PoissonSampling(q)
  return accounting.Round((event,), sampling)


def _epsilon(
  budget: accounting.Budget, plan: accounting.Round, n: int
) -> float:
  if budget.adaptive:
    return budget.filter(plan).with_round(plan, n).epsilon().value
  views = accounting.release_epsilon, accounting.server_epsilon
  return views[budget.view == 'server']([plan] * n, budget.delta).value


_BUDGETS = st.builds(
  accounting.Budget,
  st.floats(0.1, 20.0),
  st.sampled_from([1e-3, 1e-5, 1e-8]),
  st.sampled_from(['release', 'server']),
  st.booleans(),
)
_RATES = st.sampled_from([None, 0.01, 0.3])


@hypothesis.given(_BUDGETS, _RATES, st.integers(1, 300))
@hypothesis.settings(max_examples=25, deadline=None)
def test_noise_meets_the_target_and_less_does_not(
  budget: accounting.Budget, q: float | None, rounds: int
) -> None:
  found = accounting.calibrate(budget, lambda z: _round(z, q), rounds)
  assert found.epsilon.value <= budget.epsilon
  exact = _epsilon(budget, _round(found.value, q), rounds)
  assert exact <= budget.epsilon
  assert exact == pytest.approx(found.epsilon.value, rel=1e-12)
  # Twice the precision: 1e-4 and the accountant's own.
  less = _round(found.value * (1 - 2e-4 - 1e-3), q)
  assert _epsilon(budget, less, rounds) > budget.epsilon


@hypothesis.given(_BUDGETS, _RATES)
@hypothesis.settings(max_examples=20, deadline=None)
def test_rounds_meet_the_target_and_one_more_does_not(
  budget: accounting.Budget, q: float | None
) -> None:
  plan = _round(8.0 / budget.epsilon + 3.0, q)
  try:
    found = accounting.most_rounds(budget, plan, limit=5000)
  except accounting.UnmetTargetError:
    assert _epsilon(budget, plan, 1) > budget.epsilon
    return
  assert found.rounds == found.value
  assert _epsilon(budget, plan, found.value) <= budget.epsilon
  if found.value < 5000:
    assert _epsilon(budget, plan, found.value + 1) > budget.epsilon


@pytest.mark.parametrize('adaptive', [False, True])
def test_a_scan_finds_the_same(adaptive: bool) -> None:
  budget = accounting.Budget(3.0, DELTA, adaptive=adaptive)
  scanned = oracle.first_that_meets(
    lambda z: _epsilon(budget, _round(z, 0.05), 200) <= 3.0,
    np.arange(0.9, 2.0, 0.02),
  )
  found = accounting.calibrate(budget, lambda z: _round(z, 0.05), 200)
  assert scanned - 0.02 < found.value * (1 + 1e-3)
  assert found.value <= scanned
  plan = _round(1.5, 0.05)
  rounds = next(n for n in range(1, 10_000) if _epsilon(budget, plan, n) > 3.0)
  assert accounting.most_rounds(budget, plan).value == rounds - 1
  cohort = next(
    n for n in range(1, 1000) if _epsilon(budget, _round(1.5, n / 1000), 99) > 3
  )
  largest = accounting.largest_cohort(
    budget, lambda n: _round(1.5, n / 1000), 99, between=(1, 1000)
  )
  assert largest.value == cohort - 1
  assert largest.epsilon.value <= 3.0


def test_it_agrees_with_dp_accounting() -> None:
  """Its calibrate_dp_mechanism, with its PLD accountant."""
  import dp_accounting

  def event(sigma: float) -> dp_accounting.DpEvent:
    gauss = dp_accounting.GaussianDpEvent(sigma)
    sampled = dp_accounting.PoissonSampledDpEvent(0.05, gauss)
    return dp_accounting.SelfComposedDpEvent(sampled, 20)

  expected = dp_accounting.calibrate_dp_mechanism(
    lambda: dp_accounting.pld.PLDAccountant(value_discretization_interval=1e-3),
    event,
    3.0,
    DELTA,
    dp_accounting.ExplicitBracketInterval(0.7, 1.5),
    tol=1e-3,
  )
  budget = accounting.Budget(3.0, DELTA)
  found = accounting.calibrate(budget, lambda z: _round(z, 0.05), 20)
  assert found.value == pytest.approx(expected, rel=5e-3)


def test_the_ends_of_the_range_are_kept() -> None:
  budget = accounting.Budget(1.0, DELTA, 'server')
  low = accounting.calibrate(budget, _round, 1, between=(50.0, 60.0))
  assert low.value == 50.0
  assert low.epsilon.value == _epsilon(budget, _round(50.0), 1)
  limited = accounting.most_rounds(budget, _round(50.0), limit=7)
  assert limited.value == 7
  only = accounting.largest_cohort(
    budget, lambda n: _round(50.0, n / 10), 1, between=(10, 10)
  )
  assert only.value == 10


def test_a_target_that_cannot_be_met_names_the_nearest() -> None:
  budget = accounting.Budget(0.1, DELTA, 'server')
  with pytest.raises(
    accounting.UnmetTargetError,
    match=r'that noise multipliers up to 5 can meet\. Found epsilon 0\.1 at'
    r' delta 1e-05 in the server view\. The nearest that can be met is epsilon'
    r' 2\.\d+, with 5\.',
  ) as caught:
    accounting.calibrate(budget, _round, 9, between=(0.1, 5.0))
  assert caught.value.nearest == 5.0
  assert caught.value.epsilon.value == _epsilon(budget, _round(5.0), 9)
  nearest = accounting.Budget(caught.value.epsilon.value, DELTA, budget.view)
  met = accounting.calibrate(nearest, _round, 9, between=(0.1, 5.0))
  assert met.value == pytest.approx(5.0, rel=2e-4)
  with pytest.raises(accounting.UnmetTargetError, match='that one such round'):
    accounting.most_rounds(budget, _round(5.0))
  with pytest.raises(
    accounting.UnmetTargetError, match='that cohorts of 3 clients or more'
  ):
    accounting.largest_cohort(budget, lambda n: _round(5.0), 1, between=(3, 9))


def test_an_infinite_cost_is_named() -> None:
  hidden = accounting.Round(
    (accounting.UnaccountedEvent(('a count',)),), accounting.NoSampling()
  )
  with pytest.raises(
    accounting.UnmetTargetError, match=r'epsilon inf, .*\(a count\)'
  ) as caught:
    accounting.calibrate(accounting.Budget(1.0, DELTA), lambda _: hidden, 1)
  assert math.isinf(caught.value.epsilon.value)


def test_bad_arguments() -> None:
  budget = accounting.Budget(1.0, DELTA)
  for rounds in (0, -3):
    with pytest.raises(ValueError, match='`rounds` must be at least 1'):
      accounting.calibrate(budget, _round, rounds)
    with pytest.raises(ValueError, match='`rounds` must be at least 1'):
      accounting.largest_cohort(budget, _round, rounds, between=(1, 2))
  with pytest.raises(ValueError, match=r'`between\[0\]` must be in \(0, inf\)'):
    accounting.calibrate(budget, _round, 1, between=(0.0, 1.0))
  with pytest.raises(ValueError, match=r'`between\[1\]` must be in \[2, inf\]'):
    accounting.calibrate(budget, _round, 1, between=(2.0, 1.0))
  with pytest.raises(ValueError, match=r'`between\[1\]` must be at least 5'):
    accounting.largest_cohort(budget, _round, 1, between=(5, 2))
  with pytest.raises(ValueError, match=r'`precision` must be in \(0, 1\)'):
    accounting.calibrate(budget, _round, 1, precision=0.0)
  with pytest.raises(ValueError, match='`limit` must be at least 1'):
    accounting.most_rounds(budget, _round(1.0), limit=0)
  with pytest.raises(ValueError, match=r'`probability` must be in \[0, 1\]'):
    accounting.largest_cohort(
      budget, lambda n: _round(1.0, 1.5), 1, between=(1, 2)
    )
