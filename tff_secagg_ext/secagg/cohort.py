# SPDX-License-Identifier: Apache-2.0
"""Who takes part in a session, as its server knows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import functools

from tff_secagg_ext.secagg import (
  codec,
  errors,
  keys,
  layers,
  messages,
  parameters,
)
from tff_secagg_ext.secagg.codec import Channel
from tff_secagg_ext.secagg.graph import Graph
from tff_secagg_ext.secagg.setup import Setup

_NO_PARAMETERS = parameters.Parameters(0, 0)


@dataclasses.dataclass(frozen=True)
class Cohort:
  """What the server knows of a session, of public things.

  Attributes:
    setup: As sent.
    binding: Its digest.
    clients: Who was invited.
    registry: The public identities, by id; `None` if the server has none, and
      leaves signatures to the clients.
    advertised: The keys of those who answered, by id, ascending.
    parameters: k and t, once the roster is known.
    graph: Over the roster, once it is known.
    preimages: By id, what the last draw revealed.
    draw: Its number; 0 in the passive protocol.
  """

  setup: Setup
  binding: bytes
  clients: tuple[int, ...]
  registry: Mapping[int, bytes] | None = None
  advertised: Mapping[int, messages.Advertisement] = dataclasses.field(
    default_factory=dict
  )
  parameters: parameters.Parameters = _NO_PARAMETERS
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

  @functools.cached_property
  def introductions(self) -> Mapping[int, bytes]:
    """How each id is introduced to its neighbors: a `Peer`, encoded."""
    return {
      client: messages.Peer(
        self.positions[client],
        client,
        advertised.c_public,
        advertised.s_public,
        advertised.signature,
      ).encode()
      for client, advertised in self.advertised.items()
    }

  @functools.cached_property
  def joined_preimages(self) -> bytes:
    """All preimages, one after the other."""
    return b''.join(self.preimages.values())

  def channel(self, client: int) -> Channel:
    """The channel to a client."""
    return Channel(client, self.binding)

  def bitmap(self, clients: Iterable[int]) -> bytes:
    """A bitmap of ids over the roster."""
    wanted = set(clients)
    return codec.pack_bits(client in wanted for client in self.roster)

  def check_signature(
    self, client: int, signature: bytes, content: bytes
  ) -> None:
    """Checks a signature, where the server has a registry.

    Neighbors would refuse it, and all be lost with the one who sent it.

    Raises:
      MessageError: If it is not the client's.
    """
    if self.registry is None:
      return
    identity = self.registry.get(client)
    if identity is None or not keys.is_signed(identity, signature, content):
      raise errors.MessageError(
        f'A signature of client {client} must be of its registered identity.'
        ' Found another.'
      )

  def require(self, clients: Mapping[int, object], stage: str) -> None:
    """Aborts if fewer clients are left than must survive."""
    if len(clients) < self.setup.min_survivors:
      raise errors.Aborted(
        f'At least {self.setup.min_survivors} clients must be left. Found'
        f' {len(clients)}',
        stage,
      )

  def require_connected(
    self, survivors: Mapping[int, object], stage: str
  ) -> None:
    """Aborts if the survivors of a sparse graph may have been parted."""
    clients, security = len(self.roster), self.setup.security
    least = parameters.least_survivors(clients, security)
    if len(survivors) < least:
      raise errors.Aborted(
        f'At least {least} of {clients} clients must survive, or the graph may'
        f' fall apart: {security.dropout:g} of them may drop out. Found'
        f' {len(survivors)}. Assume more dropouts, or invite those that stay',
        stage,
      )

  def drawn(self, seed: bytes, stage: str) -> Cohort:
    """Returns the cohort with its parameters and graph, or aborts."""
    clients = len(self.roster)
    try:
      derived = parameters.derive(clients, self.setup.security)
      layers.check_graph(clients, derived.neighbors, self.setup)
    except (ValueError, errors.BadNeighbors) as error:
      raise errors.Aborted(str(error), stage) from error
    graph = Graph(clients, derived.neighbors, seed)
    return dataclasses.replace(self, parameters=derived, graph=graph)
