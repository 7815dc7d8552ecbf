# SPDX-License-Identifier: Apache-2.0
"""A metrics aggregator that lets no client metric leave its client."""

from __future__ import annotations

from typing import Any

from tff_secagg_ext._compat import tff


def no_client_metrics(
  metric_finalizers: Any, local_unfinalized_metrics_type: Any = None
) -> Any:
  """Builds `({M}@CLIENTS -> <>@SERVER)`, which sends nothing to the server.

  Pass it as it is: `metrics_aggregator=no_client_metrics`.

  *   The compiled round has no aggregation of metrics at all, rather than one
      whose result is thrown away.
  *   `output.metrics['client_work']['train']` is the empty structure.
  *   Every algorithm of `tff.learning.algorithms` that takes a
      `metrics_aggregator` accepts it.

  Args:
    metric_finalizers: What the algorithm would finalize; not used.
    local_unfinalized_metrics_type: Not used; TFF's older algorithms pass it.

  Returns:
    A polymorphic `tff.Computation` of one argument, the clients' metrics.
  """
  del metric_finalizers, local_unfinalized_metrics_type

  @tff.federated_computation
  def discard(client_metrics: Any) -> Any:
    del client_metrics
    return tff.federated_value((), tff.SERVER)

  return discard
