# SPDX-License-Identifier: Apache-2.0
"""Every learning algorithm of TFF that takes an unweighted aggregator."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf

import tff_secagg_ext
from tff_secagg_ext._compat import tff

CLIENTS = 3
SPEC = collections.OrderedDict(
  x=tf.TensorSpec([None, 2], tf.float32), y=tf.TensorSpec([None, 1], tf.float32)
)
MEASUREMENTS = [
  'clip_norm',
  'zeroing_threshold',
  'scale',
  'dimension',
  'contributors',
  'wrap_probability',
  'effective_noise_multiplier',
  'aborted',
]

algorithms = tff.learning.algorithms
sgd = tff.learning.optimizers.build_sgdm(0.1)


def model_fn():
  model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(2,))])
  return tff.learning.models.from_keras_model(
    model, loss=tf.keras.losses.MeanSquaredError(), input_spec=SPEC
  )


def recon_model_fn():
  inputs = tf.keras.Input([2])
  shared = tf.keras.layers.Dense(2)
  local = tf.keras.layers.Dense(1)
  model = tf.keras.Model(inputs, local(shared(inputs)))
  return tff.learning.models.ReconstructionModel.from_keras_model_and_layers(
    keras_model=model,
    global_layers=[shared],
    local_layers=[local],
    input_spec=SPEC,
  )


def aggregator():
  return tff_secagg_ext.ddp_secure_aggregator(1.0, CLIENTS)


def weighted():
  return tff.aggregators.as_weighted_aggregator(aggregator())


def data():
  rng = np.random.default_rng(0)
  datasets = []
  for _ in range(CLIENTS):
    x = rng.normal(size=(4, 2)).astype(np.float32)
    y = x.sum(axis=1, keepdims=True)
    columns = collections.OrderedDict(x=x, y=y)
    datasets.append(tf.data.Dataset.from_tensor_slices(columns).batch(2))
  return datasets


BUILDERS = {
  'fed_avg': lambda **options: algorithms.build_unweighted_fed_avg(
    model_fn, sgd, model_aggregator=aggregator(), **options
  ),
  'weighted_fed_avg': lambda **options: algorithms.build_weighted_fed_avg(
    model_fn, sgd, model_aggregator=weighted(), **options
  ),
  'scheduled_fed_avg': lambda **options: (
    algorithms.build_weighted_fed_avg_with_optimizer_schedule(
      model_fn,
      lambda round_number: 0.1,
      tff.learning.optimizers.build_sgdm,
      model_aggregator=weighted(),
      **options,
    )
  ),
  'fed_prox': lambda **options: algorithms.build_unweighted_fed_prox(
    model_fn, 0.1, sgd, model_aggregator=aggregator(), **options
  ),
  'fed_sgd': lambda **options: algorithms.build_fed_sgd(
    model_fn, model_aggregator=weighted(), **options
  ),
  'mime_lite': lambda **options: algorithms.build_unweighted_mime_lite(
    model_fn,
    sgd,
    model_aggregator=aggregator(),
    full_gradient_aggregator=aggregator(),
    **options,
  ),
  'fed_recon': lambda **options: algorithms.build_fed_recon(
    recon_model_fn,
    loss_fn=tf.keras.losses.MeanSquaredError,
    client_weighting=tff.learning.ClientWeighting.UNIFORM,
    model_aggregator_factory=aggregator(),
    dataset_split_fn=(
      tff.learning.models.ReconstructionModel.simple_dataset_split_fn
    ),
    **options,
  ),
}
# Mime sums twice: updates, and gradients at the server's model.
SECURE_SUMS = dict.fromkeys(BUILDERS, 1) | {'mime_lite': 2}


def run_two_rounds(process, clients):
  state = process.initialize()
  for _ in range(2):
    output = process.next(state, clients)
    state = output.state
  return output


def check(process, output):
  measured = output.metrics['aggregator']
  assert list(measured) == MEASUREMENTS
  assert measured['contributors'] == CLIENTS
  assert not measured['aborted']
  weights = process.get_model_weights(output.state)
  for tensor in weights.trainable:
    assert np.all(np.isfinite(tensor))


@pytest.mark.parametrize('name', BUILDERS)
def test_two_rounds_without_client_metrics(name):
  """And the clients send the modular sum alone."""
  process = BUILDERS[name](metrics_aggregator=tff_secagg_ext.no_client_metrics)
  form = tff.backends.mapreduce.get_map_reduce_form_for_computation(
    process.next
  )
  plain, bitwidth, secure, modular = form.work.type_signature.result
  assert not tff.structure.flatten(secure)
  assert not tff.structure.flatten(bitwidth)
  sums = tff.structure.flatten(modular)
  assert len(sums) == SECURE_SUMS[name]
  assert not tff.structure.flatten(plain)
  check(process, run_two_rounds(process, data()))


def test_default_metrics():
  process = BUILDERS['fed_avg']()
  output = run_two_rounds(process, data())
  check(process, output)
  assert output.metrics['client_work']['train']['num_examples'] == 4 * CLIENTS


def test_fed_kmeans_sums_its_points():
  process = algorithms.build_fed_kmeans(
    2, (3,), random_seed=(1, 2), sum_aggregator=aggregator()
  )
  points = np.random.default_rng(0).normal(size=(CLIENTS, 5, 3))
  clients = [
    tf.data.Dataset.from_tensor_slices(p.astype(np.float32)) for p in points
  ]
  output = run_two_rounds(process, clients)
  assert list(output.metrics['aggregator']) == MEASUREMENTS
  centroids = process.get_model_weights(output.state)
  assert np.all(np.isfinite(centroids))
