# SPDX-License-Identifier: Apache-2.0
"""A client: one class for each state of the protocol, each left once.

A state is given the bytes of a message, and returns the next state and the
bytes to answer with:

  Client -> Advertised [-> Revealed ...] -> Introduced -> Masked
         [-> Confirmed] -> Answered -> Finished

with those in brackets in the active protocol alone. There is no other way: no
step can be taken twice or out of order.

Guarantees:

- a `Refusal` or `MessageError` ends the client's part: there is no next state;
- at most one share of each neighbor's secrets leaves a client, ever, and in one
  session of a round alone;
- what a state knows is dropped when the state is left, by whatever way. Python
  cannot promise that the memory is overwritten.
- no state can be pickled, and none shows its contents.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
import dataclasses
import itertools
import os
from typing import Any

from tff_secagg_ext.secagg import (
  checks,
  codec,
  errors,
  keys,
  layers,
  masking,
  messages,
  shamir,
)
from tff_secagg_ext.secagg.client_state import (
  Credentials,
  History,
  Neighborhood,
  Session,
  State,
  Vectors,
)
from tff_secagg_ext.secagg.codec import Kind
from tff_secagg_ext.secagg.setup import Setup, check_id


class Client:
  """A client between sessions."""

  def __init__(
    self,
    client: int,
    policy: checks.Policy,
    credentials: Credentials,
    draw: Callable[[int], bytes] = os.urandom,
    history: History | None = None,
  ):
    """Makes a client.

    Args:
      client: Its id, from 0 to 2^32 - 1.
      policy: What it accepts of a server.
      credentials: What it was given.
      draw: Gives so many random bytes; anything but the kernel's is for known
        answers.
      history: Of its sessions; kept by the object alone, if there is none.
    """
    self._client = check_id(client)
    self._policy = policy
    self._credentials = credentials
    self._draw = draw
    self._history = History() if history is None else history

  def join(
    self, message: bytes, vectors: Callable[[], Vectors]
  ) -> tuple[State[Any], bytes]:
    """Takes the first step of a session; see `State.receive`.

    Args:
      message: A Setup.
      vectors: Gives the client's vectors by name, integers in [0, m); called
        when they are to be masked.
    """
    _, body = codec.Channel(self._client).open(message, Kind.SETUP)
    setup = messages.decode_setup(body)
    self._policy.check(setup)
    checks.verifiable(setup, self._credentials)
    checks.unused(setup, self._history)
    self._history.joined.add((setup.session, setup.round))
    channel = codec.Channel(self._client, messages.setup_digest(body))
    session = Session(
      setup=setup,
      channel=channel,
      credentials=self._credentials,
      history=self._history,
      draw=self._draw,
      vectors=vectors,
      c=keys.KeyPair(self._draw(32)),
      s_private=shamir.draw_shareable(self._draw),
    )
    return _advertise(session)


@dataclasses.dataclass(frozen=True, repr=False)
class _Joined:
  """... after the keys are advertised."""

  session: Session
  s: keys.KeyPair
  chain_start: bytes = b''

  def element(self, draw: int) -> bytes:
    """The element of its hash chain that is revealed in a draw; 0 commits."""
    return keys.chain(self.chain_start, keys.CHAIN_LENGTH - draw)


def _advertise(session: Session) -> tuple[State[Any], bytes]:
  s = keys.KeyPair(session.s_private)
  body = publics = session.c.public + s.public
  identity = session.credentials.identity
  joined = _Joined(session, s)
  if session.setup.security.active:
    assert identity is not None
    joined = _Joined(session, s, session.draw(keys.DIGEST_BYTES))
    commitment = joined.element(0)
    content = keys.advertised_content(
      session.channel.binding, session.id, publics, commitment
    )
    body += commitment + identity.sign(content)
  answer = session.channel.seal(Kind.ADVERTISEMENT, body)
  return Advertised(joined), answer


class Advertised(State[_Joined]):
  """Awaits the first Roster, or in the passive protocol its Neighbors."""

  def receive(self, message: bytes) -> tuple[State[Any], bytes]:
    """See `State.receive`."""
    joined = self._leave()
    channel = joined.session.channel
    if joined.session.setup.security.active:
      _, body = channel.open(message, Kind.ROSTER)
      return _reveal(joined, body, None)
    _, body = channel.open(message, Kind.NEIGHBORS)
    found = messages.Neighbors.decode(body, active=False)
    return _introduce(joined, found, Neighborhood.of(found))


@dataclasses.dataclass(frozen=True, repr=False)
class _Rostered:
  """... in the active protocol, after a roster has come."""

  joined: _Joined
  roster: messages.Roster
  body: bytes


def _reveal(
  joined: _Joined, body: memoryview, known: messages.Roster | None
) -> tuple[State[Any], bytes]:
  roster = messages.Roster.decode(body)
  channel = joined.session.channel
  revealed = joined.element(known.draw if known else 0)
  checks.roster(roster, channel.client, revealed, known)
  answer = channel.seal(Kind.REVEAL, joined.element(roster.draw))
  return Revealed(_Rostered(joined, roster, bytes(body))), answer


class Revealed(State[_Rostered]):
  """Awaits its Neighbors, or the Roster of another draw."""

  def receive(self, message: bytes) -> tuple[State[Any], bytes]:
    """See `State.receive`."""
    known = self._leave()
    joined, session = known.joined, known.joined.session
    kind, body = session.channel.open(message, Kind.NEIGHBORS, Kind.ROSTER)
    if kind == Kind.ROSTER:
      return _reveal(joined, body, known.roster)
    found = messages.Neighbors.decode(body, active=True)
    neighborhood = checks.neighbors(
      found, known.roster, known.body, session.channel
    )
    checks.signatures(
      found, known.roster.draw, session.credentials.registry, session.channel
    )
    return _introduce(joined, found, neighborhood)


@dataclasses.dataclass(frozen=True, repr=False)
class _Placed:
  """... after the neighbors are known."""

  joined: _Joined
  neighborhood: Neighborhood
  channels: Mapping[int, bytes]
  b: bytes
  seeds: tuple[bytes, ...]


def _introduce(
  joined: _Joined,
  found: messages.Neighbors,
  neighborhood: Neighborhood,
) -> tuple[State[Any], bytes]:
  """Shares the secrets of a client among its neighbors."""
  session = joined.session
  checks.meet(found, session.setup, (session.c.public, joined.s.public))
  peers, threshold = neighborhood.peers, neighborhood.threshold
  b = shamir.draw_shareable(session.draw)
  seeds = layers.draw_seeds(session.draw, session.setup)
  secrets = b''.join([b, session.s_private, *seeds])
  shares: list[bytes] = []
  if peers:
    shares = shamir.share(secrets, len(peers), threshold, session.draw)
  channels = {peer.id: session.c.agree(peer.c_public) for peer in peers}
  sealed = [
    keys.seal(
      session.derive(channels[peer.id], b'seal', (session.id, peer.id)), each
    )
    for peer, each in zip(peers, shares, strict=True)
  ]
  answer = session.channel.seal(Kind.SHARES, b''.join(sealed))
  placed = _Placed(joined, neighborhood, channels, b, seeds)
  return Introduced(placed), answer


@dataclasses.dataclass(frozen=True, repr=False)
class _Summed:
  """... after its vectors are masked; keys that made masks are gone."""

  session: Session
  neighborhood: Neighborhood
  shares: Mapping[int, bytes]
  survivors: bytes = b''


class Introduced(State[_Placed]):
  """Awaits the Delivery."""

  def receive(self, message: bytes) -> tuple[State[Any], bytes]:
    """See `State.receive`."""
    placed = self._leave()
    joined, session = placed.joined, placed.joined.session
    _, body = session.channel.open(message, Kind.DELIVERY)
    shares = self._open(placed, body)
    checks.delivered(shares, placed.neighborhood)
    masks = {
      peer.id: joined.s.agree(peer.s_public)
      for peer in placed.neighborhood.peers
      if peer.id in shares
    }
    secrets = masking.Secrets(masks, placed.b, placed.seeds)
    packed = masking.masked_input(session, secrets)
    summed = _Summed(session, placed.neighborhood, shares)
    return Masked(summed), session.channel.seal(Kind.MASKED_INPUT, packed)

  @staticmethod
  def _open(placed: _Placed, body: memoryview) -> dict[int, bytes]:
    """Returns the opened shares of the neighbors that sent some, by id."""
    session, peers = placed.joined.session, placed.neighborhood.peers
    size = codec.bitmap_bytes(len(peers))
    present = codec.unpack_bits(bytes(body[:size]), len(peers))
    sealed_bytes = layers.sealed_bytes(session.setup)
    items = codec.split(body[size:], sum(present), sealed_bytes)
    senders = itertools.compress([peer.id for peer in peers], present)
    shares = {}
    for sender, item in zip(senders, items, strict=True):
      pair = (sender, session.id)
      key = session.derive(placed.channels[sender], b'seal', pair)
      shares[sender] = keys.unseal(key, item)
    if not shamir.is_shareable(b''.join(shares.values())):
      raise errors.BadShare('A share is not an element of the field.')
    return shares


class Masked(State[_Summed]):
  """Awaits the Survivors, or in the passive protocol the UnmaskRequest."""

  def receive(self, message: bytes) -> tuple[State[Any], bytes]:
    """See `State.receive`."""
    summed = self._leave()
    session, neighborhood = summed.session, summed.neighborhood
    if not session.setup.security.active:
      _, body = session.channel.open(message, Kind.UNMASK_REQUEST)
      request = messages.UnmaskRequest.decode(body, neighborhood.clients, None)
      return _unmask(summed, request.survivors)
    _, body = session.channel.open(message, Kind.SURVIVORS)
    survivors = bytes(body)
    checks.survivors(survivors, neighborhood, set(summed.shares), session.setup)
    identity = session.credentials.identity
    assert identity is not None
    content = keys.survivors_content(
      session.channel.binding, neighborhood.seed, survivors
    )
    answer = session.channel.seal(Kind.CONFIRMATION, identity.sign(content))
    return Confirmed(dataclasses.replace(summed, survivors=survivors)), answer


class Confirmed(State[_Summed]):
  """Awaits the UnmaskRequest with its neighbors' confirmations."""

  def receive(self, message: bytes) -> tuple[State[Any], bytes]:
    """See `State.receive`."""
    summed = self._leave()
    session, neighborhood = summed.session, summed.neighborhood
    _, body = session.channel.open(message, Kind.UNMASK_REQUEST)
    request = messages.UnmaskRequest.decode(
      body, neighborhood.clients, len(neighborhood.peers)
    )
    checks.confirmed(request, summed.survivors)
    checks.confirmations(
      request, neighborhood, session.credentials.registry, session.channel
    )
    return _unmask(summed, request.survivors)


def _unmask(summed: _Summed, survivors: bytes) -> tuple[State[Any], bytes]:
  """Answers with a share for each neighbor, of b or of s, and those of layers.

  Of the seeds of a survivor, that of the first layer to be taken off.
  """
  session, neighborhood = summed.session, summed.neighborhood
  checks.unanswered(session.setup, session.history)
  alive = checks.survivors(
    survivors, neighborhood, set(summed.shares), session.setup
  )
  contributors = sum(codec.unpack_bits(survivors, neighborhood.clients))
  body = revealed(summed.shares, alive, session.setup, contributors)
  session.history.answered.add(session.setup.round)
  answer = session.channel.seal(Kind.UNMASK_SHARES, body)
  if not session.setup.verify:
    return Finished(None), answer
  known = dataclasses.replace(summed, shares={}, survivors=survivors)
  return Answered(known), answer


def revealed(
  shares: Mapping[int, bytes],
  alive: Collection[int],
  setup: Setup,
  survivors: int,
) -> bytes:
  """Returns the body of an UnmaskShares.

  Args:
    shares: By the ids of their owners: of b, of s, and of the seeds of layers.
    alive: The owners that survived; of others only the share of s is told.
    setup: Of the session.
    survivors: How many vectors are in the sum, which says whether, and of which
      layer, seeds are revealed.
  """
  size = shamir.KEY_BYTES
  parts = [
    share[:size] if owner in alive else share[size : 2 * size]
    for owner, share in shares.items()
  ]
  first = layers.first_removed(setup, survivors)
  if first is not None:
    place = (1 + first) * size
    parts += [
      share[place : place + size]
      for owner, share in shares.items()
      if owner in alive
    ]
  return b''.join(parts)


class Answered(State[_Summed]):
  """Awaits the Result, to verify it."""

  def receive(self, message: bytes) -> tuple[State[Any], bytes]:
    """See `State.receive`."""
    summed = self._leave()
    session = summed.session
    _, body = session.channel.open(message, Kind.RESULT)
    survivors = summed.neighborhood.ids_of(summed.survivors)
    session.tagger().check(body, session.setup, survivors)
    digest = keys.sha256(body)
    return Finished(None), session.channel.seal(Kind.VERDICT, digest)


class Finished(State[None]):
  """The client's part is over."""

  def receive(self, message: bytes) -> tuple[State[Any], bytes]:
    """Raises: no message is due."""
    raise errors.StateSpentError('The session is over: no message is due.')
