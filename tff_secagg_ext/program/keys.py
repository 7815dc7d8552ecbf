# SPDX-License-Identifier: Apache-2.0
"""Secret keys and records of a run, in files that their owner alone can read.

A key is drawn from the kernel when the run is new, and is on the disk before it
is used. It is in no ledger, no log line and no export. A key that was lost is
never replaced: what it has told apart could not be told apart any more.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import secrets
import stat
import tempfile
from typing import Any

BYTES = 32
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class RunKeyError(Exception):
  """The key of a run is missing, or is not as it was written."""


def kept(path: pathlib.Path, *, new: bool) -> bytes:
  """Returns the key in a file; makes it first where the run is new.

  Guarantees:

  * A new key has 256 bits from the kernel, and a file of mode 0600 that is
    whole and on the disk when this returns.
  * A key that is there is never replaced, by two processes at once neither.

  Args:
    path: The file.
    new: Whether the run may be without a key: nothing was derived yet.

  Raises:
    RunKeyError: If the key is missing and the run is not new, if others may
      read the file, or if it is not a key.
  """
  if not path.exists():
    if not new:
      raise RunKeyError(
        f'The key of a run must be kept as long as the run. Found no file'
        f' {os.fspath(path)!r}. Restore it, or use another run name.'
      )
    _make(path)
  found = path.stat()
  if found.st_mode & _OTHERS:
    raise RunKeyError(
      f'The key {os.fspath(path)!r} must be for its owner alone, of mode 0600.'
      f' Found {stat.S_IMODE(found.st_mode):04o}. Use another run name; or'
      ' chmod it, if nobody has read it.'
    )
  key = path.read_bytes()
  if len(key) != BYTES:
    raise RunKeyError(
      f'The key {os.fspath(path)!r} must have {BYTES} bytes. Found {len(key)}.'
      ' Restore it, or use another run name.'
    )
  return key


def _make(path: pathlib.Path) -> None:
  """Writes a fresh key beside `path`, then links it there if there is none."""
  path.parent.mkdir(parents=True, exist_ok=True)
  # Of mode 0600 from the beginning.
  descriptor, name = tempfile.mkstemp(dir=path.parent, prefix='.key_')
  try:
    with os.fdopen(descriptor, 'wb') as file:
      file.write(secrets.token_bytes(BYTES))
      file.flush()
      os.fsync(file.fileno())
    # Where another process was first, its key is as good.
    with contextlib.suppress(FileExistsError):
      os.link(name, path)
  finally:
    os.unlink(name)
  sync(path.parent)


def append_line(path: pathlib.Path, record: dict[str, Any]) -> None:
  """Adds a line of JSON to a file of mode 0600, and syncs it."""
  flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
  line = json.dumps(record).encode() + b'\n'
  with open(os.open(path, flags, 0o600), 'ab') as file:
    file.write(line)
    file.flush()
    os.fsync(file.fileno())


def whole_lines(path: pathlib.Path) -> list[bytes]:
  """Returns the lines of a file, and cuts off one that a kill has torn."""
  if not path.exists():
    return []
  with open(path, 'r+b') as file:
    *lines, rest = file.read().split(b'\n')
    if rest:
      file.truncate(file.tell() - len(rest))
  return lines


def sync(path: pathlib.Path) -> None:
  """Makes a file, or the names in a folder, durable."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
