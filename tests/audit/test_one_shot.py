# SPDX-License-Identifier: Apache-2.0
"""Estimates and bounds from canaries in a release."""

from __future__ import annotations

import functools
import hashlib
import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats

from tff_secagg_ext.accounting import gaussian
from tff_secagg_ext.audit import canaries, one_shot

# A correct test fails this seldom.
FALSE_ALARM = 1e-6
DELTA = 1e-6
REPEATS = 50
COUNT = 1000
DIMENSION = 50_000


def ratio_of(epsilon: float) -> float:
  """The sensitivity over standard deviation at which it is exact."""
  low, high = 0.0, 10.0
  for _ in range(60):
    middle = (low + high) / 2.0
    if gaussian.epsilon(middle, DELTA) < epsilon:
      low = middle
    else:
      high = middle
  return high


def seed_of(*numbers: float) -> bytes:
  return hashlib.sha256(repr(numbers).encode()).digest()


@functools.cache
def audits(epsilon: float) -> list[one_shot.Estimate]:
  """Of the plain Gaussian mechanism, once for each seed."""
  found = []
  for number in range(REPEATS):
    drawn = canaries.Canaries(seed_of(number, epsilon), COUNT, DIMENSION)
    generator = np.random.default_rng([number, int(epsilon)])
    noise = generator.normal(size=DIMENSION)
    release = drawn.total() + noise / ratio_of(epsilon)
    found += one_shot.estimates(drawn.cosines(release[None]), DELTA)
  return found


@pytest.mark.parametrize(
  ('epsilon', 'published'), [(1.0, 0.12), (3.0, 0.16), (10.0, 0.21)]
)
def test_plain_gaussian_mechanism(epsilon: float, published: float) -> None:
  """Means and deviations of 50 repeats, as in [AKOOMS23].

  The estimate of the ratio has the standard deviation 1 / sqrt(k); epsilon has
  as much times its slope. 50 repeats have the chi-squared law about it, and
  their mean the normal one: this fails three times in 10^6.
  """
  known = np.asarray([a.known for a in audits(epsilon)])
  step = 1.0 / math.sqrt(COUNT)
  ratio = ratio_of(epsilon)
  deviation = (
    gaussian.epsilon(ratio + step, DELTA)
    - gaussian.epsilon(ratio - step, DELTA)
  ) / 2.0
  error = stats.norm.isf(FALSE_ALARM / 2) * deviation / math.sqrt(REPEATS)
  assert abs(known.mean() - epsilon) <= min(error, 0.1 * epsilon)
  squares = (REPEATS - 1) * known.var(ddof=1) / deviation**2
  law = stats.chi2(REPEATS - 1)
  assert law.ppf(FALSE_ALARM) < squares < law.isf(FALSE_ALARM)
  # What was published is of 50 repeats too: two standard errors of it.
  assert deviation == pytest.approx(published, rel=2.0 / math.sqrt(98))


@pytest.mark.parametrize('epsilon', [1.0, 3.0, 10.0])
def test_fitted_deviation_is_biased(epsilon: float) -> None:
  fitted = np.asarray([a.fitted for a in audits(epsilon)])
  assert 0.2 < fitted.mean() - epsilon < 0.7


@pytest.mark.parametrize('epsilon', [1.0, 3.0, 10.0])
def test_lower_bound_is_seldom_above_epsilon(epsilon: float) -> None:
  """At a miss of 5 % this fails once in 10^6."""
  bounds = np.asarray([a.lower_bound for a in audits(epsilon)])
  misses = np.count_nonzero(bounds > epsilon)
  assert misses <= stats.binom.isf(FALSE_ALARM, REPEATS, 0.05)
  assert bounds.mean() > 0.75 * epsilon


@pytest.mark.parametrize(
  ('others', 'misses'), [(0.0, (0.03, 0.07)), (6.0, (0.0, 0.05))]
)
@pytest.mark.parametrize('ratio', [0.2, 3.0])
def test_coverage_in_a_small_dimension(
  others: float, misses: tuple[float, float], ratio: float
) -> None:
  """Exactly 5 % with noise alone, less with other clients' updates.

  They have one coordinate alone, the worst for canaries of signs. The range of
  2,000 audits is left less than once in 10^4 by noise alone.
  """
  count, dimension, above = 5, 12, 0
  generator = np.random.default_rng(7)
  for number in range(2000):
    drawn = canaries.Canaries(seed_of(number), count, dimension)
    release = drawn.total() + generator.normal(size=dimension) / ratio
    release[0] += others
    cosines = drawn.cosines(release[None])
    statistic = one_shot._statistic(cosines.values[0], cosines)
    least = one_shot._least_noncentrality(statistic, dimension - 1, 0.05)
    # Epsilon grows in the ratio.
    above += least / cosines.sum_norm > ratio
  assert misses[0] <= above / 2000 <= misses[1]


def test_noise_cut_by_half_is_noticed_in_each_audit() -> None:
  honest = gaussian.epsilon(1.0, DELTA)
  for seed in range(10):
    drawn = canaries.Canaries(seed_of(seed), 256, 20_000)
    noise = np.random.default_rng(seed).normal(size=20_000)
    [found] = one_shot.estimates(
      drawn.cosines((drawn.total() + noise / 2.0)[None]), DELTA
    )
    assert found.lower_bound > honest


def test_rounds_summed_are_rounds_composed() -> None:
  """Nine rounds with noise of 3: one with noise of 1, in ratio."""
  drawn = canaries.Canaries.draw(1024, 40_000)
  generator = np.random.default_rng(8)
  rounds = [
    drawn.total() + 3.0 * generator.normal(size=40_000) for _ in range(9)
  ]
  whole = one_shot.estimates(drawn.cosines(sum(rounds)[None]), DELTA)[0]
  single = one_shot.estimates(drawn.cosines(np.asarray(rounds)), DELTA)
  # The estimate's deviation is about 5 / sqrt(1024).
  assert whole.known == pytest.approx(gaussian.epsilon(1.0, DELTA), abs=0.9)
  assert len(single) == 9
  for one in single:
    assert one.known == pytest.approx(gaussian.epsilon(1 / 3, DELTA), abs=0.9)


def test_no_canary_in_the_release() -> None:
  drawn = canaries.Canaries(bytes(32), 64, 10_000)
  release = np.random.default_rng(9).normal(size=(200, 10_000))
  found = one_shot.estimates(drawn.cosines(release), DELTA)
  positive = sum(one.lower_bound > 0.0 for one in found)
  assert positive <= stats.binom.isf(FALSE_ALARM, 200, 0.05)


@hypothesis.given(
  st.integers(1, 10**7),
  st.floats(-2.0, 2.0).map(lambda x: 10.0**x),
  st.floats(0.5, 0.999),
)
def test_least_noncentrality_against_scipy(
  degrees: int, statistic: float, confidence: float
) -> None:
  level = 1.0 - confidence
  least = one_shot._least_noncentrality(statistic, degrees, level)
  assert 0.0 <= least <= statistic * (1 + 1e-9)
  if least > 1e-6:
    tail = stats.nct.sf(statistic, degrees, least)
    assert tail == pytest.approx(level, rel=1e-6)
  else:
    assert stats.t.sf(statistic, degrees) >= level * (1 - 1e-6)


@hypothesis.given(st.floats(-1.0, 1.0), st.integers(2, 2000))
def test_null_tail_against_the_beta_law(cosine: float, dimension: int) -> None:
  half = (dimension - 1) / 2.0
  expected = stats.beta.sf((1.0 + cosine) / 2.0, half, half)
  assert one_shot.null_tail(cosine, dimension) == pytest.approx(
    expected, rel=1e-6, abs=1e-12
  )


def test_null_tail_in_three_dimensions() -> None:
  """Archimedes: a cosine in three dimensions is uniform."""
  np.testing.assert_allclose(
    one_shot.null_tail([-1.0, -0.5, 0.0, 0.5, 1.0], 3), [1, 0.75, 0.5, 0.25, 0]
  )


def test_null_tail_far_out() -> None:
  """10 standard deviations in a million dimensions are nearly normal."""
  found = float(one_shot.null_tail(0.01, 10**6))
  assert found == pytest.approx(stats.norm.sf(10.0), rel=0.01)


def test_fitted_needs_two_canaries() -> None:
  [found] = one_shot.estimates(
    canaries.Cosines(np.asarray([[0.1]]), 100, 1.0), DELTA
  )
  assert math.isnan(found.fitted)
  assert found.known > 0.0


def test_a_release_of_canaries_alone() -> None:
  drawn = canaries.Canaries(bytes(32), 4, 50)
  cosines = drawn.cosines(drawn.total()[None])
  with pytest.raises(ValueError, match=r'nothing but canaries.*no noise in it'):
    one_shot.estimates(cosines, DELTA)


@pytest.mark.parametrize('delta', [0.0, 1.0])
def test_delta_must_be_positive(delta: float) -> None:
  cosines = canaries.Cosines(np.zeros((1, 2)), 10, 2**0.5)
  with pytest.raises(ValueError, match=r'no finite epsilon at delta 0; use a'):
    one_shot.estimates(cosines, delta)


@pytest.mark.parametrize(
  ('confidence', 'message'),
  [
    (0.4, r'`confidence` must be in \[0.5'),
    (1.0, 'must be below 1. Found 1.0'),
  ],
)
def test_confidence_out_of_range(confidence: float, message: str) -> None:
  cosines = canaries.Cosines(np.zeros((1, 2)), 10, 2**0.5)
  with pytest.raises(ValueError, match=message):
    one_shot.estimates(cosines, DELTA, confidence)


def test_null_tail_of_what_is_no_cosine() -> None:
  with pytest.raises(ValueError, match=r'must be in \[-1, 1\]. Found .*1.5'):
    one_shot.null_tail([0.0, 1.5], 10)
  with pytest.raises(ValueError, match=r'`dimension` must be at least 2'):
    one_shot.null_tail(0.0, 1)
