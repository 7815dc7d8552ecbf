# SPDX-License-Identifier: Apache-2.0
"""The verifiable sum with keys: tags for a client, checks for all clients."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np
import numpy.typing as npt

from tff_secagg_ext.secagg import errors, keys, ring, verify
from tff_secagg_ext.secagg.setup import TAG_LENGTH, Setup, VectorSpec


@dataclasses.dataclass(frozen=True, repr=False)
class Tagger:
  """What the clients of a session, and not its server, can compute.

  Attributes:
    key: K, 32 bytes.
    binding: The setup digest.
    round: The round of the setup.
  """

  key: bytes
  binding: bytes
  round: int

  def tagged(
    self, vector: npt.NDArray[np.int64], spec: VectorSpec, client: int
  ) -> npt.NDArray[np.int64]:
    """Returns int64[d + 64]: a client's vector with its tag behind it."""
    return verify.append_tags(
      vector, self._bits(spec), self._pads(spec, [client]), spec.modulus
    )

  def check(
    self, body: memoryview, setup: Setup, survivors: Sequence[int]
  ) -> None:
    """Checks the body of a Result.

    Args:
      body: The packed sums, tags included.
      setup: The session's.
      survivors: The ids of those who were to be summed.

    Raises:
      MessageError: If it is not the encoding of such sums.
      WrongSum: If a sum is not that of the survivors.
    """
    for spec, total in zip(setup.vectors, unpack(body, setup), strict=True):
      pads = self._pads(spec, survivors)
      if not verify.accepts(total, self._bits(spec), pads, spec.modulus):
        raise errors.WrongSum(
          f'The sum of {spec.name!r} is not that of the survivors.'
        )

  def _bits(self, spec: VectorSpec) -> npt.NDArray[np.uint8]:
    rounds = (self.round & 0xFFFFFFFF, self.round >> 32)
    key = keys.derive(
      self.key, self.binding, b'tag', rounds, spec.name.encode()
    )
    return ring.Keystream(key).read(verify.keystream_bytes(spec.length))

  def _pads(
    self, spec: VectorSpec, clients: Sequence[int]
  ) -> npt.NDArray[np.int64]:
    """Returns the sum modulo m of the pads of some clients."""
    modulo = ring.ring_of(spec)
    total, name = modulo.zeros(TAG_LENGTH), spec.name.encode()
    pads = [
      keys.derive(self.key, self.binding, b'pad', (client, client), name)
      for client in clients
    ]
    modulo.apply_masks(total, [(key, 1) for key in pads])
    return modulo.reduce(total)


def summed_length(spec: VectorSpec, setup: Setup) -> int:
  """Returns how many coordinates of a vector are summed, tags included."""
  return spec.length + (TAG_LENGTH if setup.verify else 0)


def raw_bytes(setup: Setup) -> int:
  """Returns how many bytes the packed vectors have without tags."""
  return sum(
    ring.ring_of(spec).packed_bytes(spec.length) for spec in setup.vectors
  )


def body_bytes(setup: Setup) -> int:
  """Returns how many bytes the packed vectors of a session have."""
  return sum(
    ring.ring_of(spec).packed_bytes(summed_length(spec, setup))
    for spec in setup.vectors
  )


def unpack(body: memoryview, setup: Setup) -> list[ring.Words]:
  """Returns the vectors of a MaskedInput or Result, of accumulated words.

  Raises:
    MessageError: If it is not the encoding of such vectors.
  """
  if len(body) != body_bytes(setup):
    raise errors.MessageError(
      f'The vectors of the session must have {body_bytes(setup)} bytes. Found'
      f' {len(body)}.'
    )
  vectors = []
  for spec in setup.vectors:
    length = summed_length(spec, setup)
    size = ring.ring_of(spec).packed_bytes(length)
    vectors.append(ring.ring_of(spec).unpack(body[:size], length))
    body = body[size:]
  return vectors


def pack(vectors: Sequence[ring.Words], setup: Setup) -> bytes:
  """Returns the body of a MaskedInput or Result."""
  return b''.join(
    ring.ring_of(spec).pack(vector)
    for spec, vector in zip(setup.vectors, vectors, strict=True)
  )
