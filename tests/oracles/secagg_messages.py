# SPDX-License-Identifier: Apache-2.0
"""Messages of every type, and messages that nobody may accept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import hashlib
import struct
from typing import Any

from tests.oracles import secagg, secagg_session

NAMES = {
  secagg.SETUP: 'Setup',
  secagg.ADVERTISEMENT: 'Advertisement',
  secagg.ROSTER: 'Roster',
  secagg.REVEAL: 'Reveal',
  secagg.NEIGHBORS: 'Neighbors',
  secagg.SHARES: 'Shares',
  secagg.DELIVERY: 'Delivery',
  secagg.MASKED_INPUT: 'MaskedInput',
  secagg.SURVIVORS: 'Survivors',
  secagg.CONFIRMATION: 'Confirmation',
  secagg.UNMASK_REQUEST: 'UnmaskRequest',
  secagg.UNMASK_SHARES: 'UnmaskShares',
  secagg.RESULT: 'Result',
  secagg.VERDICT: 'Verdict',
}


class Stream:
  """Bytes and numbers that a name stands for."""

  def __init__(self, name: str):
    self.bytes = secagg.keystream(hashlib.sha256(name.encode()).digest())

  def __call__(self, size: int) -> bytes:
    return bytes(next(self.bytes) for _ in range(size))

  def below(self, bound: int) -> int:
    return int.from_bytes(self(16), 'little') % bound

  def vector(self, length: int, modulus: int) -> list[int]:
    return [self.below(modulus) for _ in range(length)]

  def ids(self, count: int) -> list[int]:
    drawn: set[int] = set()
    while len(drawn) < count:
      drawn.add(self.below(2**32))
    return sorted(drawn)


VECTORS = (
  secagg.Vector('update', 7, 2**20),
  secagg.Vector('größe', 5, 2**20 - 1),
  secagg.Vector('empty', 0, 2),
  secagg.Vector('trits', 3, 3),
)


def make_setup(stream: Stream, threat: int, **changes: Any) -> secagg.Setup:
  setup = secagg.Setup(
    session=stream(32),
    round=stream.below(2**64),
    threat=threat,
    verify=threat == 2,
    gamma=0.05,
    delta=0.1,
    neighbors=4,
    threshold=3,
    min_survivors=2,
    vectors=VECTORS,
  )
  return setup._replace(**changes)


class Examples:
  """One message of every type, of one setup."""

  def __init__(self, name: str, threat: int):
    stream = self.stream = Stream(name)
    self.setup = make_setup(stream, threat, neighbors=6, threshold=4)
    self.client = stream.below(2**32)
    self.shape = secagg.Shape(
      threat != 0, self.setup.wire_vectors, roster=11, neighbors=6, shared=3
    )
    fields: dict[int, Callable[[], secagg.Fields]] = {
      secagg.ADVERTISEMENT: self._advertisement,
      secagg.ROSTER: lambda: {'draw': 3, 'members': self._members()},
      secagg.REVEAL: lambda: {'preimage': stream(32)},
      secagg.NEIGHBORS: self._neighbors,
      secagg.SHARES: lambda: {'ciphertexts': [stream(80) for _ in range(6)]},
      secagg.DELIVERY: lambda: {
        'shared': [0, 2, 4],
        'ciphertexts': [stream(80) for _ in range(3)],
      },
      secagg.MASKED_INPUT: self._vectors,
      secagg.SURVIVORS: lambda: {'survivors': [0, 1, 4, 7, 8, 10]},
      secagg.CONFIRMATION: lambda: {'signature': stream(64)},
      secagg.UNMASK_REQUEST: self._request,
      secagg.UNMASK_SHARES: lambda: {
        'shares': [secagg_session.draw_shareable(stream) for _ in range(3)]
      },
      secagg.RESULT: self._vectors,
      secagg.VERDICT: lambda: {'digest': stream(32)},
    }
    only_active = secagg.ROSTER, secagg.REVEAL, secagg.SURVIVORS
    only_active += (secagg.CONFIRMATION,)
    only_verified = secagg.RESULT, secagg.VERDICT
    self.fields = {
      kind: make()
      for kind, make in fields.items()
      if (self.setup.active or kind not in only_active)
      and (self.setup.verify or kind not in only_verified)
    }

  def body(self, kind: int) -> bytes:
    if kind == secagg.SETUP:
      return self.setup.body
    return secagg.encode(kind, self.fields[kind], self.shape)

  def binding(self, kind: int) -> bytes:
    return secagg.ALL_ZERO if kind == secagg.SETUP else self.setup.digest

  def frame(self, kind: int, body: bytes) -> bytes:
    return secagg.frame(kind, body, self.binding(kind), self.client)

  def message(self, kind: int, **changes: Any) -> bytes:
    """The example's message, or one with other contents."""
    if kind == secagg.SETUP:
      fields = self.setup._asdict() | changes
      return self.frame(kind, secagg.encode_setup(fields))
    fields = self.fields[kind] | changes
    return self.frame(kind, secagg.encode(kind, fields, self.shape))

  def kinds(self) -> list[int]:
    return [secagg.SETUP, *self.fields]

  def head(self) -> dict[str, Any]:
    return {
      'setup': self.setup._asdict(),
      'setup_digest': self.setup.digest,
      'client': self.client,
      'shape': self.shape._asdict(),
    }

  def _advertisement(self) -> secagg.Fields:
    fields = {'c_public': self.stream(32), 's_public': self.stream(32)}
    if self.setup.active:
      fields |= {'commitment': self.stream(32), 'signature': self.stream(64)}
    return fields

  def _members(self) -> list[tuple[int, bytes]]:
    return [(i, self.stream(32)) for i in self.stream.ids(self.shape.roster)]

  def _neighbors(self) -> secagg.Fields:
    ids = self.stream.ids(6)
    peers = []
    for position, client in zip((0, 1, 3, 5, 9, 10), ids, strict=True):
      peer = {'position': position, 'id': client}
      peer |= {'c_public': self.stream(32), 's_public': self.stream(32)}
      if self.setup.active:
        peer['signature'] = self.stream(64)
      peers.append(peer)
    fields = {'n': 11, 'k': 6, 't': 4, 'position': 4, 'neighbors': peers}
    if self.setup.active:
      fields['preimages'] = [self.stream(32) for _ in range(11)]
    return fields

  def _vectors(self) -> secagg.Fields:
    return {
      'vectors': [self.stream.vector(*vector) for vector in self.shape.vectors]
    }

  def _request(self) -> secagg.Fields:
    fields: secagg.Fields = {'survivors': [2, 3, 4, 9, 10]}
    if self.setup.active:
      fields['confirmed'] = [0, 3, 4]
      fields['signatures'] = [self.stream(64) for _ in range(3)]
    return fields


def all_examples() -> dict[str, Examples]:
  return {
    'curious': Examples('curious', 0),
    'malicious': Examples('malicious', 2),
  }


def reason_of(kind: int, message: bytes, examples: Examples) -> str:
  """Why the oracle refuses the message."""
  binding = examples.binding(kind)
  try:
    body = secagg.unframe(kind, message, binding, examples.client)
    if kind == secagg.SETUP:
      secagg.decode_setup(body)
    else:
      secagg.decode(kind, body, examples.shape)
  except secagg.Refused as refused:
    return refused.reason
  raise AssertionError(f'accepted: {NAMES[kind]} {message.hex()}')


def refused_messages(examples: Examples) -> Iterator[tuple[int, str, bytes]]:
  for kind in examples.kinds():
    for what, message in _damaged(examples, kind):
      yield kind, what, message
  for kind, what, message in _unreasonable_setups(examples):
    yield kind, what, message
  yield from _unreasonable(examples)
  if examples.setup.active:
    yield from _unreasonable_active(examples)


def _damaged(examples: Examples, kind: int) -> Iterator[tuple[str, bytes]]:
  """What accidents and a misdelivery make of a message of any type."""
  good, body = examples.message(kind), examples.body(kind)
  yield 'empty', b''
  yield 'no more than half of a header', good[:9]
  yield 'a header alone', good[:18]
  yield 'the last byte cut', good[:-1]
  yield 'a zero byte behind', good + b'\0'
  for what, at in (('checksum', 5), ('first', 18), ('last', len(good) - 1)):
    flipped = bytearray(good)
    flipped[at] ^= 0x10
    yield f'a bit flipped in the {what} byte', bytes(flipped)
  yield 'version 0', b'\0' + good[1:]
  yield 'version 2', b'\2' + good[1:]
  other = kind % len(NAMES) + 1
  yield 'another type', examples.frame(other, body)
  yield 'the type byte altered', good[:1] + bytes([other]) + good[2:]
  client = (examples.client + 1) % 2**32
  binding = examples.binding(kind)
  yield "another client's", secagg.frame(kind, body, binding, client)
  another = secagg.sha256(binding)
  message = secagg.frame(kind, body, another, examples.client)
  yield "another session's", message
  yield 'a body without its last byte', examples.frame(kind, body[:-1])
  yield 'a body with a zero byte behind', examples.frame(kind, body + b'\0')
  yield 'an empty body', examples.frame(kind, b'')


def _unreasonable_setups(
  examples: Examples,
) -> Iterator[tuple[int, str, bytes]]:
  vector = secagg.Vector
  for what, changes in (
    ('class 3', {'threat': 3}),
    ('verify 2', {'verify': 2}),
    ('gamma is NaN', {'gamma': float('nan')}),
    ('gamma is infinite', {'gamma': float('inf')}),
    ('gamma is 1', {'gamma': 1.0}),
    ('gamma is negative', {'gamma': -0.1}),
    ('delta is NaN', {'delta': float('nan')}),
    ('delta is 1', {'delta': 1.0}),
    ('neighbors without a threshold', {'threshold': 0}),
    ('a threshold without neighbors', {'neighbors': 0}),
    ('a threshold above the neighbors', {'threshold': 7}),
    ('no smallest cohort', {'min_survivors': 0}),
    ('no vector', {'vectors': ()}),
    ('a name twice', {'vectors': (vector('a', 1, 4), vector('a', 1, 4))}),
    ('modulus 0', {'vectors': (vector('a', 1, 0),)}),
    ('modulus 1', {'vectors': (vector('a', 1, 1),)}),
    ('modulus above 2^62', {'vectors': (vector('a', 1, 2**62 + 1),)}),
    ('length above 2^31', {'vectors': (vector('a', 2**31 + 1, 2),)}),
  ):
    yield secagg.SETUP, what, examples.message(secagg.SETUP, **changes)
  body = examples.body(secagg.SETUP)
  name = examples.setup.vectors[0].name.encode()
  broken = body.replace(name, b'\xff' * len(name))
  yield (
    secagg.SETUP,
    'a name that is not UTF-8',
    examples.frame(secagg.SETUP, broken),
  )
  if not examples.setup.active:
    message = examples.message(secagg.SETUP, verify=True)
    yield secagg.SETUP, 'verify in the curious class', message


def _unreasonable(examples: Examples) -> Iterator[tuple[int, str, bytes]]:
  """Whole messages, with a right checksum, of what nobody honest sends."""
  kind = secagg.NEIGHBORS
  peers = examples.fields[kind]['neighbors']
  for what, changes in (
    ('own position beyond the roster', {'position': 11}),
    ('own position among the neighbors', {'position': 5}),
    ('neighbors in another order', {'neighbors': peers[::-1]}),
    ('a neighbor twice', {'neighbors': [*peers[:5], peers[4]]}),
    (
      'positions that do not ascend',
      {'neighbors': [peers[0] | {'position': 2}, *peers[1:]]},
    ),
    (
      'ids that do not ascend',
      {'neighbors': [*peers[:5], peers[5] | {'id': peers[4]['id']}]},
    ),
    (
      'a neighbor beyond the roster',
      {'neighbors': [*peers[:5], peers[5] | {'position': 11}]},
    ),
  ):
    yield kind, what, examples.message(kind, **changes)
  body = bytearray(examples.body(kind))
  body[16] = 7
  yield kind, 'a count above the neighbors', examples.frame(kind, bytes(body))
  yield from _wrong_bitmap(examples, secagg.DELIVERY, 0, 6)
  message = examples.message(secagg.DELIVERY, shared=[0, 1, 2, 4])
  yield secagg.DELIVERY, 'a bit without a ciphertext', message
  message = examples.message(secagg.DELIVERY, shared=[0, 4])
  yield secagg.DELIVERY, 'a ciphertext without a bit', message
  yield from _wrong_vectors(examples, secagg.MASKED_INPUT)
  yield from _wrong_bitmap(examples, secagg.UNMASK_REQUEST, 1, 3)
  kind, good = secagg.UNMASK_SHARES, examples.fields[secagg.UNMASK_SHARES]
  for value in (secagg.PRIME, 2**32 - 1):
    share = good['shares'][0][:28] + struct.pack('<I', value)
    message = examples.message(kind, shares=[*good['shares'][1:], share])
    yield kind, f'a share with the word {value}', message


def _unreasonable_active(
  examples: Examples,
) -> Iterator[tuple[int, str, bytes]]:
  kind = secagg.ROSTER
  members = examples.fields[kind]['members']
  for what, changes in (
    ('draw 0', {'draw': 0}),
    ('draw 5', {'draw': 5}),
    ('nobody', {'members': []}),
    ('ids that descend', {'members': members[::-1]}),
    ('an id twice', {'members': [members[0], *members]}),
  ):
    yield kind, what, examples.message(kind, **changes)
  body = bytearray(examples.body(kind))
  body[1] = 12
  yield kind, 'fewer members than counted', examples.frame(kind, bytes(body))
  body[1] = 10
  yield kind, 'more members than counted', examples.frame(kind, bytes(body))
  yield from _wrong_bitmap(examples, secagg.SURVIVORS, 1, 3)
  kind = secagg.UNMASK_REQUEST
  yield from _wrong_bitmap(examples, kind, 2, 6)
  message = examples.message(kind, confirmed=[0, 1, 3, 4])
  yield kind, 'a confirmation that is not there', message
  message = examples.message(kind, confirmed=[0, 3])
  yield kind, 'a confirmation too much', message
  yield from _wrong_vectors(examples, secagg.RESULT)


def _wrong_bitmap(
  examples: Examples, kind: int, byte: int, bit: int
) -> Iterator[tuple[int, str, bytes]]:
  """Sets a padding bit of a bitmap: bit `bit` of byte `byte` and the last."""
  for padding in (bit, 7):
    body = bytearray(examples.body(kind))
    body[byte] |= 1 << padding
    what = f'padding bit {padding} of byte {byte} set'
    yield kind, what, examples.frame(kind, bytes(body))


def _wrong_vectors(
  examples: Examples, kind: int
) -> Iterator[tuple[int, str, bytes]]:
  vectors = examples.fields[kind]['vectors']
  for at, (vector, (length, m)) in enumerate(
    zip(vectors, examples.shape.vectors, strict=True)
  ):
    if m & (m - 1) and length:
      for value in sorted({m, 2 ** secagg.bits_of(m) - 1}):
        wrong = [*vectors[:at], [*vector[:-1], value], *vectors[at + 1 :]]
        what = f'coordinate {value} modulo {m}'
        yield kind, what, examples.message(kind, vectors=wrong)
  offset = 0
  for length, m in examples.shape.vectors:
    for width in secagg.planes(m):
      offset += secagg.plane_bytes(width, length)
      if width * length % 8:
        body = bytearray(examples.body(kind))
        body[offset - 1] |= 0x80
        what = f'padding of the plane of {width} bits modulo {m}'
        yield kind, what, examples.frame(kind, bytes(body))
