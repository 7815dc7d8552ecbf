# SPDX-License-Identifier: Apache-2.0
"""A federated run and one with Opacus on the same people, as one account.

  python -m benchmarks.hybrid [--opacus-venv DIR] [--rounds 10]

359 clients with five handwritten digits each. Opacus 1.6.0 trains on all of
them at a curator, a client being one record, in an environment of its own that
is made if there is none. Its history is imported by `tff-secagg ledger
import-external`, a federated run is recorded beside it by a `PrivacyRecorder`,
and `tff-secagg ledger epsilon` composes both.

The goals: the import gives the epsilon of Opacus' PRV accountant within its
error, and of its RDP accountant to 1e-6 at its orders; both runs together give
what dp_accounting's PLD accountant gives, within 0.1 %, in both views.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
from typing import Any
import venv

import dp_accounting
from dp_accounting import pld as dp_pld
from dp_accounting import rdp as dp_rdp
import numpy as np
import sklearn.datasets

import tff_secagg_ext
from tff_secagg_ext import accounting, program
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.accounting import costs, dp_events, renyi

_ROOT = pathlib.Path(__file__).parents[1]
_OPACUS = 'opacus==1.6.0'
_CLIENTS, _IMAGES, _COHORT = 359, 5, 36
_DELTA = 1e-3
_EPS_ERROR = 0.01
_ALPHAS = [1 + x / 10.0 for x in range(1, 100)] + list(range(12, 64))
_TOLERANCE = 1e-3


def _environment(folder: pathlib.Path) -> pathlib.Path:
  """Returns the Python of an environment with Opacus; makes it if need be."""
  python = folder / 'bin/python'
  if not python.exists():
    venv.create(folder, with_pip=True)
    subprocess.run([python, '-m', 'pip', 'install', '-q', _OPACUS], check=True)
  return python


def _data() -> tuple[np.ndarray, np.ndarray]:
  """Images in [0, 1] and labels, of shapes [clients, images(, 64)]."""
  images, labels = sklearn.datasets.load_digits(return_X_y=True)
  used = _CLIENTS * _IMAGES
  x = (images[:used] / 16).astype(np.float32)
  return x.reshape(_CLIENTS, _IMAGES, 64), labels[:used].reshape(
    _CLIENTS, _IMAGES
  )


def _train_with_opacus(python: pathlib.Path, folder: pathlib.Path) -> Any:
  x, y = _data()
  np.savez(folder / 'data.npz', x=x, y=y)
  script = pathlib.Path(__file__).with_name('opacus_training.py')
  done = subprocess.run(
    [python, script, folder / 'data.npz', str(_DELTA)],
    check=True,
    capture_output=True,
    text=True,
    timeout=600,
    env={**os.environ, 'PYTHONPATH': str(_ROOT)},
  )
  return json.loads(done.stdout.splitlines()[-1])


def _train_federated(ledger: pathlib.Path, rounds: int) -> None:
  """Trains with random cohorts of a fixed size, recorded."""
  import tensorflow as tf
  import tensorflow_federated as tff

  x, y = _data()

  def client(index: int) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((x[index], y[index])).batch(5)

  def model_fn() -> Any:
    return tff.learning.models.from_keras_model(
      tf.keras.Sequential([tf.keras.layers.Dense(10, input_shape=(64,))]),
      loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
      input_spec=client(0).element_spec,
    )

  aggregator = tff_secagg_ext.ddp_secure_aggregator(
    4.0, expected_clients_per_round=_COHORT
  )
  process = tff_secagg_ext.PrivacyRecorder(
    tff.learning.algorithms.build_unweighted_fed_avg(
      model_fn,
      client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.5),
      model_aggregator=aggregator,
      metrics_aggregator=tff_secagg_ext.no_client_metrics,
    ),
    aggregator,
    ledger=ledger,
    run=program.RunDescription(
      'phones', population=_CLIENTS, population_name='people'
    ),
    sampling=accounting.FixedSizeSampling(_COHORT, _CLIENTS),
    delta=_DELTA,
  )
  state = process.initialize()
  draw = random.SystemRandom()
  for _ in range(rounds):
    cohort = draw.sample(range(_CLIENTS), _COHORT)
    state = process.next(state, [client(index) for index in cohort]).state


def _command(ledger: pathlib.Path, *arguments: object) -> str:
  app = 'from tff_secagg_ext.cli.app import app; app()'
  done = subprocess.run(
    [
      *(sys.executable, '-c', app, 'ledger'),
      *map(str, arguments),
      f'--ledger=sqlite:///{ledger}',
    ],
    check=True,
    stdout=subprocess.PIPE,
    text=True,
    env={**os.environ, 'PYTHONPATH': str(_ROOT)},
  )
  return done.stdout


def _rdp(events: list[Any]) -> float:
  """Opacus' RDP conversion, of dp_accounting's divergences of the events."""
  accountant = dp_rdp.RdpAccountant(_ALPHAS)
  for event in events:
    accountant.compose(event)
  divergences, orders = accountant.rdp, np.array(_ALPHAS)
  return renyi.epsilon_from_renyi(divergences, _DELTA, orders)


def _server_oracle(rounds: list[accounting.Round], events: list[Any]) -> float:
  """Both runs in dp_accounting: rounds unsampled, as the server sees them."""
  accountant = dp_pld.PLDAccountant()
  for each in rounds:
    cost = costs.round_cost(each, 'server')
    accountant.compose(dp_accounting.GaussianDpEvent(cost.squared_ratio**-0.5))
  for event in events:
    accountant.compose(event)
  return float(accountant.get_epsilon(_DELTA))


def _met(what: str, ours: float, theirs: float, within: float) -> bool:
  met = abs(ours - theirs) <= within
  print(f'  {what:34s} {ours:9.5f} {theirs:9.5f}  within {within:.3g}: {met}')
  return met


def _compare(found: Any, ledger: pathlib.Path) -> bool:
  """Prints our figures beside those of others; whether all goals are met."""
  told = json.loads(
    _command(ledger, 'epsilon', '--population=people', '--json')
  )
  silo, phones = (
    next(i for i in told['items'] if i['run'] == run)
    for run in ('silo', 'phones')
  )
  with ledger_lib.Ledger.open(ledger) as opened:
    rounds = [c for c, _ in ledger_lib.charges(opened.show('phones'))]
    imported = [c for c, _ in ledger_lib.charges(opened.show('silo'))]
  recorded = [accounting.from_json(text) for text in found['events']]
  assert [c.external.event for c in imported] == [e.event for e in recorded]
  events = [
    dp_events.build(dp_events.parse(c.external.event)) for c in imported
  ]
  print('                                         here    theirs')
  prv = found['prv'] - _EPS_ERROR  # It tells the upper end.
  met = _met('Opacus alone, PRV', silo['release_epsilon'], prv, _EPS_ERROR)
  met &= _met('Opacus alone, RDP', _rdp(events), found['rdp'], 1e-6)
  both = told['server_epsilon']
  oracle = _server_oracle(rounds, events)
  met &= _met('both, server view, dp_accounting', both, oracle, both / 1e3)
  released = told['release_epsilon']
  least = max(silo['release_epsilon'], phones['release_epsilon'])
  most = silo['release_epsilon'] + phones['release_epsilon']
  print(
    f'  both, release view: {released:.5f}, of {silo["release_epsilon"]:.5f}'
    f' with Opacus and {phones["release_epsilon"]:.5f} federated'
  )
  return met and least <= released <= most


def main() -> None:
  """Trains twice, prints the account; fails if a goal is missed."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--opacus-venv', type=pathlib.Path)
  parser.add_argument('--rounds', type=int, default=10)
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    ledger = folder / 'runs.db'
    python = _environment(arguments.opacus_venv or folder / 'venv')
    found = _train_with_opacus(python, folder)
    print(
      f'Opacus {found["version"]}: accuracy {found["accuracy"]:.3f}, history'
      f' {found["history"]}, delta {_DELTA:g}'
    )
    history = folder / 'history.json'
    history.write_text(json.dumps(found['history']))
    _command(
      *(ledger, 'import-external', history, '--run=silo', '--size', _CLIENTS),
      *('--population=people', '--delta', _DELTA, '--vouched-by=a curator'),
      *('--source', f'opacus {found["version"]}'),
    )
    _train_federated(ledger, arguments.rounds)
    print(_command(ledger, 'epsilon', '--population=people'))
    if not _compare(found, ledger):
      sys.exit(1)


if __name__ == '__main__':
  main()
