# SPDX-License-Identifier: Apache-2.0
"""What a run released, and what it cost: epsilon that leaves nothing out.

Events and samplings say what happened (`NoisedSumEvent`, `PoissonSampling`,
...); `epsilon` says what it cost, in the two views of docs/accounting.md
(`release_epsilon`, `server_epsilon`); an `Accountant` says it after every
round. A `Budget` is what may be spent: `calibrate` finds what it affords, and
its filter decides whether one round more is within it.
"""

from tff_secagg_ext.accounting.accountant import (
  Accountant,
  epsilon,
  release_epsilon,
  server_epsilon,
)
from tff_secagg_ext.accounting.budget import (
  Budget,
  BudgetExceeded,
  warn_of_delta,
)
from tff_secagg_ext.accounting.calibrate import (
  Calibrated,
  UnmetTargetError,
  calibrate,
  largest_cohort,
  most_rounds,
  rounds_left,
)
from tff_secagg_ext.accounting.cohorts import (
  CohortBounds,
  allocated_cohort_bounds,
  odds_of_being_needed,
  poisson_cohort_bounds,
)
from tff_secagg_ext.accounting.conversion import Epsilon
from tff_secagg_ext.accounting.events import (
  CentralGaussianEvent,
  Event,
  NoisedSumEvent,
  Round,
  SeenByServerEvent,
  UnaccountedEvent,
  Waiver,
)
from tff_secagg_ext.accounting.external import ExternalEvent
from tff_secagg_ext.accounting.filters import Filter
from tff_secagg_ext.accounting.opacus import EventAdapter, opacus_events
from tff_secagg_ext.accounting.participation import ParticipationCap
from tff_secagg_ext.accounting.sampling import (
  FixedSizeSampling,
  NoSampling,
  PoissonSampling,
  RandomAllocation,
  Sampling,
  unclaimed,
)
from tff_secagg_ext.accounting.serialization import from_json, to_json

__all__ = [
  'Accountant',
  'Budget',
  'BudgetExceeded',
  'Calibrated',
  'CentralGaussianEvent',
  'CohortBounds',
  'Epsilon',
  'Event',
  'EventAdapter',
  'ExternalEvent',
  'Filter',
  'FixedSizeSampling',
  'NoSampling',
  'NoisedSumEvent',
  'ParticipationCap',
  'PoissonSampling',
  'RandomAllocation',
  'Round',
  'Sampling',
  'SeenByServerEvent',
  'UnaccountedEvent',
  'UnmetTargetError',
  'Waiver',
  'allocated_cohort_bounds',
  'calibrate',
  'epsilon',
  'from_json',
  'largest_cohort',
  'most_rounds',
  'odds_of_being_needed',
  'opacus_events',
  'poisson_cohort_bounds',
  'release_epsilon',
  'rounds_left',
  'server_epsilon',
  'to_json',
  'unclaimed',
  'warn_of_delta',
]
