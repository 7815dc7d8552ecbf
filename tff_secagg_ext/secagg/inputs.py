# SPDX-License-Identifier: Apache-2.0
"""Checks what a client gives: its vectors must fit what a session sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tff_secagg_ext.secagg.setup import VectorSpec


def vectors(
  given: Mapping[str, Any], specs: Sequence[VectorSpec]
) -> list[npt.NDArray[np.int64]]:
  """Returns a client's vectors in the order of the session, each checked.

  Raises:
    TypeError: As `vector`.
    ValueError: As `vector`; or if one is missing.
  """
  missing = [spec.name for spec in specs if spec.name not in given]
  if missing:
    raise ValueError(
      f'A client must give all vectors of the session. Found no {missing}.'
    )
  return [vector(given[spec.name], spec) for spec in specs]


def vector(found: Any, spec: VectorSpec) -> npt.NDArray[np.int64]:
  """Returns a client's vector as int64[length], checked.

  Raises:
    TypeError: If it is not an array of integers.
    ValueError: If its shape or a coordinate is out of range. Which is not told:
      it is secret.
  """
  array = np.asarray(found)
  if not np.issubdtype(array.dtype, np.integer):
    raise TypeError(
      f'The vector {spec.name!r} must be of integers. Found {array.dtype}.'
      ' Round and scale it first.'
    )
  if array.shape != (spec.length,):
    raise ValueError(
      f'The vector {spec.name!r} must have the shape ({spec.length},). Found'
      f' {array.shape}.'
    )
  if array.size and not 0 <= array.min() <= array.max() < spec.modulus:
    raise ValueError(
      f'The coordinates of {spec.name!r} must be in [0, {spec.modulus}), and'
      ' one is not. Reduce them, or use a larger modulus.'
    )
  return array.astype(np.int64, copy=False)
