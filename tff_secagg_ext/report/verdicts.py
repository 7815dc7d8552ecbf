# SPDX-License-Identifier: Apache-2.0
"""Whether a run is private, in one sentence, and what would change it."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import math

from tff_secagg_ext.report import words
from tff_secagg_ext.report.facts import AuditFacts, RunFacts
from tff_secagg_ext.report.forecasting import Forecast

# Above it, guarantees are 'weak to none' [PHK+23, arXiv 2303.00654].
REASONABLE_EPSILON = 10.0
_BOUNDS = ('one_shot', 'one_run')
EXPLAINED = (
  'Differential privacy compares two worlds that differ in one client’s data.'
  ' Whatever is released is at most e to the power ε times as likely in one as'
  ' in the other, but for a probability of δ.'
)


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What is said of a run, the most important first.

  Attributes:
    level: 'private', 'weak' (bounded, and too large to protect), 'over budget',
      'not private', 'contradicted' (an audit found more than the ledger says),
      'tampered' or 'nothing' (nothing was released yet).
    title: Two or three words.
    sentence: In plain words.
    meaning: What the figure lets somebody guess; empty without a figure.
    server: The same towards the coordinator.
    caveats: What it rests on that is out of the ordinary.
    changes: What would change it.
  """

  level: str
  title: str
  sentence: str
  meaning: str
  server: str
  caveats: tuple[str, ...]
  changes: tuple[str, ...]

  @property
  def holds(self) -> bool:
    """Whether nothing is wrong."""
    return self.level in ('private', 'nothing')


def verdict(facts: RunFacts, ahead: Forecast | None = None) -> Verdict:
  """Returns what is to be said of a run.

  Guarantees:
    - 'private' is said only of a finite epsilon of at most
      `REASONABLE_EPSILON`, of a chain that is whole, within the budget, where
      no audit found more;
    - whatever makes epsilon infinite is named.

  Args:
    facts: Of the run.
    ahead: What its budget says; without it, a budget is compared with the
      epsilon of the ledger.
  """
  level, title, sentence = _judged(facts, ahead)
  finite = level not in ('tampered', 'nothing', 'not private')
  return Verdict(
    level,
    title,
    sentence,
    meaning(facts.release.value, facts.delta) if finite else '',
    '' if level in ('tampered', 'nothing') else _server(facts),
    tuple(_caveats(facts)) if facts.fault is None else (),
    tuple(_changes(level, facts, ahead)),
  )


def activity(facts: RunFacts, writing: bool | None) -> str:
  """Returns what the process that writes a run is doing, in words.

  Args:
    facts: Of the run.
    writing: Whether it is still running; `None` if that is not known.
  """
  opened = bool((facts.series.status == 'reserved').any())
  if writing is False:
    return 'The process that trained it has ended.' + (
      ' It left an attempt open, which stays charged.' if opened else ''
    )
  what = 'A round is running.' if opened else 'Between rounds.'
  if writing is None:
    what += ' Its process is of another host: that it ends cannot be seen.'
  return what


def meaning(epsilon: float, delta: float) -> str:
  """Returns what an epsilon lets somebody guess, in words."""
  if math.isinf(epsilon):
    return 'No ε holds: nothing bounds what can be guessed about a client.'
  return (
    'Somebody who knows everything else, and for whom it is a fair coin whether'
    f' a certain client took part, {words.guess(epsilon, delta)}.'
  )


def contradictions(facts: RunFacts) -> tuple[AuditFacts, ...]:
  """Returns the audits that found more than the ledger says is possible."""
  return tuple(a for a in facts.audits if a.figures and _is_alarm(facts, a))


def _is_alarm(facts: RunFacts, audit: AuditFacts) -> bool:
  figures = audit.figures or {}
  if figures.get('alarm') is True:
    return True
  bound = figures.get('lower_bound')
  if audit.kind not in _BOUNDS or not isinstance(bound, (int, float)):
    return False
  stated = figures.get('ledger_epsilon')
  if isinstance(stated, (int, float)) and bound > stated:
    return True
  at = facts.server if figures.get('view') == 'server' else facts.release
  return figures.get('delta') == facts.delta and bound > at.value


def _judged(facts: RunFacts, ahead: Forecast | None) -> tuple[str, str, str]:
  if facts.fault is not None:
    return (
      'tampered',
      'The record was altered',
      f'The ledger of this run is not as it was written: {facts.fault}. Nothing'
      ' that it says can be relied on.',
    )
  if not facts.rounds and not facts.release.value and not facts.server.value:
    said = 'No round was released, and nothing spent.'
    return 'nothing', 'Nothing released yet', said
  wrong = contradictions(facts)
  if wrong:
    return (
      'contradicted',
      'An audit disagrees',
      f'Audit {wrong[-1].number} ({wrong[-1].kind.replace("_", " ")}) found'
      ' more'
      ' than the ledger’s ε allows. One of them is wrong, and until it is known'
      ' which, the run does not count as private.',
    )
  return _judged_by_epsilon(facts, ahead)


def _judged_by_epsilon(
  facts: RunFacts, ahead: Forecast | None
) -> tuple[str, str, str]:
  release, delta = facts.release, words.figure(facts.delta)
  if math.isinf(release.value):
    return (
      'not private',
      'Not private',
      'This run is not private: no ε holds for it, because'
      f' {words.listed(release.reasons)}.',
    )
  told = f'ε = {words.figure(release.value)} at δ = {delta}'
  passed = _over_budget(facts, ahead)
  if passed is not None:
    return 'over budget', 'Over budget', passed
  if release.value > REASONABLE_EPSILON:
    return (
      'weak',
      'Hardly private',
      'What this run has released is bounded, but the bound is too large to'
      f' protect any one client: {told}.',
    )
  return (
    'private',
    'Private',
    'This run is private: what it has released tells little about any one'
    f' client ({told}).',
  )


def _over_budget(facts: RunFacts, ahead: Forecast | None) -> str | None:
  if facts.budget is None:
    return None
  budget = facts.budget.budget
  spent = facts.server if budget.view == 'server' else facts.release
  if ahead is not None and ahead.spent is not None:
    spent = ahead.spent
  if spent.value <= budget.epsilon:
    return None
  shared = facts.budget.population
  whose = 'This run' if shared is None else f'Population {words.shown(shared)}'
  return (
    f'{whose} has spent more than its budget: ε = {words.figure(spent.value)}'
    ' of'
    f' {words.figure(budget.epsilon)} at δ = {words.figure(budget.delta)}, in'
    ' the'
    f' {budget.view} view.'
  )


def _server(facts: RunFacts) -> str:
  server = facts.server
  stated = facts.settings.get('secure_sums')
  if not (words.is_secret(stated) or facts.external):
    return (
      'Towards whoever adds the vectors it is not private: no protocol hides'
      ' the'
      ' vector of a client. For a coordinator that saw the sums alone, ε would'
      f' be {words.figure(server.value)}.'
    )
  if math.isinf(server.value):
    return (
      'Towards the coordinator it is not private:'
      f' {words.listed(server.reasons)}.'
    )
  return (
    'Towards the coordinator, who knows who took part, ε ='
    f' {words.figure(server.value)}: it'
    f' {words.guess(server.value, facts.delta)}.'
  )


def _caveats(facts: RunFacts) -> Iterator[str]:
  for waiver in facts.waivers:
    yield (
      f'ε leaves out what was released without noise, and is true only if that'
      f' is right: {words.shown(waiver.name)} (waived by'
      f' {words.shown(waiver.by)}: {words.shown(waiver.why)}).'
    )
  if facts.external:
    yield 'It ran elsewhere: what the ledger knows is what others vouch for.'
  for wrong in facts.transcripts or ():
    yield f'Transcripts of the sessions: {words.shown(wrong)}.'
  opened = int((facts.series.status == 'reserved').sum())
  if opened:
    yield (
      f'{words.plural(opened, "attempt")} not settled: running now, or killed.'
      ' They are charged as planned.'
    )


def _changes(
  level: str, facts: RunFacts, ahead: Forecast | None
) -> Iterator[str]:
  if level == 'tampered':
    yield 'Compare it with an export, or with a head that was kept elsewhere.'
  elif level == 'nothing':
    yield 'The first round, which is charged before it runs.'
  elif level == 'contradicted':
    yield 'Repeat the audit; look for what the process releases unseen.'
  elif level == 'not private':
    yield from (_remedy(reason) for reason in facts.release.reasons)
    yield 'What was released stays released: the remedies are for another run.'
  elif level == 'over budget':
    yield 'Nothing takes back what was released. Release no further model.'
    yield 'More noise, fewer rounds or larger cohorts, in another run.'
  elif level == 'weak':
    yield (
      'More noise, fewer rounds, or cohorts that are a smaller part of more'
      ' clients: `tff-secagg budget plan` finds what an ε affords.'
    )
  else:
    yield from _changes_of_private(facts, ahead)


def _changes_of_private(
  facts: RunFacts, ahead: Forecast | None
) -> Iterator[str]:
  if ahead is not None and ahead.left is not None:
    yield f'More rounds that its budget admits: {afforded(ahead)}.'
  else:
    limit = f'{REASONABLE_EPSILON:g}'
    yield f'More rounds: each adds to ε, and above {limit} little protects.'
  yield 'Anything that is released without noise, such as an exact metric.'
  yield 'Another run on the same people: what both cost adds up.'


def afforded(ahead: Forecast) -> str:
  """Returns how many more rounds a budget admits, in words."""
  if ahead.left is None:
    return words.NOT_KNOWN
  if ahead.left >= ahead.limit:
    return f'at least {words.figure(ahead.limit)}'
  return words.figure(ahead.left) if ahead.left else 'none'


def _remedy(reason: str) -> str:
  told = words.shown(reason)
  if 'no noise' in reason:
    return f'{told}: train with a noise multiplier above 0.'
  if 'is exact' in reason or 'not noised' in reason:
    return (
      f'{told}: leave it out, noise it (metrics.dp_sum_then_finalize), or let'
      ' somebody answer for it by name (a waiver).'
    )
  return f'{told}: see docs/accounting.md for what has a finite ε.'
