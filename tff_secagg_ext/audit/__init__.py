# SPDX-License-Identifier: Apache-2.0
"""What a release tells about its clients, measured: docs/audit.md.

An accountant's epsilon is an upper bound on paper. Audits are lower bounds and
estimates from what was really released: `one_shot` from canary clients that
ride in the normal run, `one_run` from coin flips about canaries, `training` for
both in all rounds of a run. `membership`, `inference`, `exposure` and
`memorization` attack the final model, and `implementation` the code that made
it. All are pure functions of arrays, on numpy and scipy; a model enters as a
function.
"""

from tff_secagg_ext.audit import (
  exposure,
  inference,
  membership,
  memorization,
  one_run,
  one_shot,
  training,
)
from tff_secagg_ext.audit.canaries import Canaries, Cosines

__all__ = [
  'Canaries',
  'Cosines',
  'exposure',
  'inference',
  'membership',
  'memorization',
  'one_run',
  'one_shot',
  'training',
]
