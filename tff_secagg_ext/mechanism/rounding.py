# SPDX-License-Identifier: Apache-2.0
"""Conditional randomized rounding to integers under a constant norm bound.

A vector of L2 norm at most 1 is multiplied by a constant `scale` and rounded
to integers at random, without bias in each coordinate, until the norm of the
result is within a bound that at least a share `1 - beta` of the attempts meet.
Sensitivity after rounding is then that bound, always: it does not rest on the
rounding's randomness, nor on the precision of a float.

[KLS21] Kairouz, Liu, Steinke, "The Distributed Discrete Gaussian Mechanism
for Federated Learning with Secure Aggregation", arXiv:2102.06387.
"""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import TypeAlias

import tensorflow as tf

# With beta = exp(-1/2), all of this many attempts fail with a probability of at
# most beta**64 < 2e-14; `round_conditionally` tells what happens then.
MAX_ATTEMPTS = 64

# A long vector is worked off in chunks of at most this many coordinates, so
# that its words, fractions and squares are never all in memory.
_CHUNK = 2**18

_UniformWords: TypeAlias = Callable[[int, tf.Tensor, tf.Tensor], tf.Tensor]


def norm_bound_squared(scale: float, dimension: int, beta: float) -> int:
  """`inflated_norm_squared`, rounded down.

  The squared norm of an integer vector is an integer.
  """
  return math.floor(inflated_norm_squared(scale, dimension, beta))


def inflated_norm_squared(scale: float, dimension: int, beta: float) -> float:
  """The squared norm bound of a rounded vector [KLS21, Prop. 22].

  For a vector of L2 norm at most 1, times `scale` s, in d dimensions:

    min{ s^2 + d/4 + sqrt(2 ln(1/beta)) (s + sqrt(d)/2), (s + sqrt(d))^2 }.

  With beta = 0 it is the second term, which every rounding meets.

  Args:
    scale: Integer units per unit of the vector, positive.
    dimension: Number of coordinates, at least 1.
    beta: The bound on the probability of a rejected attempt, in [0, 1).
  """
  unconditional = (scale + math.sqrt(dimension)) ** 2
  if beta == 0:
    return unconditional
  deviation = math.sqrt(2 * math.log(1 / beta))
  conditional = (
    scale**2 + dimension / 4 + deviation * (scale + math.sqrt(dimension) / 2)
  )
  return min(conditional, unconditional)


def squared_norm(vector: tf.Tensor) -> tf.Tensor:
  """The exact squared L2 norm, int64, of an int32 vector."""
  size = vector.shape[0]
  total = tf.constant(0, tf.int64)
  if size <= _CHUNK:
    return tf.reduce_sum(tf.square(tf.cast(vector, tf.int64)))

  def add_chunk(start: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, ...]:
    chunk = vector[start : start + _CHUNK]
    return start + _CHUNK, total + tf.reduce_sum(
      tf.square(tf.cast(chunk, tf.int64))
    )

  _, total = tf.while_loop(
    lambda start, _: start < size,
    add_chunk,
    (tf.constant(0), total),
    parallel_iterations=1,
  )
  return total


def _attempt(
  vector: tf.Tensor, uniform_words: _UniformWords, number: tf.Tensor
) -> tf.Tensor:
  """int32[d]: rounds each coordinate up at the odds of its fraction."""
  size = vector.shape[0]
  chunks = max(1, -(-size // _CHUNK))
  length = -(-size // chunks)
  rows = tf.pad(vector, [[0, chunks * length - size]])
  rows = tf.reshape(rows, [chunks, length])

  def round_chunk(index: tf.Tensor) -> tf.Tensor:
    chunk = rows[index]
    floor = tf.floor(chunk)
    words = uniform_words((length + 1) // 2, number, index)
    halves = tf.reshape(tf.bitcast(words, tf.uint16), [-1])[:length]
    uniform = (tf.cast(halves, tf.float32) + 0.5) * 2.0**-16
    up = tf.cast(uniform < chunk - floor, tf.int32)
    return tf.cast(floor, tf.int32) + up

  if chunks == 1:
    return round_chunk(tf.constant(0))
  rounded = tf.map_fn(
    round_chunk,
    tf.range(chunks),
    parallel_iterations=1,
    fn_output_signature=tf.TensorSpec([length], tf.int32),
  )
  return tf.reshape(rounded, [-1])[:size]


def round_conditionally(
  vector: tf.Tensor,
  bound_squared: int,
  uniform_words: _UniformWords,
) -> tf.Tensor:
  """Rounds a scaled vector to integers within the norm bound.

  - The squared norm of the result, computed exactly in int64, is at most
    `bound_squared`, whatever the input is.
  - Each attempt rounds every coordinate up with the probability of its
    fractional part (to 2^-17), independently.
  - When `MAX_ATTEMPTS` attempts fail the vector is rounded towards zero, and
    should even that exceed the bound it is zero: biased, never insensitive.

  Args:
    vector: float32[d], already multiplied by the scale.
    bound_squared: See `norm_bound_squared`.
    uniform_words: Takes a number of words, the attempt and the chunk, both
      int32 scalars, to that many uniform uint32 words, independent for each
      attempt and chunk.

  Returns:
    int32[d].
  """

  def rejected(rounded: tf.Tensor) -> tf.Tensor:
    return squared_norm(rounded) > bound_squared

  def again(number: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
    rounded = _attempt(vector, uniform_words, number)
    return number + 1, rounded, rejected(rounded)

  _, rounded, failed = tf.while_loop(
    lambda number, _, failed: failed & (number < MAX_ATTEMPTS),
    again,
    (tf.constant(0), tf.zeros(vector.shape, tf.int32), tf.constant(True)),
    parallel_iterations=1,
  )

  def towards_zero() -> tf.Tensor:
    truncated = tf.cast(vector, tf.int32)
    return tf.where(rejected(truncated), tf.zeros_like(truncated), truncated)

  return tf.cond(failed, towards_zero, lambda: rounded)
