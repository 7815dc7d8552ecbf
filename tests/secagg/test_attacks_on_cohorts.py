# SPDX-License-Identifier: Apache-2.0
"""Setups, rosters and graphs that leave a client nobody to hide among.

See `tests.secagg.attacks` for what is asserted of each.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from tests.secagg.attacks import (
  ALL,
  THREE,
  WITHOUT,
  Attack,
  Attacks,
  Patch,
  ignoring,
  no_check,
  refuse,
  succeed,
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
  client,
  errors,
  keys,
  messages,
  parameters,
)
from tff_secagg_ext.secagg.codec import Kind
from tff_secagg_ext.secagg.setup import Security, VectorSpec

ATTACKS = Attacks()
attack = ATTACKS.add


# The neighborhood: how many, and who.


@attack(
  errors.LoweredThreshold,
  'threshold 1. Expected 7 and 4',
  no_check(parameters, 'check'),
)
def a_lowered_threshold(server: Attacker) -> bool:
  server.invite()
  server.reveal(server.roster())
  server.introduce(VICTIM, threshold=1)
  server.introduce(*range(2, 8))
  server.deliver()
  return server.knows_vector()


def any_cohort(patch: Patch) -> None:
  real = checks.meet
  patch.setattr(
    checks,
    'meet',
    lambda found, setup, own: real(
      found, dataclasses.replace(setup, min_survivors=1), own
    ),
  )


@attack(
  errors.CohortTooSmall,
  'At least 5 clients must take part',
  any_cohort,
  min_survivors=5,
  security=Security('malicious', 0.0, 0.0),
)
def a_roster_of_two(server: Attacker) -> bool:
  server.invite()
  server.reveal(server.roster([VICTIM, 8]), VICTIM)
  server.introduce(VICTIM, degree=1, threshold=1)
  server.deliver(VICTIM)
  return server.knows_vector()


@attack(
  errors.CohortTooSmall,
  'must sum at least 5 clients',
  no_check(checks.Policy, 'check'),
  min_survivors=5,
  asked={'min_survivors': 1},
)
def a_setup_for_one(server: Attacker) -> bool:
  server.invite(VICTIM)
  if not server.honest:
    return False
  server.reveal(server.roster([VICTIM]), VICTIM)
  server.introduce(VICTIM, degree=0, threshold=0)
  server.deliver(VICTIM)
  return server.knows_vector()


@attack(
  errors.TooFewShares,
  'At least 4 neighbors must have shared',
  no_check(checks, 'delivered'),
)
def masked_with_a_puppet_alone(server: Attacker) -> bool:
  server.invite()
  server.reveal(server.roster())
  server.introduce()
  server.deliver(VICTIM, senders=(8,))
  server.deliver(*range(2, 8))
  server.ask(ALL, *range(2, 8))
  return server.knows_vector()


# Nine members, three of them puppets; two neighbors, which are both to be some.
CIRCLE = {
  'honest': (1, 5, 6, 7, 8, 9),
  'corrupt': (2, 3, 4),
  'security': THREE,
}


def from_two_puppets(server: Attacker) -> bool:
  """Whether the graph gives the victim puppets alone."""
  return set(server.graph_of(VICTIM, 2)) <= set(server.puppets)


def end_with_puppets(server: Attacker) -> bool:
  server.introduce(VICTIM, degree=2, threshold=2)
  server.deliver(VICTIM)
  return server.knows_vector()


def redraw_puppets(server: Attacker) -> None:
  """Gives the puppets new commitments and preimages."""
  for puppet in server.puppets.values():
    puppet.start = os.urandom(32)
  server.use(server.puppets.values())


def with_preimage(server: Attacker, draw: int, preimage: bytes) -> None:
  """Looks for a roster whose graph is as wanted: the preimage is known."""
  others = {i: os.urandom(32) for i in CIRCLE['honest']} | {VICTIM: preimage}
  for _ in range(10_000):
    redraw_puppets(server)
    revealed = others | {i: p.element(draw) for i, p in server.puppets.items()}
    members = tuple(sorted(revealed))
    commitments = tuple(keys.chain(revealed[i], 1) for i in members)
    server.last = messages.Roster(draw, members, commitments)
    server.preimages = revealed
    if from_two_puppets(server):
      return
  raise AssertionError('no graph was found')


@attack(
  errors.BadRoster,
  'Found another commitment',
  ignoring(checks, 'roster', errors.BadRoster),
  **CIRCLE,
)
def a_graph_without_the_clients_own_randomness(server: Attacker) -> bool:
  server.invite()
  with_preimage(server, 1, os.urandom(32))
  server.send(VICTIM, Kind.ROSTER, server.last.encode())
  return end_with_puppets(server)


def roster_of_any_draw(patch: Patch) -> None:
  real = checks.roster

  def lenient(found, client, commitment, known):
    real(dataclasses.replace(found, draw=1), client, commitment, None)

  patch.setattr(checks, 'roster', lenient)


@attack(errors.BadRoster, 'must be of draw 1', roster_of_any_draw, **CIRCLE)
def draws_skipped_and_repeated(server: Attacker) -> bool:
  """The chain's start is revealed first: then all of it is known."""
  server.invite()
  roster = server.roster()
  last = dataclasses.replace(roster, draw=4)
  start = server.send(VICTIM, Kind.ROSTER, last.encode())
  if start is None:
    return False
  place = roster.members.index(VICTIM)
  commitments = list(roster.commitments)
  commitments[place] = start
  again = messages.Roster(1, roster.members, tuple(commitments))
  assert server.send(VICTIM, Kind.ROSTER, again.encode())
  with_preimage(server, 2, keys.chain(start, 2))
  server.send(VICTIM, Kind.ROSTER, server.last.encode())
  return end_with_puppets(server)


def any_preimages(patch: Patch) -> None:
  real = checks.neighbors

  def lenient(found, known, body, channel):
    commitments = tuple(keys.chain(one, 1) for one in found.preimages)
    known = dataclasses.replace(known, commitments=commitments)
    return real(found, known, body, channel)

  patch.setattr(checks, 'neighbors', lenient)


@attack(errors.BadRoster, 'Found other preimages', any_preimages, **CIRCLE)
def preimages_that_were_not_committed_to(server: Attacker) -> bool:
  server.invite()
  server.reveal(server.roster())
  while True:
    server.preimages[9] = os.urandom(32)
    if from_two_puppets(server):
      return end_with_puppets(server)


def any_neighbors(patch: Patch) -> None:
  def lenient(found, known, body, channel):
    seed = keys.digest(b'graph', channel.binding, body, *found.preimages)
    return dataclasses.replace(
      checks.Neighborhood.of(found), seed=seed, members=known.members
    )

  patch.setattr(checks, 'neighbors', lenient)


@attack(
  errors.BadNeighbors, 'graph that all members drew', any_neighbors, **CIRCLE
)
def neighbors_of_the_servers_choice(server: Attacker) -> bool:
  server.invite()
  server.reveal(server.roster())
  chosen = next(
    pair
    for pair in ([2, 3], [2, 4], [3, 4])
    if pair != server.graph_of(VICTIM, 2)
  )
  server.introduce(VICTIM, degree=2, threshold=2, peers=chosen)
  server.deliver(VICTIM)
  return server.knows_vector()


@attack(
  errors.BadRoster,
  'must be some of the draw before',
  ignoring(checks, 'roster', errors.BadRoster),
  honest=ALL,
  corrupt=range(12, 19),
)
def a_roster_that_grows(server: Attacker) -> bool:
  """The cohort is another when the first graph is known."""
  server.invite()
  server.reveal(server.roster(ALL), VICTIM)
  members = (VICTIM, *server.puppets)
  commitments = [server.preimages[VICTIM]]
  commitments += [puppet.element(1) for puppet in server.puppets.values()]
  roster = messages.Roster(2, members, tuple(commitments))
  server.reveal(roster, VICTIM)
  server.introduce(VICTIM)
  server.deliver(VICTIM)
  return server.knows_vector()


# What is summed.


@attack(
  errors.UnacceptableSetup,
  'must be verified',
  no_check(checks.Policy, 'check'),
  asked={'verify': False},
)
def a_setup_without_verification(server: Attacker) -> bool:
  """The clients are done before a sum is published: any will do."""
  if not server.until_masked():
    return False
  server.ask(ALL, *server.honest)
  return all(
    isinstance(state, client.Finished) for state in server.states.values()
  )


@attack(
  errors.UnacceptableSetup,
  'vectors of a session',
  no_check(checks.Policy, 'check'),
  honest=ALL,
  corrupt=(),
  asked={'vectors': (VectorSpec('x', 8, 1 << 40),), 'verify': False},
)
def a_larger_modulus(server: Attacker) -> bool:
  """The sum of integers tells what the sum modulo m does not."""
  if not server.until_masked():
    return False
  server.ask(ALL, *server.honest)
  found = server.open(ALL, cancelled=ALL)
  exact = sum(server.vectors.values())
  return np.array_equal(found, exact) and bool((exact >= SPEC.modulus).any())


@ATTACKS.each
def test_honest_clients_refuse(attack: Attack):
  refuse(attack)


@ATTACKS.each
def test_without_the_check_it_succeeds(attack: Attack, monkeypatch: Patch):
  succeed(attack, monkeypatch)


def test_a_roster_without_the_client_is_refused():
  server = Attacker(World())
  server.invite()
  server.reveal(server.roster(WITHOUT), VICTIM)
  (error,) = server.refusals
  assert type(error) is errors.BadRoster
  assert 'Found no such member' in str(error)


def test_a_session_that_the_client_cannot_verify_is_refused():
  server = Attacker(World(verify=False, asked={'verify': True}))
  known = server.clients[VICTIM]._credentials
  server.clients[VICTIM]._credentials = dataclasses.replace(
    known, verification_key=None
  )
  server.invite(VICTIM)
  (error,) = server.refusals
  assert type(error) is errors.UnacceptableSetup
  assert 'has no key to verify sums' in str(error)


def test_more_neighbors_than_the_degree_are_refused():
  server = Attacker(
    World(
      security=dataclasses.replace(COMPLETE, threat='curious'), verify=False
    )
  )
  server.invite()
  server.last = server.roster()
  server.introduce(VICTIM, peers=range(2, 8))
  (error,) = server.refusals
  assert type(error) is errors.BadNeighbors
  assert 'must be 7 neighbors. Found 6' in str(error)


def test_no_attack_is_lost_or_there_twice():
  assert len({attack.run for attack in ATTACKS}) == len(ATTACKS) >= 11
