# SPDX-License-Identifier: Apache-2.0
"""Layers of noise once more and slowly, from docs/protocol.md alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
import functools
import hashlib
import itertools
import struct
from typing import NamedTuple

from tests.oracles import laws, secagg

CHUNK = 2**16
LAWS = (laws.discrete_gaussian, laws.skellam)


class Noise(NamedTuple):
  """A noise of the setup, in the order of its bytes."""

  vector: int
  start: int
  dimension: int
  law: int
  share_stddev: float
  clients: int
  dropouts: int
  colluders: int

  @property
  def body(self) -> bytes:
    return struct.pack('<IIIBdIII', *self)

  def variance(self, layer: int) -> Fraction:
    """S/(n - c - j) - S/(n - c - j + 1)."""
    honest = self.clients - self.colluders
    total = Fraction(self.share_stddev) ** 2 * honest
    return total / (honest - layer) - total / (honest - layer + 1)


def seed_of(first: bytes, layer: int) -> bytes:
  """The seed of a layer, of that of layer 1."""
  for _ in range(layer - 1):
    first = hashlib.sha256(first).digest()
  return first


def coordinates(key: bytes, noise: Noise, layer: int) -> list[int]:
  """The coordinates of a layer, drawn one at a time."""
  law = law_of(noise.law, noise.variance(layer))
  stream = secagg.keystream(key)
  found: list[int] = []
  while len(found) < noise.dimension:
    count = min(CHUNK, noise.dimension - len(found))
    heads = [number(stream, 2) for _ in range(count)]

    def words(part: int, count: int) -> Sequence[int]:
      del part
      return [number(stream, 4) for _ in range(count)]

    found += laws.invert([law], heads, words)
  return found


@functools.lru_cache(maxsize=64)
def law_of(law: int, variance: Fraction) -> laws.Probabilities:
  """The law of a layer, to 60 digits."""
  exact = laws.mpmath.mpf(variance.numerator) / variance.denominator
  return LAWS[law](exact, int(9.5 * float(variance) ** 0.5) + 30)


def number(stream: Iterator[int], size: int) -> int:
  return int.from_bytes(bytes(itertools.islice(stream, size)), 'little')


def layer_of(
  seed: bytes, setup_digest: bytes, name: str, noise: Noise, layer: int
) -> list[int]:
  """The coordinates of the layer of a seed, in a session."""
  role = secagg.Role('layer', layer, noise.start, name)
  key = secagg.derive(seed, setup_digest, role)
  return coordinates(key, noise, layer)


def unmask_shares(
  shares: Sequence[tuple[bool, Sequence[bytes]]], noise: Noise, survivors: int
) -> bytes:
  """The body of an UnmaskShares.

  Args:
    shares: For each neighbor in U2, whether it survived, and its plaintext in
      parts of 32 bytes.
    noise: Of the session.
    survivors: How many vectors are in the sum.
  """
  missing = max(0, noise.clients - survivors)
  body = b''.join(parts[0 if alive else 1] for alive, parts in shares)
  if missing < noise.dropouts:
    body += b''.join(parts[2 + missing] for alive, parts in shares if alive)
  return body
