# SPDX-License-Identifier: Apache-2.0
"""A server that keeps to nothing, and honest clients at whom it tries it.

The clients are those of the package, reached by bytes alone. The attacker makes
every message itself, goes on when a client refuses, and writes down whatever it
learns: masked vectors, and each share that it can open or is given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
import dataclasses
import os
from typing import Any

import numpy as np

from tff_secagg_ext.secagg import (
  checks,
  client,
  codec,
  errors,
  keys,
  layers,
  messages,
  ring,
  shamir,
  tagging,
)
from tff_secagg_ext.secagg.codec import Kind
from tff_secagg_ext.secagg.graph import Graph
from tff_secagg_ext.secagg.setup import Security, Setup, VectorSpec

SPEC = VectorSpec('x', 8, 1 << 20)
VICTIM = 1
# Seven neighbors of eight clients; above half of them open a secret.
COMPLETE = Security('malicious', 0.0, 0.0, neighbors=7, threshold=4)


class Puppet:
  """A member of a roster whose secrets are the attacker's.

  With the id of an honest client it stands between this one and its victim.
  """

  def __init__(self, puppet: int, identity: keys.Identity | None = None):
    self.id = puppet
    self.identity = identity or keys.Identity.generate()
    self.c = keys.KeyPair(os.urandom(32))
    self.s = keys.KeyPair(os.urandom(32))
    self.c_public, self.s_public = self.c.public, self.s.public
    self.start = os.urandom(32)

  def element(self, draw: int) -> bytes:
    return keys.chain(self.start, keys.CHAIN_LENGTH - draw)

  def advertise(self, binding: bytes) -> messages.Advertisement:
    content = keys.advertised_content(
      binding, self.id, self.c_public + self.s_public, self.element(0)
    )
    signature = self.identity.sign(content)
    return messages.Advertisement(
      self.c_public, self.s_public, self.element(0), signature
    )


@dataclasses.dataclass(frozen=True)
class World:
  """Who there is, and what the honest clients insist on.

  Attributes:
    honest: Ids of the honest clients.
    corrupt: Ids of the puppets that are registered.
    security: The policy of the clients.
    verify: The same.
    min_survivors: The same.
    vectors: What they sum; the first is looked at.
    asked: What the server asks for instead, by the name of the setup's field.
  """

  honest: Sequence[int] = range(1, 8)
  corrupt: Sequence[int] = (8,)
  security: Security = COMPLETE
  verify: bool = True
  min_survivors: int = 2
  vectors: tuple[VectorSpec, ...] = (SPEC,)
  asked: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Attacker:
  """The server, the puppets, and the network."""

  def __init__(self, world: World):
    identities = {
      i: keys.Identity.generate() for i in [*world.honest, *world.corrupt]
    }
    self.registry = {i: known.public for i, known in identities.items()}
    self.verification_key = os.urandom(32)
    policy = checks.Policy(
      world.security, world.verify, world.min_survivors, world.vectors
    )
    self.clients = {
      i: client.Client(
        i,
        policy,
        client.Credentials(identities[i], self.registry, self.verification_key),
      )
      for i in world.honest
    }
    self.vectors = {
      i: (np.arange(8) * 1009 + i * 130_003) % SPEC.modulus
      for i in world.honest
    }
    asked = {
      'security': world.security,
      'verify': world.verify,
      'min_survivors': world.min_survivors,
      'vectors': world.vectors,
      **world.asked,
    }
    self.setup = Setup(session=os.urandom(32), round=3, **asked)
    self.puppets = {i: Puppet(i, identities[i]) for i in world.corrupt}
    self.refusals: list[errors.SecAggError] = []
    self.begin()

  def begin(self) -> None:
    """Forgets a session; the setup stays as it is."""
    body = messages.encode_setup(self.setup)
    self.binding = messages.setup_digest(body)
    self.states: dict[int, Any] = {}
    self.advertised: dict[int, messages.Advertisement] = {}
    self.preimages: dict[int, bytes] = {}
    self.peers: dict[int, tuple[int, ...]] = {}
    self.threshold: dict[int, int] = {}
    self.sealed: dict[tuple[int, int], bytes] = {}
    self.delivered: dict[int, tuple[int, ...]] = {}
    self.masked: dict[int, ring.Words] = {}
    self.shares: dict[tuple[str, int], dict[int, bytes]] = {}

  @property
  def honest(self) -> list[int]:
    """Who is in the session and has not refused."""
    return list(self.states)

  def _left(self, to: Sequence[int]) -> list[int]:
    """Returns those of some clients that have not refused; of all if empty."""
    return [i for i in to or self.honest if i in self.states]

  @property
  def ring(self) -> ring.Ring:
    return ring.ring_of(self.setup.vectors[0])

  def use(self, puppets: Iterable[Puppet]) -> None:
    """Puts puppets into the session."""
    for puppet in puppets:
      self.puppets[puppet.id] = puppet
      self.advertised[puppet.id] = puppet.advertise(self.binding)

  def channel(self, to: int) -> codec.Channel:
    return codec.Channel(to, self.binding)

  def send(self, to: int, kind: Kind, body: bytes) -> bytes | None:
    """Returns the body of the answer; `None` if the client refuses."""
    state = self.states.get(to)
    if state is None:
      return None
    message = self.channel(to).seal(kind, body)
    return self._try(to, lambda: state.receive(message))

  def _try(
    self, to: int, step: Callable[[], tuple[Any, bytes]]
  ) -> bytes | None:
    try:
      self.states[to], answer = step()
    except errors.SecAggError as error:
      self.refusals.append(error)
      self.states.pop(to, None)
      return None
    return answer[codec.HEADER_BYTES :]

  def invite(self, *invited: int) -> None:
    """Sends the setup; to all, if nobody is named."""
    body = messages.encode_setup(self.setup)
    for i in invited or self.clients:
      message = codec.Channel(i).seal(Kind.SETUP, body)
      given = {spec.name: self.vectors[i] for spec in self.setup.vectors}
      answer = self._try(
        i,
        lambda i=i, message=message, given=given: self.clients[i].join(
          message, lambda: given
        ),
      )
      if answer is not None:
        self.advertised[i] = messages.Advertisement.decode(
          memoryview(answer), self.setup.security.active
        )
    self.use(self.puppets.values())

  def roster(
    self, members: Iterable[int] | None = None, **changes: Any
  ) -> messages.Roster:
    """Returns the roster of the first draw, or what is made of it."""
    ids = sorted(self.advertised if members is None else members)
    commitments = tuple(self.advertised[i].commitment for i in ids)
    honest = messages.Roster(1, tuple(ids), commitments)
    return dataclasses.replace(honest, **changes)

  def reveal(self, roster: messages.Roster, *to: int) -> None:
    """Sends a roster, and notes what is revealed."""
    self.last = roster
    for i in to or self.honest:
      answer = self.send(i, Kind.ROSTER, roster.encode())
      if answer is not None:
        self.preimages[i] = answer
    for i, puppet in self.puppets.items():
      self.preimages[i] = puppet.element(roster.draw)

  def seed(self) -> bytes:
    """The seed of the graph of the last roster."""
    revealed = [self.preimages[i] for i in self.last.members]
    return keys.digest(b'graph', self.binding, self.last.encode(), *revealed)

  def graph_of(self, to: int, degree: int) -> list[int]:
    """Returns the ids of the neighbors that the graph gives."""
    members = self.last.members
    graph = Graph(len(members), degree, self.seed())
    return [members[i] for i in graph.neighbors(members.index(to))]

  def introduce(
    self,
    *to: int,
    degree: int = 7,
    threshold: int = 4,
    peers: Sequence[int] | None = None,
  ) -> None:
    """Sends keys of neighbors, and notes what is sealed."""
    for i in self._left(to):
      chosen = self.graph_of(i, degree) if peers is None else peers
      self.answer_shares(i, self.neighbors(i, chosen, degree, threshold))

  def neighbors(
    self, to: int, chosen: Sequence[int], degree: int, threshold: int
  ) -> messages.Neighbors:
    """Returns the message that names the chosen as neighbors."""
    active = self.setup.security.active
    members = self.last.members
    peers = []
    for i in chosen:
      known = self.advertised[i]
      peers.append(
        messages.Peer(
          members.index(i),
          i,
          known.c_public,
          known.s_public,
          known.signature if active else b'',
        )
      )
    preimages = tuple(self.preimages[i] for i in members) if active else ()
    place = members.index(to)
    return messages.Neighbors(
      len(members), degree, threshold, place, tuple(peers), preimages
    )

  def answer_shares(self, to: int, found: messages.Neighbors) -> None:
    """Sends Neighbors, and opens what is sealed for puppets."""
    body = self.send(to, Kind.NEIGHBORS, found.encode())
    if body is None:
      return
    self.peers[to] = tuple(peer.id for peer in found.peers)
    self.threshold[to] = found.threshold
    items = codec.split(
      memoryview(body), len(found.peers), layers.sealed_bytes(self.setup)
    )
    for peer, sealed in zip(found.peers, items, strict=True):
      self.sealed[to, peer.id] = sealed
      if peer.id in self.puppets:
        agreed = self.puppets[peer.id].c.agree(self.advertised[to].c_public)
        self.open_shares(to, peer.id, agreed)

  def open_shares(self, owner: int, holder: int, agreed: bytes) -> bool:
    """Opens what is sealed for a holder; false if that is another's key."""
    key = keys.derive(agreed, self.binding, b'seal', (owner, holder))
    try:
      plain = keys.unseal(key, self.sealed[owner, holder])
    except errors.BadShare:
      return False
    self.note('b', owner, holder, plain[:32])
    self.note('s', owner, holder, plain[32:64])
    for layer in range(1, self.setup.layers + 1):
      seed = plain[32 + 32 * layer : 64 + 32 * layer]
      self.note(f'layer {layer}', owner, holder, seed)
    return True

  def note(self, kind: str, owner: int, holder: int, share: bytes) -> None:
    """Keeps a share by its point."""
    known = self.shares.setdefault((kind, owner), {})
    known[self.peers[owner].index(holder) + 1] = share

  def from_puppet(self, puppet: int, to: int) -> bytes:
    """Returns shares of a puppet's secrets, which nobody will need."""
    agreed = self.puppets[puppet].c.agree(self.advertised[to].c_public)
    key = keys.derive(agreed, self.binding, b'seal', (puppet, to))
    return keys.seal(key, bytes(layers.sealed_bytes(self.setup) - 16))

  def deliver(
    self,
    *to: int,
    senders: Collection[int] | None = None,
    instead: Mapping[int, bytes] | None = None,
  ) -> None:
    """Forwards sealed shares, of some senders or altered, and notes vectors."""
    for i in self._left(to):
      sealed = {}
      for peer in self.peers[i]:
        if peer in self.puppets:
          sealed[peer] = self.from_puppet(peer, i)
        elif (peer, i) in self.sealed:
          sealed[peer] = self.sealed[peer, i]
      sealed |= instead or {}
      if senders is not None:
        sealed = {peer: sealed[peer] for peer in senders}
      present = [peer in sealed for peer in self.peers[i]]
      body = b''.join([codec.pack_bits(present), *sealed.values()])
      answer = self.send(i, Kind.DELIVERY, body)
      if answer is not None:
        self.delivered[i] = tuple(sealed)
        self.masked[i] = tagging.unpack(memoryview(answer), self.setup)[0]

  def until_masked(self, degree: int = 7, threshold: int = 4) -> bool:
    """Follows the protocol until all vectors are masked.

    Returns:
      Whether there is a session: false if all have refused the setup.
    """
    self.invite()
    if not self.honest:
      return False
    self.reveal(self.roster())
    self.introduce(degree=degree, threshold=threshold)
    self.deliver()
    return True

  def bitmap(self, alive: Collection[int]) -> bytes:
    return codec.pack_bits(i in alive for i in self.last.members)

  def confirm(self, survivors: bytes, *to: int) -> dict[int, bytes]:
    """Returns who signs a list: puppets sign whatever there is."""
    content = keys.survivors_content(self.binding, self.seed(), survivors)
    signed = {
      i: puppet.identity.sign(content) for i, puppet in self.puppets.items()
    }
    for i in to:
      answer = self.send(i, Kind.SURVIVORS, survivors)
      if answer is not None:
        signed[i] = answer
    return signed

  def unmask(
    self, survivors: bytes, signed: Mapping[int, bytes] | None, *to: int
  ) -> None:
    """Asks for shares, and notes them."""
    flags = np.unpackbits(np.frombuffer(survivors, 'u1'), bitorder='little')
    alive = [i for i, one in zip(self.last.members, flags, strict=False) if one]
    for i in self._left(to):
      parts = [survivors]
      if signed is not None:
        signers = [j for j in self.peers[i] if j in signed]
        parts.append(codec.pack_bits(j in signers for j in self.peers[i]))
        parts += [signed[j] for j in signers]
      body = self.send(i, Kind.UNMASK_REQUEST, b''.join(parts))
      if body is None:
        continue
      owners = self.delivered[i]
      kinds = [('b' if owner in alive else 's', owner) for owner in owners]
      first = layers.first_removed(self.setup, len(alive))
      if first is not None:
        kinds += [
          (f'layer {first}', owner) for owner in owners if owner in alive
        ]
      for (kind, owner), share in zip(
        kinds, codec.split(memoryview(body), len(kinds), 32), strict=True
      ):
        if owner in self.peers and owner not in self.puppets:
          self.note(kind, owner, i, share)

  def ask(self, alive: Collection[int], *to: int) -> None:
    """Has some clients confirm who is alive, and asks them for shares."""
    survivors = self.bitmap(alive)
    self.unmask(survivors, self.confirm(survivors, *to), *to)

  def secret(self, kind: str, owner: int) -> bytes | None:
    """Returns a secret of which there are enough shares."""
    known = sorted(self.shares.get((kind, owner), {}).items())
    known = known[: self.threshold.get(owner, 0)]
    if not known or len(known) < self.threshold[owner]:
      return None
    points, values = zip(*known, strict=True)
    return shamir.combine(points, values)

  def pair_of(self, owner: int) -> keys.KeyPair | None:
    """Returns the key pair of masks of a client or puppet, if it is known."""
    if owner in self.puppets:
      return self.puppets[owner].s
    private = self.secret('s', owner)
    return None if private is None else keys.KeyPair(private)

  def open(
    self, some: Collection[int], cancelled: Collection[int] = ()
  ) -> ring.Words | None:
    """Returns the sum of the masked vectors of some clients, without masks.

    Args:
      some: Their ids.
      cancelled: Among whom masks cancel.

    Returns:
      Coordinates with their tags; `None` if a secret is not known.
    """
    total = self.ring.zeros(len(next(iter(self.masked.values()), ())))
    for i in some:
      if i not in self.masked:
        return None
      self.ring.add(total, self.masked[i])
      if not self.delivered[i]:
        continue
      b = self.secret('b', i)
      if b is None:
        return None
      self._take_off(total, b, b'self', (i, i), -1)
      for peer in self.delivered[i]:
        if peer in cancelled:
          continue
        agreed = self._agreed(i, peer)
        if agreed is None:
          return None
        low, high = sorted((i, peer))
        sign = -1 if i == low else 1
        self._take_off(total, agreed, b'mask', (low, high), sign)
    return self.ring.reduce(total)

  def _agreed(self, one: int, other: int) -> bytes | None:
    for owner, peer in ((one, other), (other, one)):
      pair = self.pair_of(owner)
      if pair is not None:
        return pair.agree(self.advertised[peer].s_public)
    return None

  def _take_off(
    self,
    total: ring.Words,
    secret: bytes,
    role: bytes,
    pair: tuple[int, int],
    sign: int,
  ) -> None:
    name = self.setup.vectors[0].name.encode()
    key = keys.derive(secret, self.binding, role, pair, name)
    self.ring.apply_mask(total, key, sign)

  def knows_vector(self, victim: int = VICTIM) -> bool:
    """Whether the attacker has one client's vector, exactly."""
    found = self.open([victim])
    return found is not None and np.array_equal(
      found[: SPEC.length], self.vectors[victim]
    )

  def knows_sum(self, some: Collection[int]) -> bool:
    """Whether it has the sum of these clients, exactly."""
    found = self.open(some, cancelled=some)
    expected = sum(self.vectors[i] for i in some) % self.ring.modulus
    return found is not None and np.array_equal(found[: SPEC.length], expected)

  def knows_sum_without_noise(self, some: Collection[int]) -> bool:
    """Whether it has the sum of these clients, and takes off all layers."""
    total = self.open(some, cancelled=some)
    seeds = [self.secret('layer 1', i) for i in some]
    if total is None or None in seeds:
      return False
    spec = self.setup.vectors[0]
    words = total.astype(self.ring.accumulator)
    for seed in seeds:
      layers.apply(words, spec, (self.setup, self.binding), (1, seed), -1)
    expected = sum(self.vectors[i] for i in some) % self.ring.modulus
    return np.array_equal(self.ring.reduce(words), expected)

  def is_accepted(self, total: ring.Words, to: int) -> bool:
    """Whether a client accepts coordinates and tags as the sum."""
    body = self.ring.pack(total)
    return self.send(to, Kind.RESULT, body) == keys.sha256(body)
