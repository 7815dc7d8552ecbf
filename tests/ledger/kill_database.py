# SPDX-License-Identifier: Apache-2.0
"""Kills PostgreSQL at random moments, and compares ledger and truth.

A writer reserves and commits rounds as fast as it can, and goes on whenever
the server is there again. The truth is a journal of what its calls returned. A
round that was released is committed, a round that was begun is charged, and
none is there twice, whatever the server was doing when it was killed.

`python -m tests.ledger.kill_database --count 50` prints a JSON object, and ends
with 1 if there are violations.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import random
import shutil
import tempfile
import threading
import time

from tests.ledger import postgresql
from tests.ledger import test_ledger as shared
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.ledger.ledger import Ledger


class Writer(threading.Thread):
  """Writes rounds until it is told to stop, and keeps the journal."""

  def __init__(self, location: str):
    super().__init__()
    self.stopped = threading.Event()
    self.began: list[ledger_lib.Attempt] = []
    self.released: list[ledger_lib.Attempt] = []
    self.failures = 0
    self.surprise: BaseException | None = None
    self._location = location

  def run(self) -> None:
    """Goes on after each failure of the ledger, and after no other."""
    while not self.stopped.is_set():
      try:
        with Ledger.open(self._location) as ledger:
          self._write(shared.open_run(ledger))
      except ledger_lib.LedgerError:
        self.failures += 1
        time.sleep(0.02)
      except BaseException as error:
        self.surprise = error
        return

  def _write(self, run: ledger_lib.Run) -> None:
    for attempt, charge in run.open_attempts.items():
      run.lose(attempt, charge, 'the server was killed')
    while not self.stopped.is_set():
      attempt = run.reserve(shared.ROUND)
      self.began.append(attempt)
      run.commit(attempt, shared.ROUND, {})
      self.released.append(attempt)


def violations(writer: Writer, location: str) -> list[str]:
  """Returns where the ledger falls short of the journal; empty if nowhere."""
  with Ledger.open(location) as ledger:
    ledger.verify('mine')
    shown = ledger.show('mine')
  status = {
    ledger_lib.Attempt(r['round'], a['attempt']): a['status']
    for r in shown['rounds']
    for a in r['attempts']
  }
  found = [
    f'{attempt} was released and is {status.get(attempt)}'
    for attempt in writer.released
    if status.get(attempt) != 'committed'
  ]
  found += [f'{a} began uncharged' for a in writer.began if a not in status]
  if len(set(writer.released)) != len(writer.released):
    found.append('an attempt was released twice')
  numbers = [r['round'] for r in shown['rounds']]
  if numbers != list(range(1, len(numbers) + 1)):
    found.append(f'rounds are {numbers}')
  expected = shared.release(*[shared.ROUND] * len(status))
  if abs(shown['release_epsilon'] / expected - 1) > 1e-9:
    found.append(f'epsilon is {shown["release_epsilon"]}, not {expected}')
  return found


def kill_and_restart(
  server: postgresql.Server, count: int, seed: int
) -> tuple[Writer, list[str]]:
  """Kills the server `count` times while a writer works.

  Returns:
    The writer, and what is wrong.
  """
  moments = random.Random(seed)
  location = server.make('killed')
  writer = Writer(location)
  writer.start()
  try:
    for _ in range(count):
      _wait_for_progress(writer)
      time.sleep(moments.uniform(0.0, 0.1))
      server.kill()
      server.start()
    _wait_for_progress(writer)
  finally:
    writer.stopped.set()
    writer.join()
  if writer.surprise is not None:
    raise writer.surprise
  return writer, violations(writer, location)


def _wait_for_progress(writer: Writer) -> None:
  before = len(writer.released)
  end = time.monotonic() + 60
  while len(writer.released) == before and writer.is_alive():
    if time.monotonic() > end:
      raise TimeoutError('The writer does not go on.')
    time.sleep(0.001)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--count', type=int, default=50)
  parser.add_argument('--seed', type=int, default=None)
  arguments = parser.parse_args()
  seed = arguments.seed
  if seed is None:
    seed = int.from_bytes(os.urandom(4), 'big')
  folder = pathlib.Path(tempfile.mkdtemp())
  server = postgresql.Server(folder)
  server.start()
  try:
    writer, found = kill_and_restart(server, arguments.count, seed)
  finally:
    server.stop()
    shutil.rmtree(folder)
  summary = {
    'seed': seed,
    'kills': arguments.count,
    'began': len(writer.began),
    'released': len(writer.released),
    'failures': writer.failures,
    'violations': found,
  }
  print(json.dumps(summary, indent=2))
  raise SystemExit(bool(found))


if __name__ == '__main__':
  main()
