# SPDX-License-Identifier: Apache-2.0
"""Tests of the samplers: the laws of their tables, and every draw from them."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
import itertools
import math

from cryptography.hazmat.primitives import ciphers
from cryptography.hazmat.primitives.ciphers import algorithms
import mpmath
import numpy as np
import pytest
from scipy import special, stats
import tensorflow as tf

from tests.oracles import laws
from tff_secagg_ext import _tables as tables
from tff_secagg_ext._compat import tff
from tff_secagg_ext.mechanism import noise, random

_FALSE_ALARM = 1e-6
_BOTH = (noise.discrete_gaussian, noise.skellam)


def _stream(seed: int) -> random.Stream:
  words = np.random.default_rng(seed).integers(0, 2**32, 8, np.uint32)
  return random.split(tf.constant(words), 1)[0]


def _draw(sampler: noise.Sampler, seed: int, size: int) -> np.ndarray:
  stream = _stream(seed)
  compiled = tf.function(lambda: sampler.sample(stream, size), autograph=False)
  return compiled().numpy()


def _small_mixture(stddev: float) -> noise.Sampler:
  """A Skellam sampler as above the single-table range, where it is rare."""
  variance = Fraction(stddev) ** 2
  weights = tables.skellam_weights(variance)
  similar = tables.discrete_gaussian_weights(variance)
  rest = tables.residual(weights, similar)
  sampler = noise._sum_of_two(stddev, variance, rest)
  bound = sampler.tv_bound + weights.tv_bound + similar.tv_bound
  return dataclasses.replace(sampler, tv_bound=bound + rest.tv_bound)


def _small_sum(stddev: float) -> noise.Sampler:
  return noise._sum_of_two(stddev, Fraction(stddev) ** 2, None)


# The law of a sampler, from its integers, without drawing.


def _numbers(table: tables.Table) -> list[int]:
  pairs = zip(table.high.tolist(), table.low.tolist(), strict=True)
  return [(high << 63) + low for high, low in pairs]


def _laws_of_table(sampler: noise.Sampler) -> list[laws.Probabilities]:
  """The exact law of each position in the sampler's table."""
  numbers = _numbers(sampler.table)
  found = []
  for law, start in enumerate(sampler.table.starts):
    cuts = [n - (law << 111) for n in numbers if n >> 111 == law]
    edges = [0, *cuts, 2**111]
    found.append(
      {
        start + i: mpmath.mpf(b - a) / 2**111
        for i, (a, b) in enumerate(itertools.pairwise(edges))
      }
    )
  return found


def _law_of_sampler(sampler: noise.Sampler) -> laws.Probabilities:
  first, *second = _laws_of_table(sampler)
  share = mpmath.mpf(0)
  if sampler.residual is not None:
    share = first.pop(sampler.table.starts[1])
  law = first
  if second:
    law = laws.scaled_sum(first, second[0], sampler.factors[1])
  law = {k - sampler.centre: p for k, p in law.items()}
  if sampler.residual is not None:
    cuts = [0, *sampler.residual.thresholds.tolist(), 2**63]
    for k, (a, b) in enumerate(itertools.pairwise(cuts)):
      for outcome in (-k, k):
        mass = share * (b - a) / 2**64
        law[outcome] = law.get(outcome, mpmath.mpf(0)) + mass
  return law


@pytest.mark.parametrize('make', _BOTH)
@pytest.mark.parametrize('stddev', [0.5, 1.0, 3.7, 25.0])
def test_a_single_table_is_within_tv_bound(make, stddev):
  sampler = make(stddev)
  oracle = laws.skellam if make is noise.skellam else laws.discrete_gaussian
  law = _law_of_sampler(sampler)
  ideal = oracle(mpmath.mpf(stddev) ** 2, max(law))
  assert laws.total_variation(law, ideal) <= sampler.tv_bound <= 2**-60


@pytest.mark.parametrize('stddev', [20.5, 100.0])
def test_a_sum_of_two_is_within_tv_bound(stddev):
  sampler = _small_sum(stddev)
  law = _law_of_sampler(sampler)
  ideal = laws.discrete_gaussian(mpmath.mpf(stddev) ** 2, max(law))
  assert laws.total_variation(law, ideal) <= sampler.tv_bound <= 2**-60


def test_a_mixture_is_within_tv_bound():
  sampler = _small_mixture(20.5)
  law = _law_of_sampler(sampler)
  ideal = laws.skellam(mpmath.mpf(20.5) ** 2, max(law))
  assert laws.total_variation(law, ideal) <= sampler.tv_bound <= 2**-60


@pytest.mark.parametrize('stddev', [3000.5, 12345.678, 1e5])
def test_wide_samplers_state_their_distance(stddev):
  m, first, second = noise._pair(Fraction(stddev) ** 2)
  assert first + m**2 * second == Fraction(stddev) ** 2
  v = first * second / Fraction(stddev) ** 2
  assert 4 * math.exp(-2 * math.pi**2 * float(v)) < 2**-69
  sampler = noise.discrete_gaussian(stddev)
  assert 2**-66 < sampler.tv_bound <= 2**-60
  assert sampler.stddev == stddev


@pytest.mark.parametrize('stddev', [3000.5, 10000.0])
def test_wide_skellam_states_its_distance(stddev):
  sampler = noise.skellam(stddev)
  assert noise.discrete_gaussian(stddev).tv_bound < sampler.tv_bound <= 2**-60


# Draws, one by one.


def _oracle_words(seed: int, chunk: int, part: int, count: int) -> list[int]:
  stream = _stream(seed)
  start = np.array([0, 0, chunk, part], '<u4').tobytes()
  key = stream.key.numpy().astype('<u4').tobytes()
  cipher = ciphers.Cipher(algorithms.ChaCha20(key, start), None)
  stream = cipher.encryptor().update(bytes(4 * count))
  return np.frombuffer(stream, '<u4').tolist()


def _oracle_invert(seed, chunk, size, ideal_laws) -> list[list[int]]:
  count = size * len(ideal_laws)
  words = _oracle_words(seed, chunk, 0, (count + 1) // 2)
  heads = [half for w in words for half in (w & 0xFFFF, w >> 16)][:count]
  outcomes = laws.invert(
    ideal_laws, heads, lambda part, n: _oracle_words(seed, chunk, part, n)
  )
  return [outcomes[i : i + size] for i in range(0, count, size)]


@pytest.mark.parametrize('make', _BOTH)
@pytest.mark.parametrize('stddev', [0.5, 1.0, 10.0, 40.0])
def test_draws_are_those_of_the_naive_oracle(make, stddev):
  sampler = make(stddev)
  oracle = laws.skellam if make is noise.skellam else laws.discrete_gaussian
  ideal = oracle(mpmath.mpf(stddev) ** 2, sampler.centre)
  (expected,) = _oracle_invert(1, 0, 5001, [ideal])
  np.testing.assert_array_equal(_draw(sampler, 1, 5001), expected)


def test_draws_of_the_widest_single_table_are_those_of_the_oracle():
  """One draw in 5 takes more than 16 bits here."""
  sampler = noise.discrete_gaussian(3000)
  ideal = laws.discrete_gaussian(3000**2, sampler.centre)
  (expected,) = _oracle_invert(2, 0, 5000, [ideal])
  np.testing.assert_array_equal(_draw(sampler, 2, 5000), expected)


@pytest.mark.parametrize('stddev', [3000.5, 54321.0])
def test_draws_of_a_sum_are_those_of_the_oracle(stddev):
  m, first, second = noise._pair(Fraction(stddev) ** 2)
  ideal = [
    laws.discrete_gaussian(
      mpmath.mpf(v.numerator) / v.denominator,
      tables.discrete_gaussian_weights(v).last,
    )
    for v in (first, second)
  ]
  near, far = _oracle_invert(3, 0, 5000, ideal)
  expected = [x + m * y for x, y in zip(near, far, strict=True)]
  draws = _draw(noise.discrete_gaussian(stddev), 3, 5000)
  np.testing.assert_array_equal(draws, expected)


def test_draws_of_a_mixture_are_those_of_the_oracle():
  """At so small a stddev the residual is drawn 3 times in 10,000 draws."""
  stddev, size = 30.0, 20000
  sampler = _small_mixture(stddev)
  m, *variances = noise._pair(Fraction(stddev) ** 2)
  near, far = (
    laws.discrete_gaussian(
      mpmath.mpf(v.numerator) / v.denominator,
      tables.discrete_gaussian_weights(v).last,
    )
    for v in variances
  )
  share = mpmath.mpf(sampler.residual.odds)
  share /= share + 2**160
  past = max(near) + 1
  near = {k: (1 - share) * p for k, p in near.items()} | {past: share}
  xs, ys = _oracle_invert(4, 0, size, [near, far])
  expected = [x + m * y for x, y in zip(xs, ys, strict=True)]
  rare = [i for i, x in enumerate(xs) if x == past]
  assert len(rare) > 2
  skellam = laws.skellam(stddev**2, len(sampler.residual.thresholds))
  gaussian = laws.discrete_gaussian(stddev**2, max(skellam))
  left = [(skellam[k] - (1 - share) * gaussian[k]) / share for k in skellam]
  left = left[max(skellam) :]
  sums = list(itertools.accumulate([left[0], *(2 * p for p in left[1:])]))
  words = _oracle_words(4, 0, 3, 2 * len(rare))
  for i, low, high in zip(rare, words[::2], words[1::2], strict=True):
    u = mpmath.mpf(low | (high & 0x7FFFFFFF) << 32) / 2**63
    magnitude = sum(s <= u for s in sums)
    expected[i] = -magnitude if high >> 31 else magnitude
  np.testing.assert_array_equal(_draw(sampler, 4, size), expected)


def test_chunks_are_independent_draws(monkeypatch):
  monkeypatch.setattr(noise, '_CHUNK', 1000)
  sampler = noise.discrete_gaussian(10)
  ideal = laws.discrete_gaussian(100, sampler.centre)
  draws = _draw(sampler, 5, 2501)
  expected = [
    x for chunk in range(3) for x in _oracle_invert(5, chunk, 834, [ideal])[0]
  ]
  np.testing.assert_array_equal(draws, expected[:2501])


class _Given:
  """A stream that gives one list of words, whatever it is asked for."""

  def __init__(self, words: np.ndarray):
    self._words = tf.constant(words, tf.uint32)

  def words(self, num_words, index, part) -> tf.Tensor:
    del index, part
    return tf.ensure_shape(self._words[:num_words], self._words.shape)


def test_last_bits_decide_ties_exactly():
  """At and beside every threshold, ties with several thresholds included."""
  weights = [[5, 1, 2**120, 7, 1, 2**121, 3], [1, 2**130, 2**30, 2**30, 1]]
  table = tables.lay_out(weights)
  sampler = noise.Sampler(1.0, 0.0, table, (1, 1), 0)
  numbers = _numbers(table)
  assert len(np.unique(table.high)) < len(numbers)
  probes = [n + d for n in numbers for d in (-1, 0, 1)] + [0, 2**112 - 1]
  ties = [p for p in probes if p >> 63 in table.high]
  low = np.array([p & (2**63 - 1) for p in ties], np.int64)
  found = sampler._search(
    _Given(low.view(np.uint32)),
    tf.constant(0),
    tf.constant([p >> 63 for p in probes], tf.int64),
  )
  expected = [sum(n <= probe for n in numbers) for probe in probes]
  np.testing.assert_array_equal(found, expected)


# Statistics.


def _pmf(kind, stddev: float, outcomes: np.ndarray) -> np.ndarray:
  # Above that, the two differ by less than 1e-6, and `ive` is out of range.
  if kind is noise.skellam and stddev < 1000:
    return special.ive(np.abs(outcomes), stddev**2)
  weights = np.exp(-(outcomes**2) / (2 * stddev**2))
  return weights / weights.sum()


def _fits(draws: np.ndarray, kind, stddev: float) -> bool:
  """A chi-square test at a false-alarm rate of 1e-6, 5 expected a bin."""
  reach = math.ceil(12 * stddev + 20)
  outcomes = np.arange(-reach, reach + 1)
  expected = _pmf(kind, stddev, outcomes.astype(float)) * len(draws)
  counts = np.bincount(draws + reach, minlength=2 * reach + 1)
  bins = np.floor(np.cumsum(expected) / max(5, len(draws) / 2000))
  starts = np.flatnonzero(np.diff(bins, prepend=-1))
  if expected[starts[-1] :].sum() < 5:
    starts = starts[:-1]
  merged = np.add.reduceat(expected, starts)
  merged *= len(draws) / merged.sum()
  statistic = ((np.add.reduceat(counts, starts) - merged) ** 2 / merged).sum()
  return stats.chi2.sf(statistic, len(starts) - 1) > _FALSE_ALARM


@pytest.mark.parametrize('kind', _BOTH)
@pytest.mark.parametrize('stddev', [0.5, 2.0, 10.0, 300.0, 2000.0, 40000.0])
def test_draws_fit_their_law_and_no_other(kind, stddev):
  draws = _draw(kind(stddev), 6, 200_000)
  assert _fits(draws, kind, stddev)
  assert not _fits(draws, kind, 0.9 * stddev)
  assert not _fits(draws, kind, 1.1 * stddev)


def test_draws_tell_the_two_laws_apart():
  draws = _draw(noise.skellam(2), 7, 200_000)
  assert not _fits(draws, noise.discrete_gaussian, 2.0)


@pytest.mark.parametrize('kind', _BOTH)
def test_tails_are_drawn(kind):
  """P(|X| >= 4) at stddev 1: the count is within 6 deviations, rate 2e-9."""
  outcomes = np.arange(-40, 41)
  tail = _pmf(kind, 1.0, outcomes.astype(float))[np.abs(outcomes) >= 4].sum()
  draws = _draw(kind(1), 8, 1_000_000)
  count = np.count_nonzero(np.abs(draws) >= 4)
  expected = 1_000_000 * tail
  assert expected > 100
  assert abs(count - expected) < 6 * math.sqrt(expected)


# How it runs.


@pytest.mark.parametrize('kind', _BOTH)
@pytest.mark.parametrize('size', [0, 1, 1000, noise._CHUNK, noise._CHUNK + 1])
def test_shape_and_type(kind, size):
  sampler, stream = kind(3500), _stream(9)
  compiled = tf.function(lambda: sampler.sample(stream, size), autograph=False)
  assert compiled.get_concrete_function().output_shapes == (size,)
  draws = compiled()
  assert draws.shape == (size,)
  assert draws.dtype == tf.int32


def test_eager_graph_and_converted_draws_agree():
  sampler, stream = noise.discrete_gaussian(100), _stream(10)
  eager = sampler.sample(stream, 1000)
  for autograph in (False, True):
    compiled = tf.function(
      lambda: sampler.sample(stream, 1000), autograph=autograph
    )
    np.testing.assert_array_equal(compiled(), eager)


@pytest.mark.parametrize('kind', _BOTH)
def test_draws_in_a_tff_worker(kind):
  sampler = kind(3500.0)
  key = np.arange(8, dtype=np.uint32)

  @tff.tensorflow.computation
  def draw():
    return sampler.sample(random.split(tf.constant(key), 1)[0], 3000)

  expected = sampler.sample(random.split(tf.constant(key), 1)[0], 3000)
  np.testing.assert_array_equal(draw(), expected)


def test_fresh_draws_in_a_tff_worker():
  sampler = noise.discrete_gaussian(1000)

  @tff.tensorflow.computation
  def draw():
    return sampler.sample(random.fresh_streams(1)[0], 1000)

  first, second = draw(), draw()
  # Two draws agree by chance in fewer than 1 place in 1000.
  assert np.count_nonzero(np.equal(first, second)) < 20


def test_no_random_op_of_tensorflow_takes_part():
  sampler = noise.skellam(3500)
  compiled = tf.function(
    lambda: sampler.sample(random.fresh_streams(1)[0], 2**20), autograph=False
  )
  graph = compiled.get_concrete_function().graph.as_graph_def()
  nodes = [graph.node, *(f.node_def for f in graph.library.function)]
  kinds = {node.op for part in nodes for node in part}
  assert 'TextLineDataset' in kinds
  assert not [kind for kind in kinds if 'andom' in kind]


def test_samplers_are_made_once():
  assert noise.discrete_gaussian(12.5) is noise.discrete_gaussian(12.5)
  assert noise.skellam(12.5) is noise.skellam(12.5)


@pytest.mark.parametrize('make', _BOTH)
@pytest.mark.parametrize('stddev', [0.0, 0.49, 1.0001e5, -1.0])
def test_stddev_outside_the_range(make, stddev):
  with pytest.raises(
    ValueError, match=r'`stddev` must be in \[0.5, 100000\].*change the scale'
  ):
    make(stddev)


@pytest.mark.parametrize('make', _BOTH)
def test_bad_stddev(make):
  with pytest.raises(ValueError, match=r'`stddev` must be finite\. Found nan'):
    make(math.nan)
  with pytest.raises(TypeError, match=r"`stddev` must be a real number.*'3'"):
    make('3')


def test_bad_size():
  with pytest.raises(ValueError, match=r'`size` must be at least 0\. Found -1'):
    noise.discrete_gaussian(3).sample(_stream(0), -1)
