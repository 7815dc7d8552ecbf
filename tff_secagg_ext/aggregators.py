# SPDX-License-Identifier: Apache-2.0
"""TFF aggregation factories for distributed differential privacy.

A process made here is flat: one broadcast of public parameters, one `encode`
on the clients, one secure modular sum, one `decode` on the server.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

import tensorflow as tf

from tff_secagg_ext import _compat
from tff_secagg_ext._compat import tff
from tff_secagg_ext._dropout_noise import DropoutNoise
from tff_secagg_ext.accounting import domination, events
from tff_secagg_ext.mechanism import calibration, encoding, rotation, stage
from tff_secagg_ext.mechanism import round as round_lib
from tff_secagg_ext.mechanism import spec as spec_lib

AdaptiveClipping = spec_lib.AdaptiveClipping
DEFAULT_CLIPPING = AdaptiveClipping()

_logger = logging.getLogger('tff_secagg_ext')

_compat.enable_secure_sums_in_simulation()

# When rounding multiplies the sensitivity, and the noise with it, by more than
# this, `create` says so in the log.
_NOTABLE_INFLATION = 1.5
# In nats a round: of layers of noise, more is refused.
_LARGEST_SLACK = 1e-9


def ddp_secure_aggregator(
  noise_multiplier: float,
  expected_clients_per_round: int,
  bits: int = 20,
  zeroing: bool = True,
  rotation_type: str = 'hd',
  *,
  mechanism: str = 'distributed_dgauss',
  clipping: AdaptiveClipping | float = DEFAULT_CLIPPING,
  cohorts: str = 'fixed',
  max_contributors: int | None = None,
  min_contributors: int | None = None,
  max_colluders: int = 0,
  beta: float = math.exp(-0.5),
  modclip_prob: float = 1e-4,
  exact_noise: bool = False,
) -> DdpSecureAggregationFactory:
  """Creates an aggregator for the mean, with distributed differential privacy.

  A drop-in for `tff.learning.ddp_secure_aggregator`, with these guarantees:

  - The L2 sensitivity of what is summed is a constant, in integers, whatever a
    client's value is: NaN, infinite and huge ones included.
  - All that leaves a client's round is one modular sum, and all of it is noised
    but for the number of contributors: the bits that tune the clip norm and
    the zeroing threshold are coordinates of the same noised vector.
  - The noise multiplier holds after rounding, for the noise of
    `min_contributors` (else of the expected number of) clients without the
    colluders, and does not move when the clip norm does.
  - Noise comes from the kernel's randomness, within 2^-60 of its distribution.
  - Below `min_contributors` the result is zero, no threshold moves, and the
    measurements say `aborted`.

  The sum is private against the server only where the secure sum is one; TFF's
  simulation sums in the clear, inside one process.

  Args:
    noise_multiplier: z, standard deviation of the noise on the sum over its L2
      sensitivity; at least 0. 0 adds no noise and has no privacy.
    expected_clients_per_round: At least 1. Under 'poisson' the mean is the sum
      divided by this constant.
    bits: The sum is modulo 2**bits; 2 to 30. Fewer bits mean less traffic and a
      coarser grid, whose rounding the noise is sized for as well.
    zeroing: Whether a value whose largest coordinate is above an adaptive
      threshold is taken as corrupt, and zero in its place. Values with a NaN or
      an infinity are zeroed in any case.
    rotation_type: 'hd' (randomized Hadamard, pads to a power of 2) or 'dft'
      (randomized discrete Fourier, pads to an even number).
    mechanism: 'distributed_dgauss' [KLS21] or 'distributed_skellam' [AKL21].
    clipping: A fixed L2 norm, in the units of the value, or `AdaptiveClipping`.
    cohorts: 'fixed': the number of contributors is public, and the mean is over
      it, as in TFF. 'poisson': each client takes part by a coin of its own, so
      the number must stay hidden: the server tops the noise up to that of
      `max_contributors`, and no output depends on the number but for
      `aborted`.
    max_contributors: The sum has room for so many; more abort the round. None:
      under 'fixed', room for the expected number and no limit; under 'poisson',
      what a cohort exceeds with probability below 1e-9.
    min_contributors: Sizes the noise; fewer abort the round. None: under
      'fixed', noise for the expected number and no limit, so that a shortfall
      means less noise, and is charged as such; under 'poisson', what a cohort
      falls short of with probability below 1e-9.
    max_colluders: How many contributors may tell the server their noise.
    beta: A bound on the probability that a rounding is repeated, in [0, 1);
      0 takes every rounding, at the price of a larger norm bound.
    modclip_prob: Probability that a coordinate of the sum leaves the range, in
      (0, 1).
    exact_noise: Whether the sum has the noise of `noise_multiplier`, and no
      more, whoever of the expected clients drops out, as long as
      `min_contributors` are left: where shares alone are sized for the worst
      case. Clients add layers of noise, and those that are too many are taken
      off the sum [JWC24, arXiv 2209.12528]. The secure context does that, which
      must be made with `SecureOptions(dropout_noise=...)`; see
      `DdpSecureAggregationFactory.dropout_noise`. For cohorts 'fixed'.

  Returns:
    A `tff.aggregators.UnweightedAggregationFactory`.

  Raises:
    TypeError: If an argument is of the wrong kind.
    ValueError: If an argument is out of range, or two contradict each other.
  """
  return DdpSecureAggregationFactory(
    spec_lib.MechanismSpec(
      noise_multiplier=noise_multiplier,
      expected_clients_per_round=expected_clients_per_round,
      bits=bits,
      zeroing=zeroing,
      rotation_type=rotation_type,
      mechanism=mechanism,
      clipping=clipping,
      cohorts=cohorts,
      max_contributors=max_contributors,
      min_contributors=min_contributors,
      max_colluders=max_colluders,
      beta=beta,
      modclip_prob=modclip_prob,
      exact_noise=exact_noise,
    )
  )


class DdpSecureAggregationFactory(tff.aggregators.UnweightedAggregationFactory):
  """A factory of mean processes with distributed differential privacy.

  `create(V)` returns a process whose `next` has the type

    <S@SERVER, {V}@CLIENTS> -> <S@SERVER, V@SERVER, M@SERVER>

  with S = <clip_norm=float32, zeroing_quantile=float32, rotation_seed=int64,
  round=int32>, and M a flat dictionary of scalars, each public or noised:

    clip_norm: float32, the clip norm of this round.
    zeroing_threshold: float32, the largest coordinate that this round let
      pass; only with zeroing.
    scale: float32, integer units per clip norm; constant.
    dimension: int32, coordinates of the summed vector; constant.
    contributors: int32, how many clients were summed; only for 'fixed' cohorts.
    wrap_probability: float32, probability that a coordinate left the range.
    effective_noise_multiplier: float32, standard deviation of the noise that
      was in the sum over the sensitivity; of all noise, the server's included,
      but for layers of `exact_noise`, of which the process cannot know.
    aborted: bool, whether the cohort was outside of its bounds.
  """

  def __init__(self, spec: spec_lib.MechanismSpec):
    self._spec = spec

  @property
  def settings(self) -> dict[str, Any]:
    """All choices as resolved, as JSON values."""
    settings = dataclasses.asdict(self._spec)
    # Absent without: settings on record are compared with these.
    if not self._spec.exact_noise:
      del settings['exact_noise']
    return settings

  @property
  def spec(self) -> spec_lib.MechanismSpec:
    """All choices as resolved."""
    return self._spec

  def padded_dimension(self, num_elements: int) -> int:
    """Coordinates of the summed vector for a value of so many elements."""
    padded = rotation.ROTATIONS[self._spec.rotation_type].padded
    return padded(num_elements + len(encoding.Bits.of(self._spec)))

  def constants(self, dimension: int) -> calibration.IntegerMechanism:
    """The constants of the mechanism for a padded dimension.

    Raises:
      ValueError: If the bits are too few for it; names those that would do.
    """
    return calibration.calibrate(self._spec, dimension)

  def dropout_noise(self, dimension: int) -> DropoutNoise:
    """What a secure context is told of a process with `exact_noise`.

    Args:
      dimension: Coordinates of the summed vector.

    Raises:
      ValueError: If the aggregator was not made with `exact_noise`; if a layer
        cannot be drawn; or if layers of discrete Gaussians are so narrow that
        their sum is not one within 1e-9 nats.
    """
    spec, constants = self._spec, self.constants(dimension)
    if not spec.exact_noise:
      raise ValueError(
        '`exact_noise` must be True for noise that is exact after dropouts.'
        ' Found False. Make the aggregator with it, and with'
        ' `min_contributors`.'
      )
    noise = DropoutNoise(
      mechanism=spec.mechanism,
      share_stddev=constants.share_stddev,
      dimension=dimension,
      modulus=constants.modulus,
      clients=spec.expected_clients_per_round,
      dropouts=spec.dropouts,
      colluders=spec.max_colluders,
    )
    if spec.mechanism == 'distributed_dgauss':
      _check_layers(noise)
    return noise

  def event(
    self, dimension: int, contributors: int | None = None
  ) -> events.NoisedSumEvent:
    """What one round releases.

    Args:
      dimension: Coordinates of the summed vector.
      contributors: Under 'fixed' cohorts, how many clients were summed; None
        for the expected number. Under 'poisson' cohorts it is hidden: the event
        has the fewest noise shares of clients that a round can have. With
        `exact_noise`, the event has the layers that a secure context leaves in
        such a sum.
    """
    constants = self.constants(dimension)
    spec = self._spec
    client_shares = contributors
    if client_shares is None:
      client_shares = spec.expected_clients_per_round
    server_shares = 0
    if spec.cohorts == 'poisson':
      client_shares = spec.min_contributors or 1
      server_shares = spec.max_shares - client_shares
    return events.NoisedSumEvent(
      mechanism=spec.mechanism,
      l2_sensitivity=constants.sensitivity,
      share_stddev=constants.share_stddev,
      client_shares=client_shares,
      server_shares=server_shares,
      colluders=spec.max_colluders,
      dimension=dimension,
      layer_stddevs=self._layers(dimension, client_shares),
    )

  def _layers(self, dimension: int, contributors: int) -> tuple[float, ...]:
    if not self._spec.exact_noise:
      return ()
    noise = self.dropout_noise(dimension)
    missing = max(0, noise.clients - contributors)
    return noise.layer_stddevs(min(missing, noise.dropouts))

  def create(self, value_type: tff.Type) -> tff.templates.AggregationProcess:
    """Creates the process; see the class.

    Args:
      value_type: A tensor type, or a structure of tensors, of floats and
        integers and fully defined shapes. A structure may be empty.

    Raises:
      TypeError: If `value_type` is something else.
      ValueError: If the bits are too few for its dimension; with `exact_noise`,
        as `dropout_noise`.
    """
    leaves = tensor_types(value_type)
    shapes = [leaf.shape for leaf in leaves]
    constants = self.constants(
      self.padded_dimension(stage.num_elements(shapes))
    )
    if self._spec.exact_noise:
      self.dropout_noise(constants.dimension)
    _log_inflation(constants)
    return _process(round_lib.Round(self._spec, shapes, constants), value_type)


def tensor_types(value_type: tff.Type) -> list[tff.TensorType]:
  """The tensor types of a structure, in order.

  Raises:
    TypeError: If the type holds anything but floats and integers of fully
      defined shapes.
  """
  is_tensors = isinstance(
    value_type, (tff.TensorType, tff.StructWithPythonType)
  ) and tff.types.is_structure_of_tensors(value_type)
  leaves: list[Any] = []
  if is_tensors:
    tff.types.structure_from_tensor_type_tree(leaves.append, value_type)
  for leaf in leaves:
    dtype = tf.dtypes.as_dtype(leaf.dtype)
    known = leaf.shape is not None and None not in leaf.shape
    is_tensors &= known and (dtype.is_floating or dtype.is_integer)
  if not is_tensors:
    raise TypeError(
      '`value_type` must be a tensor, or a structure of tensors, of floats'
      ' and integers whose shapes are fully defined. Found'
      f' {value_type.compact_representation()}. Leave what is neither out of'
      ' the aggregated value, or cast it on the clients.'
    )
  return leaves


def _check_layers(noise: DropoutNoise) -> None:
  """Refuses discrete Gaussians too narrow to be summed; docs/accounting.md."""
  stddevs = noise.layer_stddevs(noise.dropouts)
  log_range = domination.layered_sum_range(
    noise.share_stddev**2,
    noise.clients - noise.dropouts - noise.colluders,
    [stddev**2 for stddev in stddevs],
    noise.clients,
  )
  if not noise.dimension * log_range <= _LARGEST_SLACK:
    raise ValueError(
      'Layers of noise must be so wide that their sum is a discrete Gaussian'
      f' within {_LARGEST_SLACK:g} nats a round. Found'
      f' {noise.dimension * log_range:.2g}, for layers of standard deviations'
      f' from {stddevs[0]:.3g} and {noise.dimension} coordinates. Sum with more'
      " bits, or use mechanism='distributed_skellam'."
    )


def _log_inflation(constants: calibration.IntegerMechanism) -> None:
  inflation = constants.sensitivity / constants.scale
  if inflation > _NOTABLE_INFLATION:
    _logger.warning(
      'Rounding %d coordinates to %d bits multiplies the sensitivity, and the'
      ' noise with it, by %.1f. More bits multiply it by less.',
      constants.dimension,
      constants.modulus.bit_length() - 1,
      inflation,
    )


def _process(
  graph: round_lib.Round, value_type: tff.Type
) -> tff.templates.AggregationProcess:
  """Wraps the three functions of a round as federated computations."""
  initial_state = tff.tensorflow.computation(graph.initial_state)
  state_type = initial_state.type_signature.result

  @tff.federated_computation
  def initialize() -> Any:
    return tff.federated_eval(initial_state, tff.SERVER)

  @tff.tensorflow.computation(state_type, value_type)
  def encode(state: Any, value: Any) -> Any:
    return graph.encode(state, flatten(value))

  @tff.tensorflow.computation(state_type, encode.type_signature.result)
  def decode(state: Any, total: Any) -> Any:
    next_state, mean, measurements = graph.decode(state, total)
    return next_state, restore(mean, value_type), measurements

  @tff.federated_computation(
    initialize.type_signature.result,
    tff.FederatedType(value_type, tff.CLIENTS),
  )
  def next_fn(state: Any, value: Any) -> Any:
    encoded = tff.federated_map(encode, (tff.federated_broadcast(state), value))
    total = tff.backends.mapreduce.federated_secure_modular_sum(
      encoded, graph.constants.modulus
    )
    next_state, result, measurements = tff.federated_map(decode, (state, total))
    return tff.templates.MeasuredProcessOutput(next_state, result, measurements)

  return tff.templates.AggregationProcess(initialize, next_fn)


def flatten(value: Any) -> Any:
  """The tensors of a value in the order of its type, not of its keys."""
  if tf.is_tensor(value):
    return [value]
  return tff.structure.flatten(
    tff.structure.from_container(value, recursive=True)
  )


def restore(tensors: list[tf.Tensor], value_type: tff.Type) -> Any:
  """A value of the type, from float32 tensors; integers are rounded."""
  remaining = iter(tensors)

  def cast(leaf: tff.TensorType) -> tf.Tensor:
    tensor = next(remaining)
    dtype = tf.dtypes.as_dtype(leaf.dtype)
    return tf.cast(tf.round(tensor) if dtype.is_integer else tensor, dtype)

  return tff.types.structure_from_tensor_type_tree(cast, value_type)
