# SPDX-License-Identifier: Apache-2.0
"""What the ledger costs a round, after 10,000 rounds of a run.

Run it as `python -m benchmarks.ledger [--rounds N] [--folder F]`. The history
is written once, as it would have been, without waiting for the disk. Then
rounds are recorded as in training, in turns with bare SQLite transactions of
one row each of the same size, synced alike, and medians are told: of a
reservation with its commit, of two bare inserts, and of their ratio. `CPU` is
the processor time of a round, which does not count waiting for the disk and is
what the goal is for. Three histories: all charges equal, 100 distinct ones
(dropouts), and each its own (noise that is chosen anew).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import itertools
import pathlib
import sqlite3
import statistics
import tempfile
import time

import sqlalchemy as sa

from tff_secagg_ext import accounting
from tff_secagg_ext.ledger import Ledger, Run, chain, rows, schema

DELTA = 1e-5
GOAL_MILLISECONDS = 5.0


def charges(kind: str) -> Callable[[int], accounting.Round]:
  """Returns what the n-th round of such a run is charged with."""

  def nth(number: int) -> accounting.Round:
    shares, stddev = 80, 60.0
    if kind == '100 distinct':
      shares = 80 - number % 100 // 2 if number % 2 else 80 + number % 100
    elif kind == 'all distinct':
      stddev += number * 1e-4
    event = accounting.NoisedSumEvent(
      'distributed_dgauss', 600.0, stddev, shares, 4096
    )
    return accounting.Round((event,), accounting.PoissonSampling(0.01))

  return nth


def write_history(ledger: Ledger, rounds: int, kind: str) -> None:
  """Writes a run of so many rounds, chained, with epsilons left at 0."""
  run, nth = ledger.open_run('run', {}, delta=DELTA), charges(kind)
  found = ledger._read('run')
  session, end = found.chain.sessions[0]['hash'], found.chain.start
  written = []
  for number in range(1, rounds + 1):
    for kind_ in (schema.RESERVED, schema.COMMITTED):
      row = {
        'run_id': found.run['id'],
        'sequence': len(written) + 1,
        'session_id': found.sessions[0]['id'],
        'round': number,
        'attempt': 1,
        'kind': kind_,
        'charge': accounting.to_json(nth(number)),
        'measurements': '{"scale":1.0}',
        'note': '',
        'release_epsilon': 0.0,
        'server_epsilon': 0.0,
        'reasons': '{"release":[],"server":[]}',
        'recorded_at': found.run['created_at'],
        'protocol': None,
        'salt': chain.new_salt(),
        'previous': end,
      }
      end = chain.hash_of(rows.entry_record(row, session))
      written.append({**row, 'hash': end})
  with ledger._engine.begin() as connection:
    connection.execute(sa.insert(schema.entries), written)
  del run


def seconds(action: Callable[[], object]) -> float:
  """Returns how long `action` takes."""
  start = time.perf_counter()
  action()
  return time.perf_counter() - start


def bare_insert(path: pathlib.Path, size: int) -> Callable[[], None]:
  """Returns a transaction of one row of so many bytes, synced to the disk."""
  connection = sqlite3.connect(path, isolation_level=None)
  connection.execute('PRAGMA journal_mode=WAL')
  connection.execute('PRAGMA synchronous=FULL')
  connection.execute('CREATE TABLE rows (id INTEGER PRIMARY KEY, content TEXT)')

  def insert() -> None:
    connection.execute('BEGIN IMMEDIATE')
    connection.execute('INSERT INTO rows (content) VALUES (?)', ('x' * size,))
    connection.execute('COMMIT')

  return insert


def measure(folder: pathlib.Path, rounds: int, kind: str) -> Sequence[str]:
  """Returns a row of the table."""
  repeats, nth = 40, charges(kind)
  with Ledger.open(folder / 'runs.db') as ledger:
    write_history(ledger, rounds, kind)
    opened: list[Run] = []
    opening = seconds(
      lambda: opened.append(ledger.open_run('run', {}, delta=DELTA))
    )
    verifying = seconds(lambda: ledger.verify('run'))
    run, numbers = opened[0], itertools.count(rounds + 1)
    first = seconds(lambda: record(run, nth(next(numbers))))
    insert = bare_insert(folder / 'bare.db', 1200)
    recorded, bare, computed = [], [], []
    for _ in range(repeats):
      charge = nth(next(numbers))
      before = time.process_time()
      recorded.append(seconds(lambda charge=charge: record(run, charge)))
      computed.append(time.process_time() - before)
      bare.append(seconds(insert) + seconds(insert))
  both = statistics.median(recorded), statistics.median(bare)
  ratio = statistics.median(r / b for r, b in zip(recorded, bare, strict=True))
  cpu = 1e3 * statistics.median(computed)
  return [
    kind,
    f'{1e3 * both[0]:.2f}',
    f'{1e3 * both[1]:.2f}',
    f'{ratio:.2f}',
    f'{cpu:.2f}',
    'met' if cpu <= GOAL_MILLISECONDS else 'missed',
    f'{1e3 * first:.1f}',
    f'{opening:.2f}',
    f'{verifying:.2f}',
  ]


def record(run: Run, charge: accounting.Round) -> None:
  """Reserves a round and commits it."""
  run.commit(run.reserve(charge), charge, {'scale': 1.0})


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=10_000)
  parser.add_argument('--folder', default='.')
  parser.add_argument('--kinds', nargs='*', default=None)
  arguments = parser.parse_args()
  header = ['charges', 'round ms', 'bare ms', 'ratio', 'CPU ms', 'goal of 5 ms']
  header += ['first ms', 'opening s', 'verify s']
  print(' | '.join(header))
  kinds = arguments.kinds or ['equal', '100 distinct', 'all distinct']
  for kind in kinds:
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
      row = measure(pathlib.Path(name), arguments.rounds, kind)
      print(' | '.join(row), flush=True)


if __name__ == '__main__':
  main()
