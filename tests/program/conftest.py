# SPDX-License-Identifier: Apache-2.0
"""One small learning process for all tests of the program."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import pytest

import tff_secagg_ext
from tff_secagg_ext._compat import tff

CLIENTS = 5
METRICS = ('loss', 'num_examples', 'num_batches')


def model() -> Any:
  """A linear model with four weights and a bias."""
  import tensorflow as tf  # After the package, which says which Keras to load.

  return tff.learning.models.from_keras_model(
    tf.keras.Sequential(
      [tf.keras.layers.InputLayer(input_shape=(4,)), tf.keras.layers.Dense(1)]
    ),
    loss=tf.keras.losses.MeanSquaredError(),
    input_spec=collections.OrderedDict(
      x=tf.TensorSpec([None, 4]), y=tf.TensorSpec([None, 1])
    ),
  )


def noised_metrics(aggregator: Any) -> Any:
  """The metrics of `model`, noised as the aggregator noises."""
  bounds = {'loss': (40.0, 8.0), 'num_examples': 8, 'num_batches': 1}
  return tff_secagg_ext.metrics.dp_sum_then_finalize(bounds, aggregator)


def build(aggregator: Any, **kwargs: Any) -> Any:
  """Federated averaging of the model."""
  kwargs.setdefault('metrics_aggregator', tff_secagg_ext.no_client_metrics)
  return tff.learning.algorithms.build_unweighted_fed_avg(
    model,
    client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.1),
    model_aggregator=aggregator,
    **kwargs,
  )


@pytest.fixture(scope='session')
def aggregator() -> Any:
  return tff_secagg_ext.ddp_secure_aggregator(1.0, CLIENTS)


@pytest.fixture(scope='session')
def process(aggregator: Any) -> Any:
  return build(aggregator)


@pytest.fixture(scope='session')
def data() -> list[Any]:
  import tensorflow as tf

  features = np.random.default_rng(0).normal(size=(4 * CLIENTS, 8, 4))
  return [
    tf.data.Dataset.from_tensors(
      collections.OrderedDict(
        x=x.astype(np.float32), y=x[:, :1].astype(np.float32)
      )
    )
    for x in features
  ]
