# SPDX-License-Identifier: Apache-2.0
"""Which computations a secure context can take apart, and which it refuses."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tff_secagg_ext import execution
from tff_secagg_ext._compat import tff
from tff_secagg_ext.execution import plans
from tff_secagg_ext.secagg.setup import Security

INT_AT_CLIENTS = tff.FederatedType(np.int32, tff.CLIENTS)
INT_AT_SERVER = tff.FederatedType(np.int32, tff.SERVER)


@tff.tensorflow.computation(np.int32, np.int32)
def add(x: Any, y: Any) -> Any:
  return x + y


def test_aggregations_are_found_as_they_were_written():
  @tff.federated_computation(INT_AT_CLIENTS)
  def sums(x: Any) -> Any:
    return (
      tff.federated_max(x),
      tff.federated_secure_sum_bitwidth(x, 8),
      tff.backends.mapreduce.federated_secure_modular_sum(x, 8),
    )

  found = plans.Aggregations.of(sums)
  assert found.insecure == {'federated_max'}
  assert found.secure == {
    'federated_secure_sum_bitwidth',
    'federated_secure_modular_sum',
  }
  nothing = plans.Aggregations(frozenset(), frozenset())
  assert plans.Aggregations.of(add) == nothing


def test_server_arguments_and_a_broadcast(secure: Any, reference: Any):
  @tff.federated_computation(INT_AT_SERVER, INT_AT_CLIENTS)
  def shifted(shift: Any, x: Any) -> Any:
    moved = tff.federated_map(add, (x, tff.federated_broadcast(shift)))
    total = tff.federated_secure_sum(moved, 100)
    return tff.federated_map(add, (total, shift))

  assert secure(shifted, 5, [1, 2, 3]) == 26
  assert reference(shifted, 5, [1, 2, 3]) == 26


def test_arguments_in_any_structure(secure: Any, reference: Any):
  weighted = collections.OrderedDict(
    value=tff.FederatedType(
      collections.OrderedDict(b=np.int32, a=np.int64), tff.CLIENTS
    ),
    extra=[INT_AT_SERVER, INT_AT_CLIENTS],
  )

  @tff.federated_computation(weighted, INT_AT_SERVER)
  def nested(x: Any, bias: Any) -> Any:
    return collections.OrderedDict(
      z=(tff.federated_secure_sum(x['value'], 100), x['extra'][0]),
      a=tff.federated_secure_sum_bitwidth(x['extra'][1], 4),
      bias=bias,
    )

  # In the order of its names, and in another.
  for keys in ('ba', 'ab'):
    values = [{'b': 1, 'a': 2}, {'b': 3, 'a': 4}]
    values = [collections.OrderedDict((k, v[k]) for k in 'ba') for v in values]
    argument = {'value': values, 'extra': [7, [1, 2]]}
    if keys == 'ab':
      argument = dict(reversed(argument.items()))
    found = secure(nested, argument, 9)
    expected = collections.OrderedDict(
      z=(collections.OrderedDict(b=4, a=6), 7), a=3, bias=9
    )
    tf.nest.assert_same_structure(found, expected, check_types=True)
    assert found == expected


def test_an_aggregation_process(secure: Any, reference: Any):
  process = tff.aggregators.SecureModularSumFactory(2**15 - 1).create(
    tff.to_type([tff.TensorType(np.int32, [3]), np.int32])
  )
  state = secure(process.initialize)
  values = [[np.arange(3, dtype=np.int32) + i, np.int32(-i)] for i in range(5)]
  found = secure(process.next, state, values)
  expected = reference(process.next, state, values)
  assert isinstance(found, tff.templates.MeasuredProcessOutput)
  tf.nest.assert_same_structure(found.result, expected.result)
  for a, b in zip(found.result, expected.result, strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_weighted_aggregation_process(secure: Any, reference: Any):
  bounded = tff.aggregators.SecureSumFactory(20.0, -20.0)
  process = tff.aggregators.MeanFactory(bounded, bounded).create(
    tff.TensorType(np.float32, [4]), tff.TensorType(np.float32)
  )
  state = secure(process.initialize)
  values = [np.linspace(-1, i, 4, dtype=np.float32) for i in range(6)]
  weights = [np.float32(1 + i) for i in range(6)]
  found = secure(process.next, state, values, weights)
  expected = reference(process.next, state, values, weights)
  for a, b in zip(
    tf.nest.flatten((found.state, found.result, found.measurements)),
    tf.nest.flatten((expected.state, expected.result, expected.measurements)),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


def refused(secure: Any, message: str, computation: Any, *args: Any) -> None:
  with pytest.raises(execution.UnsupportedComputationError, match=message):
    secure(computation, *args, security=Security('curious'))


def test_what_has_no_clients_is_refused(secure: Any):
  @tff.federated_computation
  def constant() -> Any:
    return tff.federated_secure_sum(tff.federated_value(1, tff.CLIENTS), 1)

  @tff.federated_computation(INT_AT_SERVER)
  def broadcast(x: Any) -> Any:
    return tff.federated_secure_sum(tff.federated_broadcast(x), 1)

  @tff.federated_computation(
    tff.FederatedType(np.int32, tff.CLIENTS, all_equal=True)
  )
  def all_equal(x: Any) -> Any:
    return tff.federated_secure_sum(x, 1)

  message = 'the clients, whose ids are .* not given .* is all_equal'
  refused(secure, message, constant)
  refused(secure, message, broadcast, 1)
  refused(secure, message, all_equal, 1)


def test_what_returns_values_of_clients_is_refused(secure: Any):
  @tff.federated_computation(INT_AT_CLIENTS)
  def back(x: Any) -> Any:
    return tff.federated_secure_sum(x, 1), x

  refused(secure, 'its results are not all at the server', back, [1, 1])


def test_what_is_not_placed_is_refused(secure: Any):
  @tff.federated_computation(INT_AT_CLIENTS, np.float32)
  def unplaced(x: Any, y: Any) -> Any:
    del y
    return tff.federated_secure_sum(x, 1)

  refused(secure, 'float32 is placed neither at', unplaced, [1, 1], 1.0)


def test_two_exchanges_are_refused(secure: Any):
  @tff.federated_computation(INT_AT_CLIENTS)
  def twice(x: Any) -> Any:
    total = tff.federated_secure_sum(x, 1)
    y = tff.federated_map(add, (x, tff.federated_broadcast(total)))
    return tff.federated_secure_sum(y, 3)

  refused(secure, 'it has no MapReduce form: it is not one', twice, [1, 1])


def test_a_secure_selection_is_refused(secure: Any):
  @tff.tensorflow.computation(np.int32, np.int32)
  def select(values: Any, key: Any) -> Any:
    return values + key

  @tff.tensorflow.computation(np.int32)
  def as_keys(x: Any) -> Any:
    return tf.reshape(x, [1])

  @tff.tensorflow.computation(tff.SequenceType(np.int32))
  def first(slices: Any) -> Any:
    return slices.reduce(0, lambda x, y: x + y)

  @tff.federated_computation(INT_AT_SERVER, INT_AT_CLIENTS)
  def selected(values: Any, x: Any) -> Any:
    slices = tff.federated_secure_select(
      tff.federated_map(as_keys, x),
      tff.federated_value(3, tff.SERVER),
      values,
      select,
    )
    return tff.federated_secure_sum(tff.federated_map(first, slices), 9)

  refused(
    secure, 'no MapReduce form.*federated_secure_select', selected, 1, [1]
  )


def test_server_randomness_on_both_sides_is_refused(secure: Any):
  @tff.tensorflow.computation
  def draw() -> Any:
    return tf.random.uniform([], 0, 100, tf.int32)

  @tff.federated_computation(INT_AT_CLIENTS)
  def both(x: Any) -> Any:
    drawn = tff.federated_eval(draw, tff.SERVER)
    y = tff.federated_map(add, (x, tff.federated_broadcast(drawn)))
    return tff.federated_secure_sum(y, 1000), drawn

  @tff.federated_computation(INT_AT_CLIENTS)
  def clients(x: Any) -> Any:
    drawn = tff.federated_eval(draw, tff.SERVER)
    y = tff.federated_map(add, (x, tff.federated_broadcast(drawn)))
    return tff.federated_secure_sum(y, 1000)

  refused(secure, 'RandomUniformInt on the server .* Keep a seed', both, [1, 1])
  # All clients have the same draw.
  assert (secure(clients, [1, 1, 1]) - 3) % 3 == 0


def test_an_unknown_size_is_refused(secure: Any):
  @tff.federated_computation(
    tff.FederatedType(tff.TensorType(np.int32, [None]), tff.CLIENTS)
  )
  def ragged(x: Any) -> Any:
    return tff.federated_secure_sum(x, 1)

  values = [np.array([1, 1], np.int32)] * 2
  refused(secure, r'sums int32\[\?\], whose size is not known', ragged, values)


def test_sums_that_nothing_depends_on_are_refused(secure: Any):
  @tff.federated_computation(INT_AT_SERVER, INT_AT_CLIENTS)
  def unused(state: Any, x: Any) -> Any:
    tff.federated_secure_sum(x, 1)
    return state

  refused(secure, 'no result depends on its secure sums', unused, 1, [1, 1])


def test_arguments_must_fit_their_type(secure: Any):
  @tff.federated_computation(INT_AT_CLIENTS, INT_AT_CLIENTS)
  def two(x: Any, y: Any) -> Any:
    return tff.federated_secure_sum(x, 9), tff.federated_secure_sum(y, 9)

  with pytest.raises(
    TypeError, match=r'must be a list, with one .* Found a int'
  ):
    secure(two, 3, [1, 2])
  with pytest.raises(ValueError, match=r'Found lists of \[1, 2\] elements'):
    secure(two, [3], [1, 2])
  with pytest.raises(TypeError, match='Found 3'):
    secure(two, [[1], [2], [3]])
  assert secure(two, [3, 4], [1, 2]) == (7, 3)
