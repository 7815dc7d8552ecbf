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

from collections.abc import Callable, Mapping
import dataclasses
import itertools
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from tff_secagg_ext.secagg import (
  checks,
  codec,
  errors,
  inputs,
  keys,
  messages,
  ring,
  shamir,
)
from tff_secagg_ext.secagg.client_state import (
  Credentials,
  History,
  Session,
  State,
  Vectors,
)
from tff_secagg_ext.secagg.codec import Kind
from tff_secagg_ext.secagg.setup import VectorSpec, check_id


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
    return _introduce(joined, found, checks.Neighborhood.of(found))


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
  neighborhood: checks.Neighborhood
  channels: Mapping[int, bytes]
  b: bytes


def _introduce(
  joined: _Joined,
  found: messages.Neighbors,
  neighborhood: checks.Neighborhood,
) -> tuple[State[Any], bytes]:
  """Shares the secrets of a client among its neighbors."""
  session = joined.session
  checks.meet(found, session.setup, (session.c.public, joined.s.public))
  peers, threshold = neighborhood.peers, neighborhood.threshold
  b = shamir.draw_shareable(session.draw)
  secrets = b + session.s_private
  shares: list[bytes] = []
  if peers:
    shares = shamir.share(secrets, len(peers), threshold, session.draw)
  channels = {peer.id: session.c.agree(peer.c_public) for peer in peers}
  sealed = [
    keys.seal(
      session.derive(channels[peer.id], b'seal', (session.id, peer.id)), both
    )
    for peer, both in zip(peers, shares, strict=True)
  ]
  answer = session.channel.seal(Kind.SHARES, b''.join(sealed))
  return Introduced(_Placed(joined, neighborhood, channels, b)), answer


@dataclasses.dataclass(frozen=True, repr=False)
class _Summed:
  """... after its vectors are masked; keys that made masks are gone."""

  session: Session
  neighborhood: checks.Neighborhood
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
    packed = b''.join(
      _masked(session, spec, tagged, masks, placed.b)
      for spec, tagged in zip(
        session.setup.vectors, _tagged_vectors(session), strict=True
      )
    )
    summed = _Summed(session, placed.neighborhood, shares)
    return Masked(summed), session.channel.seal(Kind.MASKED_INPUT, packed)

  @staticmethod
  def _open(placed: _Placed, body: memoryview) -> dict[int, bytes]:
    """Returns the opened shares of the neighbors that sent some, by id."""
    session, peers = placed.joined.session, placed.neighborhood.peers
    size = codec.bitmap_bytes(len(peers))
    present = codec.unpack_bits(bytes(body[:size]), len(peers))
    items = codec.split(body[size:], sum(present), keys.SEALED_SHARES_BYTES)
    senders = itertools.compress([peer.id for peer in peers], present)
    shares = {}
    for sender, item in zip(senders, items, strict=True):
      pair = (sender, session.id)
      key = session.derive(placed.channels[sender], b'seal', pair)
      shares[sender] = keys.unseal(key, item)
    if not shamir.is_shareable(b''.join(shares.values())):
      raise errors.BadShare('A share is not an element of the field.')
    return shares


def _tagged_vectors(session: Session) -> list[npt.NDArray[np.int64]]:
  """Returns the client's vectors, checked, with their tags."""
  vectors = inputs.vectors(session.vectors(), session.setup.vectors)
  if not session.setup.verify:
    return vectors
  tagger = session.tagger()
  return [
    tagger.tagged(vector, spec, session.id)
    for vector, spec in zip(vectors, session.setup.vectors, strict=True)
  ]


def _masked(
  session: Session,
  spec: VectorSpec,
  vector: npt.NDArray[np.int64],
  masks: Mapping[int, bytes],
  b: bytes,
) -> bytes:
  """Returns the packed vector under all of its masks."""
  modulo = ring.ring_of(spec)
  total = vector.astype(modulo.accumulator)
  own, name = session.id, spec.name.encode()
  signed = [(session.derive(b, b'self', (own, own), name), 1)] if masks else []
  for peer, agreed in masks.items():
    pair, sign = ((own, peer), 1) if own < peer else ((peer, own), -1)
    signed.append((session.derive(agreed, b'mask', pair, name), sign))
  modulo.apply_masks(total, signed)
  return modulo.pack_total(total)


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
  """Answers with one share for each neighbor: of b, or of s."""
  session, neighborhood = summed.session, summed.neighborhood
  checks.unanswered(session.setup, session.history)
  alive = checks.survivors(
    survivors, neighborhood, set(summed.shares), session.setup
  )
  body = b''.join(
    share[: shamir.KEY_BYTES] if peer in alive else share[shamir.KEY_BYTES :]
    for peer, share in summed.shares.items()
  )
  session.history.answered.add(session.setup.round)
  answer = session.channel.seal(Kind.UNMASK_SHARES, body)
  if not session.setup.verify:
    return Finished(None), answer
  known = dataclasses.replace(summed, shares={}, survivors=survivors)
  return Answered(known), answer


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
