# SPDX-License-Identifier: Apache-2.0
"""Runs rounds, and ties process, accountant and ledger together."""

from tff_secagg_ext.accounting import Waiver
from tff_secagg_ext.program.allocated import AllocatedCohorts
from tff_secagg_ext.program.canaries import CanaryClients, CanaryError
from tff_secagg_ext.program.canary_work import with_canaries
from tff_secagg_ext.program.checkpoints import CheckpointError
from tff_secagg_ext.program.cohorts import (
  Cohort,
  FixedCohorts,
  PoissonCohorts,
  Turn,
)
from tff_secagg_ext.program.keys import RunKeyError
from tff_secagg_ext.program.loop import (
  RoundRecord,
  TrainingPlan,
  TrainingResult,
  train,
)
from tff_secagg_ext.program.noised_sums import MeasurementError
from tff_secagg_ext.program.opening import RunDescription
from tff_secagg_ext.program.participants import (
  Participation,
  ParticipationError,
)
from tff_secagg_ext.program.planning import Outlook, RunPlan, warn_of_noise
from tff_secagg_ext.program.recorder import PrivacyRecorder
from tff_secagg_ext.program.release_manager import (
  MlflowReleaseManager,
  PrivacyReleaseManager,
  privacy_figures,
  privacy_tags,
)
from tff_secagg_ext.program.tff_recorder import recorded
from tff_secagg_ext.program.withheld import WithheldError

__all__ = [
  'AllocatedCohorts',
  'CanaryClients',
  'CanaryError',
  'CheckpointError',
  'Cohort',
  'FixedCohorts',
  'MeasurementError',
  'MlflowReleaseManager',
  'Outlook',
  'Participation',
  'ParticipationError',
  'PoissonCohorts',
  'PrivacyRecorder',
  'PrivacyReleaseManager',
  'RoundRecord',
  'RunDescription',
  'RunKeyError',
  'RunPlan',
  'TrainingPlan',
  'TrainingResult',
  'Turn',
  'Waiver',
  'WithheldError',
  'privacy_figures',
  'privacy_tags',
  'recorded',
  'train',
  'warn_of_noise',
  'with_canaries',
]
