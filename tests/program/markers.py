# SPDX-License-Identifier: Apache-2.0
"""Finds planted values in files, in whatever form they were written.

A search that finds nothing says something only if it would have found what is
there: `test_planted_markers` shows that of each form, and of each channel.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
import pathlib
import re

import numpy as np

# An id of a client starts with it; no number but its own comes after it.
CLIENT = 'planted-client-'
# Exact in float32, and in no hash, time or epsilon by chance: 22 bits, and
# seven digits, each.
DATA = (2953847.25, 3517264.75, 2284931.25, 3862957.75)
# What `planted_run` makes of the data: the update of each client. Exact too.
UPDATE = tuple(value / 2 for value in DATA)


def forms_of_bytes(value: bytes) -> dict[str, bytes]:
  """Returns what bytes look like, raw and as text; at least eight bytes."""
  forms = {'raw': value, 'hex': value.hex().encode()}
  forms['HEX'] = forms['hex'].upper()
  for offset in range(3):
    # Cut to what does not depend on what is before and after.
    encoded = base64.b64encode(bytes(offset) + value)
    start, end = -(-8 * offset // 6), 8 * (offset + len(value)) // 6
    forms[f'base64 at {offset}'] = encoded[start:end]
  return forms


def forms_of_text(value: str) -> dict[str, bytes]:
  """Returns what a text looks like."""
  return {
    **forms_of_bytes(value.encode()),
    'utf-16': value.encode('utf-16-le'),
  }


def forms_of_numbers(values: tuple[float, ...]) -> dict[str, bytes]:
  """Returns what numbers look like, alone or as a vector: patterns."""
  forms: dict[str, bytes] = {}
  for dtype in ('<f4', '>f4', '<f8', '>f8'):
    vector = np.asarray(values, dtype)
    for name, form in forms_of_bytes(vector.tobytes()).items():
      forms[f'{dtype} vector, {name}'] = re.escape(form)
    for index in range(len(vector)):
      raw = vector[index : index + 1].tobytes()
      forms[f'{dtype} {index}'] = re.escape(raw)
      forms[f'{dtype} {index}, hex'] = raw.hex().encode()
  for index, number in enumerate(values):
    digits = str(int(number)).encode()
    # Of 2.95385e+06 as well; without its exponent it could be a time.
    scientific = digits[:1] + rb'\.' + digits[1:5] + rb'[0-9]*[eE]\+?0?6'
    forms[f'decimal {index}'] = rb'(?<![0-9a-f])%b(?![0-9a-f]{9})|%b' % (
      digits,
      scientific,
    )
  return forms


def patterns(secrets: Mapping[str, bytes]) -> dict[str, re.Pattern[bytes]]:
  """Returns all that is looked for, by name; `secrets` are bytes."""
  found = {
    f'client id, {form}': re.escape(pattern)
    for form, pattern in forms_of_text(CLIENT).items()
  }
  for name, values in (('data', DATA), ('update', UPDATE)):
    for form, pattern in forms_of_numbers(values).items():
      found[f'{name}, {form}'] = pattern
  for name, secret in secrets.items():
    for form, pattern in forms_of_bytes(secret).items():
      found[f'{name}, {form}'] = re.escape(pattern)
  return {name: re.compile(pattern) for name, pattern in found.items()}


def found_in(
  folder: pathlib.Path, secrets: Mapping[str, bytes] | None = None
) -> dict[str, set[str]]:
  """Returns which markers are in which files of a folder, names included."""
  wanted = patterns(secrets or {})
  found: dict[str, set[str]] = {}
  for name, content in _contents(folder):
    hits = {what for what, pattern in wanted.items() if pattern.search(content)}
    if hits:
      found.setdefault(name, set()).update(hits)
  return found


def _contents(folder: pathlib.Path) -> Iterator[tuple[str, bytes]]:
  for path in sorted(folder.rglob('*')):
    name = str(path.relative_to(folder))
    yield name, name.encode()
    if path.is_file():
      yield name, path.read_bytes()
