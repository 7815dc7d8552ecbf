# SPDX-License-Identifier: Apache-2.0
"""Keys: what is composed of the primitives, against the RFCs' own answers."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import os
import pickle
import struct

from hypothesis import given
from hypothesis import strategies as st
import pytest

from tff_secagg_ext.secagg import errors, keys

FIELD = 2**255 - 19
# Of order 1, 2, 4 and 8, on the curve and on its twist.
LOW_ORDER = [
  (0).to_bytes(32, 'little'),
  (1).to_bytes(32, 'little'),
  (FIELD - 1).to_bytes(32, 'little'),
  bytes.fromhex(
    'e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800'
  ),
  bytes.fromhex(
    '5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157'
  ),
]
IDS = st.integers(0, 2**32 - 1)
ROLES = st.sampled_from([b'seal', b'mask', b'self', b'tag', b'pad'])


def test_an_agreement_is_that_of_rfc_7748_section_6_1():
  alice = keys.KeyPair(
    bytes.fromhex(
      '77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a'
    )
  )
  bob = keys.KeyPair(
    bytes.fromhex(
      '5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb'
    )
  )
  assert alice.public.hex() == (
    '8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a'
  )
  assert bob.public.hex() == (
    'de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f'
  )
  secret = alice.agree(bob.public)
  assert secret == bob.agree(alice.public)
  assert secret.hex() == (
    '4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742'
  )


def test_a_public_key_is_that_of_its_private_one():
  private = os.urandom(32)
  assert keys.public_of(private) == keys.KeyPair(private).public


@pytest.mark.parametrize('public', LOW_ORDER, ids=bytes.hex)
def test_keys_of_low_order_are_refused(public: bytes):
  with pytest.raises(errors.BadKey, match='A public key is of low order'):
    keys.KeyPair(os.urandom(32)).agree(public)
  assert not keys.is_usable(public)


@given(st.integers(0, 18))
def test_a_second_name_of_a_key_is_not_canonical(low: int):
  for public in (low + FIELD, low + 2**255):
    assert not keys.is_canonical(public.to_bytes(32, 'little'))
    assert not keys.is_usable(public.to_bytes(32, 'little'))
  assert keys.is_canonical(low.to_bytes(32, 'little'))


def test_the_keys_of_honest_clients_are_usable():
  for _ in range(50):
    public = keys.KeyPair(os.urandom(32)).public
    assert keys.is_canonical(public)
    assert keys.is_usable(public)
    # The highest bit is no part of a key: this is another name of it.
    again = public[:31] + bytes([public[31] | 0x80])
    assert not keys.is_usable(again)


def naive_hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
  """RFC 5869, of one block."""
  extracted = hmac.new(salt, secret, hashlib.sha256).digest()
  return hmac.new(extracted, info + b'\1', hashlib.sha256).digest()


@given(st.binary(min_size=32, max_size=32), ROLES, IDS, IDS, st.binary())
def test_a_derived_key_is_hkdf_of_what_it_is_bound_to(secret, role, a, b, name):
  salt = hashlib.sha256(b'a setup').digest()
  info = b'tff-secagg-ext/1 ' + role + b'\0' + struct.pack('<II', a, b) + name
  assert keys.derive(secret, salt, role, (a, b), name) == naive_hkdf(
    secret, salt, info
  )


def test_keys_of_different_uses_are_different():
  secrets = [bytes(32), b'\1' * 32]
  setups = [bytes(32), b'\2' * 32]
  roles = [b'seal', b'mask', b'self', b'tag', b'pad']
  pairs = [(0, 0), (0, 1), (1, 0), (256, 0)]
  names = [b'', b'x', b'\0', b'x\0']
  uses = list(itertools.product(secrets, setups, roles, pairs, names))
  derived = {keys.derive(*use) for use in uses}
  assert len(derived) == len(uses)


def test_a_sealed_message_is_test_case_14_of_gcm():
  """McGrew and Viega, 'The Galois/Counter Mode of Operation', appendix B."""
  sealed = keys.seal(bytes(32), bytes(16))
  assert sealed.hex() == (
    'cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919'
  )


def test_sealed_shares():
  key, plain = os.urandom(32), os.urandom(keys.PLAIN_SHARES_BYTES)
  sealed = keys.seal(key, plain)
  assert len(sealed) == keys.SEALED_SHARES_BYTES
  assert keys.unseal(key, sealed) == plain
  for bit in range(8 * len(sealed)):
    altered = bytearray(sealed)
    altered[bit // 8] ^= 1 << bit % 8
    with pytest.raises(errors.BadShare, match='cannot be opened: it was alt'):
      keys.unseal(key, bytes(altered))
  with pytest.raises(errors.BadShare, match='not for this client'):
    keys.unseal(os.urandom(32), sealed)
  with pytest.raises(errors.BadShare):
    keys.unseal(key, sealed[:-1])


def test_a_signature_is_test_1_of_rfc_8032():
  identity = keys.Identity(
    bytes.fromhex(
      '9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60'
    )
  )
  assert identity.public.hex() == (
    'd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a'
  )
  assert identity.sign(b'').hex() == (
    'e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb88215'
    '90a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b'
  )


def test_signatures_are_of_their_owner_and_content():
  identity, other = keys.Identity.generate(), keys.Identity.generate()
  signature = identity.sign(b'content')
  assert len(signature) == keys.SIGNATURE_BYTES
  assert identity.public != other.public
  assert keys.is_signed(identity.public, signature, b'content')
  assert not keys.is_signed(other.public, signature, b'content')
  assert not keys.is_signed(identity.public, signature, b'contents')
  assert not keys.is_signed(identity.public, bytes(64), b'content')
  assert not keys.is_signed(identity.public, b'', b'content')


def test_signed_contents_are_bound_to_version_purpose_and_setup():
  advertised = keys.advertised_content(b's' * 32, 258, b'p' * 64, b'c' * 32)
  assert advertised == (
    b'tff-secagg-ext/1 keys' + b's' * 32 + b'\2\1\0\0' + b'p' * 64 + b'c' * 32
  )
  survivors = keys.survivors_content(b's' * 32, b'g' * 32, b'\5')
  assert survivors == (
    b'tff-secagg-ext/1 survivors' + b's' * 32 + b'g' * 32 + b'\5'
  )


def test_digests_and_chains_are_sha256():
  label = hashlib.sha256(b'tff-secagg-ext/1 label' + b'ab').digest()
  assert keys.digest(b'label', b'a', b'b') == label
  assert keys.sha256(memoryview(b'a')) == hashlib.sha256(b'a').digest()
  assert keys.chain(b'a', 0) == b'a'
  assert keys.chain(b'a', 1) == hashlib.sha256(b'a').digest()
  assert keys.chain(b'a', 4) == keys.chain(keys.chain(b'a', 1), 3)


@pytest.mark.parametrize(
  'secret', [keys.KeyPair(bytes(32)), keys.Identity(bytes(32))]
)
def test_private_keys_are_neither_shown_nor_pickled(secret):
  assert secret.public.hex() not in repr(secret)
  assert '0000' not in repr(secret).replace('0x0000', '')
  with pytest.raises(TypeError, match='cannot pickle'):
    pickle.dumps(secret)
