# SPDX-License-Identifier: Apache-2.0
"""Stages: pairs of pure functions that encode a value and decode sums of it.

A stage is what `optax.chain` is to gradients: `encode` runs on every client,
`decode` runs once on the server, on the sum of what the clients encoded. A
chain of stages is a stage again, so the whole mechanism is one pair of
functions and has no state of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import Any

import tensorflow as tf

from tff_secagg_ext.mechanism import random


@dataclasses.dataclass(frozen=True)
class RoundParameters:
  """What the server broadcasts: all of it public, all of it scalar.

  Attributes:
    clip_norm: float32, positive; the L2 norm that a client's vector is clipped
      to in this round, in the units of the value.
    zeroing_quantile: float32, positive; the estimate from which the zeroing
      threshold follows (`norms.zeroing_threshold`), in the units of the value.
    rotation_seed: int64; the seed of the public random rotation.
    round: int32; the number of rounds before this one.
  """

  clip_norm: tf.Tensor
  zeroing_quantile: tf.Tensor
  rotation_seed: tf.Tensor
  round: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Secrets:
  """A client's secret randomness for one round, a stream for each use.

  Attributes:
    rounding: What the rounding of coordinates is drawn from.
    noise: What the noise share is drawn from.
  """

  rounding: random.Stream
  noise: random.Stream

  @classmethod
  def fresh(cls) -> Secrets:
    """New secrets from the kernel, at each execution of the graph."""
    return cls(*random.fresh_streams(2))


@dataclasses.dataclass(frozen=True)
class Stage:
  """A pair of pure TensorFlow functions.

  Attributes:
    encode: `(value, parameters, secrets) -> value`, on a client.
    decode: `(sum, parameters) -> sum`, on the server; takes the sum of encoded
      values to the sum of values.
  """

  encode: Callable[[Any, RoundParameters, Secrets], Any]
  decode: Callable[[Any, RoundParameters], Any]


def chain(*stages: Stage) -> Stage:
  """Returns the stage that encodes left to right and decodes right to left."""

  def encode(value: Any, parameters: RoundParameters, secrets: Secrets) -> Any:
    for stage in stages:
      # A stage's own vectors, such as its noise, wait for the stage before:
      # else those of all stages were in memory at once.
      with tf.control_dependencies([value]):
        value = stage.encode(value, parameters, secrets)
    return value

  def decode(value: Any, parameters: RoundParameters) -> Any:
    for stage in reversed(stages):
      value = stage.decode(value, parameters)
    return value

  return Stage(encode, decode)


def num_elements(shapes: Sequence[Sequence[int]]) -> int:
  """The length of the vector that `flatten(shapes)` makes."""
  return sum(math.prod(shape) for shape in shapes)


def flatten(shapes: Sequence[Sequence[int]]) -> Stage:
  """Concatenates tensors to one float32 vector, and splits its sum again.

  - A list of no tensors is a vector of length 0.
  - Order and shapes survive; dtypes do not: sums and means are float32.

  Args:
    shapes: The fully defined shapes of the tensors, in order.
  """
  sizes = [math.prod(shape) for shape in shapes]

  def encode(
    tensors: Sequence[tf.Tensor], parameters: RoundParameters, secrets: Secrets
  ) -> tf.Tensor:
    del parameters, secrets
    parts = [tf.reshape(tf.cast(t, tf.float32), [-1]) for t in tensors]
    return tf.concat(parts, axis=0) if parts else tf.zeros([0], tf.float32)

  def decode(vector: tf.Tensor, parameters: RoundParameters) -> list[tf.Tensor]:
    del parameters
    parts = tf.split(vector, sizes) if sizes else []
    return [tf.reshape(p, s) for p, s in zip(parts, shapes, strict=True)]

  return Stage(encode, decode)
