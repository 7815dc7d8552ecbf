# SPDX-License-Identifier: Apache-2.0
"""Sessions that tests take apart: step by step, or over a network of faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import os
from typing import Any

import numpy as np

from tff_secagg_ext.secagg import (
  checks,
  client,
  client_state,
  codec,
  keys,
  messages,
  server,
  server_state,
  session,
  simulation,
)
from tff_secagg_ext.secagg.codec import Kind
from tff_secagg_ext.secagg.report import Outcome
from tff_secagg_ext.secagg.setup import Security, Setup, VectorSpec

SPECS = (
  VectorSpec('even', 3, 2**5),
  VectorSpec('odd', 2, 1_000_003),
  VectorSpec('wide', 2, 2**62),
  VectorSpec('empty', 0, 2),
)
CURIOUS = Security('curious', neighbors=6, threshold=3)
ACTIVE = Security('malicious', neighbors=6, threshold=4)

# The requests of a step, and the replies.
KINDS = {
  'invite': (Kind.SETUP, Kind.ADVERTISEMENT),
  'reveal': (Kind.ROSTER, Kind.REVEAL),
  'share': (Kind.NEIGHBORS, Kind.SHARES),
  'mask': (Kind.DELIVERY, Kind.MASKED_INPUT),
  'confirm': (Kind.SURVIVORS, Kind.CONFIRMATION),
  'unmask': (Kind.UNMASK_REQUEST, Kind.UNMASK_SHARES),
  'verify': (Kind.RESULT, Kind.VERDICT),
}
PASSIVE_STAGES = ('invite', 'share', 'mask', 'unmask')
STAGES = tuple(KINDS)


def stages_of(security: Security) -> tuple[str, ...]:
  """The steps of a session, verified if the class can."""
  return STAGES if security.active else PASSIVE_STAGES


def is_summed(stage: str) -> bool:
  """Whether a client that is lost in a step is in the sum all the same."""
  return stage in ('confirm', 'unmask', 'verify')


def survivors_without(stage: str, lost: Sequence[int]) -> tuple[int, ...]:
  """Who of seven clients is in the sum if some are lost in a step."""
  return tuple(i for i in range(7) if is_summed(stage) or i not in lost)


def vectors_of(
  client_id: int, specs: Sequence[VectorSpec] = SPECS
) -> dict[str, np.ndarray]:
  """The same vectors of a client each time, over the whole of each ring."""
  random = np.random.default_rng(client_id)
  return {
    spec.name: random.integers(0, spec.modulus, spec.length) for spec in specs
  }


def sums_of(
  survivors: Sequence[int], specs: Sequence[VectorSpec] = SPECS
) -> dict[str, list[int]]:
  """The sums over some clients, in integers of any size."""
  vectors = [vectors_of(i, specs) for i in survivors]
  return {
    spec.name: [
      sum(int(vector[spec.name][j]) for vector in vectors) % spec.modulus
      for j in range(spec.length)
    ]
    for spec in specs
  }


def is_exact(outcome: Outcome, specs: Sequence[VectorSpec] = SPECS) -> bool:
  """Whether the sums are those over the survivors that were declared."""
  sums = {name: total.tolist() for name, total in outcome.sums.items()}
  return sums == sums_of(outcome.survivors, specs)


class Group:
  """Clients that can be in one session after the other."""

  def __init__(
    self,
    security: Security,
    ids: Sequence[int] = range(7),
    *,
    verify: bool | None = None,
    min_survivors: int = 2,
    specs: Sequence[VectorSpec] = SPECS,
  ):
    self.security, self.specs = security, tuple(specs)
    self.verify = security.active if verify is None else verify
    self.min_survivors = min_survivors
    self.identities = {i: keys.Identity.generate() for i in ids}
    self.registry = {i: known.public for i, known in self.identities.items()}
    self.verification_key = os.urandom(32)
    self.clients = {i: self.client(i) for i in ids}
    self.rounds = itertools.count()

  def client(
    self,
    client_id: int,
    draw: Callable[[int], bytes] = os.urandom,
    history: client_state.History | None = None,
  ) -> client.Client:
    return client.Client(
      client_id,
      checks.Policy(self.security, self.verify, self.min_survivors, self.specs),
      client_state.Credentials(
        self.identities[client_id], self.registry, self.verification_key
      ),
      draw,
      history,
    )

  def vectors(self, client_id: int) -> dict[str, np.ndarray]:
    return vectors_of(client_id, self.specs)

  def setup(self, round: int | None = None) -> Setup:
    """A session of its own, and of a round of its own if none is named."""
    return Setup(
      os.urandom(32),
      next(self.rounds) if round is None else round,
      self.security,
      self.verify,
      self.min_survivors,
      self.specs,
    )

  def transport(
    self, dropouts: simulation.Dropouts = simulation.nobody
  ) -> simulation.MemoryTransport:
    return simulation.MemoryTransport(self.clients, self.vectors, dropouts)

  def run(
    self,
    transport: session.Transport | None = None,
    *,
    setup: Setup | None = None,
    **options: Any,
  ) -> Outcome:
    return session.run(
      setup or self.setup(),
      self.clients,
      transport or self.transport(),
      registry=self.registry,
      **options,
    )


class Walk:
  """A session without a transport, a step at a time.

  Attributes:
    server: Its state.
    states: Those of the clients.
    requests: The last ones, by id.
    replies: The last ones, by id.
  """

  def __init__(self, group: Group, setup: Setup | None = None):
    self.group = group
    self.setup = setup or group.setup()
    self.binding = messages.setup_digest(messages.encode_setup(self.setup))
    self.server: server_state.State = server.Inviting(
      self.setup, group.clients, group.registry
    )
    self.states: dict[int, Any] = {}
    self.requests: dict[int, bytes] = {}
    self.replies: dict[int, bytes] = {}

  def channel(self, client_id: int) -> codec.Channel:
    return codec.Channel(client_id, self.binding)

  def ask(self) -> None:
    """Takes the clients' half of a step."""
    self.requests = dict(self.server.requests)
    self.replies = {}
    for i, message in self.requests.items():
      if i in self.states:
        self.states[i], reply = self.states[i].receive(message)
      else:
        self.states[i], reply = self.group.clients[i].join(
          message, lambda i=i: self.group.vectors(i)
        )
      self.replies[i] = reply

  def tell(self, replies: Mapping[int, bytes] | None = None) -> None:
    """Takes the server's half."""
    given = self.replies if replies is None else replies
    self.server = self.server.receive(given.items())

  def to(self, stage: str) -> Walk:
    """Takes whole steps until the server is in one."""
    while self.server.stage != stage:
      self.ask()
      self.tell()
    return self


# What arrives in the place of a message, and from or at whom:
# (step, id, message) -> [(id, message), ...].
Fault = Callable[[str, int, bytes], list[tuple[int, bytes]]]


def faithful(
  stage: str, client_id: int, message: bytes
) -> list[tuple[int, bytes]]:
  """No fault."""
  del stage
  return [(client_id, message)]


class Network:
  """Clients of this process, behind a network with faults.

  Attributes:
    sent: All messages as they were sent, by (step, is up, id).
  """

  def __init__(
    self,
    inner: simulation.MemoryTransport,
    down: Fault = faithful,
    up: Fault = faithful,
  ):
    self._inner, self._down, self._up = inner, down, up
    self.sent: dict[tuple[str, bool, int], bytes] = {}

  def inject(self, fault: Fault, *, up: bool) -> None:
    """Sets the fault of one direction."""
    if up:
      self._up = fault
    else:
      self._down = fault

  @property
  def other_seconds(self) -> float:
    return self._inner.other_seconds

  def exchange(
    self, stage: str, requests: Mapping[int, bytes]
  ) -> Iterator[session.Answer]:
    for client_id in requests:
      message = requests[client_id]
      self.sent[stage, False, client_id] = message
      for reached, arrived in self._down(stage, client_id, message):
        for answer in self._inner.exchange(stage, {reached: arrived}):
          if answer.message is None:
            yield answer
            continue
          self.sent[stage, True, answer.client] = answer.message
          for sender, reply in self._up(stage, answer.client, answer.message):
            yield dataclasses.replace(answer, client=sender, message=reply)
