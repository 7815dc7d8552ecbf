# SPDX-License-Identifier: Apache-2.0
"""Whoever releases something without noise gets infinity, and its name.

Each process trains with our aggregator, and releases one thing more.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
import math
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.program import conftest
from tff_secagg_ext import accounting, program
from tff_secagg_ext._compat import tff

SECTIONS = ('distributor', 'client_work', 'aggregator', 'finalizer')
CLIENTS = tff.CLIENTS


def leaking(process: Any, section: str, aggregate: Callable[..., Any]) -> Any:
  """`process` with `leak`, an aggregate of the clients' batches, in `section`.

  Args:
    process: What trains.
    section: Of the metrics.
    aggregate: From an int32 of each client, the number of its batches.
  """
  state_type, data_type = process.next.type_signature.parameter

  @tff.tensorflow.computation(data_type.member)
  def batches(data: Any) -> Any:
    return data.reduce(np.int32(0), lambda n, _: n + 1)

  @tff.tensorflow.computation
  def beside(found: Any, leak: Any) -> Any:
    return collections.OrderedDict(**found, leak=leak)

  @tff.federated_computation(state_type, data_type)
  def next_fn(state: Any, data: Any) -> Any:
    output = process.next(state, data)
    leak = aggregate(tff.federated_map(batches, data))
    metrics = collections.OrderedDict(
      (name, output.metrics[name]) for name in SECTIONS
    )
    if section == 'aggregator':
      metrics[section] = tff.federated_map(beside, (metrics[section], leak))
    else:
      metrics[section] = collections.OrderedDict(leak=leak)
    return tff.learning.templates.LearningProcessOutput(
      output.state, tff.federated_zip(metrics)
    )

  return tff.learning.templates.LearningProcess(
    process.initialize,
    next_fn,
    process.get_model_weights,
    process.set_model_weights,
  )


def everybody(counts: Any) -> Any:
  """The number of clients, whatever they have."""
  del counts
  return tff.federated_sum(tff.federated_value(1, CLIENTS))


def secure(counts: Any) -> Any:
  return tff.federated_secure_sum_bitwidth(counts, 8)


def secure_with_maximum(counts: Any) -> Any:
  return tff.federated_secure_sum(counts, 255)


@tff.tensorflow.computation(np.int32)
def _as_vector(count: Any) -> Any:
  return tf.stack([count, count, 1])


def second_modular_sum(counts: Any) -> Any:
  return tff.backends.mapreduce.federated_secure_modular_sum(
    tff.federated_map(_as_vector, counts), 2**20
  )


@tff.tensorflow.computation(np.int32)
def _as_float(count: Any) -> Any:
  return tf.cast(count, tf.float32)


def mean(counts: Any) -> Any:
  return tff.federated_mean(tff.federated_map(_as_float, counts))


def exact_quantile() -> Any:
  return tff.aggregators.PrivateQuantileEstimationProcess.no_noise(
    1.0, 0.5, 0.1
  )


def with_aggregator(wrap: Callable[[Any], Any]) -> Callable[..., Any]:
  return lambda aggregator, process: conftest.build(wrap(aggregator))


def with_metrics(metrics_aggregator: Any) -> Callable[..., Any]:
  return lambda aggregator, process: conftest.build(
    aggregator, metrics_aggregator=metrics_aggregator
  )


def with_leak(section: str, aggregate: Any) -> Callable[..., Any]:
  return lambda aggregator, process: leaking(process, section, aggregate)


def exact(*names: str) -> set[str]:
  return {f'{name} is exact' for name in names}


HIDDEN: dict[str, tuple[Callable[..., Any], set[str]]] = {
  "TFF's default metrics": (
    with_metrics(None),
    exact(*(f'client_work.train.{n}' for n in conftest.METRICS)),
  ),
  'metrics of single clients': (
    with_metrics(tff.learning.metrics.finalize_then_sample),
    {
      *exact(*(f'client_work.train.{n}' for n in conftest.METRICS)),
      # How TFF has drawn the sample, which no result depends on.
      'an aggregate in the clear: int64[2]',
      'an aggregate in the clear: int32[?]',
    },
  ),
  'noised metrics that the recorder was not told of': (
    lambda aggregator, process: conftest.build(
      aggregator, metrics_aggregator=conftest.noised_metrics(aggregator)
    ),
    {
      f'client_work.train.{name} comes of a secure modular sum that no given'
      ' aggregator noises'
      for name in (
        *conftest.METRICS,
        'noised_sum.contributors',
        'noised_sum.wrap_probability',
        'noised_sum.effective_noise_multiplier',
        'noised_sum.aborted',
      )
    },
  ),
  'debug measurements': (
    with_aggregator(tff.learning.add_debug_measurements),
    exact('aggregator.average_client_norm', 'aggregator.std_dev_client_norm'),
  ),
  'zeroing': (
    with_aggregator(lambda a: tff.aggregators.zeroing_factory(1.0, a)),
    exact('aggregator.zeroed_count'),
  ),
  'zeroing by an exact quantile': (
    with_aggregator(
      lambda a: tff.aggregators.zeroing_factory(exact_quantile(), a)
    ),
    exact('state.aggregator', 'aggregator.zeroed_count'),
  ),
  'clipping by an exact quantile': (
    with_aggregator(
      lambda a: tff.aggregators.clipping_factory(exact_quantile(), a)
    ),
    exact('state.aggregator', 'aggregator.clipped_count'),
  ),
  'a count of examples among the metrics of the clients': (
    with_leak('client_work', tff.federated_sum),
    exact('client_work.leak'),
  ),
  'a count of clients': (
    with_leak('client_work', everybody),
    exact('client_work.leak'),
  ),
  'a mean in the distributor': (
    with_leak('distributor', mean),
    exact('distributor.leak'),
  ),
  'a measurement of the finalizer': (
    with_leak('finalizer', tff.federated_sum),
    exact('finalizer.leak'),
  ),
  'a sum among our own measurements': (
    with_leak('aggregator', tff.federated_sum),
    exact('aggregator.leak'),
  ),
  'a secure sum': (with_leak('finalizer', secure), exact('finalizer.leak')),
  'a secure sum with a maximum': (
    with_leak('finalizer', secure_with_maximum),
    exact('finalizer.leak'),
  ),
  'a second modular sum': (
    with_leak('finalizer', second_modular_sum),
    {
      'finalizer.leak comes of a secure modular sum that no given aggregator'
      ' noises'
    },
  ),
}


@pytest.mark.parametrize('hidden', HIDDEN)
def test_a_hidden_release_is_infinite_and_named(
  process: Any, aggregator: Any, tmp_path: pathlib.Path, hidden: str
) -> None:
  build, names = HIDDEN[hidden]
  recorder = program.PrivacyRecorder(
    build(aggregator, process),
    aggregator,
    ledger=tmp_path / 'runs.db',
    run='a',
    sampling=accounting.NoSampling(),
    delta=1e-5,
  )
  # The noised vector is still known as such: nothing else is to blame.
  assert recorder.account.terms.releases.dimension == 8
  recorder.account.reserve(conftest.CLIENTS)
  entry = recorder.account.run.entries[-1]
  for epsilon in (entry.release, entry.server):
    assert epsilon.value == math.inf
    assert set(epsilon.reasons) == names
