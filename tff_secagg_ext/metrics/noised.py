# SPDX-License-Identifier: Apache-2.0
"""Metrics of clients, summed in secret with noise, and finalized."""

from __future__ import annotations

import collections
from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any

import tensorflow as tf

from tff_secagg_ext import aggregators
from tff_secagg_ext._compat import tff
from tff_secagg_ext.mechanism import round as round_lib
from tff_secagg_ext.metrics import bounds as bounds_lib

NOISED_SUM = 'noised_sum'
"""Under this name the metrics say how they were noised."""

# A quotient whose denominator is within so many standard deviations of its
# noise from zero says nothing.
_DEVIATIONS = 3.0


def dp_sum_then_finalize(
  bounds: Mapping[str, Any], aggregator: aggregators.DdpSecureAggregationFactory
) -> DpSumThenFinalize:
  """Creates a metrics aggregator with distributed differential privacy.

  ```python
  metrics = dp_sum_then_finalize(
    {'loss': (100.0, 20), 'num_examples': 20, 'num_batches': 4},
    ddp_secure_aggregator(noise_multiplier=5.0, expected_clients_per_round=100),
  )
  process = build_unweighted_fed_avg(..., metrics_aggregator=metrics)
  process = PrivacyRecorder(process, aggregator, metrics=metrics, ...)
  ```

  Args:
    bounds: For each metric, a bound on each of the tensors that a client sums
      up before they are finalized: positive numbers, or arrays in the shape of
      the tensor; a single number for a metric of one scalar. Bounds must not
      be taken from the clients' data. What is above them is scaled down.
    aggregator: How the sum is noised: noise multiplier, cohorts, bits,
      mechanism, rotation. The vector has a norm bound of its own, so that
      clipping and zeroing of the aggregator are not used.

  Returns:
    What takes the place of `tff.learning.metrics.sum_then_finalize`.

  Raises:
    TypeError: If an argument is of the wrong kind.
    ValueError: If there is no bound, if one is not positive and finite, or if
      the bits are too few for so many coordinates.
  """
  return DpSumThenFinalize(bounds, aggregator)


class DpSumThenFinalize:
  """A metrics aggregator: `({M}@CLIENTS -> F@SERVER)` when it is called.

  Guarantees:

  * All that leaves the clients is one modular sum of one vector, noised as the
    model's is: one `NoisedSumEvent` of `dimension` coordinates a round.
  * A client's vector has an L2 norm of at most 1, whatever its metrics are: a
    metric's tensors are divided by their bounds and, if one of them is above
    it, scaled down together, so that their quotient stays; then all is divided
    by the root of the number of coordinates. NaN or infinity in any metric
    counts as zeros in all of them.
  * Each coordinate of a sum has noise of the same standard deviation in units
    of its bound.
  * The finalizers see nothing but the noised sums, in the types of the
    unfinalized metrics; sums of integers are rounded. A noised sum may be
    negative.
  * A metric of two scalars is taken for a quotient with the second one as its
    denominator, as Keras's means are. It is NaN where the noised denominator
    is not above 3 standard deviations of its noise.
  * If the cohort is out of its bounds, all sums are zero.

  The result has the finalized metrics by name, and as `noised_sum` what
  `aggregators.DdpSecureAggregationFactory` measures, but for the clip norm:
  all of it public.
  """

  def __init__(
    self,
    bounds: Mapping[str, Any],
    aggregator: aggregators.DdpSecureAggregationFactory,
  ):
    """See `dp_sum_then_finalize`."""
    if not isinstance(aggregator, aggregators.DdpSecureAggregationFactory):
      raise TypeError(
        '`aggregator` must be a DdpSecureAggregationFactory. Found'
        f' {aggregator!r}. Make it with ddp_secure_aggregator.'
      )
    self._bounds = bounds_lib.Bounds.of(bounds)
    if NOISED_SUM in self._bounds.by_metric:
      raise ValueError(
        f'`bounds` must not name a metric {NOISED_SUM!r}. Found {bounds!r}. The'
        ' result says under this name how it was noised: give the metric'
        ' another.'
      )
    self._aggregator = aggregators.DdpSecureAggregationFactory(
      dataclasses.replace(aggregator.spec, clipping=1.0, zeroing=False)
    )
    self._constants = self._aggregator.constants(self.dimension)

  @property
  def aggregator(self) -> aggregators.DdpSecureAggregationFactory:
    """How the sum is noised; its `event` says what a round releases."""
    return self._aggregator

  @property
  def dimension(self) -> int:
    """Coordinates of the summed vector, padding included."""
    return self._aggregator.padded_dimension(self._bounds.num_elements)

  @property
  def settings(self) -> dict[str, Any]:
    """All choices as resolved, as JSON values."""
    return {'bounds': self._bounds.settings, **self._aggregator.settings}

  def __call__(
    self, metric_finalizers: Any, local_unfinalized_metrics_type: Any = None
  ) -> Any:
    """Returns the computation, polymorphic in the clients' metrics.

    Args:
      metric_finalizers: An ordered dictionary of callables by metric, or one
        callable for all of them.
      local_unfinalized_metrics_type: Not used; TFF's older algorithms pass it.

    Raises:
      ValueError: When it is traced, if the metrics are not those that there
        are bounds for.
    """
    del local_unfinalized_metrics_type

    @tff.federated_computation
    def aggregate(client_metrics: Any) -> Any:
      metrics_type = client_metrics.type_signature.member

      @tff.tensorflow.computation
      def finalize(total: Any) -> Any:
        noised = self._decode(total, metrics_type)
        return collections.OrderedDict(
          **noised.finalized(metric_finalizers),
          **{NOISED_SUM: noised.measurements},
        )

      return tff.federated_map(finalize, self._sum(client_metrics))

    return aggregate

  def aggregation_process(
    self, metric_finalizers: Any, local_unfinalized_metrics_type: tff.Type
  ) -> tff.templates.AggregationProcess:
    """Returns the process for `tff.learning.algorithms.build_fed_eval`.

    Its result is the metrics of the round, with `noised_sum`, and those of all
    rounds: finalized from the noised sums so far, which are its state.

    Args:
      metric_finalizers: See `__call__`.
      local_unfinalized_metrics_type: Of the model.

    Raises:
      ValueError: If the metrics are not those that there are bounds for.
    """
    metrics_type = local_unfinalized_metrics_type

    @tff.tensorflow.computation
    def nothing() -> Any:
      zeros = tff.types.structure_from_tensor_type_tree(_zeros, metrics_type)
      return collections.OrderedDict(sums=zeros, variance=tf.constant(0.0))

    @tff.federated_computation
    def initialize() -> Any:
      return tff.federated_eval(nothing, tff.SERVER)

    @tff.tensorflow.computation
    def finalize(state: Any, total: Any) -> Any:
      now = self._decode(total, metrics_type)
      so_far = now.added_to(state['sums'], state['variance'])
      current = collections.OrderedDict(
        **now.finalized(metric_finalizers), **{NOISED_SUM: now.measurements}
      )
      state = collections.OrderedDict(
        sums=so_far.sums, variance=so_far.variance
      )
      return state, (current, so_far.finalized(metric_finalizers))

    @tff.federated_computation(
      initialize.type_signature.result,
      tff.FederatedType(metrics_type, tff.CLIENTS),
    )
    def next_fn(state: Any, client_metrics: Any) -> Any:
      total = self._sum(client_metrics)
      state, result = tff.federated_map(finalize, (state, total))
      return tff.templates.MeasuredProcessOutput(
        state, result, tff.federated_value((), tff.SERVER)
      )

    return tff.templates.AggregationProcess(initialize, next_fn)

  @property
  def _round(self) -> round_lib.Round:
    return round_lib.Round(
      self._aggregator.spec, [[self._bounds.num_elements]], self._constants
    )

  def _sum(self, client_metrics: Any) -> Any:
    """The modular sum of the clients' vectors, `int32[dimension + 1]@SERVER`.

    Raises:
      ValueError: If the metrics are not those that there are bounds for.
    """
    metrics_type = client_metrics.type_signature.member
    self._bounds.check(metrics_type)

    @tff.tensorflow.computation(metrics_type)
    def encode(metrics: Any) -> Any:
      return self._round.encode(_public_state(), [self._bounds.encode(metrics)])

    return tff.backends.mapreduce.federated_secure_modular_sum(
      tff.federated_map(encode, client_metrics), self._constants.modulus
    )

  def _decode(self, total: tf.Tensor, metrics_type: tff.Type) -> _NoisedSums:
    """What the server makes of the modular sum."""
    spec = self._aggregator.spec
    _, [mean], measured = self._round.decode(_public_state(), total)
    clients = measured.get('contributors', spec.expected_clients_per_round)
    shares = measured.get('contributors', spec.max_shares)
    if spec.exact_noise:
      shares = spec.most_noise  # What layers make of any number of shares.
    # Of a share of noise, and at most 1/4 of a client's randomized rounding.
    variance = self._constants.share_stddev**2 + 0.25
    unit = math.sqrt(self._bounds.num_elements) / self._constants.scale
    return _NoisedSums(
      self._bounds,
      self._bounds.decode(mean * tf.cast(clients, tf.float32), metrics_type),
      variance * unit**2 * tf.cast(shares, tf.float32),
      collections.OrderedDict(
        (name, value) for name, value in measured.items() if name != 'clip_norm'
      ),
    )


@dataclasses.dataclass(frozen=True)
class _NoisedSums:
  """Sums over clients with noise in them.

  Attributes:
    bounds: Of the metrics.
    sums: The noised sums, in the types of the unfinalized metrics.
    variance: float32; of noise and rounding on each coordinate, in units of the
      square of its bound.
    measurements: How they were noised.
  """

  bounds: bounds_lib.Bounds
  sums: Any
  variance: tf.Tensor
  measurements: Mapping[str, tf.Tensor]

  def added_to(self, sums: Any, variance: tf.Tensor) -> _NoisedSums:
    """Returns these sums and `sums` together."""
    return dataclasses.replace(
      self,
      sums=tf.nest.map_structure(tf.add, sums, self.sums),
      variance=variance + self.variance,
    )

  def finalized(self, finalizers: Any) -> Mapping[str, Any]:
    """Returns the finalized metrics; quotients of nothing but noise are NaN."""
    if callable(finalizers):
      metrics = finalizers(self.sums)
    else:
      metrics = {
        name: finalize(self.sums[name]) for name, finalize in finalizers.items()
      }
    return collections.OrderedDict(
      (name, self._guarded(name, value)) for name, value in metrics.items()
    )

  def _guarded(self, name: str, value: Any) -> Any:
    bound = self.bounds.denominator(name)
    if bound is None:
      return value
    count = tf.cast(aggregators.flatten(self.sums[name])[-1], tf.float32)
    least = _DEVIATIONS * tf.sqrt(self.variance) * bound
    return tf.nest.map_structure(
      functools.partial(_nan_unless, tf.logical_and(count > least, count > 0)),
      value,
    )


def _nan_unless(known: tf.Tensor, value: Any) -> tf.Tensor:
  value = tf.convert_to_tensor(value)
  if not value.dtype.is_floating:
    return value
  return tf.where(known, value, tf.cast(math.nan, value.dtype))


def _public_state() -> Mapping[str, tf.Tensor]:
  """The state of every round: nothing adapts, and all rotations are the same.

  A rotation spreads a vector over its coordinates, and needs no secrecy.
  """
  return collections.OrderedDict(
    clip_norm=tf.constant(1.0, tf.float32),
    zeroing_quantile=tf.constant(1.0, tf.float32),
    rotation_seed=tf.constant(0, tf.int64),
    round=tf.constant(0, tf.int32),
  )


def _zeros(leaf: tff.TensorType) -> tf.Tensor:
  return tf.zeros(leaf.shape, leaf.dtype)
