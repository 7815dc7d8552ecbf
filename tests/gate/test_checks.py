# SPDX-License-Identifier: Apache-2.0
"""Checks as functions: figures of audits, and limits of policies."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest

from tests.gate import conftest
from tff_secagg_ext import accounting, gate
from tff_secagg_ext.gate import checks
from tff_secagg_ext.ledger import AuditRecord


def with_audits(
  evidence: gate.Evidence, changes: dict[str, Any]
) -> gate.Evidence:
  """Returns it with figures of audits changed; `None` leaves an audit out."""
  audits: list[AuditRecord] = [
    dataclasses.replace(
      audit, figures={**audit.figures, **changes.get(audit.kind, {})}
    )
    for audit in evidence.audits
    if changes.get(audit.kind, {}) is not None
  ]
  return dataclasses.replace(evidence, audits=audits)


def failed(evidence: gate.Evidence, policy: str) -> dict[str, str]:
  if 'baseline' not in policy:
    policy += conftest.POLICY
  verdict = gate.judge(gate.Policy.parse(policy.encode()), evidence)
  return {f.check: f.why for f in verdict.findings if not f.holds}


BROKEN: dict[str, tuple[dict[str, Any], str, str]] = {
  "the server's epsilon above the limit": (
    {'policy': 'epsilon.server = 0.5\n'},
    'epsilon, server view',
    r'\d\.\d+ is above 0\.5$',
  ),
  'a lower bound above that of its own rounds': (
    {'audits': {'one_shot': {'lower_bound': 0.75, 'ledger_epsilon': 0.7}}},
    'audited lower bound',
    'ALARM: .* at least 0.75; the release view has 0.7 at delta 1e-05',
  ),
  'an alarm that the audit raised': (
    {'audits': {'one_shot': {'alarm': True}}},
    'audited lower bound',
    'ALARM',
  ),
  'a lower bound at another delta': (
    # Where delta is larger, the ledger's epsilon is smaller.
    {
      'audits': {
        'one_shot': {
          'lower_bound': 1.6,
          'delta': 1e-2,
          'ledger_epsilon': None,
          'view': 'server',
        }
      }
    },
    'audited lower bound',
    'ALARM: .* at least 1.6; the server view has 1.* at delta 0.01',
  ),
  'a lower bound of no view': (
    {'audits': {'one_shot': {'view': 'none'}}},
    'audited lower bound',
    r'audit 1 \(one_shot\) lacks one of lower_bound, delta and view',
  ),
  'no lower bound': (
    {'audits': {'one_shot': None}},
    'audited lower bound',
    "no audit 'one_shot' or 'one_run' is on record$",
  ),
  'memorization without its figure': (
    {'audits': {'memorization': {'reduction': None}}},
    'memorization, reduction',
    'the audit has no such figure',
  ),
  'no audit of membership': (
    {'audits': {'membership': None}},
    'membership',
    "no audit 'membership'",
  ),
  'members that are found without error': (
    {'audits': {'membership': {'true_positive_rate': 0.2}}},
    'membership, true positive rate',
    r'0\.2 is above 0\.05$',
  ),
  'members that epsilon does not let be found': (
    {'audits': {'membership': {'alarm': True}}},
    'membership',
    'ALARM: audit 3 is better than epsilon allows',
  ),
  'no audit of the implementation': (
    {'audits': {'implementation': None}},
    'implementation',
    "no audit 'implementation'",
  ),
  'an implementation of which one attack is left out': (
    {
      'audits': {
        'implementation': {
          'verdicts': {
            'ours': {
              name: verdict
              for name, verdict in conftest.AUDITS['implementation'][
                'verdicts'
              ]['ours'].items()
              if name != 'norm bound'
            }
          }
        }
      }
    },
    'implementation',
    'ours, norm bound: not run$',
  ),
  'an implementation of nothing': (
    {'audits': {'implementation': {'verdicts': {}}}},
    'implementation',
    'the audit is of no factory',
  ),
  'no utility': (
    {'audits': {'utility': None}},
    'utility',
    "no audit 'utility' is on record",
  ),
  'many bytes': (
    {'policy': f'{conftest.POLICY}[communication]\nmaximum_bytes = 100\n'},
    'communication, bytes',
    r'is above 100$',
  ),
}


@pytest.mark.parametrize('what', BROKEN)
def test_a_figure_fails_its_check_alone(
  evidence: gate.Evidence, what: str
) -> None:
  changes, check, expected = BROKEN[what]
  changed = with_audits(evidence, changes.get('audits', {}))
  why = failed(changed, changes.get('policy', ''))
  assert list(why) == [check]
  assert re.search(expected, why[check])


LIMITS = st.floats(0.0, 20.0)


@given(low=LIMITS, high=LIMITS, view=st.sampled_from(['release', 'server']))
def test_a_wider_limit_never_lets_less_pass(
  evidence: gate.Evidence, low: float, high: float, view: str
) -> None:
  low, high = sorted((low, high))
  check = f'epsilon, {view} view'
  if check not in failed(evidence, f'epsilon.{view} = {low!r}\n'):
    assert check not in failed(evidence, f'epsilon.{view} = {high!r}\n')


@pytest.mark.parametrize(
  ('event', 'expected'),
  [
    (conftest.noised(60.0), 3.0),
    (dataclasses.replace(conftest.noised(60.0), colluders=16), 1.8),
    (dataclasses.replace(conftest.noised(60.0), colluders=30), 0.0),
    (dataclasses.replace(conftest.noised(60.0), server_shares=75), 3.0),
    # 60, 80: 100 of each client.
    (dataclasses.replace(conftest.noised(60.0), layer_stddevs=(80.0,)), 5.0),
  ],
)
def test_the_noise_that_counts_is_that_of_honest_clients(
  event: accounting.NoisedSumEvent, expected: float
) -> None:
  charge = accounting.Round((event,), accounting.NoSampling())
  assert checks._noise_multiplier(charge) == pytest.approx(expected)


def test_epsilon_at_another_delta_is_composed_anew(
  evidence: gate.Evidence,
) -> None:
  charge = accounting.Round((conftest.noised(60.0),), accounting.NoSampling())
  for entries, rounds in ((None, 3), (2, 1), (3, 2), (0, 0)):
    for view in ('release', 'server'):
      found = evidence.epsilon(view, 1e-2, entries).value
      expected = accounting.release_epsilon([charge] * rounds, 1e-2).value
      assert found == pytest.approx(expected)
  settings = {
    'failure_probability': 5e-3,
    'participation': {'most': 1, 'separation': 1},
  }
  capped = dataclasses.replace(evidence, settings=settings)
  alone, all_of_them = (
    accounting.release_epsilon([charge] * rounds, 5e-3).value
    for rounds in (1, 3)
  )
  assert capped.epsilon('server', 1e-2).value == pytest.approx(alone)
  assert capped.epsilon('release', 1e-2).value == pytest.approx(all_of_them)
