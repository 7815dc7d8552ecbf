# SPDX-License-Identifier: Apache-2.0
"""Who shares masks with whom: a random k-regular graph [BBG+20, section 3].

A Harary graph (a circle on which everybody is joined to those at most k / 2
steps away) whose nodes are put on the circle in random order.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import numpy.typing as npt

from tff_secagg_ext import _validate
from tff_secagg_ext.secagg.ring import Keystream


@dataclasses.dataclass(frozen=True)
class Graph:
  """The graph of a session, over the positions of its roster.

  Attributes:
    clients: n, the number of nodes.
    degree: k, even, or n - 1: then it is the complete graph.
    seed: 32 bytes, public; whoever chooses it chooses the graph.

  Raises:
    ValueError: If `degree` is odd and below n - 1, or above it.
  """

  clients: int
  degree: int
  seed: bytes

  def __post_init__(self) -> None:
    _validate.check_int(
      self.degree, 'degree', minimum=0, maximum=self.clients - 1
    )
    if self.degree % 2 and not self.is_complete:
      raise ValueError(
        f'`degree` must be even, or n - 1 = {self.clients - 1}. Found'
        f' {self.degree}. Use {self.degree + 1}.'
      )

  @property
  def is_complete(self) -> bool:
    """Whether all are neighbors of all."""
    return self.degree == self.clients - 1

  def neighbors(self, position: int) -> tuple[int, ...]:
    """Returns the positions of the neighbors of one, ascending."""
    if self.is_complete:
      return tuple(i for i in range(self.clients) if i != position)
    order, place = _circle(self.clients, self.seed)
    steps = np.arange(1, self.degree // 2 + 1)
    around = place[position] + np.concatenate([-steps, steps])
    return tuple(np.sort(order[around % self.clients]).tolist())


@functools.lru_cache(maxsize=8)
def _circle(
  clients: int, seed: bytes
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
  """Returns who is at each place of the circle, and the place of each."""
  words = Keystream(seed).read(16 * clients).view('<u8').reshape(-1, 2)
  # Positions break ties, which have probability n^2 / 2^129.
  order = np.lexsort([words[:, 1], words[:, 0]])
  place = np.empty_like(order)
  place[order] = np.arange(clients)
  return order, place
