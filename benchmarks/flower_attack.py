# SPDX-License-Identifier: Apache-2.0
"""One unmask message that names a client both alive and dead.

  python benchmarks/flower_attack.py [--flower-venv DIR]

Whoever holds t shares of a client's private seed and t of its private key reads
its vector. Flower's client answers one message with a share of each, because it
does not compare the two lists; flower_unmask.py goes on to recover the vector.
Ours is asked for one bitmap, and its state is gone when it has answered: every
way to ask for both is tried at one client, each in a session of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import os
import pathlib
import sys
import tempfile
from typing import Any

import flower
import numpy as np

from tff_secagg_ext.secagg import (
  checks,
  client,
  codec,
  errors,
  keys,
  messages,
  server,
  shamir,
)
from tff_secagg_ext.secagg.client_state import Credentials, State
from tff_secagg_ext.secagg.setup import (
  SESSION_BYTES,
  Security,
  Setup,
  VectorSpec,
)

_CLIENTS, _THRESHOLD = 10, 7
_VICTIM, _ASKED = 0, 1
_SPEC = VectorSpec('update', 1000, 1 << 32)


class Session:
  """Ours, run by an honest server until the unmask requests are due."""

  def __init__(self, threat: str):
    security = Security(threat, neighbors=_CLIENTS - 1, threshold=_THRESHOLD)
    self.setup = Setup(
      os.urandom(SESSION_BYTES), 0, security, False, 2, (_SPEC,)
    )
    self.states: dict[int, State[Any]] = {}
    self._members = self._make_clients()
    state: Any = server.Inviting(self.setup, self._members)
    while not isinstance(state, server.Unmasking):
      replies = {i: self._answer(i, m) for i, m in state.requests.items()}
      state = state.receive(replies.items())
    self.server = state

  def _make_clients(self) -> dict[int, client.Client]:
    identities = {i: keys.Identity.generate() for i in range(_CLIENTS)}
    registry = {i: identity.public for i, identity in identities.items()}
    policy = checks.Policy(
      self.setup.security, False, self.setup.min_survivors, self.setup.vectors
    )
    return {
      i: client.Client(i, policy, Credentials(identity, registry))
      for i, identity in identities.items()
    }

  def _answer(self, member: int, message: bytes) -> bytes:
    if member in self.states:
      state, reply = self.states[member].receive(message)
    else:
      vector = np.arange(_SPEC.length)
      state, reply = self._members[member].join(
        message, lambda: {_SPEC.name: vector}
      )
    self.states[member] = state
    return reply

  def request(self, *dead: int) -> messages.UnmaskRequest:
    """What the honest server would ask, but for the clients that are dead."""
    alive = [i for i in self._members if i not in dead]
    channel = self.server.cohort.channel(_ASKED)
    kind = codec.Kind.UNMASK_REQUEST
    _, body = channel.open(self.server.requests[_ASKED], kind)
    neighbors = _CLIENTS - 1 if self.setup.security.active else None
    honest = messages.UnmaskRequest.decode(body, _CLIENTS, neighbors)
    return messages.UnmaskRequest(
      self.server.cohort.bitmap(alive), honest.confirmed, honest.signatures
    )

  def ask(self, body: bytes, state: State[Any] | None = None) -> int:
    """Sends a body to one client; returns how many shares it answers with."""
    channel = self.server.cohort.channel(_ASKED)
    message = channel.seal(codec.Kind.UNMASK_REQUEST, body)
    known = state or self.states[_ASKED]
    self.states[_ASKED], reply = known.receive(message)
    _, shares = channel.open(reply, codec.Kind.UNMASK_SHARES)
    return len(shares) // shamir.KEY_BYTES


def both_lists_in_one(session: Session) -> None:
  """Two bitmaps in one message."""
  alive, dead = session.request(), session.request(_VICTIM)
  session.ask(alive.encode() + dead.survivors)


def another_list_to_the_next_state(session: Session) -> None:
  """The victim alive, and in a second message dead."""
  _expect_one_share_each(session.ask(session.request().encode()))
  session.ask(session.request(_VICTIM).encode())


def another_list_to_the_same_state(session: Session) -> None:
  """The same, at the state that has answered already."""
  state = session.states[_ASKED]
  _expect_one_share_each(session.ask(session.request().encode()))
  session.ask(session.request(_VICTIM).encode(), state)


def a_longer_bitmap(session: Session) -> None:
  """A bit beyond the roster, where a second entry could be."""
  request = session.request()
  beyond = np.frombuffer(request.survivors, np.uint8).copy()
  beyond[-1] |= 1 << _CLIENTS % 8
  rest = request.encode()[len(beyond) :]
  session.ask(beyond.tobytes() + rest)


def dead_though_confirmed_alive(session: Session) -> None:
  """A first list that is not the one that all have confirmed."""
  session.ask(session.request(_VICTIM).encode())


_ATTEMPTS: tuple[Callable[[Session], None], ...] = (
  both_lists_in_one,
  another_list_to_the_next_state,
  another_list_to_the_same_state,
  a_longer_bitmap,
)
_ATTEMPTS_IF_ACTIVE = (*_ATTEMPTS, dead_though_confirmed_alive)


def _expect_one_share_each(shares: int) -> None:
  """The honest part of an attempt must work, or it shows nothing."""
  if shares != _CLIENTS - 1:
    raise RuntimeError(f'{_CLIENTS - 1} shares were due. Found {shares}.')


def against_ours() -> bool:
  """Prints what became of each attempt; returns whether all were refused."""
  answered = 0
  for threat in ('curious', 'malicious'):
    active = Security(threat).active
    for attempt in _ATTEMPTS_IF_ACTIVE if active else _ATTEMPTS:
      session = Session(threat)
      try:
        attempt(session)
      except errors.SecAggError as error:
        outcome = f'refused: {type(error).__name__}'
      else:
        outcome, answered = 'ANSWERED', answered + 1
      words = attempt.__name__.replace('_', ' ')
      print(f'ours, {threat:9s}: {words:34s} {outcome}')
  return not answered


def against_flower(venv: pathlib.Path) -> bool:
  """Prints what became of the attack; returns whether it succeeded."""
  python = flower.environment(venv)
  found = flower.run(python, 'flower_unmask.py', _CLIENTS, _THRESHOLD)
  recovered = found['recovered']
  print(
    f'Flower: one message to each of {found["messages"]} of'
    f" {found['clients']} clients; the victim's {found['coordinates']}"
    f' coordinates {"RECOVERED" if recovered else "not recovered"}'
  )
  return recovered


def main() -> None:
  """Attacks both; the exit status is 0 if Flower's falls and ours does not."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--flower-venv', type=pathlib.Path)
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    fell = against_flower(arguments.flower_venv or pathlib.Path(folder))
  sys.exit(not (fell and against_ours()))


if __name__ == '__main__':
  main()
