# SPDX-License-Identifier: Apache-2.0
"""The aggregator's time and memory, beside TFF's own distributed DP.

  python benchmarks/aggregator.py [--only NAME ...] [--repeats 5] [--json FILE]

One process, both sides in turns, medians, both in TFF's test runtime (where
secure sums are plain sums), TFF's with protobuf's nesting limit lifted: without
that it does not run at all. What needs a process of its own runs in one: the
sampler, on one thread, and memory, which is the peak of a fresh process.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
import dataclasses
import importlib
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import tensorflow as tf

from tff_secagg_ext import accounting, aggregators
from tff_secagg_ext import program as program_lib
from tff_secagg_ext._compat import tff
from tff_secagg_ext.mechanism import calibration, noise, stage
from tff_secagg_ext.mechanism import round as round_lib

_FEATURES, _CLASSES = 240, 10  # 2,410 parameters


@dataclasses.dataclass(frozen=True)
class Row:
  """One figure: ours, theirs where there is one, and the goal for `figure`."""

  name: str
  ours: float
  theirs: float | None
  figure: float
  goal: float
  unit: str = 's'

  @property
  def met(self) -> bool:
    """Whether the figure is at most the goal."""
    return self.figure <= self.goal


def _seconds(run: Callable[[], Any]) -> tuple[float, Any]:
  start = time.perf_counter()
  result = run()
  return time.perf_counter() - start, result


def _medians(
  sides: Sequence[Callable[[], Any]], repeats: int
) -> tuple[float, ...]:
  """Median seconds of each side, the sides in turns."""
  times = [[_seconds(side)[0] for side in sides] for _ in range(repeats)]
  return tuple(statistics.median(column) for column in zip(*times, strict=True))


def _against(name: str, times: Sequence[float], goal: float) -> Row:
  ours, theirs = times
  return Row(name, ours, theirs, ours / theirs, goal)


def _dgauss(clients: int) -> tff.aggregators.UnweightedAggregationFactory:
  """TFF's distributed discrete Gaussian, as a mean; TFF does not export it."""
  distributed_dp = importlib.import_module(
    'tensorflow_federated.python.aggregators.distributed_dp'
  )
  return tff.aggregators.UnweightedMeanFactory(
    value_sum_factory=distributed_dp.DistributedDpSumFactory(
      noise_multiplier=1.0,
      expected_clients_per_round=clients,
      bits=20,
      l2_clip=1.0,
      mechanism='distributed_dgauss',
      rotation_type='hd',
    ),
    count_sum_factory=tff.aggregators.SecureSumFactory(1, 0),
  )


def _fed_avg(aggregator: Any) -> tff.learning.templates.LearningProcess:
  def model_fn() -> tff.learning.models.VariableModel:
    model = tf.keras.Sequential(
      [tf.keras.layers.Dense(_CLASSES, input_shape=(_FEATURES,))]
    )
    return tff.learning.models.from_keras_model(
      model,
      loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
      input_spec=(
        tf.TensorSpec([None, _FEATURES], tf.float32),
        tf.TensorSpec([None], tf.int32),
      ),
    )

  return tff.learning.algorithms.build_unweighted_fed_avg(
    model_fn,
    client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.1),
    model_aggregator=aggregator,
  )


def _client_data(clients: int) -> list[tf.data.Dataset]:
  rng = np.random.default_rng(0)
  features = rng.normal(size=(clients, 20, _FEATURES)).astype(np.float32)
  labels = rng.integers(_CLASSES, size=(clients, 20)).astype(np.int32)
  pairs = zip(features, labels, strict=True)
  return [tf.data.Dataset.from_tensor_slices(p).batch(10) for p in pairs]


class _Rounds:
  """A process, its state, and the next round as a call."""

  def __init__(self, process: Any, data: Sequence[Any]):
    self.process, self._data = process, data
    self._state = process.initialize()

  def __call__(self) -> Any:
    output = self.process.next(self._state, self._data)
    self._state = output.state
    return output


def _forget() -> None:
  """Makes the next build compute its constants and tables anew."""
  for cached in (calibration.calibrate, noise.discrete_gaussian, noise.skellam):
    cached.cache_clear()


def fed_avg(repeats: int) -> Iterator[Row]:
  """The learning process: first round, later rounds, and their record."""
  data = _client_data(20)
  factories = (
    aggregators.ddp_secure_aggregator,
    tff.learning.ddp_secure_aggregator,
  )
  running: dict[Any, _Rounds] = {}

  def start(factory: Any) -> Callable[[], Any]:
    def run() -> None:
      _forget()
      running[factory] = _Rounds(_fed_avg(factory(1.0, 20)), data)
      running[factory]()

    return run

  sides = [start(factory) for factory in factories]
  first = _medians(sides, max(3, repeats // 2))
  yield _against('fed_avg: build, initialize, first round', first, 1 / 4)
  rounds = [running[factory] for factory in factories]
  later = _medians(rounds, 3 * repeats)
  yield _against('fed_avg: later rounds', later, 1 / 2)
  yield from _recording(rounds[0], later[0], 4 * repeats)


def _recording(
  rounds: _Rounds, round_seconds: float, repeats: int
) -> Iterator[Row]:
  """What it costs to reserve, assess and commit a round."""
  with tempfile.TemporaryDirectory() as folder:
    recorder = program_lib.PrivacyRecorder(
      rounds.process,
      aggregators.ddp_secure_aggregator(1.0, 20),
      ledger=os.path.join(folder, 'runs.db'),
      run='benchmark',
      sampling=accounting.NoSampling(),
      delta=1e-5,
    )
    metrics = rounds().metrics
    account = recorder.account

    def record() -> None:
      reservation = account.reserve(20)
      account.commit(reservation.attempt, account.assess(reservation, metrics))

    (seconds,) = _medians([record], repeats)
  share = seconds / round_seconds
  yield Row('recording a round', seconds, None, seconds, 0.010)
  yield Row('recording, of a round', share, None, share, 0.01, unit='')


def _bare(factory: Any, dimension: int, clients: int) -> _Rounds:
  values = np.random.default_rng(0).normal(size=(clients, dimension))
  values /= np.linalg.norm(values, axis=1, keepdims=True)
  process = factory.create(tff.TensorType(np.float32, [dimension]))
  return _Rounds(process, list(values.astype(np.float32)))


def _bare_row(
  clients: int, dimension: int, goal: float, repeats: int
) -> Iterator[Row]:
  ours = aggregators.ddp_secure_aggregator(1.0, clients)
  rounds = [_bare(f, dimension, clients) for f in (ours, _dgauss(clients))]
  for warm_up in rounds:
    warm_up()
  name = f'bare process: {clients} clients x {dimension:,}'
  yield _against(name, _medians(rounds, repeats), goal)


def bare_50(repeats: int) -> Iterator[Row]:
  """50 clients of 100,000 coordinates."""
  yield from _bare_row(50, 100_000, 1 / 2, repeats)


def bare_10(repeats: int) -> Iterator[Row]:
  """10 clients of 1,000,000 coordinates."""
  yield from _bare_row(10, 1_000_000, 3 / 4, repeats)


def sampler(repeats: int) -> Iterator[Row]:
  """A million draws, on one thread, beside TensorFlow Privacy's."""
  script = pathlib.Path(__file__).with_name('sampler.py')
  printed = _output([str(script), '--rounds', str(max(5, repeats))])
  pattern = r'(.+?) +stddev +(\S+): +(\S+) M/s, \D+(\S+) M/s'
  for name, stddev, ours, theirs in re.findall(pattern, printed):
    times = 1 / float(ours), 1 / float(theirs)
    yield _against(f'1 M draws: {name}, stddev {stddev}', times, 1 / 2)


def growth(repeats: int) -> Iterator[Row]:
  """Twice and four times the clients; d log d in the dimension."""
  factory = aggregators.ddp_secure_aggregator(1.0, 40)
  rounds = [_bare(factory, 100_000, clients) for clients in (10, 20, 40)]
  for warm_up in rounds:
    warm_up()
  base, *others = _medians(rounds, repeats)
  for factor, seconds in zip((2, 4), others, strict=True):
    name = f'time of {factor} x 10 clients, per client'
    yield Row(name, seconds, None, seconds / base / factor, 1.15)
  dimensions = [2**log2 - 2 for log2 in (17, 19, 21)]
  encodes = [_encoder(d) for d in dimensions]
  times = _medians(encodes, repeats)
  work = [d * math.log2(d) for d in dimensions]
  for index in (1, 2):
    figure = times[index] / times[0] / (work[index] / work[0])
    name = f'time of {dimensions[index]:,} coordinates, per d log d'
    yield Row(name, times[index], None, figure, 1.25)


def _encoder(dimension: int) -> Callable[[], tf.Tensor]:
  """A client's encode of a constant vector, as a compiled call."""
  factory = aggregators.ddp_secure_aggregator(1.0, 10)
  shapes = [[dimension]]
  padded = factory.padded_dimension(stage.num_elements(shapes))
  graph = round_lib.Round(factory.spec, shapes, factory.constants(padded))
  state = dict(graph.initial_state())
  encode = tf.function(lambda value: graph.encode(state, [value]))
  spec = tf.TensorSpec([dimension], tf.float32)
  concrete = encode.get_concrete_function(spec)
  return lambda: concrete(tf.fill([dimension], dimension**-0.5))


def memory(repeats: int) -> Iterator[Row]:
  """A client's encode: its input, its output and all between, over its input.

  The first dimension is the goal's; 2^23 + 1 pads to twice its length.
  """
  del repeats
  for dimension in (10**7, 2**23 + 1):
    printed = _output([__file__, '--peak', str(dimension)])
    peak = float(printed.splitlines()[-1])
    name = f'memory to encode {dimension:,} coordinates, per vector'
    yield Row(name, peak / 1e6, None, peak / (4 * dimension), 12, unit='MB')


def _print_peak(dimension: int) -> None:
  """Prints how far one encode drives up the memory of this process."""
  encode = _encoder(dimension)
  _encoder(1000)()  # What TensorFlow sets up once.
  pathlib.Path('/proc/self/clear_refs').write_text('5')
  before = _status('VmRSS')
  encode()
  print(_status('VmHWM') - before)


def _status(key: str) -> int:
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  values = dict(line.split(':', 1) for line in lines)
  return 1024 * int(values[key].split()[0])


def _output(arguments: Sequence[str]) -> str:
  command = [sys.executable, *arguments]
  return subprocess.run(command, check=True, stdout=-1, text=True).stdout


_GROUPS = {
  group.__name__: group
  for group in (fed_avg, bare_50, bare_10, sampler, growth, memory)
}


def _line(row: Row) -> str:
  theirs = '' if row.theirs is None else f'{row.theirs:.4g} {row.unit}'
  return (
    f'{row.name:48s} {row.ours:9.4g} {row.unit:2s} {theirs:>12s}'
    f' {row.figure:8.3f} {row.goal:8.3f}  {"met" if row.met else "MISSED"}'
  )


def main() -> None:
  """Prints the table, and writes it as JSON where asked to."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', nargs='+', choices=_GROUPS, default=_GROUPS)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--json', type=pathlib.Path)
  parser.add_argument('--peak', type=int, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.peak:
    _print_peak(arguments.peak)
    return
  tff.backends.test.set_sync_test_cpp_execution_context()
  print(f'{"":48s} {"ours":>12s} {"theirs":>12s} {"figure":>8s} {"goal":>8s}')
  rows = []
  for name in arguments.only:
    for row in _GROUPS[name](arguments.repeats):
      print(_line(row), flush=True)
      rows.append({**dataclasses.asdict(row), 'met': row.met})
  if arguments.json:
    arguments.json.write_text(json.dumps(rows, indent=2) + '\n')


if __name__ == '__main__':
  main()
