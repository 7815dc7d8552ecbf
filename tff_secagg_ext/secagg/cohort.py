# SPDX-License-Identifier: Apache-2.0
"""Who takes part in a session, as its server knows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import functools

from tff_secagg_ext.secagg import errors, messages
from tff_secagg_ext.secagg.graph import Graph
from tff_secagg_ext.secagg.messages import Channel
from tff_secagg_ext.secagg.parameters import Parameters
from tff_secagg_ext.secagg.setup import Setup

_NO_PARAMETERS = Parameters(0, 0)


@dataclasses.dataclass(frozen=True)
class Cohort:
  """What the server knows of a session, of public things.

  Attributes:
    setup: As sent.
    binding: Its digest.
    clients: Who was invited.
    advertised: The keys of those who answered, by id, ascending.
    parameters: k and t, once the roster is known.
    graph: Over the roster, once it is known.
    preimages: By id, what the last draw revealed.
    draw: Its number; 0 in the passive protocol.
  """

  setup: Setup
  binding: bytes
  clients: tuple[int, ...]
  advertised: Mapping[int, messages.Advertisement] = dataclasses.field(
    default_factory=dict
  )
  parameters: Parameters = _NO_PARAMETERS
  graph: Graph | None = None
  preimages: Mapping[int, bytes] = dataclasses.field(default_factory=dict)
  draw: int = 0

  @functools.cached_property
  def roster(self) -> tuple[int, ...]:
    """The ids of those who advertised, ascending."""
    return tuple(self.advertised)

  @functools.cached_property
  def positions(self) -> Mapping[int, int]:
    """The position in the roster of each id."""
    return {client: position for position, client in enumerate(self.roster)}

  @functools.cached_property
  def neighbors(self) -> Mapping[int, tuple[int, ...]]:
    """The ids of the neighbors of each id, ascending."""
    assert self.graph is not None
    return {
      client: tuple(map(self.roster.__getitem__, self.graph.neighbors(place)))
      for client, place in self.positions.items()
    }

  def channel(self, client: int) -> Channel:
    """The channel to a client."""
    return Channel(client, self.binding)

  def bitmap(self, clients: Iterable[int]) -> bytes:
    """A bitmap of ids over the roster."""
    wanted = set(clients)
    return messages.pack_bits(client in wanted for client in self.roster)

  def require(self, clients: Mapping[int, object], stage: str) -> None:
    """Aborts if fewer clients are left than must survive."""
    if len(clients) < self.setup.min_survivors:
      raise errors.Aborted(
        f'At least {self.setup.min_survivors} clients must be left. Found'
        f' {len(clients)}',
        stage,
      )
