# SPDX-License-Identifier: Apache-2.0
"""Conditional rounding: the bound holds always; the rest is unbiased."""

import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import tensorflow as tf

from tff_secagg_ext.mechanism import rounding

BETA = math.exp(-0.5)


def words_from(rng, size):
  """A source of uniform words that is a pure function of the attempt."""
  table = rng.integers(0, 2**32, size=(64, size), dtype=np.uint64)
  table = tf.constant(table.astype(np.uint32))
  return lambda num_words, attempt, chunk: table[attempt][:num_words]


def test_bound_is_proposition_22():
  """S = 100, d = 64, beta = exp(-1/2): s^2 + 16 + (s + 4), (s + 8)^2."""
  assert rounding.norm_bound_squared(100, 64, BETA) == 10_000 + 16 + 104
  assert rounding.norm_bound_squared(1, 1, BETA) == math.floor(1 + 0.25 + 1.5)
  assert rounding.norm_bound_squared(100, 64, 0.0) == 108**2
  assert rounding.norm_bound_squared(1, 10**6, 1e-9) <= 1001**2


@given(st.integers(1, 200), st.floats(0.1, 5000), st.integers(0, 2**32 - 1))
def test_norm_bound_holds_and_coordinates_are_neighbours(size, scale, seed):
  rng = np.random.default_rng(seed)
  vector = rng.normal(size=size)
  vector = (vector / np.linalg.norm(vector) * scale).astype(np.float32)
  bound = rounding.norm_bound_squared(scale, size, BETA)
  rounded = rounding.round_conditionally(
    tf.constant(vector), bound, words_from(rng, size)
  ).numpy()
  assert rounded.dtype == np.int32
  assert int(np.sum(rounded.astype(object) ** 2)) <= bound
  assert np.all(np.abs(rounded - vector.astype(np.float64)) <= 1)


def test_vectors_beyond_the_bound_are_rejected_to_zero():
  """A caller's mistake must not become a larger sensitivity."""
  vector = tf.fill([16], 1000.0)
  rounded = rounding.round_conditionally(
    vector, 10**6, words_from(np.random.default_rng(0), 16)
  )
  np.testing.assert_array_equal(rounded, np.zeros(16))


def test_long_vectors_are_rounded_in_chunks_with_words_of_their_own():
  size = 2**18 + 3
  seen = []

  def uniform_words(num_words, attempt, chunk):
    seen.append((num_words, int(attempt), int(chunk)))
    return tf.fill([num_words], tf.cast(chunk * 0x40004000, tf.uint32))

  rounded = rounding.round_conditionally(
    tf.fill([size], 0.2), 2 * size, uniform_words
  ).numpy()
  length = 2**17 + 2
  assert seen == [(length // 2, 0, 0), (length // 2, 0, 1)]
  expected = [1] * length + [0] * (size - length)
  np.testing.assert_array_equal(rounded, expected)


def test_when_all_attempts_fail_it_rounds_towards_zero():
  vector = tf.constant([3.5, -2.5])
  up_and_down = tf.constant([0xFFFF0000], tf.uint32)  # to 4 and -3: norm 25
  rounded = rounding.round_conditionally(vector, 24, lambda *_: up_and_down)
  np.testing.assert_array_equal(rounded, [3, -2])


def test_later_attempts_use_words_of_their_own():
  vector = tf.constant([0.5, 0.5])
  words = tf.constant([[0], [0xFFFF0000]], tf.uint32)
  rounded = rounding.round_conditionally(
    vector, 1, lambda _, i, chunk: words[i]
  )
  np.testing.assert_array_equal(rounded, [1, 0])


def test_rounding_is_unbiased():
  """False alarms: 6 standard errors, below 1e-8 over all coordinates."""
  repeats = 4000
  vector = np.array([0.1, 0.25, 0.5, 0.75, -0.3, 7.9], np.float32)
  rng = np.random.default_rng(3)
  tiled = tf.constant(np.tile(vector, repeats))
  rounded = rounding.round_conditionally(
    tiled, 10**9, words_from(rng, 6 * repeats)
  ).numpy()
  mean = rounded.reshape(repeats, 6).mean(axis=0)
  np.testing.assert_allclose(mean, vector, atol=6 * 0.5 / repeats**0.5)
  biased = vector + 0.08
  assert np.max(np.abs(mean - biased)) > 6 * 0.5 / repeats**0.5


def test_every_half_word_decides_one_coordinate():
  """Up where (half word + 1/2) / 2^16 is below the fraction."""
  rng = np.random.default_rng(9)
  words = rng.integers(0, 2**32, size=50, dtype=np.uint64).astype(np.uint32)
  vector = rng.normal(size=99).astype(np.float32) * 10
  rounded = rounding.round_conditionally(
    tf.constant(vector), 10**9, lambda *_: tf.constant(words)
  )
  floor = np.floor(vector)
  uniform = (words.view('<u2')[:99].astype(float) + 0.5) / 2**16
  np.testing.assert_array_equal(rounded, floor + (uniform < vector - floor))


def test_whole_numbers_stay():
  vector = tf.constant([3.0, -4.0, 0.0])
  rounded = rounding.round_conditionally(
    vector, 25, words_from(np.random.default_rng(0), 3)
  )
  np.testing.assert_array_equal(rounded, [3, -4, 0])


def test_squared_norms_are_exact_beyond_int32_and_over_chunks():
  size = 2**18 + 3
  vector = np.full(size, 2**20 + 1, np.int32)
  expected = size * (2**20 + 1) ** 2
  assert int(rounding.squared_norm(tf.constant(vector))) == expected


def test_first_attempts_are_accepted_as_often_as_stated():
  """At least 1 - beta = 0.39 of them; in fact about all (here at norm 1)."""
  rng = np.random.default_rng(5)
  accepted = 0
  for _ in range(50):
    vector = rng.normal(size=256)
    vector *= 30 / np.linalg.norm(vector)
    bound = rounding.norm_bound_squared(30, 256, BETA)
    floor = np.floor(vector)
    rounded = floor + (rng.random(256) < vector - floor)
    accepted += np.sum(rounded**2) <= bound
  assert accepted >= 50 * (1 - BETA)
