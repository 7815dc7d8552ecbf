# SPDX-License-Identifier: Apache-2.0
"""Whether a run has shown what a policy asks for before it is used further."""

from tff_secagg_ext.gate.checks import judge
from tff_secagg_ext.gate.evidence import Evidence, gather
from tff_secagg_ext.gate.policy import Policy, PolicyError, default_policy
from tff_secagg_ext.gate.verdict import Finding, Verdict

__all__ = [
  'Evidence',
  'Finding',
  'Policy',
  'PolicyError',
  'Verdict',
  'default_policy',
  'gather',
  'judge',
]
