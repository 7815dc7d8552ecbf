# SPDX-License-Identifier: Apache-2.0
"""What becomes of the clients' metrics: noised like a model, or not sent.

TFF's learning algorithms sum the training metrics of the clients without any
noise, by default. Whoever sees such a sum sees more than the noised model, so
the privacy loss of the round is unbounded. `dp_sum_then_finalize` noises them,
as one event of the round; `no_client_metrics` leaves them where they are.
"""

from tff_secagg_ext.metrics.noised import (
  NOISED_SUM,
  DpSumThenFinalize,
  dp_sum_then_finalize,
)
from tff_secagg_ext.metrics.silent import no_client_metrics

__all__ = [
  'NOISED_SUM',
  'DpSumThenFinalize',
  'dp_sum_then_finalize',
  'no_client_metrics',
]
