# SPDX-License-Identifier: Apache-2.0
"""Results of a secure context, bit for bit those of TFF's test context."""

from __future__ import annotations

import collections
import logging
from typing import Any

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf

from tff_secagg_ext import _compat, _forms, execution
from tff_secagg_ext._compat import tff
from tff_secagg_ext.execution import contexts
from tff_secagg_ext.secagg.setup import Security

modular_sum = tff.backends.mapreduce.federated_secure_modular_sum
CURIOUS = Security('curious')


def assert_identical(found: Any, expected: Any) -> None:
  """Asserts the same structure of the same containers, dtypes and bits."""
  tf.nest.assert_same_structure(found, expected, check_types=True)
  for a, b in zip(
    tf.nest.flatten(found), tf.nest.flatten(expected), strict=True
  ):
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes()


# For TFF's test context: these moduli and values are of one dtype, and a sum of
# 100 clients does not wrap unless the modulus divides 2^bits.
MODULI = {
  np.int32: [2, 3, 2**20, 2**20 - 1, 2**24 - 1, 2**30],
  np.int64: [2, 2**33, 2**33 - 1, 2**56 - 1, 2**61, 10**9 + 7],
}
SUMMED = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16)


@st.composite
def structures(draw: Any, leaves: Any) -> Any:
  """A tensor, or a named or unnamed structure of them, of two levels."""
  leaf = st.builds(
    lambda dtype, shape: (dtype, tuple(shape)),
    leaves,
    st.lists(st.integers(0, 3), max_size=2),
  )
  inner = st.one_of(leaf, st.lists(leaf, min_size=1, max_size=3))
  names = st.lists(st.sampled_from('zyxa'), min_size=1, max_size=3, unique=True)
  named = names.flatmap(
    lambda keys: st.tuples(*[inner] * len(keys)).map(
      lambda values: collections.OrderedDict(zip(keys, values, strict=True))
    )
  )
  return draw(st.one_of(leaf, named))


def mapped(fn: Any, structure: Any) -> Any:
  """Applies `fn` to the (dtype, shape) pairs of a structure."""
  if isinstance(structure, tuple):
    return fn(*structure)
  if isinstance(structure, list):
    return [mapped(fn, each) for each in structure]
  return collections.OrderedDict(
    (name, mapped(fn, each)) for name, each in structure.items()
  )


@hypothesis.settings(max_examples=10)
@hypothesis.given(st.data())
def test_random_structures_of_all_three_sums(
  secure: Any, reference: Any, data: st.DataObject
):
  modular = data.draw(structures(st.sampled_from(list(MODULI))), 'modular')
  bounded = data.draw(structures(st.sampled_from(SUMMED)), 'bounded')
  clients = data.draw(st.integers(1, 100), 'clients')
  moduli = mapped(
    lambda dtype, _: dtype(data.draw(st.sampled_from(MODULI[dtype]))), modular
  )
  rng = np.random.default_rng(data.draw(st.integers(0, 2**32), 'seed'))
  bits = data.draw(st.integers(1, 7), 'bits')

  @tff.federated_computation(
    tff.FederatedType(mapped(tff.TensorType, modular), tff.CLIENTS),
    tff.FederatedType(mapped(tff.TensorType, bounded), tff.CLIENTS),
  )
  def sums(x: Any, y: Any) -> Any:
    return (
      modular_sum(x, moduli),
      tff.federated_secure_sum_bitwidth(y, bits),
      tff.federated_secure_sum(y, 2**bits - 1),
    )

  def anything(dtype: Any, shape: Any) -> Any:
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)

  values = (
    [mapped(anything, modular) for _ in range(clients)],
    [
      mapped(
        lambda dtype, shape: rng.integers(0, 2**bits, shape, dtype), bounded
      )
      for _ in range(clients)
    ],
  )
  assert_identical(
    secure(sums, *values, security=CURIOUS, min_contributors=1),
    reference(sums, *values),
  )


@pytest.mark.parametrize('clients', [1, 2, 3, 31, 32, 33, 100])
def test_any_number_of_clients_and_batches(
  secure: Any, reference: Any, clients: int
):
  values = [np.int32(1000 * i) for i in range(clients)]
  found = secure(everything, values, security=CURIOUS, min_contributors=1)
  assert_identical(found, reference(everything, values))


@tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
def everything(x: Any) -> Any:
  """All kinds of aggregates in one."""
  return collections.OrderedDict(
    odd=modular_sum(x, 2**16 - 1),
    even=modular_sum(x, 2**16),
    bits=tff.federated_secure_sum_bitwidth(x, 17),
    limit=tff.federated_secure_sum(x, 99_000),
    plain=tff.federated_sum(x),
    nothing=tff.federated_value((), tff.SERVER),
  )


def test_all_secure_sums_are_one_session(secure: Any):
  with execution.collect_reports() as reports:
    secure(everything, [np.int32(i) for i in range(5)])
  (report,) = reports
  assert (report.threat, report.clients, report.survivors) == (
    'malicious',
    5,
    5,
  )
  assert report.verified is True


def test_a_batch_is_as_large_as_asked(
  monkeypatch: pytest.MonkeyPatch, in_context: Any
):
  context = execution.create_secure_context(
    execution.SecureOptions(
      dropouts=execution.Dropouts({'share': [1, 6]}),
      batch_size=3,
      security=Security('curious', dropout=0.3),
    )
  )
  batches = []
  native = contexts._native()
  invoke = native.invoke

  def counted(comp: Any, arg: Any) -> Any:
    parameter = comp.type_signature.parameter
    if isinstance(parameter, tff.StructType) and 'CLIENTS' in str(parameter):
      batches.append([int(client[0]) for client in arg[0]])
    return invoke(comp, arg)

  monkeypatch.setattr(native, 'invoke', counted)

  @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
  def total(x: Any) -> Any:
    return tff.federated_secure_sum(x, 100)

  values = [np.int32(i) for i in range(10)]
  assert in_context(context, total, values) == sum(range(10)) - 1 - 6
  assert batches == [[0, 2, 3], [4, 5, 7], [8, 9]]


def test_a_secure_sum_is_never_run_as_a_plain_one(
  secure: Any, monkeypatch: pytest.MonkeyPatch
):
  _compat.enable_secure_sums_in_simulation()
  replaced = []
  compiler = _compat._module(
    'tensorflow_federated.python.core.backends.test.compiler'
  )
  replace = compiler._replace_secure_intrinsics_with_insecure_bodies

  def counted(tree: Any) -> Any:
    result = replace(tree)
    replaced.append(result[1])
    return result

  monkeypatch.setattr(
    compiler, '_replace_secure_intrinsics_with_insecure_bodies', counted
  )

  @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
  def total(x: Any) -> Any:
    return tff.federated_secure_sum(x, 12_345)

  values = [np.int32(3), np.int32(4)]
  native = tff.backends.native.create_sync_local_cpp_execution_context()
  assert native.invoke(total, values) == 7
  # It counts: what TFF's own context runs has been replaced.
  assert replaced == [True]
  replaced.clear()
  assert secure(total, values) == 7
  assert replaced
  assert not any(replaced)


def test_without_secure_sums_all_is_native(secure: Any):
  @tff.federated_computation(
    tff.FederatedType(np.int32, tff.SERVER),
    tff.FederatedType(np.float32, tff.CLIENTS),
  )
  def plain(state: Any, x: Any) -> Any:
    doubled = tff.federated_map(
      tff.tensorflow.computation(lambda y: 2 * y, np.float32), x
    )
    return state, tff.federated_sum(x), doubled

  with execution.collect_reports() as reports:
    found = secure(plain, 5, [0.5, 1.0])
  assert found == (5, 1.5, [1.0, 2.0])
  assert not reports
  square = tff.tensorflow.computation(lambda x: x * x, np.int32)
  assert secure(square, 5) == 25


def test_values_out_of_range_raise(secure: Any):
  @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
  def bounded(x: Any) -> Any:
    return tff.federated_secure_sum(x, 10)

  @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
  def bits(x: Any) -> Any:
    return tff.federated_secure_sum_bitwidth(x, 3)

  for computation, values, message in (
    (bounded, [10, 11, 0], r'Client 1 .* federated_secure_sum outside .*0, 10'),
    (bounded, [10, 0, -1], r'Client 2 .* federated_secure_sum outside .*0, 10'),
    (bits, [8, 0, 1], r'Client 0 .* federated_secure_sum_bitwidth .*0, 7'),
  ):
    with pytest.raises(ValueError, match=message):
      secure(computation, values)
  assert secure(bounded, [10, 0, 5]) == 15
  assert secure(bits, [7, 0, 5]) == 12


def test_a_modulus_that_its_dtype_has_no_room_for_raises(secure: Any):
  @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
  def total(x: Any) -> Any:
    return modular_sum(x, 2**31)

  with pytest.raises(ValueError, match='federated_secure_modular_sum outside'):
    secure(total, [5, 6])


def test_a_modular_sum_wraps_its_modulus_alone(secure: Any):
  """TFF's test context wraps the dtype first, and is wrong here."""
  modulus = 2**31 - 1

  @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
  def total(x: Any) -> Any:
    return modular_sum(x, modulus)

  values = [modulus - 1, modulus - 2, 5]
  assert secure(total, values) == sum(values) % modulus


@pytest.mark.parametrize('protocol', ['secagg', 'plain'])
@pytest.mark.parametrize('stage', ['invite', 'share', 'mask'])
def test_results_are_of_the_survivors(
  secure: Any, reference: Any, stage: str, protocol: str
):
  values = [np.int32(100 + i) for i in range(9)]
  with execution.collect_reports() as reports:
    found = secure(
      everything,
      values,
      security=Security(dropout=0.4),
      protocol=protocol,
      dropouts=execution.Dropouts({stage: [0, 4, 8]}),
    )
  left = [v for i, v in enumerate(values) if i not in (0, 4, 8)]
  assert_identical(found, reference(everything, left))
  assert reports[0].survivors == 6
  assert reports[0].dropouts == {stage: 3}


@pytest.mark.parametrize('stage', ['confirm', 'unmask', 'verify'])
def test_a_client_that_drops_out_later_is_summed(
  secure: Any, reference: Any, stage: str
):
  values = [np.int32(100 + i) for i in range(9)]
  with execution.collect_reports() as reports:
    found = secure(
      everything,
      values,
      security=Security(dropout=0.4),
      dropouts=execution.Dropouts({stage: [0, 4, 8]}),
    )
  assert_identical(found, reference(everything, values))
  assert reports[0].survivors == 9


@pytest.mark.parametrize('protocol', ['secagg', 'plain'])
def test_too_few_contributors_abort(in_context: Any, protocol: str):
  context = execution.create_secure_context(
    execution.SecureOptions(
      protocol=protocol,
      security=Security(dropout=0.4),
      min_contributors=6,
      dropouts=execution.Dropouts({'mask': [0, 1]}),
      insecure_aggregates='allow',
    )
  )
  with (
    execution.collect_reports() as reports,
    pytest.raises(execution.RoundAborted, match='aborted') as caught,
  ):
    in_context(context, everything, [np.int32(1)] * 7)
  assert caught.value.stage == 'mask'
  assert not caught.value.sum_known
  assert caught.value.reason in str(caught.value)
  assert not reports
  # The next cohort is none the worse for it.
  found = in_context(context, everything, [np.int32(1)] * 8)
  assert found['limit'] == 6


@pytest.mark.parametrize('protocol', ['secagg', 'plain'])
def test_an_empty_cohort_aborts(secure: Any, protocol: str):
  with pytest.raises(execution.RoundAborted):
    secure(everything, [], protocol=protocol)


def test_the_plain_protocol_says_what_it_is(
  secure: Any, reference: Any, caplog: pytest.LogCaptureFixture
):
  values = [np.int32(i) for i in range(5)]
  with execution.collect_reports() as reports:
    found = secure(everything, values, protocol='plain')
  assert_identical(found, reference(everything, values))
  assert reports[0].threat == 'plain'
  assert reports[0].verified is None
  assert (
    "protocol='plain' adds the clients' vectors in the clear" in caplog.text
  )


def test_what_is_aggregated_in_the_clear_is_judged(
  in_context: Any, caplog: pytest.LogCaptureFixture
):
  @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
  def plain(x: Any) -> Any:
    return tff.federated_sum(x)

  @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
  def hidden(x: Any) -> Any:
    tff.federated_sum(x)  # Nothing depends on it: it is not computed.
    return tff.federated_secure_sum(x, 10)

  values = [np.int32(1), np.int32(2)]
  contexts = {
    policy: execution.create_secure_context(
      execution.SecureOptions(insecure_aggregates=policy)
    )
    for policy in ('allow', 'warn', 'forbid')
  }
  for computation in (plain, everything):
    with pytest.raises(
      execution.UnsupportedComputationError,
      match=r'in the clear: federated_sum\..*no_client_metrics',
    ):
      in_context(contexts['forbid'], computation, values)
    in_context(contexts['allow'], computation, values)
  assert 'in the clear' not in caplog.text
  with caplog.at_level(logging.WARNING, 'tff_secagg_ext'):
    for _ in range(2):
      in_context(contexts['warn'], everything, values)
  assert caplog.text.count('in the clear: federated_sum') == 1
  assert in_context(contexts['forbid'], hidden, values) == 3


def test_a_computation_is_compiled_once(
  in_context: Any, monkeypatch: pytest.MonkeyPatch
):
  compiled = []
  form_of = _forms.of

  def counted(computation: Any) -> Any:
    compiled.append(computation)
    return form_of(computation)

  monkeypatch.setattr(_forms, 'of', counted)

  @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
  def total(x: Any) -> Any:
    return tff.federated_secure_sum(x, 1)

  for protocol in ('secagg', 'plain'):
    context = execution.create_secure_context(
      execution.SecureOptions(security=CURIOUS, protocol=protocol)
    )
    for clients in (2, 3, 2):
      assert in_context(context, total, [1] * clients) == clients
  assert len(compiled) == 1


def test_it_can_be_the_default_context():
  before = tff.framework.get_context_stack().current
  try:
    execution.set_secure_context(
      execution.SecureOptions(insecure_aggregates='allow')
    )
    assert everything([np.int32(4)] * 3)['bits'] == 12
    current = tff.framework.get_context_stack().current
    assert isinstance(current, execution.SecureContext)
  finally:
    tff.framework.set_default_context(before)


def test_only_computations_are_run():
  context = execution.create_secure_context()
  with pytest.raises(TypeError, match='Found a function'):
    context.invoke(lambda: 1, None)
