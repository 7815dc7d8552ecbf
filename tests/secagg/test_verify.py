# SPDX-License-Identifier: Apache-2.0
"""The verifiable sum: tags are exact, and wrong sums are found."""

import os
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from tff_secagg_ext.secagg import verify

# Below, at and above the moduli where another limb is needed.
MODULI = [
  2, 3, 255, 1 << 20, (1 << 20) - 1, (1 << 32) - 1, 1 << 32, (1 << 32) + 1,
  (1 << 62) - 1, 1 << 62,
]  # fmt: skip
# Around the rows of a block, the tags, the bytes; and more than one block.
LENGTHS = [0, 1, 15, 16, 17, 63, 64, 65, 1000, 65536, 65537, 150_001]


def keystream(length):
  """Bytes of the kernel, none more than `length` coordinates take."""
  count = (length + 63 + 7) // 8
  return np.frombuffer(os.urandom(count), np.uint8)


def uniform(length, modulus):
  """Coordinates in [0, m); the bias of the reduction is no matter here."""
  words = np.frombuffer(os.urandom(8 * length), np.uint64)
  return (words % np.uint64(modulus)).astype(np.int64)


def naive(bits, x, modulus):
  """A x mod m by its definition, in Python's integers."""
  flat = [int(byte) >> i & 1 for byte in bits for i in range(8)]
  x = [int(value) for value in x]
  return [
    sum(bit * value for bit, value in zip(flat[r:], x, strict=False)) % modulus
    for r in range(64)
  ]


@pytest.mark.parametrize('modulus', MODULI)
@pytest.mark.parametrize('length', LENGTHS[:9])
def test_tags_are_the_product_with_the_matrix(length, modulus):
  bits, x = keystream(length), uniform(length, modulus)
  found = verify.tags(bits, x, modulus)
  assert found.dtype == np.int64
  assert found.tolist() == naive(bits, x, modulus)


@given(
  st.integers(2, 1 << 62).flatmap(
    lambda m: st.tuples(
      st.just(m), st.lists(st.integers(0, m - 1), max_size=200)
    )
  ),
  st.binary(min_size=33, max_size=40),
)
def test_tags_of_any_modulus(case, stream):
  modulus, x = case
  bits = np.frombuffer(stream, np.uint8)
  found = verify.tags(bits, np.array(x, np.int64), modulus)
  assert found.tolist() == naive(bits, x, modulus)


@pytest.mark.parametrize('modulus', [(1 << 32) - 1, 1 << 62])
@pytest.mark.parametrize('length', LENGTHS[9:])
def test_tags_over_several_blocks(length, modulus):
  bits, x = keystream(length), uniform(length, modulus)
  assert verify.tags(bits, x, modulus).tolist() == naive(bits, x, modulus)


@pytest.mark.parametrize('modulus', MODULI)
def test_the_largest_coordinates_are_exact(modulus):
  length = 3 << 16
  bits = np.full((length + 70) // 8, 255, np.uint8)
  x = np.full(length, modulus - 1)
  expected = length * (modulus - 1) % modulus
  assert verify.tags(bits, x, modulus).tolist() == [expected] * 64


def test_bits_beyond_the_matrix_are_not_used():
  bits, x = keystream(1001), uniform(1001, 97)
  longer = np.concatenate([bits, np.full(99, 255, np.uint8)])
  assert np.array_equal(verify.tags(bits, x, 97), verify.tags(longer, x, 97))


@pytest.mark.parametrize('dtype', [np.uint8, np.int32, np.uint32, np.uint64])
def test_any_integers_are_taken(dtype):
  bits, x = keystream(100), uniform(100, 128)
  found = verify.tags(bits, x.astype(dtype), 128)
  assert np.array_equal(found, verify.tags(bits, x, 128))


def test_a_view_with_steps_is_taken():
  bits, x = keystream(100), uniform(200, 128)
  found = verify.tags(bits, x[::2], 128)
  assert np.array_equal(found, verify.tags(bits, x[::2].copy(), 128))


def session(modulus, length, clients=5):
  """Vectors of clients, their pads, and the bits."""
  vectors = [uniform(length, modulus) for _ in range(clients)]
  pads = [uniform(64, modulus) for _ in range(clients)]
  return vectors, pads, keystream(length)


def added(vectors, modulus):
  total = np.zeros_like(vectors[0])
  for vector in vectors:
    total = (total + vector) % modulus
  return total


@pytest.mark.parametrize('modulus', MODULI)
@pytest.mark.parametrize('length', [0, 1, 64, 1000])
def test_the_sum_of_the_survivors_is_accepted(modulus, length):
  vectors, pads, bits = session(modulus, length)
  sent = [
    verify.append_tags(x, bits, pad, modulus)
    for x, pad in zip(vectors, pads, strict=True)
  ]
  assert all(len(vector) == length + 64 for vector in sent)
  total = added(sent, modulus)
  assert np.array_equal(total[:length], added(vectors, modulus))
  assert verify.accepts(total, bits, added(pads, modulus), modulus)


@settings(max_examples=300)
@given(
  st.sampled_from(MODULI),
  st.data(),
)
def test_an_altered_sum_is_not_accepted(modulus, data):
  length = data.draw(st.integers(0, 100))
  vectors, pads, bits = session(modulus, length, 3)
  sent = [
    verify.append_tags(x, bits, pad, modulus)
    for x, pad in zip(vectors, pads, strict=True)
  ]
  total, pads = added(sent, modulus), added(pads, modulus)
  errors = data.draw(
    st.dictionaries(
      st.integers(0, length + 63), st.integers(1, modulus - 1), min_size=1
    )
  )
  for position, error in errors.items():
    total[position] = (total[position] + error) % modulus
  assert not verify.accepts(total, bits, pads, modulus)


@pytest.mark.parametrize('modulus', [2, 1 << 20, (1 << 62) - 1])
def test_a_scaled_replayed_or_other_cohorts_sum_is_not_accepted(modulus):
  vectors, pads, bits = session(modulus, 200)
  sent = [
    verify.append_tags(x, bits, pad, modulus)
    for x, pad in zip(vectors, pads, strict=True)
  ]
  total, all_pads = added(sent, modulus), added(pads, modulus)
  scaled = added([total] * 3, modulus)
  if modulus > 2:  # three times a bit is the bit
    assert not verify.accepts(scaled, bits, all_pads, modulus)
  assert not verify.accepts(total, keystream(200), all_pads, modulus)
  assert not verify.accepts(total, bits, added(pads[1:], modulus), modulus)
  fewer = added(sent[1:], modulus)
  assert not verify.accepts(fewer, bits, all_pads, modulus)
  assert verify.accepts(fewer, bits, added(pads[1:], modulus), modulus)


@pytest.mark.parametrize(
  ('error', 'modulus'),
  [
    ([1], 2),  # one coordinate
    ([0, 2, 0], 4),  # a zero divisor
    ([2, 2, 2], 4),
    ([1, 1, 1, 1], 2),
    ([3, 2, 1], 6),  # composite, divisors of zero and of one
    ([5, 0, 7, 0, 0], 1 << 62),  # zeros at the end
  ],
)
def test_each_row_halves_the_chance_of_a_forgery(error, modulus):
  """All matrices of 5 rows and the most likely A E among all answers."""
  error, rows = np.array(error), 5
  width = len(error) + rows - 1
  counts = {}
  for choice in range(1 << width):
    bits = np.frombuffer(choice.to_bytes(16, 'little'), np.uint8)
    answer = tuple(verify.tags(bits, error, modulus)[:rows].tolist())
    counts[answer] = counts.get(answer, 0) + 1
  assert max(counts.values()) / (1 << width) <= 2**-rows


def test_every_row_alone_finds_half_of_the_errors():
  """For 4,000 errors; 6 standard deviations: false alarms 1e-7."""
  trials, caught = 4000, np.zeros(64)
  for _ in range(trials):
    bits, error = keystream(8), np.zeros(8, np.int64)
    error[os.urandom(1)[0] % 8] = 1 + int(uniform(1, 255)[0])
    caught += verify.tags(bits, error, 256) != 0
  deviation = np.abs(caught - trials / 2) / np.sqrt(trials / 4)
  assert deviation.max() < 6


def test_tags_keep_no_copy_of_a_long_vector():
  length = 1 << 22
  bits, x = keystream(length), uniform(length, 1 << 62)
  tracemalloc.start()
  try:
    verify.tags(bits, x, 1 << 62)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < x.nbytes / 4


GOOD = {'bits': np.zeros(9, np.uint8), 'x': np.zeros(3, int), 'modulus': 7}
PAD = np.zeros(64, int)


@pytest.mark.parametrize(
  ('change', 'error', 'message'),
  [
    ({'modulus': 1}, ValueError, '`modulus` must be at least 2. Found 1'),
    (
      {'modulus': (1 << 62) + 1},
      ValueError,
      r'`modulus` must be at most 4611686018427387904\.',
    ),
    ({'modulus': 7.0}, TypeError, '`modulus` must be an integer. Found 7.0'),
    (
      {'bits': np.zeros(8, np.uint8)},
      ValueError,
      r'`bits` must be at least 9 bytes for 3 coordinates\. Found shape \(8,\)',
    ),
    (
      {'bits': np.zeros((9, 9), np.uint8)},
      ValueError,
      r'at least 9 bytes for 3 coordinates\. Found shape \(9, 9\)',
    ),
    ({'bits': np.zeros(9, int)}, TypeError, '`bits` must be an array of uint8'),
    ({'bits': b'123456789'}, TypeError, '`bits` must be an array of uint8'),
    (
      {'x': np.zeros(3)},
      TypeError,
      '`x` must be an array of integers. Found float64',
    ),
    ({'x': [0, 1, 2]}, TypeError, '`x` must be an array of integers. Found li'),
    (
      {'x': np.zeros((3, 1), int)},
      ValueError,
      r'`x` must be one vector. Found shape \(3, 1\)',
    ),
    (
      {'x': np.array([0, 7, 0])},
      ValueError,
      '`x` must have coordinates from 0 to 6, and has another. Reduce it',
    ),
    (
      {'x': np.array([0, -1, 0])},
      ValueError,
      '`x` must have coordinates from 0 to 6, and has another. Reduce it',
    ),
    (
      {'x': np.broadcast_to(np.uint8(0), (1 << 31) + 1)},
      ValueError,
      '`x` must have at most 2147483648 coordinates. Found 2147483649',
    ),
  ],
)
def test_bad_arguments_of_tags(change, error, message):
  with pytest.raises(error, match=message):
    verify.tags(**{**GOOD, **change})


@pytest.mark.parametrize(
  ('change', 'error', 'message'),
  [
    (
      {'pad': np.zeros(63, int)},
      ValueError,
      '`pad` must have 64 coordinates. Found 63',
    ),
    ({'pad': PAD + 7}, ValueError, '`pad` must have coordinates from 0 to 6'),
    ({'pad': PAD * 1.0}, TypeError, '`pad` must be an array of integers'),
    ({'modulus': 1}, ValueError, '`modulus` must be at least 2'),
  ],
)
def test_bad_arguments_of_append_tags(change, error, message):
  with pytest.raises(error, match=message):
    verify.append_tags(**{**GOOD, 'pad': PAD, **change})


@pytest.mark.parametrize(
  ('change', 'error', 'message'),
  [
    (
      {'total': np.zeros(63, int)},
      ValueError,
      '`total` must have at least 64 coordinates, the tags. Found 63',
    ),
    ({'total': np.zeros(67)}, TypeError, '`total` must be an array of integer'),
    ({'pads': PAD + 7}, ValueError, '`pad` must have coordinates from 0 to 6'),
    (
      {'bits': np.zeros(8, np.uint8)},
      ValueError,
      '`bits` must be at least 9 bytes',
    ),
    ({'modulus': 1}, ValueError, '`modulus` must be at least 2'),
  ],
)
def test_bad_arguments_of_accepts(change, error, message):
  good = {
    'total': np.zeros(67, int),
    'bits': GOOD['bits'],
    'pads': PAD,
    'modulus': 7,
  }
  with pytest.raises(error, match=message):
    verify.accepts(**{**good, **change})


@pytest.mark.parametrize('coordinate', [-7, 7])
@pytest.mark.parametrize('position', [0, 66])
def test_a_sum_outside_the_ring_is_not_accepted(position, coordinate):
  total, bits = np.zeros(67, int), GOOD['bits']
  assert verify.accepts(total, bits, PAD, 7)
  total[position] += coordinate
  assert not verify.accepts(total, bits, PAD, 7)


def test_errors_tell_no_coordinate():
  secret = 314159265
  with pytest.raises(ValueError) as caught:
    verify.tags(GOOD['bits'], np.array([1, secret]), 1000)
  assert str(secret) not in str(caught.value)
