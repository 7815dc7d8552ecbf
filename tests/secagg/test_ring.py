# SPDX-License-Identifier: Apache-2.0
"""Masks modulo m, and the bytes of vectors."""

from __future__ import annotations

import functools
import operator

from cryptography.hazmat.primitives import ciphers
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import scipy.stats

from tff_secagg_ext.secagg import errors
from tff_secagg_ext.secagg.ring import Keystream, Ring, ring_of
from tff_secagg_ext.secagg.setup import MAX_MODULUS, VectorSpec

# Both sides of each limit at which words, planes or sums change.
EDGES = [
  m
  for bits in (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 20, 31, 32, 33, 47, 61, 62)
  for m in (2**bits - 1, 2**bits, 2**bits + 1)
  if 2 <= m <= MAX_MODULUS
]
MODULI = st.sampled_from(EDGES) | st.integers(2, MAX_MODULUS)
KEYS = st.binary(min_size=32, max_size=32)


@st.composite
def vectors(draw: st.DrawFn) -> tuple[int, list[int]]:
  modulus = draw(MODULI)
  elements = st.integers(0, modulus - 1) | st.just(modulus - 1)
  return modulus, draw(st.lists(elements, max_size=70))


def naive_mask(modulus: int, length: int, key: bytes) -> list[int]:
  """The definition of docs/protocol.md, a word at a time."""
  bits = (modulus - 1).bit_length()
  size = next(size for size in (1, 2, 4, 8) if 8 * size >= bits)
  cipher = ciphers.Cipher(algorithms.AES(key), modes.CTR(bytes(16)))
  encryptor = cipher.encryptor()
  found: list[int] = []
  while len(found) < length:
    word = int.from_bytes(encryptor.update(bytes(size)), 'little')
    word &= (1 << bits) - 1
    if word < modulus:
      found.append(word)
  return found


def naive_pack(modulus: int, values: list[int]) -> bytes:
  """The definition of docs/protocol.md, a bit at a time."""
  bits = (modulus - 1).bit_length()
  data, low = b'', 0
  for width in (32, 16, 8, 4, 2, 1):
    if bits & width:
      number = 0
      for index, value in enumerate(values):
        number |= (value >> low & (1 << width) - 1) << (index * width)
      data += number.to_bytes(-(-len(values) * width // 8), 'little')
      low += width
  return data


def test_a_keystream_is_that_of_the_cipher_however_it_is_read():
  # NIST SP 800-38A has no counter that starts at zero; this is FIPS 197,
  # appendix C.3, with zeros for the plaintext: the block of counter 0.
  key = bytes(range(32))
  block = ciphers.Cipher(algorithms.AES(key), modes.ECB()).encryptor()
  blocks = b''.join(
    block.update(counter.to_bytes(16, 'big')) for counter in range(40_000)
  )
  assert Keystream(key).read(640_000).tobytes() == blocks
  stream = Keystream(key)
  parts = [stream.read(size).tobytes() for size in (0, 1, 17, 300_001, 5)]
  assert b''.join(parts) == blocks[:300_024]


@given(vectors())
def test_a_vector_survives_its_bytes(drawn):
  modulus, values = drawn
  ring = Ring(modulus)
  words = np.array(values, np.int64).astype(ring.accumulator)
  packed = ring.pack(words)
  assert packed == ring.pack(np.array(values, np.int64))
  assert len(packed) == ring.packed_bytes(len(values))
  unpacked = ring.unpack(memoryview(packed), len(values))
  assert unpacked.dtype == ring.accumulator
  assert unpacked.tolist() == values


@given(vectors())
def test_bytes_are_those_of_the_definition(drawn):
  modulus, values = drawn
  assert Ring(modulus).pack(np.array(values, np.int64)) == naive_pack(
    modulus, values
  )


@given(MODULI, st.integers(0, 200))
def test_a_coordinate_has_as_many_bits_as_it_needs(modulus: int, length: int):
  ring = Ring(modulus)
  assert 2 ** (ring.bits - 1) < modulus <= 2**ring.bits
  assert 0 <= ring.packed_bytes(length) - ring.bits * length / 8 < 3
  assert ring.packed_bytes(8 * length) == ring.bits * length


@given(vectors(), st.data())
def test_each_vector_has_one_encoding(drawn, data: st.DataObject):
  modulus, values = drawn
  ring = Ring(modulus)
  packed = bytearray(ring.pack(np.array(values, np.int64)))
  if not packed:
    return
  bit = data.draw(st.integers(0, 8 * len(packed) - 1))
  packed[bit // 8] ^= 1 << bit % 8
  try:
    other = ring.unpack(memoryview(packed), len(values)).tolist()
  except errors.MessageError:
    return
  assert other != values
  assert ring.pack(np.array(other, np.int64)) == packed


@pytest.mark.parametrize('change', [-1, 1])
def test_a_packed_vector_of_another_length(change: int):
  data = bytes(Ring(2**20).packed_bytes(9) + change)
  with pytest.raises(
    errors.MessageError,
    match=f'of 9 coordinates must have 23 bytes. Found {23 + change}',
  ):
    Ring(2**20).unpack(memoryview(data), 9)


def test_a_packed_coordinate_that_is_not_below_the_modulus():
  data = Ring(16).pack(np.array([0, 11, 3]))
  with pytest.raises(
    errors.MessageError, match=r'below the modulus 11\. Found 11'
  ):
    Ring(11).unpack(memoryview(data), 3)


def test_padding_bits_that_are_set():
  with pytest.raises(errors.MessageError, match='Padding bits must be zero'):
    Ring(2).unpack(memoryview(b'\x10'), 4)


@settings(max_examples=60)
@given(MODULI, st.integers(0, 400), KEYS)
def test_a_mask_is_that_of_the_definition(modulus, length, key):
  mask = Ring(modulus).mask(length, key)
  assert mask.dtype == np.int64
  assert mask.tolist() == naive_mask(modulus, length, key)


@pytest.mark.parametrize('modulus', [2**20, 2**20 - 1, 2**33 + 1, 3])
def test_a_mask_longer_than_a_block_is_that_of_the_definition(modulus: int):
  key, length = b'k' * 32, 150_001
  mask = Ring(modulus).mask(length, key)
  assert mask.tolist() == naive_mask(modulus, length, key)


@settings(max_examples=60)
@given(vectors(), st.lists(st.tuples(KEYS, st.sampled_from([1, -1]))))
def test_masks_are_added_and_taken_off_modulo_m(drawn, masks):
  modulus, values = drawn
  ring = Ring(modulus)
  total = np.array(values, np.int64).astype(ring.accumulator)
  expected = list(values)
  for key, sign in masks:
    ring.apply_mask(total, key, sign)
    mask = naive_mask(modulus, len(values), key)
    expected = [a + sign * b for a, b in zip(expected, mask, strict=True)]
  reduced = ring.reduce(total)
  assert reduced.dtype == np.int64
  assert reduced.tolist() == [value % modulus for value in expected]
  assert ring.pack_total(total) == naive_pack(modulus, reduced.tolist())
  ring.apply_masks(total, [(key, -sign) for key, sign in masks])
  assert ring.reduce(total).tolist() == values
  assert ring.pack_total(total) == naive_pack(modulus, values)


@pytest.mark.parametrize('modulus', [2**8, 2**20, 2**20 - 1, 2**33])
def test_masks_of_many_blocks_are_those_of_the_definition(modulus: int):
  ring, length = Ring(modulus), 140_001
  total = ring.zeros(length)
  ring.apply_masks(total, [(b'a' * 32, 1), (b'b' * 32, -1), (b'c' * 32, 1)])
  a, b, c = (
    np.array(naive_mask(modulus, length, key * 32))
    for key in (b'a', b'b', b'c')
  )
  assert (ring.reduce(total) == (a - b + c) % modulus).all()


@given(MODULI, st.data())
def test_sums_are_exact_modulo_m(modulus: int, data: st.DataObject):
  ring = Ring(modulus)
  elements = st.integers(0, modulus - 1) | st.just(modulus - 1)
  terms = data.draw(st.lists(st.lists(elements, min_size=3, max_size=3)))
  signs = data.draw(
    st.lists(st.sampled_from([1, -1]), min_size=len(terms), max_size=len(terms))
  )
  total = ring.zeros(3)
  for term, sign in zip(terms, signs, strict=True):
    words = np.array(term, np.int64).astype(ring.accumulator)
    (ring.add if sign > 0 else ring.subtract)(total, words)
  assert ring.reduce(total).tolist() == [
    sum(map(operator.mul, signs, column)) % modulus
    for column in (zip(*terms, strict=True) if terms else [()] * 3)
  ]


@pytest.mark.parametrize('modulus', [3, 11, 251, 256, 257, 2**16 - 1, 40_000])
def test_masks_pass_chi_square(modulus: int):
  """False alarm: 1e-6 for each modulus; the key is fixed, so none recurs."""
  cells = min(modulus, 256)
  count = 200_000

  def p_value(values: np.ndarray) -> float:
    observed = np.bincount(values * cells // modulus, minlength=cells)
    width = np.bincount(np.arange(modulus) * cells // modulus, minlength=cells)
    return scipy.stats.chisquare(observed, width * count / modulus).pvalue

  mask = Ring(modulus).mask(count, b'c' * 32)
  assert p_value(mask) > 1e-6
  # A mask that reduces words instead of skipping them is found out.
  bits = (modulus - 1).bit_length()
  words = Ring(1 << bits).mask(count, b'c' * 32)
  if not Ring(modulus).is_binary and modulus < 0.9 * 2**bits:
    assert p_value(words % modulus) < 1e-6


def test_the_ring_of_a_vector():
  assert ring_of(VectorSpec('x', 1, 77)) == Ring(77)


def test_many_of_the_largest_coordinates_do_not_overflow():
  for modulus in (2**32 - 1, 2**33 - 1, 2**62 - 1, 2**62):
    ring = Ring(modulus)
    largest = np.array([modulus - 1]).astype(ring.accumulator)
    total = functools.reduce(
      lambda total, _: (ring.add(total, largest), total)[1],
      range(1000),
      ring.zeros(1),
    )
    assert ring.reduce(total)[0] == -1000 % modulus
