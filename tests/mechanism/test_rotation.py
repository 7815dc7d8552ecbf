# SPDX-License-Identifier: Apache-2.0
"""Rotations: orthogonal, seeded, invertible, and spreading."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf

from tff_secagg_ext.mechanism import rotation

KINDS = sorted(rotation.ROTATIONS)


def rotated(kind, vector, seed=7, round_number=0, inverse=False):
  chosen = rotation.ROTATIONS[kind]
  function = chosen.inverse if inverse else chosen.forward
  return function(
    tf.constant(vector, tf.float32),
    tf.constant(seed, tf.int64),
    tf.constant(round_number, tf.int32),
  ).numpy()


def naive_walsh_hadamard(vector):
  """By the definition: sum over j of (-1)^(bits that i and j share) x_j."""
  size = len(vector)
  signs = [
    [(-1) ** bin(i & j).count('1') for j in range(size)] for i in range(size)
  ]
  return np.array(signs) @ vector / np.sqrt(size)


@pytest.mark.parametrize('log2', range(11))
def test_walsh_hadamard_is_the_definition(log2):
  vector = np.random.default_rng(0).normal(size=2**log2)
  result = rotation.walsh_hadamard(tf.constant(vector, tf.float32))
  np.testing.assert_allclose(result, naive_walsh_hadamard(vector), atol=1e-5)


@pytest.mark.parametrize(
  ['kind', 'dimension', 'padded'],
  [
    ('hd', 1, 1),
    ('hd', 2, 2),
    ('hd', 3, 4),
    ('hd', 1024, 1024),
    ('hd', 1025, 2048),
    ('dft', 1, 2),
    ('dft', 2, 2),
    ('dft', 3, 4),
    ('dft', 1025, 1026),
  ],
)
def test_padding(kind, dimension, padded):
  assert rotation.ROTATIONS[kind].padded(dimension) == padded


@given(
  st.sampled_from(KINDS),
  st.integers(1, 300),
  st.integers(-(2**63), 2**63 - 1),
  st.integers(0, 2**31 - 1),
)
def test_norm_is_kept_and_inverse_undoes(kind, dimension, seed, round_number):
  padded = rotation.ROTATIONS[kind].padded(dimension)
  vector = np.random.default_rng(dimension).normal(size=padded)
  forward = rotated(kind, vector, seed, round_number)
  assert np.linalg.norm(forward) == pytest.approx(
    np.linalg.norm(vector), rel=1e-5
  )
  back = rotated(kind, forward, seed, round_number, inverse=True)
  np.testing.assert_allclose(back, vector, atol=1e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_seed_and_round_change_the_rotation_and_nothing_else_does(kind):
  vector = np.ones(64)
  first = rotated(kind, vector)
  np.testing.assert_array_equal(first, rotated(kind, vector))
  assert np.max(np.abs(first - rotated(kind, vector, seed=8))) > 0.1
  assert np.max(np.abs(first - rotated(kind, vector, seed=7 + 2**32))) > 0.1
  assert np.max(np.abs(first - rotated(kind, vector, round_number=1))) > 0.1


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('vector', [np.eye(1, 4096, 17)[0], np.ones(4096) / 64])
def test_any_direction_is_spread_over_all_coordinates(kind, vector):
  """The largest of 4,096 Gaussians of stddev 1/64 passes 6/64 at 1e-5."""
  assert np.max(np.abs(rotated(kind, vector))) < 6 / 64


@pytest.mark.parametrize('kind', KINDS)
def test_large_dimensions_keep_precision(kind):
  vector = np.random.default_rng(2).normal(size=2**20)
  back = rotated(kind, rotated(kind, vector), inverse=True)
  np.testing.assert_allclose(back, vector, atol=1e-5)


def test_dft_of_a_large_prime_keeps_precision():
  vector = np.random.default_rng(2).normal(size=2 * 100_003)
  back = rotated('dft', rotated('dft', vector), inverse=True)
  np.testing.assert_allclose(back, vector, atol=1e-5)


def test_public_words_are_the_same_in_every_version_of_tensorflow():
  words = rotation._public_words(
    tf.constant(-7, tf.int64), tf.constant(3), 1000
  )
  known = [0xBD3CA48C, 0x5D824D8F, 0xC8859AB0, 0x34B2C1D1]
  np.testing.assert_array_equal(words.numpy()[[0, 1, 2, 999]], known)
