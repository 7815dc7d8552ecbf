# SPDX-License-Identifier: Apache-2.0
"""Filters: what they count, and that adaptive choices do not pass them."""

from __future__ import annotations

import dataclasses
import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from tests.oracles import filters as oracle
from tff_secagg_ext import accounting
from tff_secagg_ext.accounting import filters, gaussian, renyi

DELTA = 1e-5
_VARIANCE = 100 * 100.0**2 - 3.0  # What Gaussian domination leaves of it.
_NONE = accounting.NoSampling()


def _round(
  ratio: float,
  q: float | None = None,
  mechanism: str = 'distributed_dgauss',
) -> accounting.Round:
  """A round of sensitivity over (dominating) deviation `ratio`."""
  event = accounting.NoisedSumEvent(
    mechanism, ratio * math.sqrt(_VARIANCE), 100.0, 100, 64
  )
  sampling = _NONE if q is None else accounting.PoissonSampling(q)
  return accounting.Round((event,), sampling)


def _budget(**changes: object) -> accounting.Budget:
  return accounting.Budget(**{'epsilon': 2.0, 'delta': DELTA, **changes})


@pytest.mark.parametrize('view', filters.VIEWS)
@pytest.mark.parametrize('adaptive', [False, True])
@pytest.mark.parametrize('q', [None, 0.1])
@pytest.mark.parametrize(
  'mechanism', ['distributed_dgauss', 'distributed_skellam']
)
def test_nothing_costs_nothing_and_settings_restore_the_filter(
  view: str, adaptive: bool, q: float | None, mechanism: str
) -> None:
  budget = _budget(view=view, adaptive=adaptive)
  plan = _round(0.1, q, mechanism)
  empty = budget.filter(plan)
  assert empty.epsilon() == accounting.Epsilon(0.0)
  again = filters.from_settings(empty.settings, view, budget.delta)
  assert again.settings == empty.settings
  nothing = accounting.Round((), plan.sampling)
  assert empty.with_round(nothing, 5).epsilon().value == 0.0
  found = empty.with_round(plan, 7).epsilon()
  assert found == again.with_round(plan, 7).epsilon()
  assert 0.0 < found.value < math.inf
  assert found.value < empty.with_round(plan, 8).epsilon().value


def test_each_plan_has_the_filter_that_suits_it() -> None:
  def kind(plan: accounting.Round, **changes: object) -> str:
    return str(_budget(**changes).filter(plan).settings['filter'])

  assert kind(_round(0.1, 0.1)) == 'composition'
  assert kind(_round(0.1, 0.1), adaptive=True) == 'renyi'
  assert kind(_round(0.1), adaptive=True) == 'gaussian'
  assert kind(_round(0.1, 0.1), adaptive=True, view='server') == 'gaussian'
  skellam = _round(0.1, 0.1, 'distributed_skellam')
  assert kind(skellam, adaptive=True, view='server') == 'renyi'
  hidden = accounting.Round((accounting.UnaccountedEvent(('x',)),), _NONE)
  assert kind(hidden, adaptive=True) == 'gaussian'


@hypothesis.given(
  st.lists(
    st.tuples(st.sampled_from([0.05, 0.1, 0.3]), st.integers(1, 5)),
    min_size=1,
    max_size=6,
  )
)
@hypothesis.settings(max_examples=30)
def test_the_composition_filter_gives_the_accountants_numbers(
  runs: list[tuple[float, int]],
) -> None:
  for view in filters.VIEWS:
    spent: accounting.Filter = _budget(view=view).filter(_round(0.1, 0.1))
    account = accounting.Accountant(DELTA)
    for ratio, count in runs:
      spent = spent.with_round(_round(ratio, 0.1), count)
      account = account.with_round(_round(ratio, 0.1), count)
    expected = account.release() if view == 'release' else account.server()
    assert spent.epsilon() == expected


def test_the_gaussian_filter_is_as_tight_as_one_gaussian() -> None:
  spent = _budget(adaptive=True).filter(_round(0.1))
  for ratio in (0.1, 0.2, 0.2):
    spent = spent.with_round(_round(ratio))
  slack = 2.0 * 1e-3
  expected = gaussian.epsilon(0.3, DELTA * math.exp(-slack)) + slack
  assert spent.epsilon().value == pytest.approx(expected, rel=1e-9)


def test_the_gaussian_filter_refuses_what_it_cannot_count() -> None:
  empty = _budget(adaptive=True, view='server').filter(_round(0.1))
  skellam = empty.with_round(_round(0.1, None, 'distributed_skellam'))
  assert math.isinf(skellam.epsilon().value)
  assert skellam.epsilon().reasons == (
    'noise that is not Gaussian, in a Gaussian filter',
  )
  event = accounting.NoisedSumEvent('distributed_dgauss', 1.0, 0.8, 400, 10**4)
  coarse = empty.with_round(accounting.Round((event,), _NONE)).epsilon()
  assert math.isinf(coarse.value)
  assert 'noise too small: the slack of the lemma is' in coarse.reasons[0]
  hidden = accounting.Round((accounting.UnaccountedEvent(('a count',)),), _NONE)
  assert empty.with_round(hidden).epsilon().reasons == ('a count',)


def test_the_renyi_filter_names_what_is_infinite() -> None:
  empty = _budget(adaptive=True).filter(_round(0.1, 0.1))
  hidden = accounting.Round((accounting.UnaccountedEvent(('a count',)),), _NONE)
  spent = empty.with_round(hidden).with_round(_round(0.1, 0.1))
  assert spent.epsilon() == accounting.Epsilon(math.inf, ('a count',))


@pytest.mark.parametrize('q', [0.001, 0.03, 0.3, 1.0])
@pytest.mark.parametrize('ratio', [0.1, 1.0, 3.0])
def test_poisson_divergences_agree_with_dp_accounting(
  q: float, ratio: float
) -> None:
  import dp_accounting

  orders = [2, 3, 7, 32, 256]
  accountant = dp_accounting.rdp.RdpAccountant(orders)
  event = dp_accounting.GaussianDpEvent(1.0 / ratio)
  accountant.compose(dp_accounting.PoissonSampledDpEvent(q, event))
  found = [renyi.sampled_gaussian_renyi(order, ratio, q) for order in orders]
  np.testing.assert_allclose(found, accountant._rdp, rtol=1e-9, atol=1e-13)


@hypothesis.given(
  st.integers(2, 12), st.floats(0.05, 2.0), st.floats(0.001, 1.0)
)
@hypothesis.settings(max_examples=50)
def test_poisson_divergences_bound_both_directions(
  order: int, ratio: float, q: float
) -> None:
  x = np.linspace(-40.0, 60.0, 200_001)
  p, absent = oracle.gaussian_law(ratio, q)(x)
  step = float(x[1] - x[0])
  bound = renyi.sampled_gaussian_renyi(order, ratio, q)
  for one, other in ((p, absent), (absent, p)):
    there = (one > 0.0) & (other > 0.0)
    logs = order * np.log(one[there]) + (1 - order) * np.log(other[there])
    moment = math.log(float(np.exp(logs).sum()) * step)
    assert moment / (order - 1) <= bound * (1 + 1e-7) + 1e-9


def test_a_renyi_filter_counts_slack_and_other_noise_at_its_order() -> None:
  order = 9.0
  spent = filters.RenyiFilter(DELTA, 'release', order)
  gauss, skellam = _round(0.2), _round(0.2, None, 'distributed_skellam')
  cost = order * 0.2**2 / 2.0
  found = spent.with_round(gauss).divergence
  # The noise's own divergence, a little below that of what dominates it.
  assert found <= cost
  assert found == pytest.approx(cost, rel=1e-5)
  event = skellam.events[0]
  assert isinstance(event, accounting.NoisedSumEvent)
  exact = renyi.skellam_renyi(
    event.l2_sensitivity, 100 * 100.0**2, 64, np.array([order])
  )
  assert spent.with_round(skellam).divergence == pytest.approx(exact[0])
  coarse = dataclasses.replace(event, mechanism='distributed_dgauss')
  coarse = dataclasses.replace(coarse, share_stddev=1.0, l2_sensitivity=0.1)
  one = accounting.Round((coarse,), _NONE)
  from tff_secagg_ext.accounting import costs

  priced = costs.round_cost(one, 'release')
  assert priced.slack > 1e-9
  dominated = order * priced.squared_ratio / 2 + priced.slack * order / (
    order - 1
  )
  own = priced.divergences[order == renyi.ORDERS][0]
  found = spent.with_round(one).divergence
  assert found == pytest.approx(min(own, dominated))


def test_the_order_is_the_best_for_the_plan() -> None:
  plan, budget = _round(0.8, 0.02), _budget(adaptive=True)

  def admitted(order: float) -> int:
    spent: accounting.Filter = filters.RenyiFilter(DELTA, 'release', order)
    rounds = 0
    while budget.admits(spent := spent.with_round(plan)):
      rounds += 1
    return rounds

  chosen = budget.filter(plan).settings['order']
  assert admitted(chosen) == max(map(admitted, filters.ORDERS[:40])) > 100


@hypothesis.given(
  st.integers(0, 2**32 - 1), st.floats(0.3, 1.2), st.floats(-1.0, 2.0)
)
@hypothesis.settings(max_examples=8, deadline=None)
def test_adaptive_choices_do_not_pass_the_gaussian_filter(
  seed: int, first: float, threshold: float
) -> None:
  """Whatever the second round is made by the first one's outcome."""
  total = 1.5
  left = math.sqrt(total**2 - first**2)
  shares = np.random.default_rng(seed).random(8)

  def choose(x: float) -> oracle.Law:
    if x < threshold:
      return oracle.gaussian_law(left)
    return oracle.gaussian_law(left * float(shares[int(x) % 8]))

  epsilon = gaussian.epsilon(total, 1e-2)
  law = oracle.gaussian_law(first)
  assert oracle.adaptive_delta(law, choose, epsilon) <= 1e-2 * (1 + 1e-6)


@pytest.mark.parametrize('order', [4.0, 8.0])
def test_adaptive_choices_do_not_pass_the_renyi_filter(order: float) -> None:
  """The second round is the worst of those that are left, by the outcome."""
  delta, budget = 1e-3, 0.6
  offset = math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
  epsilon = budget + offset

  def largest(q: float, spend: float) -> oracle.Law:
    ratios = np.linspace(0.01, 6.0, 2000)
    within = [
      m
      for m in ratios
      if renyi.sampled_gaussian_renyi(int(order), float(m), q) <= spend
    ]
    return oracle.gaussian_law(float(within[-1]), q)

  first = oracle.gaussian_law(0.25, 1.0)
  spent = renyi.sampled_gaussian_renyi(int(order), 0.25, 1.0)
  laws = [largest(q, budget - spent) for q in (0.01, 0.1, 0.5, 1.0)]
  y = np.linspace(-12.0, 16.0, 2001)

  def worst(x: float) -> oracle.Law:
    loss = 0.25 * x - 0.25**2 / 2
    a = math.exp(epsilon - loss)
    gains = [
      np.maximum(p - a * q, 0.0).sum() for p, q in (law(y) for law in laws)
    ]
    return laws[int(np.argmax(gains))]

  assert len({id(worst(x)) for x in np.linspace(-3, 12, 40)}) > 1
  assert 0.0 < oracle.adaptive_delta(first, worst, epsilon) <= delta


def test_composition_of_what_happened_is_no_filter() -> None:
  """Both choices cost the budget, and choosing by the outcome costs more."""
  epsilon, first = 1.0, oracle.gaussian_law(0.5)

  def delta(law: oracle.Law) -> float:
    return oracle.adaptive_delta(first, lambda _: law, epsilon)

  plain = oracle.gaussian_law(0.5)
  allowed = delta(plain)
  low, high = 0.5, 6.0
  while high - low > 1e-6:
    middle = (low + high) / 2
    within = delta(oracle.gaussian_law(middle, 0.05)) <= allowed
    low, high = (middle, high) if within else (low, middle)
  rare = oracle.gaussian_law(low, 0.05)
  y = np.linspace(-12.0, 16.0, 2001)

  def worse(x: float) -> oracle.Law:
    a = math.exp(epsilon - (0.5 * x - 0.125))
    gains = [np.maximum(p - a * q, 0.0).sum() for p, q in (plain(y), rare(y))]
    return (plain, rare)[int(np.argmax(gains))]

  assert oracle.adaptive_delta(first, worse, epsilon) > 1.05 * allowed


def test_unknown_filters_are_refused() -> None:
  with pytest.raises(ValueError, match="`filter` must be 'composition'"):
    filters.from_settings({'filter': 'other'}, 'release', DELTA)


@pytest.mark.parametrize('adaptive', [False, True])
@pytest.mark.parametrize('q', [None, 0.1])
def test_two_adjacencies_do_not_compose(
  adaptive: bool, q: float | None
) -> None:
  plan = _round(0.1, q)
  other = accounting.Round(plan.events, accounting.NoSampling('substitution'))
  spent = _budget(adaptive=adaptive).filter(plan).with_round(plan)
  with pytest.raises(
    ValueError, match="All rounds must have the adjacency 'zero_out'"
  ):
    spent.with_round(other)
