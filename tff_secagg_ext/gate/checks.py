# SPDX-License-Identifier: Apache-2.0
"""The checks of a gate: pure functions of a policy and of evidence.

Guarantees:

* Each check has its own cause to fail, and says it.
* What is not known fails: evidence that a policy requires and that is not
  there, that is older than the newest committed round, or that lacks a figure.
* An audit that raised an alarm fails, required or not, old or new.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import math

from tff_secagg_ext.accounting import NoisedSumEvent, Round
from tff_secagg_ext.audit import implementation as suite
from tff_secagg_ext.gate.evidence import VIEWS, Evidence
from tff_secagg_ext.gate.policy import Policy
from tff_secagg_ext.gate.verdict import Finding, Verdict
from tff_secagg_ext.ledger import AuditRecord

_BOUNDS = ('one_shot', 'one_run')


def judge(policy: Policy, evidence: Evidence) -> Verdict:
  """Returns what the policy says of a run.

  Of a run whose rows were altered only that is said: all else rests on them.
  """
  findings = [_chain(evidence)]
  if evidence.fault is None:
    for check in _CHECKS:
      findings += check(policy, evidence)
  return Verdict(
    evidence.run, policy.digest, len(evidence.entries), tuple(findings)
  )


def _chain(evidence: Evidence) -> Finding:
  fault = evidence.fault
  found = 'as written' if fault is None else 'broken'
  return Finding('ledger chain', fault is None, found, None, fault or '')


def _epsilon(policy: Policy, evidence: Evidence) -> Iterator[Finding]:
  for view in VIEWS:
    epsilon = evidence.epsilon(view)
    limit = getattr(policy.epsilon, view)
    why = ''
    if math.isinf(epsilon.value):
      why = f'unaccounted releases: {"; ".join(epsilon.reasons)}'
    yield _at_most(f'epsilon, {view} view', epsilon.value, limit, why)


def _waivers(policy: Policy, evidence: Evidence) -> Iterator[Finding]:
  every = (waiver for entry in evidence.entries for waiver in entry.waivers)
  waived = {waiver.name: waiver for waiver in every}
  allowed = policy.waivers.allowed
  others = [w for name, w in waived.items() if name not in allowed]
  why = '; '.join(f'{w.name} is waived, by {w.by}: {w.why}' for w in others)
  found, limit = ', '.join(waived) or 'none', ', '.join(allowed) or 'none'
  yield Finding('waivers', not others, found, limit, why)


def _lower_bound(policy: Policy, evidence: Evidence) -> Iterator[Finding]:
  bounds = [_bound(evidence, a) for a in evidence.audits if a.kind in _BOUNDS]
  wrong = [found for found in bounds if not found.holds]
  newest, why = _newest(evidence, _BOUNDS)
  if wrong:
    yield from wrong
  elif newest is None:
    yield _absent('audited lower bound', why, policy.lower_bound.required)
  else:
    yield bounds[-1]


def _bound(evidence: Evidence, audit: AuditRecord) -> Finding:
  """Returns whether a lower bound is below what it is a bound of.

  That is the epsilon of its view, at its delta, of all entries before it: what
  some rounds cost is no more than what all of them do.
  """
  name, view = 'audited lower bound', audit.figures.get('view')
  bound, delta = _number(audit, 'lower_bound'), _number(audit, 'delta')
  which = f'audit {audit.number} ({audit.kind})'
  if bound is None or delta is None or view not in VIEWS:
    why = f'{which} lacks one of lower_bound, delta and view'
    return Finding(name, False, None, None, why)
  try:
    epsilon = evidence.epsilon(str(view), delta, audit.entries).value
  except ValueError as error:
    why = f'{which} is at a delta that nothing can be compared at: {error}'
    return Finding(name, False, bound, None, why)
  stated = _number(audit, 'ledger_epsilon')
  limit = epsilon if stated is None else min(stated, epsilon)
  if audit.figures.get('alarm') is True or bound > limit:
    why = (
      f'ALARM: {which} found at least {bound:.4g}; the {view} view has'
      f' {limit:.4g} at delta {delta:g}'
    )
    return Finding(name, False, bound, limit, why)
  return Finding(name, True, bound, limit)


def _memorization(policy: Policy, evidence: Evidence) -> Iterator[Finding]:
  table = policy.memorization
  audit, why = _newest(evidence, ('memorization',))
  if audit is None:
    yield _absent('memorization', why, table.required)
    return
  found, limit = _number(audit, 'reduction'), table.minimum_reduction
  yield _at_least('memorization, reduction', found, limit)


def _membership(policy: Policy, evidence: Evidence) -> Iterator[Finding]:
  table = policy.membership
  for each in evidence.audits:
    if each.kind == 'membership' and each.figures.get('alarm') is True:
      why = f'ALARM: audit {each.number} is better than epsilon allows'
      yield Finding('membership', False, 'alarm', None, why)
      return
  audit, why = _newest(evidence, ('membership',))
  if audit is None:
    yield _absent('membership', why, table.required)
    return
  for name, limit in (
    ('auc', table.maximum_auc),
    ('true_positive_rate', table.maximum_true_positive_rate),
  ):
    label = f'membership, {name.replace("_", " ")}'
    yield _at_most(label, _number(audit, name), limit)


def _implementation(policy: Policy, evidence: Evidence) -> Iterator[Finding]:
  name = 'implementation'
  # It is about code, which rounds do not change.
  made = [a for a in evidence.audits if a.kind == name]
  if not made:
    why = f'no audit {name!r} is on record'
    yield _absent(name, why, policy.implementation.required)
    return
  verdicts = made[-1].figures.get('verdicts')
  verdicts = verdicts if isinstance(verdicts, dict) else {}
  wrong = [] if verdicts else ['the audit is of no factory']
  for factory, found in verdicts.items():
    found = found if isinstance(found, dict) else {}
    for check in suite.CHECKS:
      verdict = found.get(check.name, 'not run')
      if verdict not in ('holds', 'does not apply'):
        wrong.append(f'{factory}, {check.name}: {verdict}')
  yield Finding(
    name, not wrong, ', '.join(verdicts) or None, None, '; '.join(wrong)
  )


def _utility(policy: Policy, evidence: Evidence) -> Iterator[Finding]:
  table = policy.utility
  audit, why = _newest(evidence, ('utility',))
  if audit is None:
    yield _absent('utility', why, table.required)
    return
  name = f'utility, {table.figure}'
  baseline: float | None
  if isinstance(table.baseline, str):
    recorded = [a for a in evidence.baseline or () if a.kind == 'utility']
    baseline = _number(recorded[-1], table.figure) if recorded else None
    if baseline is None:
      why = f'the baseline {table.baseline!r} has no such figure on record'
      yield Finding(name, False, None, None, why)
      return
  else:
    baseline = table.baseline
  found, limit = _number(audit, table.figure), baseline - table.maximum_loss
  yield _at_least(name, found, limit)


def _aborts(policy: Policy, evidence: Evidence) -> Iterator[Finding]:
  attempts = len({entry.attempt for entry in evidence.entries})
  limit = policy.aborts.maximum_rate
  if not evidence.committed:
    why = 'no round was committed'
    yield Finding('aborts', False, None, limit, why)
    return
  rate = 1 - len(evidence.committed) / attempts
  yield _at_most('aborts', rate, limit)


def _dropouts(policy: Policy, evidence: Evidence) -> Iterator[Finding]:
  table, sessions = policy.dropouts, evidence.sessions
  if not sessions:
    yield _absent('dropouts', _NO_SESSION, table.required)
    return
  invited = sum(session['clients'] for session in sessions)
  rate = 1 - sum(session['survivors'] for session in sessions) / invited
  yield _at_most('dropouts', rate, table.maximum_rate)


def _communication(policy: Policy, evidence: Evidence) -> Iterator[Finding]:
  table, sessions = policy.communication, evidence.sessions
  if not sessions:
    yield _absent('communication', _NO_SESSION, table.required)
    return
  expansion = max(session['expansion'] for session in sessions)
  both = [s['upload_bytes'] + s['download_bytes'] for s in sessions]
  yield _at_most('communication, expansion', expansion, table.maximum_expansion)
  yield _at_most('communication, bytes', max(both), table.maximum_bytes)


def _noise(policy: Policy, evidence: Evidence) -> Iterator[Finding]:
  table = policy.noise
  planned = (evidence.settings.get('aggregator') or {}).get('noise_multiplier')
  # A round that released nothing has no event.
  charged = [e.charge for e in evidence.committed if e.charge.events]
  effective = [_noise_multiplier(charge) for charge in charged]
  known = [value for value in effective if value is not None]
  if not planned or not known or len(known) < len(effective):
    why = 'planned and effective noise multipliers are not on record'
    yield _absent('noise', why, table.required)
    return
  ratio = min(known) / planned
  yield _at_least('noise, effective over planned', ratio, table.minimum_ratio)


def _noise_multiplier(charge: Round) -> float | None:
  """Returns what protects the model from the server; `None` if not known.

  It is the standard deviation of the noise of clients that do not collude,
  over the sensitivity. The model's event is the first.
  """
  event = next(
    (e for e in charge.events if isinstance(e, NoisedSumEvent)), None
  )
  if event is None:
    return None
  shares = max(0, event.client_shares - event.colluders)
  stddevs = (event.share_stddev, *event.layer_stddevs)
  return math.sqrt(shares) * math.hypot(*stddevs) / event.l2_sensitivity


def _transcripts(policy: Policy, evidence: Evidence) -> Iterator[Finding]:
  wrong = evidence.transcripts
  if wrong is None:
    why = 'no folder of transcripts was given'
    yield _absent('transcripts', why, policy.transcripts.required)
    return
  found = 'broken' if wrong else 'as written'
  yield Finding('transcripts', not wrong, found, None, '; '.join(wrong))


_NO_SESSION = 'no session of the protocol is on record'
_CHECKS = (
  _epsilon,
  _waivers,
  _lower_bound,
  _memorization,
  _membership,
  _implementation,
  _utility,
  _aborts,
  _dropouts,
  _communication,
  _noise,
  _transcripts,
)


def _newest(
  evidence: Evidence, kinds: Iterable[str]
) -> tuple[AuditRecord | None, str]:
  """Returns the newest audit, or why there is none of the run as it stands."""
  kinds = tuple(kinds)
  named = ' or '.join(map(repr, kinds))
  made = [audit for audit in evidence.audits if audit.kind in kinds]
  if not made:
    return None, f'no audit {named} is on record'
  newest = made[-1]
  later = [e for e in evidence.committed if e.sequence > newest.entries]
  if later:
    return None, (
      f'{len(later)} rounds were committed after the newest audit {named}'
    )
  return newest, ''


def _absent(check: str, why: str, required: bool) -> Finding:
  return Finding(
    check, not required, None, None, why if required else f'{why}: not required'
  )


def _number(audit: AuditRecord, name: str) -> float | None:
  value = audit.figures.get(name)
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    return None
  return float(value)


def _at_most(
  check: str, found: float | None, limit: float, why: str = ''
) -> Finding:
  if found is None:
    return Finding(check, False, None, limit, 'the audit has no such figure')
  holds = found <= limit
  why = why or f'{found:.4g} is above {limit:.4g}'
  return Finding(check, holds, found, limit, '' if holds else why)


def _at_least(check: str, found: float | None, limit: float) -> Finding:
  if found is None:
    return Finding(check, False, None, limit, 'the audit has no such figure')
  holds = found >= limit
  why = '' if holds else f'{found:.4g} is below {limit:.4g}'
  return Finding(check, holds, found, limit, why)
