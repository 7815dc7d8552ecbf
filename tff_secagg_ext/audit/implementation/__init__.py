# SPDX-License-Identifier: Apache-2.0
"""Attacks on the implementation of a mechanism: docs/implementation_audit.md.

A `Subject` is an aggregation as plain functions with what is stated of it; a
`Check` attacks it and says what it found, with figures. The suite is run by
`run`; `program.subjects` makes subjects of TFF's aggregation factories.
"""

from tff_secagg_ext.audit.implementation.finding import (
  FALSE_ALARM,
  Finding,
  Verdict,
)
from tff_secagg_ext.audit.implementation.subject import (
  Facts,
  Make,
  Refused,
  Setting,
  Subject,
  Total,
)
from tff_secagg_ext.audit.implementation.suite import CHECKS, Check, run

__all__ = [
  'CHECKS',
  'FALSE_ALARM',
  'Check',
  'Facts',
  'Finding',
  'Make',
  'Refused',
  'Setting',
  'Subject',
  'Total',
  'Verdict',
  'run',
]
