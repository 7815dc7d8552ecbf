# SPDX-License-Identifier: Apache-2.0
"""What leaves the clients is found in the computation, and named."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.program import conftest
from tff_secagg_ext._compat import tff
from tff_secagg_ext.program import releases


def with_next(process: Any, next_fn: Any) -> Any:
  return tff.learning.templates.LearningProcess(
    process.initialize,
    next_fn,
    process.get_model_weights,
    process.set_model_weights,
  )


def test_one_noised_vector_is_all_that_leaves(
  process: Any, aggregator: Any
) -> None:
  found = releases.of_process(process)
  dimension = aggregator.padded_dimension(5)
  assert found == releases.Releases(dimension, ())


@pytest.mark.parametrize('secure', [False, True])
def test_sums_of_metrics_are_named(aggregator: Any, secure: bool) -> None:
  module = tff.learning.metrics
  aggregate = module.secure_sum_then_finalize if secure else None
  found = releases.of_process(
    conftest.build(aggregator, metrics_aggregator=aggregate)
  )
  assert found.dimension == aggregator.padded_dimension(5)
  assert 'client_work.train.loss is exact' in found.unaccounted


def test_a_sum_that_hides_among_the_servers_metrics_is_named(
  process: Any,
) -> None:
  state_type, data_type = process.next.type_signature.parameter

  @tff.tensorflow.computation(data_type.member)
  def count(data: Any) -> Any:
    return data.reduce(np.int64(0), lambda n, _: n + 1)

  @tff.tensorflow.computation(np.int64)
  def as_metric(total: Any) -> Any:
    return collections.OrderedDict(update_non_finite=tf.cast(total, tf.int32))

  @tff.federated_computation(state_type, data_type)
  def leaking(state: Any, data: Any) -> Any:
    output = process.next(state, data)
    total = tff.federated_sum(tff.federated_map(count, data))
    metrics = collections.OrderedDict(
      distributor=output.metrics['distributor'],
      client_work=output.metrics['client_work'],
      aggregator=output.metrics['aggregator'],
      finalizer=tff.federated_map(as_metric, total),
    )
    return tff.learning.templates.LearningProcessOutput(
      output.state, tff.federated_zip(metrics)
    )

  found = releases.of_process(with_next(process, leaking))
  assert found.unaccounted == ('finalizer.update_non_finite is exact',)


def test_a_process_of_another_aggregator_is_unaccounted() -> None:
  found = releases.of_process(
    conftest.build(tff.aggregators.UnweightedMeanFactory())
  )
  assert found.dimension is None
  # The finalizer is one function, which counts as a whole.
  assert found.unaccounted == (
    'state.global_model_weights is exact',
    'state.finalizer is exact',
    'finalizer.update_non_finite is exact',
  )


def test_a_process_that_sums_nothing_is_unaccounted(process: Any) -> None:
  state_type, data_type = process.next.type_signature.parameter

  @tff.federated_computation(state_type, data_type)
  def idle(state: Any, data: Any) -> Any:
    del data
    return tff.learning.templates.LearningProcessOutput(
      state, tff.federated_value(collections.OrderedDict(a=1), tff.SERVER)
    )

  found = releases.of_process(with_next(process, idle))
  assert found.dimension is None
  assert found.unaccounted == ('the aggregator sums nothing of the clients',)


def test_what_cannot_be_compiled_is_unaccounted(process: Any) -> None:
  class Opaque(tff.Computation):
    type_signature = process.next.type_signature

    def __call__(self, *args: Any) -> Any:
      return process.next(*args)

    def __hash__(self) -> int:
      return 1

  found = releases.of_process(with_next(process, Opaque()))
  assert found.dimension is None
  assert 'process.next cannot be checked' in found.unaccounted[-1]


def test_measurements_are_found_wherever_they_are() -> None:
  ours = dict.fromkeys(releases.MEASUREMENT_KEYS, 1)
  assert releases.find_measurements({'a': {'b': ours}, 'c': 2}) == ours
  assert releases.find_measurements({'a': {'scale': 1}}) == {}
  assert releases.find_measurements(()) == {}
  both = {'a': ours, 'b': {'noised_sum': {**ours, 'scale': 2}, 'loss': 3}}
  noised = {f'noised_sum.{name}': value for name, value in ours.items()}
  assert releases.find_measurements(both) == {
    **ours,
    **noised,
    'noised_sum.scale': 2,
  }


def test_a_noised_sum_of_metrics_is_a_second_vector(aggregator: Any) -> None:
  metrics = conftest.noised_metrics(aggregator)
  process = conftest.build(aggregator, metrics_aggregator=metrics)
  dimension = aggregator.padded_dimension(5)
  found = releases.of_process(process, metrics=True)
  assert found == releases.Releases(dimension, (), metrics.dimension)
  found = releases.of_process(process)
  assert found.dimension == dimension
  assert (
    'client_work.train.loss comes of a secure modular sum that no given'
    ' aggregator noises'
  ) in found.unaccounted
