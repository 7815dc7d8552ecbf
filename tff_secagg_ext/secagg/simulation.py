# SPDX-License-Identifier: Apache-2.0
"""Clients and server of a session in one process, over memory.

Nothing of the protocol is simulated: keys, messages and checks are those of
clients that are far away. What is simulated are the clients and their network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import os
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from tff_secagg_ext.secagg import (
  checks,
  client,
  client_state,
  errors,
  keys,
  session,
)
from tff_secagg_ext.secagg.report import Outcome
from tff_secagg_ext.secagg.setup import (
  SESSION_BYTES,
  Security,
  Setup,
  VectorSpec,
)
from tff_secagg_ext.secagg.transcript import Transcript

Vectors = Callable[[int], Mapping[str, npt.NDArray[Any]]]
# Whether a client drops out before it answers a step: (step, id) -> bool.
Dropouts = Callable[[str, int], bool]
# A new transcript, of a session whose setup is known.
Transcripts = Callable[[Setup], Transcript]


def nobody(stage: str, client_id: int) -> bool:
  """Nobody drops out."""
  del stage, client_id
  return False


class MemoryTransport:
  """Reaches clients of this process, one after the other.

  A client that refuses, or drops out, is not reached again.
  """

  def __init__(
    self,
    clients: Mapping[int, client.Client],
    vectors: Vectors,
    dropouts: Dropouts = nobody,
  ):
    self._clients = clients
    self._states: dict[int, client_state.State[Any]] = {}
    self._vectors = vectors
    self._dropouts = dropouts
    self._gone: set[int] = set()
    self.other_seconds = 0.0

  def exchange(
    self, stage: str, requests: Mapping[int, bytes]
  ) -> Iterator[session.Answer]:
    """See `session.Transport`."""
    for client_id in requests:
      if client_id in self._gone:
        continue
      message = requests[client_id]
      if self._dropouts(stage, client_id):
        self._leave(client_id)
        continue
      yield self._answer(client_id, message)

  def _answer(self, client_id: int, message: bytes) -> session.Answer:
    started = time.process_time()
    others = self.other_seconds
    reply, refusal = None, None
    try:
      reply = self._hand_over(client_id, message)
    except (
      errors.Refusal,
      errors.MessageError,
      errors.StateSpentError,
    ) as error:
      refusal = type(error).__name__
      self._leave(client_id)
    seconds = time.process_time() - started - (self.other_seconds - others)
    return session.Answer(client_id, reply, refusal, seconds)

  def _hand_over(self, client_id: int, message: bytes) -> bytes:
    state = self._states.pop(client_id, None)
    if state is None:
      following, reply = self._clients[client_id].join(
        message, lambda: self._vectors_of(client_id)
      )
    else:
      following, reply = state.receive(message)
    self._states[client_id] = following
    return reply

  def _vectors_of(self, client_id: int) -> Mapping[str, npt.NDArray[np.int64]]:
    started = time.process_time()
    try:
      return self._vectors(client_id)
    finally:
      self.other_seconds += time.process_time() - started

  def _leave(self, client_id: int) -> None:
    self._gone.add(client_id)
    self._states.pop(client_id, None)


class Simulation:
  """Clients of this process, for one session after the other.

  Identities and the verification key are made from the kernel's randomness,
  kept as long as the object, and never given to the server. So is what clients
  remember of their sessions.
  """

  def __init__(
    self,
    security: Security,
    *,
    verify: bool | None = None,
    min_survivors: int = 2,
  ):
    """Makes a simulation without clients: they come when they are named.

    Args:
      security: The assumptions.
      verify: Whether sums are verified; `None`: in the class 'malicious'.
      min_survivors: The smallest number of clients whose sum is computed.
    """
    self._security = security
    self._verify = security.threat == 'malicious' if verify is None else verify
    self._min_survivors = min_survivors
    self._verification_key = os.urandom(32)
    self._identities: dict[int, keys.Identity] = {}
    self._registry: dict[int, bytes] = {}
    self._histories: dict[int, client_state.History] = {}

  def run(
    self,
    clients: Sequence[int],
    specs: Sequence[VectorSpec],
    vectors: Vectors,
    *,
    round: int = 0,
    dropouts: Dropouts = nobody,
    transcripts: Transcripts | None = None,
  ) -> Outcome:
    """Sums the vectors of clients in a session of its own.

    Args:
      clients: Their ids.
      specs: The vectors.
      vectors: Gives the vectors of a client by name, integers in [0, m). It is
        called once for each client that is to mask them, ids ascending.
      round: The round of the training, whose vectors these are: it may be
        given again after a session that was aborted before the step 'unmask',
        but clients that have sent their shares refuse another of its round.
      dropouts: Who drops out, and when.
      transcripts: Makes what the session is recorded in; `None`: nothing.

    Raises:
      Aborted: If the session ended without a sum.
      TypeError: If a vector is not of integers.
      ValueError: If a vector is out of range.
    """
    setup = Setup(
      os.urandom(SESSION_BYTES),
      round,
      self._security,
      self._verify,
      self._min_survivors,
      tuple(specs),
    )
    members = {i: self._client(i, setup) for i in clients}
    return session.run(
      setup,
      clients,
      MemoryTransport(members, vectors, dropouts),
      registry=self._registry,
      transcript=transcripts(setup) if transcripts else None,
    )

  def _client(self, client_id: int, setup: Setup) -> client.Client:
    identity = None
    if self._security.active:
      identity = self._identities.get(client_id)
      if identity is None:
        identity = self._identities[client_id] = keys.Identity.generate()
        self._registry[client_id] = identity.public
    return client.Client(
      client_id,
      checks.Policy(
        self._security, self._verify, self._min_survivors, setup.vectors
      ),
      client_state.Credentials(
        identity, self._registry, self._verification_key
      ),
      history=self._histories.setdefault(client_id, client_state.History()),
    )
