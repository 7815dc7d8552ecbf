# SPDX-License-Identifier: Apache-2.0
"""Directions of canary clients, drawn from a seed, and their cosines.

A canary client sends a random unit vector, scaled to the clip norm, in place
of a trained update. Its cosines with what is released tell how much of it is
left [AKOOMS23, arXiv 2302.03098].

Dense independent directions would cost count times dimension draws. Here the
count is written as a sum of powers of 4, and each of them, n = 4^p, is a
*family* of n directions with one Gaussian vector g: with residues r uniform in
{0, ..., n - 1}, Hadamard's matrix H of order n, and the bent signs s with
H s = sqrt(n) s,

  c_i = s_i g * H[i, r] / |g|,     c_1 + ... + c_n = sqrt(n) g * s[r] / |g|.

Signs do not change the law of g: each direction, and that of their sum, is
uniform on the sphere, exactly. All n cosines take one pass over the vector.
docs/audit.md, section 2, has the proofs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import hashlib
import itertools
import math
import secrets

import numpy as np
import numpy.typing as npt
from scipy import linalg, special

from tff_secagg_ext import _validate
from tff_secagg_ext.audit import checks

_SEED_BYTES = 32
# Directions change with these three: they are the format.
_LABEL = b'tff-secagg-ext canaries 1'
_BLOCK = 1 << 16
_LARGEST_FAMILY = 4**5
# A keystream word has the residue in its low bits and g in all others.
_RESIDUE_BITS = 12


@dataclasses.dataclass(frozen=True)
class Cosines:
  """Cosines of canaries with released vectors.

  Attributes:
    values: [releases, canaries], in [-1, 1].
    dimension: How many coordinates the vectors have.
    sum_norm: The norm of the sum of all directions, positive; about the square
      root of their number, and exactly so for a power of 4 up to 1024.

  Raises:
    TypeError: If an attribute has another type.
    ValueError: If values have another shape or are no cosines, or a number is
      outside of its range.
  """

  values: checks.FloatArray
  dimension: int
  sum_norm: float

  def __post_init__(self) -> None:
    check_cosines(checks.check_array(self.values, 'cosines', (None, None)))
    _validate.check_int(self.dimension, 'dimension', minimum=2)
    _validate.check_float(
      self.sum_norm, 'sum_norm', minimum=0.0, exclusive=True
    )


def check_cosines(values: checks.FloatArray) -> checks.FloatArray:
  """Returns `values`; raises `ValueError` if one is not in [-1, 1]."""
  wrong = values[~(np.abs(values) <= 1.0)]
  if wrong.size:
    raise ValueError(
      f'`cosines` must be in [-1, 1]. Found {float(wrong[0])!r}. Take those of '
      '`Canaries.cosines`.'
    )
  return values


@dataclasses.dataclass(frozen=True)
class Canaries:
  """Unit vectors that look like nobody's update.

  Guarantees:
    - each is uniform on the sphere (to the 52 bits of a keystream draw), and so
      is the direction of their sum, given everything that the seed does not
      depend on;
    - two of them are uncorrelated along every fixed vector, and orthogonal but
      for at most about sqrt(2 / dimension);
    - none is stored; a seed gives the same ones on every machine.

  Attributes:
    seed: 32 bytes, which must not be known to whoever shapes other updates.
    count: How many canaries, at least 1 and below `dimension`. Powers of 4 up
      to 1024 are quickest: one family. Else there is one for each unit of the
      digits in base 4.
    dimension: Coordinates of the flattened update, at least 2.

  Raises:
    TypeError: If an attribute has another type.
    ValueError: If one is outside of its range.
  """

  seed: bytes
  count: int
  dimension: int

  def __post_init__(self) -> None:
    if not isinstance(self.seed, bytes):
      raise TypeError(f'`seed` must be bytes. Found {type(self.seed)}.')
    if len(self.seed) != _SEED_BYTES:
      raise ValueError(
        f'`seed` must have {_SEED_BYTES} bytes. Found {len(self.seed)}. Use '
        '`Canaries.draw`.'
      )
    _validate.check_int(self.dimension, 'dimension', minimum=2)
    _validate.check_int(
      self.count,
      'count',
      minimum=1,
      maximum=self.dimension - 1,
      remedy='Take fewer canaries than the update has coordinates.',
    )

  @classmethod
  def draw(cls, count: int, dimension: int) -> Canaries:
    """Returns canaries of a new seed, from the kernel's randomness."""
    return cls(secrets.token_bytes(_SEED_BYTES), count, dimension)

  def directions(self, indices: Sequence[int]) -> Iterator[checks.FloatArray]:
    """Yields the unit vectors of some canaries, [dimension] float64 each.

    Neighbors share a family: ask in ascending order.

    Raises:
      ValueError: If there is no such canary.
    """
    for index in indices:
      _validate.check_int(index, 'index', minimum=0, maximum=self.count - 1)
    ends = list(itertools.accumulate(self._sizes))
    families = ((int(np.searchsorted(ends, i, 'right')), i) for i in indices)
    for family, members in itertools.groupby(families, lambda pair: pair[0]):
      size = self._sizes[family]
      blocks = [self._block(family, start) for start in self._starts]
      draws = np.concatenate([g for g, _ in blocks])
      residues = np.concatenate([r for _, r in blocks])
      draws /= np.linalg.norm(draws)
      for _, index in members:
        row = index - (ends[family] - size)
        signs = _bent_signs(size)[row] * _hadamard(size)[row]
        yield draws * signs[residues]

  def total(self) -> checks.FloatArray:
    """Returns the sum of all directions, [dimension] float64."""
    found = np.zeros(self.dimension)
    for family, size in enumerate(self._sizes):
      blocks = []
      for start in self._starts:
        draws, residues = self._block(family, start)
        blocks.append(draws * _bent_signs(size)[residues])
      family_sum = np.concatenate(blocks)
      found += math.sqrt(size) / np.linalg.norm(family_sum) * family_sum
    return found

  def cosines(self, releases: checks.ArrayLike) -> Cosines:
    """Returns the cosines of all canaries with released vectors.

    The canaries are generated once, in blocks of coordinates; beside the
    releases there is a block of each family in memory.

    Args:
      releases: [releases, dimension] real numbers, such as flattened updates of
        the global model, of one round each or summed over rounds. The scale of
        each does not matter.

    Raises:
      TypeError: If they are not real numbers.
      ValueError: If they have another shape, are not finite, or are all zero in
        some release: a round without an update has no direction.
    """
    vectors = np.asarray(releases)
    if vectors.shape[1:] != (self.dimension,) or not vectors.size:
      raise ValueError(
        f'`releases` must have the shape [any, {self.dimension}]. Found '
        f'{list(vectors.shape)}. Flatten each update as its canaries were, and '
        'give one row for each.'
      )
    squares = np.zeros(len(vectors))
    bins = [np.zeros((len(vectors), size)) for size in self._sizes]
    gram = np.zeros((len(self._sizes), len(self._sizes)))
    for start in self._starts:
      block = checks.check_array(
        vectors[:, start : start + _BLOCK], 'releases', (len(vectors), None)
      )
      squares += np.einsum('ij,ij->i', block, block)
      sums = []
      for family, size in enumerate(self._sizes):
        draws, residues = self._block(family, start)
        sums.append(draws * _bent_signs(size)[residues])
        for row, vector in zip(bins[family], block, strict=True):
          row += np.bincount(residues, draws * vector, size)
      gram += np.asarray(sums) @ np.asarray(sums).T
    if not squares.all():
      raise ValueError(
        f'`releases` must not be zero. Found release {int(np.argmin(squares))} '
        'to be. Leave out rounds that changed nothing.'
      )
    return self._cosines(bins, gram, np.sqrt(squares))

  def _cosines(
    self,
    bins: Sequence[checks.FloatArray],
    gram: checks.FloatArray,
    norms: checks.FloatArray,
  ) -> Cosines:
    """From sums over coordinates of equal residue, [releases, size] each.

    `gram` has the inner products of the families' sums, before they are scaled.
    """
    lengths = np.sqrt(np.diag(gram))
    values = [
      _bent_signs(size) * (sums @ _hadamard(size)) / length
      for size, sums, length in zip(self._sizes, bins, lengths, strict=True)
    ]
    weights = np.sqrt(self._sizes) / lengths
    cosines = np.concatenate(values, axis=1) / norms[:, None]
    return Cosines(
      # Rounding may leave 1 by a few units.
      np.clip(cosines, -1.0, 1.0),
      self.dimension,
      math.sqrt(float(weights @ gram @ weights)),
    )

  @functools.cached_property
  def _sizes(self) -> tuple[int, ...]:
    """The sizes of the families: powers of 4, the largest first."""
    sizes, left, size = [], self.count, _LARGEST_FAMILY
    while left:
      sizes += [size] * (left // size)
      left, size = left % size, size // 4
    return tuple(sizes)

  @property
  def _starts(self) -> range:
    return range(0, self.dimension, _BLOCK)

  def _block(
    self, family: int, start: int
  ) -> tuple[checks.FloatArray, npt.NDArray[np.intp]]:
    """Returns g and r of a family for a block of coordinates."""
    words = min(_BLOCK, self.dimension - start)
    place = family.to_bytes(8, 'little') + start.to_bytes(8, 'little')
    stream = hashlib.shake_128(_LABEL + self.seed + place).digest(8 * words)
    drawn = np.frombuffer(stream, '<u8')
    uniform = ((drawn >> np.uint64(_RESIDUE_BITS)) + 0.5) * 2.0**-52
    residues = drawn & np.uint64(self._sizes[family] - 1)
    return special.ndtri(uniform), residues.astype(np.intp)


@functools.lru_cache(maxsize=8)
def _hadamard(size: int) -> checks.FloatArray:
  """Sylvester's matrix: H[i, j] = (-1)^(bits that i and j share)."""
  return np.asarray(linalg.hadamard(size, dtype=np.float64))


def _bent_signs(size: int) -> checks.FloatArray:
  """Returns s with H s = sqrt(size) s: (-1)^(x.y) for halves x, y of bits."""
  return _hadamard(math.isqrt(size)).ravel()
