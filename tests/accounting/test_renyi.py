# SPDX-License-Identifier: Apache-2.0
"""Skellam's Renyi divergences, and their conversion to epsilon."""

from __future__ import annotations

import json
import math
import pathlib

import mpmath
import numpy as np
import pytest

from tff_secagg_ext.accounting import renyi

_CASES = [
  case
  for case in json.loads(
    (
      pathlib.Path(__file__).parent / 'data' / 'reference_cases.json'
    ).read_text()
  )
  if case['mechanism'] == 'distributed_skellam'
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
