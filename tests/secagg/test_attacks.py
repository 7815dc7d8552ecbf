# SPDX-License-Identifier: Apache-2.0
"""Attacks of servers and outsiders: refused, and what they would gain.

Each attack is run twice. With honest clients, at least one refuses with the
named exception, and the attacker, who goes on with the others, does not reach
its goal. With the one check taken out that is named beside it, it does.
"""

from __future__ import annotations

from collections.abc import Callable
import copy
import dataclasses
import os
import re

from cryptography.hazmat.primitives import ciphers
from cryptography.hazmat.primitives.ciphers import algorithms, modes
import numpy as np
import pytest

from tests.secagg.malicious import (
  COMPLETE,
  SPEC,
  VICTIM,
  Attacker,
  Puppet,
  World,
)
from tff_secagg_ext.secagg import (
  checks,
  client,
  codec,
  errors,
  keys,
  messages,
  parameters,
  ring,
  tagging,
  verify,
)
from tff_secagg_ext.secagg.codec import Kind
from tff_secagg_ext.secagg.setup import Security, VectorSpec

# The Montgomery u of points of order 1, 2, 4 and 8 on curve and twist.
LOW_ORDER = [
  bytes(32),
  (1).to_bytes(32, 'little'),
  (2**255 - 20).to_bytes(32, 'little'),
  bytes.fromhex(
    'e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800'
  ),
  bytes.fromhex(
    '5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157'
  ),
]
Patch = pytest.MonkeyPatch


@dataclasses.dataclass(frozen=True)
class Attack:
  """What the attacker does, and what is in its way.

  Attributes:
    run: Does it, and returns whether the goal is reached.
    error: The refusal.
    match: Of its message.
    take_out: Removes the check.
    world: Who there is.
  """

  run: Callable[[Attacker], bool]
  error: type[errors.SecAggError]
  match: str
  take_out: Callable[[Patch], None]
  world: World

  @property
  def name(self) -> str:
    return f'{self.run.__name__}-{self.match}'.replace(' ', '-')


ATTACKS: list[Attack] = []


def attack(
  error: type[errors.SecAggError],
  match: str,
  take_out: Callable[[Patch], None],
  **world: object,
) -> Callable[[Callable[[Attacker], bool]], Callable[[Attacker], bool]]:
  def add(run: Callable[[Attacker], bool]) -> Callable[[Attacker], bool]:
    ATTACKS.append(Attack(run, error, match, take_out, World(**world)))
    return run

  return add


def no_check(where: object, name: str, result: object = None):
  """A check that lets everything pass."""
  return lambda patch: patch.setattr(where, name, lambda *_, **__: result)


def ignoring(
  where: object, name: str, error: type[errors.SecAggError]
) -> Callable[[Patch], None]:
  """A check whose refusals of one kind are ignored."""
  real = getattr(where, name)

  def lenient(*args: object) -> object:
    try:
      return real(*args)
    except error:
      return None

  return lambda patch: patch.setattr(where, name, lenient)


def survivors_with(**weaker: object) -> Callable[[Patch], None]:
  """The check of survivor lists, for a neighborhood with other fields."""
  real = checks.survivors

  def lenient(bitmap, neighborhood, shared, setup):
    fields = {
      name: value(bitmap, neighborhood) if callable(value) else value
      for name, value in weaker.items()
    }
    shared = fields.pop('shared', shared)
    least = fields.pop('min_survivors', setup.min_survivors)
    setup = dataclasses.replace(setup, min_survivors=least)
    neighborhood = dataclasses.replace(neighborhood, **fields)
    return real(bitmap, neighborhood, shared, setup)

  return lambda patch: patch.setattr(checks, 'survivors', lenient)


def together(*changes: Callable[[Patch], None]) -> Callable[[Patch], None]:
  def take_out(patch: Patch) -> None:
    for change in changes:
      change(patch)

  return take_out


# A client that forgets in which rounds it has answered.
ANSWER_AGAIN = no_check(checks, 'unanswered')


# Both secrets of one client.


def keep_states(patch: Patch) -> None:
  patch.setattr(client.State, '_leave', lambda state: state._memory)


@attack(
  errors.StateSpentError,
  'was left already',
  together(keep_states, ANSWER_AGAIN),
)
def both_shares_over_several_messages(server: Attacker) -> bool:
  server.until_masked()
  before, everybody = dict(server.states), server.honest
  for dead in ((), (VICTIM,)):
    server.states = dict(before)
    alive = [i for i in server.last.members if i not in dead]
    asked = [i for i in everybody if i not in dead]
    signed = server.confirm(server.bitmap(alive), *asked)
    server.unmask(server.bitmap(alive), signed, *asked)
  return server.knows_vector()


ALL, WITHOUT = range(1, 9), range(2, 9)


@attack(
  errors.BadSurvivors,
  'must be those that were confirmed',
  no_check(checks, 'confirmed'),
)
def another_list_than_was_confirmed(server: Attacker) -> bool:
  server.until_masked()
  alive, dead = server.bitmap(ALL), server.bitmap(WITHOUT)
  signed_alive = server.confirm(alive, 1, 2, 3, 4)
  signed_dead = server.confirm(dead, 5, 6, 7)
  server.unmask(alive, signed_alive, 5, 6, 7)
  server.unmask(dead, signed_dead, 2, 3, 4)
  return server.knows_vector()


def split_view(server: Attacker, forge: Callable[[dict, dict], None]) -> bool:
  """Two lists for two halves of the victim's neighbors."""
  server.until_masked()
  alive, dead = server.bitmap(ALL), server.bitmap(WITHOUT)
  signed_alive = server.confirm(alive, 1, 2, 3, 4)
  signed_dead = server.confirm(dead, 5, 6, 7)
  forge(signed_dead, signed_alive)
  server.unmask(alive, signed_alive, 2, 3, 4)
  server.unmask(dead, signed_dead, 5, 6, 7)
  return server.knows_vector()


def unconfirmed(patch: Patch) -> None:
  real = checks.confirmations
  patch.setattr(
    checks,
    'confirmations',
    lambda request, neighborhood, *rest: real(
      request, dataclasses.replace(neighborhood, threshold=0), *rest
    ),
  )


@attack(
  errors.NotConfirmed, 'At least 4 neighbors must have confirmed', unconfirmed
)
def too_few_confirmations(server: Attacker) -> bool:
  return split_view(server, lambda dead, alive: None)


@attack(
  errors.BadSignature,
  'must be confirmed by client 2',
  no_check(keys, 'is_signed', True),
)
def forged_confirmations(server: Attacker) -> bool:
  return split_view(
    server, lambda dead, alive: dead.update({2: os.urandom(64)})
  )


def sign_any_list(patch: Patch) -> None:
  real = keys.survivors_content
  patch.setattr(
    keys, 'survivors_content', lambda digest, seed, _: real(digest, seed, b'')
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
  server.invite()
  if not server.honest:
    return False
  server.reveal(server.roster())
  server.introduce()
  server.deliver()
  alive, dead = server.bitmap(ALL), server.bitmap(WITHOUT)
  server.unmask(alive, server.confirm(alive, 2, 3), 2, 3)
  server.unmask(dead, server.confirm(dead, 4, 5), 4, 5)
  return server.knows_vector()


# Survivor lists.

FIVE = Security('malicious', 0.0, 0.0, neighbors=4, threshold=3)


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


# Keys and identities.


def impostors(server: Attacker, ids: range) -> bool:
  """Everybody but the victim is the server itself."""
  server.invite(VICTIM)
  if not server.honest:
    return False
  server.use(Puppet(i) for i in ids)
  if server.setup.security.active:
    server.reveal(server.roster([VICTIM, *ids]))
  else:
    server.last = server.roster([VICTIM, *ids])
  server.introduce(VICTIM, peers=ids)
  server.deliver(VICTIM)
  return server.knows_vector()


@attack(
  errors.BadSignature,
  'client 11 must be signed by its registered identity',
  no_check(checks, 'signatures'),
)
def unregistered_identities(server: Attacker) -> bool:
  return impostors(server, range(11, 18))


@attack(
  errors.BadSignature,
  'client 2 must be signed by its registered identity',
  no_check(keys, 'is_signed', True),
  honest=ALL,
  corrupt=(),
)
def man_in_the_middle_of_the_keys(server: Attacker) -> bool:
  return impostors(server, WITHOUT)


@attack(
  errors.UnacceptableSetup,
  "threat='malicious'",
  no_check(checks.Policy, 'check'),
  honest=ALL,
  corrupt=(),
  asked={
    'security': dataclasses.replace(COMPLETE, threat='curious'),
    'verify': False,
  },
)
def a_class_without_signatures(server: Attacker) -> bool:
  return impostors(server, WITHOUT)


@attack(
  errors.MessageError,
  'ids of a roster must ascend',
  no_check(messages, '_check_ascending'),
)
def one_identity_repeated(server: Attacker) -> bool:
  """One registered puppet is all seven neighbors, each with other keys."""
  server.invite(VICTIM)
  copies = [Puppet(8, server.puppets[8].identity) for _ in range(7)]
  signed = [copy.advertise(server.binding) for copy in copies]
  roster = messages.Roster(
    1,
    (VICTIM, *[8] * 7),
    (server.advertised[VICTIM].commitment, *(one.commitment for one in signed)),
  )
  server.reveal(roster, VICTIM)
  if not server.honest:
    return False
  peers = tuple(
    messages.Peer(place, 8, one.c_public, one.s_public, one.signature)
    for place, one in enumerate(signed, 1)
  )
  preimages = [server.preimages[VICTIM], *(copy.element(1) for copy in copies)]
  found = messages.Neighbors(8, 7, 4, 0, peers, tuple(preimages))
  body = server.send(VICTIM, Kind.NEIGHBORS, found.encode())
  items = codec.split(memoryview(body), 7, keys.SEALED_SHARES_BYTES)
  server.peers[VICTIM], server.threshold[VICTIM] = tuple(range(11, 18)), 4
  for holder, sealed in zip(range(11, 18), items, strict=True):
    agreed = copies[-1].c.agree(server.advertised[VICTIM].c_public)
    key = keys.derive(agreed, server.binding, b'seal', (VICTIM, 8))
    plain = keys.unseal(key, sealed)
    server.note('b', VICTIM, holder, plain[:32])
    server.note('s', VICTIM, holder, plain[32:])
  private = server.secret('s', VICTIM)
  return (
    keys.public_of(private) == server.advertised[VICTIM].s_public
    and server.secret('b', VICTIM) is not None
  )


THREE = Security('malicious', 0.0, 0.0, neighbors=2, threshold=2)
WITH_TWO_PUPPETS = {'honest': (1,), 'corrupt': (2, 3), 'security': THREE}


def seal_without_direction(patch: Patch) -> None:
  real = keys.derive

  def derive(secret, digest, role, pair, name=b''):
    pair = tuple(sorted(pair)) if role == b'seal' else pair
    return real(secret, digest, role, pair, name)

  patch.setattr(keys, 'derive', derive)


def reflect(server: Attacker, change: Callable[[bytes], bytes]) -> bool:
  """The victim gets its own share back, as that of puppet 2."""
  server.invite()
  own = server.advertised[VICTIM].c_public
  server.puppets[2].c_public = change(own)
  server.use([server.puppets[2]])
  server.reveal(server.roster())
  server.introduce(degree=2, threshold=2)
  if (VICTIM, 2) not in server.sealed:
    return False
  server.deliver(VICTIM, instead={2: server.sealed[VICTIM, 2]})
  everybody = server.bitmap((1, 2, 3))
  signed = server.confirm(everybody, VICTIM)
  content = everybody + codec.pack_bits([True, True]) + signed[2] + signed[3]
  answer = server.send(VICTIM, Kind.UNMASK_REQUEST, content)
  if answer is None:
    return False
  server.note('b', VICTIM, 2, answer[:32])
  return server.knows_vector()


@attack(
  errors.BadKey,
  'must be different',
  together(ignoring(checks, 'meet', errors.BadKey), seal_without_direction),
  **WITH_TWO_PUPPETS,
)
def its_own_key(server: Attacker) -> bool:
  return reflect(server, lambda own: own)


@attack(
  errors.BadKey,
  'another encoding',
  together(no_check(keys, 'is_canonical', True), seal_without_direction),
  **WITH_TWO_PUPPETS,
)
def its_own_key_in_another_encoding(server: Attacker) -> bool:
  return reflect(server, lambda own: own[:31] + bytes([own[31] | 0x80]))


@attack(
  errors.BadKey,
  'must be different',
  ignoring(checks, 'meet', errors.BadKey),
  **WITH_TWO_PUPPETS,
)
def one_key_for_two_neighbors(server: Attacker) -> bool:
  server.invite()
  server.puppets[3].c = server.puppets[2].c
  server.puppets[3].c_public = server.puppets[2].c_public
  server.use([server.puppets[3]])
  server.reveal(server.roster())
  server.introduce(degree=2, threshold=2)
  server.deliver()
  return server.knows_vector()


def agree_on_nothing(patch: Patch) -> None:
  real = keys.KeyPair.agree

  def agree(pair, public):
    try:
      return real(pair, public)
    except errors.BadKey:
      return bytes(32)

  patch.setattr(keys.KeyPair, 'agree', agree)


@attack(
  errors.BadKey,
  'of low order',
  agree_on_nothing,
  honest=(1,),
  corrupt=(2, 3, 4, 5, 6),
  security=Security('malicious', 0.0, 0.0, neighbors=5, threshold=4),
)
def keys_of_low_order(server: Attacker) -> bool:
  """An outsider, who has no key at all, opens what is sealed for all five."""
  server.invite()
  for puppet, low in zip(server.puppets.values(), LOW_ORDER, strict=True):
    puppet.c_public = low
  server.use(server.puppets.values())
  server.reveal(server.roster())
  body = server.neighbors(VICTIM, (2, 3, 4, 5, 6), 5, 4)
  server.answer_shares(VICTIM, body)
  if not server.honest:
    return False
  server.shares.clear()
  opened = [server.open_shares(VICTIM, i, bytes(32)) for i in server.puppets]
  instead = {}
  for i in server.puppets:
    key = keys.derive(bytes(32), server.binding, b'seal', (i, VICTIM))
    instead[i] = keys.seal(key, bytes(64))
  server.deliver(VICTIM, instead=instead)
  server.puppets.clear()
  return all(opened) and server.knows_vector()


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
  everybody = server.bitmap(ALL)
  signed = server.confirm(everybody, *range(2, 8))
  server.unmask(everybody, signed, *range(2, 8))
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


# Shares in transit.


def decrypt_unauthenticated(patch: Patch) -> None:
  def unseal(key, sealed):
    mode = modes.CTR(bytes(12) + (2).to_bytes(4, 'big'))
    decryptor = ciphers.Cipher(algorithms.AES(key), mode).decryptor()
    return decryptor.update(sealed[:-16])

  patch.setattr(keys, 'unseal', unseal)


def wrong_sum_by(
  server: Attacker, change: Callable[[Attacker], dict[int, bytes]]
) -> bool:
  """An outsider changes what client 1 is sent; the server is honest."""
  server.invite()
  server.last = server.roster()
  for i in range(1, 6):
    others = [j for j in range(1, 6) if j != i]
    server.introduce(i, peers=others, degree=4, threshold=3)
  server.deliver(1, instead=change(server))
  server.deliver(*range(2, 6))
  alive = sorted(server.masked)
  everybody = server.bitmap(alive)
  server.unmask(everybody, None, *alive)
  assert server.open(alive, cancelled=alive) is not None or len(alive) < 5
  return len(alive) == 5 and not server.knows_sum(alive)


OUTSIDER = {
  'honest': range(1, 6),
  'corrupt': (),
  'security': dataclasses.replace(FIVE, threat='curious'),
  'verify': False,
}


@attack(errors.BadShare, 'it was altered', decrypt_unauthenticated, **OUTSIDER)
def an_altered_share(server: Attacker) -> bool:
  def flip(server: Attacker) -> dict[int, bytes]:
    sealed = bytearray(server.sealed[2, 1])
    sealed[0] ^= 1
    return {2: bytes(sealed)}

  return wrong_sum_by(server, flip)


@attack(
  errors.BadShare,
  'is not for this client',
  decrypt_unauthenticated,
  **OUTSIDER,
)
def a_misdelivered_share(server: Attacker) -> bool:
  return wrong_sum_by(server, lambda server: {2: server.sealed[2, 3]})


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
  bitmap = server.bitmap(alive)
  signed = server.confirm(bitmap, *server.honest)
  server.unmask(bitmap, signed, *server.honest)
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


# The sum.


@attack(
  errors.UnacceptableSetup,
  'must be verified',
  no_check(checks.Policy, 'check'),
  asked={'verify': False},
)
def a_setup_without_verification(server: Attacker) -> bool:
  """The clients are done before a sum is published: any will do."""
  server.invite()
  if not server.honest:
    return False
  server.reveal(server.roster())
  server.introduce()
  server.deliver()
  everybody = server.bitmap(ALL)
  signed = server.confirm(everybody, *server.honest)
  server.unmask(everybody, signed, *server.honest)
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
  server.invite()
  if not server.honest:
    return False
  server.reveal(server.roster())
  server.introduce()
  server.deliver()
  everybody = server.bitmap(ALL)
  signed = server.confirm(everybody, *server.honest)
  server.unmask(everybody, signed, *server.honest)
  found = server.open(ALL, cancelled=ALL)
  exact = sum(server.vectors.values())
  return np.array_equal(found, exact) and bool((exact >= SPEC.modulus).any())


def summed(server: Attacker) -> np.ndarray:
  """Runs a session to its sum, tags included."""
  server.until_masked()
  everybody = server.bitmap(server.last.members)
  signed = server.confirm(everybody, *server.honest)
  server.unmask(everybody, signed, *server.honest)
  return server.open(ALL, cancelled=ALL)


ACCEPT_ALL = no_check(verify, 'accepts', True)
SUMMED = {'honest': ALL, 'corrupt': ()}
wrong_sum = attack(errors.WrongSum, "sum of 'x' is not", ACCEPT_ALL, **SUMMED)


@wrong_sum
def an_altered_sum(server: Attacker) -> bool:
  total = summed(server)
  total[3] = (total[3] + 1) % SPEC.modulus
  return server.is_accepted(total, 5)


@wrong_sum
def an_altered_tag(server: Attacker) -> bool:
  total = summed(server)
  total[SPEC.length] ^= SPEC.modulus >> 1
  return server.is_accepted(total, 5)


@wrong_sum
def a_scaled_sum(server: Attacker) -> bool:
  return server.is_accepted(3 * summed(server) % SPEC.modulus, 5)


@wrong_sum
def the_sum_of_an_earlier_session(server: Attacker) -> bool:
  earlier = summed(server)
  server.setup = dataclasses.replace(
    server.setup, session=os.urandom(32), round=4
  )
  server.begin()
  summed(server)
  return server.is_accepted(earlier, 5)


@wrong_sum
def the_true_sum_of_other_survivors(server: Attacker) -> bool:
  """A sum with tags that would be accepted, had client 8 dropped out."""
  summed(server)
  tagger = tagging.Tagger(
    server.verification_key, server.binding, server.setup.round
  )
  total = sum(tagger.tagged(server.vectors[i], SPEC, i) for i in range(1, 8))
  total %= SPEC.modulus
  body = memoryview(server.ring.pack(total))
  tagger.check(body, server.setup, range(1, 8))
  return server.is_accepted(total, 5)


@attack(
  errors.ReplayedSession,
  'taken part in this session and round before',
  together(no_check(checks, 'unused'), ANSWER_AGAIN),
  **SUMMED,
)
def a_replayed_session(server: Attacker) -> bool:
  """Bits and pads are the same again, so that an old sum is accepted."""
  earlier = summed(server)
  server.vectors = {i: x[::-1].copy() for i, x in server.vectors.items()}
  server.begin()
  server.invite()
  if not server.honest:
    return False
  server.reveal(server.roster())
  server.introduce()
  server.deliver()
  everybody = server.bitmap(ALL)
  signed = server.confirm(everybody, *server.honest)
  server.unmask(everybody, signed, *server.honest)
  now = server.open(ALL, cancelled=ALL)
  return not np.array_equal(earlier, now) and server.is_accepted(earlier, 5)


each_attack = pytest.mark.parametrize(
  'attack', ATTACKS, ids=[one.name for one in ATTACKS]
)


@each_attack
def test_honest_clients_refuse(attack: Attack):
  server = Attacker(attack.world)
  assert not attack.run(server)
  assert [
    error
    for error in server.refusals
    if type(error) is attack.error and re.search(attack.match, str(error))
  ], server.refusals


@each_attack
def test_without_the_check_it_succeeds(
  attack: Attack, monkeypatch: pytest.MonkeyPatch
):
  attack.take_out(monkeypatch)
  assert attack.run(Attacker(attack.world))


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


def test_there_are_at_least_twenty_attacks():
  assert len({attack.run for attack in ATTACKS}) == len(ATTACKS) >= 20
