# SPDX-License-Identifier: Apache-2.0
"""Seconds, memory and bytes of a report, of runs of many rounds.

Run it as `python -m benchmarks.report [--rounds N ...] [--kinds K ...]`.
Ledgers are written as rows, in bulk and chained; the reports are made from the
file, with its chain checked, its budget priced and the forecast, each in a
process of its own. Three histories: all charges equal, 100 distinct ones, and
each its own. Seconds are without the start of Python; those of the CPU are what
an idle machine takes. Memory is the most that the process had, of which Python
and its libraries take some 150 MB.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import multiprocessing
import pathlib
import resource
import tempfile
import time

import sqlalchemy as sa

from benchmarks import ledger as ledger_benchmark
from tests.report import ledgers
from tff_secagg_ext import accounting, report
from tff_secagg_ext.ledger import (
  Ledger,
  chain,
  records,
  rows,
  scanning,
  schema,
)

GOAL_SECONDS, GOAL_BYTES = 3.0, 1.5e6
GOAL_ROUNDS = 10_000
KINDS = ('all equal', '100 distinct', 'all distinct')
# The JSON of more rounds, which holds every point, is not measured.
JSON_ROUNDS = 100_000
_CHUNK = 20_000


def write(ledger: Ledger, rounds: int, kind: str) -> None:
  """Writes a run of so many rounds with all that a recorder writes."""
  nth = ledger_benchmark.charges(kind)
  sampling = nth(1).sampling
  recipe = ledgers.GOOD
  settings = {
    **recipe.settings,
    'budget': {
      'epsilon': 1000.0,
      'delta': ledgers.DELTA,
      'filter': 'composition',
    },
    'sampling': json.loads(accounting.to_json(sampling)),
  }
  ledger.open_run('run', settings, delta=ledgers.DELTA)
  found = ledger.snapshot('run')
  session, end = found.chain.sessions[0]['hash'], found.chain.start
  text = functools.lru_cache(maxsize=128)(accounting.to_json)
  written: list[dict[str, object]] = []
  for number in range(1, rounds + 1):
    for step in (schema.RESERVED, schema.COMMITTED):
      done = step == schema.COMMITTED
      measured = recipe.measurements(number, 190) if done else {}
      protocol = recipe.protocol(number, lost=False) if done else None
      row = {
        'run_id': found.run['id'],
        'sequence': 2 * number - (not done),
        'session_id': found.sessions[0]['id'],
        'round': number,
        'attempt': 1,
        'kind': step,
        'charge': text(nth(number)),
        'measurements': records.to_text(measured),
        'note': '',
        'release_epsilon': 0.01 * number**0.5,
        'server_epsilon': 0.3 * number**0.5,
        'reasons': '{"release":[],"server":[]}',
        'recorded_at': '2026-01-01T00:00:00.000000+00:00',
        'protocol': records.to_text(protocol) if protocol else None,
        'previous': end,
        'salt': chain.new_salt(),
      }
      record = rows.entry_record({**row, 'hash': ''}, session)
      end = row['hash'] = scanning.hash_of_texts(row, record)
      written.append(row)
    if len(written) >= _CHUNK or number == rounds:
      with ledger._engine.begin() as connection:
        connection.execute(sa.insert(schema.entries), written)
      written = []


@dataclasses.dataclass(frozen=True)
class Measured:
  """What a report took: seconds on the clock and of the CPU, and bytes."""

  written: float
  seconds: float
  busy: float
  memory: int
  page: int
  json: int | None


def report_of(location: str, as_json: bool) -> Measured:
  """Returns what a report of the run takes, in a process of its own.

  All caches of prices are empty at the beginning: it is the first report of a
  process.
  """
  start, busy = time.perf_counter(), time.process_time()
  with Ledger.open(location, create=False) as ledger:
    facts = report.read(ledger, 'run', server_view=True)
  page = report.to_html(report.report(facts))
  busy = time.process_time() - busy
  seconds = time.perf_counter() - start
  memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  size = len(report.to_json(facts)) if as_json else None
  return Measured(0.0, seconds, busy, memory, len(page.encode()), size)


def measure(rounds: int, kind: str) -> Measured:
  """Writes a run and returns what its report takes."""
  with tempfile.TemporaryDirectory() as folder:
    location = f'sqlite:///{pathlib.Path(folder) / "runs.db"}'
    start = time.perf_counter()
    with Ledger.open(location) as ledger:
      write(ledger, rounds, kind)
    written = time.perf_counter() - start
    context = multiprocessing.get_context('spawn')
    with context.Pool(1) as pool:
      found = pool.apply(report_of, (location, rounds <= JSON_ROUNDS))
    return dataclasses.replace(found, written=written)


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument(
    '--rounds', type=int, nargs='+', default=[100, GOAL_ROUNDS]
  )
  parser.add_argument('--kinds', nargs='+', default=KINDS)
  asked = parser.parse_args()
  print(
    '| rounds | charges | written in s | s on the clock | CPU s | MB of memory'
    ' | kB of HTML | MB of JSON | goal |'
  )
  print('|---|---|---|---|---|---|---|---|---|')
  for rounds in asked.rounds:
    for kind in asked.kinds:
      found = measure(rounds, kind)
      met = found.seconds < GOAL_SECONDS and found.page < GOAL_BYTES
      said = ('met' if met else 'NOT MET') if rounds == GOAL_ROUNDS else ''
      as_json = '' if found.json is None else f'{1e-6 * found.json:.2f}'
      print(
        f'| {rounds:,} | {kind} | {found.written:.1f} | {found.seconds:.2f}'
        f' | {found.busy:.2f} | {1e-6 * found.memory:.0f}'
        f' | {1e-3 * found.page:.0f} | {as_json} | {said} |',
        flush=True,
      )


if __name__ == '__main__':
  main()
