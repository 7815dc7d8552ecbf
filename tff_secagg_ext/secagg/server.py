# SPDX-License-Identifier: Apache-2.0
"""The server: one class for each state of the protocol, each left once.

  Inviting [-> Revealing ...] -> Sharing -> Masking [-> Confirming]
           -> Unmasking [-> Verifying] -> Finished

A state has requests, one for each client that is left, and takes the replies
to them in any order, one after the other: what is summed is added as it comes
and not kept. Without input or output: `session.run` moves the bytes.

Guarantees:

- a reply that is malformed, not due, or the second of its client is left out
  and noted, and its client has dropped out;
- the session ends in the sum over the survivors that were declared to all, or
  in `Aborted`;
- at most one secret of each client is rebuilt: of its own mask if it survived,
  of its masks with others if not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import os
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tff_secagg_ext.secagg import (
  errors,
  keys,
  messages,
  parameters,
  tagging,
  unmasking,
)
from tff_secagg_ext.secagg.cohort import Cohort
from tff_secagg_ext.secagg.graph import Graph
from tff_secagg_ext.secagg.messages import Channel, Kind
from tff_secagg_ext.secagg.setup import Setup

Replies = Iterable[tuple[int, bytes]]
_T = TypeVar('_T')


class Requests(Mapping[int, bytes]):
  """A message for each client, each made when it is looked up."""

  def __init__(self, clients: Iterable[int], make: Callable[[int], bytes]):
    self._clients = dict.fromkeys(clients)
    self._make = make

  def __getitem__(self, client: int) -> bytes:
    if client not in self._clients:
      raise KeyError(client)
    return self._make(client)

  def __iter__(self) -> Iterator[int]:
    return iter(self._clients)

  def __len__(self) -> int:
    return len(self._clients)


class State:
  """What the server waits for; it can be left once.

  Attributes:
    stage: The name of the step.
    cohort: What is known of the session.
    rejected: Why a reply was left out, by client.
  """

  stage = ''
  kind = Kind.SETUP

  def __init__(self, cohort: Cohort):
    self.cohort = cohort
    self.rejected: dict[int, errors.MessageError] = {}
    self._left = False

  @property
  def requests(self) -> Requests:
    """A message for each client of which a reply is due."""
    raise NotImplementedError

  def receive(self, replies: Replies) -> State:
    """Takes the replies that came, and returns the next state.

    Raises:
      Aborted: If the session cannot go on.
      StateSpentError: If the state was left before.
    """
    raise NotImplementedError

  def _accepted(
    self, replies: Replies, read: Callable[[int, memoryview], _T]
  ) -> dict[int, _T]:
    """Returns what each valid reply holds, by id, ascending."""
    if self._left:
      raise errors.StateSpentError(
        f'{type(self).__name__} was left already: each step is taken once.'
        ' Begin a new session.'
      )
    self._left = True
    due = dict.fromkeys(self.requests)
    found = {}
    for client, message in replies:
      try:
        if client not in due:
          raise errors.MessageError('No reply of this client was due.')
        del due[client]
        _, body = self.cohort.channel(client).open(message, self.kind)
        found[client] = read(client, body)
      except errors.MessageError as error:
        self.rejected[client] = error
    return dict(sorted(found.items()))


class Inviting(State):
  """Awaits the Advertisements."""

  stage = 'invite'
  kind = Kind.ADVERTISEMENT

  def __init__(self, setup: Setup, clients: Iterable[int]):
    invited = tuple(sorted(clients))
    if len(set(invited)) < len(invited):
      raise ValueError(
        f'`clients` must be different ids. Found {invited!r}. Invite each once.'
      )
    self._body = messages.encode_setup(setup)
    digest = messages.setup_digest(self._body)
    super().__init__(Cohort(setup, digest, invited))

  @property
  def requests(self) -> Requests:
    """Setups."""
    return Requests(
      self.cohort.clients, lambda i: Channel(i).seal(Kind.SETUP, self._body)
    )

  def receive(self, replies: Replies) -> State:
    """See `State.receive`."""
    active = self.cohort.setup.security.active
    advertised = self._accepted(
      replies, lambda _, body: messages.Advertisement.decode(body, active)
    )
    cohort = dataclasses.replace(self.cohort, advertised=advertised)
    cohort.require(advertised, self.stage)
    if not active:
      return Sharing(_drawn(cohort, os.urandom(32), self.stage))
    commitments = {i: a.commitment for i, a in advertised.items()}
    return Revealing(cohort, commitments, draw=1)


class Revealing(State):
  """Awaits what the roster has committed to; all of it, or draws again."""

  stage = 'reveal'
  kind = Kind.REVEAL

  def __init__(
    self, cohort: Cohort, commitments: Mapping[int, bytes], draw: int
  ):
    super().__init__(cohort)
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
    roster = self._roster
    commitments = dict(zip(roster.members, roster.commitments, strict=True))

    def read(client: int, body: memoryview) -> bytes:
      if keys.chain(bytes(body), 1) != commitments[client]:
        raise errors.MessageError('What is revealed was not committed to.')
      return bytes(body)

    revealed = self._accepted(replies, read)
    self.cohort.require(revealed, self.stage)
    advertised = {i: self.cohort.advertised[i] for i in revealed}
    cohort = dataclasses.replace(
      self.cohort,
      advertised=advertised,
      preimages=revealed,
      draw=roster.draw,
    )
    if len(revealed) == len(commitments):
      seed = keys.digest(
        b'graph', cohort.binding, self._body, *revealed.values()
      )
      return Sharing(_drawn(cohort, seed, self.stage))
    if roster.draw == keys.CHAIN_LENGTH:
      raise errors.Aborted(
        f'Nobody may drop out in one of {keys.CHAIN_LENGTH} draws of the graph'
        ' at least. Found dropouts in all',
        self.stage,
      )
    return Revealing(cohort, revealed, roster.draw + 1)


def _drawn(cohort: Cohort, seed: bytes, stage: str) -> Cohort:
  """Returns the cohort with its parameters and graph."""
  clients = len(cohort.roster)
  try:
    derived = parameters.derive(clients, cohort.setup.security)
  except ValueError as error:
    raise errors.Aborted(str(error), stage) from error
  graph = Graph(clients, derived.neighbors, seed)
  return dataclasses.replace(cohort, parameters=derived, graph=graph)


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
    peers = []
    for peer in cohort.neighbors[client]:
      keyed = cohort.advertised[peer]
      peers.append(
        messages.Peer(
          cohort.positions[peer],
          peer,
          keyed.c_public,
          keyed.s_public,
          keyed.signature,
        )
      )
    found = messages.Neighbors(
      len(cohort.roster),
      cohort.parameters.neighbors,
      cohort.parameters.threshold,
      cohort.positions[client],
      tuple(peers),
      tuple(cohort.preimages.values()),
    )
    return cohort.channel(client).seal(Kind.NEIGHBORS, found.encode())

  def receive(self, replies: Replies) -> State:
    """See `State.receive`."""
    cohort = self.cohort

    def read(client: int, body: memoryview) -> dict[int, bytes]:
      peers = cohort.neighbors[client]
      sealed = messages.split(body, len(peers), keys.SEALED_SHARES_BYTES)
      return dict(zip(peers, sealed, strict=True))

    sealed = self._accepted(replies, read)
    cohort.require(sealed, self.stage)
    return Masking(cohort, sealed)


class Masking(State):
  """Awaits the masked vectors, and adds them up."""

  stage = 'mask'
  kind = Kind.MASKED_INPUT

  def __init__(self, cohort: Cohort, sealed: Mapping[int, Mapping[int, bytes]]):
    super().__init__(cohort)
    self._sealed = sealed

  @property
  def requests(self) -> Requests:
    """Deliveries."""
    return Requests(self._sealed, self._deliver)

  def _deliver(self, client: int) -> bytes:
    peers, sealed = self.cohort.neighbors[client], self._sealed
    bitmap = messages.pack_bits(peer in sealed for peer in peers)
    items = [sealed[peer][client] for peer in peers if peer in sealed]
    return self.cohort.channel(client).seal(
      Kind.DELIVERY, b''.join([bitmap, *items])
    )

  def receive(self, replies: Replies) -> State:
    """See `State.receive`."""
    cohort = self.cohort
    totals = unmasking.Totals(cohort.setup)
    survivors = self._accepted(replies, lambda _, body: totals.add(body))
    cohort.require(survivors, self.stage)
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
    self._bitmap = known.cohort.bitmap(known.survivors)

  @property
  def requests(self) -> Requests:
    """Survivors."""
    return Requests(
      self._known.survivors,
      lambda i: self.cohort.channel(i).seal(Kind.SURVIVORS, self._bitmap),
    )

  def receive(self, replies: Replies) -> State:
    """See `State.receive`."""
    confirmed = self._accepted(
      replies, lambda _, body: messages.split(body, 1, keys.SIGNATURE_BYTES)[0]
    )
    return Unmasking(self._known, confirmed)


class Unmasking(State):
  """Awaits the shares of the secrets to be rebuilt."""

  stage = 'unmask'
  kind = Kind.UNMASK_SHARES

  def __init__(self, known: unmasking.Masked, confirmed: Mapping[int, bytes]):
    super().__init__(known.cohort)
    self._known = known
    self._confirmed = confirmed
    self._bitmap = known.cohort.bitmap(known.survivors)

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
      bitmap = messages.pack_bits(peer in self._confirmed for peer in peers)
      signatures = [
        self._confirmed[peer] for peer in peers if peer in self._confirmed
      ]
    request = messages.UnmaskRequest(self._bitmap, bitmap, tuple(signatures))
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


@dataclasses.dataclass(frozen=True)
class Result:
  """The end of a session.

  Attributes:
    cohort: What is known of the session.
    survivors: The ids of who was summed, ascending.
    totals: The sums, as int64 in [0, m), tags included, in the order of the
      setup.
    accepted: The ids of who has verified the sums; `None` without
      verification.
  """

  cohort: Cohort
  survivors: tuple[int, ...]
  totals: tuple[npt.NDArray[np.int64], ...]
  accepted: tuple[int, ...] | None = None

  @property
  def sums(self) -> dict[str, npt.NDArray[np.int64]]:
    """The sums by name, without tags."""
    specs = self.cohort.setup.vectors
    return {
      spec.name: total[: spec.length]
      for spec, total in zip(specs, self.totals, strict=True)
    }


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


class Finished(State):
  """The session is over.

  Attributes:
    result: Its result.
  """

  stage = 'finished'

  def __init__(self, result: Result):
    super().__init__(result.cohort)
    self.result = result

  @property
  def requests(self) -> Requests:
    """None."""
    return Requests((), lambda _: b'')
