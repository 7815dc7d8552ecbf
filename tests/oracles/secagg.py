# SPDX-License-Identifier: Apache-2.0
"""docs/protocol.md, version 1, once more and slowly: its bytes and arithmetic.

Written from that page alone, one function for each of its paragraphs, with
Python's integers and lists. X25519, Ed25519, HKDF and AES are those of
`cryptography`. The parties are in `secagg_session`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import hashlib
import itertools
import math
import struct
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

VERSION = 1
LABEL = b'tff-secagg-ext/1 '
PRIME = 2**32 - 5
TAGS = 64
DRAWS = 4
ALL_ZERO = bytes(32)

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

# `Fields` are the contents of a message: integers, bytes, lists of them.
Fields = dict[str, Any]


class Refused(Exception):
  """What somebody was sent is not what an honest party sends; `reason`."""

  def __init__(self, reason: str):
    super().__init__(reason)
    self.reason = reason


def demand(condition: bool, reason: str) -> None:
  if not condition:
    raise Refused(reason)


class Vector(NamedTuple):
  name: str
  length: int
  modulus: int


class Setup(NamedTuple):
  session: bytes
  round: int
  threat: int  # 0 curious, 1 semi-malicious, 2 malicious
  verify: bool
  gamma: float
  delta: float
  neighbors: int
  threshold: int
  min_survivors: int
  vectors: tuple[Vector, ...]

  @property
  def active(self) -> bool:
    return self.threat != 0

  @property
  def body(self) -> bytes:
    return encode_setup(self._asdict())

  @property
  def digest(self) -> bytes:
    return sha256(LABEL + b'setup' + self.body)

  @property
  def wire_vectors(self) -> list[tuple[int, int]]:
    """(length, modulus) of what is masked and sent: tags are included."""
    tags = TAGS if self.verify else 0
    return [(vector.length + tags, vector.modulus) for vector in self.vectors]


class Shape(NamedTuple):
  """What a message's length depends on, besides itself."""

  active: bool
  vectors: Sequence[tuple[int, int]] = ()  # lengths, tags included; moduli
  roster: int = 0  # its members
  neighbors: int = 0  # of the client, in the graph
  shared: int = 0  # of these, how many are in U2


def sha256(data: bytes) -> bytes:
  return hashlib.sha256(data).digest()


def u8(value: int) -> bytes:
  return struct.pack('<B', value)


def u32(value: int) -> bytes:
  return struct.pack('<I', value)


def u64(value: int) -> bytes:
  return struct.pack('<Q', value)


def bits_of(modulus: int) -> int:
  """ceil(log2 m), for m >= 2."""
  return (modulus - 1).bit_length()


class Reader:
  """Takes a body apart from the left; `end` wants nothing left over."""

  def __init__(self, data: bytes):
    self.data = data

  def take(self, size: int) -> bytes:
    demand(len(self.data) >= size, 'length')
    taken, self.data = self.data[:size], self.data[size:]
    return taken

  def integer(self, size: int) -> int:
    return int.from_bytes(self.take(size), 'little')

  def double(self) -> float:
    return struct.unpack('<d', self.take(8))[0]

  def bitmap(self, size: int) -> list[int]:
    bits = self.take((size + 7) // 8)
    word = int.from_bytes(bits, 'little')
    demand(word >> size == 0, 'padding')
    return [i for i in range(size) if word >> i & 1]

  def end(self) -> None:
    demand(not self.data, 'length')


def bitmap(positions: Sequence[int], size: int) -> bytes:
  word = sum(1 << position for position in positions)
  return word.to_bytes((size + 7) // 8, 'little')


def planes(modulus: int) -> list[int]:
  """The widths of the planes: the bits of b, the largest first."""
  return [2**j for j in range(6, -1, -1) if bits_of(modulus) & 2**j]


def plane_bytes(width: int, length: int) -> int:
  return (width * length + 7) // 8


def pack(values: Sequence[int], modulus: int) -> bytes:
  """Each plane is one large integer, its first coordinate lowest."""
  packed, low = b'', 0
  for width in planes(modulus):
    word = 0
    for i, value in enumerate(values):
      word |= (value >> low) % 2**width << (width * i)
    packed += word.to_bytes(plane_bytes(width, len(values)), 'little')
    low += width
  return packed


def unpack(reader: Reader, length: int, modulus: int) -> list[int]:
  values, low = [0] * length, 0
  for width in planes(modulus):
    word = reader.integer(plane_bytes(width, length))
    demand(word >> (width * length) == 0, 'padding')
    for i in range(length):
      values[i] |= (word >> (width * i)) % 2**width << low
    low += width
  demand(all(value < modulus for value in values), 'range')
  return values


def is_canonical(public: bytes) -> bool:
  return int.from_bytes(public, 'little') < 2**255 - 19


def public_x25519(private: bytes) -> bytes:
  key = x25519.X25519PrivateKey.from_private_bytes(private)
  return key.public_key().public_bytes_raw()


def agree(private: bytes, public: bytes) -> bytes:
  key = x25519.X25519PrivateKey.from_private_bytes(private)
  try:
    return key.exchange(x25519.X25519PublicKey.from_public_bytes(public))
  except ValueError as error:
    raise Refused('key') from error


def public_ed25519(private: bytes) -> bytes:
  key = ed25519.Ed25519PrivateKey.from_private_bytes(private)
  return key.public_key().public_bytes_raw()


def sign(private: bytes, text: bytes) -> bytes:
  return ed25519.Ed25519PrivateKey.from_private_bytes(private).sign(text)


def check_signature(public: bytes, signature: bytes, text: bytes) -> None:
  key = ed25519.Ed25519PublicKey.from_public_bytes(public)
  try:
    key.verify(signature, text)
  except InvalidSignature as error:
    raise Refused('signature') from error


def keys_text(
  digest: bytes, client: int, c_public: bytes, s_public: bytes, chain_end: bytes
) -> bytes:
  """What a client signs of its keys, with its commitment."""
  return (
    LABEL + b'keys' + digest + u32(client) + c_public + s_public + chain_end
  )


def survivors_text(
  digest: bytes, seed: bytes, survivors: Sequence[int], roster: int
) -> bytes:
  return LABEL + b'survivors' + digest + seed + bitmap(survivors, roster)


class Role(NamedTuple):
  """All that a derived key is bound to, besides its secret."""

  role: str
  a: int
  b: int
  name: str = ''


def derive(secret: bytes, digest: bytes, role: Role) -> bytes:
  info = LABEL + role.role.encode() + b'\0' + u32(role.a) + u32(role.b)
  info += role.name.encode()
  return HKDF(SHA256(), 32, salt=digest, info=info).derive(secret)


def seal(key: bytes, b_share: bytes, s_share: bytes) -> bytes:
  return AESGCM(key).encrypt(bytes(12), b_share + s_share, None)


def unseal(key: bytes, ciphertext: bytes) -> tuple[bytes, bytes]:
  try:
    plain = AESGCM(key).decrypt(bytes(12), ciphertext, None)
  except InvalidTag as error:
    raise Refused('share') from error
  demand(len(plain) == 64, 'share')
  shares = plain[:32], plain[32:]
  demand(all(is_shareable(share) for share in shares), 'share')
  return shares


def hash_chain(x: bytes, element: int) -> bytes:
  """Element 1 is SHA-256(x); element 0 is x itself."""
  for _ in range(element):
    x = sha256(x)
  return x


def keystream(key: bytes) -> Iterator[int]:
  """The bytes of AES-256-CTR from a counter block of zero, one by one."""
  encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
  while True:
    yield from encryptor.update(bytes(16))


def words(key: bytes, size: int) -> Iterator[int]:
  stream = keystream(key)
  while True:
    yield int.from_bytes(bytes(itertools.islice(stream, size)), 'little')


def mask(key: bytes, length: int, modulus: int) -> list[int]:
  """If m = 2^b no word is skipped, so that one rule does for every m."""
  bits = bits_of(modulus)
  size = next(size for size in (1, 2, 4, 8) if 8 * size >= bits)
  low = (word % 2**bits for word in words(key, size))
  return list(itertools.islice((w for w in low if w < modulus), length))


def secret_words(secret: bytes) -> list[int]:
  return list(struct.unpack('<8I', secret))


def is_shareable(secret: bytes) -> bool:
  return all(word < PRIME for word in secret_words(secret))


def share(
  secret: bytes, coefficients: Sequence[Sequence[int]], number: int
) -> bytes:
  """The share of neighbor `number`, from 1.

  Args:
    secret: 32 bytes, shareable.
    coefficients: For each of the eight words its polynomial's coefficients of
      degree 1, 2, ..., t - 1.
    number: The point.
  """
  values = [
    (word + sum(c * number**d for d, c in enumerate(polynomial, 1))) % PRIME
    for word, polynomial in zip(secret_words(secret), coefficients, strict=True)
  ]
  return struct.pack('<8I', *values)


def rebuild(shares: Mapping[int, bytes], threshold: int) -> bytes:
  """The secret, by Lagrange's formula at 0, of the t lowest numbers."""
  numbers = sorted(shares)[:threshold]
  assert len(numbers) == threshold
  total = [0] * 8
  for i in numbers:
    others = [j for j in numbers if j != i]
    above = math.prod(-j for j in others)
    below = math.prod(i - j for j in others)
    weight = above * pow(below, -1, PRIME)
    for w, value in enumerate(secret_words(shares[i])):
      total[w] += weight * value
  return struct.pack('<8I', *[word % PRIME for word in total])


def graph_seed(
  digest: bytes, roster_body: bytes, preimages: Sequence[bytes]
) -> bytes:
  return sha256(LABEL + b'graph' + digest + roster_body + b''.join(preimages))


def graph(seed: bytes, n: int, k: int) -> list[list[int]]:
  """The ascending positions of the neighbors of each position."""
  if k >= n - 1:
    return [[j for j in range(n) if j != i] for i in range(n)]
  stream = words(seed, 8)
  draws = [(next(stream), next(stream), i) for i in range(n)]
  circle = [i for _, _, i in sorted(draws)]
  place = {i: at for at, i in enumerate(circle)}
  steps = [step for step in range(-(k // 2), k // 2 + 1) if step]
  return [
    sorted(circle[(place[i] + step) % n] for step in steps) for i in range(n)
  ]


def tag_key(key: bytes, setup: Setup, name: str) -> bytes:
  low, high = setup.round % 2**32, setup.round >> 32
  return derive(key, setup.digest, Role('tag', low, high, name))


def tags(key: bytes, values: Sequence[int], modulus: int) -> list[int]:
  """A x modulo m for the `tag` key of x's vector."""
  stream = itertools.islice(keystream(key), (len(values) + TAGS + 7) // 8)
  bits = [byte >> i & 1 for byte in stream for i in range(8)]
  return [
    sum(x for j, x in enumerate(values) if bits[r + j]) % modulus
    for r in range(TAGS)
  ]


def pad(key: bytes, setup: Setup, vector: Vector, client: int) -> list[int]:
  role = Role('pad', client, client, vector.name)
  return mask(derive(key, setup.digest, role), TAGS, vector.modulus)


def tagged(
  key: bytes, setup: Setup, vector: Vector, client: int, values: Sequence[int]
) -> list[int]:
  """A vector x, and behind it its tag A x + pad_i."""
  m = vector.modulus
  linear = tags(tag_key(key, setup, vector.name), values, m)
  pads = pad(key, setup, vector, client)
  return [*values, *add(linear, pads, m)]


def sum_is_right(
  key: bytes,
  setup: Setup,
  vector: Vector,
  survivors: Sequence[int],
  total: Sequence[int],
) -> bool:
  """Whether T = A S + the pads of the survivors (ids)."""
  m = vector.modulus
  values, found = total[: vector.length], list(total[vector.length :])
  expected = tags(tag_key(key, setup, vector.name), values, m)
  for client in survivors:
    expected = add(expected, pad(key, setup, vector, client), m)
  return found == expected


def add(
  x: Sequence[int], y: Sequence[int], modulus: int, sign: int = 1
) -> list[int]:
  return [(a + sign * b) % modulus for a, b in zip(x, y, strict=True)]


def frame(kind: int, body: bytes, binding: bytes, client: int) -> bytes:
  """A message; `binding` is the setup digest, or zeros for `SETUP`."""
  text = LABEL + b'message' + u8(kind) + binding + u32(client) + body
  return u8(VERSION) + u8(kind) + sha256(text)[:16] + body


def unframe(kind: int, message: bytes, binding: bytes, client: int) -> bytes:
  demand(len(message) >= 18, 'length')
  demand(message[0] == VERSION, 'version')
  demand(message[1] == kind, 'type')
  body = message[18:]
  demand(message == frame(kind, body, binding, client), 'checksum')
  return body


def encode_setup(fields: Fields) -> bytes:
  body = fields['session'] + u64(fields['round'])
  body += u8(fields['threat']) + u8(fields['verify'])
  body += struct.pack('<dd', fields['gamma'], fields['delta'])
  body += u32(fields['neighbors']) + u32(fields['threshold'])
  body += u32(fields['min_survivors']) + u32(len(fields['vectors']))
  for name, length, modulus in fields['vectors']:
    encoded = name.encode()
    body += u8(len(encoded)) + encoded + u32(length) + u64(modulus)
  return body


def decode_setup(body: bytes) -> Setup:
  reader = Reader(body)
  setup = Setup(
    session=reader.take(32),
    round=reader.integer(8),
    threat=reader.integer(1),
    verify=reader.integer(1),
    gamma=reader.double(),
    delta=reader.double(),
    neighbors=reader.integer(4),
    threshold=reader.integer(4),
    min_survivors=reader.integer(4),
    vectors=tuple(_decode_vector(reader) for _ in range(reader.integer(4))),
  )
  reader.end()
  _check_setup(setup)
  return setup._replace(verify=bool(setup.verify))


def _decode_vector(reader: Reader) -> Vector:
  try:
    name = reader.take(reader.integer(1)).decode()
  except UnicodeDecodeError as error:
    raise Refused('value') from error
  vector = Vector(name, reader.integer(4), reader.integer(8))
  demand(vector.length <= 2**31 and 2 <= vector.modulus <= 2**62, 'value')
  return vector


def _check_setup(setup: Setup) -> None:
  demand(setup.threat <= 2 and setup.verify <= 1, 'value')
  demand(0 <= setup.gamma < 1 and 0 <= setup.delta < 1, 'value')
  demand(setup.threshold <= setup.neighbors, 'value')
  demand((setup.threshold == 0) == (setup.neighbors == 0), 'value')
  demand(setup.min_survivors >= 1 and len(setup.vectors) >= 1, 'value')
  names = {vector.name for vector in setup.vectors}
  demand(len(names) == len(setup.vectors), 'value')
  demand(setup.active or not setup.verify, 'value')


def encode(kind: int, fields: Fields, shape: Shape) -> bytes:
  """The body of any message but `SETUP`."""
  return _ENCODERS[kind](fields, shape)


def decode(kind: int, body: bytes, shape: Shape) -> Fields:
  """The contents of any body but that of `SETUP`; raises `Refused`."""
  reader = Reader(body)
  fields = _DECODERS[kind](reader, shape)
  reader.end()
  return fields


def _encode_advertisement(fields: Fields, shape: Shape) -> bytes:
  body = fields['c_public'] + fields['s_public']
  if shape.active:
    body += fields['commitment'] + fields['signature']
  return body


def _decode_advertisement(reader: Reader, shape: Shape) -> Fields:
  fields = {'c_public': reader.take(32), 's_public': reader.take(32)}
  if shape.active:
    fields |= {'commitment': reader.take(32), 'signature': reader.take(64)}
  return fields


def _encode_roster(fields: Fields, shape: Shape) -> bytes:
  del shape
  body = u8(fields['draw']) + u32(len(fields['members']))
  for client, commitment in fields['members']:
    body += u32(client) + commitment
  return body


def _decode_roster(reader: Reader, shape: Shape) -> Fields:
  del shape
  draw = reader.integer(1)
  members = [
    (reader.integer(4), reader.take(32)) for _ in range(reader.integer(4))
  ]
  demand(1 <= draw <= DRAWS and len(members) >= 1, 'value')
  demand(_ascends([client for client, _ in members]), 'order')
  return {'draw': draw, 'members': members}


def _encode_neighbors(fields: Fields, shape: Shape) -> bytes:
  body = b''.join(u32(fields[name]) for name in ('n', 'k', 't', 'position'))
  body += u32(len(fields['neighbors']))
  for peer in fields['neighbors']:
    body += u32(peer['position']) + u32(peer['id'])
    body += peer['c_public'] + peer['s_public']
    if shape.active:
      body += peer['signature']
  if shape.active:
    body += b''.join(fields['preimages'])
  return body


def _decode_neighbors(reader: Reader, shape: Shape) -> Fields:
  n, k, t, position, count = (reader.integer(4) for _ in range(5))
  fields = {'n': n, 'k': k, 't': t, 'position': position}
  peers = [_decode_neighbor(reader, shape) for _ in range(count)]
  if shape.active:
    fields['preimages'] = [reader.take(32) for _ in range(n)]
  positions = [peer['position'] for peer in peers]
  demand(position < n and all(p < n for p in positions), 'value')
  demand(position not in positions, 'value')
  demand(_ascends(positions), 'order')
  demand(_ascends([peer['id'] for peer in peers]), 'order')
  return fields | {'neighbors': peers}


def _decode_neighbor(reader: Reader, shape: Shape) -> Fields:
  peer = {'position': reader.integer(4), 'id': reader.integer(4)}
  peer |= {'c_public': reader.take(32), 's_public': reader.take(32)}
  if shape.active:
    peer['signature'] = reader.take(64)
  return peer


def _encode_delivery(fields: Fields, shape: Shape) -> bytes:
  body = bitmap(fields['shared'], shape.neighbors)
  return body + b''.join(fields['ciphertexts'])


def _decode_delivery(reader: Reader, shape: Shape) -> Fields:
  shared = reader.bitmap(shape.neighbors)
  ciphertexts = [reader.take(80) for _ in shared]
  return {'shared': shared, 'ciphertexts': ciphertexts}


def _encode_vectors(fields: Fields, shape: Shape) -> bytes:
  return b''.join(
    pack(values, modulus)
    for values, (_, modulus) in zip(
      fields['vectors'], shape.vectors, strict=True
    )
  )


def _decode_vectors(reader: Reader, shape: Shape) -> Fields:
  return {'vectors': [unpack(reader, *vector) for vector in shape.vectors]}


def _encode_request(fields: Fields, shape: Shape) -> bytes:
  body = bitmap(fields['survivors'], shape.roster)
  if shape.active:
    body += bitmap(fields['confirmed'], shape.neighbors)
    body += b''.join(fields['signatures'])
  return body


def _decode_request(reader: Reader, shape: Shape) -> Fields:
  fields: Fields = {'survivors': reader.bitmap(shape.roster)}
  if shape.active:
    fields['confirmed'] = reader.bitmap(shape.neighbors)
    fields['signatures'] = [reader.take(64) for _ in fields['confirmed']]
  return fields


def _decode_unmask_shares(reader: Reader, shape: Shape) -> Fields:
  shares = [reader.take(32) for _ in range(shape.shared)]
  demand(all(is_shareable(share) for share in shares), 'range')
  return {'shares': shares}


def _ascends(numbers: Sequence[int]) -> bool:
  return all(a < b for a, b in itertools.pairwise(numbers))


_ENCODERS: dict[int, Callable[[Fields, Shape], bytes]] = {
  ADVERTISEMENT: _encode_advertisement,
  ROSTER: _encode_roster,
  REVEAL: lambda fields, shape: fields['preimage'],
  NEIGHBORS: _encode_neighbors,
  SHARES: lambda fields, shape: b''.join(fields['ciphertexts']),
  DELIVERY: _encode_delivery,
  MASKED_INPUT: _encode_vectors,
  SURVIVORS: lambda fields, shape: bitmap(fields['survivors'], shape.roster),
  CONFIRMATION: lambda fields, shape: fields['signature'],
  UNMASK_REQUEST: _encode_request,
  UNMASK_SHARES: lambda fields, shape: b''.join(fields['shares']),
  RESULT: _encode_vectors,
  VERDICT: lambda fields, shape: fields['digest'],
}

_DECODERS: dict[int, Callable[[Reader, Shape], Fields]] = {
  ADVERTISEMENT: _decode_advertisement,
  ROSTER: _decode_roster,
  REVEAL: lambda reader, shape: {'preimage': reader.take(32)},
  NEIGHBORS: _decode_neighbors,
  SHARES: lambda reader, shape: {
    'ciphertexts': [reader.take(80) for _ in range(shape.neighbors)]
  },
  DELIVERY: _decode_delivery,
  MASKED_INPUT: _decode_vectors,
  SURVIVORS: lambda reader, shape: {'survivors': reader.bitmap(shape.roster)},
  CONFIRMATION: lambda reader, shape: {'signature': reader.take(64)},
  UNMASK_REQUEST: _decode_request,
  UNMASK_SHARES: _decode_unmask_shares,
  RESULT: _decode_vectors,
  VERDICT: lambda reader, shape: {'digest': reader.take(32)},
}
