# SPDX-License-Identifier: Apache-2.0
"""Runs rounds, and ties process, accountant and ledger together."""

from tff_secagg_ext.program.checkpoints import CheckpointError
from tff_secagg_ext.program.cohorts import Cohort, FixedCohorts, PoissonCohorts
from tff_secagg_ext.program.loop import (
  RoundRecord,
  TrainingPlan,
  TrainingResult,
  train,
)
from tff_secagg_ext.program.planning import RunPlan, warn_of_noise
from tff_secagg_ext.program.recorder import PrivacyRecorder, RunDescription
from tff_secagg_ext.program.terms import MeasurementError

__all__ = [
  'CheckpointError',
  'Cohort',
  'FixedCohorts',
  'MeasurementError',
  'PoissonCohorts',
  'PrivacyRecorder',
  'RoundRecord',
  'RunDescription',
  'RunPlan',
  'TrainingPlan',
  'TrainingResult',
  'train',
  'warn_of_noise',
]
