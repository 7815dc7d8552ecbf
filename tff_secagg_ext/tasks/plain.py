# SPDX-License-Identifier: Apache-2.0
"""Federated averaging of logistic regression, as a plain loop in numpy.

What `Task.build_process` trains, in milliseconds a round: the same local steps,
clipping, mean, server optimizer and cohorts, with Gaussian noise of the right
standard deviation in the place of secure sums of rounded vectors. For models of
which many are needed and none is released, such as the shadow models of an
attack. It has no privacy: its noise is numpy's.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tff_secagg_ext.tasks import task as task_lib


@dataclasses.dataclass(frozen=True)
class Clients:
  """The data of all clients of a task, each one batch of its own.

  Attributes:
    x: float32[clients, most, features], padded with zeros.
    y: float32[clients, most, classes], one at the label.
    share: float32[clients, most, 1], one over the client's number of examples;
      0 where there is none.
    steps: How often a client takes its batch in a round.
  """

  x: task_lib.Array
  y: task_lib.Array
  share: task_lib.Array
  steps: int

  @classmethod
  def of(cls, task: task_lib.Task) -> Clients:
    """Reads the data of all clients.

    Raises:
      ValueError: If the model is not logistic regression, or a client's batches
        differ.
    """
    shapes = [np.shape(w) for w in task.model.initial_weights[0]]
    if len(shapes) != 2 or shapes[0][1:] != shapes[1]:
      raise ValueError(
        'The model of a plain loop must be logistic regression, with weights of'
        f' shapes [features, classes] and [classes]. Found {shapes} in the task'
        f" {task.name!r}. Use the task 'digits'."
      )
    batches = [list(task.client_data(client)) for client in task.clients]
    if any(
      len(b) != len(batches[0]) or not np.array_equal(x, b[0][0])
      for b in batches
      for x, _ in b
    ):
      raise ValueError(
        'Each client of a plain loop must take one batch, equally often. Found'
        f" other batches in the task {task.name!r}. Use the task 'digits'."
      )
    return cls._padded(
      [b[0][0].numpy() for b in batches],
      [np.eye(shapes[1][0])[b[0][1].numpy()] for b in batches],
      len(batches[0]),
    )

  @classmethod
  def _padded(
    cls, x: list[task_lib.Array], y: list[task_lib.Array], steps: int
  ) -> Clients:
    most = max(map(len, x))

    def padded(rows: list[task_lib.Array]) -> task_lib.Array:
      ends = [((0, most - len(r)), (0, 0)) for r in rows]
      full = [np.pad(r, end) for r, end in zip(rows, ends, strict=True)]
      return np.asarray(np.stack(full), np.float32)

    share = [np.full([len(each), 1], 1.0 / len(each)) for each in x]
    return cls(padded(x), padded(y), padded(share), steps)

  def losses(self, weights: task_lib.Weights) -> task_lib.Array:
    """Returns float64[clients], the mean cross-entropy of each, in nats."""
    logits = self.x @ np.float64(weights[0]) + np.float64(weights[1])
    highest = logits.max(axis=-1, keepdims=True)
    logits = logits - highest
    normalizer = np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    of_labels = (self.y * (normalizer - logits)).sum(axis=-1, keepdims=True)
    return np.asarray((self.share * of_labels).sum(axis=(1, 2)))

  def updates(
    self, weights: task_lib.Weights, chosen: task_lib.Array, rate: float
  ) -> task_lib.Array:
    """Returns float32[chosen, parameters], the updates of some clients.

    Args:
      weights: float32 [features, classes] and [classes].
      chosen: int[chosen], their indices.
      rate: Of their gradient descent.
    """
    x, y, share = self.x[chosen], self.y[chosen], self.share[chosen]
    transposed = x.transpose(0, 2, 1).copy()
    matrix = np.repeat(weights[0][None], len(chosen), axis=0)
    offset = np.repeat(weights[1][None, None], len(chosen), axis=0)
    for _ in range(self.steps):
      logits = x @ matrix + offset
      powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
      error = (powers / powers.sum(axis=-1, keepdims=True) - y) * share
      matrix -= np.float32(rate) * (transposed @ error)
      offset -= np.float32(rate) * error.sum(axis=1, keepdims=True)
    matrix, offset = matrix - weights[0], offset - weights[1]
    flat = matrix.reshape(len(chosen), weights[0].size)
    return np.concatenate([flat, offset[:, 0]], axis=1)


@dataclasses.dataclass(frozen=True)
class Server:
  """What the server does with the updates of a cohort.

  Attributes:
    rate: Of its SGD.
    momentum: Of its SGD, in [0, 1).
    clip_norm: L2 norm that updates are clipped to; None for none.
    noise_stddev: Of a coordinate of the mean.
    divisor: What the sum is divided by; None for the number of the cohort.
  """

  rate: float
  momentum: float
  clip_norm: float | None = None
  noise_stddev: float = 0.0
  divisor: float | None = None

  def mean(
    self,
    updates: task_lib.Array,
    cohort: int,
    generator: np.random.Generator,
  ) -> task_lib.Array:
    """Returns float32[parameters], the noised mean over a cohort.

    Args:
      updates: float32[members, parameters]; others of the cohort sent zero.
      cohort: How many clients were in it, at least 1.
      generator: Of the noise.
    """
    if self.clip_norm is not None:
      norms = np.linalg.norm(updates, axis=1, keepdims=True)
      updates = updates * np.minimum(
        1.0, self.clip_norm / np.maximum(norms, np.finfo(np.float32).tiny)
      )
    noise = self.noise_stddev * generator.standard_normal(updates.shape[1])
    divisor = cohort if self.divisor is None else self.divisor
    return np.asarray(updates.sum(axis=0) / divisor + noise, np.float32)


# What diverges is found in the losses.
@np.errstate(over='ignore', invalid='ignore')
def train(
  task: task_lib.Task,
  clients: Clients,
  server: Server,
  cohorts: task_lib.Array,
  members: task_lib.Array,
  generator: np.random.Generator,
) -> task_lib.Weights:
  """Returns the weights after a round for each cohort.

  Args:
    task: Whose model and client learning rate these are.
    clients: Its clients.
    server: What becomes of their updates.
    cohorts: bool[rounds, clients], who takes part.
    members: bool[clients]; whoever is none sends zeros.
    generator: Of the noise.
  """
  shape = np.shape(task.model.initial_weights[0][0])
  flat = np.concatenate(
    [np.ravel(w) for w in task.model.initial_weights[0]]
  ).astype(np.float32)
  moving = np.zeros_like(flat)
  size = int(np.prod(shape))
  rate = task.training.client_learning_rate
  for cohort in cohorts:
    weights = (flat[:size].reshape(shape), flat[size:])
    chosen = np.flatnonzero(cohort & members)
    updates = clients.updates(weights, chosen, rate)
    mean = server.mean(updates, max(1, int(cohort.sum())), generator)
    moving = np.float32(server.momentum) * moving + mean
    flat = flat + np.float32(server.rate) * moving
  return flat[:size].reshape(shape), flat[size:]
