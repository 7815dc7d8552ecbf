# SPDX-License-Identifier: Apache-2.0
"""What noise that is exact after dropouts costs a session.

  python benchmarks/dropout_noise.py [--clients 100] [--tolerance 0.3]
                                     [--dimension 100000] [--repeats 3]

Each line is a session with layers beside the same one without: bytes of a
client and seconds of CPU, of a client and of the server, and their ratios;
where nobody drops out, which takes most layers off, and where as many drop out
as are tolerated, which takes off none. Medians of the repeats.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import statistics

import numpy as np

from tff_secagg_ext._dropout_noise import DropoutNoise
from tff_secagg_ext.secagg import simulation
from tff_secagg_ext.secagg.report import Report
from tff_secagg_ext.secagg.setup import PlacedNoise, Security, VectorSpec

_MODULUS = 1 << 20


def run(
  spec: VectorSpec, security: Security, clients: int, least: int, lost: int
) -> Report:
  """Returns the report of a session that some clients leave at 'mask'."""
  vector = {spec.name: np.zeros(spec.length, np.int64)}
  simulated = simulation.Simulation(security, verify=False, min_survivors=least)
  return simulated.run(
    range(clients),
    [spec],
    lambda _: vector,
    dropouts=lambda stage, client: stage == 'mask' and client < lost,
  ).report


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--clients', type=int, default=100)
  parser.add_argument('--tolerance', type=float, default=0.3)
  parser.add_argument('--dimension', type=int, default=100_000)
  parser.add_argument('--repeats', type=int, default=3)
  options = parser.parse_args()
  n, d = options.clients, options.dimension
  tolerated = round(options.tolerance * n)
  noise = DropoutNoise('distributed_dgauss', 200.0, d, _MODULUS, n, tolerated)
  plain = VectorSpec('update', d, _MODULUS)
  layered = VectorSpec('update', d, _MODULUS, (PlacedNoise(0, noise),))
  figures: dict[str, Callable[[Report], float]] = {
    'upload (kB)': lambda report: report.upload_bytes / 1e3,
    'download (kB)': lambda report: report.download_bytes / 1e3,
    'client (ms)': lambda report: report.client_seconds * 1e3,
    'server (s)': lambda report: report.server_seconds,
  }
  print(f'{n} clients, {tolerated} layers of {d} coordinates, 20 bits')
  threats = {'curious': n // 3, 'malicious': n // 2 + 1}
  for threat, threshold in threats.items():
    security = Security(threat, neighbors=n - 1, threshold=threshold)
    for lost in (0, tolerated):
      reports = [
        [
          run(spec, security, n, n - tolerated, lost)
          for _ in range(options.repeats)
        ]
        for spec in (plain, layered)
      ]
      for name, figure in figures.items():
        without, with_layers = (
          statistics.median(map(figure, each)) for each in reports
        )
        print(
          f'{threat:10} {lost:3} lost  {name:14} {without:10.3f}'
          f' {with_layers:10.3f}  x {with_layers / without:.2f}'
        )


if __name__ == '__main__':
  main()
