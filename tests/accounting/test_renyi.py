# SPDX-License-Identifier: Apache-2.0
"""Skellam's Renyi divergences, and their conversion to epsilon."""

from __future__ import annotations

import json
import math
import pathlib

import dp_accounting
from dp_accounting import rdp
import hypothesis
from hypothesis import strategies as st
import mpmath
import numpy as np
import pytest

from tests.oracles import accounting as oracle
from tests.oracles import laws
from tests.reference import federated
from tff_secagg_ext.accounting import domination, renyi

_CASES = [
  case
  for case in json.loads(
    (
      pathlib.Path(__file__).parent / 'data' / 'reference_cases.json'
    ).read_text()
  )
  if case['mechanism'] == 'distributed_skellam' and case['sampling'] == 'none'
]


def test_orders_are_integers_above_one() -> None:
  assert np.all(np.round(renyi.ORDERS) == renyi.ORDERS)
  assert renyi.ORDERS[0] == 2.0
  assert renyi.ORDERS[-1] > 1e6


@pytest.mark.parametrize('case', _CASES, ids=lambda c: c['id'])
def test_published_accountant_at_its_orders(case: dict) -> None:
  """Orders 2 to 128 and 256, as google-research/federated has them."""
  orders = np.concatenate([np.arange(2.0, 129.0), [256.0]])
  divergences = case['rounds'] * renyi.skellam_renyi(
    case['inflated_l2_scaled'],
    case['num_clients'] * case['local_stddev_scaled'] ** 2,
    case['dim'],
    orders,
  )
  found = renyi.epsilon_from_renyi(divergences, case['delta'], orders)
  assert found == pytest.approx(case['epsilon'], rel=1e-9)


def _laws(name: str) -> list[mpmath.mpf]:
  if name == 'skellam':
    return list(laws.skellam(2.0, 200).values())
  return oracle.sum_of_discrete_gaussians((0.3, 1.0, 0.2), 60)


@pytest.mark.parametrize('name', ['skellam', 'discrete_gaussians'])
@pytest.mark.parametrize('shift', [1, 3])
@pytest.mark.parametrize('q', [0.02, 0.3, 0.9])
def test_poisson_sampling_in_one_dimension(
  name: str, shift: int, q: float
) -> None:
  """Theorem 5 is an identity for the client present; absent is never worse."""
  law = _laws(name)
  plain = np.full(renyi.ORDERS.shape, math.inf)
  absent_moved = oracle.shifted_laws(law, shift, 1.0)
  for order in range(2, 13):
    plain[order - 2] = oracle.renyi_divergence(*absent_moved, order)
  amplified = renyi.amplify(plain, q)
  present, absent = oracle.shifted_laws(law, shift, q)
  for order in range(2, 13):
    there = oracle.renyi_divergence(present, absent, order)
    assert amplified[order - 2] == pytest.approx(there, rel=1e-9)
    assert oracle.renyi_divergence(absent, present, order) <= there
    # Fractional orders, too: the proof is for all above 1.
    half = order - 0.5
    assert oracle.renyi_divergence(
      absent, present, half
    ) <= oracle.renyi_divergence(present, absent, half)
  assert np.isinf(amplified[11:]).all()


@hypothesis.given(
  st.floats(1.0 + 1e-3, 40.0), st.floats(1e-3, 1.0), st.floats(-8.0, 8.0)
)
def test_each_pair_of_outcomes_obeys_the_theorem(
  order: float, q: float, log_ratio: float
) -> None:
  """The inequality of Theorem 5's proof, with 60 digits."""
  a, q, t = mpmath.mpf(order), mpmath.mpf(q), mpmath.exp(log_ratio)
  one, other = 1 - q + q * t, 1 - q + q / t
  there = one**a + t * other**a
  absent = one ** (1 - a) + t * other ** (1 - a)
  assert there >= absent * (1 - mpmath.mpf(10) ** -50)


@hypothesis.given(
  st.floats(1e-6, 1e3), st.floats(1e-6, 1.0), st.floats(1e-6, 1.0)
)
def test_amplification_is_monotonic(
  size: float, one: float, other: float
) -> None:
  divergences = renyi.ORDERS * size
  low, high = (renyi.amplify(divergences, q) for q in sorted((one, other)))
  assert np.all(low <= high * (1 + 1e-9))
  assert np.all(high <= divergences)
  assert np.all(renyi.amplify(divergences, 1.0) == divergences)


def test_sampled_gaussian_is_that_of_dp_accounting() -> None:
  orders = list(range(2, 257))
  accountant = rdp.RdpAccountant(orders=orders)
  accountant.compose(
    dp_accounting.PoissonSampledDpEvent(
      1 / 34, dp_accounting.GaussianDpEvent(1.0)
    ),
    1500,
  )
  amplified = 1500 * renyi.amplify(renyi.ORDERS / 2.0, 1 / 34)
  assert renyi.epsilon_from_renyi(amplified, 1 / 3400) == pytest.approx(
    accountant.get_epsilon(1 / 3400), rel=1e-12
  )


def test_amplification_of_nothing_and_of_no_bound() -> None:
  zero = np.zeros(renyi.ORDERS.shape)
  assert np.all(renyi.amplify(zero, 0.1) == 0.0)
  assert np.isinf(renyi.amplify(zero + math.inf, 0.1)).all()


@pytest.mark.parametrize(
  'shares', [(0.5,) * 3, (0.4, 2.0, 0.9), (1.0,) * 5, (3.0,)]
)
@pytest.mark.parametrize('moves', [(1,), (2, 1), (1, 1, 1, 1)])
def test_discrete_gaussians_are_never_below_the_exact_divergence(
  shares: tuple[float, ...], moves: tuple[int, ...]
) -> None:
  law = oracle.sum_of_discrete_gaussians(shares, 60)
  bounds = renyi.discrete_gaussian_renyi(
    math.sqrt(sum(move**2 for move in moves)),
    sum(shares),
    len(moves),
    domination.sum_range(shares),
  )
  for order in (2, 3, 8):
    found = sum(
      oracle.renyi_divergence(*oracle.shifted_laws(law, move, 1.0), order)
      for move in moves
    )
    assert bounds[order - 2] >= found * (1 - 1e-12)


@pytest.mark.parametrize('stddev', [0.5, 0.7, 1.0, 1.5, 3.0])
@pytest.mark.parametrize('clients', [2, 10, 1000])
def test_discrete_gaussians_are_never_above_the_published_bound(
  stddev: float, clients: int
) -> None:
  """[KLS21, Prop. 14], whose tau is more than twice the range."""
  log_range = domination.equal_sum_range(stddev**2, clients)
  assert 2.0 * log_range <= federated.smoothing(stddev, clients)
  for l2, dimension in ((1.0, 1), (20.0, 400), (5.0, 10**6)):
    published = federated.Mechanism(
      discrete_gaussian=True,
      l2_sensitivity=l2,
      l1_sensitivity=renyi.largest_l1(l2, dimension),
      share_stddev=stddev,
      clients=clients,
      dimension=dimension,
    )
    ours = renyi.discrete_gaussian_renyi(
      l2, clients * stddev**2, dimension, log_range
    )
    assert np.all(ours <= published.renyi(renyi.ORDERS) * (1 + 1e-12))


@pytest.mark.parametrize('shift', [1, 3])
@pytest.mark.parametrize('variance', [2.0, 10.0])
def test_never_below_the_exact_divergence(shift: int, variance: float) -> None:
  """In one dimension, from Skellam's probabilities of 60 digits."""
  orders = np.array([2.0, 3.0, 8.0, 20.0])
  bounds = renyi.skellam_renyi(float(shift), variance, 1, orders)
  law = [
    mpmath.exp(-variance) * mpmath.besseli(abs(k), variance)
    for k in range(-150, 151)
  ]
  for order, bound in zip(orders, bounds, strict=True):
    moment = mpmath.fsum(
      p**order * q ** (1 - order)
      for p, q in zip(law[shift:], law, strict=False)
    )
    assert float(mpmath.log(moment) / (order - 1)) <= bound


def test_conversion_of_a_gaussian_is_above_its_epsilon() -> None:
  divergences = renyi.ORDERS * 0.5
  found = renyi.epsilon_from_renyi(divergences, 1e-5)
  assert 4.377 < found < 4.9
  assert renyi.epsilon_from_renyi(np.zeros_like(renyi.ORDERS), 0.5) == 0.0
  assert math.isinf(renyi.epsilon_from_renyi(divergences + np.inf, 1e-5))
