# SPDX-License-Identifier: Apache-2.0
"""What a training task is: clients with data, a model, held-out data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tff_secagg_ext import _validate
from tff_secagg_ext._compat import tff

Array: TypeAlias = npt.NDArray[Any]
Weights: TypeAlias = tuple[Any, ...]
ClientWork: TypeAlias = tff.learning.templates.ClientWorkProcess

# How many held-out examples are evaluated at once.
_EVALUATION_BATCH = 512


class TaskDataError(Exception):
  """The data of a task are not installed."""


@dataclasses.dataclass(frozen=True)
class Training:
  """Settings that suit a task, chosen once and the same for every run.

  Attributes:
    rounds: Rounds of a run.
    clients_per_round: Expected size of a cohort.
    delta: The delta at which epsilon is told, below 1 / clients.
    client_learning_rate: Of each client's SGD.
    server_learning_rate: Of the server's SGD, without noise.
    noise_damping: The server's rate is divided by 1 + noise_damping * noise
      multiplier: the more noise, the smaller the steps.
    clip_norm: L2 norm that a client's update is clipped to; `None` for a
      norm that adapts.
    momentum: Of the server's SGD, in [0, 1).
  """

  rounds: int
  clients_per_round: int
  delta: float
  client_learning_rate: float
  server_learning_rate: float
  noise_damping: float = 0.0
  clip_norm: float | None = None
  momentum: float = 0.9

  def server_rate(self, noise_multiplier: float) -> float:
    """Returns the learning rate of the server's SGD with noise.

    Args:
      noise_multiplier: Of the aggregator, at least 0.
    """
    noise = _validate.check_float(
      noise_multiplier, 'noise_multiplier', minimum=0.0
    )
    return self.server_learning_rate / (1 + self.noise_damping * noise)


@dataclasses.dataclass(frozen=True)
class Task:
  """A federated classification problem.

  - The training data of a client are what its id stands for, and are read by
    `client_data` alone.
  - The held-out data belong to no client, so that what is measured on them is
    no release.

  Attributes:
    name: Its name.
    unit_of_privacy: Whose data one client holds.
    clients: The ids of the clients.
    client_data: Returns the batches of a client, as many as a round takes,
      from its id.
    held_out: Examples and their labels, which no client has.
    model: The model.
    training: Settings that suit it.
  """

  name: str
  unit_of_privacy: str
  clients: Sequence[str]
  client_data: Callable[[str], tf.data.Dataset]
  held_out: tuple[Array, Array]
  model: tff.learning.models.FunctionalModel
  training: Training

  @property
  def num_parameters(self) -> int:
    """How many numbers the model has."""
    return sum(np.size(w) for w in self.model.initial_weights[0])

  def build_process(
    self,
    aggregator: tff.aggregators.UnweightedAggregationFactory,
    metrics_aggregator: Callable[..., Any],
    noise_multiplier: float,
    adapted: Callable[[ClientWork], ClientWork] | None = None,
  ) -> tff.learning.templates.LearningProcess:
    """Builds federated averaging for this task.

    Args:
      aggregator: Of the model updates.
      metrics_aggregator: Of the clients' training metrics, which are empty.
      noise_multiplier: Of the aggregator; sets the size of the server's steps.
      adapted: Returns the client work of the process from that of federated
        averaging; `None` to leave it as it is.
    """
    training = self.training
    client_optimizer = tff.learning.optimizers.build_sgdm(
      training.client_learning_rate
    )
    server_optimizer = tff.learning.optimizers.build_sgdm(
      training.server_rate(noise_multiplier), training.momentum
    )
    if adapted is None:
      return tff.learning.algorithms.build_unweighted_fed_avg(
        self.model,
        client_optimizer_fn=client_optimizer,
        server_optimizer_fn=server_optimizer,
        model_aggregator=aggregator,
        metrics_aggregator=metrics_aggregator,
      )
    work = tff.learning.templates.build_functional_model_delta_client_work(
      model=self.model,
      optimizer=client_optimizer,
      client_weighting=tff.learning.ClientWeighting.UNIFORM,
      metrics_aggregator=metrics_aggregator,
    )
    return self._composed(adapted(work), aggregator, server_optimizer)

  def _composed(
    self,
    work: ClientWork,
    aggregator: tff.aggregators.UnweightedAggregationFactory,
    server_optimizer: tff.learning.optimizers.Optimizer,
  ) -> tff.learning.templates.LearningProcess:
    """Returns federated averaging as TFF composes it, of other client work."""
    templates = tff.learning.templates
    trainable = self.model.initial_weights[0]

    @tff.tensorflow.computation
    def initial_weights() -> Any:
      tensors = tuple(map(tf.convert_to_tensor, trainable))
      return tff.learning.models.ModelWeights(tensors, ())

    weights = initial_weights.type_signature.result
    weighted = tff.aggregators.as_weighted_aggregator(aggregator)
    return templates.compose_learning_process(
      initial_weights,
      templates.build_broadcast_process(weights),
      work,
      weighted.create(weights.trainable, tff.TensorType(np.float32)),
      templates.build_apply_optimizer_finalizer(server_optimizer, weights),
    )

  def evaluate(
    self, weights: tff.learning.models.ModelWeights
  ) -> dict[str, float]:
    """Returns `accuracy`, in [0, 1], and `loss`, in nats, on held-out data."""
    model = self.model
    as_tensors = tf.nest.map_structure(
      tf.convert_to_tensor, (tuple(weights.trainable), ())
    )
    correct = loss = labels = 0.0
    for x, y in tf.data.Dataset.from_tensor_slices(self.held_out).batch(
      _EVALUATION_BATCH
    ):
      logits = model.predict_on_batch(as_tensors, x, training=False)
      found = tf.argmax(logits, axis=-1, output_type=y.dtype)
      correct += float(tf.reduce_sum(tf.cast(found == y, tf.float32)))
      loss += float(model.loss(logits, y)) * int(tf.size(y))
      labels += int(tf.size(y))
    return {'accuracy': correct / labels, 'loss': loss / labels}


def classifier(
  initial_weights: Weights,
  logits: Callable[[Weights, tf.Tensor], tf.Tensor],
  x: tf.TensorSpec,
  y: tf.TensorSpec,
) -> tff.learning.models.FunctionalModel:
  """Returns a model that is trained with the cross-entropy of its logits.

  Args:
    initial_weights: float32 arrays.
    logits: float32[..., classes] from the weights and a batch of inputs.
    x: What a batch of inputs is.
    y: What a batch of labels is: integers, of the shape of the logits without
      the last dimension.
  """

  @tf.function
  def predict_on_batch(weights: Any, x: Any, training: bool = True) -> Any:
    del training
    return logits(weights[0], x)

  def loss(output: Any, label: Any, sample_weight: Any = None) -> Any:
    del sample_weight
    return tf.reduce_mean(
      tf.nn.sparse_softmax_cross_entropy_with_logits(label, output)
    )

  return tff.learning.models.FunctionalModel(
    initial_weights=(initial_weights, ()),
    predict_on_batch_fn=predict_on_batch,
    loss_fn=loss,
    input_spec=(x, y),
  )
