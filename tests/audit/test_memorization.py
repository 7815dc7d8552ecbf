# SPDX-License-Identifier: Apache-2.0
"""Secrets: how they are drawn and held, and what is said of who keeps them."""

from __future__ import annotations

import collections
import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import special, stats

from tff_secagg_ext.audit import memorization

# A correct test fails this seldom.
FALSE_ALARM = 1e-6
VOCABULARY = 30
TOKENS = range(3, 29)


def ignorant(prefixes: np.ndarray) -> np.ndarray:
  """A model of its own mind: the next token depends on the last one alone."""
  logits = 3.0 * np.random.default_rng(0).normal(size=(VOCABULARY, VOCABULARY))
  return special.log_softmax(logits, axis=1)[prefixes[:, -1]]


class Learned:
  """A model that goes on with secrets where it meets them."""

  def __init__(self, secrets: memorization.Secrets):
    self._next = {
      tuple(text[:end]): text[end]
      for text in secrets.texts.tolist()
      for end in range(4, len(text))
    }

  def __call__(self, prefixes: np.ndarray) -> np.ndarray:
    logits = ignorant(prefixes)
    for row, prefix in zip(logits, prefixes.tolist(), strict=True):
      if tuple(prefix) in self._next:
        row[self._next[tuple(prefix)]] += 30.0
    return special.log_softmax(logits, axis=1)


def test_an_ignorant_model_keeps_nothing():
  """Exposures at or above x have a share of 2^-x, and none is extracted."""
  secrets = memorization.Secrets.draw(60, TOKENS, 4, 5)
  found = memorization.recall(ignorant, secrets, references=1023)
  assert not found.extracted.any()
  assert found.exposures.shape == (60,)
  for bits in (1, 2):
    above = np.count_nonzero(found.exposures >= bits)
    assert above <= stats.binom(60, 2.0**-bits).isf(FALSE_ALARM)
  assert memorization.kept_nothing(found.exposures) > FALSE_ALARM
  assert np.abs(found.exposures - found.extrapolated).mean() < 0.3


def test_what_is_kept_is_exposed_and_extracted():
  secrets = memorization.Secrets.draw(3, TOKENS, 4, 5)
  found = memorization.recall(Learned(secrets), secrets, references=1023)
  assert found.extracted.all()
  np.testing.assert_allclose(found.exposures, 10.0)
  assert memorization.kept_nothing(found.exposures) < 1e-6


def test_other_secrets_than_those_kept_are_not_extracted():
  kept, other = (memorization.Secrets.draw(3, TOKENS, 4, 5) for _ in range(2))
  found = memorization.recall(Learned(kept), other, references=127)
  assert not found.extracted.any()


def test_secrets_are_uniform_tokens():
  secrets = memorization.Secrets.draw(4000, [5, 7, 11], 2, 3)
  assert secrets.texts.shape == (4000, 5)
  np.testing.assert_array_equal(secrets.texts[:, :2], secrets.prefixes)
  counts = collections.Counter(secrets.texts.ravel().tolist())
  assert set(counts) == {5, 7, 11}
  assert stats.chisquare(list(counts.values())).pvalue > FALSE_ALARM


@hypothesis.given(st.lists(st.integers(0, 4), max_size=6), st.integers(0, 9))
def test_each_secret_has_its_holders(holders: list[int], spare: int):
  owners = memorization.assign(sum(holders) + spare, holders)
  counts = collections.Counter(owners)
  assert counts.pop(-1, 0) == spare
  assert counts == {i: count for i, count in enumerate(holders) if count}


def test_holders_are_drawn_at_random():
  first = [memorization.assign(4, [1]).index(0) for _ in range(400)]
  counts = np.bincount(first, minlength=4)
  assert stats.chisquare(counts).pvalue > FALSE_ALARM


@hypothesis.given(st.lists(st.floats(0.0, 30.0), min_size=1, max_size=20))
def test_the_p_value_is_that_of_fishers_method(exposures: list[float]):
  expected = stats.combine_pvalues(2.0 ** -np.asarray(exposures), 'fisher')
  found = memorization.kept_nothing(exposures)
  assert found == pytest.approx(expected.pvalue, rel=1e-6)
  if len(exposures) == 1:
    assert found == pytest.approx(2.0 ** -exposures[0])


def test_the_p_value_holds_for_ranks():
  """P(p <= a) <= a, for exposures by rank of what nobody held."""
  generator = np.random.default_rng(1)
  exposures = 10.0 - np.log2(generator.integers(1, 1025, size=(4000, 6)))
  values = np.asarray([memorization.kept_nothing(row) for row in exposures])
  for alpha in (0.5, 0.05, 0.01):
    most = stats.binom(4000, alpha).isf(FALSE_ALARM)
    assert np.count_nonzero(values <= alpha) <= most
  assert exposures.mean() == pytest.approx(
    memorization.UNSEEN_EXPOSURE, abs=0.06
  )


def test_the_interval_is_scipys_where_there_is_one_stage():
  values = np.random.default_rng(2).exponential(size=(1, 1, 40))
  expected = stats.bootstrap(
    (values.ravel(),), np.mean, n_resamples=20_000, method='percentile'
  ).confidence_interval
  found = memorization.mean(values)
  assert found.value == pytest.approx(values.mean())
  # Six deviations of a quantile of 4,000 resamples.
  width = expected.high - expected.low
  assert found.lower == pytest.approx(expected.low, abs=0.1 * width)
  assert found.upper == pytest.approx(expected.high, abs=0.1 * width)


def test_repeats_that_differ_widen_the_interval():
  values = np.ones((4, 1, 50)) * np.arange(4)[:, None, None]
  found = memorization.mean(values)
  assert found.lower < 1.0 < 2.0 < found.upper
  alike = memorization.mean(values.mean(axis=0, keepdims=True))
  assert alike.lower == alike.upper == found.value == 1.5


def test_a_reduction_pairs_the_secrets_of_both():
  exposures = np.random.default_rng(3).exponential(size=(2, 3, 5))
  found = memorization.reduction(3.0 * exposures, exposures)
  np.testing.assert_allclose(
    [found.value, found.lower, found.upper], 3.0, rtol=1e-12
  )
  others = np.random.default_rng(4).exponential(size=(2, 3, 5))
  apart = memorization.reduction(exposures, others)
  assert apart.value == pytest.approx(exposures.mean() / others.mean())
  assert apart.lower < apart.value < apart.upper


@pytest.mark.parametrize(
  ['arguments', 'message'],
  [
    ((0, TOKENS, 4, 5), '`count` must be at least 1'),
    ((1, TOKENS, -1, 5), '`prefix_length` must be at least 0'),
    ((1, TOKENS, 4, 0), '`length` must be at least 1'),
    ((1, [1, 1, 2], 4, 5), r'`tokens` must be distinct, .* Found \[1, 1, 2\]'),
    ((1, [1], 4, 5), '`tokens` must be distinct, and two at least'),
  ],
)
def test_secrets_that_are_refused(arguments: tuple, message: str):
  with pytest.raises(ValueError, match=message):
    memorization.Secrets.draw(*arguments)


def test_more_holders_than_clients_are_refused():
  with pytest.raises(
    ValueError, match=r'at most the 5 clients. Found 6. Plant'
  ):
    memorization.assign(5, [2, 4])


def test_a_model_that_gives_nan_is_refused():
  secrets = memorization.Secrets.draw(1, TOKENS, 4, 5)
  with pytest.raises(ValueError, match=r'Found NaN. An audit of such a model'):
    memorization.recall(lambda p: ignorant(p) * math.nan, secrets)


@pytest.mark.parametrize(
  ['without', 'private', 'message'],
  [
    (np.ones((1, 2)), np.ones((1, 2)), r'`without` must have the shape'),
    (np.ones((1, 2, 3)), np.ones((1, 2, 2)), r'`private` must have the shape'),
    (np.ones((1, 1, 1)), np.zeros((1, 1, 1)), 'there is no ratio. Plant more'),
    (np.full((1, 1, 1), math.nan), np.ones((1, 1, 1)), 'must be finite'),
  ],
)
def test_exposures_that_are_refused(without, private, message: str):
  with pytest.raises(ValueError, match=message):
    memorization.reduction(without, private)
