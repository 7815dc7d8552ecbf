# SPDX-License-Identifier: Apache-2.0
"""Canary directions: their law, and that the fast cosines are theirs."""

from __future__ import annotations

import hashlib

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import linalg, stats

from tff_secagg_ext.audit import canaries

# A correct test fails this seldom.
FALSE_ALARM = 1e-6
SEED = bytes(range(32))


def seeds(number: int) -> list[bytes]:
  return [
    hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(number)
  ]


def all_directions(drawn: canaries.Canaries) -> np.ndarray:
  return np.asarray(list(drawn.directions(range(drawn.count))))


@hypothesis.given(st.integers(1, 90), st.integers(0, 2**32), st.data())
@hypothesis.settings(max_examples=30)
def test_cosines_one_by_one(count: int, seed: int, data: st.DataObject) -> None:
  dimension = data.draw(st.integers(count + 1, 300))
  drawn = canaries.Canaries(
    hashlib.sha256(str(seed).encode()).digest(), count, dimension
  )
  releases = np.random.default_rng(seed).normal(size=(2, dimension))
  directions = all_directions(drawn)
  expected = [[c @ u / np.linalg.norm(u) for c in directions] for u in releases]
  found = drawn.cosines(releases)
  np.testing.assert_allclose(found.values, expected, atol=1e-12)
  np.testing.assert_allclose(drawn.total(), directions.sum(0), atol=1e-12)
  assert found.sum_norm == pytest.approx(np.linalg.norm(directions.sum(0)))
  assert found.dimension == dimension


def test_cosines_over_several_blocks_and_families() -> None:
  dimension = canaries._BLOCK * 2 + 77
  drawn = canaries.Canaries(SEED, 9, dimension)
  release = np.random.default_rng(0).normal(size=(1, dimension))
  expected = all_directions(drawn) @ release[0] / np.linalg.norm(release)
  np.testing.assert_allclose(drawn.cosines(release).values[0], expected)
  np.testing.assert_allclose(
    np.linalg.norm(all_directions(drawn), axis=1), 1.0, rtol=1e-12
  )


def test_some_directions_are_those_of_all() -> None:
  drawn = canaries.Canaries(SEED, 30, 100)
  asked = [3, 15, 16, 29]
  np.testing.assert_array_equal(
    list(drawn.directions(asked)), all_directions(drawn)[asked]
  )


@pytest.mark.parametrize('order', [1, 4, 16, 64, 256, 1024])
def test_bent_signs_are_an_eigenvector(order: int) -> None:
  signs = canaries._bent_signs(order)
  assert set(np.abs(signs)) == {1.0}
  np.testing.assert_array_equal(
    linalg.hadamard(order) @ signs, np.sqrt(order) * signs
  )


@pytest.mark.parametrize('count', [1, 4, 64, 1024])
def test_a_power_of_four_has_a_sum_of_exact_norm(count: int) -> None:
  drawn = canaries.Canaries(SEED, count, 2000)
  release = np.ones((1, 2000))
  assert drawn.cosines(release).sum_norm == pytest.approx(np.sqrt(count))


def test_nearly_orthogonal() -> None:
  directions = all_directions(canaries.Canaries(SEED, 64, 100_000))
  products = directions @ directions.T - np.eye(64)
  deviations = products[np.triu_indices(64, 1)] / np.sqrt(2.0 / 100_000)
  # 2,016 of them, each nearly normal.
  assert np.abs(deviations).max() < stats.norm.isf(FALSE_ALARM / 2016 / 2)
  assert 0.8 < deviations.std() < 1.2


# A release that is as concentrated as can be, one that is spread, and one that
# repeats with the period of Hadamard's matrix.
RELEASES = {
  'one coordinate': np.eye(24)[5],
  'all equal': np.ones(24),
  'few': np.r_[3.0, -1.0, np.zeros(21), 2.0],
}


@pytest.mark.parametrize('release', RELEASES.values(), ids=RELEASES)
@pytest.mark.parametrize('index', [0, 6, None])
def test_cosines_have_the_beta_law(
  release: np.ndarray, index: int | None
) -> None:
  """Of a canary, and of the sum (None), for releases of every shape.

  Kolmogorov and Smirnov over 4,000 seeds; fails once in 10^6. A dimension of
  23 instead of 24 would not be told apart, but one of 16 is.
  """
  sums, alone = [], []
  for seed in seeds(4000):
    found = canaries.Canaries(seed, 16, 24).cosines(release[None])
    alone.append(found.values[0, index or 0])
    sums.append(found.values[0].sum() / found.sum_norm)
  sample = (1.0 + np.asarray(sums if index is None else alone)) / 2.0
  assert stats.kstest(sample, stats.beta(11.5, 11.5).cdf).pvalue > FALSE_ALARM
  assert stats.kstest(sample, stats.beta(7.5, 7.5).cdf).pvalue < FALSE_ALARM


def test_sum_of_several_families_has_the_beta_law() -> None:
  """21 canaries are families of 16, 4 and 1."""
  sums = []
  for seed in seeds(4000):
    found = canaries.Canaries(seed, 21, 24).cosines(np.eye(24)[:1])
    sums.append((1.0 + found.values[0].sum() / found.sum_norm) / 2.0)
  assert stats.kstest(sums, stats.beta(11.5, 11.5).cdf).pvalue > FALSE_ALARM


def test_two_canaries_are_uncorrelated_along_every_vector() -> None:
  """16 families' worth of seeds, one coordinate: fails once in 10^6."""
  products = []
  for seed in seeds(4000):
    cosines = canaries.Canaries(seed, 4, 8).cosines(np.eye(8)[:1]).values[0]
    products.append(cosines[0] * cosines[3])
  deviation = np.mean(products) / (np.std(products) / np.sqrt(4000))
  assert abs(deviation) < stats.norm.isf(FALSE_ALARM / 2)


def test_scale_of_a_release_does_not_matter() -> None:
  drawn = canaries.Canaries(SEED, 5, 50)
  release = np.random.default_rng(1).normal(size=(1, 50))
  np.testing.assert_allclose(
    drawn.cosines(release).values, drawn.cosines(1e-3 * release).values
  )


def test_directions_are_the_format() -> None:
  """A canary of an old run is regenerated by every later version."""
  found = next(canaries.Canaries(SEED, 4, 5).directions([1]))
  np.testing.assert_allclose(found, FORMAT, rtol=1e-9)


FORMAT = [
  0.5182920737684323,
  0.3277138960428323,
  -0.33975763961802374,
  0.07074809065449832,
  0.7096029753314014,
]


def test_seeds_are_new() -> None:
  one, other = canaries.Canaries.draw(2, 9), canaries.Canaries.draw(2, 9)
  assert one.seed != other.seed


def test_integers_are_real_numbers() -> None:
  drawn = canaries.Canaries(SEED, 2, 4)
  np.testing.assert_array_equal(
    drawn.cosines([[1, 2, 3, 4]]).values, drawn.cosines([[1.0, 2, 3, 4]]).values
  )


@pytest.mark.parametrize(
  ('releases', 'message'),
  [
    (np.ones((1, 5)), r'shape \[any, 4\]. Found \[1, 5\]. Flatten each'),
    (np.ones(4), r'shape \[any, 4\]. Found \[4\]'),
    (np.ones((0, 4)), r'shape \[any, 4\]. Found \[0, 4\]'),
    ([[1.0, np.nan, 0.0, 0.0]], r'`releases` must be finite. Found 1 of 4'),
    ([[1.0] * 4, [0.0] * 4], r'must not be zero. Found release 1.*Leave out'),
  ],
)
def test_releases_that_are_refused(releases: np.ndarray, message: str) -> None:
  with pytest.raises(ValueError, match=message):
    canaries.Canaries(SEED, 2, 4).cosines(releases)


def test_releases_are_real() -> None:
  with pytest.raises(
    TypeError, match=r'array of real numbers. Found the dtype'
  ):
    canaries.Canaries(SEED, 2, 4).cosines(np.ones((1, 4), complex))


@pytest.mark.parametrize(
  ('seed', 'count', 'dimension', 'error', 'message'),
  [
    ('text', 1, 4, TypeError, '`seed` must be bytes'),
    (
      b'short',
      1,
      4,
      ValueError,
      'must have 32 bytes. Found 5. Use `Canaries.d',
    ),
    (SEED, 0, 4, ValueError, '`count` must be at least 1'),
    (SEED, 4, 4, ValueError, '`count` must be at most 3. Found 4. Take fewer'),
    (SEED, 1, 1, ValueError, '`dimension` must be at least 2'),
    (SEED, 1, 4.0, TypeError, '`dimension` must be an integer'),
  ],
)
def test_canaries_that_are_refused(
  seed: bytes, count: int, dimension: int, error: type, message: str
) -> None:
  with pytest.raises(error, match=message):
    canaries.Canaries(seed, count, dimension)


@pytest.mark.parametrize('index', [-1, 3])
def test_no_such_canary(index: int) -> None:
  with pytest.raises(ValueError, match='`index` must be at'):
    next(canaries.Canaries(SEED, 3, 4).directions([index]))


@pytest.mark.parametrize(
  ('values', 'dimension', 'sum_norm', 'message'),
  [
    (
      np.zeros(2),
      10,
      1.0,
      r'`cosines` must have the shape \[any, any\]. Found',
    ),
    (
      np.full((1, 2), np.nan),
      10,
      1.0,
      r'`cosines` must be finite. Found 2 of 2',
    ),
    (np.full((1, 2), 2.0), 10, 1.0, r'in \[-1, 1\]. Found 2.0. Take those of'),
    (np.zeros((1, 2)), 1, 1.0, r'`dimension` must be at least 2'),
    (np.zeros((1, 2)), 10, 0.0, r'`sum_norm` must be in \(0'),
  ],
)
def test_cosines_that_are_refused(
  values: np.ndarray, dimension: int, sum_norm: float, message: str
) -> None:
  with pytest.raises(ValueError, match=message):
    canaries.Cosines(values, dimension, sum_norm)
