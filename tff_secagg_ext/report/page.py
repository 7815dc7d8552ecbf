# SPDX-License-Identifier: Apache-2.0
"""The report of a run as a document."""

from __future__ import annotations

import math

from tff_secagg_ext.report import basis_sections as basis
from tff_secagg_ext.report import cost_sections as costs
from tff_secagg_ext.report import exposure_sections as exposure
from tff_secagg_ext.report import forecasting, verdicts, words
from tff_secagg_ext.report import privacy_sections as privacy
from tff_secagg_ext.report.document import (
  Block,
  Document,
  Items,
  Question,
  Section,
  Text,
)
from tff_secagg_ext.report.facts import RunFacts
from tff_secagg_ext.report.forecasting import Forecast, WhatIf


def report(facts: RunFacts, ahead: Forecast | None = None) -> Document:
  """Returns the report of a run.

  Of a run whose rows were altered it says that alone.

  Args:
    facts: Of the run.
    ahead: Their forecast, if it was made already.
  """
  ahead = ahead or forecasting.forecast(facts)
  what_if = forecasting.dropouts(facts, forecasting.DROPPED)
  found = verdicts.verdict(facts, ahead)
  altered = facts.fault is not None
  sections = (
    [basis.record(facts)] if altered else _sections(facts, ahead, what_if)
  )
  return Document(
    title='Privacy report',
    audience=audience(facts),
    run=words.shown(facts.name),
    level=found.level,
    headline=found.title,
    banner=banner(found),
    questions=[] if altered else _questions(facts, found, ahead, what_if),
    sections=sections,
    footer='Made from the ledger by `tff-secagg report`.',
  )


def audience(facts: RunFacts) -> str:
  """Returns for whom a page is."""
  if facts.view == 'server':
    return 'for the coordinator alone, not to be published'
  return 'may be published'


def banner(found: verdicts.Verdict) -> list[Block]:
  """Returns what a verdict says, and what would change it."""
  blocks: list[Block] = [Text(found.sentence, 'lead')]
  blocks += [Text(said) for said in (found.meaning, found.server) if said]
  blocks += [Text(caveat, 'red') for caveat in found.caveats]
  if found.changes:
    blocks += [Text('What would change this:', 'small'), Items(found.changes)]
  return blocks


def _sections(
  facts: RunFacts, ahead: Forecast, what_if: WhatIf | None
) -> list[Section]:
  return [
    exposure.against(facts),
    privacy.epsilon(facts, ahead),
    privacy.budget(facts, ahead),
    exposure.unnoised(facts),
    privacy.noise(facts),
    privacy.clipping(facts),
    costs.clients(facts, what_if),
    costs.communication(facts),
    costs.seconds(facts),
    costs.utility(facts),
    costs.audits(facts),
    basis.basis(facts),
    basis.record(facts),
  ]


def _questions(
  facts: RunFacts,
  found: verdicts.Verdict,
  ahead: Forecast,
  what_if: WhatIf | None,
) -> list[Question]:
  return [
    Question('Is it private?', found.title, 'verdict'),
    Question('Against whom?', _protected(facts), 'against'),
    Question(
      'What did it spend, and what does ε mean?',
      f'ε {words.figure(facts.release.value)}',
      'epsilon',
    ),
    Question('How many more rounds can I afford?', _afforded(ahead), 'budget'),
    Question('Who saw un-noised numbers?', _seen(facts), 'unnoised'),
    Question(
      f'What happens if {words.percent(forecasting.DROPPED)} drop out?',
      _after_dropouts(what_if),
      'clients',
    ),
    Question('What does it cost in bytes and time?', _bytes(facts), 'bytes'),
    Question(
      'What did privacy cost in accuracy?', _evaluated(facts), 'utility'
    ),
    Question('Did anybody try to break it?', _attacked(facts), 'audits'),
    Question('What do the figures rest on?', 'assumptions, versions', 'basis'),
    Question('Was the record altered?', 'no; its head', 'record'),
  ]


def _afforded(ahead: Forecast) -> str:
  return 'no budget' if ahead.left is None else verdicts.afforded(ahead)


def _seen(facts: RunFacts) -> str:
  if math.isinf(facts.release.value):
    return 'everybody'
  if facts.external:
    return 'others vouch for it'
  stated = facts.settings.get('secure_sums')
  in_clear = len(facts.series) and not words.is_secret(stated)
  if in_clear or math.isinf(facts.server.value):
    return 'whoever adds the vectors' if in_clear else 'the coordinator'
  return 'see the waivers' if facts.waivers else 'nobody'


def _after_dropouts(what_if: WhatIf | None) -> str:
  if what_if is None:
    return 'not known'
  if what_if.aborts:
    return 'rounds are aborted'
  return f'ε {words.figure(what_if.release)}'


def _bytes(facts: RunFacts) -> str:
  known = facts.series.expansion[facts.series.expansion > 0]
  if not len(known):
    if facts.external:
      return 'not on record'
    hidden = facts.view == 'release'
    return 'the coordinator’s to know' if hidden else 'not on record'
  return f'{words.figure(float(known.mean()))} times'


def _protected(facts: RunFacts) -> str:
  """Returns from whom epsilon protects, as far as it is reasonable."""
  limit = verdicts.REASONABLE_EPSILON
  if facts.release.value > limit:
    return 'nobody'
  stated = facts.settings.get('secure_sums')
  if facts.server.value > limit or not words.is_secret(stated):
    return 'readers of the models'
  return 'readers and the coordinator'


def _evaluated(facts: RunFacts) -> str:
  audit = facts.newest('utility')
  figures = {} if audit is None else audit.figures or {}
  for name, value in figures.items():
    if name != 'rounds' and isinstance(value, (int, float)):
      return f'{words.shown(name)} {words.figure(value)}'
  return 'not measured'


def _attacked(facts: RunFacts) -> str:
  made = [a for a in facts.audits if a.kind not in ('utility', 'gate')]
  if not made:
    return 'nobody'
  told = words.plural(len(made), 'audit')
  return 'alarm' if verdicts.contradictions(facts) else told
