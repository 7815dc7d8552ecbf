# SPDX-License-Identifier: Apache-2.0
"""Every refusal of a client, and what it says."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest

from tff_secagg_ext.secagg import (
  checks,
  client_state,
  codec,
  errors,
  keys,
  messages,
)
from tff_secagg_ext.secagg.graph import Graph
from tff_secagg_ext.secagg.setup import (
  THREAT_CLASSES,
  Security,
  Setup,
  VectorSpec,
)

SPEC = VectorSpec('x', 3, 16)
SECURITY = Security('malicious', neighbors=4, threshold=3)
POLICY = checks.Policy(SECURITY, True, 3, (SPEC,))
SETUP = Setup(bytes(32), 0, SECURITY, True, 3, (SPEC,))


@pytest.mark.parametrize(
  'changes',
  [{}, {'min_survivors': 4}, {'round': 9}, {'session': b's' * 32}],
)
def test_setups_that_are_as_strong_are_accepted(changes):
  POLICY.check(dataclasses.replace(SETUP, **changes))


def test_a_client_need_not_insist_on_verification():
  policy = dataclasses.replace(POLICY, verify=False)
  policy.check(SETUP)
  policy.check(dataclasses.replace(SETUP, verify=False))


@pytest.mark.parametrize(
  ('changes', 'error', 'message'),
  [
    (
      {'security': Security('malicious', neighbors=4, threshold=4)},
      errors.UnacceptableSetup,
      'The assumptions of a session must be .*threshold=3.*Found .*threshold=4',
    ),
    (
      {'security': dataclasses.replace(SECURITY, threat='semi-malicious')},
      errors.UnacceptableSetup,
      'The assumptions of a session must be .*Found .*semi-malicious',
    ),
    (
      {'vectors': (dataclasses.replace(SPEC, modulus=17),)},
      errors.UnacceptableSetup,
      'The vectors of a session must be .*modulus=16.*Found .*modulus=17',
    ),
    (
      {'vectors': (SPEC, VectorSpec('y', 1, 2))},
      errors.UnacceptableSetup,
      'The vectors of a session must be',
    ),
    (
      {'verify': False},
      errors.UnacceptableSetup,
      r'The sum of a session must be verified\. Found one that is not',
    ),
    (
      {'min_survivors': 2},
      errors.CohortTooSmall,
      r'A session must sum at least 3 clients\. Found 2',
    ),
  ],
)
def test_setups_that_are_weaker(changes, error, message: str):
  with pytest.raises(error, match=message):
    POLICY.check(dataclasses.replace(SETUP, **changes))


@pytest.mark.parametrize(
  ('changes', 'error', 'message'),
  [
    ({'verify': None}, TypeError, '`verify` must be True or False'),
    ({'min_survivors': 0}, ValueError, '`min_survivors` must be at least 1'),
  ],
)
def test_bad_policies(changes, error, message: str):
  with pytest.raises(error, match=message):
    dataclasses.replace(POLICY, **changes)


class Neighborhood:
  """Seven members, and what an honest server tells the one at position 3."""

  def __init__(self) -> None:
    self.channel = codec.Channel(13, b'd' * 32)
    self.identities = [keys.Identity.generate() for _ in range(7)]
    self.registry = {
      10 + i: identity.public for i, identity in enumerate(self.identities)
    }
    starts = [os.urandom(32) for _ in range(7)]
    self.roster = messages.Roster(
      1,
      tuple(range(10, 17)),
      tuple(keys.chain(start, 4) for start in starts),
    )
    preimages = tuple(keys.chain(start, 3) for start in starts)
    self.second = messages.Roster(2, self.roster.members, preimages)
    self.body = self.roster.encode()
    self.seed = keys.digest(
      b'graph', self.channel.binding, self.body, *preimages
    )
    places = Graph(7, 4, self.seed).neighbors(3)
    self.found = messages.Neighbors(
      7, 4, 3, 3, tuple(map(self.peer, places)), preimages
    )

  def peer(self, place: int) -> messages.Peer:
    publics = [keys.KeyPair(os.urandom(32)).public for _ in range(2)]
    content = keys.advertised_content(
      self.channel.binding,
      10 + place,
      b''.join(publics),
      self.roster.commitments[place],
    )
    signature = self.identities[place].sign(content)
    return messages.Peer(place, 10 + place, *publics, signature)

  def checked(self, **changes: Any) -> checks.Neighborhood:
    found = dataclasses.replace(self.found, **changes)
    return checks.neighbors(found, self.roster, self.body, self.channel)


@pytest.fixture
def around() -> Neighborhood:
  return Neighborhood()


def test_honest_rosters_are_accepted(around):
  commitments = around.roster.commitments
  checks.roster(around.roster, 13, commitments[3], None)
  checks.roster(around.second, 13, around.second.commitments[3], around.roster)


@pytest.mark.parametrize(
  ('draw', 'known', 'message'),
  [
    (2, False, r'The roster must be of draw 1\. Found 2: an element of the'),
    (1, True, r'The roster must be of draw 2\. Found 1'),
    (3, True, r'The roster must be of draw 2\. Found 3'),
  ],
)
def test_rosters_of_another_draw(around, draw: int, known: bool, message: str):
  roster = dataclasses.replace(around.roster, draw=draw)
  with pytest.raises(errors.BadRoster, match=message):
    checks.roster(
      roster,
      13,
      around.roster.commitments[3],
      around.roster if known else None,
    )


def test_rosters_without_the_client(around):
  with pytest.raises(
    errors.BadRoster, match=r'own commitment\. Found no such member'
  ):
    checks.roster(around.roster, 99, around.roster.commitments[3], None)
  with pytest.raises(
    errors.BadRoster, match=r'own commitment\. Found another commitment'
  ):
    checks.roster(around.roster, 13, bytes(32), None)


def test_rosters_that_grow_or_change(around):
  smaller = messages.Roster(
    1, around.roster.members[:-1], around.roster.commitments[:-1]
  )
  with pytest.raises(
    errors.BadRoster, match=r'some of the draw before.*Found others: \[16\]'
  ):
    checks.roster(around.second, 13, around.second.commitments[3], smaller)
  commitments = (bytes(32), *around.second.commitments[1:])
  changed = dataclasses.replace(around.second, commitments=commitments)
  with pytest.raises(errors.BadRoster, match=r'Found others: \[10\]'):
    checks.roster(changed, 13, commitments[3], around.roster)


def test_honest_neighbors_are_accepted(around):
  checked = around.checked()
  assert checked.seed == around.seed
  assert checked.members == around.roster.members
  assert checked.peers == around.found.peers
  assert (checked.clients, checked.threshold, checked.position) == (7, 3, 3)
  checks.signatures(around.found, 1, around.registry, around.channel)
  checks.meet(around.found, SETUP, (bytes(32), b'\1' * 32))


def test_neighbors_of_other_preimages(around):
  preimages = (bytes(32), *around.found.preimages[1:])
  for changed in (preimages, around.found.preimages[:-1]):
    with pytest.raises(
      errors.BadRoster, match=r'what they committed to\. Found other preimages'
    ):
      around.checked(preimages=changed)


def test_neighbors_of_another_graph(around):
  drawn = [peer.position for peer in around.found.peers]
  other = next(i for i in range(7) if i != 3 and i not in drawn)
  peers = sorted(
    [*around.found.peers[1:], around.peer(other)], key=lambda p: p.position
  )
  renamed = dataclasses.replace(around.found.peers[0], id=9)
  for changes in (
    {'peers': tuple(peers)},
    {'peers': around.found.peers[1:]},
    {'peers': (renamed, *around.found.peers[1:])},
    {'position': 4},
    {'degree': 2},
  ):
    with pytest.raises(
      errors.BadNeighbors, match=r'that all members drew\. Found others'
    ):
      around.checked(**changes)


def test_neighbors_of_no_graph(around):
  with pytest.raises(
    errors.BadNeighbors, match='`degree` must be even, or n -'
  ):
    around.checked(degree=3)
  with pytest.raises(errors.BadNeighbors, match='`degree` must be at most 6'):
    around.checked(degree=8)


def test_keys_that_a_neighbor_has_not_signed(around):
  first, *rest = around.found.peers
  for changes in (
    {'c_public': bytes(32)},
    {'s_public': first.c_public, 'c_public': first.s_public},
    {'signature': bytes(64)},
    {'signature': rest[0].signature},
  ):
    found = dataclasses.replace(
      around.found, peers=(dataclasses.replace(first, **changes), *rest)
    )
    with pytest.raises(
      errors.BadSignature,
      match=f'of client {first.id} must be signed by its registered identity',
    ):
      checks.signatures(found, 1, around.registry, around.channel)
  del around.registry[first.id]
  with pytest.raises(errors.BadSignature, match=r'Found another signature'):
    checks.signatures(around.found, 1, around.registry, around.channel)


def test_keys_that_were_signed_for_another_session_or_draw(around):
  other = codec.Channel(13, b'e' * 32)
  with pytest.raises(errors.BadSignature):
    checks.signatures(around.found, 1, around.registry, other)
  with pytest.raises(errors.BadSignature):
    checks.signatures(around.found, 2, around.registry, around.channel)


@pytest.mark.parametrize(
  ('changes', 'error', 'message'),
  [
    (
      {'clients': 2},
      errors.CohortTooSmall,
      r'At least 3 clients must take part\. Found 2',
    ),
    (
      {'threshold': 2},
      errors.LoweredThreshold,
      r'asks for 4 neighbors and threshold 2\. Expected 4 and 3 for 7 clients',
    ),
    ({'threshold': 4}, errors.LoweredThreshold, r'threshold 4\. Expected 4 an'),
    ({'degree': 6}, errors.LoweredThreshold, r'asks for 6 neighbors'),
    (
      {'clients': 3},
      errors.LoweredThreshold,
      '`threshold` must be at most the number of neighbors, 2 for 3 clients',
    ),
  ],
)
def test_cohorts_and_parameters_that_are_weaker(
  around, changes, error, message: str
):
  with pytest.raises(error, match=message):
    checks.meet(
      dataclasses.replace(around.found, **changes),
      SETUP,
      (bytes(32), b'\1' * 32),
    )


def test_more_or_fewer_neighbors_than_the_degree(around):
  found = dataclasses.replace(around.found, peers=around.found.peers[1:])
  with pytest.raises(
    errors.BadNeighbors, match=r'There must be 4 neighbors\. Found 3'
  ):
    checks.meet(found, SETUP, (bytes(32), b'\1' * 32))


def test_public_keys_that_are_there_twice(around):
  first, second, *rest = around.found.peers
  own = (bytes(32), b'\1' * 32)
  for changes in (
    {'c_public': first.s_public},
    {'s_public': second.s_public},
    {'s_public': second.c_public},
    {'c_public': own[0]},
    {'s_public': own[1]},
  ):
    peers = (dataclasses.replace(first, **changes), second, *rest)
    with pytest.raises(
      errors.BadKey, match=r'must be different\. Found one twice, or the own'
    ):
      checks.meet(dataclasses.replace(around.found, peers=peers), SETUP, own)


def test_public_keys_with_a_second_name(around):
  first, *rest = around.found.peers
  for public in (
    first.c_public[:31] + bytes([first.c_public[31] | 0x80]),
    (2**255 - 19 + 3).to_bytes(32, 'little'),
  ):
    peers = (dataclasses.replace(first, c_public=public), *rest)
    with pytest.raises(errors.BadKey, match=r'must be an integer below 2\^255'):
      checks.meet(
        dataclasses.replace(around.found, peers=peers),
        SETUP,
        (bytes(32), b'\1' * 32),
      )


def test_too_few_delivered_shares(around):
  neighborhood = around.checked()
  shares = {peer.id: b'' for peer in around.found.peers}
  checks.delivered(shares, neighborhood)
  shares.popitem()
  checks.delivered(shares, neighborhood)
  shares.popitem()
  with pytest.raises(
    errors.TooFewShares,
    match=r'At least 3 neighbors must have shared their secrets\. Found 2',
  ):
    checks.delivered(shares, neighborhood)


def of_at_least(min_survivors: int) -> Setup:
  """A setup of which three in seven clients may be lost."""
  security = dataclasses.replace(SECURITY, dropout=0.5)
  return dataclasses.replace(
    SETUP, security=security, min_survivors=min_survivors
  )


def test_a_session_is_joined_once():
  history = client_state.History(joined={(bytes(32), 0)})
  with pytest.raises(
    errors.ReplayedSession, match='taken part in this session and round before'
  ):
    checks.unused(SETUP, history)
  checks.unused(dataclasses.replace(SETUP, round=1), history)
  checks.unused(dataclasses.replace(SETUP, session=b's' * 32), history)
  # What was joined and not answered forbids no answer.
  checks.unanswered(SETUP, history)


def test_a_round_is_answered_once():
  history = client_state.History(answered={0, 7})
  for session in (bytes(32), b's' * 32):
    setup = dataclasses.replace(SETUP, session=session, round=7)
    for check in (checks.unused, checks.unanswered):
      with pytest.raises(
        errors.ReplayedSession,
        match=r'answered in a session of round 7 before\. A new attempt needs',
      ):
        check(setup, history)
      check(dataclasses.replace(setup, round=6), history)


def test_a_sum_is_verified_by_whoever_can():
  able = client_state.Credentials(verification_key=bytes(32))
  checks.verifiable(SETUP, able)
  unable = client_state.Credentials()
  checks.verifiable(dataclasses.replace(SETUP, verify=False), unable)
  with pytest.raises(errors.UnacceptableSetup, match='has no key to verify'):
    checks.verifiable(SETUP, unable)


def bitmap_of(alive: list[int]) -> bytes:
  return codec.pack_bits(i in alive for i in range(7))


def test_honest_survivors_are_accepted(around):
  neighborhood = around.checked()
  ids = {peer.id for peer in around.found.peers}
  places = [peer.position for peer in around.found.peers]
  everybody = bitmap_of(list(range(7)))
  assert checks.survivors(everybody, neighborhood, ids, of_at_least(7)) == ids
  alive = checks.survivors(
    bitmap_of([3, *places[:3]]), neighborhood, ids, of_at_least(4)
  )
  assert alive == {10 + place for place in places[:3]}
  assert neighborhood.ids_of(bitmap_of([0, 3, 6])) == [10, 13, 16]


def test_survivors_that_no_honest_server_sends(around):
  neighborhood = around.checked()
  ids = {peer.id for peer in around.found.peers}
  everybody = bitmap_of(list(range(7)))
  for bitmap, shared, message in (
    (b'', ids, r'A bitmap of 7 must have 1 bytes\. Found 0'),
    (everybody + b'\0', ids, r'must have 1 bytes\. Found 2'),
    (b'\xff', ids, 'A bitmap of 7 names somebody beyond it'),
    (bitmap_of([0, 1, 2, 4, 5, 6]), ids, r'alive\. Found a list that names it'),
    (
      everybody,
      ids - {min(ids)},
      rf'must have shared its secrets\. Found \[{min(ids)}\] that have not',
    ),
  ):
    with pytest.raises(errors.BadSurvivors, match=message):
      checks.survivors(bitmap, neighborhood, shared, of_at_least(2))


def test_too_few_survivors(around):
  neighborhood = around.checked()
  ids = {peer.id for peer in around.found.peers}
  places = [peer.position for peer in around.found.peers]
  with pytest.raises(
    errors.TooFewSurvivors,
    match=r'At least 5 clients, 3 neighbors among them, .* Found 4 and 3',
  ):
    checks.survivors(
      bitmap_of([3, *places[:3]]), neighborhood, ids, of_at_least(5)
    )
  others = [i for i in range(7) if i not in places]
  with pytest.raises(errors.TooFewSurvivors, match=r'Found 5 and 2\.'):
    checks.survivors(
      bitmap_of([*others, *places[:2]]), neighborhood, ids, of_at_least(2)
    )


@pytest.mark.parametrize('threat', THREAT_CLASSES)
def test_more_are_lost_than_a_sparse_graph_surely_bears(around, threat: str):
  neighborhood = around.checked()
  ids = {peer.id for peer in around.found.peers}
  five = bitmap_of([3, *(peer.position for peer in around.found.peers)])

  def alive_of(dropout: float, degree: int = 4) -> frozenset[int]:
    setup = dataclasses.replace(
      SETUP,
      security=Security(threat, 0.0, dropout, degree, degree // 2 + 1),
      verify=False,
      min_survivors=1,
    )
    return checks.survivors(five, neighborhood, ids, setup)

  # Of seven, a fraction of 0.3 is two.
  assert alive_of(0.3) == ids
  for dropout, least in ((0.28, 6), (0.1, 7)):
    with pytest.raises(
      errors.TooFewSurvivors, match=rf'At least {least} clients, .* Found 5 and'
    ):
      alive_of(dropout)
    # The complete graph is of one piece, whoever is left.
    assert alive_of(dropout, degree=6) == ids


def test_survivors_that_were_not_confirmed():
  request = messages.UnmaskRequest(b'\x7f')
  checks.confirmed(request, b'\x7f')
  with pytest.raises(
    errors.BadSurvivors, match=r'that were confirmed\. Found others'
  ):
    checks.confirmed(request, b'\x7e')


def test_confirmations(around):
  neighborhood = around.checked()
  survivors = bitmap_of(list(range(7)))
  content = keys.survivors_content(
    around.channel.binding, around.seed, survivors
  )
  signatures = [
    around.identities[peer.position].sign(content)
    for peer in around.found.peers
  ]

  def check(flags: list[bool], given: list[bytes]) -> None:
    request = messages.UnmaskRequest(
      survivors, codec.pack_bits(flags), tuple(given)
    )
    checks.confirmations(request, neighborhood, around.registry, around.channel)

  check([True] * 4, signatures)
  check([False, True, True, True], signatures[1:])
  with pytest.raises(
    errors.NotConfirmed,
    match=r'At least 3 neighbors must have confirmed the survivors\. Found 2',
  ):
    check([False, False, True, True], signatures[2:])
  first = around.found.peers[0].id
  for wrong in (bytes(64), signatures[1]):
    with pytest.raises(
      errors.BadSignature, match=rf'confirmed by client {first}\. Found anot'
    ):
      check([True] * 4, [wrong, *signatures[1:]])
  other = around.identities[around.found.peers[0].position].sign(
    keys.survivors_content(
      around.channel.binding, around.seed, bitmap_of([0, 1, 2, 3])
    )
  )
  with pytest.raises(errors.BadSignature):
    check([True] * 4, [other, *signatures[1:]])
  del around.registry[first]
  with pytest.raises(errors.BadSignature, match=f'by client {first}'):
    check([True] * 4, signatures)
