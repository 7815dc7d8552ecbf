# SPDX-License-Identifier: Apache-2.0
"""Executes the notebooks of colabs/, each from top to bottom in a new kernel.

  python .ci/notebooks.py [--write] [NAME ...]

Without names, all of them, two at a time. A cell that raises fails, and so does
a notebook that takes longer than `--seconds`. With `--write` the outputs are
kept in the notebooks, where readers see them before they run anything. The
digest that is kept beside them tells whether they are those of the code as it
is: tests compare it. `make notebooks` writes, with Python 3.11.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Sequence
import contextlib
import hashlib
import os
import pathlib
import re
import signal
import sys
import tempfile
import time

import nbclient
import nbformat

COLABS = pathlib.Path(__file__).parents[1] / 'colabs'
_WORKER = b'/data/worker_binary\0'
_ADDRESS = re.compile(r' at 0x[0-9a-f]+')
_AT_A_TIME = 2


def digest(notebook: nbformat.NotebookNode) -> str:
  """Returns a hash of the code: outputs of other code are out of date."""
  code = [c.source for c in notebook.cells if c.cell_type == 'code']
  return hashlib.sha256('\0'.join(code).encode()).hexdigest()


async def execute(path: pathlib.Path, seconds: int) -> nbformat.NotebookNode:
  """Returns the notebook with its outputs, executed in an empty folder.

  Raises:
    nbclient.exceptions.CellExecutionError: If a cell raises.
    TimeoutError: If it takes longer.
  """
  notebook = nbformat.read(path, as_version=4)
  start = time.monotonic()
  with tempfile.TemporaryDirectory() as folder:
    client = nbclient.NotebookClient(
      notebook,
      timeout=seconds,
      kernel_name='python3',
      record_timing=False,
      resources={'metadata': {'path': folder}},
    )
    async with client.async_setup_kernel():
      with _workers_ended(client):
        for index, cell in enumerate(notebook.cells):
          await client.async_execute_cell(cell, index)
  elapsed = time.monotonic() - start
  print(f'{path.name}: {elapsed:.0f} s', flush=True)
  if elapsed > seconds:
    raise TimeoutError(
      f'{path.name} must take at most {seconds} s. Found {elapsed:.0f}. Train'
      ' fewer rounds in it.'
    )
  _forget_addresses(notebook)
  notebook.metadata.language_info = {'name': 'python'}
  version = '{}.{}'.format(*sys.version_info[:2])
  notebook.metadata.executed = {'code': digest(notebook), 'python': version}
  return notebook


def _forget_addresses(notebook: nbformat.NotebookNode) -> None:
  """Leaves out where objects were in memory, which is of no use to readers."""
  for cell in notebook.cells:
    for output in cell.get('outputs', ()):
      data = output.get('data', {})
      if 'text/plain' in data:
        data['text/plain'] = _ADDRESS.sub('', data['text/plain'])


@contextlib.contextmanager
def _workers_ended(client: nbclient.NotebookClient) -> Iterator[None]:
  """Ends TFF's workers before the kernel, which they may outlive."""
  try:
    yield
  finally:
    kernel = client.km.provisioner.pid
    for tasks in pathlib.Path(f'/proc/{kernel}/task').glob('*/children'):
      for pid in map(int, tasks.read_text().split()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
          if _WORKER in pathlib.Path(f'/proc/{pid}/cmdline').read_bytes():
            os.kill(pid, signal.SIGKILL)


async def execute_all(
  paths: Sequence[pathlib.Path], seconds: int, write: bool
) -> None:
  """Executes notebooks, two at a time; see `execute`."""
  slots = asyncio.Semaphore(_AT_A_TIME)

  async def one(path: pathlib.Path) -> None:
    async with slots:
      notebook = await execute(path, seconds)
    if write:
      nbformat.write(notebook, path)

  await asyncio.gather(*map(one, paths))


def main() -> None:
  """Executes them, and ends with an error at the first that fails."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('names', nargs='*', metavar='NAME')
  parser.add_argument('--write', action='store_true')
  parser.add_argument('--seconds', type=int, default=300)
  arguments = parser.parse_args()
  # Commands in cells are those of this environment.
  folder = str(pathlib.Path(sys.executable).parent)
  os.environ['PATH'] = os.pathsep.join([folder, os.environ['PATH']])
  paths = sorted(COLABS.glob('*.ipynb'))
  if arguments.names:
    paths = [COLABS / f'{name}.ipynb' for name in arguments.names]
  asyncio.run(execute_all(paths, arguments.seconds, arguments.write))


if __name__ == '__main__':
  main()
