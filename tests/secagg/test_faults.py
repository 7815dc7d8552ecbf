# SPDX-License-Identifier: Apache-2.0
"""Faults of the network and of clients: an exact sum, or a clean end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import itertools
import random

import pytest

from tests.secagg.sessions import (
  ACTIVE,
  CURIOUS,
  STAGES,
  Fault,
  Group,
  Network,
  faithful,
  is_exact,
  is_summed,
  stages_of,
  survivors_without,
)
from tff_secagg_ext.secagg import codec, errors, inspection, messages
from tff_secagg_ext.secagg.codec import Kind
from tff_secagg_ext.secagg.setup import Security, Setup, VectorSpec
from tff_secagg_ext.secagg.transcript import Transcript

VICTIM = 3
CLASSES = pytest.mark.parametrize(
  'security', [CURIOUS, ACTIVE], ids=['passive', 'active']
)
STEPS = pytest.mark.parametrize(
  ('security', 'stage'),
  [(which, stage) for which in (CURIOUS, ACTIVE) for stage in stages_of(which)],
  ids=lambda value: value if isinstance(value, str) else value.threat,
)
UP = pytest.mark.parametrize('up', [False, True], ids=['down', 'up'])


def alter(message: bytes, change: str, luck: random.Random) -> bytes:
  """Returns a message as an accident leaves it."""
  if change == 'empty':
    return b''
  if change == 'header':
    return message[:18]
  if change == 'truncated':
    return message[: luck.randrange(len(message))]
  if change == 'extended':
    return message + luck.randbytes(luck.choice((1, 16, 1000)))
  if change == 'zeros':
    return bytes(len(message))
  altered = bytearray(message)
  bit = luck.randrange(8 * len(message))
  altered[bit // 8] ^= 1 << bit % 8
  return bytes(altered)


CHANGES = ('empty', 'header', 'truncated', 'extended', 'zeros', *['bit'] * 6)


def at(
  stage: str, replace: Callable[[int, bytes], list[tuple[int, bytes]]]
) -> Fault:
  """A fault of the messages of the victim in one step."""

  def fault(step: str, client: int, message: bytes) -> list[tuple[int, bytes]]:
    if (step, client) == (stage, VICTIM):
      return replace(client, message)
    return faithful(step, client, message)

  return fault


def faulty(group: Group, fault: Fault, up: bool) -> Network:
  network = Network(group.transport())
  network.inject(fault, up=up)
  return network


def check_lost(
  group: Group, network: Network, stage: str, lost: Sequence[int], *, up: bool
) -> None:
  """Runs a session; it is to end as if some had dropped out in a step."""
  if stage == 'verify' and not up:
    # A client that gets other bytes than the sum's does not accept the sum.
    with pytest.raises(errors.Aborted, match='All clients must accept') as end:
      group.run(network)
    assert end.value.sum_known
    return
  outcome = group.run(network)
  assert is_exact(outcome)
  assert outcome.survivors == survivors_without(stage, lost)
  assert sum(outcome.report.dropouts.values()) == len(lost)


@STEPS
@UP
def test_altered_messages_lose_their_client(security, stage: str, up: bool):
  group, luck = Group(security), random.Random(f'{stage} {up}')
  for change in CHANGES:
    fault = at(
      stage,
      lambda i, message, change=change: [(i, alter(message, change, luck))],
    )
    network = faulty(group, fault, up)
    check_lost(group, network, stage, [VICTIM], up=up)


@pytest.mark.parametrize(
  ('security', 'stage'),
  [(CURIOUS, 'unmask'), (ACTIVE, 'confirm')],
  ids=['unmask-request', 'survivors'],
)
def test_each_flipped_bit_of_a_survivor_list_loses_its_client(security, stage):
  """For all other messages, all bits: see test_messages."""
  specs = (VectorSpec('x', 1, 16),)
  group = Group(security, specs=specs)
  for bit in range(8 * 19):

    def flip(client: int, message: bytes, bit: int = bit):
      assert len(message) == 19
      number = int.from_bytes(message, 'little') ^ 1 << bit
      return [(client, number.to_bytes(19, 'little'))]

    outcome = group.run(Network(group.transport(), down=at(stage, flip)))
    assert is_exact(outcome, specs)
    assert outcome.survivors == tuple(range(7))
    assert outcome.report.dropouts == {stage: 1}


@STEPS
@UP
def test_withheld_messages_lose_their_client(security, stage: str, up: bool):
  group = Group(security)
  fault = at(stage, lambda client, message: [])
  network = faulty(group, fault, up)
  outcome = group.run(network)
  assert is_exact(outcome)
  assert outcome.survivors == survivors_without(stage, [VICTIM])
  assert outcome.report.dropouts == {stage: 1}


@STEPS
@UP
def test_messages_of_an_earlier_session_lose_their_client(
  security, stage: str, up: bool
):
  group = Group(security)
  earlier = Network(group.transport())
  group.run(earlier)
  stale = earlier.sent[stage, up, VICTIM]
  fault = at(stage, lambda client, message: [(client, stale)])
  network = faulty(group, fault, up)
  check_lost(group, network, stage, [VICTIM], up=up)


@STEPS
@UP
def test_messages_of_another_step_lose_their_client(
  security, stage: str, up: bool
):
  group = Group(security)
  rehearsal = Network(group.transport())
  group.run(rehearsal)
  for other, other_up in itertools.product(stages_of(security), (False, True)):
    if (other, other_up) == (stage, up):
      continue

    network = Network(group.transport())

    def reorder(
      client: int,
      message: bytes,
      key=(other, other_up, VICTIM),
      sent=network.sent,
    ):
      # Of this session if it was sent already, else of the one before.
      return [(client, sent.get(key, rehearsal.sent[key]))]

    network.inject(at(stage, reorder), up=up)
    check_lost(group, network, stage, [VICTIM], up=up)


@STEPS
def test_replies_that_come_twice_change_nothing(security, stage: str):
  group = Group(security)
  fault = at(stage, lambda client, message: [(client, message)] * 2)
  outcome = group.run(Network(group.transport(), up=fault))
  assert is_exact(outcome)
  assert outcome.survivors == tuple(range(7))
  assert outcome.report.dropouts == {}


@STEPS
def test_requests_that_come_twice_end_the_part_of_their_client(
  security, stage: str
):
  """The first is answered, and no other: the state that could is gone."""
  group = Group(security)
  fault = at(stage, lambda client, message: [(client, message)] * 2)
  outcome = group.run(Network(group.transport(), down=fault))
  stages = stages_of(security)
  following = [*stages, stages[-1]][stages.index(stage) + 1]
  assert is_exact(outcome)
  assert outcome.survivors == survivors_without(following, [VICTIM])
  is_last = stage == stages[-1]
  assert outcome.report.dropouts == ({} if is_last else {following: 1})


@STEPS
def test_replies_that_come_as_of_another_client_are_lost(security, stage: str):
  group = Group(security)
  for other in (0, 6):
    fault = at(stage, lambda _, message, other=other: [(other, message)])
    network = Network(group.transport(), up=fault)
    # If the other's own reply came first, the second changes nothing.
    lost = [VICTIM] if other < VICTIM else [VICTIM, other]
    check_lost(group, network, stage, lost, up=True)


@STEPS
def test_requests_that_reach_another_client_end_the_part_of_both(
  security, stage: str
):
  group = Group(security)
  for other in (0, 6):
    fault = at(stage, lambda _, message, other=other: [(other, message)])
    network = Network(group.transport(), down=fault)
    if other > VICTIM:
      check_lost(group, network, stage, [VICTIM, other], up=False)
      continue
    # The other has answered before, and is lost in the next step.
    stages = stages_of(security)
    following = [*stages, stages[-1]][stages.index(stage) + 1]
    outcome = group.run(network)
    assert is_exact(outcome)
    assert outcome.survivors == tuple(
      i
      for i in survivors_without(stage, [VICTIM])
      if is_summed(following) or i != other
    )


@CLASSES
def test_everything_at_once_ends_exactly_or_cleanly(security: Security):
  """Random faults of all kinds, in both directions, of several messages."""
  group, luck = Group(security), random.Random(security.threat)
  earlier = Network(group.transport())
  group.run(earlier)
  sums = aborts = 0
  for _ in range(100):
    rate = luck.choice((0.01, 0.03, 0.1, 0.2))
    sent: list[bytes] = list(earlier.sent.values())

    def fault(step: str, client: int, message: bytes, rate=rate, sent=sent):
      sent.append(message)
      if luck.random() > rate:
        return [(client, message)]
      kind = luck.randrange(5)
      if kind == 0:
        return []
      if kind == 1:
        return [(client, alter(message, luck.choice(CHANGES), luck))]
      if kind == 2:
        return [(client, luck.choice(sent))]
      if kind == 3:
        return [(client, message), (client, luck.choice([message, b'x']))]
      return [(luck.randrange(7), message), (client, message)]

    try:
      outcome = group.run(Network(group.transport(), fault, fault))
    except errors.Aborted as error:
      aborts += 1
      assert error.stage in STAGES
      continue
    sums += 1
    assert is_exact(outcome)
  assert sums >= 20
  assert aborts >= 20


def lie(setup: Setup, stage: str, kind: Kind) -> Fault:
  """Another first byte of the body, in a frame that is right."""
  binding = messages.setup_digest(messages.encode_setup(setup))

  def replace(client: int, message: bytes) -> list[tuple[int, bytes]]:
    body = bytes([message[18] ^ 1]) + message[19:]
    return [(client, codec.Channel(client, binding).seal(kind, body))]

  return at(stage, replace)


def test_one_refusal_of_the_sum_ends_the_session():
  group, transcript = Group(ACTIVE), Transcript.in_memory()
  setup = group.setup()
  network = faulty(group, lie(setup, 'verify', Kind.RESULT), up=False)
  with pytest.raises(
    errors.Aborted, match=r'All clients must accept the sum\. Found 1 that ref'
  ) as caught:
    group.run(network, setup=setup, transcript=transcript)
  assert caught.value.sum_known
  assert inspection.check(transcript.lines).refusals == {'WrongSum': 1}


@pytest.mark.parametrize(
  ('stage', 'kind'),
  [('mask', Kind.MASKED_INPUT), ('unmask', Kind.UNMASK_SHARES)],
)
def test_a_false_vector_or_share_is_found_out_by_the_sum(stage: str, kind):
  """Nobody else could tell: what a client sends is not known before."""
  group, transcript = Group(ACTIVE), Transcript.in_memory()
  setup = group.setup()
  network = faulty(group, lie(setup, stage, kind), up=True)
  with pytest.raises(
    errors.Aborted, match=r'At least one client must accept the sums'
  ) as caught:
    group.run(network, setup=setup, transcript=transcript)
  assert caught.value.sum_known
  assert inspection.check(transcript.lines).refusals == {'WrongSum': 7}
