# SPDX-License-Identifier: Apache-2.0
"""Secure aggregation's time, memory and bytes, beside Flower's SecAgg+.

  python benchmarks/secagg.py [--only NAME ...] [--quick] [--repeats 5]
                              [--flower-venv DIR] [--json FILE]

One core, seconds of CPU, medians, both sides in one run, and the limit of the
machine measured in it. Flower runs in an environment of its own, which is made
where it is missing; flower_secagg.py says what is timed there. Beside Flower,
ours is in the class of Flower's, an honest-but-curious server; what the
malicious class takes is printed, too. `--quick` leaves out what takes minutes,
all of Flower's rounds of 100 clients among it; without it, a run takes about
a quarter of an hour, a third of it Flower's largest round.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from cryptography.hazmat.primitives import ciphers
from cryptography.hazmat.primitives.ciphers import algorithms, modes
import flower
import numpy as np

from tff_secagg_ext.secagg import costs, ring, simulation, verify
from tff_secagg_ext.secagg.report import Report
from tff_secagg_ext.secagg.setup import Security, VectorSpec

_WORDS = 1 << 32  # Flower's modulus
_BITS = 20
_DIMENSION = 100_000


@dataclasses.dataclass(frozen=True)
class Row:
  """One figure and its goal, if it has one; and what it was made of."""

  name: str
  ours: float
  unit: str
  figure: float
  goal: float | None = None
  at_least: bool = False
  reference: float | None = None

  @property
  def met(self) -> bool | None:
    """Whether the figure keeps to its goal; `None` without one."""
    if self.goal is None:
      return None
    if self.at_least:
      return self.figure >= self.goal
    return self.figure <= self.goal


@dataclasses.dataclass(frozen=True)
class Bench:
  """What each group of rows is given."""

  repeats: int
  quick: bool
  flower_venv: pathlib.Path

  def medians(
    self,
    *sides: Callable[[], Any],
    clock: Callable[[], float] = time.process_time,
  ) -> tuple[float, ...]:
    """Median seconds of each side, the sides in turns, after a warm-up."""
    for side in sides:
      side()
    times = [
      [_seconds(side, clock) for side in sides] for _ in range(self.repeats)
    ]
    return tuple(map(statistics.median, zip(*times, strict=True)))


@functools.cache
def _flower(venv: pathlib.Path, *arguments: object) -> dict[str, float]:
  """What Flower's script prints for these arguments; run once."""
  return flower.run(flower.environment(venv), 'flower_secagg.py', *arguments)


def _seconds(run: Callable[[], Any], clock: Callable[[], float]) -> float:
  start = clock()
  run()
  return clock() - start


def _against(name: str, ours: float, theirs: float, goal: float) -> Row:
  return Row(name, ours, 's', theirs / ours, goal, True, theirs)


def masks(bench: Bench) -> Iterator[Row]:
  """Masks beside the cipher: 64 MiB each, the limit in blocks of 1 MiB."""
  size = 1 << 20
  key, zeros = os.urandom(32), bytes(size)
  stream, block = np.empty(size, np.uint8), np.zeros(size // 4, np.uint32)

  def limit() -> None:
    cipher = ciphers.Cipher(algorithms.AES(key), modes.CTR(bytes(16)))
    encryptor = cipher.encryptor()
    for _ in range(64):
      encryptor.update_into(zeros, stream.data)
      np.add(block, stream.view(np.uint32), out=block)

  modulo = ring.Ring(_WORDS)
  for length in (_DIMENSION, 10 * _DIMENSION):
    total, times = modulo.zeros(length), 64 * size // (4 * length)

    def expand(total: Any = total, times: int = times) -> None:
      for _ in range(times):
        modulo.apply_mask(total, key, 1)

    ours, best = bench.medians(expand, limit)
    speed, most = 4e-9 * length * times / ours, 64e-9 * size / best
    name = f'mask expansion + add, modulus 2^32, d = {length:,}'
    yield Row(name, speed, 'GB/s', speed / most, 0.75, True, most)


def mask_step(bench: Bench) -> Iterator[Row]:
  """A client's masks on its vector, without the agreement on their keys."""
  neighbors, length = 100, 10 * _DIMENSION
  modulo = ring.Ring(_WORDS)
  vector = np.random.default_rng(0).integers(0, 1 << 22, length)
  secrets = [os.urandom(32) for _ in range(neighbors + 1)]

  def step() -> None:
    total = vector.astype(modulo.accumulator)
    modulo.apply_masks(
      total, [(key, -1 if i % 2 else 1) for i, key in enumerate(secrets)]
    )
    modulo.pack_total(total)

  (ours,) = bench.medians(step)
  options = ('--dimension', length, '--repeats', bench.repeats)
  theirs = _flower(bench.flower_venv, 'mask', neighbors, *options)['seconds']
  name = f"client's mask step, d = {length:,}, {neighbors} neighbors"
  yield _against(name, ours, theirs, 5)


@dataclasses.dataclass(frozen=True)
class Session:
  """A session to be measured; a wrong sum is an error."""

  clients: int
  security: Security
  modulus: int = _WORDS
  dimension: int = _DIMENSION
  dropouts: int = 0

  @functools.cached_property
  def _simulation(self) -> simulation.Simulation:
    return simulation.Simulation(self.security)

  @functools.cached_property
  def _rounds(self) -> Iterator[int]:
    return itertools.count()

  @functools.cached_property
  def _vectors(self) -> np.ndarray:
    """A few vectors, which clients share: memory for them is no one's cost."""
    rng = np.random.default_rng(0)
    return rng.integers(0, self.modulus, (7, self.dimension))

  def __call__(self) -> Report:
    """Runs the session. Dropouts go when their keys have been shared."""
    vectors = self._vectors
    outcome = self._simulation.run(
      range(self.clients),
      [VectorSpec('update', self.dimension, self.modulus)],
      lambda client: {'update': vectors[client % len(vectors)]},
      round=next(self._rounds),
      dropouts=lambda stage, i: stage == 'mask' and i < self.dropouts,
    )
    survivors = np.arange(self.dropouts, self.clients)
    times = np.bincount(survivors % len(vectors), minlength=len(vectors))
    expected = times @ vectors % self.modulus
    np.testing.assert_array_equal(outcome.sums['update'], expected)
    return outcome.report


def _measured(repeats: int, session: Session) -> dict[str, float]:
  """Medians of seconds in all, of a client, of the server; bytes."""
  if session.clients < 200:
    session()  # What one session does once is lost among so many clients.
  reports = [session() for _ in range(repeats)]

  def median(figure: Callable[[Report], float]) -> float:
    return statistics.median(map(figure, reports))

  server = median(lambda report: report.server_seconds)
  client = median(lambda report: report.client_seconds)
  return {
    'server_seconds': server,
    'client_seconds': client,
    'seconds': median(
      lambda report: (
        report.server_seconds + report.survivors * report.client_seconds
      )
    ),
    'upload_bytes': reports[0].upload_bytes,
    'download_bytes': reports[0].download_bytes,
    'neighbors': reports[0].neighbors,
  }


def _named(threat: str, neighbors: int, threshold: int) -> Security:
  return Security(threat, neighbors=neighbors, threshold=threshold)


@dataclasses.dataclass(frozen=True)
class Round:
  """A setting in which both sides are run."""

  name: str
  clients: int
  neighbors: int
  threshold: int
  goal: float
  flower_runs: int = 1

  def theirs(self, bench: Bench) -> dict[str, float]:
    """Flower's figures. It counts the share that a client keeps, too."""
    numbers = (self.clients, self.neighbors + 1, self.threshold)
    options = ('--repeats', self.flower_runs)
    return _flower(bench.flower_venv, 'round', *numbers, *options)

  def ours(self, bench: Bench, threat: str) -> dict[str, float]:
    """Our figures."""
    security = _named(threat, self.neighbors, self.threshold)
    return _measured(bench.repeats, Session(self.clients, security))


_SMALL = Round('n = 20, complete', 20, 19, 14, 30, 3)
_SPARSE = Round('n = 100, k = 30', 100, 30, 17, 40)
_COMPLETE = Round('n = 100, complete', 100, 99, 67, 100)


def rounds(bench: Bench) -> Iterator[Row]:
  """Whole rounds, clients and server, at modulus 2^32."""
  for setting in (_SMALL,) if bench.quick else (_SMALL, _SPARSE, _COMPLETE):
    theirs = setting.theirs(bench)
    for threat in ('curious', 'malicious'):
      ours = setting.ours(bench, threat)
      names = {
        'seconds': f'round, {setting.name}, {threat}',
        'client_seconds': '  a client of it',
        'server_seconds': '  the server of it',
      }
      for figure, name in names.items():
        row = _against(name, ours[figure], theirs[figure], setting.goal)
        beside = figure == 'seconds' and threat == 'curious'
        yield row if beside else dataclasses.replace(row, goal=None)


def large(bench: Bench) -> Iterator[Row]:
  """500 clients on the complete graph, with and without dropouts."""
  clients = 500
  for threat in ('curious',) if bench.quick else ('curious', 'malicious'):
    security = _named(threat, clients - 1, 2 * clients // 3 + 1)
    for dropouts, goal in ((0, 1.5), (clients * 3 // 10, 8.0)):
      session = Session(clients, security, 1 << _BITS, dropouts=dropouts)
      ours = _measured(1, session)
      where = f'n = {clients}, complete, {dropouts} drop out, {threat}'
      for side, most in (('client', 0.1), ('server', goal)):
        seconds = ours[f'{side}_seconds']
        asked = most if threat == 'curious' else None
        yield Row(f'{side}, {where}', seconds, 's', seconds, asked)


def upload(bench: Bench) -> Iterator[Row]:
  """Bytes at 20 bits, beside Flower's and the formula of Bonawitz et al."""
  clients = _COMPLETE.clients
  security = _named('curious', _COMPLETE.neighbors, _COMPLETE.threshold)
  ours = _measured(1, Session(clients, security, 1 << _BITS))
  formula = costs.bonawitz_traffic(clients, _DIMENSION, 1 << _BITS)
  sent = ours['upload_bytes']
  both = sent + ours['download_bytes']

  def share(name: str, size: float, of: float, goal: float | None) -> Row:
    return Row(name, size, 'B', size / of, goal, reference=of)

  name = f'upload, n = {clients}, complete, {_BITS} bits'
  if not bench.quick:
    theirs = _COMPLETE.theirs(bench)['upload_bytes']
    yield share(f'{name}, of Flower', sent, theirs, 0.33)
  yield share(f'{name}, of the formula', sent, formula.total, 1.0)
  yield share("  of the formula's upload", sent, formula.upload, None)
  yield share('  and download, of the formula', both, formula.total, None)


def tags(bench: Bench) -> Iterator[Row]:
  """The tags of one vector, their keystream not counted."""
  for length, goal in ((10 * _DIMENSION, 0.035), (_DIMENSION, 0.005)):
    bits = np.frombuffer(os.urandom(verify.keystream_bytes(length)), np.uint8)
    vector = np.random.default_rng(0).integers(0, 1 << _BITS, length)
    (seconds,) = bench.medians(
      lambda bits=bits, vector=vector: verify.tags(bits, vector, 1 << _BITS)
    )
    yield Row(f'tags, d = {length:,}', seconds, 's', seconds, goal)


def memory(bench: Bench) -> Iterator[Row]:
  """The peak of a fresh process that holds 1,000 clients and their server."""
  for threat in ('curious',) if bench.quick else ('curious', 'malicious'):
    printed = _output([__file__, '--peak', threat])
    figures = json.loads(printed.splitlines()[-1])
    where = f'n = 1,000, k = {figures["neighbors"]:.0f}, {threat}'
    peak = figures['peak'] / 1e9
    yield Row(f'peak memory, {where}', peak, 'GB', peak, 1.5)
    yield Row('  its time', figures['seconds'], 's', figures['seconds'])


def _print_peak(threat: str) -> None:
  """Prints the peak memory and the figures of one session."""
  start = time.process_time()
  report = Session(1000, Security(threat), 1 << _BITS)()
  seconds = time.process_time() - start
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  status = dict(line.split(':', 1) for line in lines)
  peak = 1024 * int(status['VmHWM'].split()[0])
  figures = {'peak': peak, 'seconds': seconds, 'neighbors': report.neighbors}
  print(json.dumps(figures))


def growth(bench: Bench) -> Iterator[Row]:
  """Twice and four times the clients, neighbors and coordinates."""
  for threat in ('curious',) if bench.quick else ('curious', 'malicious'):
    base = {'clients': 250, 'neighbors': 40, 'coordinates': _DIMENSION // 2}
    first = _growth_seconds(threat, base)
    for name in base:
      for factor in (2, 4):
        changed = {**base, name: factor * base[name]}
        seconds = _growth_seconds(threat, changed)
        yield Row(
          f'time of {factor} x {base[name]:,} {name}, {threat}',
          seconds,
          's',
          seconds / first / factor,
          1.15,
          reference=first,
        )


def _growth_seconds(threat: str, sizes: Mapping[str, int]) -> float:
  neighbors = sizes['neighbors']
  session = Session(
    sizes['clients'],
    _named(threat, neighbors, neighbors * 2 // 3),
    1 << _BITS,
    sizes['coordinates'],
  )
  return _measured(1, session)['seconds']


def fed_avg(bench: Bench) -> Iterator[Row]:
  """Later rounds of FedAvg on digits, on the clock: TFF works elsewhere."""
  from tff_secagg_ext import aggregators, execution, metrics, tasks
  from tff_secagg_ext._compat import tff

  clients = 20
  task = tasks.load('digits')
  data = [task.client_data(client) for client in task.clients[:clients]]
  process = task.build_process(
    aggregators.ddp_secure_aggregator(1.0, clients),
    metrics.no_client_metrics,
    1.0,
  )

  def rounds_in(options: execution.SecureOptions) -> Callable[[], None]:
    context = execution.create_secure_context(options)
    states: list[Any] = []

    def run() -> None:
      tff.framework.set_default_context(context)
      if not states:
        states.append(process.initialize())
      states.append(process.next(states.pop(), data).state)

    return run

  bench = dataclasses.replace(bench, repeats=3 * bench.repeats)
  plain = rounds_in(execution.SecureOptions(protocol='plain'))
  for threat in ('curious', 'malicious'):
    secure = rounds_in(execution.SecureOptions(Security(threat)))
    ours, theirs = bench.medians(secure, plain, clock=time.perf_counter)
    name = f'FedAvg on digits, {clients} clients, {threat}, of plain'
    yield Row(name, ours, 's', ours / theirs, 2.0, reference=theirs)


def _output(arguments: Sequence[str]) -> str:
  command = [sys.executable, *arguments]
  return subprocess.run(command, check=True, stdout=-1, text=True).stdout


_GROUPS = {
  group.__name__: group
  for group in (
    masks,
    mask_step,
    rounds,
    large,
    upload,
    tags,
    memory,
    growth,
    fed_avg,
  )
}


def _line(row: Row) -> str:
  reference = '' if row.reference is None else f'{row.reference:.4g} {row.unit}'
  sign = '>=' if row.at_least else '<='
  goal = '' if row.goal is None else f'{sign} {row.goal:g}'
  verdict = {True: 'met', False: 'MISSED', None: ''}[row.met]
  return (
    f'{row.name:58s} {row.ours:10.4g} {row.unit:4s} {reference:>14s}'
    f' {row.figure:9.4g} {goal:>9s}  {verdict}'
  ).rstrip()


def _keep_to_one_core() -> None:
  """Begins anew on one core, before any library has counted them."""
  os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
  if os.environ.get('OPENBLAS_NUM_THREADS') == '1':
    return
  os.environ['OPENBLAS_NUM_THREADS'] = '1'
  os.execv(sys.executable, [sys.executable, *sys.argv])


def main() -> None:
  """Prints the table, and writes it as JSON where asked to."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', nargs='+', choices=_GROUPS, default=_GROUPS)
  parser.add_argument('--quick', action='store_true')
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--flower-venv', type=pathlib.Path)
  parser.add_argument('--json', type=pathlib.Path)
  parser.add_argument('--peak', help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  _keep_to_one_core()
  if arguments.peak:
    _print_peak(arguments.peak)
    return
  print(
    f'{"":58s} {"ours":>15s} {"reference":>14s} {"figure":>9s} {"goal":>9s}'
  )
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    venv = arguments.flower_venv or pathlib.Path(folder)
    bench = Bench(arguments.repeats, arguments.quick, venv)
    for name in arguments.only:
      for row in _GROUPS[name](bench):
        print(_line(row), flush=True)
        rows.append({**dataclasses.asdict(row), 'met': row.met})
  if arguments.json:
    arguments.json.write_text(json.dumps(rows, indent=2) + '\n')


if __name__ == '__main__':
  main()
