# SPDX-License-Identifier: Apache-2.0
"""Exposure and extraction, beside exact oracles on tiny alphabets."""

from __future__ import annotations

import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import special, stats

from tests.oracles import audit as oracle
from tff_secagg_ext.audit import exposure

# A correct test fails this seldom.
FALSE_ALARM = 1e-6


class Markov:
  """A model whose next token depends on the last two, and on the length."""

  def __init__(self, seed: int, vocabulary: int):
    shape = (5, vocabulary + 1, vocabulary + 1, vocabulary)
    logits = 2.0 * np.random.default_rng(seed).normal(size=shape)
    self._logs = special.log_softmax(logits, axis=-1)

  def __call__(self, prefixes: np.ndarray) -> np.ndarray:
    padded = np.pad(prefixes, ((0, 0), (2, 0)), constant_values=-1)
    length = prefixes.shape[1] % 5
    return self._logs[length, padded[:, -1], padded[:, -2]]

  def log_probability(
    self, prefix: tuple[int, ...], sequence: tuple[int, ...]
  ) -> float:
    whole, total = (*prefix, *sequence), 0.0
    for end in range(len(prefix), len(whole)):
      before = np.asarray([whole[:end]], dtype=int).reshape(1, end)
      total += float(self(before)[0, whole[end]])
    return total


@hypothesis.given(
  st.integers(0, 1000),
  st.integers(1, 3),
  st.lists(st.integers(0, 3), max_size=3),
)
@hypothesis.settings(max_examples=40)
def test_wide_beams_find_all_in_order(
  seed: int, length: int, prefix: list[int]
) -> None:
  model, tokens = Markov(seed, 4), [0, 2, 3]
  expected = oracle.likeliest(
    lambda s: model.log_probability(tuple(prefix), s), tokens, length
  )
  found = exposure.extract(model, prefix, length, tokens, 3**length)
  assert [tuple(s) for s in found.sequences] == [s for s, _ in expected]
  np.testing.assert_allclose(found.log_perplexities, [-p for _, p in expected])
  # As wide as is stated.
  least = exposure.extract(model, prefix, length, tokens, 3 ** (length - 1))
  np.testing.assert_array_equal(least.sequences[0], found.sequences[0])


@hypothesis.given(st.integers(0, 1000), st.integers(1, 8))
@hypothesis.settings(max_examples=30)
def test_perplexities_of_what_is_found(seed: int, width: int) -> None:
  model = Markov(seed, 4)
  found = exposure.extract(model, [1], 4, [0, 1, 2, 3], width)
  assert len(found.sequences) <= width
  np.testing.assert_allclose(
    exposure.log_perplexities(model, [1], found.sequences),
    found.log_perplexities,
  )
  assert (np.diff(found.log_perplexities) >= 0.0).all()
  best = oracle.likeliest(
    lambda s: model.log_probability((1,), s), range(4), 4
  )[0]
  assert found.log_perplexities[0] >= -best[1] - 1e-12


def test_a_memorized_secret_is_extracted() -> None:
  secret = [3, 1, 4, 1]

  def model(prefixes: np.ndarray) -> np.ndarray:
    logs = np.full((len(prefixes), 10), math.log(0.05))
    for row, prefix in zip(logs, prefixes, strict=True):
      told = len(prefix) - 2
      row[secret[told]] = math.log(0.55)
      if list(prefix[2:]) != secret[:told]:
        row[:] = math.log(0.1)
    return logs

  found = exposure.extract(model, [7, 7], 4, range(10), 3)
  assert list(found.sequences[0]) == secret
  assert found.log_perplexities[0] == pytest.approx(-4.0 * math.log(0.55))


def test_impossible_sequences_are_not_extracted() -> None:
  def model(prefixes: np.ndarray) -> np.ndarray:
    return np.tile([0.0, -math.inf, -math.inf], (len(prefixes), 1))

  found = exposure.extract(model, [], 2, [0, 1], 4)
  assert found.sequences.tolist() == [[0, 0]]
  assert exposure.extract(model, [], 2, [1, 2], 4).sequences.shape == (0, 2)


def test_exposure_by_rank_by_counting() -> None:
  found = exposure.by_rank([0.5, 1.0, 9.0], [1.0, 2.0, 3.0])
  np.testing.assert_allclose(found, [2.0, 1.0, 0.0])


def test_an_unseen_canary_is_seldom_exposed() -> None:
  """P(exposure >= x) <= 2^-x, with equality at powers of two."""
  generator = np.random.default_rng(1)
  found = np.concatenate(
    [
      exposure.by_rank(generator.normal(size=1), generator.normal(size=15))
      for _ in range(4000)
    ]
  )
  for bits in (1, 2, 3, 4):
    exposed = np.count_nonzero(found >= bits - 1e-9)
    law = stats.binom(4000, 2.0**-bits)
    assert law.ppf(FALSE_ALARM) <= exposed <= law.isf(FALSE_ALARM)


@hypothesis.given(st.floats(-12.0, 6.0), st.floats(-30.0, 30.0))
@hypothesis.settings(max_examples=20)
def test_skew_normal_tail_by_simpsons_rule(z: float, shape: float) -> None:
  law = exposure.SkewNormal(shape, 2.0, 0.5)
  assert law.log_cdf(2.0 + 0.5 * z) == pytest.approx(
    oracle.skew_normal_log_cdf(z, shape), rel=1e-5, abs=1e-5
  )


def test_skew_normal_without_skew_is_normal() -> None:
  law = exposure.SkewNormal(0.0, 0.0, 1.0)
  assert law.log_cdf(-30.0) == pytest.approx(stats.norm.logcdf(-30.0))
  assert law.log_cdf(0.0) == pytest.approx(math.log(0.5))
  assert law.log_cdf(9.0) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize('shape', [-3.0, 0.5, 4.0])
def test_fit_finds_the_law(shape: float) -> None:
  values = stats.skewnorm.rvs(
    shape, loc=100.0, scale=7.0, size=4000, random_state=2
  )
  law = exposure.SkewNormal.fit(values)
  naive = stats.skewnorm.logpdf(values, shape, 100.0, 7.0).sum()
  fitted = stats.skewnorm.logpdf(values, law.shape, law.location, law.scale)
  # Likelier than the truth, by half a chi-squared of 3 degrees: once in 10^6.
  assert -1e-6 <= fitted.sum() - naive <= stats.chi2.isf(FALSE_ALARM, 3) / 2


def test_both_exposures_agree_where_there_are_references() -> None:
  generator = np.random.default_rng(3)
  references = stats.skewnorm.rvs(2.0, size=20_000, random_state=generator)
  canaries = np.quantile(references, [0.5, 0.1, 0.01])
  np.testing.assert_allclose(
    exposure.by_skew_normal(canaries, references),
    exposure.by_rank(canaries, references),
    atol=0.25,
  )
  # Where ranks end, the fit goes on.
  [far] = exposure.by_skew_normal([-5.0], references)
  assert far > 30.0 > exposure.by_rank([-5.0], references)[0]


@pytest.mark.parametrize(
  ('references', 'message'),
  [
    (np.zeros(99), r'at least 100 for a fit. Found 99. Draw more, or use'),
    (np.zeros(100), r'`references` must differ. Found one value'),
    (np.r_[np.nan, np.zeros(99)], r'`references` must be finite. Found 1 of 1'),
  ],
)
def test_references_that_are_refused(
  references: np.ndarray, message: str
) -> None:
  with pytest.raises(ValueError, match=message):
    exposure.by_skew_normal([1.0], references)


def test_canaries_that_are_refused() -> None:
  with pytest.raises(ValueError, match='`canaries` must be finite'):
    exposure.by_rank([math.nan], [1.0])


def uniform(prefixes: np.ndarray) -> np.ndarray:
  return np.full((len(prefixes), 4), math.log(0.25))


@pytest.mark.parametrize(
  ('model', 'message'),
  [
    (lambda p: uniform(p) * math.nan, r'Found NaN. An audit of such a model'),
    (lambda p: uniform(p) + 2.0, r'sum to 1. Found .* Apply log_softmax'),
    (lambda p: uniform(p)[:, 0], r'must return the shape \[1, vocabulary\]'),
    (lambda p: uniform(p)[:0], r'Found \[0, 4\]. It gives one row'),
  ],
)
def test_models_that_are_refused(model: object, message: str) -> None:
  with pytest.raises(ValueError, match=message):
    exposure.extract(model, [], 2, [0, 1], 2)
  with pytest.raises(ValueError, match=message):
    exposure.log_perplexities(model, [], np.asarray([[0, 1]]))


@pytest.mark.parametrize(
  ('length', 'tokens', 'width', 'message'),
  [
    (0, [0], 1, '`length` must be at least 1'),
    (1, [], 1, '`tokens` must be distinct, and one at least'),
    (1, [1, 1], 1, r'`tokens` must be distinct, .* Found \[1, 1\]'),
    (1, [0], 0, '`beam_width` must be at least 1'),
    (1, [4], 1, 'tokens below the vocabulary of 4. Found 4'),
  ],
)
def test_extractions_that_are_refused(
  length: int, tokens: list[int], width: int, message: str
) -> None:
  with pytest.raises(ValueError, match=message):
    exposure.extract(uniform, [], length, tokens, width)


@pytest.mark.parametrize(
  ('sequences', 'error', 'message'),
  [
    ([[0.5]], TypeError, '`sequences` must be an array of integers'),
    ([0, 1], ValueError, r'shape \[any, any\]. Found \[2\]. Give equally'),
    ([[5]], ValueError, r'`sequences` must be tokens below .* Found 5'),
  ],
)
def test_sequences_that_are_refused(
  sequences: object, error: type, message: str
) -> None:
  with pytest.raises(error, match=message):
    exposure.log_perplexities(uniform, [], np.asarray(sequences))
