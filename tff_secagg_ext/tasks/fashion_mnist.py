# SPDX-License-Identifier: Apache-2.0
"""Fashion-MNIST: 70,000 images of 28 x 28 pixels, from Debian's package.

The package's 10,000 test images are held out; the 60,000 others are spread
evenly over 1,000 clients. The model is logistic regression on 14 x 14 pixels.
"""

from __future__ import annotations

import gzip
import pathlib

import numpy as np
import tensorflow as tf

from tff_secagg_ext.tasks import task as task_lib

FOLDER = pathlib.Path('/usr/share/datasets/fashion-mnist')

_CLIENTS = 1000
_BATCH = 20
_SIDE = 14


def load(folder: pathlib.Path = FOLDER) -> task_lib.Task:
  """Returns the task.

  Args:
    folder: Where the four files of the data set are.

  Raises:
    TaskDataError: If they are not there.
  """
  x, y = _read(folder, 'train')
  held_out = _read(folder, 't10k')
  # Public, and no secret: only who holds which image.
  order = np.random.RandomState(0).permutation(len(y))
  shards = np.array_split(order, _CLIENTS)

  def client_data(client: str) -> tf.data.Dataset:
    shard = shards[int(client)]
    return tf.data.Dataset.from_tensor_slices((x[shard], y[shard])).batch(
      _BATCH
    )

  return task_lib.Task(
    name='fashion-mnist',
    unit_of_privacy='client (60 images)',
    clients=tuple(map(str, range(_CLIENTS))),
    client_data=client_data,
    held_out=held_out,
    model=task_lib.classifier(
      (np.zeros([_SIDE**2, 10], np.float32), np.zeros([10], np.float32)),
      lambda weights, x: x @ weights[0] + weights[1],
      tf.TensorSpec([None, _SIDE**2], tf.float32),
      tf.TensorSpec([None], tf.int32),
    ),
    training=task_lib.Training(
      rounds=60,
      clients_per_round=100,
      delta=1e-4,
      client_learning_rate=0.1,
      server_learning_rate=1.0,
      noise_damping=0.5,
    ),
  )


def _read(
  folder: pathlib.Path, part: str
) -> tuple[task_lib.Array, task_lib.Array]:
  """Reads the images, averaged over 2 x 2 pixels, and labels of a part."""
  labels = _read_idx(folder / f'{part}-labels-idx1-ubyte', 8)
  pixels = _read_idx(folder / f'{part}-images-idx3-ubyte', 16)
  if len(pixels) != len(labels) * 4 * _SIDE**2:
    raise task_lib.TaskDataError(
      f'The files {part}-* in {str(folder)!r} must be images of 28 x 28 pixels'
      f' and as many labels. Found {len(pixels)} pixels and {len(labels)}'
      ' labels. Install them anew: `apt-get install --reinstall'
      ' dataset-fashion-mnist`.'
    )
  tiles = pixels.reshape(-1, _SIDE, 2, _SIDE, 2).mean(axis=(2, 4)) / 255
  x = tiles.reshape(-1, _SIDE**2).astype(np.float32)
  return x, labels.astype(np.int32)


def _read_idx(path: pathlib.Path, header: int) -> task_lib.Array:
  """Reads the bytes after the header of a file, compressed or not."""
  packed = path.with_name(path.name + '.gz')
  if packed.exists():
    content = gzip.decompress(packed.read_bytes())
  elif path.exists():
    content = path.read_bytes()
  else:
    raise task_lib.TaskDataError(
      f'The task fashion-mnist needs {path.name} in {str(path.parent)!r}.'
      ' Found no such file. Install it with `apt-get install'
      ' dataset-fashion-mnist`.'
    )
  return np.frombuffer(content, np.uint8, offset=header)
