# SPDX-License-Identifier: Apache-2.0
"""Trains on planted data, and provokes errors; all that it writes is kept.

Each client has the same data, `markers.DATA`, and an id that is a marker; the
model starts at 0, so that in the first round each update is `markers.UPDATE`.
The secrets of the protocol are told to the test, outside of the folder.

Run it as `python -m tests.program.planted_run FOLDER SECRETS`, with its output
in files of FOLDER.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Iterator
import contextlib
import gc
import importlib.util
import json
import logging
import pathlib
import sqlite3
import sys
import traceback
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf
import typer.testing

from tests.program import markers
import tff_secagg_ext
from tff_secagg_ext import _compat, execution, program, tasks
from tff_secagg_ext._compat import tff
from tff_secagg_ext.cli.app import app
from tff_secagg_ext.ledger import chain
from tff_secagg_ext.secagg import keys, shamir
from tff_secagg_ext.tasks import task as task_lib

POPULATION, COHORT, DELTA = 12, 6, 1e-3
IDS = [f'{markers.CLIENT}{number}' for number in range(POPULATION)]
_SECURITY = execution.Security('malicious', corrupt=0.1, dropout=0.3)

_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def _told(secrets: pathlib.Path) -> Iterator[None]:
  """Tells the secrets of the block, by kind, in hexadecimal digits."""
  known: dict[str, list[str]] = {'key': [], 'salt': []}

  def spy(original: Callable[..., Any], argument: int | None = None) -> Any:
    def observed(*args: Any, **kwargs: Any) -> Any:
      returned = original(*args, **kwargs)
      secret = returned if argument is None else args[argument]
      if isinstance(secret, str):
        known['salt'].append(secret)
      else:
        known['key'].append(secret.hex())
      return returned

    return observed

  with (
    mock.patch.object(keys.KeyPair, '__init__', spy(keys.KeyPair.__init__, 1)),
    mock.patch.object(keys, 'derive', spy(keys.derive)),
    mock.patch.object(shamir, 'share', spy(shamir.share, 0)),
    mock.patch.object(chain, 'new_salt', spy(chain.new_salt)),
  ):
    yield
  secrets.write_text(json.dumps(known), encoding='utf-8')


def _model() -> Any:
  return tff.learning.models.from_keras_model(
    tf.keras.Sequential(
      [
        tf.keras.layers.InputLayer(input_shape=(4,)),
        tf.keras.layers.Dense(1, kernel_initializer='zeros'),
      ]
    ),
    loss=tf.keras.losses.MeanSquaredError(),
    input_spec=collections.OrderedDict(
      x=tf.TensorSpec([None, 4]), y=tf.TensorSpec([None, 1])
    ),
  )


@tff.tensorflow.computation(np.str_)
def _dataset(client: Any) -> Any:
  """The data of a client; an id that ends in no number is an error."""
  number = tf.strings.to_number(
    tf.strings.regex_replace(client, f'^{markers.CLIENT}([0-9]+|nan)$', r'\1')
  )
  number = tf.where(tf.math.is_nan(number), number, 0.0)
  x = tf.constant([markers.DATA] * 8) + number
  return tf.data.Dataset.from_tensors(
    collections.OrderedDict(x=x, y=tf.ones([8, 1]))
  )


def _process(aggregator: Any) -> Any:
  # The gradient at 0 is -2 y x, and y is 1.
  process = tff.learning.algorithms.build_unweighted_fed_avg(
    _model,
    client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.25),
    model_aggregator=aggregator,
    metrics_aggregator=tff_secagg_ext.no_client_metrics,
  )
  return tff.simulation.compose_dataset_computation_with_learning_process(
    _dataset, process
  )


@contextlib.contextmanager
def _installed(folder: pathlib.Path, **changes: Any) -> Iterator[None]:
  options = execution.SecureOptions(
    _SECURITY,
    min_contributors=2,
    transcripts=folder / 'transcripts',
    **changes,
  )
  context = execution.create_secure_context(options)
  with tff.framework.get_context_stack().install(context):
    yield


def _recorder(folder: pathlib.Path, run: str) -> Any:
  aggregator = tff_secagg_ext.ddp_secure_aggregator(1.0, COHORT)
  return program.PrivacyRecorder(
    _process(aggregator),
    aggregator,
    ledger=folder / 'runs.db',
    run=program.RunDescription(run, population=POPULATION),
    sampling=program.FixedCohorts(POPULATION, COHORT).sampling,
    delta=DELTA,
  )


def _train(folder: pathlib.Path) -> Any:
  """Trains two rounds, with the privacy figures in TensorBoard."""
  recorder = _recorder(folder, 'trained')
  sinks = [program.PrivacyReleaseManager(recorder, _Files(folder))]
  # Not every release of TensorFlow comes with it.
  if importlib.util.find_spec('tensorboard') is not None:
    logs = tff.program.TensorBoardReleaseManager(folder / 'board')
    sinks.append(program.PrivacyReleaseManager(recorder, logs))

  def release(record: program.RoundRecord) -> None:
    for sink in sinks:
      asyncio.run(sink.release({}, record.entry.attempt.round))

  result = program.train(
    recorder,
    lambda members: [IDS[member] for member in members],
    program.TrainingPlan(
      2, program.FixedCohorts(POPULATION, COHORT), folder / 'checkpoints'
    ),
    on_round=release,
  )
  _note(folder / 'reprs', recorder, recorder.account, recorder.account.run)
  _note(folder / 'reprs', recorder.account.run.entries, result.rounds)
  return recorder


class _Files(tff.program.ReleaseManager):
  """Appends what is released to a file."""

  def __init__(self, folder: pathlib.Path):
    self._path = folder / 'released'

  async def release(self, value: Any, key: Any) -> None:
    _note(self._path, key, value)


def _note(path: pathlib.Path, *values: object) -> None:
  with open(path, 'a', encoding='utf-8') as file:
    for value in values:
      file.write(f'{value!r}\n{value}\n')


def _provoke(folder: pathlib.Path, name: str, action: Callable[[], Any]) -> str:
  """Writes the error of an action, with all that it leads to."""
  try:
    action()
  except Exception as error:
    # Somebody's handler, who logs what he catches.
    _logger.error('%s failed', name, exc_info=True)
    seen, left = [], [error]
    while left:
      each: Any = left.pop()
      if each is not None and each not in seen:
        seen.append(each)
        left += [each.__cause__, each.__context__]
        _note(folder / 'exceptions', each, each.args)
    text = ''.join(traceback.format_exception(error))
    _note(folder / 'exceptions', name, text)
    return type(error).__name__
  return ''


def _failures(folder: pathlib.Path, recorder: Any) -> dict[str, str]:
  """Runs rounds that fail, and returns which error each ended with."""
  state, good = recorder.initialize(), IDS[:COHORT]
  broken, nan = f'{markers.CLIENT}broken', f'{markers.CLIENT}nan'
  bad: dict[str, Any] = {
    'a client that cannot be read': [broken, *good[1:]],
    'a client of another kind': [markers.DATA[0], *good[1:]],
    'a client of another shape': [np.array(markers.DATA), *good[1:]],
    'clients that are no list': dict.fromkeys(good),
    'clients that are an array': np.array(markers.DATA),
    'a client without numbers': [nan, *good[1:]],
  }
  return {
    name: _provoke(folder, name, lambda data=data: recorder.next(state, data))
    for name, data in bad.items()
  }


def _in_a_program(folder: pathlib.Path) -> str:
  """Runs a round that fails where `next` returns references."""
  ids = [f'{markers.CLIENT}broken', *IDS[1:COHORT]]

  async def run() -> None:
    context = tff.program.NativeFederatedContext(
      tff.backends.native.create_async_local_cpp_execution_context()
    )
    with tff.framework.get_context_stack().install(context):
      recorder = _recorder(folder, 'program')
      output = recorder.next(recorder.initialize(), ids)
      await tff.program.materialize_value(output.state)

  ended = _provoke(folder, 'a federated program', lambda: asyncio.run(run()))
  gc.collect()  # What nobody has asked for is logged when it goes.
  return ended


def _broken_database(folder: pathlib.Path, recorder: Any) -> str:
  """Runs a round whose row cannot be written, and mends the ledger."""
  compute = recorder.next._computation
  other = sqlite3.connect(folder / 'runs.db', isolation_level=None)
  rename = 'ALTER TABLE {} RENAME TO {}'

  class Breaking(tff.Computation):
    type_signature = compute.type_signature

    def __hash__(self) -> int:
      return 0

    def __call__(self, *args: Any) -> Any:
      output = compute(*args)
      other.execute(rename.format('entries', 'gone'))
      return output

  recorder.next._computation = Breaking()
  try:
    return _provoke(
      folder,
      'a ledger that breaks',
      lambda: recorder.next(recorder.initialize(), IDS[:COHORT]),
    )
  finally:
    other.execute(rename.format('gone', 'entries'))
    other.close()


def _task() -> task_lib.Task:
  """The task digits, with planted clients."""
  original = tasks.load('digits')
  x = np.tile(np.array(markers.DATA, np.float32), [2, 16])

  def client_data(client: str) -> Any:
    assert client.startswith(markers.CLIENT)
    return tf.data.Dataset.from_tensors((x, np.zeros(2, np.int32)))

  return task_lib.Task(
    original.name,
    original.unit_of_privacy,
    IDS,
    client_data,
    original.held_out,
    original.model,
    original.training,
  )


def _commands(folder: pathlib.Path) -> list[int]:
  """Runs the command line, and returns its exit codes."""
  ledger = f'--ledger=sqlite:///{folder}/runs.db'
  transcripts = sorted(map(str, (folder / 'transcripts').iterdir()))
  calls = [
    [
      *('train', '--rounds=1', '--cohorts=fixed', '--delta=0.01'),
      *(f'--clients-per-round={COHORT}', f'--checkpoints={folder}/cli'),
      *(f'--transcripts={folder}/transcripts', ledger),
    ],
    ['ledger', 'show', 'trained', '--server-view', '--json', ledger],
    ['ledger', 'show', 'trained', ledger],
    ['ledger', 'list', '--json', ledger],
    ['ledger', 'verify', ledger],
    ['ledger', 'export', 'trained', '--redacted', ledger],
    ['secagg', 'verify', transcripts[0]],
  ]
  runner, codes = typer.testing.CliRunner(), []
  with mock.patch.object(tasks, 'load', return_value=_task()):
    for call in calls:
      result = runner.invoke(app, call)
      _note(folder / 'commands', result.output, result.exception)
      codes.append(result.exit_code)
  return codes


def main(folder: pathlib.Path, secrets: pathlib.Path) -> None:
  """Writes into `folder`, and what became of it to the standard output."""
  logging.basicConfig(
    filename=folder / 'log', level=logging.DEBUG, force=True, encoding='utf-8'
  )
  with _told(secrets):
    with _installed(folder):
      recorder = _train(folder)
      ended = _failures(folder, recorder)
      ended['a ledger that breaks'] = _broken_database(folder, recorder)
    lost = execution.Dropouts({'mask': 1.0})
    with _installed(folder, dropouts=lost):
      recorder = _recorder(folder, 'aborted')
      ended['a session that is aborted'] = _provoke(
        folder,
        'a session that is aborted',
        lambda: recorder.next(recorder.initialize(), IDS[:COHORT]),
      )
    codes = _commands(folder)
  ended['a federated program'] = _in_a_program(folder)
  # Without secure sums as well: TFF shows more of what it is given there.
  aggregates = _recorder(folder, 'plain')
  for name, kind in _failures(folder, aggregates).items():
    ended[f'{name}, summed by TFF'] = kind
  print(json.dumps({'ended': ended, 'codes': codes}))
  _compat.end_workers()


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
