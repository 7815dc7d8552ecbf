# SPDX-License-Identifier: Apache-2.0
"""The messages of the protocol, and their one byte codec of version 1.

Guarantees:

- each message has exactly one encoding: trailing bytes, wrong lengths, bits of
  padding that are set, and lists out of order are errors;
- a message that was cut, altered, meant for somebody else, or belongs to
  another session or step is a `MessageError`, never a wrong message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import dataclasses
import enum
import hashlib
import itertools
import struct

import numpy as np

from tff_secagg_ext.secagg import errors, keys
from tff_secagg_ext.secagg.setup import (
  SESSION_BYTES,
  THREAT_CLASSES,
  VERSION,
  Security,
  Setup,
  VectorSpec,
)

_CHECKSUM_BYTES = 16
HEADER_BYTES = 2 + _CHECKSUM_BYTES
# What a message is bound to before there is a setup.
UNBOUND = bytes(keys.DIGEST_BYTES)


class Kind(enum.IntEnum):
  """The type byte of a message."""

  SETUP = 1
  ADVERTISEMENT = 2
  ROSTER = 3
  REVEAL = 4
  NEIGHBORS = 5
  SHARES = 6
  DELIVERY = 7
  MASKED_INPUT = 8
  SURVIVORS = 9
  CONFIRMATION = 10
  UNMASK_REQUEST = 11
  UNMASK_SHARES = 12
  RESULT = 13
  VERDICT = 14


@dataclasses.dataclass(frozen=True)
class Channel:
  """Between the server and one client, in one session.

  Attributes:
    client: Its id.
    binding: The setup digest, 32 bytes.
  """

  client: int
  binding: bytes = UNBOUND

  def seal(self, kind: Kind, body: bytes) -> bytes:
    """Returns the message with a body."""
    head = bytes([VERSION, kind])
    return b''.join([head, self._checksum(kind, body), body])

  def open(self, message: bytes, *kinds: Kind) -> tuple[Kind, memoryview]:
    """Returns kind and body of a message of one of some kinds.

    Raises:
      MessageError: If it is not such a message of this channel.
    """
    if len(message) < HEADER_BYTES:
      raise errors.MessageError(
        f'A message must have at least {HEADER_BYTES} bytes. Found'
        f' {len(message)}.'
      )
    if message[0] != VERSION:
      raise errors.MessageError(
        f'A message must be of version {VERSION}. Found {message[0]}.'
      )
    if message[1] not in kinds:
      due = ' or '.join(kind.name for kind in kinds)
      raise errors.MessageError(
        f'The message that is due is {due}. Found type {message[1]}.'
      )
    kind, body = Kind(message[1]), memoryview(message)[HEADER_BYTES:]
    if message[2:HEADER_BYTES] != self._checksum(kind, body):
      raise errors.MessageError(
        f'The checksum of a message {kind.name} is wrong: it was altered, or'
        ' is of another client or session.'
      )
    return kind, body

  def _checksum(self, kind: Kind, body: bytes | memoryview) -> bytes:
    head = keys.PREFIX + b'message' + bytes([kind]) + self.binding
    state = hashlib.sha256(head + struct.pack('<I', self.client))
    state.update(body)
    return state.digest()[:_CHECKSUM_BYTES]


class _Reader:
  """Takes a body apart, from front to end."""

  def __init__(self, body: memoryview):
    self._body = body

  def take(self, count: int) -> bytes:
    if count > len(self._body):
      raise errors.MessageError(
        f'A message ends {count - len(self._body)} bytes too early.'
      )
    taken, self._body = self._body[:count], self._body[count:]
    return bytes(taken)

  def numbers(self, layout: str) -> tuple[float, ...]:
    return struct.unpack(f'<{layout}', self.take(struct.calcsize(f'<{layout}')))

  def integers(self, layout: str) -> tuple[int, ...]:
    return struct.unpack(f'<{layout}', self.take(struct.calcsize(f'<{layout}')))

  def end(self) -> None:
    if self._body:
      raise errors.MessageError(
        f'A message ends {len(self._body)} bytes too late.'
      )


def split(body: memoryview, count: int, size: int) -> list[bytes]:
  """Returns the `count` items of `size` bytes that a body consists of.

  Raises:
    MessageError: If it has another length.
  """
  if len(body) != count * size:
    raise errors.MessageError(
      f'A message must have {count} items of {size} bytes. Found'
      f' {len(body)} bytes.'
    )
  data = bytes(body)
  return [data[i : i + size] for i in range(0, len(data), size)]


def pack_bits(flags: Iterable[bool]) -> bytes:
  """Returns a bitmap: flag i is bit i mod 8 of byte i div 8."""
  return np.packbits(list(flags), bitorder='little').tobytes()


def bitmap_bytes(count: int) -> int:
  """Returns how many bytes a bitmap of so many flags has."""
  return -(-count // 8)


def unpack_bits(data: bytes, count: int) -> list[bool]:
  """Returns the flags of a bitmap.

  Raises:
    MessageError: If it is not one of `count` flags.
  """
  if len(data) != bitmap_bytes(count):
    raise errors.MessageError(
      f'A bitmap of {count} must have {bitmap_bytes(count)} bytes. Found'
      f' {len(data)}.'
    )
  flags = np.unpackbits(np.frombuffer(data, np.uint8), bitorder='little')
  if flags[count:].any():
    raise errors.MessageError(f'A bitmap of {count} names somebody beyond it.')
  return [bool(flag) for flag in flags[:count]]


def encode_setup(setup: Setup) -> bytes:
  """Returns the body of a Setup."""
  security = setup.security
  parts = [
    setup.session,
    struct.pack(
      '<QBBddIIII',
      setup.round,
      THREAT_CLASSES.index(security.threat),
      setup.verify,
      security.corrupt,
      security.dropout,
      security.neighbors or 0,
      security.threshold or 0,
      setup.min_survivors,
      len(setup.vectors),
    ),
  ]
  for spec in setup.vectors:
    name = spec.name.encode()
    parts += [bytes([len(name)]), name]
    parts.append(struct.pack('<IQ', spec.length, spec.modulus))
  return b''.join(parts)


def decode_setup(body: memoryview) -> Setup:
  """Returns the Setup of a body.

  Raises:
    MessageError: If it is not the encoding of a valid one.
  """
  reader = _Reader(body)
  session = reader.take(SESSION_BYTES)
  number, threat, verify = reader.integers('QBB')
  corrupt, dropout = reader.numbers('dd')
  neighbors, threshold, min_survivors, count = reader.integers('IIII')
  try:
    vectors = tuple(_read_vector(reader) for _ in range(count))
    reader.end()
    if threat >= len(THREAT_CLASSES) or verify > 1:
      raise ValueError(f'Found class {threat} and verify {verify}.')
    security = Security(
      THREAT_CLASSES[threat],
      corrupt,
      dropout,
      neighbors or None,
      threshold or None,
    )
    return Setup(
      session, number, security, bool(verify), min_survivors, vectors
    )
  except ValueError as error:
    raise errors.MessageError(f'A setup is not valid. {error}') from error


def _read_vector(reader: _Reader) -> VectorSpec:
  name = reader.take(reader.integers('B')[0]).decode()
  length, modulus = reader.integers('IQ')
  return VectorSpec(name, length, modulus)


def setup_digest(body: bytes | memoryview) -> bytes:
  """Returns what all messages and keys of a session are bound to."""
  return keys.digest(b'setup', bytes(body))


@dataclasses.dataclass(frozen=True)
class Advertisement:
  """The public keys of a client.

  Attributes:
    c_public: X25519, for channels.
    s_public: X25519, for masks.
    commitment: The end of a hash chain; empty in the passive protocol.
    signature: Of `keys.advertised_content`; empty in the passive protocol.
  """

  c_public: bytes
  s_public: bytes
  commitment: bytes = b''
  signature: bytes = b''

  def encode(self) -> bytes:
    """Returns the body."""
    return self.c_public + self.s_public + self.commitment + self.signature

  @classmethod
  def decode(cls, body: memoryview, active: bool) -> Advertisement:
    """Returns the message of a body, or raises `MessageError`."""
    reader = _Reader(body)
    sizes = (32, 32, 32, keys.SIGNATURE_BYTES) if active else (32, 32)
    message = cls(*map(reader.take, sizes))
    reader.end()
    return message


@dataclasses.dataclass(frozen=True)
class Roster:
  """Who takes part, and what each has committed to.

  Attributes:
    draw: From 1 to 4.
    members: Ids, ascending.
    commitments: One a member.
  """

  draw: int
  members: tuple[int, ...]
  commitments: tuple[bytes, ...]

  def encode(self) -> bytes:
    """Returns the body."""
    head = struct.pack('<BI', self.draw, len(self.members))
    pairs = zip(self.members, self.commitments, strict=True)
    return head + b''.join(struct.pack('<I', i) + c for i, c in pairs)

  @classmethod
  def decode(cls, body: memoryview) -> Roster:
    """Returns the message of a body, or raises `MessageError`."""
    reader = _Reader(body)
    draw, count = reader.integers('BI')
    if not 1 <= draw <= keys.CHAIN_LENGTH or not count:
      raise errors.MessageError(
        f'A roster must have members and a draw of 1 to {keys.CHAIN_LENGTH}.'
        f' Found {count} members and draw {draw}.'
      )
    table = np.frombuffer(
      reader.take(count * 36), np.dtype([('id', '<u4'), ('commitment', 'V32')])
    )
    reader.end()
    members = tuple(table['id'].tolist())
    _check_ascending(members, 'ids of a roster')
    commitments = tuple(item.tobytes() for item in table['commitment'])
    return cls(draw, members, commitments)


@dataclasses.dataclass(frozen=True)
class Peer:
  """A neighbor, as the server introduces it.

  Attributes:
    position: In the roster.
    id: Its id.
    c_public: X25519, for channels.
    s_public: X25519, for masks.
    signature: Of its advertisement; empty in the passive protocol.
  """

  position: int
  id: int
  c_public: bytes
  s_public: bytes
  signature: bytes = b''


@dataclasses.dataclass(frozen=True)
class Neighbors:
  """The neighborhood of a client.

  Attributes:
    clients: n.
    degree: k.
    threshold: t.
    position: The client's own in the roster.
    peers: Its neighbors, positions and ids ascending.
    preimages: What all members revealed; empty in the passive protocol.
  """

  clients: int
  degree: int
  threshold: int
  position: int
  peers: tuple[Peer, ...]
  preimages: tuple[bytes, ...] = ()

  def encode(self) -> bytes:
    """Returns the body."""
    head = (self.clients, self.degree, self.threshold, self.position)
    parts = [struct.pack('<5I', *head, len(self.peers))]
    for peer in self.peers:
      parts.append(struct.pack('<II', peer.position, peer.id))
      parts += [peer.c_public, peer.s_public, peer.signature]
    return b''.join([*parts, *self.preimages])

  @classmethod
  def decode(cls, body: memoryview, active: bool) -> Neighbors:
    """Returns the message of a body, or raises `MessageError`."""
    reader = _Reader(body)
    clients, degree, threshold, position, count = reader.integers('5I')
    sizes = (32, 32, keys.SIGNATURE_BYTES) if active else (32, 32)
    if count >= max(clients, 1):
      raise errors.MessageError(
        f'A client of {clients} has fewer neighbors. Found {count}.'
      )
    peers = tuple(_read_peer(reader, sizes) for _ in range(count))
    preimages: Sequence[bytes] = ()
    if active:
      data = memoryview(reader.take(clients * keys.DIGEST_BYTES))
      preimages = split(data, clients, keys.DIGEST_BYTES)
    reader.end()
    positions = [peer.position for peer in peers]
    _check_ascending(positions, 'positions of neighbors')
    _check_ascending([peer.id for peer in peers], 'ids of neighbors')
    if position in positions or max([position, *positions]) >= clients:
      raise errors.MessageError(
        f'Positions must be those of {clients} different clients. Found'
        f' {position} and {positions}.'
      )
    return cls(clients, degree, threshold, position, peers, tuple(preimages))


def _read_peer(reader: _Reader, sizes: tuple[int, ...]) -> Peer:
  position, client = reader.integers('II')
  return Peer(position, client, *map(reader.take, sizes))


def _check_ascending(values: Sequence[int], name: str) -> None:
  if any(a >= b for a, b in itertools.pairwise(values)):
    raise errors.MessageError(
      f'The {name} must ascend, none twice. Found {values!r}.'
    )


@dataclasses.dataclass(frozen=True)
class UnmaskRequest:
  """Who survived, and who has confirmed it.

  Attributes:
    survivors: Bitmap over the roster.
    confirmed: In the active protocol, bitmap over the client's neighbors.
    signatures: One for each set bit of `confirmed`.
  """

  survivors: bytes
  confirmed: bytes = b''
  signatures: tuple[bytes, ...] = ()

  def encode(self) -> bytes:
    """Returns the body."""
    return b''.join([self.survivors, self.confirmed, *self.signatures])

  @classmethod
  def decode(
    cls, body: memoryview, clients: int, neighbors: int | None
  ) -> UnmaskRequest:
    """Returns the message of a body, or raises `MessageError`.

    Args:
      body: The bytes.
      clients: n.
      neighbors: How many neighbors the client has; `None` in the passive
        protocol.
    """
    reader = _Reader(body)
    survivors = reader.take(bitmap_bytes(clients))
    confirmed, signatures = b'', []
    if neighbors is not None:
      confirmed = reader.take(bitmap_bytes(neighbors))
      count = sum(unpack_bits(confirmed, neighbors))
      signatures = [reader.take(keys.SIGNATURE_BYTES) for _ in range(count)]
    reader.end()
    return cls(survivors, confirmed, tuple(signatures))
