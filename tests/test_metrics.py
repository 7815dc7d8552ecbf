# SPDX-License-Identifier: Apache-2.0
"""Client metrics that stay with their clients."""

from tff_secagg_ext import metrics, tasks
from tff_secagg_ext._compat import tff
from tff_secagg_ext.aggregators import ddp_secure_aggregator


def test_one_modular_sum_is_all_that_leaves_a_client():
  process = tasks.load('digits').build_process(
    ddp_secure_aggregator(1.0, 10), metrics.no_client_metrics, 1.0
  )
  form = tff.backends.mapreduce.get_map_reduce_form_for_computation(
    process.next
  )
  plain, bitwidth_sum, max_sum, modular = form.work.type_signature.result
  for nothing in (plain, bitwidth_sum, max_sum):
    assert not tff.structure.flatten(nothing)
  (vector,) = tff.structure.flatten(modular)
  assert vector.shape == (1025,)


def test_training_metrics_are_empty():
  process = tasks.load('digits').build_process(
    ddp_secure_aggregator(1.0, 10), metrics.no_client_metrics, 1.0
  )
  measured = process.next.type_signature.result.metrics.member
  assert not tff.structure.flatten(measured.client_work)
