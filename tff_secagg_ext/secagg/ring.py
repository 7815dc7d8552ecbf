# SPDX-License-Identifier: Apache-2.0
"""Vectors of integers modulo m: uniform masks, and their bytes.

Guarantees:

- a mask is uniform modulo m, for any m from 2 to 2^62, given that AES-256-CTR
  is a pseudo-random generator: words that are not below m are skipped, and
  nothing is reduced modulo an m that does not divide the range;
- a coordinate has ceil(log2 m) bits on the wire, and each vector has one
  encoding;
- sums of masks are kept in words that wrap by themselves, and reduced once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import functools
import itertools
from typing import Any, TypeAlias

from cryptography.hazmat.primitives import ciphers
from cryptography.hazmat.primitives.ciphers import algorithms, modes
import numpy as np
import numpy.typing as npt

from tff_secagg_ext.secagg import errors
from tff_secagg_ext.secagg.setup import VectorSpec

Words: TypeAlias = npt.NDArray[Any]

# A block of keystream and what it is added to stay in a core's cache.
_BLOCK_BYTES = 1 << 18
_ZEROS = memoryview(bytes(_BLOCK_BYTES))
_MODE = modes.CTR(bytes(16))


class Keystream:
  """The keystream of AES-256-CTR whose counter starts at zero.

  A key has one keystream: it must be used for nothing else.
  """

  def __init__(self, key: bytes):
    self._encryptor = ciphers.Cipher(algorithms.AES(key), _MODE).encryptor()

  def read_into(self, block: memoryview) -> None:
    """Fills bytes, at most a block of them, with the next ones."""
    self._encryptor.update_into(_ZEROS[: len(block)], block)

  def read(self, count: int) -> npt.NDArray[np.uint8]:
    """Returns the next `count` bytes."""
    buffer = np.empty(count, np.uint8)
    for start in range(0, count, _BLOCK_BYTES):
      self.read_into(buffer[start : start + _BLOCK_BYTES].data)
    return buffer


@dataclasses.dataclass(frozen=True)
class Ring:
  """Integers modulo m.

  Attributes:
    modulus: m, from 2 to 2^62.
  """

  modulus: int

  @functools.cached_property
  def bits(self) -> int:
    """ceil(log2 m), the bits of a coordinate on the wire."""
    return (self.modulus - 1).bit_length()

  @functools.cached_property
  def is_binary(self) -> bool:
    """Whether m is a power of 2, and words wrap modulo m by themselves."""
    return self.modulus == 1 << self.bits

  @functools.cached_property
  def word(self) -> np.dtype[Any]:
    """The smallest unsigned word, little-endian, that holds a coordinate."""
    size = next(size for size in (1, 2, 4, 8) if 8 * size >= self.bits)
    return np.dtype(f'<u{size}')

  @property
  def accumulator(self) -> np.dtype[Any]:
    """The word in which sums modulo m are kept."""
    return self.word if self.is_binary else np.dtype('<u8')

  def reduce(self, words: Words) -> npt.NDArray[np.int64]:
    """Returns accumulated words modulo m, as int64 in [0, m)."""
    if self.is_binary:
      words = words & words.dtype.type(self.modulus - 1)
    else:
      words = words % np.uint64(self.modulus)
    return words.astype(np.int64)

  def add(self, total: Words, words: Words) -> None:
    """Adds words in [0, m) to accumulated ones, in place."""
    np.add(total, words, out=total, casting='same_kind')
    # Below 2^32 as many sums as there are clients fit in 64 bits.
    if not self.is_binary and self.bits > 32:
      np.subtract(total, self.modulus, out=total, where=total >= self.modulus)

  def subtract(self, total: Words, words: Words) -> None:
    """Subtracts words in [0, m) from accumulated ones, in place."""
    if self.is_binary:
      np.subtract(total, words, out=total)
    else:
      self.add(total, np.uint64(self.modulus) - words)

  def zeros(self, length: int) -> Words:
    """Returns accumulated words that are zero."""
    return np.zeros(length, self.accumulator)

  def apply_mask(self, total: Words, key: bytes, sign: int) -> None:
    """Adds the mask of a key to accumulated words, or subtracts it.

    Args:
      total: Of the type `accumulator`, contiguous; changed in place.
      key: 32 bytes.
      sign: 1 or -1.
    """
    self.apply_masks(total, [(key, sign)])

  def apply_masks(
    self, total: Words, masks: Iterable[tuple[bytes, int]]
  ) -> None:
    """Adds or subtracts the masks of keys; see `apply_mask`.

    Each block of `total` takes all of them before the next one does, as long as
    it is in the cache.
    """
    streams = [
      (Keystream(key), self.add if sign > 0 else self.subtract)
      for key, sign in masks
    ]
    if not self.is_binary:
      for stream, combine in streams:
        self._combine_accepted(total, stream, combine)
      return
    step = _BLOCK_BYTES // self.word.itemsize
    words = np.empty(min(step, total.size), self.word)
    for start in range(0, total.size, step):
      block = total[start : start + step]
      words = words[: block.size]
      data = words.view(np.uint8).data
      for stream, combine in streams:
        stream.read_into(data)
        combine(block, words)

  def _combine_accepted(
    self,
    total: Words,
    stream: Keystream,
    combine: Callable[[Words, Words], None],
  ) -> None:
    """Combines accumulated words with those of a stream that are below m."""
    step = _BLOCK_BYTES // self.word.itemsize
    buffer = np.empty(min(step, total.size), self.word)
    done = 0
    while done < total.size:
      words = buffer[: total.size - done]
      stream.read_into(words.view(np.uint8).data)
      words &= self.word.type((1 << self.bits) - 1)
      words = words[words < self.modulus].astype(self.accumulator)
      combine(total[done : done + words.size], words)
      done += words.size

  def mask(self, length: int, key: bytes) -> npt.NDArray[np.int64]:
    """Returns the mask of a key: int64[length], uniform in [0, m)."""
    total = self.zeros(length)
    self.apply_mask(total, key, 1)
    return self.reduce(total)

  def pack(self, words: Words) -> bytes:
    """Returns the encoding of words in [0, m): planes of 2^j bits each."""
    words = np.ascontiguousarray(words)
    return b''.join(
      _pack_plane(words >> words.dtype.type(low) if low else words, width).data
      for low, width in _planes(self.bits)
    )

  def pack_total(self, total: Words) -> bytes:
    """Returns the encoding of accumulated words modulo m."""
    # A plane takes no other bits than its own.
    return self.pack(total if self.is_binary else self.reduce(total))

  def packed_bytes(self, length: int) -> int:
    """How many bytes `pack` makes of so many coordinates."""
    return sum(-(-length * width // 8) for _, width in _planes(self.bits))

  def unpack(self, data: memoryview, length: int) -> Words:
    """Returns the words of an encoding, of the type `accumulator`.

    They may be those of `data`, and are not to be written to.

    Raises:
      MessageError: If it is not the encoding of so many coordinates below m.
    """
    if len(data) != self.packed_bytes(length):
      raise errors.MessageError(
        f'A vector of {length} coordinates must have'
        f' {self.packed_bytes(length)} bytes. Found {len(data)}.'
      )
    kind = self.accumulator
    total: Words | None = None
    start = 0
    for low, width in _planes(self.bits):
      end = start + -(-length * width // 8)
      plane = _unpack_plane(data[start:end], length, width)
      plane = plane.astype(kind, copy=False)
      start = end
      total = plane if total is None else total | plane << kind.type(low)
    assert total is not None
    if not self.is_binary and length and int(total.max()) >= self.modulus:
      raise errors.MessageError(
        f'A coordinate must be below the modulus {self.modulus}. Found'
        f' {int(total.max())}.'
      )
    return total


@functools.lru_cache(maxsize=64)
def ring_of(spec: VectorSpec) -> Ring:
  """Returns the ring of a vector."""
  return Ring(spec.modulus)


def _planes(bits: int) -> Iterator[tuple[int, int]]:
  """Yields the lowest bit and the width of each plane, the widest first."""
  widths = [1 << j for j in reversed(range(6)) if bits >> j & 1]
  return zip(itertools.accumulate([0, *widths]), widths, strict=False)


def _pack_plane(words: Words, width: int) -> npt.NDArray[Any]:
  """Returns an array of the bytes of one plane; other bits are left out."""
  if width >= 8:
    return words.astype(f'<u{width // 8}', copy=False)
  small = words.astype(np.uint8) & np.uint8((1 << width) - 1)
  each = 8 // width
  padded = np.zeros(-(-small.size // each) * each, np.uint8)
  padded[: small.size] = small
  packed = np.zeros(padded.size // each, np.uint8)
  for index in range(each):
    packed |= padded[index::each] << np.uint8(index * width)
  return packed


def _unpack_plane(data: memoryview, length: int, width: int) -> Words:
  if width >= 8:
    return np.frombuffer(data, f'<u{width // 8}')
  packed = np.frombuffer(data, np.uint8)
  each = 8 // width
  small = np.empty(packed.size * each, np.uint8)
  for index in range(each):
    small[index::each] = packed >> np.uint8(index * width)
  small &= np.uint8((1 << width) - 1)
  if small[length:].any():
    raise errors.MessageError('Padding bits must be zero. Found others.')
  return small[:length]
