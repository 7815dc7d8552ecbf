# SPDX-License-Identifier: Apache-2.0
"""Shares: t give the key, t - 1 tell nothing, and arithmetic is exact."""

from __future__ import annotations

import collections
import itertools
import os
import struct

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import scipy.stats

from tests.oracles.secagg_messages import Stream
from tff_secagg_ext.secagg import shamir
from tff_secagg_ext.secagg.shamir import PRIME

WORDS = st.integers(0, PRIME - 1) | st.sampled_from([0, 1, PRIME - 1])
SECRETS = st.lists(WORDS, min_size=8, max_size=8).map(
  lambda words: struct.pack('<8I', *words)
)


def words_of(data: bytes) -> tuple[int, ...]:
  return struct.unpack('<8I', data)


def naive_combine(points: list[int], shares: list[bytes]) -> bytes:
  """Lagrange's formula at 0, in integers."""
  key = [0] * 8
  for i, share in zip(points, shares, strict=True):
    weight = 1
    for j in points:
      if j != i:
        weight = weight * j * pow(j - i, -1, PRIME) % PRIME
    for index, word in enumerate(words_of(share)):
      key[index] = (key[index] + weight * word) % PRIME
  return struct.pack('<8I', *key)


def test_the_field_has_a_prime_number_of_elements():
  assert PRIME == 2**32 - 5
  assert all(PRIME % i for i in itertools.chain([2], range(3, 65536, 2)))


@given(SECRETS, st.integers(1, 12), st.data())
def test_any_t_shares_give_the_key(key, count, data: st.DataObject):
  threshold = data.draw(st.integers(1, count))
  points = data.draw(
    st.permutations(range(1, count + 1)).map(lambda order: order[:threshold])
  )
  shares = shamir.share(key, count, threshold)
  assert len(shares) == count
  chosen = [shares[point - 1] for point in points]
  assert shamir.combine(points, chosen) == key
  assert naive_combine(points, chosen) == key


@given(SECRETS, st.integers(2, 12))
def test_fewer_than_t_shares_give_another_key(key, threshold: int):
  shares = shamir.share(key, threshold, threshold)
  points = list(range(1, threshold))
  # Chance would give the key once in 2^256.
  assert shamir.combine(points, shares[:-1]) != key


@given(SECRETS, st.integers(1, 6), st.integers(1, 9), st.binary(max_size=9))
def test_shares_are_values_of_polynomials(key, threshold, more, seed):
  """Of coefficients that are drawn in order, one word of each key word."""
  count = threshold + more
  drawn = []

  def draw(size: int) -> bytes:
    drawn.append(stream(size))
    return drawn[-1]

  stream = Stream(seed.hex())
  shares = shamir.share(key, count, threshold, draw)
  coefficients = [
    word
    for part in drawn
    for word in struct.unpack(f'<{len(part) // 4}I', part)
    if word < PRIME
  ]
  for point, share in enumerate(shares, 1):
    for index, word in enumerate(words_of(share)):
      value = words_of(key)[index]
      for power in range(1, threshold):
        coefficient = coefficients[(power - 1) * 8 + index]
        value += coefficient * pow(point, power, PRIME)
      assert word == value % PRIME


@given(SECRETS, SECRETS, st.integers(1, 6), st.integers(0, 4))
def test_keys_are_shared_together_as_each_alone(a, b, threshold, more):
  count = threshold + more
  together, alone = Stream('shares'), Stream('shares')
  assert shamir.share(a + b, count, threshold, together) == [
    of_a + of_b
    for of_a, of_b in zip(
      *(shamir.share(key, count, threshold, alone) for key in (a, b)),
      strict=True,
    )
  ]


@given(SECRETS, SECRETS, st.integers(1, 5))
def test_sharing_is_linear(a, b, threshold: int):
  points = list(range(1, threshold + 1))
  pairs = zip(
    shamir.share(a, threshold, threshold),
    shamir.share(b, threshold, threshold),
    strict=True,
  )
  sums = [
    struct.pack('<8I', *((x + y) % PRIME for x, y in zip(*words, strict=True)))
    for words in (tuple(map(words_of, pair)) for pair in pairs)
  ]
  expected = [
    (x + y) % PRIME for x, y in zip(words_of(a), words_of(b), strict=True)
  ]
  assert words_of(shamir.combine(points, sums)) == tuple(expected)


def test_arithmetic_is_exact_where_products_are_largest():
  """Thresholds and words as large as sessions of 1,000 clients have them."""
  key = struct.pack('<8I', *[PRIME - 1] * 8)
  largest = struct.pack('<I', PRIME - 1)
  shares = shamir.share(key, 999, 700, lambda size: largest * (size // 4))
  for point in (1, 500, 999):
    value = sum((PRIME - 1) * pow(point, power, PRIME) for power in range(700))
    assert words_of(shares[point - 1]) == (value % PRIME,) * 8
  points = list(range(300, 1000))
  assert shamir.combine(points, shares[299:]) == key


def test_a_share_below_the_threshold_is_uniform_whatever_the_key_is():
  """Chi-square over 16 cells; false alarm 1e-6 for each of two keys."""
  for key in (bytes(32), struct.pack('<8I', *[PRIME - 1] * 8)):
    stream = Stream(f'uniform {key[0]}')
    first = [shamir.share(key, 2, 2, stream)[0] for _ in range(2000)]
    words = np.frombuffer(b''.join(first), '<u4').astype(np.float64)
    cells = np.bincount((words * 16 / PRIME).astype(int), minlength=16)
    assert scipy.stats.chisquare(cells).pvalue > 1e-6


def test_the_words_of_a_share_are_of_polynomials_of_their_own():
  share = shamir.share(bytes(32), 2, 2)[0]
  assert len(set(words_of(share))) == 8


def test_words_that_are_not_elements_are_drawn_again():
  draws = collections.deque([b'\xff' * 32, bytes(28) + b'\xff' * 4, b'k' * 32])
  assert shamir.draw_shareable(lambda _: draws.popleft()) == b'k' * 32
  assert not draws
  assert shamir.is_shareable(struct.pack('<8I', *[PRIME - 1] * 8))
  assert not shamir.is_shareable(struct.pack('<8I', *[PRIME] + [0] * 7))
  assert len(shamir.draw_shareable()) == 32


def test_coefficients_that_are_not_elements_are_skipped():
  wanted = struct.pack('<9I', PRIME, *range(8))
  draws = collections.deque([wanted[:32], wanted[32:]])
  sizes = []

  def draw(size: int) -> bytes:
    sizes.append(size)
    return draws.popleft()

  shares = shamir.share(bytes(32), 1, 1, os.urandom)
  assert shares == [bytes(32)]
  assert words_of(shamir.share(bytes(32), 2, 2, draw)[0]) == tuple(range(8))
  assert sizes == [32, 4]


def test_a_share_that_is_not_of_elements():
  with pytest.raises(
    ValueError, match=f'Each word of a share must be below {PRIME}'
  ):
    shamir.combine([1], [b'\xff' * 32])
