# SPDX-License-Identifier: Apache-2.0
"""Values that clients hold in an audit, and what their messages differ by."""

from __future__ import annotations

import numpy as np

from tff_secagg_ext.audit.implementation import subject as subject_lib


def spread(dimension: int, norm: float) -> subject_lib.Array:
  """float32[dimension] of an L2 norm, without structure, always the same.

  By a Weyl sequence: no draw is made in an audit beside the subject's own.
  """
  golden = (np.arange(1, dimension + 1) * 0.6180339887498949) % 1.0
  vector = golden - 0.5
  return (vector * (norm / np.linalg.norm(vector))).astype(np.float32)


def centred(
  vector: subject_lib.Array, modulus: int | None
) -> subject_lib.Array:
  """The representatives in [-m/2, m/2), as int64; no modulus, no change."""
  vector = np.asarray(vector).astype(np.int64)
  if modulus is None:
    return vector
  half = modulus // 2
  return (vector + half) % modulus - half


def squared_norm(vector: subject_lib.Array) -> int:
  """The exact squared L2 norm of integers, however large it is.

  Squares of parts of 31 bits fit into float64 and int64 only singly, so
  high and low halves of 16 bits are summed apart.
  """
  magnitude = np.abs(np.asarray(vector).astype(np.int64))
  high, low = magnitude >> 16, magnitude & 0xFFFF
  return (
    (int(np.sum(high * high)) << 32)
    + (int(np.sum(high * low)) << 17)
    + int(np.sum(low * low))
  )


def noise_differences(
  subject: subject_lib.Subject, messages: int
) -> subject_lib.Array:
  """int64[messages // 2, D]: differences of messages of the same value.

  In one round, so that all that is public is the same in both: what is left is
  the noise of one less that of the other, and their roundings.
  """
  assert subject.encode is not None
  value = spread(subject.setting.dimension, subject.facts.clip_norm)
  sent = np.stack(
    [np.asarray(m, np.int64) for m in subject.encode([value] * messages)]
  )
  return centred(sent[::2] - sent[1::2], subject.facts.modulus)
