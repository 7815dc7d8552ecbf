# SPDX-License-Identifier: Apache-2.0
"""Metrics that are clipped, securely summed, noised and finalized."""

from __future__ import annotations

import collections
import math
from typing import Any

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf

from tff_secagg_ext import accounting, metrics
from tff_secagg_ext._compat import tff
from tff_secagg_ext.aggregators import ddp_secure_aggregator
from tff_secagg_ext.metrics.bounds import Bounds

CLIENTS = 8
BOUNDS = {'accuracy': (20.0, 20.0), 'examples': 20, 'hits': ([5.0, 5.0],)}
METRICS = collections.OrderedDict(
  accuracy=[tff.TensorType(np.float32)] * 2,
  examples=[tff.TensorType(np.int64)],
  hits=[tff.TensorType(np.float32, [2])],
)
TYPE = tff.to_type(METRICS)
FINALIZERS = collections.OrderedDict(
  accuracy=lambda sums: sums[0] / sums[1],
  examples=lambda sums: sums[0],
  hits=lambda sums: sums[0],
)


def of_client(correct: float, total: float, hits: Any = (1.0, 2.0)) -> Any:
  return collections.OrderedDict(
    accuracy=[np.float32(correct), np.float32(total)],
    examples=[np.int64(total)],
    hits=[np.asarray(hits, np.float32)],
  )


def noised(noise_multiplier: float = 0.0, **kwargs: Any) -> Any:
  aggregator = ddp_secure_aggregator(noise_multiplier, CLIENTS, **kwargs)
  return metrics.dp_sum_then_finalize(BOUNDS, aggregator)


def computation(aggregate: Any, finalizers: Any = FINALIZERS) -> Any:
  inner = aggregate(finalizers, TYPE)

  @tff.federated_computation(tff.FederatedType(TYPE, tff.CLIENTS))
  def run(values: Any) -> Any:
    return inner(values)

  return run


def unit_stddev(noise_multiplier: float) -> float:
  """Of the noise on a sum of all, in units of the bound of its coordinate."""
  aggregate = noised(noise_multiplier)
  constants = aggregate.aggregator.constants(aggregate.dimension)
  return float(
    constants.share_stddev * math.sqrt(CLIENTS) / constants.scale * math.sqrt(5)
  )


def test_the_type_is_that_of_sum_then_finalize_and_how_it_was_noised() -> None:
  found = computation(noised(1.0)).type_signature
  assert str(found.parameter) == str(tff.FederatedType(TYPE, tff.CLIENTS))
  result = found.result.member
  assert result.compact_representation() == (
    '<accuracy=float32,examples=int64,hits=float32[2],noised_sum=<scale=float32,'
    'dimension=int32,contributors=int32,wrap_probability=float32,'
    'effective_noise_multiplier=float32,aborted=bool>>'
  )


def test_one_modular_sum_is_all_that_leaves_a_client() -> None:
  inner = noised(1.0)(FINALIZERS)

  @tff.federated_computation(
    tff.FederatedType((), tff.SERVER), tff.FederatedType(TYPE, tff.CLIENTS)
  )
  def next_fn(state: Any, values: Any) -> Any:
    return state, inner(values)

  form = tff.backends.mapreduce.get_map_reduce_form_for_computation(next_fn)
  assert form.work.type_signature.result.compact_representation() == (
    '<<>,<>,<>,<int32[9]>>'
  )


@pytest.mark.parametrize('cohorts', ['fixed', 'poisson'])
def test_sums_without_noise_are_the_sums(cohorts: str) -> None:
  clients = [of_client(i, 10.0) for i in range(CLIENTS)]
  found = computation(noised(cohorts=cohorts))(clients)
  assert found['accuracy'] == pytest.approx(28 / 80, rel=1e-3)
  assert found['examples'] == 80
  np.testing.assert_allclose(found['hits'], [8.0, 16.0], rtol=1e-3)
  assert ('contributors' in found['noised_sum']) == (cohorts == 'fixed')


def test_a_metric_above_its_bounds_keeps_its_quotient() -> None:
  clients = [of_client(25.0, 100.0)] * CLIENTS
  found = computation(noised())(clients)
  assert found['accuracy'] == pytest.approx(0.25, rel=1e-3)
  assert found['examples'] == 20 * CLIENTS
  np.testing.assert_allclose(found['hits'], [8.0, 16.0], rtol=1e-3)


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_makes_the_client_zero(
  value: float,
) -> None:
  clients = [of_client(5.0, 10.0)] * (CLIENTS - 1) + [of_client(value, 10.0)]
  found = computation(noised())(clients)
  assert found['accuracy'] == pytest.approx(0.5, rel=1e-3)
  assert found['examples'] == 10 * (CLIENTS - 1)


def test_finalizers_may_be_one_function_of_all() -> None:
  def finalize(sums: Any) -> Any:
    return collections.OrderedDict(accuracy=sums['accuracy'][0])

  clients = [of_client(5.0, 10.0)] * CLIENTS
  found = computation(noised(), finalize)(clients)
  assert found['accuracy'] == pytest.approx(40.0, rel=1e-3)


def test_a_quotient_of_nothing_but_noise_is_nan() -> None:
  run = computation(noised(1.0))
  # 3 standard deviations are 134 examples, and a client has one.
  assert 3 * unit_stddev(1.0) * 20 > 100
  assert math.isnan(run([of_client(1.0, 1.0)] * CLIENTS)['accuracy'])


def test_a_quotient_of_nobody_is_nan_without_noise_too() -> None:
  found = computation(noised())([of_client(0.0, 0.0)] * CLIENTS)
  assert math.isnan(found['accuracy'])
  assert found['examples'] == 0


def test_below_the_least_number_of_contributors_all_sums_are_zero() -> None:
  run = computation(noised(min_contributors=CLIENTS))
  found = run([of_client(5.0, 10.0)] * (CLIENTS - 1))
  assert found['noised_sum']['aborted']
  assert math.isnan(found['accuracy'])
  assert found['examples'] == 0


def test_noise_that_is_exact_is_there_in_full_after_dropouts() -> None:
  plain, exact = noised(1.0), noised(1.0, min_contributors=6, exact_noise=True)

  def variance(aggregate: Any, contributors: int) -> float:
    total = tf.constant([0] * aggregate.dimension + [contributors])
    return float(aggregate._decode(total, TYPE).variance)

  assert variance(exact, 6) == variance(exact, CLIENTS)
  assert variance(exact, CLIENTS) == pytest.approx(variance(plain, CLIENTS))
  assert variance(plain, 6) < variance(plain, CLIENTS)


def test_noise_is_what_the_event_says() -> None:
  """A false alarm has a probability of 1e-4; 0.8 sigma passes with 0.05."""
  aggregate = noised(4.0)
  run = computation(aggregate)
  clients = [of_client(0.0, 0.0, (0.0, 0.0))] * CLIENTS
  samples = [run(clients)['hits'] / 5.0 for _ in range(40)]
  stddev = unit_stddev(4.0)
  assert stddev == pytest.approx(4.0 * math.sqrt(5), rel=0.1)
  squares = float(np.sum(np.square(samples))) / stddev**2
  from scipy import stats

  low, high = stats.chi2(80).ppf([5e-5, 1 - 5e-5])
  assert low < squares < high
  event = aggregate.aggregator.event(aggregate.dimension)
  assert isinstance(event, accounting.NoisedSumEvent)
  assert event.l2_sensitivity / aggregate.aggregator.constants(
    aggregate.dimension
  ).scale == pytest.approx(1.0, rel=0.1)


@hypothesis.given(
  st.lists(st.floats(-1e6, 1e6, width=32), min_size=5, max_size=5)
)
@hypothesis.settings(max_examples=50, deadline=None)
def test_vectors_have_norm_at_most_1_and_keep_directions(
  values: list[float],
) -> None:
  bounds = Bounds.of(BOUNDS)
  client = collections.OrderedDict(
    accuracy=[values[0], values[1]],
    examples=[values[2]],
    hits=[np.asarray(values[3:], np.float32)],
  )
  vector = bounds.encode(client).numpy()
  assert np.linalg.norm(vector) <= 1 + 1e-6
  # An independent reading: each metric is within its box, on its own ray.
  for start, given, box in (
    (0, values[:2], [20.0, 20.0]),
    (2, values[2:3], [20.0]),
    (3, values[3:], [5.0, 5.0]),
  ):
    sent = vector[start : start + len(box)] * box * math.sqrt(5)
    factor = max(1.0, *(abs(v) / b for v, b in zip(given, box, strict=True)))
    # TensorFlow flushes denormal numbers to zero.
    expected = np.divide(given, factor)
    np.testing.assert_allclose(sent, expected, rtol=1e-4, atol=1e-30)


def test_decoding_is_the_inverse_within_bounds() -> None:
  bounds = Bounds.of(BOUNDS)
  client = of_client(3.0, 7.0)
  found = bounds.decode(bounds.encode(client), TYPE)
  tf.nest.map_structure(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
    tf.nest.flatten(found),
    tf.nest.flatten(client),
  )


def test_settings_say_bounds_and_noise() -> None:
  settings = noised(2.0).settings
  assert settings['bounds'] == {
    'accuracy': [20.0, 20.0],
    'examples': [20.0],
    'hits': [[5.0, 5.0]],
  }
  assert settings['noise_multiplier'] == 2.0
  assert not settings['zeroing']


@pytest.mark.parametrize(
  ('bounds', 'error', 'message'),
  [
    (3.0, TypeError, '`bounds` must be a mapping from metrics'),
    ({}, ValueError, 'must name at least one metric. Found none'),
    ({'a': 0.0}, ValueError, r"bounds\['a'\]` must be in \(0, inf\). Found 0"),
    ({'a': math.inf}, ValueError, 'must be finite. Found inf'),
    ({'a': ()}, ValueError, 'must have a bound for each tensor'),
    ({'noised_sum': 1.0}, ValueError, "not name a metric 'noised_sum'"),
  ],
)
def test_bounds_are_checked(
  bounds: Any, error: type[Exception], message: str
) -> None:
  with pytest.raises(error, match=message):
    metrics.dp_sum_then_finalize(bounds, ddp_secure_aggregator(1.0, CLIENTS))


def test_the_aggregator_is_checked() -> None:
  with pytest.raises(TypeError, match='must be a DdpSecureAggregationFactory'):
    metrics.dp_sum_then_finalize(
      BOUNDS, tff.aggregators.UnweightedMeanFactory()
    )


@pytest.mark.parametrize(
  'changes', [{'more': 1.0}, {'accuracy': (20.0,)}, {'hits': (5.0,)}]
)
def test_bounds_are_those_of_the_metrics(changes: Any) -> None:
  aggregate = metrics.dp_sum_then_finalize(
    {**BOUNDS, **changes}, ddp_secure_aggregator(1.0, CLIENTS)
  )
  with pytest.raises(ValueError, match='in the shape of each tensor of each'):
    computation(aggregate)


def test_metrics_need_names() -> None:
  with pytest.raises(TypeError, match='a structure with a name for each'):
    Bounds.of(BOUNDS).check(tff.TensorType(np.float32))


def test_an_evaluation_gives_the_metrics_of_a_round_and_of_all() -> None:
  process = noised().aggregation_process(FINALIZERS, TYPE)
  state = process.initialize()
  for correct in (2.0, 4.0):
    output = process.next(state, [of_client(correct, 10.0)] * CLIENTS)
    state = output.state
  current, so_far = output.result
  assert current['accuracy'] == pytest.approx(0.4, rel=1e-3)
  assert so_far['accuracy'] == pytest.approx(0.3, rel=1e-3)
  assert (current['examples'], so_far['examples']) == (80, 160)
  assert current['noised_sum']['contributors'] == CLIENTS
  assert 'noised_sum' not in so_far
