# SPDX-License-Identifier: Apache-2.0
"""Handwritten digits: 1,797 images of 8 x 8 pixels, from scikit-learn.

Every fifth image is held out; the others are spread evenly over 360 clients,
about four images each. The model is logistic regression, 650 parameters.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from tff_secagg_ext.tasks import task as task_lib

_CLIENTS = 360
_LOCAL_STEPS = 5
_SEED_OF_THE_SPREAD = 0


def load() -> task_lib.Task:
  """Returns the task."""
  from sklearn import datasets

  pixels, labels = datasets.load_digits(return_X_y=True)
  x, y = features(pixels), labels.astype(np.int32)
  held_out = np.arange(len(y)) % 5 == 4
  training = np.flatnonzero(~held_out)
  # Public, and no secret: only who holds which image.
  order = np.random.RandomState(_SEED_OF_THE_SPREAD).permutation(training)
  shards = np.array_split(order, _CLIENTS)

  @functools.cache
  def client_data(client: str) -> tf.data.Dataset:
    shard = shards[int(client)]
    batches = tf.data.Dataset.from_tensors((x[shard], y[shard]))
    return batches.repeat(_LOCAL_STEPS)

  return task_lib.Task(
    name='digits',
    unit_of_privacy='client (about four images)',
    clients=tuple(map(str, range(_CLIENTS))),
    client_data=client_data,
    held_out=(x[held_out], y[held_out]),
    model=task_lib.classifier(
      (np.zeros([64, 10], np.float32), np.zeros([10], np.float32)),
      lambda weights, x: x @ weights[0] + weights[1],
      tf.TensorSpec([None, 64], tf.float32),
      tf.TensorSpec([None], tf.int32),
    ),
    training=task_lib.Training(
      rounds=60,
      clients_per_round=100,
      delta=1e-3,
      client_learning_rate=0.3,
      server_learning_rate=4.0,
      noise_damping=1.0,
      clip_norm=0.1,
    ),
  )


def features(pixels: task_lib.Array) -> task_lib.Array:
  """Scales pixels, and takes off what most images of digits share.

  What all images share tells no digit from another, but takes up norm under
  the clip. Ink is even over the rows and fades to the sides: the two fixed
  patterns that say so are projected out. They were chosen once, by
  cross-validation on these very digits: a run on other private data would have
  to account for such a choice.

  Args:
    pixels: float[n, 64], in [0, 16].

  Returns:
    float32[n, 64].
  """
  column = np.arange(8)
  fading = np.sin(np.pi * (column + 0.5) / 8)
  patterns = np.stack([np.ones(64), np.tile(fading, 8)], axis=1)
  basis, _ = np.linalg.qr(patterns)
  scaled = pixels / 8
  return np.asarray(scaled - scaled @ basis @ basis.T, np.float32)
