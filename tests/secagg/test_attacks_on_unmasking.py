# SPDX-License-Identifier: Apache-2.0
"""What a server asks for: both secrets of a client, or one sum too many.

See `tests.secagg.attacks` for what is asserted of each.
"""

from __future__ import annotations

import copy
import dataclasses
import os

import numpy as np
import pytest

from tests.secagg.attacks import (
  ALL,
  ANSWER_AGAIN,
  FIVE,
  KEEP_STATES,
  WITHOUT,
  Attack,
  Attacks,
  Patch,
  Telling,
  no_check,
  refuse,
  sign_any_list,
  succeed,
  survivors_with,
  tell,
  unconfirmed,
)
from tests.secagg.malicious import (
  COMPLETE,
  SPEC,
  VICTIM,
  Attacker,
  World,
)
from tff_secagg_ext.secagg import (
  checks,
  codec,
  errors,
  keys,
  parameters,
  ring,
)
from tff_secagg_ext.secagg.codec import Kind
from tff_secagg_ext.secagg.setup import Security

ATTACKS = Attacks()
attack = ATTACKS.add


# Both secrets of one client.


@attack(
  errors.StateSpentError,
  'was left already',
  KEEP_STATES,
)
def both_shares_over_several_messages(server: Attacker) -> bool:
  server.until_masked()
  before, everybody = dict(server.states), server.honest
  for dead in ((), (VICTIM,)):
    server.states = dict(before)
    alive = [i for i in server.last.members if i not in dead]
    asked = [i for i in everybody if i not in dead]
    server.ask(alive, *asked)
  return server.knows_vector()


@attack(
  errors.BadSurvivors,
  'must be those that were confirmed',
  no_check(checks, 'confirmed'),
)
def another_list_than_was_confirmed(server: Attacker) -> bool:
  server.until_masked()
  tell(
    server,
    Telling(ALL, confirm=(1, 2, 3, 4), unmask=(5, 6, 7)),
    Telling(WITHOUT, confirm=(5, 6, 7), unmask=(2, 3, 4)),
  )
  return server.knows_vector()


def split_view(server: Attacker, forge=lambda *_: None) -> bool:
  """Two lists for two halves of the victim's neighbors."""
  server.until_masked()
  tell(
    server,
    Telling(ALL, confirm=(1, 2, 3, 4), unmask=(2, 3, 4)),
    Telling(WITHOUT, confirm=(5, 6, 7), unmask=(5, 6, 7)),
    forge,
  )
  return server.knows_vector()


@attack(
  errors.NotConfirmed, 'At least 4 neighbors must have confirmed', unconfirmed
)
def too_few_confirmations(server: Attacker) -> bool:
  return split_view(server)


@attack(
  errors.BadSignature,
  'must be confirmed by client 2',
  no_check(keys, 'is_signed', True),
)
def forged_confirmations(server: Attacker) -> bool:
  return split_view(
    server, lambda dead, alive: dead.update({2: os.urandom(64)})
  )


@attack(errors.BadSignature, 'must be confirmed by client 2', sign_any_list)
def confirmations_of_another_list(server: Attacker) -> bool:
  return split_view(server, lambda dead, alive: dead.update({2: alive[2]}))


@attack(
  errors.UnacceptableSetup,
  'assumptions',
  no_check(checks.Policy, 'check'),
  honest=range(1, 6),
  corrupt=(6, 7, 8),
  security=dataclasses.replace(COMPLETE, threshold=6),
  asked={'security': COMPLETE},
)
def assumptions_of_the_setup_are_weaker(server: Attacker) -> bool:
  if not server.until_masked():
    return False
  server.ask(ALL, 2, 3)
  server.ask(WITHOUT, 4, 5)
  return server.knows_vector()


# Survivor lists.


def position_of_another(bitmap, neighborhood):
  flags = codec.unpack_bits(bitmap, neighborhood.clients)
  return flags.index(True)


@attack(
  errors.BadSurvivors,
  'names it as dropped out',
  survivors_with(position=position_of_another),
  honest=range(1, 6),
  corrupt=(),
  security=FIVE,
)
def its_own_removal_while_alive(server: Attacker) -> bool:
  """Client 5 drops out, so that the others need an answer of the victim."""
  server.until_masked(degree=4, threshold=3)
  others = server.bitmap(range(2, 6))
  signed = server.confirm(others, *range(1, 6))
  server.unmask(others, signed, 1, 2, 3, 4)
  return server.knows_sum(range(2, 6))


def four_of_five(server: Attacker, ghosts: int) -> bool:
  server.until_masked(degree=4, threshold=3)
  four = bytes([0b1111 | ghosts])
  signed = server.confirm(four, *range(1, 5))
  server.unmask(four, signed, *range(1, 5))
  return server.knows_sum(range(1, 5))


@attack(
  errors.TooFewSurvivors,
  'At least 5 clients',
  survivors_with(min_survivors=1),
  honest=range(1, 6),
  corrupt=(),
  security=FIVE,
  min_survivors=5,
)
def fewer_survivors_than_allowed(server: Attacker) -> bool:
  return four_of_five(server, 0)


def read_beyond(patch: Patch) -> None:
  real = codec.unpack_bits

  def lenient(data, count):
    try:
      return real(data, count)
    except errors.MessageError:
      return real(data, 8 * len(data))

  patch.setattr(codec, 'unpack_bits', lenient)


@attack(
  errors.BadSurvivors,
  'names somebody beyond it',
  read_beyond,
  honest=range(1, 6),
  corrupt=(),
  security=FIVE,
  min_survivors=5,
)
def unknown_survivors_are_counted(server: Attacker) -> bool:
  return four_of_five(server, 1 << 6)


@attack(
  errors.MessageError,
  'names somebody beyond it',
  read_beyond,
  honest=range(1, 6),
  corrupt=(),
  security=dataclasses.replace(FIVE, threat='curious'),
  verify=False,
  min_survivors=5,
)
def unknown_survivors_are_counted_in_a_request(server: Attacker) -> bool:
  server.invite()
  server.last = server.roster()
  for i in range(1, 6):
    others = [j for j in range(1, 6) if j != i]
    server.introduce(i, peers=others, degree=4, threshold=3)
  server.deliver()
  server.unmask(bytes([0b1111 | 1 << 6]), None, *range(1, 5))
  return server.knows_sum(range(1, 5))


def everybody_shared(_, neighborhood):
  return {peer.id for peer in neighborhood.peers}


@attack(
  errors.BadSurvivors,
  'must have shared its secrets',
  survivors_with(shared=everybody_shared),
)
def survivors_that_never_shared(server: Attacker) -> bool:
  """The victim is masked with the dead, and the living never sent it shares."""
  server.invite()
  server.reveal(server.roster())
  server.introduce()
  server.deliver(VICTIM, senders=(2, 3, 4, 8))
  server.deliver(*range(2, 8))
  living = server.bitmap((1, 5, 6, 7, 8))
  signed = server.confirm(living, 1, 5, 6, 7)
  server.unmask(living, signed, 5, 6, 7)
  return server.knows_vector()


@attack(
  errors.TooFewSurvivors,
  '4 neighbors among them',
  survivors_with(threshold=0),
  corrupt=(),
  honest=ALL,
  security=dataclasses.replace(COMPLETE, threat='curious'),
  verify=False,
)
def fewer_neighbors_alive_than_the_threshold(server: Attacker) -> bool:
  """Each client is told that the victim and itself alone are alive."""
  server.invite()
  server.last = server.roster()
  for i in ALL:
    server.introduce(i, peers=[j for j in ALL if j != i])
  server.deliver()
  for i in WITHOUT:
    server.unmask(server.bitmap((VICTIM, i)), None, i)
  return server.knows_vector()


@attack(
  errors.TooFewSurvivors,
  'At least 8 clients',
  no_check(parameters, 'least_survivors', 1),
  corrupt=(),
  honest=ALL,
  security=Security('curious', 0.0, 0.1, neighbors=2, threshold=1),
  verify=False,
)
def survivors_in_two_parts(server: Attacker) -> bool:
  """Opposite clients of a circle are lost: the server follows the protocol."""
  server.invite()
  server.last = server.roster()
  for i in ALL:
    around = sorted(((i - 2) % 8 + 1, i % 8 + 1))
    server.introduce(i, peers=around, degree=2, threshold=1)
  server.deliver()
  parts = (2, 3, 4), (6, 7, 8)
  alive = sum(parts, ())
  server.unmask(server.bitmap(alive), None, *alive)
  return all(map(server.knows_sum, parts))


# Two sums of one round.

two_sums = attack(
  errors.ReplayedSession,
  'answered in a session of round 3 before',
  ANSWER_AGAIN,
  honest=ALL,
  corrupt=(),
)


def mask_for(server: Attacker, invited: range) -> None:
  """Begins one more session of the round, up to the masked vectors."""
  server.setup = dataclasses.replace(server.setup, session=os.urandom(32))
  server.begin()
  server.invite(*invited)
  if server.honest:
    server.reveal(server.roster())
    server.introduce(degree=len(invited) - 1)
    server.deliver()


def sum_of(server: Attacker, alive: range) -> ring.Words | None:
  """Ends a session; `None` if the sum does not come out."""
  if not server.honest:
    return None
  server.ask(alive, *server.honest)
  return server.open(alive, cancelled=alive)


def is_difference(
  server: Attacker, one: ring.Words | None, other: ring.Words | None
) -> bool:
  """Whether two sums tell the victim's vector."""
  if one is None or other is None:
    return False
  found = ((one - other) % SPEC.modulus)[: SPEC.length]
  return np.array_equal(found, server.vectors[VICTIM])


@two_sums
def a_session_after_one_that_is_said_to_have_failed(server: Attacker) -> bool:
  """The victim is not invited again."""
  mask_for(server, ALL)
  one = sum_of(server, ALL)
  mask_for(server, WITHOUT)
  return is_difference(server, one, sum_of(server, WITHOUT))


@two_sums
def two_sessions_at_once(server: Attacker) -> bool:
  """All have joined the second one before they answer in the first."""
  second = copy.copy(server)
  mask_for(server, ALL)
  mask_for(second, WITHOUT)
  one = sum_of(server, ALL)
  return is_difference(server, one, sum_of(second, WITHOUT))


@ATTACKS.each
def test_honest_clients_refuse(attack: Attack):
  refuse(attack)


@ATTACKS.each
def test_without_the_check_it_succeeds(attack: Attack, monkeypatch: Patch):
  succeed(attack, monkeypatch)


def test_one_message_cannot_name_a_peer_alive_and_dead(
  monkeypatch: pytest.MonkeyPatch,
):
  """There are no bytes for it: a second list is refused, or else not read."""

  def ask_with_two_lists() -> tuple[Attacker, bytes | None]:
    server = Attacker(World())
    server.until_masked()
    everybody = server.bitmap(ALL)
    signed = server.confirm(everybody, *server.honest)
    peers = codec.pack_bits([True] * 7)
    signatures = b''.join(signed[i] for i in (1, 3, 4, 5, 6, 7, 8))
    body = everybody + peers + signatures + server.bitmap(WITHOUT)
    return server, server.send(2, Kind.UNMASK_REQUEST, body)

  server, answer = ask_with_two_lists()
  assert answer is None
  (error,) = server.refusals
  assert type(error) is errors.MessageError
  assert '1 bytes too late' in str(error)
  monkeypatch.setattr(codec.Reader, 'end', lambda _: None)
  _, answer = ask_with_two_lists()
  assert answer is not None
  assert len(answer) == 7 * 32


def test_no_attack_is_lost_or_there_twice():
  assert len({attack.run for attack in ATTACKS}) == len(ATTACKS) >= 15
