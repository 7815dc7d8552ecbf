# SPDX-License-Identifier: Apache-2.0
"""The domination lemma, against exact sums of 60 digits."""

from __future__ import annotations

from collections.abc import Callable
import math

import hypothesis
from hypothesis import strategies as st
import mpmath
import numpy as np
import pytest

from tests.oracles import accounting as oracle
from tff_secagg_ext.accounting import domination, gaussian, pld, profiles

_SHARES = (
  (4.0,),
  (2.0, 2.0),
  (0.5,) * 8,
  (0.3,) * 14,
  (0.25, 4.0),
  (1.0, 0.4, 2.5, 0.7),
  (6.0, 0.2),
  (1.0, 2.0, 4.0),
)


@pytest.mark.parametrize('variance', [0.02, 0.1, 0.5, 2.0])
def test_poisson_summation_error_is_the_series_rounded_up(
  variance: float,
) -> None:
  series = 2 * mpmath.nsum(
    lambda m: mpmath.exp(-2 * mpmath.pi**2 * variance * m**2), [1, mpmath.inf]
  )
  found = float(domination.poisson_summation_error(variance))
  assert found >= float(series) * (1 - 1e-14)
  assert found <= float(series) * 1.5


@pytest.mark.parametrize('shares', _SHARES)
def test_sum_is_a_discrete_gaussian_within_the_range(
  shares: tuple[float, ...],
) -> None:
  reach = 60
  exact = oracle.sum_of_discrete_gaussians(shares, reach)
  total = mpmath.fsum(shares)
  logs = [
    mpmath.log(exact[k + reach]) + mpmath.mpf(k * k) / (2 * total)
    for k in range(-12, 13)
  ]
  bound = domination.dominate(shares, smoothing=0.1)
  smoothing = float(domination.log_factor_range(0.1))
  spread = float(max(logs) - min(logs))
  assert spread <= (bound.log_range - smoothing) * (1 + 1e-12) + 1e-15


@pytest.mark.parametrize('shares', _SHARES)
@pytest.mark.parametrize('smoothing', [0.2, 1.0, 3.0])
def test_factor_to_the_smoothed_normal(
  shares: tuple[float, ...], smoothing: float
) -> None:
  """N(0, S - s2), rounded by a discrete Gaussian, by a fine sum."""
  reach = 60
  exact = oracle.sum_of_discrete_gaussians(shares, reach)
  bound = domination.dominate(shares, smoothing)
  y = np.linspace(-40.0, 40.0, 20_001)
  stddev = math.sqrt(bound.variance)
  density = oracle.normal(y / stddev, 0.0) / stddev * (y[1] - y[0])
  integers = np.arange(-60, 61)
  normaliser = sum(np.exp(-((j - y) ** 2) / (2 * smoothing)) for j in integers)
  logs = []
  for k in range(-8, 9):
    kernel = np.exp(-((k - y) ** 2) / (2 * smoothing)) / normaliser
    smooth = float((density * kernel).sum())
    logs.append(float(mpmath.log(exact[k + reach])) - math.log(smooth))
  assert max(logs) - min(logs) <= bound.log_range + 1e-9


def _bound(
  shares: tuple[float, ...], shift: int, q: float, rounds: int
) -> Callable[[float], float]:
  bound = domination.dominate(shares)
  ratio = shift / math.sqrt(bound.variance)
  slack = rounds * bound.log_range

  def epsilon(delta: float) -> float:
    left = delta * math.exp(-slack)
    if q == 1.0:
      return gaussian.epsilon(ratio * math.sqrt(rounds), left) + slack
    profile = profiles.Profile('poisson', ratio, q)
    return pld.Composition().then(profile, rounds).epsilon(left) + slack

  return epsilon


@pytest.mark.parametrize('shares', _SHARES)
@pytest.mark.parametrize('shift', [1, 2, 5])
@pytest.mark.parametrize(('q', 'rounds'), [(1.0, 1), (0.3, 1), (0.3, 2)])
def test_epsilon_is_never_below_the_exact_one(
  shares: tuple[float, ...], shift: int, q: float, rounds: int
) -> None:
  reach = 60
  law = np.array(
    [float(p) for p in oracle.sum_of_discrete_gaussians(shares, reach)]
  )
  padded = np.pad(law, 5)
  present = (1 - q) * padded + q * np.roll(padded, shift)
  epsilon = _bound(shares, shift, q, rounds)
  for p, other in ((present, padded), (padded, present)):
    if rounds == 2:
      p, other = np.outer(p, p).ravel(), np.outer(other, other).ravel()
    for level in (0.1, 0.5, 1.0, 2.0, 4.0):
      delta = oracle.hockey_stick(p, other, math.exp(level))
      if 1e-10 < delta < 1.0:
        assert epsilon(delta) >= level * (1 - 1e-9)


@pytest.mark.parametrize('shares', [(0.02, 9.0), (0.03,) * 300, (1.0, 1.5)])
def test_too_little_noise_is_infinite(shares: tuple[float, ...]) -> None:
  assert math.isinf(domination.dominate(shares).log_range)


@pytest.mark.parametrize('count', [1, 2, 17, 4096, 4097, 10_000])
@pytest.mark.parametrize('variance', [0.4, 3.5, 50.0])
def test_equal_shares(count: int, variance: float) -> None:
  quick = domination.dominate_equal(variance, count)
  full = domination.dominate([variance] * count)
  assert quick.variance == pytest.approx(full.variance)
  assert quick.log_range >= full.log_range * (1 - 1e-12)
  assert quick.log_range <= full.log_range * 1.01


@hypothesis.given(
  st.lists(st.integers(1, 40), min_size=1, max_size=12),
  st.floats(0.2, 3.0),
)
def test_merged_shares_cost_no_more_than_equal_ones(
  multiples: list[int], variance: float
) -> None:
  merged = domination.dominate([variance * m for m in multiples], 0.1)
  equal = domination.dominate_equal(variance, sum(multiples), 0.1)
  assert merged.log_range <= equal.log_range * (1 + 1e-12)
  assert merged.variance == pytest.approx(equal.variance)
