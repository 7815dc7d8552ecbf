# SPDX-License-Identifier: Apache-2.0
"""What a client sends of its vectors: with tags or layers, and all masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np
import numpy.typing as npt

from tff_secagg_ext.secagg import inputs, layers, ring
from tff_secagg_ext.secagg.client_state import Session
from tff_secagg_ext.secagg.setup import VectorSpec


@dataclasses.dataclass(frozen=True, repr=False)
class Secrets:
  """What hides the vectors of a client.

  Attributes:
    agreed: What it has agreed with each neighbor that shared its secrets, by
      id; nothing only if it is alone.
    b: The seed of its own mask.
    seeds: Those of its layers of noise; none in a session without.
  """

  agreed: Mapping[int, bytes]
  b: bytes
  seeds: Sequence[bytes]


def masked_input(session: Session, secrets: Secrets) -> bytes:
  """Returns the body of a MaskedInput.

  Raises:
    TypeError: If a vector is not of integers.
    ValueError: If a vector is missing or out of range.
  """
  return b''.join(
    _masked(session, spec, vector, secrets)
    for spec, vector in zip(
      session.setup.vectors, _tagged_vectors(session), strict=True
    )
  )


def _tagged_vectors(session: Session) -> list[npt.NDArray[np.int64]]:
  """Returns the client's vectors, checked, with their tags."""
  vectors = inputs.vectors(session.vectors(), session.setup.vectors)
  if not session.setup.verify:
    return vectors
  tagger = session.tagger()
  return [
    tagger.tagged(vector, spec, session.id)
    for vector, spec in zip(vectors, session.setup.vectors, strict=True)
  ]


def _masked(
  session: Session,
  spec: VectorSpec,
  vector: npt.NDArray[np.int64],
  secrets: Secrets,
) -> bytes:
  """Returns the packed vector with its layers, under all of its masks."""
  modulo = ring.ring_of(spec)
  total = vector.astype(modulo.accumulator)
  if secrets.seeds:
    whole = (session.setup, session.channel.binding)
    layers.apply(total, spec, whole, (1, secrets.seeds[0]), 1)
  own, name = session.id, spec.name.encode()
  signed = []
  if secrets.agreed:
    signed = [(session.derive(secrets.b, b'self', (own, own), name), 1)]
  for peer, agreed in secrets.agreed.items():
    pair, sign = ((own, peer), 1) if own < peer else ((peer, own), -1)
    signed.append((session.derive(agreed, b'mask', pair, name), sign))
  modulo.apply_masks(total, signed)
  return modulo.pack_total(total)
