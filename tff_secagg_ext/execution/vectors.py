# SPDX-License-Identifier: Apache-2.0
"""Structures of integers as the vectors of a session, and back.

All that is summed modulo the same number is one vector: a client expands one
mask for it with each neighbor, however many tensors and sums it is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tff_secagg_ext._dropout_noise import DropoutNoise
from tff_secagg_ext.secagg.setup import (
  PlacedNoise,
  VectorSpec,
  modulus_for_sum,
)

Int64Array = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Leaf:
  """A tensor that is summed.

  Attributes:
    intrinsic: The intrinsic that sums it.
    dtype: Its dtype, of integers, which is that of the sum too.
    shape: Its shape.
    maximum: The largest coordinate that a client may have; the smallest is 0.
    modulus: What it is summed modulo; `None`: it does not wrap, but for its
      dtype.
  """

  intrinsic: str
  dtype: np.dtype[Any]
  shape: tuple[int, ...]
  maximum: int
  modulus: int | None

  @property
  def size(self) -> int:
    """The number of coordinates."""
    return math.prod(self.shape)

  def modulus_of(self, clients: int) -> int:
    """What a sum of so many clients is computed modulo.

    A sum that does not fit the dtype is wrapped by it in TFF, so that its bits
    beyond the dtype need not be summed.

    Raises:
      ValueError: If it could be above 2^62.
    """
    if self.modulus is not None:
      return self.modulus
    wraps = 1 << 8 * self.dtype.itemsize
    if self.dtype.itemsize < 8 and self.maximum * clients >= wraps:
      return wraps
    return modulus_for_sum(self.maximum, clients)

  def is_noised_by(self, noise: DropoutNoise) -> bool:
    """Whether it is the sum of a process whose noise this is.

    Noised coordinates come first, and one that counts behind them.
    """
    return self.modulus == noise.modulus and self.shape == (
      noise.dimension + 1,
    )

  def check(self, client: int, value: npt.NDArray[Any]) -> None:
    """Refuses a value that is out of range, without telling it.

    Raises:
      ValueError: If a coordinate is below 0 or above the maximum.
    """
    if value.size and not 0 <= int(value.min()) <= int(value.max()) <= (
      self.maximum
    ):
      raise ValueError(
        f'Client {client} has a value for {self.intrinsic} outside of'
        f' [0, {self.maximum}], the range that the computation declares. Clip'
        ' values on the clients, or declare a larger range.'
      )


class Vectors:
  """The vectors of one session, for a number of clients."""

  def __init__(
    self,
    leaves: Sequence[Leaf],
    clients: int,
    noises: Sequence[DropoutNoise] = (),
  ):
    """Groups leaves by modulus.

    Args:
      leaves: What is summed.
      clients: How many clients are invited.
      noises: What is to be exact after dropouts, each in a leaf of its own.

    Raises:
      ValueError: If a modulus is out of the protocol's range, see
        `secagg.setup.VectorSpec`; or if it is not clear where a noise is.
    """
    self._leaves = tuple(leaves)
    self._check_places(noises)
    self._members: dict[int, list[int]] = {}
    for index, leaf in enumerate(self._leaves):
      self._members.setdefault(leaf.modulus_of(clients), []).append(index)
    self.specs = tuple(
      VectorSpec(
        _name(modulus),
        sum(self._leaves[index].size for index in members),
        modulus,
        self._placed(members, noises),
      )
      for modulus, members in self._members.items()
    )

  def _placed(
    self, members: Sequence[int], noises: Sequence[DropoutNoise]
  ) -> tuple[PlacedNoise, ...]:
    """Returns the noises of a vector, where they begin in it."""
    starts = itertools.accumulate(
      (self._leaves[index].size for index in members), initial=0
    )
    return tuple(
      PlacedNoise(start, noise)
      for start, index in zip(starts, members, strict=False)
      for noise in noises
      if self._leaves[index].is_noised_by(noise)
    )

  def _check_places(self, noises: Sequence[DropoutNoise]) -> None:
    """Raises `ValueError` unless each noise is in a leaf of its own."""
    places = [
      [i for i, leaf in enumerate(self._leaves) if leaf.is_noised_by(noise)]
      for noise in noises
    ]
    for noise, found in zip(noises, places, strict=True):
      if len(found) != 1 or places.count(found) > 1:
        raise ValueError(
          'Each `dropout_noise` of a secure context must be of one secure sum'
          f' of its own in a computation: modulo {noise.modulus}, of'
          f' {noise.dimension} coordinates and a count. Found {len(found)} such'
          f' sums, for {places.count(found)} noises. Compute the noise for the'
          ' dimension that the aggregator has in this computation, and run'
          ' other ones in a context without.'
        )

  def pack(self, client: int, values: Iterable[Any]) -> dict[str, Int64Array]:
    """Returns a client's vectors by name: int64, coordinates in [0, modulus).

    Args:
      client: Its id, for the error.
      values: One array for each leaf, in order.

    Raises:
      ValueError: If a value is out of the range of its leaf.
    """
    arrays = [np.asarray(value) for value in values]
    for leaf, array in zip(self._leaves, arrays, strict=True):
      leaf.check(client, array)
    return {
      _name(modulus): np.concatenate(
        [arrays[index].ravel() for index in members],
        dtype=np.int64,
        casting='unsafe',
      )
      for modulus, members in self._members.items()
    }

  def unpack(self, sums: Mapping[str, Int64Array]) -> list[npt.NDArray[Any]]:
    """Returns the sum of each leaf, of its shape and dtype."""
    totals: dict[int, npt.NDArray[Any]] = {}
    for modulus, members in self._members.items():
      ends = np.cumsum([self._leaves[index].size for index in members])
      parts = np.split(sums[_name(modulus)], ends[:-1])
      for index, part in zip(members, parts, strict=True):
        leaf = self._leaves[index]
        totals[index] = part.astype(leaf.dtype).reshape(leaf.shape)
    return [totals[index] for index in range(len(self._leaves))]


def _name(modulus: int) -> str:
  return f'modulo {modulus}'
