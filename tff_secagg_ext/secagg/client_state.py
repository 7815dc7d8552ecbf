# SPDX-License-Identifier: Apache-2.0
"""What the states of a client have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, Generic, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from tff_secagg_ext.secagg import codec, errors, keys, messages, tagging
from tff_secagg_ext.secagg.setup import Setup

Vectors = Mapping[str, npt.NDArray[np.int64]]
_Memory = TypeVar('_Memory')


class State(Generic[_Memory]):
  """What a client knows between two messages; it can be used once."""

  def __init__(self, memory: _Memory):
    self._memory: _Memory | None = memory

  def _leave(self) -> _Memory:
    memory, self._memory = self._memory, None
    if memory is None:
      raise errors.StateSpentError(
        f'{type(self).__name__} was left already: each step is taken once.'
        ' Begin a new session.'
      )
    return memory

  def receive(self, message: bytes) -> tuple[State[Any], bytes]:
    """Takes the step of a message.

    Returns:
      The next state, and the answer.

    Raises:
      Refusal: If what the server asks for is not safe.
      MessageError: If the bytes are not the message that is due.
      StateSpentError: If the state was left before.
    """
    raise NotImplementedError

  def __repr__(self) -> str:
    return f'<{type(self).__name__}>'

  def __reduce__(self) -> NoReturn:
    raise TypeError(
      f'{type(self).__name__} holds secrets of a session and cannot be pickled.'
    )


@dataclasses.dataclass(frozen=True, repr=False)
class Credentials:
  """What a client has been given before any session.

  Attributes:
    identity: Its signing key; `None` in the passive protocol.
    registry: The public identity of each client, 32 bytes, by id.
    verification_key: K, 32 bytes, which all clients know and the server does
      not; `None` where sums are not verified.
  """

  identity: keys.Identity | None = None
  registry: Mapping[int, bytes] = dataclasses.field(default_factory=dict)
  verification_key: bytes | None = None


@dataclasses.dataclass
class History:
  """What a client remembers of its sessions; nothing of it is secret.

  To be kept as long as rounds are counted: a client that forgets it can be made
  to answer twice.

  Attributes:
    joined: Session and round of each that it has joined.
    answered: The rounds in which it has sent UnmaskShares.
  """

  joined: set[tuple[bytes, int]] = dataclasses.field(default_factory=set)
  answered: set[int] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True)
class Neighborhood:
  """Where a client is, and who its neighbors are.

  Attributes:
    clients: n.
    threshold: t.
    position: The client's own in the roster.
    peers: Its neighbors, ascending.
    seed: Of the graph; empty in the passive protocol.
    members: The ids of the roster; empty in the passive protocol.
  """

  clients: int
  threshold: int
  position: int
  peers: tuple[messages.Peer, ...]
  seed: bytes = b''
  members: tuple[int, ...] = ()

  @classmethod
  def of(cls, found: messages.Neighbors) -> Neighborhood:
    """Returns what a message says, before anything of it is checked."""
    return cls(found.clients, found.threshold, found.position, found.peers)

  def ids_of(self, survivors: bytes) -> list[int]:
    """Returns the ids of a bitmap over the roster."""
    flags = codec.unpack_bits(survivors, self.clients)
    return [i for i, alive in zip(self.members, flags, strict=True) if alive]


@dataclasses.dataclass(frozen=True, repr=False)
class Session:
  """What a client knows from the first step on."""

  setup: Setup
  channel: codec.Channel
  credentials: Credentials
  history: History
  draw: Callable[[int], bytes]
  vectors: Callable[[], Vectors]
  c: keys.KeyPair
  s_private: bytes

  @property
  def id(self) -> int:
    """The client's."""
    return self.channel.client

  def derive(
    self, secret: bytes, role: bytes, pair: tuple[int, int], name: bytes = b''
  ) -> bytes:
    """See `keys.derive`."""
    return keys.derive(secret, self.channel.binding, role, pair, name)

  def tagger(self) -> tagging.Tagger:
    """What tags and checks the vectors."""
    key = self.credentials.verification_key
    assert key is not None
    return tagging.Tagger(key, self.channel.binding, self.setup.round)
