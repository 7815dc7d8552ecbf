# SPDX-License-Identifier: Apache-2.0
"""What people read of a run: its facts, a verdict, pages and a statement."""

from tff_secagg_ext.report.facts import RunFacts
from tff_secagg_ext.report.forecasting import (
  Forecast,
  WhatIf,
  dropouts,
  forecast,
)
from tff_secagg_ext.report.reading import read
from tff_secagg_ext.report.verdicts import Verdict, verdict

__all__ = [
  'Forecast',
  'RunFacts',
  'Verdict',
  'WhatIf',
  'dropouts',
  'forecast',
  'read',
  'verdict',
]
