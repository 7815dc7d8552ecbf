# SPDX-License-Identifier: Apache-2.0
"""The server: one class for each state of the protocol, each left once.

  Inviting [-> Revealing ...] -> Sharing -> Masking [-> Confirming]
           -> Unmasking [-> Verifying] -> Finished

A state has requests, one for each client that is left, and takes the replies
to them in any order, one after the other: what is summed is added as it comes
and not kept. Without input or output: `session.run` moves the bytes.

Guarantees:

- a reply that is malformed, or that honest neighbors would refuse, is left out
  and noted, and its client has dropped out; one that is not due, the second of
  a client among them, changes nothing;
- the session ends in the sum over the survivors that were declared to all, or
  in `Aborted`;
- at most one secret of each client is rebuilt: of its own mask if it survived,
  of its masks with others if not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import os

from tff_secagg_ext.secagg import (
  codec,
  errors,
  keys,
  layers,
  messages,
  tagging,
  unmasking,
)
from tff_secagg_ext.secagg.codec import Channel, Kind
from tff_secagg_ext.secagg.cohort import Cohort
from tff_secagg_ext.secagg.server_state import (
  Finished,
  Replies,
  Requests,
  Result,
  State,
)
from tff_secagg_ext.secagg.setup import Setup, check_id


class Inviting(State):
  """Awaits the Advertisements."""

  stage = 'invite'
  kind = Kind.ADVERTISEMENT

  def __init__(
    self,
    setup: Setup,
    clients: Iterable[int],
    registry: Mapping[int, bytes] | None = None,
  ):
    """Begins a session.

    Args:
      setup: What all agree on; its session id must be fresh.
      clients: The ids of who is invited, from 0 to 2^32 - 1.
      registry: The public identities, by id; see `Cohort`.

    Raises:
      TypeError: If an id is not an integer.
      ValueError: If an id is out of range, or twice there.
    """
    invited = tuple(sorted(map(check_id, clients)))
    if len(set(invited)) < len(invited):
      raise ValueError(
        f'`clients` must be different ids. Found {invited!r}. Invite each once.'
      )
    self._body = messages.encode_setup(setup)
    digest = messages.setup_digest(self._body)
    super().__init__(Cohort(setup, digest, invited, registry))
    self._publics: set[bytes] = set()

  @property
  def requests(self) -> Requests:
    """Setups."""
    return Requests(
      self.cohort.clients, lambda i: Channel(i).seal(Kind.SETUP, self._body)
    )

  def receive(self, replies: Replies) -> State:
    """See `State.receive`."""
    active = self.cohort.setup.security.active
    advertised = self._accepted(replies, self._read)
    cohort = dataclasses.replace(self.cohort, advertised=advertised)
    cohort.require(advertised, self.stage)
    if not active:
      return Sharing(cohort.drawn(os.urandom(32), self.stage))
    commitments = {i: a.commitment for i, a in advertised.items()}
    return Revealing(cohort, commitments, draw=1)

  def _read(self, client: int, body: memoryview) -> messages.Advertisement:
    cohort, active = self.cohort, self.cohort.setup.security.active
    found = messages.Advertisement.decode(body, active)
    publics = {found.c_public, found.s_public}
    if len(publics) < 2 or publics & self._publics:
      raise errors.MessageError('A public key must be new. Found one again.')
    if not all(map(keys.is_usable, publics)):
      raise errors.MessageError(
        'A public key must be canonical, and not of low order.'
      )
    if active:
      content = keys.advertised_content(
        cohort.binding,
        client,
        found.c_public + found.s_public,
        found.commitment,
      )
      cohort.check_signature(client, found.signature, content)
    self._publics |= publics
    return found


class Revealing(State):
  """Awaits what the roster has committed to; all of it, or draws again."""

  stage = 'reveal'
  kind = Kind.REVEAL

  def __init__(
    self, cohort: Cohort, commitments: Mapping[int, bytes], draw: int
  ):
    super().__init__(cohort)
    self._commitments = commitments
    self._roster = messages.Roster(
      draw, tuple(commitments), tuple(commitments.values())
    )
    self._body = self._roster.encode()

  @property
  def requests(self) -> Requests:
    """Rosters."""
    return Requests(
      self._roster.members,
      lambda i: self.cohort.channel(i).seal(Kind.ROSTER, self._body),
    )

  def receive(self, replies: Replies) -> State:
    """See `State.receive`."""
    commitments, draw = self._commitments, self._roster.draw

    def read(client: int, body: memoryview) -> bytes:
      preimage = codec.split(body, 1, keys.DIGEST_BYTES)[0]
      if keys.chain(preimage, 1) != commitments[client]:
        raise errors.MessageError('What is revealed was not committed to.')
      return preimage

    revealed = self._accepted(replies, read)
    self.cohort.require(revealed, self.stage)
    advertised = {i: self.cohort.advertised[i] for i in revealed}
    cohort = dataclasses.replace(
      self.cohort,
      advertised=advertised,
      preimages=revealed,
      draw=draw,
    )
    if len(revealed) == len(commitments):
      seed = keys.digest(
        b'graph', cohort.binding, self._body, *revealed.values()
      )
      return Sharing(cohort.drawn(seed, self.stage))
    if draw == keys.CHAIN_LENGTH:
      raise errors.Aborted(
        f'Nobody may drop out in one of {keys.CHAIN_LENGTH} draws of the graph'
        ' at least. Found dropouts in all',
        self.stage,
      )
    return Revealing(cohort, revealed, draw + 1)


class Sharing(State):
  """Awaits the sealed shares."""

  stage = 'share'
  kind = Kind.SHARES

  @property
  def requests(self) -> Requests:
    """Neighbors."""
    return Requests(self.cohort.roster, self._introduce)

  def _introduce(self, client: int) -> bytes:
    cohort = self.cohort
    head = (
      len(cohort.roster),
      cohort.parameters.neighbors,
      cohort.parameters.threshold,
      cohort.positions[client],
    )
    peers = [cohort.introductions[peer] for peer in cohort.neighbors[client]]
    body = messages.encode_neighbors(head, peers, cohort.joined_preimages)
    return cohort.channel(client).seal(Kind.NEIGHBORS, body)

  def receive(self, replies: Replies) -> State:
    """See `State.receive`."""
    cohort = self.cohort

    def read(client: int, body: memoryview) -> list[bytes]:
      count = len(cohort.neighbors[client])
      return codec.split(body, count, layers.sealed_bytes(cohort.setup))

    sealed = self._accepted(replies, read)
    cohort.require(sealed, self.stage)
    return Masking(cohort, sealed)


class Masking(State):
  """Awaits the masked vectors, and adds them up."""

  stage = 'mask'
  kind = Kind.MASKED_INPUT

  def __init__(self, cohort: Cohort, sealed: Mapping[int, Sequence[bytes]]):
    """Takes what each sharer has sealed for its neighbors, ids ascending."""
    super().__init__(cohort)
    self._sealed: dict[int, list[bytes]] = {sharer: [] for sharer in sealed}
    for sender, items in sealed.items():
      for receiver, item in zip(cohort.neighbors[sender], items, strict=True):
        if receiver in self._sealed:
          self._sealed[receiver].append(item)

  @property
  def requests(self) -> Requests:
    """Deliveries."""
    return Requests(self._sealed, self._deliver)

  def _deliver(self, client: int) -> bytes:
    peers, sealed = self.cohort.neighbors[client], self._sealed
    bitmap = codec.pack_bits(peer in sealed for peer in peers)
    body = b''.join([bitmap, *sealed[client]])
    return self.cohort.channel(client).seal(Kind.DELIVERY, body)

  def receive(self, replies: Replies) -> State:
    """See `State.receive`."""
    cohort = self.cohort
    totals = unmasking.Totals(cohort.setup)
    survivors = self._accepted(replies, lambda _, body: totals.add(body))
    cohort.require(survivors, self.stage)
    cohort.require_connected(survivors, self.stage)
    known = unmasking.Masked(
      cohort, tuple(self._sealed), tuple(survivors), totals
    )
    if cohort.setup.security.active:
      return Confirming(known)
    return Unmasking(known, {})


class Confirming(State):
  """Awaits the signatures of the survivor list."""

  stage = 'confirm'
  kind = Kind.CONFIRMATION

  def __init__(self, known: unmasking.Masked):
    super().__init__(known.cohort)
    self._known = known

  @property
  def requests(self) -> Requests:
    """Survivors."""
    return Requests(
      self._known.survivors,
      lambda i: self.cohort.channel(i).seal(Kind.SURVIVORS, self._known.bitmap),
    )

  def receive(self, replies: Replies) -> State:
    """See `State.receive`."""
    cohort = self.cohort
    assert cohort.graph is not None
    content = keys.survivors_content(
      cohort.binding, cohort.graph.seed, self._known.bitmap
    )

    def read(client: int, body: memoryview) -> bytes:
      signature = codec.split(body, 1, keys.SIGNATURE_BYTES)[0]
      cohort.check_signature(client, signature, content)
      return signature

    confirmed = self._accepted(replies, read)
    return Unmasking(self._known, confirmed)


class Unmasking(State):
  """Awaits the shares of the secrets to be rebuilt."""

  stage = 'unmask'
  kind = Kind.UNMASK_SHARES

  def __init__(self, known: unmasking.Masked, confirmed: Mapping[int, bytes]):
    super().__init__(known.cohort)
    self._known = known
    self._confirmed = confirmed

  @property
  def survivors(self) -> tuple[int, ...]:
    """The ids of who was summed."""
    return self._known.survivors

  @property
  def confirmed(self) -> Mapping[int, bytes]:
    """The signatures of the survivor list, by id."""
    return self._confirmed

  @property
  def requests(self) -> Requests:
    """UnmaskRequests."""
    active = self.cohort.setup.security.active
    asked = self._confirmed if active else self._known.survivors
    return Requests(asked, self._ask)

  def _ask(self, client: int) -> bytes:
    bitmap, signatures = b'', []
    if self.cohort.setup.security.active:
      peers = self.cohort.neighbors[client]
      confirmed = [peer for peer in peers if peer in self._confirmed]
      # The client asks for no more, and checks all that it is sent.
      confirmed = confirmed[: self.cohort.parameters.threshold]
      bitmap = codec.pack_bits(peer in confirmed for peer in peers)
      signatures = [self._confirmed[peer] for peer in confirmed]
    request = messages.UnmaskRequest(
      self._known.bitmap, bitmap, tuple(signatures)
    )
    return self.cohort.channel(client).seal(
      Kind.UNMASK_REQUEST, request.encode()
    )

  def receive(self, replies: Replies) -> State:
    """See `State.receive`."""
    known = self._known
    shares = self._accepted(replies, known.read_shares)
    totals = known.unmask(shares, self.stage)
    result = Result(self.cohort, known.survivors, totals)
    if self.cohort.setup.verify:
      return Verifying(result, tuple(shares))
    return Finished(result)


class Verifying(State):
  """Awaits that clients accept the sums."""

  stage = 'verify'
  kind = Kind.VERDICT

  def __init__(self, result: Result, asked: tuple[int, ...]):
    super().__init__(result.cohort)
    self._result = result
    self._asked = asked
    self._body = tagging.pack(result.totals, result.cohort.setup)

  @property
  def requests(self) -> Requests:
    """Results."""
    return Requests(
      self._asked,
      lambda i: self.cohort.channel(i).seal(Kind.RESULT, self._body),
    )

  def receive(self, replies: Replies) -> State:
    """See `State.receive`."""
    expected = keys.sha256(self._body)

    def read(_: int, body: memoryview) -> None:
      if bytes(body) != expected:
        raise errors.MessageError(
          'A verdict must be of the sums that were sent.'
        )

    accepted = self._accepted(replies, read)
    if not accepted:
      raise errors.Aborted(
        'At least one client must accept the sums. Found none',
        self.stage,
        sum_known=True,
      )
    return Finished(dataclasses.replace(self._result, accepted=tuple(accepted)))
