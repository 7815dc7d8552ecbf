# SPDX-License-Identifier: Apache-2.0
"""Bytes of the protocol, version 1: frames, bitmaps, and how bodies are read.

Guarantees:

- a message that was cut, altered, meant for somebody else, or belongs to
  another session or step is a `MessageError`, never a wrong message.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import enum
import hashlib
import struct
from typing import Any

import numpy as np

from tff_secagg_ext.secagg import errors, keys
from tff_secagg_ext.secagg.setup import VERSION

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


class Reader:
  """Takes a body apart, from front to end."""

  def __init__(self, body: memoryview):
    self._body = body

  def take(self, count: int) -> bytes:
    """Returns the next bytes."""
    if count > len(self._body):
      raise errors.MessageError(
        f'A message ends {count - len(self._body)} bytes too early.'
      )
    taken, self._body = self._body[:count], self._body[count:]
    return bytes(taken)

  def numbers(self, layout: str) -> tuple[Any, ...]:
    """Returns the next numbers, of a `struct` layout."""
    layout = f'<{layout}'
    return struct.unpack(layout, self.take(struct.calcsize(layout)))

  @property
  def left(self) -> int:
    """How many bytes are not taken yet."""
    return len(self._body)

  def end(self) -> None:
    """Raises `MessageError` if anything is left."""
    if self._body:
      raise errors.MessageError(
        f'A message ends {len(self._body)} bytes too late.'
      )


def split(body: bytes | memoryview, count: int, size: int) -> list[bytes]:
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
  return np.packbits(np.fromiter(flags, bool), bitorder='little').tobytes()


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
  found: list[bool] = flags[:count].astype(bool).tolist()
  return found
