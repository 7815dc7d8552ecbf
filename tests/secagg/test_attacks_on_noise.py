# SPDX-License-Identifier: Apache-2.0
"""What a server asks for to take more noise off a sum than it may.

See `tests.secagg.attacks` for what is asserted of each. Eight clients are
expected, and one vector does not arrive: one layer of noise belongs to the sum
of the other honest ones. The server tells some clients that all have survived:
of these it would get the seed of that layer.
"""

from __future__ import annotations

import dataclasses
import os

from tests.secagg.attacks import (
  ALL,
  KEEP_STATES,
  Attack,
  Attacks,
  Patch,
  Telling,
  no_check,
  refuse,
  sign_any_list,
  succeed,
  tell,
  unconfirmed,
)
from tests.secagg.malicious import COMPLETE, SPEC, Attacker
from tff_secagg_ext._dropout_noise import DropoutNoise
from tff_secagg_ext.secagg import checks, errors, keys, layers
from tff_secagg_ext.secagg.setup import PlacedNoise, Security

ATTACKS = Attacks()
NOISE = DropoutNoise(
  'distributed_skellam', 40.0, SPEC.length, SPEC.modulus, 8, 2, colluders=1
)
NOISED = dataclasses.replace(SPEC, noise=(PlacedNoise(0, NOISE),))
LOST, SUMMED = 7, range(1, 7)
WITHOUT_LOST = [i for i in ALL if i != LOST]


def attack(error, match, take_out, **world):
  world = {
    'verify': False,
    'min_survivors': 6,
    'vectors': (NOISED,),
    **world,
  }
  return ATTACKS.add(error, match, take_out, **world)


@attack(
  errors.StateSpentError,
  'was left already',
  KEEP_STATES,
)
def both_numbers_of_dropouts_of_everybody(server: Attacker) -> bool:
  server.until_masked()
  before, everybody = dict(server.states), server.honest
  for alive in (WITHOUT_LOST, list(ALL)):
    server.states = dict(before)
    asked = [i for i in everybody if i in alive]
    server.ask(alive, *asked)
  return server.knows_sum_without_noise(SUMMED)


@attack(
  errors.StateSpentError,
  'was left already',
  KEEP_STATES,
)
def a_request_that_is_sent_again_for_others(server: Attacker) -> bool:
  """Everybody has confirmed; then the list without the lost one is sent."""
  server.until_masked()
  before = dict(server.states)
  server.ask(ALL, *server.honest)
  server.states = {i: before[i] for i in before if i != LOST}
  server.ask(WITHOUT_LOST, *server.honest)
  return server.knows_sum_without_noise(SUMMED)


@attack(
  errors.BadSurvivors,
  'must be those that were confirmed',
  no_check(checks, 'confirmed'),
)
def another_number_than_was_confirmed(server: Attacker) -> bool:
  server.until_masked()
  tell(
    server,
    Telling(ALL, confirm=(1, 2, 3, LOST), unmask=(4, 5, 6, LOST)),
    Telling(WITHOUT_LOST, confirm=(4, 5, 6), unmask=(1, 2, 3)),
  )
  return server.knows_sum_without_noise(SUMMED)


def lie(server: Attacker, forge=lambda *_: None) -> bool:
  """Four clients are told that all have survived, three that one has not."""
  server.until_masked()
  tell(
    server,
    Telling(ALL, confirm=(4, 5, 6, LOST), unmask=(4, 5, 6, LOST)),
    Telling(WITHOUT_LOST, confirm=(1, 2, 3), unmask=(1, 2, 3)),
    forge,
  )
  return server.knows_sum_without_noise(SUMMED)


@attack(
  errors.NotConfirmed, 'At least 4 neighbors must have confirmed', unconfirmed
)
def a_lie_to_some_clients(server: Attacker) -> bool:
  return lie(server)


@attack(
  errors.BadSignature,
  'must be confirmed by client 4',
  no_check(keys, 'is_signed', True),
)
def a_lie_with_forged_confirmations(server: Attacker) -> bool:
  return lie(server, lambda short, everybody: short.update({4: os.urandom(64)}))


@attack(errors.BadSignature, 'must be confirmed by client 4', sign_any_list)
def a_lie_with_confirmations_that_are_replayed(server: Attacker) -> bool:
  return lie(server, lambda short, everybody: short.update({4: everybody[4]}))


FEWER = dataclasses.replace(NOISE, clients=7, dropouts=1)


@attack(
  errors.UnacceptableSetup,
  'vectors of a session',
  no_check(checks.Policy, 'check'),
  asked={
    'vectors': (dataclasses.replace(SPEC, noise=(PlacedNoise(0, FEWER),)),)
  },
)
def noise_of_a_setup_is_for_fewer_clients(server: Attacker) -> bool:
  """Seven survive: none is missing, where one is."""
  if not server.until_masked():
    return False
  server.ask(WITHOUT_LOST, *(i for i in server.honest if i != LOST))
  return server.knows_sum_without_noise(SUMMED)


# A circle on which each client has two neighbors on both sides.
CIRCLE = Security('malicious', 0.0, 0.2, neighbors=4, threshold=3)
WIDE = dataclasses.replace(NOISE, clients=16, colluders=0)


@attack(
  errors.BadNeighbors,
  'needs the complete graph: 15 neighbors of 16 clients. Found 4',
  no_check(layers, 'check_graph'),
  honest=range(1, 17),
  corrupt=(),
  security=CIRCLE,
  min_survivors=14,
  vectors=(dataclasses.replace(SPEC, noise=(PlacedNoise(0, WIDE),)),),
)
def two_numbers_of_dropouts_in_two_regions_of_a_graph(server: Attacker) -> bool:
  server.invite()
  server.reveal(server.roster())
  server.introduce(degree=4, threshold=3)
  if not server.honest:
    return False
  server.deliver()
  circle = around(server)
  one, lost, other = circle[:8], circle[8], circle[9:]
  server.ask(circle, *one)
  server.ask([i for i in circle if i != lost], *other)
  # Each in the midst of its region: of one the layer is off, of one it stays.
  middle, opposite = one[4], other[3]
  return (
    server.secret('layer 1', middle) is not None
    and server.secret('layer 2', opposite) is not None
    and server.secret('layer 1', opposite) is None
  )


def around(server: Attacker) -> list[int]:
  """The clients in the order of the circle: successive ones share two."""
  peers = {i: set(server.graph_of(i, 4)) for i in server.honest}
  order = [1]
  while len(order) < len(peers):
    last = order[-1]
    left = peers[last] - set(order)
    order.append(max(left, key=lambda i: len(peers[i] & peers[last])))
  return order


@ATTACKS.each
def test_honest_clients_refuse(attack: Attack):
  refuse(attack)


@ATTACKS.each
def test_it_succeeds_without_the_check(attack: Attack, monkeypatch: Patch):
  succeed(attack, monkeypatch)


def test_without_a_lie_the_layer_stays():
  """What an honest server has of the same clients is noised."""
  server = Attacker(ATTACKS[0].world)
  server.until_masked()
  server.ask(WITHOUT_LOST, *(i for i in server.honest if i != LOST))
  assert server.open(SUMMED, cancelled=SUMMED) is not None
  assert all(server.secret('layer 2', i) for i in SUMMED)
  assert not any(server.secret('layer 1', i) for i in SUMMED)
  assert not server.knows_sum_without_noise(SUMMED)


def test_corrupt_neighbors_alone_open_no_seed():
  server = Attacker(ATTACKS[0].world)
  server.until_masked()
  assert COMPLETE.threshold == 4
  known = [kind for kind, owner in server.shares if owner == SUMMED[0]]
  assert sorted(known) == ['b', 'layer 1', 'layer 2', 's']
  assert not any(server.secret(kind, SUMMED[0]) for kind in known)


def test_no_attack_is_there_twice():
  assert len({attack.run for attack in ATTACKS}) == len(ATTACKS) == 8
