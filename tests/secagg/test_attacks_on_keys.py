# SPDX-License-Identifier: Apache-2.0
"""Messages that are not what they seem: keys, shares and sums.

See `tests.secagg.attacks` for what is asserted of each.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import os

from cryptography.hazmat.primitives import ciphers
from cryptography.hazmat.primitives.ciphers import algorithms, modes
import numpy as np

from tests.secagg.attacks import (
  ALL,
  ANSWER_AGAIN,
  FIVE,
  THREE,
  WITHOUT,
  Attack,
  Attacks,
  Patch,
  ignoring,
  no_check,
  refuse,
  succeed,
  together,
)
from tests.secagg.malicious import (
  COMPLETE,
  SPEC,
  VICTIM,
  Attacker,
  Puppet,
)
from tff_secagg_ext.secagg import (
  checks,
  codec,
  errors,
  keys,
  messages,
  tagging,
  verify,
)
from tff_secagg_ext.secagg.codec import Kind
from tff_secagg_ext.secagg.setup import Security

ATTACKS = Attacks()
attack = ATTACKS.add
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


# The sum.


def summed(server: Attacker) -> np.ndarray:
  """Runs a session to its sum, tags included."""
  server.until_masked()
  server.ask(server.last.members, *server.honest)
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
  if not server.until_masked():
    return False
  server.ask(ALL, *server.honest)
  now = server.open(ALL, cancelled=ALL)
  return not np.array_equal(earlier, now) and server.is_accepted(earlier, 5)


@ATTACKS.each
def test_honest_clients_refuse(attack: Attack):
  refuse(attack)


@ATTACKS.each
def test_without_the_check_it_succeeds(attack: Attack, monkeypatch: Patch):
  succeed(attack, monkeypatch)


def test_no_attack_is_lost_or_there_twice():
  assert len({attack.run for attack in ATTACKS}) == len(ATTACKS) >= 16
