# SPDX-License-Identifier: Apache-2.0
"""Reads the fields of a transcript's line, which anybody may have written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import itertools
from typing import Any

from tff_secagg_ext import _validate
from tff_secagg_ext._dropout_noise import DropoutNoise
from tff_secagg_ext.secagg.setup import MAX_ID, PlacedNoise, VectorSpec

_HEX = frozenset('0123456789abcdef')


def demand(condition: bool, reason: str) -> None:
  """Raises `ValueError` with the reason unless the condition holds."""
  if not condition:
    raise ValueError(reason)


def items(value: object, name: str, length: int | None = None) -> list[Any]:
  """Returns a list, of a length if one is given."""
  if not isinstance(value, list):
    raise TypeError(f'{name} must be a list')
  demand(length in (None, len(value)), f'{name} must be lists of {length}')
  return value


def ids(value: object, name: str) -> list[int]:
  """Returns ids, ascending."""
  found = [
    _validate.check_int(client, name, minimum=0, maximum=MAX_ID)
    for client in items(value, name)
  ]
  demand(
    all(a < b for a, b in itertools.pairwise(found)),
    f'ids of {name} must ascend, none twice',
  )
  return found


def rows(value: object, name: str, width: int) -> list[list[Any]]:
  """Returns lists of `width`, each for a client and beginning with its id."""
  found = [items(row, name, width) for row in items(value, name)]
  ids([row[0] for row in found], name)
  return found


def vectors(fields: Mapping[str, Any]) -> tuple[VectorSpec, ...]:
  """Returns the vectors of a setup, with the noise that it has for them."""
  noises = [
    items(row, 'noise', 9) for row in items(fields.get('noise', []), 'noise')
  ]
  demand(
    bool(noises) == ('noise' in fields), 'noise must be left out without any'
  )
  found = []
  for row in items(fields['vectors'], 'vectors'):
    name, length, modulus = items(row, 'vectors', 3)
    placed = tuple(
      PlacedNoise(start, DropoutNoise(*noise))
      for of, start, *noise in noises
      if of == name
    )
    found.append(VectorSpec(name, length, modulus, placed))
  known = [spec.name for spec in found for _ in spec.noise]
  demand(
    [row[0] for row in noises] == known,
    'noise must be of the vectors, in their order',
  )
  return tuple(found)


def text(value: object, name: str) -> str:
  """Returns a string."""
  if not isinstance(value, str):
    raise TypeError(f'{name} must be a string')
  return value


def hex_bytes(value: object, name: str, length: int) -> bytes:
  """Returns the bytes of lower-case hex."""
  digits = text(value, name)
  demand(
    len(digits) == 2 * length and set(digits) <= _HEX,
    f'{name} must be {length} bytes in lower-case hex',
  )
  return bytes.fromhex(digits)


def demand_same(
  found: Sequence[Any], heard: Sequence[int], name: str, stage: str
) -> None:
  """Demands that ids, or rows that begin with one, are those of a stage."""
  ids = [row[0] if isinstance(row, list) else row for row in found]
  if ids != heard:
    differ = sorted(set(ids) ^ set(heard))
    raise ValueError(
      f'{name} must be of the clients that answered {stage}; clients'
      f' {differ} are not in both'
    )
