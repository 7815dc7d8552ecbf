# SPDX-License-Identifier: Apache-2.0
"""Seconds and bytes of a report, of runs of many rounds.

Run it as `python -m benchmarks.report [--rounds N ...]`. Ledgers are written as
rows, as `benchmarks.ledger` does; the reports are made from the file, with its
chain checked, its budget priced and the forecast. Three histories: all charges
equal, 100 distinct ones, and each its own. Seconds are without the start of
Python; those of the CPU are what an idle machine takes.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
import time

import sqlalchemy as sa

from benchmarks import ledger as ledger_benchmark
from tests.report import ledgers
from tff_secagg_ext import accounting, report
from tff_secagg_ext.ledger import Ledger, chain, rows, schema

GOAL_SECONDS, GOAL_BYTES = 3.0, 1.5e6
GOAL_ROUNDS = 10_000
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
        'charge': accounting.to_json(nth(number)),
        'measurements': json.dumps(measured),
        'note': '',
        'release_epsilon': 0.01 * number**0.5,
        'server_epsilon': 0.3 * number**0.5,
        'reasons': '{"release":[],"server":[]}',
        'recorded_at': '2026-01-01T00:00:00.000000+00:00',
        'protocol': json.dumps(protocol) if protocol else None,
        'previous': end,
        'salt': chain.new_salt(),
      }
      end = row['hash'] = chain.hash_of(rows.entry_record(row, session))
      written.append(row)
    if len(written) >= _CHUNK or number == rounds:
      with ledger._engine.begin() as connection:
        connection.execute(sa.insert(schema.entries), written)
      written = []


def measure(rounds: int, kind: str) -> tuple[float, float, int, int]:
  """Returns seconds, CPU seconds, bytes of a report, and of its JSON.

  All caches of prices are empty at the beginning: it is the first report of a
  process.
  """
  with tempfile.TemporaryDirectory() as folder:
    location = f'sqlite:///{pathlib.Path(folder) / "runs.db"}'
    with Ledger.open(location) as ledger:
      write(ledger, rounds, kind)
    start, busy = time.perf_counter(), time.process_time()
    with Ledger.open(location, create=False) as ledger:
      facts = report.read(ledger, 'run', server_view=True)
    page = report.to_html(report.report(facts))
    busy = time.process_time() - busy
    seconds = time.perf_counter() - start
    return seconds, busy, len(page.encode()), len(report.to_json(facts))


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument(
    '--rounds', type=int, nargs='+', default=[100, GOAL_ROUNDS]
  )
  asked = parser.parse_args()
  print('| rounds | charges | seconds | CPU s | bytes | bytes of JSON | goal |')
  print('|---|---|---|---|---|---|---|')
  for rounds in asked.rounds:
    for kind in ('all equal', '100 distinct', 'all distinct'):
      seconds, busy, size, as_json = measure(rounds, kind)
      met = seconds < GOAL_SECONDS and size < GOAL_BYTES
      said = ('met' if met else 'NOT MET') if rounds == GOAL_ROUNDS else ''
      print(
        f'| {rounds} | {kind} | {seconds:.2f} | {busy:.2f} | {size} | {as_json}'
        f' | {said} |'
      )


if __name__ == '__main__':
  main()
