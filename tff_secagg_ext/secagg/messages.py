# SPDX-License-Identifier: Apache-2.0
"""The messages of the protocol, and their one byte codec of version 1.

Guarantees:

- each message has exactly one encoding: trailing bytes, wrong lengths, bits of
  padding that are set, and lists out of order are errors;
- a message that was cut, altered, meant for somebody else, or belongs to
  another session or step is a `MessageError`, never a wrong message.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import itertools
import struct

from tff_secagg_ext._dropout_noise import MECHANISMS, DropoutNoise
from tff_secagg_ext.secagg import codec, errors, keys
from tff_secagg_ext.secagg.setup import (
  SESSION_BYTES,
  THREAT_CLASSES,
  PlacedNoise,
  Security,
  Setup,
  VectorSpec,
)

# Vector, first coordinate, how many; law, share's stddev; n, T, c.
_NOISE = '<IIIBdIII'


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
  if setup.noises:
    parts.append(struct.pack('<I', len(setup.noises)))
    for index, spec in enumerate(setup.vectors):
      parts += [_write_noise(index, placed) for placed in spec.noise]
  return b''.join(parts)


def _write_noise(vector: int, placed: PlacedNoise) -> bytes:
  noise = placed.noise
  return struct.pack(
    _NOISE,
    vector,
    placed.start,
    noise.dimension,
    MECHANISMS.index(noise.mechanism),
    noise.share_stddev,
    noise.clients,
    noise.dropouts,
    noise.colluders,
  )


def decode_setup(body: memoryview) -> Setup:
  """Returns the Setup of a body.

  Raises:
    MessageError: If it is not the encoding of a valid one.
  """
  reader = codec.Reader(body)
  session = reader.take(SESSION_BYTES)
  number, threat, verify = reader.numbers('QBB')
  corrupt, dropout = reader.numbers('dd')
  neighbors, threshold, min_survivors, count = reader.numbers('IIII')
  try:
    vectors = tuple(_read_vector(reader) for _ in range(count))
    if reader.left:
      vectors = _with_noise(reader, vectors)
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
  except (IndexError, ValueError) as error:
    raise errors.MessageError(f'A setup is not valid. {error}') from error


def _read_vector(reader: codec.Reader) -> VectorSpec:
  name = reader.take(reader.numbers('B')[0]).decode()
  length, modulus = reader.numbers('IQ')
  return VectorSpec(name, length, modulus)


def _with_noise(
  reader: codec.Reader, vectors: Sequence[VectorSpec]
) -> tuple[VectorSpec, ...]:
  """Returns the vectors with their noise, which must be in their order."""
  (count,) = reader.numbers('I')
  order, noised = [], list(vectors)
  for _ in range(count):
    index, start, dimension, law, stddev, *cohort = reader.numbers(_NOISE[1:])
    spec = noised[index]
    placed = PlacedNoise(
      start,
      DropoutNoise(MECHANISMS[law], stddev, dimension, spec.modulus, *cohort),
    )
    noised[index] = dataclasses.replace(spec, noise=(*spec.noise, placed))
    order.append(index)
  if not order or order != sorted(order):
    raise ValueError(f'Noise must be in the order of vectors. Found {order}.')
  return tuple(noised)


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
    reader = codec.Reader(body)
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
    reader = codec.Reader(body)
    draw, count = reader.numbers('BI')
    if not 1 <= draw <= keys.CHAIN_LENGTH or not count:
      raise errors.MessageError(
        f'A roster must have members and a draw of 1 to {keys.CHAIN_LENGTH}.'
        f' Found {count} members and draw {draw}.'
      )
    pairs = struct.iter_unpack('<I32s', reader.take(count * 36))
    reader.end()
    members, commitments = zip(*pairs, strict=True)
    _check_ascending(members, 'ids of a roster')
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

  def encode(self) -> bytes:
    """Returns its part of the body of a Neighbors."""
    head = struct.pack('<II', self.position, self.id)
    return head + self.c_public + self.s_public + self.signature


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
    peers = [peer.encode() for peer in self.peers]
    return encode_neighbors(head, peers, b''.join(self.preimages))

  @classmethod
  def decode(cls, body: memoryview, active: bool) -> Neighbors:
    """Returns the message of a body, or raises `MessageError`."""
    reader = codec.Reader(body)
    clients, degree, threshold, position, count = reader.numbers('5I')
    if count >= max(clients, 1):
      raise errors.MessageError(
        f'A client of {clients} has fewer neighbors. Found {count}.'
      )
    layout = struct.Struct('<II32s32s64s' if active else '<II32s32s')
    data = reader.take(count * layout.size)
    peers = tuple(Peer(*fields) for fields in layout.iter_unpack(data))
    preimages: Sequence[bytes] = ()
    if active:
      data = reader.take(clients * keys.DIGEST_BYTES)
      preimages = codec.split(data, clients, keys.DIGEST_BYTES)
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


def encode_neighbors(
  head: tuple[int, int, int, int], peers: Sequence[bytes], preimages: bytes
) -> bytes:
  """Returns the body of a Neighbors of parts that are encoded.

  Args:
    head: n, k, t, and the client's own position.
    peers: See `Peer.encode`.
    preimages: All of them.
  """
  return b''.join([struct.pack('<5I', *head, len(peers)), *peers, preimages])


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
    reader = codec.Reader(body)
    survivors = reader.take(codec.bitmap_bytes(clients))
    codec.unpack_bits(survivors, clients)
    confirmed, signatures = b'', []
    if neighbors is not None:
      confirmed = reader.take(codec.bitmap_bytes(neighbors))
      count = sum(codec.unpack_bits(confirmed, neighbors))
      signatures = [reader.take(keys.SIGNATURE_BYTES) for _ in range(count)]
    reader.end()
    return cls(survivors, confirmed, tuple(signatures))
