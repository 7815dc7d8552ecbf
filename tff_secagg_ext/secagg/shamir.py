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
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

PRIME = 2**32 - 5
KEY_BYTES = 32
_WORDS = KEY_BYTES // 4
_P = np.uint64(PRIME)

Elements = npt.NDArray[np.uint64]
_Halves: TypeAlias = npt.NDArray[np.float64]


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

  Several keys are shared as each would be alone, one after the other.

  Args:
    key: 32 bytes, shareable; or several of them, joined.
    count: Number of shares, as long as `key`; share i, from 0, holds the values
      at i + 1.
    threshold: t, from 1 to `count`.
    draw: Gives so many random bytes.
  """
  secret = np.frombuffer(key, '<u4').astype(np.uint64)
  random = [
    _draw_elements((threshold - 1) * _WORDS, draw).reshape(-1, _WORDS)
    for _ in range(0, len(key), KEY_BYTES)
  ]
  coefficients = np.vstack([secret, np.hstack(random)])
  values = _product(_powers(count, threshold), coefficients)
  data = values.astype('<u4').tobytes()
  return [data[i : i + len(key)] for i in range(0, len(data), len(key))]


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
  key = _product(weights, values.reshape(-1, _WORDS))
  return key.astype('<u4').tobytes()


def _draw_elements(count: int, draw: Callable[[int], bytes]) -> Elements:
  """Returns uniform elements of the field; others are skipped."""
  words = np.frombuffer(draw(4 * count), '<u4')
  accepted = words[words < PRIME].astype(np.uint64)
  missing = count - accepted.size
  if not missing:
    return accepted
  return np.concatenate([accepted, _draw_elements(missing, draw)])


@functools.lru_cache(maxsize=8)
def _powers(count: int, threshold: int) -> _Halves:
  """Of elements [count, threshold]: the powers of 1, ..., count modulo p."""
  points = np.arange(1, count + 1, dtype=np.uint64)
  table = np.ones((count, threshold), np.uint64)
  for power in range(1, threshold):
    table[:, power] = table[:, power - 1] * points % _P
  return _halves(table)


@functools.lru_cache(maxsize=4096)
def _lagrange(points: tuple[int, ...]) -> _Halves:
  """Of elements [1, t]: the weights to interpolate at 0 from `points`.

  Weight i is the product over j != i of x_j / (x_j - x_i): that of all x_j by
  that of row i of a matrix with x_i, for j = i, and x_j - x_i.
  """
  at = np.asarray(points, np.uint64)
  rows = (at + (_P - at[:, np.newaxis])) % _P
  np.fill_diagonal(rows, at)
  weights = _products(at) * _inverse(_products(rows)) % _P
  return _halves(weights[np.newaxis])


def _products(factors: Elements) -> Elements:
  """The products modulo p along the last axis, by halves of it."""
  while (size := factors.shape[-1]) > 1:
    half = size // 2
    products = factors[..., :half] * factors[..., half : 2 * half] % _P
    rest = factors[..., 2 * half :]
    factors = np.concatenate([products, rest], axis=-1)
  return factors[..., 0]


def _inverse(values: Elements) -> Elements:
  """The inverses modulo p, by Fermat's little theorem."""
  result = np.ones_like(values)
  for bit in f'{PRIME - 2:b}':
    result = result * result % _P
    if bit == '1':
      result = result * values % _P
  return result


def _halves(elements: Elements) -> _Halves:
  """Returns float64[2, ...]: the low 16 bits, and the high ones."""
  parts = [elements & np.uint64(0xFFFF), elements >> np.uint64(16)]
  return np.array(parts, np.float64)


def _product(left: _Halves, right: Elements) -> Elements:
  """The matrix product modulo p, exact.

  Products of 16-bit halves are below 2^32: up to 2^21 of them add up to less
  than 2^53, which a float64 holds exactly.
  """
  products = left @ np.hstack([*_halves(right)])
  low, high = products.astype(np.uint64) % _P
  columns = right.shape[1]
  middle = (low[:, columns:] + high[:, :columns]) % _P
  result: Elements = low[:, :columns] + (middle << np.uint64(16)) % _P
  result += ((high[:, columns:] << np.uint64(16)) % _P << np.uint64(16)) % _P
  return result % _P
