# SPDX-License-Identifier: Apache-2.0
"""Layers of noise that clients add, and of which the server takes some off.

A client draws one seed, and hashes it on: seed j + 1 is SHA-256 of seed j, and
layer j is expanded from a key that is derived of seed j. So whoever has seed
D + 1 has the layers above D, and of the others nothing: hashes go one way.
Which layers belong to a sum says `DropoutNoise`.

Guarantees:

- a layer is a function of its seed and of the session, the same for the client
  that adds it and for the server that takes it off;
- its coordinates are independent, each within 2^-60 of the law of its layer
  in total variation, given that AES-256-CTR is a pseudo-random generator;
- all arithmetic is on integers, so that what is added can be taken off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
import functools

import numpy as np
import numpy.typing as npt

from tff_secagg_ext import _tables
from tff_secagg_ext._dropout_noise import DropoutNoise
from tff_secagg_ext.secagg import errors, keys, parameters, ring, shamir
from tff_secagg_ext.secagg.setup import Setup, VectorSpec

# Coordinates that are drawn at a time; part of the format of a layer.
CHUNK = 1 << 16
_WEIGHTS = {
  'distributed_dgauss': _tables.discrete_gaussian_weights,
  'distributed_skellam': _tables.skellam_weights,
}
_LOW_MASK = np.uint64((1 << _tables.LOW_BITS) - 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Law:
  """The law of one layer, as a table to invert.

  Attributes:
    table: Of this law alone.
    centre: The position of 0 in it.
  """

  table: _tables.Table
  centre: int

  def draw(
    self, stream: ring.Keystream, length: int
  ) -> Iterator[npt.NDArray[np.int32]]:
    """Yields a layer's coordinates, in chunks.

    For each chunk the stream gives 16 bits a coordinate, in which a threshold
    of the table may begin; then 32 more bits for each coordinate that these do
    not decide; then a last 63 of 64 for each that is not decided yet.
    """
    for start in range(0, length, CHUNK):
      heads = stream.read(2 * min(CHUNK, length - start)).view('<u2')
      positions = self.table.guide[heads].astype(np.int32)
      undecided = np.flatnonzero(positions == _tables.UNDECIDED)
      middle = stream.read(4 * undecided.size).view('<u4')
      high = heads[undecided].astype(np.int64) << _tables.MIDDLE_BITS
      positions[undecided] = self._search(stream, high + middle)
      yield positions - np.int32(self.centre)

  def _search(
    self, stream: ring.Keystream, high: npt.NDArray[np.int64]
  ) -> npt.NDArray[np.intp]:
    """Returns positions by 48 bits, and by more where these are a threshold's.

    All thresholds that begin with the same 48 bits are neighbors.
    """
    table = self.table
    found = np.searchsorted(table.high, high, side='left')
    ends = np.searchsorted(table.high, high, side='right')
    tied = np.flatnonzero(found < ends)
    lows = stream.read(8 * tied.size).view('<u8') & _LOW_MASK
    for place, low in zip(tied, lows.astype(np.int64), strict=True):
      ours = table.low[found[place] : ends[place]]
      found[place] += np.count_nonzero(ours <= low)
    return found


@functools.lru_cache(maxsize=8)
def laws_of(noise: DropoutNoise) -> tuple[Law, ...]:
  """Returns the laws of the layers 1 to T."""
  laws = []
  for layer in range(1, noise.dropouts + 1):
    weights = _WEIGHTS[noise.mechanism](noise.layer_variance(layer))
    table = _tables.lay_out([weights.both_sides])
    laws.append(Law(table, weights.last))
  return tuple(laws)


def draw_seeds(draw: Callable[[int], bytes], setup: Setup) -> tuple[bytes, ...]:
  """Returns the seeds of the layers 1 to T, all of which can be shared.

  Args:
    draw: Gives so many random bytes.
    setup: Of the session. Without noise there are no seeds, and nothing is
      drawn.
  """
  if not setup.layers:
    return ()
  while True:
    start = shamir.draw_shareable(draw)
    seeds = tuple(keys.chain(start, j) for j in range(setup.layers))
    if shamir.is_shareable(b''.join(seeds)):
      return seeds


def sealed_bytes(setup: Setup) -> int:
  """Returns how long a ciphertext is: shares of b, of s and of all seeds."""
  return keys.SEALED_SHARES_BYTES + setup.layers * shamir.KEY_BYTES


def first_removed(setup: Setup, survivors: int) -> int | None:
  """Returns D + 1, the first layer that a sum of so many must not have.

  `None` if all belong to it, or if there are none.

  Raises:
    ValueError: If more clients are missing than are tolerated.
  """
  if not setup.layers:
    return None
  first = setup.noises[0].layers_kept(survivors) + 1
  return first if first <= setup.layers else None


def apply(
  total: ring.Words,
  spec: VectorSpec,
  session: tuple[Setup, bytes],
  seed: tuple[int, bytes],
  sign: int,
) -> None:
  """Adds layers of a client to a vector, or takes them off, in place.

  Args:
    total: Accumulated words of the vector; what is behind its coordinates is
      left as it is.
    spec: The vector.
    session: Its setup, and the setup digest.
    seed: A layer j, from 1, and its seed: layers j to T are applied.
    sign: 1 or -1.
  """
  setup, binding = session
  first, start = seed
  for placed in spec.noise:
    noised = total[placed.start : placed.start + placed.noise.dimension]
    laws = laws_of(placed.noise)
    for layer in range(first, setup.layers + 1):
      chained = keys.chain(start, layer - first)
      key = keys.derive(
        chained, binding, b'layer', (layer, placed.start), spec.name.encode()
      )
      _combine(noised, ring.ring_of(spec), laws[layer - 1], key, sign)


def _combine(
  noised: ring.Words, modulo: ring.Ring, law: Law, key: bytes, sign: int
) -> None:
  start = 0
  for chunk in law.draw(ring.Keystream(key), noised.size):
    block = noised[start : start + chunk.size]
    if not modulo.is_binary:
      reduced = (sign * chunk.astype(np.int64)) % modulo.modulus
      modulo.add(block, reduced.astype(modulo.accumulator))
    elif sign > 0:
      np.add(block, chunk.astype(block.dtype), out=block)
    else:
      np.subtract(block, chunk.astype(block.dtype), out=block)
    start += chunk.size


def check_graph(clients: int, degree: int, setup: Setup) -> None:
  """Refuses a sparse graph where the server may lie about who survived.

  There it could have two lists answered in two regions of the graph, and the
  layers of each taken off for its own number of dropouts. On the complete graph
  one list is answered at most (docs/protocol.md).

  Raises:
    BadNeighbors: If there is noise, the class is active, and k below n - 1.
  """
  if setup.layers and setup.security.active and degree < clients - 1:
    corrupt, _ = parameters.counts(clients, setup.security)
    raise errors.BadNeighbors(
      'In the active classes, noise that is exact after dropouts needs the'
      f' complete graph: {clients - 1} neighbors of {clients} clients. Found'
      f' {degree}. Name neighbors={clients - 1} and threshold='
      f"{(clients - 1 + corrupt) // 2 + 1}, or use the class 'curious'."
    )
