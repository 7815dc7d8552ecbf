# SPDX-License-Identifier: Apache-2.0
"""Chains of stages: order, and the flattening at their start."""

import numpy as np
import pytest
import tensorflow as tf

from tff_secagg_ext.mechanism import stage

PARAMETERS = stage.RoundParameters(
  clip_norm=tf.constant(1.0),
  zeroing_quantile=tf.constant(1.0),
  rotation_seed=tf.constant(0, tf.int64),
  round=tf.constant(0),
)
SECRETS = None  # The stages here draw nothing.


def test_a_chain_encodes_left_to_right_and_decodes_right_to_left():
  def appending(name):
    return stage.Stage(
      lambda value, parameters, secrets: [*value, f'{name}+'],
      lambda value, parameters: [*value, f'{name}-'],
    )

  chained = stage.chain(appending('a'), appending('b'), appending('c'))
  assert chained.encode([], PARAMETERS, SECRETS) == ['a+', 'b+', 'c+']
  assert chained.decode([], PARAMETERS) == ['c-', 'b-', 'a-']


def test_an_empty_chain_is_the_identity():
  assert stage.chain().encode(3, PARAMETERS, SECRETS) == 3
  assert stage.chain().decode(3, PARAMETERS) == 3


@pytest.mark.parametrize(
  'shapes', [[], [()], [(0,)], [(2, 3)], [(), (4,), (0, 2), (1, 2, 3)]]
)
def test_flattening_is_undone_for_any_shapes(shapes):
  flat = stage.flatten(shapes)
  rng = np.random.default_rng(0)
  tensors = [
    tf.constant(rng.integers(-9, 9, size=s), tf.int32, shape=s) for s in shapes
  ]
  vector = flat.encode(tensors, PARAMETERS, SECRETS)
  assert vector.dtype == tf.float32
  assert vector.shape == [stage.num_elements(shapes)]
  back = flat.decode(vector, PARAMETERS)
  assert [tuple(t.shape) for t in back] == shapes
  for tensor, expected in zip(back, tensors, strict=True):
    np.testing.assert_array_equal(tensor, expected)


def test_flattening_keeps_the_order_of_tensors():
  flat = stage.flatten([(2,), (2,)])
  vector = flat.encode(
    [tf.constant([1.0, 2.0]), tf.constant([3, 4])], PARAMETERS, SECRETS
  )
  np.testing.assert_array_equal(vector, [1, 2, 3, 4])


def test_secrets_are_fresh_and_their_streams_apart():
  first, second = stage.Secrets.fresh(), stage.Secrets.fresh()
  words = [
    s.words(4).numpy().tolist()
    for s in (first.rounding, first.noise, second.rounding, second.noise)
  ]
  assert len({tuple(w) for w in words}) == 4
