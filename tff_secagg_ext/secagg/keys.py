# SPDX-License-Identifier: Apache-2.0
"""The keys of a client: channels, masks, identity, and what is derived.

Composed of the `cryptography` package: X25519 [RFC 7748], HKDF-SHA256
[RFC 5869], AES-256-GCM, Ed25519 [RFC 8032]. Every derived key is bound, by its
salt, to the setup digest, and so to protocol version, session, round, threat
class and vectors; and, by its info, to role, clients and vector name.
"""

from __future__ import annotations

import hashlib
import struct

from cryptography import exceptions
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.ciphers import aead
from cryptography.hazmat.primitives.kdf import hkdf

from tff_secagg_ext.secagg import errors

PREFIX = b'tff-secagg-ext/1 '
KEY_BYTES = 32
DIGEST_BYTES = 32
SIGNATURE_BYTES = 64
PLAIN_SHARES_BYTES = 64
SEALED_SHARES_BYTES = PLAIN_SHARES_BYTES + 16
# Draws of the graph that a commitment is good for.
CHAIN_LENGTH = 4

_SHA256 = hashes.SHA256()


def digest(label: bytes, *parts: bytes) -> bytes:
  """SHA-256 of a label of this protocol version, and parts."""
  return hashlib.sha256(b''.join([PREFIX, label, *parts])).digest()


def derive(
  secret: bytes,
  setup_digest: bytes,
  role: bytes,
  pair: tuple[int, int],
  name: bytes = b'',
) -> bytes:
  """Returns the 32-byte key of a secret for one use.

  Args:
    secret: Key material of the kernel's, or an X25519 agreement.
    setup_digest: 32 bytes.
    role: 'seal', 'mask', 'self', 'tag' or 'pad'; see docs/protocol.md.
    pair: Two u32, of the role's own meaning.
    name: Of a vector.
  """
  info = b''.join([PREFIX, role, b'\0', struct.pack('<II', *pair), name])
  return hkdf.HKDF(_SHA256, 32, setup_digest, info).derive(secret)


class KeyPair:
  """An X25519 key pair of one session."""

  def __init__(self, private: bytes):
    self._private = x25519.X25519PrivateKey.from_private_bytes(private)
    self.public = self._private.public_key().public_bytes_raw()

  def agree(self, public: bytes) -> bytes:
    """Returns the secret shared with the owner of a public key.

    Raises:
      BadKey: If the key is degenerate: everybody would know the secret.
    """
    peer = x25519.X25519PublicKey.from_public_bytes(public)
    try:
      return self._private.exchange(peer)
    except ValueError as error:
      raise errors.BadKey('A public key is of low order.') from error


# u-coordinates are below it [RFC 7748, section 5]; others are second names.
_FIELD = 2**255 - 19
_PROBE = KeyPair(bytes(KEY_BYTES))


def is_canonical(public: bytes) -> bool:
  """Whether an X25519 public key is the one encoding of its point."""
  return int.from_bytes(public, 'little') < _FIELD


def is_usable(public: bytes) -> bool:
  """Whether a public key is canonical, and secrets agreed with it are secret.

  A point of low order gives zero with every private key, for all of them are
  multiples of 8.
  """
  try:
    _PROBE.agree(public)
  except errors.BadKey:
    return False
  return is_canonical(public)


def public_of(private: bytes) -> bytes:
  """Returns the X25519 public key of a private one."""
  return KeyPair(private).public


def seal(key: bytes, plain: bytes) -> bytes:
  """Encrypts the one message that a key is for; hence the fixed nonce."""
  return aead.AESGCM(key).encrypt(bytes(12), plain, None)


def unseal(key: bytes, sealed: bytes) -> bytes:
  """Returns the plain message.

  Raises:
    BadShare: If it was not sealed with this key.
  """
  try:
    return aead.AESGCM(key).decrypt(bytes(12), sealed, None)
  except exceptions.InvalidTag:
    raise errors.BadShare(
      'A sealed share cannot be opened: it was altered, or is not for this'
      ' client.'
    ) from None


class Identity:
  """The long-term signing key of a client."""

  def __init__(self, private: bytes):
    """Takes the 32 bytes of an Ed25519 private key."""
    self._private = ed25519.Ed25519PrivateKey.from_private_bytes(private)
    self.public = self._private.public_key().public_bytes_raw()

  @classmethod
  def generate(cls) -> Identity:
    """Returns a new identity, of the kernel's randomness."""
    return cls(ed25519.Ed25519PrivateKey.generate().private_bytes_raw())

  def sign(self, content: bytes) -> bytes:
    """Returns the signature of a content, 64 bytes."""
    return self._private.sign(content)


def is_signed(public: bytes, signature: bytes, content: bytes) -> bool:
  """Whether a signature is that of the owner of a public key."""
  key = ed25519.Ed25519PublicKey.from_public_bytes(public)
  try:
    key.verify(signature, content)
  except exceptions.InvalidSignature:
    return False
  return True


def advertised_content(
  setup_digest: bytes, client: int, publics: bytes, commitment: bytes
) -> bytes:
  """What a client signs when it advertises its keys."""
  head = PREFIX + b'keys' + setup_digest + struct.pack('<I', client)
  return head + publics + commitment


def survivors_content(
  setup_digest: bytes, seed: bytes, survivors: bytes
) -> bytes:
  """What a client signs when it confirms a survivor list."""
  return PREFIX + b'survivors' + setup_digest + seed + survivors


def chain(start: bytes, steps: int) -> bytes:
  """Returns the element of a hash chain so many steps after `start`."""
  for _ in range(steps):
    start = sha256(start)
  return start


def sha256(data: bytes | memoryview) -> bytes:
  """Returns the SHA-256 of bytes."""
  return hashlib.sha256(data).digest()
