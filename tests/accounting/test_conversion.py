# SPDX-License-Identifier: Apache-2.0
"""The least of several accountants, and Theorem 6's terms in it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tff_secagg_ext import accounting
from tff_secagg_ext.accounting import (
  conversion,
  costs,
  gaussian,
  nearness,
  renyi,
)

_DELTA = 1e-5


def _cost(slack: float = 0.0, divergences: float = 1.0) -> costs.Cost:
  """One Gaussian of ratio 1, and so many times its Renyi divergences."""
  return costs.Cost(1.0, slack, divergences * renyi.ORDERS / 2.0)


def test_gaussian_is_least_where_there_is_no_slack() -> None:
  found = conversion.best(_cost(), _DELTA)
  assert found.value == gaussian.epsilon(1.0, _DELTA)
  assert found.accountant == 'gaussian'


@pytest.mark.parametrize(
  ('slack', 'name'), [(0.01, 'gaussian'), (5.0, 'renyi')]
)
def test_slack_is_paid_twice(slack: float, name: str) -> None:
  found = conversion.best(_cost(slack), _DELTA)
  dominated = gaussian.epsilon(1.0, _DELTA * math.exp(-slack)) + slack
  converted = renyi.epsilon_from_renyi(renyi.ORDERS / 2.0, _DELTA)
  assert found.value == min(dominated, converted)
  assert found.accountant == name


def test_nearness_is_paid_on_both_sides() -> None:
  near = nearness.of_skellam(1e6, 1024)
  total = costs.Cost(1.0, 0.0, renyi.ORDERS / 2.0, near)
  found = conversion.best(total, _DELTA)
  most = renyi.epsilon_from_renyi(renyi.ORDERS / 2.0, _DELTA)
  t = near.log_factor(math.log(_DELTA * 1e-4 / 2.0) - most)
  left = _DELTA * (1.0 - 1e-4) * math.exp(-t)
  assert found.value == pytest.approx(
    gaussian.epsilon(1.0, left) + 2.0 * t, rel=1e-12
  )
  # What is left of delta pays for the rest, e^(t + epsilon') times.
  eta = _DELTA * 1e-4 / 2.0 * math.exp(-most)
  spent = math.exp(t) * left + (1.0 + math.exp(found.value - t)) * eta
  assert spent <= _DELTA
  assert found.accountant == 'gaussian'


def test_nearness_that_costs_more_than_renyi_is_not_used() -> None:
  near = nearness.of_skellam(1e3, 10**6)
  total = costs.Cost(1.0, 0.0, renyi.ORDERS / 2.0, near)
  found = conversion.best(total, _DELTA)
  assert found.accountant == 'renyi'
  assert found.value == renyi.epsilon_from_renyi(renyi.ORDERS / 2.0, _DELTA)


@pytest.mark.parametrize(
  'sampling',
  [
    accounting.PoissonSampling(1 / 34),
    accounting.FixedSizeSampling(100, 3400),
    accounting.FixedSizeSampling(100, 3400, 'substitution'),
  ],
)
def test_skellam_noise_is_amplified_under_every_sampling(
  sampling: accounting.Sampling,
) -> None:
  def epsilon(mechanism: str) -> accounting.Epsilon:
    event = accounting.NoisedSumEvent(mechanism, 1e5, 1e4, 100, 2**20)
    a_round = accounting.Round((event,), sampling)
    return accounting.release_epsilon([a_round] * 1500, 1 / 3400)

  skellam, gaussian = map(epsilon, accounting.events.MECHANISMS[::-1])
  assert skellam.accountant == 'pld'
  assert gaussian.value < skellam.value < 1.001 * gaussian.value


def test_no_accountant_is_infinite_by_name() -> None:
  nothing = costs.Cost(0.0, math.inf, np.full(renyi.ORDERS.shape, math.inf))
  found = conversion.best(nothing, _DELTA)
  assert found == accounting.Epsilon(
    math.inf, ('noise too small for any accountant at delta 1e-05',)
  )
  named = costs.Cost(reasons=('counts are exact',))
  assert conversion.best(named, _DELTA).reasons == ('counts are exact',)
