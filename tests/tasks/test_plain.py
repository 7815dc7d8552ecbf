# SPDX-License-Identifier: Apache-2.0
"""The plain loop trains what the process of TFF does."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from tff_secagg_ext import aggregators, metrics, tasks
from tff_secagg_ext._compat import tff
from tff_secagg_ext.tasks import plain

_ROUNDS = 3


@pytest.fixture(scope='module')
def task() -> tasks.Task:
  return tasks.load('digits')


@pytest.fixture(scope='module')
def clients(task: tasks.Task) -> plain.Clients:
  return plain.Clients.of(task)


def cohorts() -> np.ndarray:
  """Ten clients a round, of the first twelve."""
  draws = np.random.default_rng(0).random((_ROUNDS, 12)).argsort(axis=1)
  chosen = np.zeros((_ROUNDS, 360), bool)
  np.put_along_axis(chosen, draws[:, :10], True, axis=1)
  return chosen


def by_process(task: tasks.Task, aggregator: Any) -> list[np.ndarray]:
  """Weights after the rounds of `cohorts`; odd clients have no data."""
  process = task.build_process(aggregator, metrics.no_client_metrics, 0.0)
  state = process.initialize()
  for cohort in cohorts():
    data = [task.client_data(task.clients[i]) for i in np.flatnonzero(cohort)]
    kept = [
      each.take(0) if i % 2 else each
      for i, each in zip(np.flatnonzero(cohort), data, strict=True)
    ]
    state = process.next(state, kept).state
  return [np.asarray(w) for w in process.get_model_weights(state).trainable]


def by_loop(
  task: tasks.Task, clients: plain.Clients, server: plain.Server
) -> tuple[np.ndarray, ...]:
  return plain.train(
    task,
    clients,
    server,
    cohorts(),
    np.arange(360) % 2 == 0,
    np.random.default_rng(1),
  )


def test_federated_averaging_is_that_of_the_process(
  task: tasks.Task, clients: plain.Clients
) -> None:
  expected = by_process(task, tff.aggregators.UnweightedMeanFactory())
  found = by_loop(task, clients, plain.Server(4.0, 0.9))
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_clipping_and_the_divisor_are_those_of_the_process(
  task: tasks.Task, clients: plain.Clients
) -> None:
  """Up to rounding: a step of the grid is 10^-6 of the sum, or less."""
  clip = 0.1
  aggregator = aggregators.ddp_secure_aggregator(
    0.0,
    8,
    clipping=clip,
    cohorts='poisson',
    min_contributors=1,
    max_contributors=20,
  )
  expected = by_process(task, aggregator)
  found = by_loop(task, clients, plain.Server(4.0, 0.9, clip, 0.0, 8))
  unclipped = by_loop(task, clients, plain.Server(4.0, 0.9, None, 0.0, 8))
  for one, other, another in zip(found, expected, unclipped, strict=True):
    np.testing.assert_allclose(one, other, atol=2e-3)
    assert np.abs(other - another).max() > 0.1


def test_losses_are_those_of_the_model(
  task: tasks.Task, clients: plain.Clients
) -> None:
  weights = by_loop(task, clients, plain.Server(4.0, 0.9))
  found = clients.losses(weights)
  for n in range(4):
    (x, y), *_ = task.client_data(task.clients[n])
    logits = task.model.predict_on_batch((weights, ()), x)
    assert found[n] == pytest.approx(float(task.model.loss(logits, y)), 1e-4)


def test_noise_has_the_standard_deviation_that_is_asked_for() -> None:
  """Of 10^6 draws; six deviations of the estimate, and 0.9 of it is none."""
  server = plain.Server(1.0, 0.0, None, 0.3, 5)
  mean = server.mean(np.zeros([0, 10**6]), 1, np.random.default_rng(2))
  margin = 6 * 0.3 / math.sqrt(2 * 10**6)
  assert abs(mean.std() - 0.3) < margin < 0.03
  assert abs(mean.mean()) < 6 * 0.3 / 1000


def test_what_diverges_is_seen_in_the_losses(
  task: tasks.Task, clients: plain.Clients
) -> None:
  weights = by_loop(task, clients, plain.Server(math.inf, 0.9))
  assert not np.isfinite(clients.losses(weights)).all()


def test_other_models_are_refused(task: tasks.Task) -> None:
  weights = ((np.zeros(3, np.float32),), ())
  other = type('Model', (), {'initial_weights': weights})
  with pytest.raises(ValueError, match=r'must be logistic regression.*\[\(3,'):
    plain.Clients.of(dataclasses.replace(task, model=other))


def test_other_batches_are_refused(task: tasks.Task) -> None:
  def data(client: str) -> Any:
    both = task.client_data(client).concatenate(task.client_data('5'))
    return both.skip(4).take(2)

  with pytest.raises(ValueError, match=r'must take one batch, equally often'):
    plain.Clients.of(
      dataclasses.replace(task, clients=task.clients[:2], client_data=data)
    )
