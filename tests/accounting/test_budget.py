# SPDX-License-Identifier: Apache-2.0
"""Budgets: when a filter stops, and that what was admitted is within."""

from __future__ import annotations

from collections.abc import Callable
import itertools
import math

import numpy as np
import pytest

from tff_secagg_ext import accounting
from tff_secagg_ext.accounting import filters

DELTA = 1e-5
_SHARES = 100
_STDDEV = 100.0


def _round(z: float, q: float | None = None) -> accounting.Round:
  """A round of noise multiplier z."""
  event = accounting.NoisedSumEvent(
    'distributed_dgauss',
    _STDDEV * math.sqrt(_SHARES) / z,
    _STDDEV,
    _SHARES,
    64,
  )
  sampling: accounting.Sampling = accounting.NoSampling()
  if q is not None:
    sampling = accounting.PoissonSampling(q)
  return accounting.Round((event,), sampling)


def _run(
  budget: accounting.Budget,
  plan: accounting.Round,
  choose: Callable[[accounting.Filter], accounting.Round],
) -> tuple[list[accounting.Round], accounting.BudgetExceeded]:
  """Admits rounds, each chosen by what is spent, until one is refused."""
  spent, admitted = budget.filter(plan), []
  while True:
    a_round = choose(spent)
    try:
      budget.check('A run', spent, a_round)
    except accounting.BudgetExceeded as error:
      return [*admitted, a_round], error
    spent = spent.with_round(a_round)
    admitted.append(a_round)


def _exactly(rounds: list[accounting.Round], view: str) -> float:
  account = accounting.Accountant(DELTA)
  for a_round, same in itertools.groupby(rounds):
    account = account.with_round(a_round, len(list(same)))
  return (account.release() if view == 'release' else account.server()).value


@pytest.mark.parametrize('seed', range(100))
def test_what_adaptive_runs_spend_is_within_the_budget(seed: int) -> None:
  """Noise and sampling follow a walk that what was admitted drives."""
  rng = np.random.default_rng(seed)
  view = ('release', 'server')[seed % 2]
  budget = accounting.Budget(
    float(rng.uniform(0.5, 6.0)), DELTA, view, adaptive=True
  )
  q = (0.05, None)[seed // 2 % 2]
  amplified = view == 'release' and q is not None
  noises = rng.uniform(2.0, 8.0, 6) if amplified else rng.uniform(9.0, 40.0, 6)

  def choose(spent: accounting.Filter) -> accounting.Round:
    """More noise, or less, by what a release might have said."""
    said = spent.epsilon().value + float(rng.normal())
    return _round(float(noises[int(abs(said) * 7) % 6]), q)

  (*admitted, refused), error = _run(budget, _round(noises[0], q), choose)
  assert admitted
  assert _exactly(admitted, view) <= budget.epsilon < error.after.value
  # What the exact composition would have been is no smaller than a third: the
  # filter does not stop for nothing.
  assert _exactly([*admitted, refused], view) > budget.epsilon / 3


def test_the_gaussian_filter_stops_at_exactly_the_right_round() -> None:
  """By hand: the squares of the ratios are added up."""
  budget = accounting.Budget(3.0, DELTA, 'server', adaptive=True)
  noises = [5.0, 9.0, 4.0, 7.0] * 20
  slack = 1e-3 * 3.0
  total, right = 0.0, 0
  for z in noises:
    variance = _SHARES * _STDDEV**2 - 3.0
    total += (_STDDEV * math.sqrt(_SHARES) / z) ** 2 / variance
    m = math.sqrt(total)
    epsilon = 3.0 - slack
    # [BW18, Thm 8], evaluated as it stands.
    delta = _phi(m / 2 - epsilon / m) - math.exp(epsilon) * _phi(
      -m / 2 - epsilon / m
    )
    if delta > DELTA * math.exp(-slack):
      break
    right += 1
  turn = iter(noises)
  rounds, _ = _run(budget, _round(5.0), lambda _: _round(next(turn)))
  assert 5 < len(rounds) - 1 == right < 80


def test_the_renyi_filter_stops_at_exactly_the_right_round() -> None:
  """By dp_accounting: its divergences at the order, added up."""
  import dp_accounting

  budget = accounting.Budget(3.0, DELTA, adaptive=True)
  plan = _round(1.2, 0.05)
  order = budget.filter(plan).settings['order']
  noises = [1.2, 2.0, 1.0, 1.5] * 500
  total, right = 0.0, 0
  for z in noises:
    accountant = dp_accounting.rdp.RdpAccountant([order])
    variance = _SHARES * _STDDEV**2 - 3.0
    event = dp_accounting.GaussianDpEvent(
      z * math.sqrt(variance / (_SHARES * _STDDEV**2))
    )
    accountant.compose(dp_accounting.PoissonSampledDpEvent(0.05, event))
    total += accountant._rdp[0]
    if (
      total
      + math.log1p(-1 / order)
      - (math.log(DELTA) + math.log(order)) / (order - 1)
      > 3.0
    ):
      break
    right += 1
  turn = iter(noises)
  rounds, _ = _run(budget, plan, lambda _: _round(next(turn), 0.05))
  assert 20 < len(rounds) - 1 == right < 2000


def test_a_fixed_plan_stops_where_composition_does() -> None:
  budget, plan = accounting.Budget(2.0, DELTA), _round(1.5, 0.1)
  rounds, _ = _run(budget, plan, lambda _: plan)
  admitted = len(rounds) - 1
  assert _exactly([plan] * admitted, 'release') <= 2.0
  assert _exactly([plan] * (admitted + 1), 'release') > 2.0
  assert accounting.most_rounds(budget, plan).value == admitted


def test_the_error_says_what_is_spent_and_left() -> None:
  budget, plan = accounting.Budget(2.0, DELTA, 'server'), _round(4.0)
  _, error = _run(budget, plan, lambda _: plan)
  assert error.budget is budget
  assert error.spent.value <= 2.0 < error.after.value
  with pytest.raises(
    accounting.BudgetExceeded,
    match=r'A run must stay within epsilon 2 at delta 1e-05 in the server view'
    r'\. Found .* spent, .* left, and .* with the round that was to run\. It'
    r' was not run\. End here; or',
  ):
    raise error
  hidden = accounting.Round(
    (accounting.UnaccountedEvent(('a count',)),), accounting.NoSampling()
  )
  with pytest.raises(accounting.BudgetExceeded, match=r'inf with .* \(a count'):
    budget.check('A run', budget.filter(plan), hidden)


def test_a_round_that_costs_nothing_is_always_admitted() -> None:
  budget, plan = accounting.Budget(2.0, DELTA), _round(1.0)
  spent = budget.filter(plan).with_round(plan, 50)
  assert not budget.admits(spent)
  budget.check('A run', spent, accounting.Round((), accounting.NoSampling()))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'epsilon': 0.0}, r'`epsilon` must be in \(0, inf\)'),
    ({'epsilon': math.inf}, '`epsilon` must be finite'),
    ({'delta': 0.0}, r'`delta` must be in \(0, 1\)'),
    ({'delta': 1.0}, r'`delta` must be in \(0, 1\)'),
    ({'view': 'all'}, "`view` must be 'release' or 'server'"),
    ({'failures': 1e-5}, '`failures` must be below delta'),
    ({'failures': -1e-6}, r'`failures` must be in \[0, inf\]'),
  ],
)
def test_bad_budgets(changes: dict[str, object], message: str) -> None:
  with pytest.raises(ValueError, match=message):
    accounting.Budget(**{'epsilon': 1.0, 'delta': DELTA, **changes})
  with pytest.raises(TypeError, match='`adaptive` must be True or False'):
    accounting.Budget(1.0, DELTA, adaptive=1)  # type: ignore[arg-type]


def test_failures_are_taken_off_delta() -> None:
  budget = accounting.Budget(1.0, DELTA, failures=0.25 * DELTA)
  plan = _round(3.0)
  found = budget.filter(plan).with_round(plan).epsilon().value
  assert found == accounting.release_epsilon([plan], 0.75 * DELTA).value
  for adaptive in (budget, accounting.Budget(1.0, DELTA, adaptive=True)):
    assert adaptive.filter(plan).epsilon().value == 0.0


def test_a_delta_above_one_over_the_population_is_warned_of() -> None:
  assert accounting.warn_of_delta(1e-3, 1000) is None
  warning = accounting.warn_of_delta(2e-3, 1000)
  assert warning is not None
  assert 'above 1/1000' in warning
  assert 'publishes one client at random' in warning


def _phi(x: float) -> float:
  return math.erfc(-x / math.sqrt(2.0)) / 2.0


def test_views_are_those_of_the_accountant() -> None:
  assert filters.VIEWS == ('release', 'server')
