# SPDX-License-Identifier: Apache-2.0
"""What TFF asks of an aggregation factory, asked of ours: types and values."""

from __future__ import annotations

import collections

import attrs
import numpy as np
import pytest
import tensorflow as tf

from tff_secagg_ext import aggregators
from tff_secagg_ext._compat import tff

CLIENTS = 3
float32, int32 = np.float32, np.int32


@attrs.define
class Pair:
  """A structure whose fields are not in alphabetical order."""

  weight: object
  bias: object


def make_factory(**choices):
  settings = {
    'noise_multiplier': 0.0,
    'expected_clients_per_round': CLIENTS,
    'clipping': 1e4,
    'zeroing': False,
    'bits': 24,
  }
  return aggregators.ddp_secure_aggregator(**{**settings, **choices})


def run(factory, value_type, values):
  process = factory.create(tff.to_type(value_type))
  return process.next(process.initialize(), values)


# What is aggregated, a client's value as a function of its number, and the
# mean of the clients 1, 2 and 3.
STRUCTURES = {
  'scalar': (float32, lambda i: float32(i), 2.0),
  'vector of one': (
    (float32, [1]),
    lambda i: np.full(1, i, float32),
    np.full(1, 2.0),
  ),
  'matrix': (
    (float32, [2, 3]),
    lambda i: np.full((2, 3), i, float32),
    np.full((2, 3), 2.0),
  ),
  'tuple': ((float32, float32), lambda i: (1.0 * i, -1.0 * i), (2.0, -2.0)),
  'list': (
    [float32, (float32, [2])],
    lambda i: [1.0 * i, np.float32([i, 3 * i])],
    [2.0, np.array([2.0, 6.0])],
  ),
  'unsorted keys': (
    collections.OrderedDict(b=float32, a=(float32, [2])),
    lambda i: collections.OrderedDict(b=5.0 * i, a=np.float32([i, 2 * i])),
    collections.OrderedDict(b=10.0, a=np.array([2.0, 4.0])),
  ),
  'nested': (
    collections.OrderedDict(z=[float32, (int32, [2])], a=(float32,)),
    lambda i: collections.OrderedDict(
      z=[1.0 * i, np.int32([i, -i])], a=(7.0 * i,)
    ),
    collections.OrderedDict(z=[2.0, np.array([2, -2])], a=(14.0,)),
  ),
  'attrs': (
    Pair(weight=(float32, [2]), bias=float32),
    lambda i: Pair(weight=np.float32([i, 2 * i]), bias=-1.0 * i),
    Pair(weight=np.array([2.0, 4.0]), bias=-2.0),
  ),
}


def value_type_of(spec):
  if isinstance(spec, Pair):
    fields = [(name, getattr(spec, name)) for name in ('weight', 'bias')]
    return tff.StructWithPythonType(fields, Pair)
  return tff.to_type(spec)


def assert_close(found, expected):
  assert type(found) is type(expected) or not isinstance(
    expected, (list, tuple, dict, Pair)
  )
  if isinstance(expected, Pair):
    found, expected = attrs.asdict(found), attrs.asdict(expected)
  if isinstance(expected, dict):
    assert list(found) == list(expected)
    found, expected = list(found.values()), list(expected.values())
  if isinstance(expected, (list, tuple)):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
      assert_close(one, other)
  else:
    np.testing.assert_allclose(found, expected, atol=0.05)


@pytest.mark.parametrize('name', STRUCTURES)
def test_signature_and_python_containers(name):
  spec, value, mean = STRUCTURES[name]
  value_type = value_type_of(spec)
  process = make_factory().create(value_type)
  state_type = tff.to_type(
    collections.OrderedDict(
      clip_norm=float32,
      zeroing_quantile=float32,
      rotation_seed=np.int64,
      round=int32,
    )
  )
  measurements_type = tff.to_type(
    collections.OrderedDict(
      clip_norm=float32,
      scale=float32,
      dimension=int32,
      contributors=int32,
      wrap_probability=float32,
      effective_noise_multiplier=float32,
      aborted=np.bool_,
    )
  )
  server = tff.SERVER
  expected = tff.FunctionType(
    collections.OrderedDict(
      state=tff.FederatedType(state_type, server),
      value=tff.FederatedType(value_type, tff.CLIENTS),
    ),
    tff.templates.MeasuredProcessOutput(
      tff.FederatedType(state_type, server),
      tff.FederatedType(value_type, server),
      tff.FederatedType(measurements_type, server),
    ),
  )
  tff.test.assert_types_equivalent(process.next.type_signature, expected)
  assert isinstance(process, tff.templates.AggregationProcess)
  assert process.is_weighted is False
  output = process.next(process.initialize(), [value(i) for i in (1, 2, 3)])
  assert_close(output.result, mean)


@pytest.mark.parametrize('empty', [[], (), collections.OrderedDict()])
def test_empty_structures(empty):
  output = run(make_factory(), empty, [empty] * CLIENTS)
  assert len(output.result) == 0
  assert output.measurements['contributors'] == CLIENTS


@pytest.mark.parametrize(
  'dtype',
  [
    np.float16,
    np.float32,
    np.float64,
    tf.bfloat16.as_numpy_dtype,
    np.int8,
    np.int32,
    np.int64,
    np.uint8,
  ],
)
def test_dtypes_survive(dtype):
  values = [np.full(3, i, dtype) for i in (1, 2, 3)]
  process = make_factory().create(tff.TensorType(dtype, [3]))
  result_type = process.next.type_signature.result.result.member
  assert result_type == tff.TensorType(dtype, [3])
  if dtype == tf.bfloat16.as_numpy_dtype:
    return  # TFF's runtime of 0.87.0 does not take bfloat16 values.
  output = process.next(process.initialize(), values)
  assert output.result.dtype == dtype
  np.testing.assert_allclose(
    output.result.astype(float), np.full(3, 2.0), atol=0.05
  )


@pytest.mark.parametrize('rotation_type', ['hd', 'dft'])
@pytest.mark.parametrize('dimension', [1, 2, 3, 1000, 1023])
def test_dimensions(dimension, rotation_type):
  value = np.linspace(-1, 1, dimension, dtype=float32)
  factory = make_factory(rotation_type=rotation_type, clipping=100.0)
  output = run(factory, (float32, [dimension]), [value] * CLIENTS)
  np.testing.assert_allclose(output.result, value, atol=1e-2)
  padded = factory.padded_dimension(dimension)
  assert output.measurements['dimension'] == padded >= dimension


@pytest.mark.parametrize('bits', [8, 9, 12, 16, 20, 22, 24, 30])
def test_bits_bound_the_error(bits):
  factory = make_factory(bits=bits, clipping=2.0)
  value = np.float32([1.0, -1.0])
  output = run(factory, (float32, [2]), [value] * CLIENTS)
  off = 2 * 2.0 / float(output.measurements['scale'])
  np.testing.assert_allclose(output.result, value, atol=off + 1e-5)


@pytest.mark.parametrize('bits', range(2, 31))
def test_bits_either_fit_or_say_which_would(bits):
  factory = make_factory(bits=bits, noise_multiplier=1.0)
  try:
    constants = factory.constants(16)
  except ValueError as error:
    assert 'Use bits=' in str(error)
    assert bits < 8
  else:
    assert constants.modulus == 2**bits
    assert constants.wrap_probability(CLIENTS) <= 1e-4


def test_the_number_of_clients_may_change_from_round_to_round():
  process = make_factory().create(tff.TensorType(float32, [2]))
  state = process.initialize()
  for number, clients in enumerate((3, 1, 5)):
    assert state['round'] == number
    values = [np.full(2, i, float32) for i in range(clients)]
    output = process.next(state, values)
    expected = np.full(2, (clients - 1) / 2)
    np.testing.assert_allclose(output.result, expected, atol=0.05)
    assert output.measurements['contributors'] == clients
    state = output.state


def test_clip_norm_and_threshold_adapt_in_the_runtime():
  factory = aggregators.ddp_secure_aggregator(0.0, CLIENTS)
  process = factory.create(tff.TensorType(float32, [2]))
  state = process.initialize()
  values = [np.full(2, 50.0, float32)] * CLIENTS
  output = process.next(state, values)
  assert output.measurements['clip_norm'] == pytest.approx(0.1)
  assert output.measurements['zeroing_threshold'] == pytest.approx(21.0)
  # Zero up to the rounding of the bits, a few steps of 0.1 / scale.
  np.testing.assert_allclose(output.result, np.zeros(2), atol=1e-6)
  # All were zeroed, so all have a norm below the clip norm of 0.1, and a
  # largest coordinate above the quantile of 10.
  assert output.state['clip_norm'] < 0.1
  assert output.state['zeroing_quantile'] > 10


@pytest.mark.parametrize(
  'value_type',
  [
    tff.TensorType(np.str_),
    tff.TensorType(np.bool_, [2]),
    tff.TensorType(np.complex64),
    tff.TensorType(float32, [None]),
    tff.TensorType(float32, None),
    tff.SequenceType(float32),
    tff.FunctionType(None, float32),
    tff.FederatedType(float32, tff.CLIENTS),
    tff.to_type(collections.OrderedDict(a=float32, b=np.str_)),
    tff.to_type([float32, tff.SequenceType(float32)]),
  ],
  ids=str,
)
def test_other_types_are_refused(value_type):
  with pytest.raises(TypeError, match='`value_type` must be a tensor'):
    make_factory().create(value_type)
