# SPDX-License-Identifier: Apache-2.0
"""A client: its states are left once and in order, and keep their secrets."""

from __future__ import annotations

from collections.abc import Iterator
import copy
import dataclasses
import gc
import hashlib
import os
import pickle
import types
from typing import Any

import numpy as np
import pytest

from tests.secagg.sessions import (
  ACTIVE,
  CURIOUS,
  KINDS,
  Group,
  Walk,
  stages_of,
)
from tff_secagg_ext.secagg import (
  client,
  client_state,
  codec,
  cohort,
  errors,
  keys,
)
from tff_secagg_ext.secagg.codec import Kind
from tff_secagg_ext.secagg.setup import Security, VectorSpec

CLIENT = 2
GROUPS = pytest.mark.parametrize(
  ('security', 'verify', 'path'),
  [
    (CURIOUS, False, 'Advertised Introduced Masked Finished'),
    (
      ACTIVE,
      False,
      'Advertised Revealed Introduced Masked Confirmed Finished',
    ),
    (
      ACTIVE,
      True,
      'Advertised Revealed Introduced Masked Confirmed Answered Finished',
    ),
  ],
  ids=['passive', 'active', 'verified'],
)


def walk_of(security: Security, verify: bool) -> Walk:
  return Walk(Group(security, range(5), verify=verify))


def states_of(walk: Walk) -> Iterator[tuple[Any, bytes]]:
  """Yields each state of a client, and the message that is due next."""
  while True:
    walk.ask()
    walk.tell()
    state = walk.states[CLIENT]
    if walk.server.stage == 'finished':
      yield state, b''
      return
    yield state, walk.server.requests[CLIENT]


@GROUPS
def test_states_follow_one_another_in_one_way(security, verify, path: str):
  states = [state for state, _ in states_of(walk_of(security, verify))]
  assert [type(state).__name__ for state in states] == path.split()
  for state in states[:-1]:
    with pytest.raises(
      errors.StateSpentError,
      match=f'{type(state).__name__} was left already: each step is taken once',
    ):
      state.receive(b'')
  with pytest.raises(errors.StateSpentError, match='The session is over'):
    states[-1].receive(b'')


@GROUPS
def test_the_last_state_stays_where_it_is(security, verify, path):
  *_, (last, _) = states_of(walk_of(security, verify))
  for message in (b'', b'x' * 100):
    with pytest.raises(errors.StateSpentError, match='no message is due'):
      last.receive(message)


@GROUPS
def test_a_state_takes_no_message_but_its_own(security, verify, path: str):
  """Every kind that is not due is refused, and ends the client's part."""
  for place in range(len(path.split()) - 1):
    for kind in Kind:
      walk = walk_of(security, verify)
      states = states_of(walk)
      for _ in range(place + 1):
        state, message = next(states)
      due = {codec.Kind(message[1])}
      if type(state) is client.Revealed:
        due.add(Kind.ROSTER)
      if kind in due:
        continue
      channel = walk.channel(CLIENT)
      with pytest.raises(
        errors.MessageError, match=f'is due is .*{Kind(message[1]).name}'
      ):
        state.receive(channel.seal(kind, bytes(message[18:])))
      with pytest.raises(errors.StateSpentError):
        state.receive(message)


def test_a_client_joins_with_a_setup_alone():
  walk = walk_of(ACTIVE, True)
  message = walk.server.requests[CLIENT]
  other = codec.Channel(CLIENT).seal(Kind.ROSTER, message[18:])
  with pytest.raises(
    errors.MessageError, match=r'is due is SETUP\. Found type 3'
  ):
    walk.group.clients[CLIENT].join(other, dict)
  with pytest.raises(errors.MessageError, match=r'at least 18 bytes\. Found 0'):
    walk.group.clients[CLIENT].join(b'', dict)


@GROUPS
def test_a_message_that_is_refused_ends_the_part_of_the_client(
  security, verify, path: str
):
  for place in range(len(path.split()) - 1):
    states = states_of(walk_of(security, verify))
    for _ in range(place + 1):
      state, message = next(states)
    with pytest.raises(errors.MessageError, match='The checksum of a message'):
      state.receive(message[:-1] + bytes([message[-1] ^ 1]))
    with pytest.raises(errors.StateSpentError, match='was left already'):
      state.receive(message)


@GROUPS
def test_states_can_be_neither_pickled_nor_copied(security, verify, path):
  for state, message in states_of(walk_of(security, verify)):
    name = type(state).__name__
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
      with pytest.raises(
        TypeError, match=f'{name} holds secrets of a session and cannot be'
      ):
        duplicate(state)
    del message


class Recorder:
  """The kernel's randomness; it keeps the hashes of what it gave."""

  def __init__(self) -> None:
    self.hashes: set[str] = set()

  def __call__(self, size: int) -> bytes:
    drawn = os.urandom(size)
    self.hashes.add(hashlib.sha256(drawn).hexdigest())
    return drawn

  def gave(self, data: bytes) -> bool:
    return hashlib.sha256(data).hexdigest() in self.hashes


def reachable(root: object) -> Iterator[object]:
  """Yields what an object holds; code and classes hold everything."""
  seen, stack = set(), [root]
  while stack:
    found = stack.pop()
    if id(found) in seen or isinstance(found, (type, types.ModuleType)):
      continue
    seen.add(id(found))
    yield found
    if isinstance(found, types.FunctionType):
      stack += [cell.cell_contents for cell in found.__closure__ or ()]
    else:
      stack += gc.get_referents(found)


def secrets_in(root: object, recorder: Recorder) -> list[object]:
  return [
    found
    for found in reachable(root)
    if isinstance(found, keys.KeyPair)
    or (isinstance(found, bytes) and recorder.gave(found))
  ]


@GROUPS
def test_nothing_of_a_secret_survives_its_session(security, verify, path: str):
  walk, recorder = walk_of(security, verify), Recorder()
  walk.group.clients[CLIENT] = walk.group.client(CLIENT, recorder)
  states = []
  for state, _ in states_of(walk):
    states.append(state)
    for left in states[:-1]:
      assert secrets_in(left, recorder) == []
    name = type(state).__name__
    if name in ('Advertised', 'Revealed', 'Introduced'):
      # The walk has power: before its vectors are masked, it has its keys.
      assert secrets_in(state, recorder)
  assert secrets_in(states[-1], recorder) == []
  assert secrets_in(walk.group.clients[CLIENT], recorder) == []
  assert len(recorder.hashes) >= 5


def test_what_a_refusal_leaves_behind_has_no_secrets():
  walk, recorder = walk_of(ACTIVE, True), Recorder()
  walk.group.clients[CLIENT] = walk.group.client(CLIENT, recorder)
  walk.to('unmask')
  state = walk.states[CLIENT]
  with pytest.raises(errors.MessageError):
    state.receive(b'')
  assert secrets_in(state, recorder) == []


@GROUPS
def test_states_show_nothing(security, verify, path: str):
  walk = walk_of(security, verify)
  drawn = []

  def draw(size: int) -> bytes:
    drawn.append(os.urandom(size))
    return drawn[-1]

  walk.group.clients[CLIENT] = walk.group.client(CLIENT, draw)
  for state, _ in states_of(walk):
    assert repr(state) == str(state) == f'<{type(state).__name__}>'
    shown = [repr(state), f'{state!r}', repr(vars(state))]
    memory = state._memory
    if dataclasses.is_dataclass(memory):
      shown.append(repr(memory))
      shown += [
        repr(getattr(memory, field.name))
        for field in dataclasses.fields(memory)
        if dataclasses.is_dataclass(getattr(memory, field.name))
      ]
    for text in shown:
      for secret in [*drawn, walk.group.verification_key]:
        assert repr(secret)[2:-1] not in text
        assert secret.hex() not in text
  assert 'verification' not in repr(walk.group.clients[CLIENT])


def test_a_session_is_joined_once():
  walk = walk_of(ACTIVE, True)
  walk.ask()
  with pytest.raises(
    errors.ReplayedSession, match='taken part in this session and round before'
  ):
    walk.group.clients[CLIENT].join(walk.requests[CLIENT], dict)
  # Another round of the same session id is another session.
  again = dataclasses.replace(walk.setup, round=1)
  Walk(walk.group, again).to('finished')


@GROUPS
def test_a_client_answers_in_one_session_of_a_round(
  security, verify, path: str
):
  group = Group(security, range(5), verify=verify)
  first, second = (Walk(group, group.setup(round=9)) for _ in range(2))
  # Both are joined before one of them is answered.
  first.to('unmask')
  second.to('unmask')
  first.ask()
  with pytest.raises(
    errors.ReplayedSession, match='answered in a session of round 9 before'
  ):
    second.states[CLIENT].receive(second.server.requests[CLIENT])
  third = Walk(group, group.setup(round=9))
  with pytest.raises(errors.ReplayedSession):
    third.ask()
  Walk(group, group.setup(round=10)).to('finished')


@GROUPS
def test_a_session_that_was_not_answered_can_be_tried_again(
  security, verify, path: str
):
  group = Group(security, range(5), verify=verify)
  for stage in (*stages_of(security)[:-1], 'finished'):
    if stage == 'verify':
      continue
    Walk(group, group.setup(round=9)).to(stage)


def test_what_a_client_remembers_outlives_it():
  group, history = Group(CURIOUS, range(5)), client_state.History()
  group.clients[CLIENT] = group.client(CLIENT, history=history)
  walk = Walk(group, group.setup(round=9)).to('finished')
  assert history == client_state.History({(walk.setup.session, 9)}, {9})
  group = Group(CURIOUS, range(5))
  group.clients[CLIENT] = group.client(CLIENT, history=history)
  with pytest.raises(errors.ReplayedSession):
    Walk(group, group.setup(round=9)).ask()


@GROUPS
def test_all_clients_refuse_survivors_that_may_be_parted(
  security, verify, path: str, monkeypatch
):
  """The server goes on, though more are lost than may be."""
  monkeypatch.setattr(cohort.Cohort, 'require_connected', lambda *_: None)
  for dropout, is_refused in ((0.1, True), (0.2, False)):
    group = Group(
      dataclasses.replace(security, dropout=dropout), range(10), verify=verify
    )
    walk = Walk(group).to('mask')
    walk.ask()
    walk.tell({i: reply for i, reply in walk.replies.items() if i > 1})
    for i, message in walk.server.requests.items():
      if not is_refused:
        walk.states[i].receive(message)
        continue
      with pytest.raises(
        errors.TooFewSurvivors, match=r'At least 9 clients, .* Found 8 and'
      ):
        walk.states[i].receive(message)


def test_a_client_without_the_key_joins_no_session_that_verifies():
  group = Group(ACTIVE, range(5))
  group.verification_key = None
  group.clients = {i: group.client(i) for i in group.clients}
  with pytest.raises(
    errors.UnacceptableSetup, match='The client has no key to verify sums'
  ):
    Walk(group).ask()


@pytest.mark.parametrize(
  ('client_id', 'error', 'message'),
  [
    (-1, ValueError, '`client` must be at least 0'),
    (2**32, ValueError, '`client` must be at most 4294967295'),
    (1.0, TypeError, '`client` must be an integer'),
  ],
)
def test_bad_ids(client_id, error, message: str):
  group = Group(CURIOUS, range(5))
  group.identities[client_id] = group.identities[0]
  with pytest.raises(error, match=message):
    group.client(client_id)


@pytest.mark.parametrize(
  ('vectors', 'error', 'message'),
  [
    ({}, ValueError, r"all vectors of the session. Found no \['x'\]"),
    ({'x': np.zeros(3)}, TypeError, "'x' must be of integers. Found float64"),
    (
      {'x': np.array([0, np.nan, 1])},
      TypeError,
      'must be of integers. Found float64. Round and scale it first',
    ),
    ({'x': np.zeros(3, bool)}, TypeError, 'must be of integers. Found bool'),
    (
      {'x': np.zeros(2, int)},
      ValueError,
      r"'x' must have the shape \(3,\). Found \(2,\)",
    ),
    ({'x': np.zeros((3, 1), int)}, ValueError, r'Found \(3, 1\)'),
    (
      {'x': np.array([0, 1, 16])},
      ValueError,
      r"of 'x' must be in \[0, 16\), and one is not",
    ),
    ({'x': np.array([0, -1, 1])}, ValueError, r'must be in \[0, 16\)'),
    ({'x': np.array([2**63], np.uint64)}, ValueError, r'Found \(1,\)'),
  ],
)
def test_bad_vectors_never_leave_the_client(vectors, error, message: str):
  specs = (VectorSpec('x', 3, 16),)
  group = Group(ACTIVE, range(5), specs=specs)
  group.vectors = lambda client_id: vectors
  walk = Walk(group).to('mask')
  state = walk.states[CLIENT]
  with pytest.raises(error, match=message):
    state.receive(walk.server.requests[CLIENT])
  with pytest.raises(errors.StateSpentError):
    state.receive(walk.server.requests[CLIENT])


def test_the_error_of_a_vector_out_of_range_tells_no_coordinate():
  specs = (VectorSpec('x', 3, 16),)
  group = Group(CURIOUS, range(5), specs=specs)
  group.vectors = lambda client_id: {'x': np.array([7919, 3, 1])}
  with pytest.raises(ValueError, match=r'in \[0, 16\)') as caught:
    Walk(group).to('finished')
  assert '7919' not in str(caught.value)


def test_all_vectors_of_a_session_are_masked_as_uniform_words():
  """What is sent of a constant vector is another one in each session."""
  specs = (VectorSpec('x', 4, 2**62),)
  group = Group(CURIOUS, range(5), specs=specs)
  group.vectors = lambda client_id: {'x': np.zeros(4, np.int64)}
  seen = set()
  for _ in range(5):
    walk = Walk(group).to('mask')
    walk.ask()
    seen |= {reply[18:] for reply in walk.replies.values()}
  assert len(seen) == 25
  assert bytes(4 * 8) not in seen


def test_requests_and_replies_are_of_their_kinds():
  walk = walk_of(ACTIVE, True)
  while walk.server.stage != 'finished':
    down, up = KINDS[walk.server.stage]
    walk.ask()
    assert {message[1] for message in walk.requests.values()} == {down}
    assert {message[1] for message in walk.replies.values()} == {up}
    walk.tell()
