# SPDX-License-Identifier: Apache-2.0
"""Skellam noise near discrete Gaussian noise, against laws of 60 digits."""

from __future__ import annotations

import functools
import math

import hypothesis
from hypothesis import strategies as st
import mpmath
import numpy as np
import pytest
from scipy import optimize

from tests.oracles import accounting as oracle
from tests.oracles import laws
from tff_secagg_ext import accounting
from tff_secagg_ext.accounting import nearness

_VARIANCES = (1000, 5000)


@functools.cache
def _both(variance: int) -> tuple[list[mpmath.mpf], list[mpmath.mpf]]:
  """Skellam's and the discrete Gaussian's P(k), k = 0 to 15 sqrt(variance)."""
  reach = math.ceil(15 * math.sqrt(variance))
  # I_{k-1} = I_{k+1} + (2k / mu) I_k, downwards: the stable direction.
  upper, value = (
    laws.skellam_probability(variance, k) for k in (reach + 1, reach)
  )
  skellam = [value]
  for k in range(reach, 0, -1):
    upper, value = value, upper + mpmath.mpf(2 * k) / variance * value
    skellam.append(value)
  weights = [
    mpmath.exp(-mpmath.mpf(k * k) / (2 * variance)) for k in range(reach + 1)
  ]
  total = 2 * mpmath.fsum(weights) - 1
  return skellam[::-1], [w / total for w in weights]


def _mean(values: list[mpmath.mpf], law: list[mpmath.mpf]) -> mpmath.mpf:
  """Over both signs, of an even function."""
  terms = [v * p for v, p in zip(values, law, strict=True)]
  return 2 * mpmath.fsum(terms) - terms[0]


@pytest.mark.parametrize('variance', _VARIANCES)
def test_log_ratio_is_between_its_bounds(variance: int) -> None:
  skellam, normal = _both(variance)
  logs = [mpmath.log(p / q) for p, q in zip(skellam, normal, strict=True)]
  mu = mpmath.mpf(variance)
  for k, log in enumerate(logs):
    h = log - logs[0]
    assert -mpmath.mpf(k * k + k) / (2 * mu**2) <= h
    assert h <= mpmath.mpf(k) ** 4 / (24 * mu**3)


@pytest.mark.parametrize('variance', _VARIANCES)
def test_moments(variance: int) -> None:
  skellam, normal = _both(variance)
  logs = [mpmath.log(p / q) for p, q in zip(skellam, normal, strict=True)]
  h = [log - logs[0] for log in logs]
  squares = [x**2 for x in h]
  bound = nearness.second_moment(variance)
  largest = max(_mean(squares, skellam), _mean(squares, normal))
  assert bound / 20 < largest <= bound
  gap = _mean(h, skellam) - _mean(h, normal)
  assert 0 < gap <= nearness.of_skellam(variance, 1).distance


@pytest.mark.parametrize('variance', _VARIANCES)
@pytest.mark.parametrize('order', [0.5, 3.0, 10.0, 40.0])
def test_exponential_moments(variance: int, order: float) -> None:
  """What Chernoff's inequality is given, for either law against the other."""
  skellam, normal = _both(variance)
  near = nearness.of_skellam(variance, 1)
  growth = math.exp(order * 15.0**4 / (24.0 * variance))
  bound = near.distance * order * (1.0 + order / 2.0 * growth)
  s = mpmath.mpf(order)
  for one, other in ((skellam, normal), (normal, skellam)):
    ratios = [(p / q) ** s for p, q in zip(one, other, strict=True)]
    assert mpmath.log(_mean(ratios, one)) <= bound


@pytest.mark.parametrize('variance', _VARIANCES)
@pytest.mark.parametrize('reach', [4, 10, 14])
def test_what_lies_beyond_a_reach_is_rare(variance: int, reach: int) -> None:
  slope = reach / mpmath.sqrt(variance)
  exponent = reach**2 - variance * (mpmath.cosh(slope) - 1)
  inside = [k <= reach * mpmath.sqrt(variance) for k in range(10**4)]
  for law in _both(variance):
    beyond = [2 * p for p, near in zip(law, inside, strict=False) if not near]
    assert mpmath.fsum(beyond) <= 2 * mpmath.exp(-exponent)


@hypothesis.given(
  st.floats(1000.0, 1e10), st.integers(1, 2**24), st.floats(-60.0, -5.0)
)
def test_log_factor_is_the_bound_at_a_valid_order(
  variance: float, dimension: int, log_failure: float
) -> None:
  near = nearness.of_skellam(variance, dimension).times(10)
  found = near.log_factor(log_failure)
  assert 0.0 < found <= near.log_factor(log_failure - 1.0)
  assert found <= (near + near).log_factor(log_failure) * (1 + 1e-9)
  if math.isinf(found):
    return
  assert _theorem(near, log_failure, 0.02) * (1 - 1e-9) <= found
  assert found <= _theorem(near, log_failure, 0.5) * 1.01


def _theorem(near: nearness.Nearness, log_failure: float, step: float) -> float:
  """The least t of Theorem 6 at the least reach that leaves half of eta."""
  mu = near.least_variance
  log_half = log_failure - math.log(2.0)
  reach = 4.0
  while math.log(2.0 * near.coordinates) - reach**2 > log_half - mu * (
    math.cosh(reach / math.sqrt(mu)) - 1.0
  ):
    reach += step
    if reach > 30.0:
      return math.inf
  steepness = max(reach**4 / 24.0, (reach**2 + reach) / 2.0) / mu

  def bound(log_power: float) -> float:
    """The theorem's t at the order whose growth is e^(e^log_power)."""
    order = math.exp(log_power) / steepness
    growth = math.exp(math.exp(log_power))
    return near.distance * (1.0 + order / 2.0 * growth) - log_half / order

  # It is convex in the order, so that it has one valley.
  least = optimize.minimize_scalar(
    bound, bounds=(math.log(1e-6), math.log(200.0)), method='bounded'
  )
  return float(least.fun)


def test_nothing_is_near_and_too_rare_is_infinite() -> None:
  assert nearness.Nearness().log_factor(-50.0) == 0.0
  assert math.isinf(nearness.of_skellam(1e4, 10).log_factor(-500.0))


@pytest.mark.parametrize('shift', [20, 60])
@pytest.mark.parametrize(('q', 'rounds'), [(1.0, 1), (0.3, 1), (0.1, 2)])
def test_epsilon_is_never_below_the_exact_one(
  shift: int, q: float, rounds: int
) -> None:
  variance = 1000
  half = np.array([float(p) for p in _both(variance)[0]])
  law = np.pad(np.concatenate([half[:0:-1], half]), shift)
  present = (1 - q) * law + q * np.roll(law, shift)
  event = accounting.NoisedSumEvent(
    'distributed_skellam', float(shift), math.sqrt(variance), 1, 1
  )
  sampling = (
    accounting.NoSampling() if q == 1.0 else accounting.PoissonSampling(q)
  )
  run = [accounting.Round((event,), sampling)] * rounds
  for p, other in ((present, law), (law, present)):
    if rounds == 2:
      p, other = np.outer(p, p).ravel(), np.outer(other, other).ravel()
    for level in (0.1, 0.5, 1.0, 2.0, 4.0):
      delta = oracle.hockey_stick(p, other, math.exp(level))
      if 1e-10 < delta < 1.0:
        found = accounting.epsilon(run, delta)
        assert level * (1 - 1e-9) <= found.value < 2.0 * level + 3.0
        assert found.accountant in ('gaussian', 'pld', 'renyi')
