# SPDX-License-Identifier: Apache-2.0
"""What recording a round costs: reserve and commit, synced to the disk.

Run it as `python -m benchmarks.recorder [--rounds N] [--folder F]`. It prints
medians: of a recorded round, of the part of it that computes epsilon, and of
as many plain synced writes to the same disk, which no ledger can undercut.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import os
import pathlib
import statistics
import tempfile
import time

from tff_secagg_ext import accounting
from tff_secagg_ext.ledger import Ledger


def milliseconds(action: Callable[[], object], times: int) -> float:
  """Returns the median time of `action`."""
  taken = []
  for _ in range(times):
    start = time.perf_counter()
    action()
    taken.append(time.perf_counter() - start)
  return 1e3 * statistics.median(taken)


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=200)
  parser.add_argument('--folder', default='.')
  arguments = parser.parse_args()
  event = accounting.NoisedSumEvent(
    'distributed_dgauss', 600.0, 60.0, 60, 4096, server_shares=80
  )
  charge = accounting.Round((event,), accounting.PoissonSampling(100 / 360))
  with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
    folder = pathlib.Path(name)
    with Ledger.open(folder / 'runs.db') as ledger:
      run = ledger.open_run('run', {}, delta=1e-3)

      def record() -> None:
        run.commit(run.reserve(charge), charge, {'scale': 1.0})

      recorded = milliseconds(record, arguments.rounds)
    account = accounting.Accountant(1e-3).with_round(charge, arguments.rounds)

    def tell() -> None:
      after = account.with_round(charge)
      after.release()
      after.server()

    told = milliseconds(tell, arguments.rounds)
    with open(folder / 'plain', 'wb', buffering=0) as file:

      def sync() -> None:
        file.write(b'x' * 8192)
        os.fsync(file.fileno())

      plain = 2 * milliseconds(sync, arguments.rounds)
  print(f'a recorded round: {recorded:.2f} ms')
  print(f'of it, epsilon of both views: {told:.2f} ms')
  print(f'two plain synced writes: {plain:.2f} ms')


if __name__ == '__main__':
  main()
