# SPDX-License-Identifier: Apache-2.0
"""Learning processes, unchanged, in a secure context."""

from __future__ import annotations

import asyncio
import collections
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tff_secagg_ext
from tff_secagg_ext import execution
from tff_secagg_ext._compat import tff
from tff_secagg_ext.secagg.setup import Security

CLIENTS = 9
SECURITY = Security('malicious', dropout=0.4)


def build(aggregator: Any, weighted: bool = False, **kwargs: Any) -> Any:
  """Federated averaging of a linear model with two weights and a bias."""

  def predict(weights: Any, x: Any, training: bool = True) -> Any:
    del training
    return x @ weights[0][0] + weights[0][1]

  model = tff.learning.models.FunctionalModel(
    initial_weights=(
      (np.zeros([2, 1], np.float32), np.zeros([1], np.float32)),
      (),
    ),
    predict_on_batch_fn=tf.function(predict),
    loss_fn=lambda output, label, sample_weight=None: tf.reduce_mean(
      (output - label) ** 2
    ),
    input_spec=(
      tf.TensorSpec([None, 2], tf.float32),
      tf.TensorSpec([None, 1], tf.float32),
    ),
  )
  kwargs.setdefault('metrics_aggregator', tff_secagg_ext.no_client_metrics)
  algorithms = tff.learning.algorithms
  builder = (
    algorithms.build_weighted_fed_avg
    if weighted
    else algorithms.build_unweighted_fed_avg
  )
  return builder(
    model,
    client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.2),
    model_aggregator=aggregator,
    **kwargs,
  )


@pytest.fixture(scope='module')
def data() -> list[Any]:
  """The clients' examples of y = x0 - 2 x1 + 1."""
  x = np.random.default_rng(0).normal(size=[CLIENTS, 16, 2]).astype(np.float32)
  y = (x @ np.array([[1], [-2]], np.float32)) + 1
  return [
    tf.data.Dataset.from_tensors(pair).repeat(3)
    for pair in zip(x, y, strict=True)
  ]


@pytest.fixture(scope='module')
def secured() -> Any:
  """TFF's own federated averaging with secure aggregation."""
  return build(tff.learning.secure_aggregator(weighted=True), weighted=True)


def context(**options: Any) -> Any:
  options.setdefault('security', SECURITY)
  options.setdefault('insecure_aggregates', 'forbid')
  return execution.create_secure_context(execution.SecureOptions(**options))


def weights(state: Any) -> Any:
  return np.concatenate(
    [np.ravel(w) for w in state.global_model_weights.trainable]
  )


def assert_same(found: Any, expected: Any) -> None:
  tf.nest.assert_same_structure(found, expected, check_types=True)
  for a, b in zip(
    tf.nest.flatten(found), tf.nest.flatten(expected), strict=True
  ):
    np.testing.assert_array_equal(a, b)


def test_secure_federated_averaging_trains(
  in_context: Any, reference: Any, secured: Any, data: Any
):
  secure = context()
  state = initial = in_context(secure, secured.initialize)
  with execution.collect_reports() as reports:
    for _ in range(8):
      output = in_context(secure, secured.next, state, data)
      state = output.state
  np.testing.assert_allclose(weights(state), [1, -2, 1], atol=0.05)
  # All of its secure sums are one session a round.
  assert len(reports) == 8
  first = in_context(secure, secured.next, initial, data)
  assert_same(first, reference(secured.next, initial, data))


@pytest.mark.parametrize(
  'stage',
  ['invite', 'reveal', 'share', 'mask', 'confirm', 'unmask', 'verify'],
)
def test_a_third_of_the_clients_may_drop_out(
  in_context: Any, reference: Any, secured: Any, data: Any, stage: str
):
  lost = [1, 4, 8]
  secure = context(dropouts=execution.Dropouts({stage: lost}))
  state = in_context(secure, secured.initialize)
  with execution.collect_reports() as reports:
    output = in_context(secure, secured.next, state, data)
  before = stage in ('invite', 'reveal', 'share', 'mask')
  left = [d for i, d in enumerate(data) if not before or i not in lost]
  assert reports[0].survivors == len(left)
  assert_same(output, reference(secured.next, state, left))
  assert np.any(weights(output.state) != weights(state))


def test_noised_federated_averaging_counts_its_survivors(
  in_context: Any, data: Any
):
  process = build(
    tff_secagg_ext.ddp_secure_aggregator(0.1, CLIENTS, clipping=1.0)
  )
  secure = context(dropouts=execution.Dropouts({'share': 0.05, 'mask': 0.1}))
  state = in_context(secure, process.initialize)
  survivors = []
  with execution.collect_reports() as reports:
    for _ in range(8):
      output = in_context(secure, process.next, state, data)
      state = output.state
      survivors.append(reports[-1].survivors)
      measured = tff_secagg_ext.program.releases.find_measurements(
        output.metrics
      )
      assert measured['contributors'] == survivors[-1]
      assert measured['contributors'].dtype == np.int32
  assert len(set(survivors)) > 1
  assert np.linalg.norm(weights(state) - [1, -2, 1]) < 1.0


def test_a_federated_program_runs(secured: Any, data: Any, reference: Any):
  secure = execution.create_async_secure_context(
    execution.SecureOptions(security=SECURITY)
  )

  async def program() -> Any:
    platform = tff.program.NativeFederatedContext(secure)
    with tff.framework.get_context_stack().install(secure):
      state = await secured.initialize()
    with (
      execution.collect_reports() as reports,
      tff.framework.get_context_stack().install(Synchronous(platform)),
    ):
      first = secured.next(state, data)
      second = secured.next(first.state, data)
      await tff.program.materialize_value(second)
    return state, await tff.program.materialize_value(first), reports

  class Synchronous(tff.framework.SyncContext):
    """Lets the stack of contexts take a `tff.program.FederatedContext`."""

    def __init__(self, platform: Any):
      self.invoke = platform.invoke

    def invoke(self, comp: Any, arg: Any) -> Any:
      raise AssertionError

  state, first, reports = asyncio.run(program())
  assert_same(first, reference(secured.next, state, data))
  assert [report.survivors for report in reports] == [CLIENTS, CLIENTS]


def test_the_loop_goes_on_while_clients_work(secured: Any, data: Any):
  """A coroutine runs meanwhile; two rounds at once have both their sums."""

  async def count(ticks: list[int]) -> None:
    while True:
      ticks.append(1)
      await asyncio.sleep(0.01)

  async def both() -> Any:
    secure = execution.create_async_secure_context(
      execution.SecureOptions(security=SECURITY)
    )
    with tff.framework.get_context_stack().install(secure):
      state = await secured.initialize()
      ticks: list[int] = []
      ticking = asyncio.create_task(count(ticks))
      outputs = await asyncio.gather(
        secured.next(state, data), secured.next(state, data[:7])
      )
      ticking.cancel()
    return outputs, len(ticks)

  with execution.collect_reports() as reports:
    (first, second), ticks = asyncio.run(both())
  assert ticks > 5
  assert sorted(report.survivors for report in reports) == [7, 9]
  assert np.any(weights(first.state) != weights(second.state))


def test_an_aborted_round_raises_where_it_is_awaited(secured: Any, data: Any):
  async def one() -> None:
    secure = execution.create_async_secure_context(
      execution.SecureOptions(security=SECURITY, min_contributors=10)
    )
    with tff.framework.get_context_stack().install(secure):
      await secured.next(await secured.initialize(), data)

  with pytest.raises(
    execution.RoundAborted, match='9 clients are invited, of at least 10'
  ) as caught:
    asyncio.run(one())
  assert caught.value.stage == 'invite'


def test_evaluation_is_native(in_context: Any, secured: Any, data: Any):
  """So are the parts of a process that have no clients."""
  secure = context()
  state = in_context(secure, secured.initialize)
  found = in_context(secure, secured.get_model_weights, state)
  assert collections.Counter(map(np.shape, found.trainable)) == {
    (2, 1): 1,
    (1,): 1,
  }
