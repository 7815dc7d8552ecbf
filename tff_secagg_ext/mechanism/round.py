# SPDX-License-Identifier: Apache-2.0
"""One round as three pure functions: initial state, encode, decode."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math

import tensorflow as tf

from tff_secagg_ext.mechanism import calibration, encoding, norms, random, stage
from tff_secagg_ext.mechanism import spec as spec_lib


@dataclasses.dataclass(frozen=True)
class Round:
  """The round of a mechanism that is calibrated for one kind of value.

  A state is an ordered dictionary of the four scalars of
  `stage.RoundParameters`; it is public.

  Attributes:
    spec: The user's choices.
    shapes: The shapes of a value's tensors.
    constants: The calibrated constants.
  """

  spec: spec_lib.MechanismSpec
  shapes: Sequence[Sequence[int]]
  constants: calibration.IntegerMechanism

  def initial_state(self) -> Mapping[str, tf.Tensor]:
    """The state before the first round; its rotation seed is fresh."""
    clipping = self.spec.clipping
    if isinstance(clipping, spec_lib.AdaptiveClipping):
      clipping = clipping.initial_norm
    seed = tf.bitcast(random.fresh_key()[:2], tf.int64)
    return _state(
      tf.constant(clipping, tf.float32),
      tf.constant(norms.ZEROING_RULE.initial, tf.float32),
      seed,
      tf.constant(0, tf.int32),
    )

  def encode(
    self, state: Mapping[str, tf.Tensor], tensors: Sequence[tf.Tensor]
  ) -> tf.Tensor:
    """What a client sends: int32[dimension + 1], modulo m.

    The last coordinate is 1, and counts the contributors.
    """
    parameters = stage.RoundParameters(**state)
    secrets = stage.Secrets.fresh()
    vector = self._flat.encode(tensors, parameters, secrets)
    encoded = self._mechanism.encode(vector, parameters, secrets)
    return tf.concat([encoded, [1]], axis=0)

  def decode(
    self, state: Mapping[str, tf.Tensor], total: tf.Tensor
  ) -> tuple[Mapping[str, tf.Tensor], list[tf.Tensor], Mapping[str, tf.Tensor]]:
    """What the server makes of the modular sum.

    Args:
      state: The state that the clients encoded with.
      total: int32[dimension + 1], the sum modulo m.

    Returns:
      The next state, the mean as float32 tensors, and the measurements; see
      `aggregators.DdpSecureAggregationFactory`.
    """
    parameters = stage.RoundParameters(**state)
    contributors = total[-1]
    aborted = self._is_aborted(contributors)
    noised = total[:-1] + self._missing_noise(contributors)
    decoded = self._mechanism.decode(noised, parameters)
    divisor = self._divisor(contributors)
    mean = tf.where(aborted, 0.0, decoded.vector / divisor)
    updated = self._updated(parameters, decoded.votes / divisor)
    return (
      _state(
        tf.where(aborted, parameters.clip_norm, updated.clip_norm),
        tf.where(
          aborted, parameters.zeroing_quantile, updated.zeroing_quantile
        ),
        parameters.rotation_seed,
        parameters.round + 1,
      ),
      self._flat.decode(mean, parameters),
      self._measurements(parameters, contributors, aborted),
    )

  @property
  def _flat(self) -> stage.Stage:
    return stage.flatten(self.shapes)

  @property
  def _bits(self) -> encoding.Bits:
    return encoding.Bits.of(self.spec)

  @property
  def _mechanism(self) -> stage.Stage:
    return encoding.mechanism_stage(
      stage.num_elements(self.shapes), self.spec, self.constants
    )

  @property
  def _fraction_stddev(self) -> float:
    """Standard deviation of the noise on a threshold bit's fraction.

    That is of the most noise there can be, for the expected clients, where
    (votes / clients + 1) / 2 is the fraction.
    """
    noise = self.constants.share_stddev * math.sqrt(self.spec.most_noise)
    bit = self.constants.scale * norms.BIT_AMPLITUDE
    return noise / bit / self.spec.expected_clients_per_round / 2

  def _is_aborted(self, contributors: tf.Tensor) -> tf.Tensor:
    """Whether there are too few or too many; too few are none at least."""
    aborted = contributors < (self.spec.min_contributors or 1)
    if self.spec.max_contributors is not None:
      aborted |= contributors > self.spec.max_contributors
    return aborted

  def _divisor(self, contributors: tf.Tensor) -> tf.Tensor:
    if self.spec.cohorts == 'poisson':
      return tf.constant(self.spec.expected_clients_per_round, tf.float32)
    return tf.cast(contributors, tf.float32)

  def _missing_noise(self, contributors: tf.Tensor) -> tf.Tensor:
    """The noise that makes the variance that of `max_contributors` shares.

    k missing shares are drawn as one sample of variance 2^j shares for each bit
    j of k: the variance is that of k shares, for the work of log2(k).
    """
    missing_noise = tf.zeros([self.constants.dimension], tf.int32)
    if self.spec.cohorts != 'poisson' or self.constants.share_stddev == 0:
      return missing_noise
    most = self.spec.max_shares - (self.spec.min_contributors or 1)
    missing = tf.clip_by_value(self.spec.max_shares - contributors, 0, most)
    if most == 0:
      return missing_noise
    for bit, stream in enumerate(random.fresh_streams(most.bit_length())):
      missing_noise += tf.cond(
        tf.bitwise.bitwise_and(missing, 2**bit) > 0,
        functools.partial(self._noise, 2**bit, stream),
        lambda: tf.zeros([self.constants.dimension], tf.int32),
      )
    return missing_noise

  def _noise(self, shares: int, stream: random.Stream) -> tf.Tensor:
    mechanism = self.spec.mechanism
    return encoding.noise(self.constants, mechanism, shares, stream)

  def _updated(
    self, parameters: stage.RoundParameters, votes: tf.Tensor
  ) -> stage.RoundParameters:
    """The parameters with both thresholds moved by their bits' votes."""
    clip_norm = parameters.clip_norm
    clipping = self.spec.clipping
    if isinstance(clipping, spec_lib.AdaptiveClipping):
      rule = norms.QuantileRule(
        clipping.initial_norm,
        clipping.target_quantile,
        clipping.learning_rate,
      )
      rule = rule.damped(self._fraction_stddev)
      clip_norm = rule.update(clip_norm, votes[0])
    quantile = parameters.zeroing_quantile
    if self.spec.zeroing:
      rule = norms.ZEROING_RULE.damped(self._fraction_stddev)
      quantile = rule.update(quantile, votes[-1])
    return dataclasses.replace(
      parameters, clip_norm=clip_norm, zeroing_quantile=quantile
    )

  def _measurements(
    self,
    parameters: stage.RoundParameters,
    contributors: tf.Tensor,
    aborted: tf.Tensor,
  ) -> Mapping[str, tf.Tensor]:
    fixed = self.spec.cohorts == 'fixed'
    shares = tf.cast(
      contributors if fixed else self.spec.max_shares, tf.float32
    )
    noise = self.spec.most_noise if self.spec.exact_noise else shares
    stddev = tf.sqrt(self.constants.coordinate_variance(shares, noise))
    deviations = self.constants.modulus / 2 / stddev
    measured = collections.OrderedDict(clip_norm=parameters.clip_norm)
    if self.spec.zeroing:
      measured['zeroing_threshold'] = norms.zeroing_threshold(
        parameters.zeroing_quantile
      )
    measured['scale'] = tf.constant(self.constants.scale, tf.float32)
    measured['dimension'] = tf.constant(self.constants.dimension, tf.int32)
    if fixed:
      measured['contributors'] = contributors
    measured['wrap_probability'] = tf.math.erfc(deviations / math.sqrt(2))
    measured['effective_noise_multiplier'] = self.constants.noise_multiplier(
      1
    ) * tf.sqrt(shares)
    measured['aborted'] = aborted
    return measured


def _state(
  clip_norm: tf.Tensor,
  zeroing_quantile: tf.Tensor,
  rotation_seed: tf.Tensor,
  round_number: tf.Tensor,
) -> Mapping[str, tf.Tensor]:
  return collections.OrderedDict(
    clip_norm=clip_norm,
    zeroing_quantile=zeroing_quantile,
    rotation_seed=rotation_seed,
    round=round_number,
  )
