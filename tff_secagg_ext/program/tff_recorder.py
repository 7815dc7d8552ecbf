# SPDX-License-Identifier: Apache-2.0
"""TFF's own factories as they are, with what they really guarantee."""

from __future__ import annotations

import os
from typing import Any

from tff_secagg_ext import accounting
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext._compat import tff
from tff_secagg_ext.program.opening import RunDescription
from tff_secagg_ext.program.recorder import PrivacyRecorder
from tff_secagg_ext.program.tff_terms import TffAggregation


def recorded(
  process: tff.learning.templates.LearningProcess,
  factory: Any,
  *,
  ledger: ledger_lib.Ledger | str | os.PathLike[str],
  run: RunDescription | str,
  sampling: accounting.Sampling,
  delta: float,
  **options: Any,
) -> PrivacyRecorder:
  """Returns `process`, aggregated by a factory of TFF, with its rounds charged.

  ```python
  factory = tff.learning.dp_aggregator(1.0, 100, zeroing=False)
  process = tff.learning.algorithms.build_unweighted_fed_avg(
    model_fn, client_optimizer_fn, model_aggregator=factory,
    metrics_aggregator=tff_secagg_ext.no_client_metrics)
  process = tff_secagg_ext.recorded(
    process, factory, ledger='runs.db', run='central',
    sampling=accounting.PoissonSampling(1 / 34), delta=1 / 3400)
  ```

  Guarantees, besides those of `PrivacyRecorder`:

  * Nothing of the process is changed.
  * A round is charged with the noise that was in it: after rounding, with the
    scale, the clip norm and the contributors of that round, all checked to be
    what TFF computes for them.
  * Noise that the server adds protects nobody from the server.
  * What TFF releases besides is named, and makes epsilon infinite: the zeroing
    quantile, the number of zeroed updates, clients' metrics. What no result
    depends on is infinite in the server's view alone.
  * Skellam noise is infinite, as 'noise seeds are time stamps': TFF draws it
    from the microsecond, which whoever sees the sum can try. A waiver of that
    name shows what the law of the noise would give.
  * Mechanisms that nobody accounts here, tree aggregation among them, are
    infinite by their names.

  Args:
    process: What `tff.learning.algorithms` builds with `factory`.
    factory: What `tff.learning.ddp_secure_aggregator` or
      `tff.learning.dp_aggregator` returned, a `DistributedDpSumFactory` or a
      `tff.aggregators.DifferentiallyPrivateFactory`.
    ledger: As for `PrivacyRecorder`.
    run: As for `PrivacyRecorder`.
    sampling: As for `PrivacyRecorder`. `PoissonSampling` is refused where the
      number of clients is released, which it is by all but
      `DifferentiallyPrivateFactory`.
    delta: As for `PrivacyRecorder`.
    **options: `allow_unaccounted` and `budget`, as for `PrivacyRecorder`.

  Raises:
    TypeError: If an argument is of the wrong kind.
    ValueError: If the process was not built with the factory, or as
      `PrivacyRecorder` says.
    ledger.LedgerError: As `PrivacyRecorder` says.
  """
  return PrivacyRecorder(
    process,
    TffAggregation(factory),
    ledger=ledger,
    run=run,
    sampling=sampling,
    delta=delta,
    **options,
  )
