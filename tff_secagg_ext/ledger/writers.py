# SPDX-License-Identifier: Apache-2.0
"""Who writes a run: a name for this process that outlives its number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
import os
import pathlib
import platform
import socket

_PACKAGES = (
  'tff-secagg-ext',
  'tensorflow-federated',
  'tensorflow',
  'numpy',
  'scipy',
  'dp-accounting',
  'sqlalchemy',
)


def this_process() -> str:
  """Returns `host:process:start`, unique among the processes of a host."""
  pid = os.getpid()
  return f'{socket.gethostname()}:{pid}:{_start_time(pid)}'


def lives_elsewhere(writer: str) -> bool:
  """Whether `writer` is another process of this host, and still running."""
  return writer != this_process() and lives(writer) is True


def lives(writer: str) -> bool | None:
  """Whether a process is still running; `None` if its host is another."""
  host, _, rest = writer.partition(f'{socket.gethostname()}:')
  pid, _, start = rest.partition(':')
  if host or not pid.isdecimal():
    return None
  return _start_time(int(pid)) == start != '0'


def _start_time(pid: int) -> str:
  """Returns when a process began, in ticks since boot; '0' if it is gone."""
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text(encoding='ascii')
  except OSError:
    return '0'
  fields = stat.rpartition(')')[2].split()
  state, start = fields[0], fields[19]
  return '0' if state in 'ZX' else start


def versions(packages: Sequence[str] = _PACKAGES) -> Mapping[str, str]:
  """Returns the versions of Python and of the packages that matter."""
  found = {'python': platform.python_version()}
  for package in packages:
    try:
      found[package] = metadata.version(package)
    except metadata.PackageNotFoundError:
      found[package] = 'not installed'
  return found
