# SPDX-License-Identifier: Apache-2.0
"""The whole mechanism as one stage: what a client sends, what a server reads.

  vector -> bounded, with bits -> rotated -> integers -> noised modulo m

and back, on the sum. Each line of `mechanism_stage` is one step of that arrow.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tff_secagg_ext.mechanism import (
  calibration,
  norms,
  random,
  rotation,
  rounding,
  stage,
)
from tff_secagg_ext.mechanism import noise as noise_lib
from tff_secagg_ext.mechanism import spec as spec_lib

SAMPLERS = {
  'distributed_dgauss': noise_lib.discrete_gaussian,
  'distributed_skellam': noise_lib.skellam,
}
"""By name: what a share of noise, and of the server's top-up, is drawn from."""


@dataclasses.dataclass(frozen=True)
class Bits:
  """Which threshold bits clients send, in this order."""

  clip_norm: bool
  zeroing_quantile: bool

  @classmethod
  def of(cls, spec: spec_lib.MechanismSpec) -> Bits:
    """A bit for each threshold that adapts."""
    return cls(clip_norm=spec.adaptive, zeroing_quantile=spec.zeroing)

  def __len__(self) -> int:
    return self.clip_norm + self.zeroing_quantile


@dataclasses.dataclass(frozen=True)
class Total:
  """A decoded sum.

  Attributes:
    vector: float32[d], the noised sum of the clipped vectors, in the units of
      the value.
    votes: float32[len(bits)], for each bit the noised number of clients at or
      below the threshold minus that of clients above it.
  """

  vector: tf.Tensor
  votes: tf.Tensor


def bounding(bits: Bits) -> stage.Stage:
  """float32[d] <-> float32[d + len(bits)] of norm at most 1; see `norms`."""

  def encode(
    vector: tf.Tensor, parameters: stage.RoundParameters, secrets: stage.Secrets
  ) -> tf.Tensor:
    del secrets
    quantile = parameters.zeroing_quantile if bits.zeroing_quantile else None
    bounded = norms.bound(vector, parameters.clip_norm, quantile)
    sent = []
    if bits.clip_norm:
      sent.append(bounded.below_clip_norm)
    if bits.zeroing_quantile:
      sent.append(bounded.below_zeroing_quantile)
    return norms.append_bits(bounded.vector, sent)

  def decode(total: tf.Tensor, parameters: stage.RoundParameters) -> Total:
    vector, votes = norms.split_bits(total, len(bits))
    return Total(vector * parameters.clip_norm, votes)

  return stage.Stage(encode, decode)


def rotating(rotation_type: str, dimension: int) -> stage.Stage:
  """float32[dimension] <-> float32[padded dimension]; see `rotation`."""
  chosen = rotation.ROTATIONS[rotation_type]
  padding = chosen.padded(dimension) - dimension

  def encode(
    vector: tf.Tensor, parameters: stage.RoundParameters, secrets: stage.Secrets
  ) -> tf.Tensor:
    del secrets
    padded = tf.pad(vector, [[0, padding]])
    return chosen.forward(padded, parameters.rotation_seed, parameters.round)

  def decode(total: tf.Tensor, parameters: stage.RoundParameters) -> tf.Tensor:
    vector = chosen.inverse(total, parameters.rotation_seed, parameters.round)
    return vector[:dimension]

  return stage.Stage(encode, decode)


def discretizing(
  constants: calibration.IntegerMechanism,
) -> stage.Stage:
  """float32[D] of norm at most 1 <-> int32[D] within the norm bound."""

  def encode(
    vector: tf.Tensor, parameters: stage.RoundParameters, secrets: stage.Secrets
  ) -> tf.Tensor:
    del parameters
    return rounding.round_conditionally(
      vector * constants.scale,
      constants.norm_bound_squared,
      secrets.rounding.words,
    )

  def decode(total: tf.Tensor, parameters: stage.RoundParameters) -> tf.Tensor:
    del parameters
    return tf.cast(total, tf.float32) / constants.scale

  return stage.Stage(encode, decode)


def noising(
  constants: calibration.IntegerMechanism, mechanism: str
) -> stage.Stage:
  """int32[D] <-> int32[D] modulo m, with a share of noise.

  Decoding takes the representative in [-m/2, m/2).
  """

  def encode(
    vector: tf.Tensor, parameters: stage.RoundParameters, secrets: stage.Secrets
  ) -> tf.Tensor:
    del parameters
    share = noise(constants, mechanism, 1, secrets.noise)
    return _reduced(vector + share, constants.modulus)

  def decode(total: tf.Tensor, parameters: stage.RoundParameters) -> tf.Tensor:
    del parameters
    half = constants.modulus // 2
    return _reduced(total + half, constants.modulus) - half

  return stage.Stage(encode, decode)


def _reduced(vector: tf.Tensor, modulus: int) -> tf.Tensor:
  """The vector modulo a power of 2, in [0, modulus); negative ones too."""
  return tf.bitwise.bitwise_and(vector, modulus - 1)


def noise(
  constants: calibration.IntegerMechanism,
  mechanism: str,
  shares: int,
  stream: random.Stream,
) -> tf.Tensor:
  """int32[D]: noise of the variance of so many shares; zero for no noise."""
  if constants.share_stddev == 0:
    return tf.zeros([constants.dimension], tf.int32)
  sampler = SAMPLERS[mechanism](constants.share_stddev * shares**0.5)
  return sampler.sample(stream, constants.dimension)


def mechanism_stage(
  num_elements: int,
  spec: spec_lib.MechanismSpec,
  constants: calibration.IntegerMechanism,
) -> stage.Stage:
  """float32[num_elements] <-> int32[D] modulo m; decodes to `Total`.

  Args:
    num_elements: Coordinates of a client's vector.
    spec: The user's choices.
    constants: Calibrated for the padded dimension D.
  """
  bits = Bits.of(spec)
  return stage.chain(
    bounding(bits),
    rotating(spec.rotation_type, num_elements + len(bits)),
    discretizing(constants),
    noising(constants, spec.mechanism),
  )
