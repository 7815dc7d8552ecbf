# SPDX-License-Identifier: Apache-2.0
"""Bounding a client's vector: zeroing, clipping, and the bits that tune both.

The clip norm and the zeroing threshold follow quantiles of the clients' norms
by geometric updates [ATMR21]. What a client says about them is one bit each,
and the bits are coordinates of the vector that is rotated, rounded, noised and
summed like any other: they cost no noise, no sum and no event of their own.

[ATMR21] Andrew, Thakkar, McMahan, Ramaswamy, "Differentially Private Learning
with Adaptive Clipping", arXiv:1905.03871.
"""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

# A bit is a coordinate of +-0.1 beside a vector of norm at most 1: each takes
# 1 % of the squared sensitivity, whatever the parameters are.
BIT_AMPLITUDE = 0.1

# The zeroing threshold keeps a distance from the quantile, so that only what is
# far outside is zeroed; the numbers are those of `tff.learning`.
_ZEROING_MULTIPLIER = 2.0
_ZEROING_INCREMENT = 1.0

# Estimates stay in a range in which a float32 neither overflows nor vanishes.
_ESTIMATE_RANGE = (2.0**-60, 2.0**60)

# The most that one standard deviation of noise moves an estimate's logarithm.
_MAX_NOISE_STEP = 0.2

# What a vector without a larger coordinate is measured in.
_LEAST_UNIT = 2.0**-100


@dataclasses.dataclass(frozen=True)
class QuantileRule:
  """A geometric quantile estimate [ATMR21, Section 2.1].

  Attributes:
    initial: The first estimate, positive, in the units of the value.
    target: The quantile that the estimate moves to, in [0, 1].
    learning_rate: Step in the estimate's logarithm per unit of the fraction's
      distance from the target, at least 0.
  """

  initial: float
  target: float
  learning_rate: float

  def damped(self, fraction_stddev: float) -> QuantileRule:
    """The rule with a learning rate that noise of this size cannot dominate.

    One standard deviation of the noise moves the estimate by a factor of at
    most e^0.2, which a few rounds of true votes outweigh.

    Args:
      fraction_stddev: Standard deviation of the noise on the fraction of
        clients at or below the estimate, at least 0.
    """
    if self.learning_rate * fraction_stddev <= _MAX_NOISE_STEP:
      return self
    rate = _MAX_NOISE_STEP / fraction_stddev
    return dataclasses.replace(self, learning_rate=rate)

  def update(self, estimate: tf.Tensor, votes: tf.Tensor) -> tf.Tensor:
    """Returns the estimate after a round.

    - Without noise |fraction - target| is at most 1; what noise or a modular
      wrap adds beyond that is cut off, evenly on both sides.

    Args:
      estimate: float32 scalar, the estimate that the clients compared with.
      votes: float32 scalar, (clients at or below the estimate minus clients
        above it) / clients, noised; in [-1, 1] without noise.
    """
    deviation = tf.clip_by_value((votes + 1) / 2 - self.target, -1.0, 1.0)
    updated = estimate * tf.exp(-self.learning_rate * deviation)
    return tf.clip_by_value(updated, *_ESTIMATE_RANGE)


ZEROING_RULE = QuantileRule(
  initial=10.0, target=0.98, learning_rate=math.log(10.0)
)
"""As `tff.learning` tunes the zeroing threshold."""


@dataclasses.dataclass(frozen=True)
class Bounded:
  """A client's vector after bounding, and its bits.

  Attributes:
    vector: float32[d] of L2 norm at most 1 (to float32's rounding).
    below_clip_norm: bool scalar; the norm, after zeroing, is at most the clip
      norm.
    below_zeroing_quantile: bool scalar; the largest coordinate is at most the
      zeroing quantile, and all of them are finite.
  """

  vector: tf.Tensor
  below_clip_norm: tf.Tensor
  below_zeroing_quantile: tf.Tensor


def zeroing_threshold(quantile: tf.Tensor) -> tf.Tensor:
  """The largest coordinate above which a vector is zeroed."""
  return _ZEROING_MULTIPLIER * quantile + _ZEROING_INCREMENT


def bound(
  vector: tf.Tensor, clip_norm: tf.Tensor, zeroing_quantile: tf.Tensor | None
) -> Bounded:
  """Zeroes or clips a vector, and divides it by the clip norm.

  - A vector with a NaN or an infinity becomes zero, with or without a zeroing
    quantile.
  - A vector whose largest coordinate exceeds the zeroing threshold is zero.
  - Any other keeps its direction and gets norm min(1, norm / clip_norm).

  Args:
    vector: float32[d].
    clip_norm: float32 scalar, positive.
    zeroing_quantile: float32 scalar, positive; None for no zeroing threshold.
  """
  finite = kept = tf.reduce_all(tf.math.is_finite(vector))
  # Of no coordinates the maximum is minus infinity.
  peak = tf.maximum(tf.reduce_max(tf.abs(vector)), 0.0)
  below_quantile = finite
  if zeroing_quantile is not None:
    below_quantile &= peak <= zeroing_quantile
    kept &= peak <= zeroing_threshold(zeroing_quantile)
  # Zero times a NaN or an infinity is zero here.
  vector = tf.math.multiply_no_nan(vector, tf.cast(kept, tf.float32))
  peak = tf.math.multiply_no_nan(peak, tf.cast(kept, tf.float32))
  # In units of the peak no square overflows, and no norm.
  unit = tf.maximum(peak, _LEAST_UNIT)
  vector /= unit
  clip_norm /= unit
  norm = tf.sqrt(tf.reduce_sum(tf.square(vector)))
  return Bounded(
    vector=vector / tf.maximum(norm, clip_norm),
    below_clip_norm=norm <= clip_norm,
    below_zeroing_quantile=below_quantile,
  )


def append_bits(vector: tf.Tensor, bits: list[tf.Tensor]) -> tf.Tensor:
  """Appends bits to a vector of norm at most 1, keeping the norm at most 1.

  Args:
    vector: float32[d] of L2 norm at most 1.
    bits: bool scalars; each becomes a coordinate of +-`BIT_AMPLITUDE`.

  Returns:
    float32[d + len(bits)].
  """
  if not bits:
    return vector
  signs = 2.0 * tf.cast(tf.stack(bits), tf.float32) - 1.0
  return tf.concat([vector * _share(len(bits)), BIT_AMPLITUDE * signs], axis=0)


def split_bits(total: tf.Tensor, num_bits: int) -> tuple[tf.Tensor, tf.Tensor]:
  """Undoes `append_bits` on a sum.

  Args:
    total: float32[d + num_bits], a sum of what `append_bits` returned.
    num_bits: How many bits there were.

  Returns:
    The sum of the vectors, float32[d], and for each bit the number of clients
    where it was set minus those where it was not, float32[num_bits].
  """
  dimension = total.shape[0] - num_bits
  return (
    total[:dimension] / _share(num_bits),
    total[dimension:] / BIT_AMPLITUDE,
  )


def _share(num_bits: int) -> float:
  """What norm the bits leave to the vector."""
  return math.sqrt(1 - num_bits * BIT_AMPLITUDE**2)
