# SPDX-License-Identifier: Apache-2.0
"""Kills a training run at random moments, and compares ledger and truth.

The truth is a journal that is written beside the ledger, by the process that
trains: a line is synced to it when clients are asked, before a round is
computed, after it, and when it is released. Lines about other steps tell where
a kill came: half of the kills come right after a random line, for most steps
take a few milliseconds. Cohorts are allocated, so that a client that is asked
twice in an epoch is a violation too.

`python -m tests.program.kill_resume --kills 50` prints a JSON object: how many
kills came in which step, what was begun, run and released, and the violations.
It ends with 1 if there are any.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Sequence
import json
import math
import multiprocessing
import os
import pathlib
import random
import signal
import tempfile
import time
from typing import Any

# An empty cohort would be no part of an epoch: it has probability 1e-10.
POPULATION, EPOCH, DELTA = 80, 4, 1e-5
COHORT = POPULATION // EPOCH
_RUN = 'killed'
# Importing TFF takes longer than a life here: one process imports it, and
# each life is forked from that one.
_PRELOAD = ['tff_secagg_ext.aggregators', 'tff_secagg_ext.program']


# What a process is at that was killed after such a line, in order.
STEPS = {
  'life': 'set up',
  'ready': 'resume',
  'drawn': 'reserve',
  'reserved': 'run',
  'asked': 'run',
  'began': 'run',
  'ran': 'save',
  'saved': 'commit',
  'committed': 'release',
  'released': 'release',
}
_LINES_A_ROUND = 8


class Journal:
  """What really happened: a list of synced lines."""

  def __init__(self, path: pathlib.Path):
    self._path = path

  def write(self, what: str, about: Any = None) -> None:
    with open(self._path, 'a', encoding='utf-8') as file:
      file.write(json.dumps([what, about]) + '\n')
      file.flush()
      os.fsync(file.fileno())

  def __len__(self) -> int:
    """How many lines there are: cheap, as it is asked every millisecond."""
    return self._path.read_bytes().count(b'\n') if self._path.exists() else 0

  def read(self) -> list[tuple[str, Any]]:
    if not self._path.exists():
      return []
    lines = self._path.read_text(encoding='utf-8').splitlines()
    return [tuple(json.loads(line)) for line in lines]


def live(folder: pathlib.Path, rounds: int) -> None:
  """Trains until it is done or killed: the body of the killed process."""
  from tff_secagg_ext import _compat, program
  from tff_secagg_ext._compat import tff

  # A forked process lacks the thread of the context that TFF has made.
  tff.backends.native.set_sync_local_cpp_execution_context()
  journal = Journal(folder / 'journal')
  journal.write('life')
  recorder, data = _setting(folder)
  recorder = _with_journal(recorder, journal)
  journal.write('ready')
  account = recorder.account

  def client_data(members: Sequence[int]) -> list[Any]:
    journal.write('asked', [account.run.attempts - 1, list(members)])
    return [data[i] for i in members]

  plan = program.TrainingPlan(rounds, _cohorts(), folder / 'checkpoints')
  program.train(
    recorder,
    client_data,
    plan,
    on_round=lambda r: journal.write('released', r.entry.attempt.round),
  )
  _compat.end_workers()


def _cohorts() -> Any:
  from tff_secagg_ext import program

  return program.AllocatedCohorts(POPULATION, 1, EPOCH, 1, POPULATION)


def _setting(folder: pathlib.Path) -> tuple[Any, list[Any]]:
  """Returns a small process with its recorder, and the data of clients."""
  import numpy as np
  import tensorflow as tf

  import tff_secagg_ext
  from tff_secagg_ext._compat import tff

  def model() -> tff.learning.models.VariableModel:
    return tff.learning.models.from_keras_model(
      tf.keras.Sequential(
        [tf.keras.layers.InputLayer(input_shape=(4,)), tf.keras.layers.Dense(1)]
      ),
      loss=tf.keras.losses.MeanSquaredError(),
      input_spec=collections.OrderedDict(
        x=tf.TensorSpec([None, 4]), y=tf.TensorSpec([None, 1])
      ),
    )

  aggregator = tff_secagg_ext.ddp_secure_aggregator(
    1.0,
    COHORT,
    cohorts='poisson',
    min_contributors=1,
    max_contributors=POPULATION + 1,
  )
  process = tff.learning.algorithms.build_unweighted_fed_avg(
    model,
    client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.1),
    model_aggregator=aggregator,
    metrics_aggregator=tff_secagg_ext.no_client_metrics,
  )
  recorder = tff_secagg_ext.PrivacyRecorder(
    process,
    aggregator,
    ledger=folder / 'runs.db',
    run=tff_secagg_ext.program.RunDescription(_RUN, population=POPULATION),
    sampling=_cohorts().sampling,
    delta=DELTA,
  )
  features = np.random.default_rng(0).normal(size=(POPULATION, 8, 4))
  data = [
    tf.data.Dataset.from_tensors(
      collections.OrderedDict(
        x=x.astype(np.float32), y=x[:, :1].astype(np.float32)
      )
    )
    for x in features
  ]
  return recorder, data


def _with_journal(recorder: Any, journal: Journal) -> Any:
  """Makes a recorder write down the steps of each round."""
  from tff_secagg_ext.program import checkpoints

  class Observed:
    initialize = staticmethod(recorder.process.initialize)
    compute = staticmethod(recorder.process.next)

    def next(self, state: Any, data: Sequence[Any]) -> Any:
      journal.write('began')
      output = self.compute(state, data)
      journal.write('ran')
      return output

  recorder._process = Observed()
  account = recorder.account
  account.reserve = _told(journal, 'drawn', account.reserve, 'reserved')
  account.commit = _told(journal, '', account.commit, 'committed')
  checkpoints.Checkpoints.save = _told(
    journal, '', checkpoints.Checkpoints.save, 'saved'
  )
  return recorder


def _told(journal: Journal, before: str, action: Any, after: str) -> Any:
  """Returns `action`, with lines before and after it."""

  def told(*args: Any, **kwargs: Any) -> Any:
    if before:
      journal.write(before)
    result = action(*args, **kwargs)
    journal.write(after)
    return result

  return told


def kill_and_resume(
  folder: pathlib.Path, kills: int, rounds: int, seed: int
) -> list[str]:
  """Lives and dies `kills` times, then lives to the end.

  Returns:
    The step that each death came in.
  """
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(_PRELOAD)
  moments = random.Random(seed)
  journal, deaths = Journal(folder / 'journal'), []
  for _ in range(kills):
    life = context.Process(target=live, args=(folder, rounds))
    # Up to two rounds, then somewhere in the next.
    lines = len(journal) + moments.randint(1, 2 + 2 * _LINES_A_ROUND)
    life.start()
    while len(journal) < lines and life.is_alive():
      time.sleep(0.001)
    life.join(moments.choice([0.0, moments.uniform(0.0, 0.5)]))
    life.kill()
    life.join()
    if life.exitcode not in (0, -signal.SIGKILL):
      raise RuntimeError(f'A life ended by itself with {life.exitcode}.')
    deaths.append(STEPS[journal.read()[-1][0]])
  life = context.Process(target=live, args=(folder, rounds))
  life.start()
  life.join()
  if life.exitcode:
    raise RuntimeError(f'The last life ended with {life.exitcode}.')
  return deaths


def _count(lines: list[tuple[str, Any]], what: str) -> int:
  return sum(line[0] == what for line in lines)


def violations(folder: pathlib.Path, rounds: int) -> list[str]:
  """Returns where the ledger falls short of the journal; empty if nowhere."""
  from tff_secagg_ext import accounting
  from tff_secagg_ext.ledger import Ledger

  lines = Journal(folder / 'journal').read()
  with Ledger.open(folder / 'runs.db', create=False) as ledger:
    shown = ledger.show(_RUN)
  attempts = [a for r in shown['rounds'] for a in r['attempts']]
  committed = [
    r['round'] for r in shown['rounds'] if r['status'] == 'committed'
  ]
  began, ran = _count(lines, 'began'), _count(lines, 'ran')
  released = [number for what, number in lines if what == 'released']
  found = []
  if committed != list(range(1, rounds + 1)):
    found.append(f'committed rounds are {committed}')
  if len(attempts) < began:
    found.append(f'{began} rounds began, {len(attempts)} are in the ledger')
  if set(released) != set(committed):
    found.append(f'released rounds are {sorted(set(released))}')
  for number in set(committed):
    statuses = [a['status'] for a in shown['rounds'][number - 1]['attempts']]
    if statuses.count('committed') != 1 or 'reserved' in statuses:
      found.append(f'round {number} has the attempts {statuses}')
  charges = [accounting.from_json(json.dumps(a['charge'])) for a in attempts]
  true = accounting.release_epsilon(
    [charges[attempt] for attempt in _ran(lines)], DELTA
  ).value
  told = shown['release_epsilon']
  if told is None or not math.isfinite(told) or told < true * (1 - 1e-9):
    found.append(f'epsilon is {told}, of {ran} rounds that ran it is {true}')
  epochs = [getattr(c.sampling, 'epoch', None) for c in charges]
  if epochs != [f'{_RUN}/{i // EPOCH + 1}' for i in range(len(epochs))]:
    found.append(f'epochs are {epochs}')
  return found + _asked_twice(lines)


def _ran(lines: list[tuple[str, Any]]) -> list[int]:
  """The attempts that ran, by number."""
  ran, attempt = [], -1
  for what, about in lines:
    if what == 'asked':
      attempt, _ = about
    elif what == 'ran':
      ran.append(attempt)
  return ran


def _asked_twice(lines: list[tuple[str, Any]]) -> list[str]:
  """Attempts that were made again, and clients asked twice in an epoch."""
  found: list[str] = []
  attempts: set[int] = set()
  taken: set[tuple[int, int]] = set()
  for attempt, members in (about for what, about in lines if what == 'asked'):
    if attempt in attempts:
      found.append(f'attempt {attempt} was made twice')
    attempts.add(attempt)
    for place in [(attempt // EPOCH, member) for member in members]:
      if place in taken:
        found.append(f'client {place[1]} was asked twice in epoch {place[0]}')
      taken.add(place)
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--kills', type=int, default=50)
  parser.add_argument('--rounds', type=int, default=90)
  parser.add_argument('--seed', type=int, default=None)
  arguments = parser.parse_args()
  seed = arguments.seed
  if seed is None:
    seed = int.from_bytes(os.urandom(4), 'big')
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    deaths = kill_and_resume(folder, arguments.kills, arguments.rounds, seed)
    lines = Journal(folder / 'journal').read()
    found = violations(folder, arguments.rounds)
  summary = {
    'seed': seed,
    'kills': len(deaths),
    'steps': {step: deaths.count(step) for step in STEPS.values()},
    'committed': arguments.rounds,
    **{what: _count(lines, what) for what in ('began', 'ran', 'released')},
    'violations': found,
  }
  print(json.dumps(summary, indent=2))
  raise SystemExit(bool(found))


if __name__ == '__main__':
  main()
