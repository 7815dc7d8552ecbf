# SPDX-License-Identifier: Apache-2.0
"""Tests of the sampling tables against 60-digit sums."""

from __future__ import annotations

import bisect
from fractions import Fraction
import itertools

import hypothesis
from hypothesis import strategies as st
import mpmath
import numpy as np
import pytest

from tests.oracles import laws
from tff_secagg_ext import _tables as tables

_ORACLES = {
  tables.discrete_gaussian_weights: laws.discrete_gaussian,
  tables.skellam_weights: laws.skellam,
}


def _law(weights: tables.Weights) -> laws.Probabilities:
  total = mpmath.mpf(weights.total)
  last = weights.last
  return {k: weights.values[abs(k)] / total for k in range(-last, last + 1)}


def _numbers(table: tables.Table) -> list[int]:
  """The thresholds as integers of 111 bits, after the number of the law."""
  pairs = zip(table.high.tolist(), table.low.tolist(), strict=True)
  return [(high << 63) + low for high, low in pairs]


@pytest.mark.parametrize('make', _ORACLES)
@pytest.mark.parametrize('stddev', [0.5, 0.7, 1.0, 3.3, 10.0, 40.0])
def test_weights_are_within_tv_bound(make, stddev):
  weights = make(Fraction(stddev) ** 2)
  ideal = _ORACLES[make](mpmath.mpf(stddev) ** 2, weights.last)
  distance = laws.total_variation(_law(weights), ideal)
  assert distance <= weights.tv_bound < 2**-62
  # Apart from the tail that is left out, nothing is lost.
  inside = mpmath.fsum(ideal.values())
  cut = {k: p / inside for k, p in ideal.items()}
  assert laws.total_variation(_law(weights), cut) < mpmath.mpf(2) ** -90


@pytest.mark.parametrize('make', _ORACLES)
@pytest.mark.parametrize('stddev', [0.5, 0.51, 2.0, 77.7, 1000.0, 1e5])
def test_weights_are_a_symmetric_law_that_falls(make, stddev):
  weights = make(Fraction(stddev) ** 2)
  values = weights.values
  assert all(v > 0 for v in values)
  assert all(a > b for a, b in itertools.pairwise(values))
  assert weights.both_sides == [*reversed(values), *values[1:]]
  assert weights.total == sum(weights.both_sides)
  assert 0 < weights.tv_bound < 2**-62
  assert weights.last < 10 * stddev + 30


@pytest.mark.parametrize('stddev', [512.0, 2000.0, 99999.123])
def test_wide_skellam_weights(stddev):
  variance = Fraction(stddev) ** 2
  weights = tables.skellam_weights(variance)
  for k in (0, 1, 2, int(stddev), int(4 * stddev)):
    ideal = laws.skellam_probability(mpmath.mpf(stddev) ** 2, k)
    error = mpmath.mpf(weights.values[k]) / weights.total - ideal
    # What is left out, at most 2^-63, is spread over all outcomes.
    assert abs(error) <= ideal * 2**-63


def test_wide_discrete_gaussian_weights():
  stddev = 99999.123
  weights = tables.discrete_gaussian_weights(Fraction(stddev) ** 2)
  for k in (1, int(stddev), int(9 * stddev)):
    ratio = mpmath.mpf(weights.values[k]) / weights.values[0]
    ideal = mpmath.exp(-(mpmath.mpf(k) ** 2) / (2 * mpmath.mpf(stddev) ** 2))
    assert abs(ratio - ideal) < mpmath.mpf(2) ** -100


@hypothesis.given(
  st.lists(
    st.lists(st.integers(1, 2**170), min_size=1, max_size=20),
    min_size=1,
    max_size=3,
  )
)
def test_thresholds_are_the_distribution_function(weights):
  table = tables.lay_out(weights)
  expected = [
    (number << 111) + (sum(law[:i]) << 111) // sum(law)
    for number, law in enumerate(weights)
    for i in range(1, len(law))
  ]
  assert _numbers(table) == expected
  starts = itertools.accumulate(
    (len(law) - 1 for law in weights[:-1]), initial=0
  )
  assert table.starts == tuple(starts)
  assert table.tv_bound == len(expected) * 2.0**-111


@hypothesis.given(
  st.lists(
    st.lists(st.integers(1, 2**40), min_size=1, max_size=20),
    min_size=1,
    max_size=3,
  )
)
def test_guide_decides_exactly_what_16_bits_decide(weights):
  table = tables.lay_out(weights)
  numbers = _numbers(table)
  assert table.guide.shape == (len(weights) << 16,)
  heads = {n >> 95 for n in numbers}
  near = {h + d for h in heads for d in (-1, 0, 1)} | {0, 1, 65535}
  for head in near & set(range(len(weights) << 16)):
    least = bisect.bisect_right(numbers, head << 95)
    most = bisect.bisect_right(numbers, ((head + 1) << 95) - 1)
    expected = tables.UNDECIDED if head in heads else least
    assert head in heads or least == most
    assert table.guide[head] == expected


def test_too_many_outcomes():
  with pytest.raises(
    ValueError, match=r'at most 65535 outcomes in all\. Found 65536\. Split'
  ):
    tables.lay_out([[1] * 65536])


@pytest.mark.parametrize('stddev', [20.0, 40.0])
def test_residual_makes_up_the_law(stddev):
  variance = Fraction(stddev) ** 2
  skellam = tables.skellam_weights(variance)
  gaussian = tables.discrete_gaussian_weights(variance)
  rest = tables.residual(skellam, gaussian)
  share = mpmath.mpf(rest.odds) / (rest.odds + 2**160)
  assert float(share) * 4 * stddev**2 == pytest.approx(1, rel=0.01)
  cuts = [0, *rest.thresholds.tolist(), 2**63]
  masses = [mpmath.mpf(b - a) / 2**63 for a, b in itertools.pairwise(cuts)]
  assert min(masses) >= 0
  mixture = {k: (1 - share) * p for k, p in _law(gaussian).items()}
  for k in range(-skellam.last, skellam.last + 1):
    part = masses[abs(k)] / (1 if k == 0 else 2)
    mixture[k] = mixture.get(k, mpmath.mpf(0)) + share * part
  distance = laws.total_variation(mixture, _law(skellam))
  assert distance <= rest.tv_bound < 2**-62


def test_wide_residual():
  """The weights of the residual stay non-negative, and its share tiny."""
  variance = Fraction(30000) ** 2
  rest = tables.residual(
    tables.skellam_weights(variance),
    tables.discrete_gaussian_weights(variance),
  )
  assert (np.diff(rest.thresholds) >= 0).all()
  assert rest.thresholds[0] >= 0
  assert rest.odds / 2**160 == pytest.approx(1 / (4 * 30000**2), rel=1e-3)
  assert rest.tv_bound < 2**-70
