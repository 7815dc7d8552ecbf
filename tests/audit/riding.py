# SPDX-License-Identifier: Apache-2.0
"""Runs with canaries through the secure context, audited, by the dozen.

  python -m tests.audit.riding [--repeats 10] [--folder FOLDER]

Trains a linear model in 2,000 coordinates, 32 canaries among 48 clients, four
rounds, at noise multipliers 0.3, 1 and 3, as often as asked; then the same with
half the noise that the account was told of. Prints how often lower bound,
estimate and epsilon were in that order, and how often half the noise was an
alarm. Ends with 1 if a bound was above epsilon in more than a fifth of the
honest runs, or fewer than nine of ten others were alarms.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Iterator
import contextlib
import functools
import pathlib
import sys
import tempfile
from typing import Any
from unittest import mock

import numpy as np

import tff_secagg_ext
from tff_secagg_ext import _compat, accounting, execution, program
from tff_secagg_ext._compat import tff
from tff_secagg_ext.mechanism import encoding

DELTA = 1e-6
FEATURES, COHORT, CANARIES, ROUNDS = 2000, 48, 32, 4
MULTIPLIERS = (0.3, 1.0, 3.0)


def build(aggregator: Any, features: int, momentum: float = 0.9) -> Any:
  """A process of one's own, whose clients can be canaries."""
  import tensorflow as tf  # After the package, which says which Keras to load.

  templates = tff.learning.templates

  def predict(weights: Any, x: Any, training: bool = True) -> Any:
    del training
    return tf.linalg.matvec(x, weights[0][0]) + weights[0][1]

  model = tff.learning.models.FunctionalModel(
    initial_weights=(
      (np.zeros(features, np.float32), np.zeros([], np.float32)),
      (),
    ),
    predict_on_batch_fn=tf.function(predict),
    loss_fn=lambda output, label, sample_weight=None: tf.reduce_mean(
      tf.square(output - label)
    ),
    input_spec=(
      tf.TensorSpec([None, features], tf.float32),
      tf.TensorSpec([None], tf.float32),
    ),
  )

  @tff.tensorflow.computation
  def initial_weights() -> Any:
    trainable = tuple(map(tf.convert_to_tensor, model.initial_weights[0]))
    return tff.learning.models.ModelWeights(trainable, ())

  weights = initial_weights.type_signature.result
  work = templates.build_functional_model_delta_client_work(
    model=model,
    optimizer=tff.learning.optimizers.build_sgdm(0.01),
    client_weighting=tff.learning.ClientWeighting.UNIFORM,
    metrics_aggregator=tff_secagg_ext.no_client_metrics,
  )
  return templates.compose_learning_process(
    initial_weights,
    templates.build_broadcast_process(weights),
    program.with_canaries(work),
    tff.aggregators.as_weighted_aggregator(aggregator).create(
      weights.trainable, tff.TensorType(np.float32)
    ),
    templates.build_apply_optimizer_finalizer(
      tff.learning.optimizers.build_sgdm(1.0, momentum), weights
    ),
  )


@functools.cache
def data(clients: int, features: int) -> list[Any]:
  """Data of clients, all of one linear law."""
  import tensorflow as tf

  generator = np.random.default_rng(0)
  truth = generator.normal(size=features) / np.sqrt(features)
  xs = generator.normal(size=(clients, 16, features)).astype(np.float32)
  ys = (xs @ truth).astype(np.float32)
  return [
    tf.data.Dataset.from_tensors(pair) for pair in zip(xs, ys, strict=True)
  ]


@contextlib.contextmanager
def half_the_noise() -> Iterator[None]:
  """All noise of processes that are made in the block has half its stddev."""
  halved = {
    name: functools.partial(_halved, sampler)
    for name, sampler in encoding.SAMPLERS.items()
  }
  with mock.patch.object(encoding, 'SAMPLERS', halved):
    yield


def _halved(sampler: Any, stddev: float) -> Any:
  return sampler(stddev / 2)


@functools.cache
def process_of(multiplier: float, halved: bool) -> tuple[Any, Any]:
  """Returns an aggregator and its process."""
  aggregator = tff_secagg_ext.ddp_secure_aggregator(
    multiplier, COHORT, bits=24, clipping=1.0
  )
  with half_the_noise() if halved else contextlib.nullcontext():
    return aggregator, build(aggregator, FEATURES)


@functools.cache
def context() -> Any:
  """Returns a secure context, which keeps what it has compiled."""
  return execution.create_secure_context(
    execution.SecureOptions(
      security=execution.Security('curious', corrupt=0.7, dropout=0.1),
      insecure_aggregates='forbid',
    )
  )


def audited(folder: pathlib.Path, multiplier: float, halved: bool) -> Any:
  """Returns the audit of one run, and the server's epsilon of its ledger."""
  aggregator, process = process_of(multiplier, halved)
  with tff.framework.get_context_stack().install(context()):
    recorder = tff_secagg_ext.PrivacyRecorder(
      process,
      aggregator,
      ledger=folder / 'runs.db',
      run='run',
      sampling=accounting.NoSampling(),
      delta=DELTA,
      canaries=program.CanaryClients(CANARIES, folder),
    )
    state = recorder.initialize()
    for _ in range(ROUNDS):
      clients = data(COHORT - CANARIES, FEATURES)
      state = recorder.next(state, clients).state
    found = recorder.audit_canaries()['one_shot']
  return found, recorder.account.run.entries[-1].server.value


def series(
  folder: pathlib.Path, multiplier: float, halved: bool, repeats: int
) -> dict[str, int]:
  """Prints the audits of some runs, and counts what they found."""
  found: collections.Counter[str] = collections.Counter()
  for number in range(repeats):
    place = folder / f'{multiplier}-{halved}-{number}'
    place.mkdir(parents=True)
    figures, server = audited(place, multiplier, halved)
    limit = figures['ledger_epsilon']
    found['alarms'] += figures['alarm']
    found['bounds in order'] += figures['lower_bound'] <= figures['estimate']
    found['estimates below'] += figures['estimate'] <= limit
    found['estimates below server'] += figures['estimate'] <= server
    print(
      f'z {multiplier:g}{" halved" if halved else ""}: lower bound'
      f' {figures["lower_bound"]:.3f}, estimate {figures["estimate"]:.3f},'
      f' epsilon {limit:.3f}, server {server:.3f}',
      flush=True,
    )
  print(f'z {multiplier:g}, halved {halved}: {dict(found)} of {repeats}')
  return dict(found)


def main() -> int:
  """Prints all figures; returns 1 if a goal is missed."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--repeats', type=int, default=10)
  parser.add_argument('--folder', type=pathlib.Path)
  arguments = parser.parse_args()
  met = True
  with tempfile.TemporaryDirectory() as temporary:
    folder = arguments.folder or pathlib.Path(temporary)
    for halved in (False, True):
      for multiplier in MULTIPLIERS:
        found = series(folder, multiplier, halved, arguments.repeats)
        share = found['alarms'] / arguments.repeats
        met &= share >= 0.9 if halved else share <= 0.2
  _compat.end_workers()
  print(f'goals met: {met}')
  return 0 if met else 1


if __name__ == '__main__':
  sys.exit(main())
