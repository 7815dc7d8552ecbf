# SPDX-License-Identifier: Apache-2.0
"""Bounding: what a client's vector may become, and what its bits say."""

import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf

from tff_secagg_ext.mechanism import norms

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)


def bound(vector, clip_norm=1.0, quantile=None):
  return norms.bound(
    tf.constant(vector, tf.float32, shape=[len(vector)]),
    tf.constant(clip_norm, tf.float32),
    None if quantile is None else tf.constant(quantile, tf.float32),
  )


@given(
  st.lists(FLOATS, max_size=8),
  st.floats(1e-6, 1e6),
  st.one_of(st.none(), st.floats(1e-6, 1e6)),
)
def test_norm_is_at_most_one_whatever_the_vector_is(vector, clip, quantile):
  bounded = bound(vector, clip, quantile).vector.numpy()
  assert np.linalg.norm(bounded.astype(np.float64)) <= 1 + 1e-6


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('quantile', [None, 10.0])
def test_vectors_that_are_not_finite_are_zeroed(bad, quantile):
  bounded = bound([1.0, bad, 2.0], quantile=quantile)
  np.testing.assert_array_equal(bounded.vector, np.zeros(3))
  assert not bounded.below_zeroing_quantile
  assert bounded.below_clip_norm


def test_vectors_above_the_zeroing_threshold_are_zeroed():
  assert norms.zeroing_threshold(tf.constant(3.0)) == 7.0
  np.testing.assert_array_equal(bound([7.5, 0], 1e9, 3.0).vector, [0, 0])
  kept = bound([-7.0, 0], 1.0, 3.0)
  np.testing.assert_allclose(kept.vector, [-1, 0])
  assert not kept.below_zeroing_quantile
  assert bound([3.0, 0], 1.0, 3.0).below_zeroing_quantile


def test_clipping_keeps_the_direction():
  long = bound([3.0, 4.0], 2.5)
  np.testing.assert_allclose(long.vector, [0.6, 0.8], rtol=1e-6)
  assert not long.below_clip_norm
  short = bound([0.3, 0.4], 2.5)
  np.testing.assert_allclose(short.vector, [0.12, 0.16], rtol=1e-6)
  assert short.below_clip_norm


def test_norms_beyond_float32_are_clipped_all_the_same():
  clipped = bound([3e38, -3e38], 1.0).vector
  np.testing.assert_allclose(clipped, [0.5**0.5, -(0.5**0.5)], rtol=1e-5)


def test_tiny_vectors_survive():
  small = bound([1e-30, 0.0], 1e-30).vector
  np.testing.assert_allclose(small, [1.0, 0.0], rtol=1e-5)


@pytest.mark.parametrize('num_bits', [0, 1, 2])
def test_bits_are_read_back_from_a_sum(num_bits):
  rng = np.random.default_rng(0)
  total, vectors, votes = 0.0, np.zeros(5), np.zeros(num_bits)
  for _ in range(7):
    vector = rng.normal(size=5)
    vector /= np.linalg.norm(vector)
    bits = rng.integers(0, 2, size=num_bits)
    sent = norms.append_bits(
      tf.constant(vector, tf.float32), [tf.constant(bool(b)) for b in bits]
    )
    assert np.linalg.norm(sent) <= 1 + 1e-6
    total, vectors, votes = total + sent, vectors + vector, votes + 2 * bits - 1
  vector, read = norms.split_bits(total, num_bits)
  np.testing.assert_allclose(vector, vectors, atol=1e-5)
  np.testing.assert_allclose(read, votes, atol=1e-4)


@pytest.mark.parametrize('target', [0.5, 0.9, 0.98])
def test_geometric_updates_converge_to_the_quantile_of_skewed_data(target):
  rng = np.random.default_rng(1)
  rule = norms.QuantileRule(initial=10.0, target=target, learning_rate=0.2)
  estimate, last = tf.constant(rule.initial), []
  for step in range(400):
    sample = rng.lognormal(sigma=1.5, size=100)
    noised = np.mean(np.where(sample <= estimate, 1, -1)) + rng.normal() * 0.05
    estimate = rule.update(estimate, tf.constant(noised, tf.float32))
    if step >= 200:
      last.append(float(estimate))
  quantile = np.mean(rng.lognormal(sigma=1.5, size=10**6) <= np.median(last))
  assert quantile == pytest.approx(target, abs=0.03)


def test_one_update_by_hand():
  """exp(-0.2 (0.75 - 0.5)) for three of four below."""
  rule = norms.QuantileRule(1.0, 0.5, 0.2)
  updated = rule.update(tf.constant(2.0), tf.constant(0.5))
  assert float(updated) == pytest.approx(2 * math.exp(-0.05))


@pytest.mark.parametrize('votes', [1e9, -1e9, 3.4e38])
def test_wrapped_votes_move_an_estimate_by_one_step_at_most(votes):
  updated = norms.ZEROING_RULE.update(tf.constant(1.0), tf.constant(votes))
  assert 0.1 - 1e-6 <= float(updated) <= 10 + 1e-5


def test_estimates_neither_vanish_nor_overflow():
  estimate = tf.constant(1.0)
  for _ in range(100):
    estimate = norms.ZEROING_RULE.update(estimate, tf.constant(-1.0))
  assert 0 < float(estimate) <= 2.0**60
  assert 1 / float(estimate) > 0
