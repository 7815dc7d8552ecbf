# SPDX-License-Identifier: Apache-2.0
"""Seconds that a live page takes.

Run it as `python -m benchmarks.serve [--rounds N] [--runs N] [--repeats N]`. A
server of the real pages answers over loopback; what is measured is the whole
answer, as a browser waits for it. Cold is the first answer of a server, which
has to read the ledger and check its chains; warm is the median of those after.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import functools
import pathlib
import statistics
import tempfile
import time
import urllib.parse

from benchmarks import report as report_benchmark
from tests.report import ledgers
from tests.serve.site import Site, served
from tests.serve.test_events import stream
from tff_secagg_ext.ledger import Ledger


def seconds(work: Callable[[], object]) -> float:
  """Returns what a call takes on the clock."""
  start = time.perf_counter()
  work()
  return time.perf_counter() - start


def told(name: str, cold: float | None, warm: list[float], goal: float) -> None:
  """Prints a row: the worse of both is held against the goal."""
  middle = statistics.median(warm)
  worst = middle if cold is None else max(cold, middle)
  first = '' if cold is None else f'{cold:.3f}'
  met = 'met' if worst < goal else 'NOT MET'
  print(f'| {name} | {first} | {middle:.3f} | {goal:g} | {met} |', flush=True)


def pages(location: str, path: str, name: str, goal: float, times: int) -> None:
  """Measures the first answer of a server, and later ones."""
  with served(location) as site:
    cold = seconds(lambda: site.ask(path))
    site.page(path)
    told(
      name, cold, [seconds(lambda: site.ask(path)) for _ in range(times)], goal
    )


def what_if(site: Site, times: int) -> None:
  """Measures answers that were never given before."""
  while site.ask('/what-if/answer?noise=1').status == 202:
    time.sleep(0.1)
  asked = [f'/what-if/answer?noise={0.5 + 0.037 * n:.3f}' for n in range(times)]
  warm = [seconds(functools.partial(site.ask, path)) for path in asked]
  told('what-if, another noise each time', None, warm, 0.3)


def follow(location: str, times: int) -> None:
  """Measures from a commit until the page of the run is told of it."""
  recipe = ledgers.with_(ledgers.GOOD, name='mine', epsilon=None)
  charge = recipe.charge(200)
  with Ledger.open(location) as ledger:
    run = ledger.open_run('mine', recipe.settings, delta=ledgers.DELTA)
    with served(location) as site, stream(site, 'mine') as events:
      next(events)
      delays = []
      for number in range(1, times + 1):
        run.commit(
          run.reserve(charge), charge, recipe.measurements(number, 200)
        )
        row = f'<th scope="row">{number}</th><td>committed</td>'
        start = time.perf_counter()
        assert any(row in event['now'] for event in events)
        delays.append(time.perf_counter() - start)
        time.sleep(0.05)
  told('a commit, until the page has it', None, delays, 1.0)


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--rounds', type=int, default=10_000)
  parser.add_argument('--runs', type=int, default=100)
  parser.add_argument('--repeats', type=int, default=20)
  asked = parser.parse_args()
  print('| answer | cold, s | warm, s | goal, s | |')
  print('|---|---|---|---|---|')
  with tempfile.TemporaryDirectory() as folder:
    many, long, new = (
      f'sqlite:///{pathlib.Path(folder) / name}.db'
      for name in ('many', 'long', 'new')
    )
    ledgers.write(
      many,
      *(
        ledgers.with_(ledgers.GOOD, name=f'run {n}', rounds=20)
        for n in range(asked.runs)
      ),
    )
    with Ledger.open(long) as ledger:
      report_benchmark.write(ledger, asked.rounds, 'all equal')
    pages(many, '/', f'{asked.runs} runs, listed', 0.2, asked.repeats)
    path = f'/run?{urllib.parse.urlencode({"name": "run"})}'
    pages(long, path, f'a run of {asked.rounds:,} rounds', 1.0, asked.repeats)
    with served(many) as site:
      what_if(site, asked.repeats)
    follow(new, asked.repeats)


if __name__ == '__main__':
  main()
