# SPDX-License-Identifier: Apache-2.0
"""Secret sharing over a prime field [Shamir 1979], for 32-byte keys.

A key is eight 32-bit words, each an element of the field of p = 2^32 - 5: a
key with a word that is not below p is drawn again, which happens once in 10^8
draws. So a share is as long as the key.

Guarantees:

- fewer than t shares tell nothing about the key: each of its words is shared
  by a polynomial of its own, of uniform coefficients from the kernel;
- exactly t shares give the key back;
- arithmetic is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import os
from typing import Any

import numpy as np
import numpy.typing as npt

PRIME = 2**32 - 5
KEY_BYTES = 32
_WORDS = KEY_BYTES // 4
_P = np.uint64(PRIME)

Elements = npt.NDArray[np.uint64]


def is_shareable(key: bytes) -> bool:
  """Whether each word of a key, or of several, is an element of the field."""
  return bool((np.frombuffer(key, '<u4') < PRIME).all())


def draw_shareable(draw: Callable[[int], bytes] = os.urandom) -> bytes:
  """Returns a 32-byte key, uniform among those that can be shared."""
  while not is_shareable(key := draw(KEY_BYTES)):
    pass
  return key


def share(
  key: bytes,
  count: int,
  threshold: int,
  draw: Callable[[int], bytes] = os.urandom,
) -> list[bytes]:
  """Returns `count` shares of a key, any `threshold` of which give it back.

  Args:
    key: 32 bytes, shareable.
    count: Number of shares; share i, from 0, holds the values at i + 1.
    threshold: t, from 1 to `count`.
    draw: Gives so many random bytes.
  """
  secret = np.frombuffer(key, '<u4').astype(np.uint64)
  random = _draw_elements((threshold - 1) * _WORDS, draw)
  coefficients = np.vstack([secret, random.reshape(-1, _WORDS)])
  values = _product(_powers(count, threshold), coefficients)
  data = values.astype('<u4').tobytes()
  return [data[i : i + KEY_BYTES] for i in range(0, len(data), KEY_BYTES)]


def combine(points: Sequence[int], shares: Sequence[bytes]) -> bytes:
  """Returns the key of which these are t shares.

  Args:
    points: t different numbers from 1, where the shares are values.
    shares: 32 bytes each, in the order of `points`.

  Raises:
    ValueError: If a word of a share is not an element of the field.
  """
  joined = b''.join(shares)
  if not is_shareable(joined):
    raise ValueError(f'Each word of a share must be below {PRIME}.')
  values = np.frombuffer(joined, '<u4').astype(np.uint64)
  weights = _lagrange(tuple(points))
  key = _product(weights[np.newaxis], values.reshape(-1, _WORDS))
  return key.astype('<u4').tobytes()


def _draw_elements(count: int, draw: Callable[[int], bytes]) -> Elements:
  """Returns uniform elements of the field; others are skipped."""
  words = np.frombuffer(draw(4 * count), '<u4')
  accepted = words[words < PRIME].astype(np.uint64)
  missing = count - accepted.size
  if not missing:
    return accepted
  return np.concatenate([accepted, _draw_elements(missing, draw)])


@functools.lru_cache(maxsize=64)
def _powers(count: int, threshold: int) -> Elements:
  """uint64[count, threshold]: the powers of 1, ..., count modulo p."""
  points = np.arange(1, count + 1, dtype=np.uint64)
  table = np.ones((count, threshold), np.uint64)
  for power in range(1, threshold):
    table[:, power] = table[:, power - 1] * points % _P
  return table


@functools.lru_cache(maxsize=4096)
def _lagrange(points: tuple[int, ...]) -> Elements:
  """uint64[t]: the weights that interpolate at 0 from values at `points`."""
  at = np.asarray(points, np.uint64)
  numerator: Elements = np.ones(at.size, np.uint64)
  denominator: Elements = np.ones(at.size, np.uint64)
  for index in range(at.size):
    others = np.arange(at.size) != index
    factor: Elements = np.where(others, at[index], np.uint64(1))
    numerator = numerator * factor % _P
    difference: Elements = np.where(others, at[index] + _P - at, np.uint64(1))
    denominator = denominator * (difference % _P) % _P
  return numerator * _inverse(denominator) % _P


def _inverse(values: Elements) -> Elements:
  """The inverses modulo p, by Fermat's little theorem."""
  result = np.ones_like(values)
  for bit in f'{PRIME - 2:b}':
    result = result * result % _P
    if bit == '1':
      result = result * values % _P
  return result


def _product(left: Elements, right: Elements) -> Elements:
  """The matrix product modulo p, exact.

  Factors are split into 16-bit halves, whose products are below 2^32: up to
  2^21 of them add up to less than 2^53, which a float64 holds exactly.
  """

  def halves(matrix: Elements) -> tuple[Any, Any]:
    low = (matrix & np.uint64(0xFFFF)).astype(np.float64)
    return low, (matrix >> np.uint64(16)).astype(np.float64)

  def modulo_p(matrix: npt.NDArray[np.float64]) -> Elements:
    return matrix.astype(np.uint64) % _P

  left_low, left_high = halves(left)
  right_low, right_high = halves(right)
  high = modulo_p(left_high @ right_high)
  middle = modulo_p(left_low @ right_high) + modulo_p(left_high @ right_low)
  result = modulo_p(left_low @ right_low)
  result += (middle % _P << np.uint64(16)) % _P
  result += ((high << np.uint64(16)) % _P << np.uint64(16)) % _P
  return result % _P
