# SPDX-License-Identifier: Apache-2.0
"""The privacy evaluation of a run, for a reviewer to sign.

In the order in which NIST SP 800-226 (2025, doi 10.6028/NIST.SP.800-226) climbs
its pyramid, from what is promised to what surrounds it. Filled from the ledger;
a blank is what no ledger knows, and a person must decide.
"""

from __future__ import annotations

from collections.abc import Iterator

from tff_secagg_ext.report import basis_sections as basis
from tff_secagg_ext.report import cost_sections as costs
from tff_secagg_ext.report import exposure_sections as exposure
from tff_secagg_ext.report import (
  forecasting,
  hazards,
  page,
  plots,
  verdicts,
  words,
)
from tff_secagg_ext.report.document import (
  Blank,
  Block,
  Document,
  Figure,
  Figures,
  Items,
  Section,
  Table,
  Text,
)
from tff_secagg_ext.report.facts import RunFacts


def statement(facts: RunFacts) -> Document:
  """Returns the statement of a run.

  Guarantees:
    - a blank is left only where the ledger has no answer;
    - of a run whose rows were altered it says that alone.
  """
  ahead = forecasting.forecast(facts)
  found = verdicts.verdict(facts, ahead)
  sections = [basis.record(facts)]
  if facts.fault is None:
    sections = [
      _threats(facts),
      _unit(facts),
      _parameters(facts, ahead),
      _mechanism(facts),
      _implementation(facts),
      _exposure(facts),
      _utility(facts),
      _limits(facts, found),
      hazards.checklist(facts, ahead),
      _record(facts),
    ]
  return Document(
    title='Privacy evaluation',
    audience=page.audience(facts),
    run=words.shown(facts.name),
    level=found.level,
    headline=found.title,
    banner=page.banner(found),
    questions=[],
    sections=sections,
    footer=(
      'In the order of NIST SP 800-226, filled from the ledger by tff-secagg'
      ' report --statement. Blanks are for the reviewer.'
    ),
  )


def _threats(facts: RunFacts) -> Section:
  stated = facts.settings.get('secure_sums')
  secret = words.is_secret(stated)
  blocks: list[Block] = [
    *_trust(facts, secret),
    *exposure.against(facts).blocks,
    Figures([Figure('sums', words.sums(stated))]),
  ]
  blocks.append(Blank('Who runs the coordinator, and who can read its ledger?'))
  blocks.append(Blank('Who receives the models, and may publish them?'))
  return Section('threats', '1. Threat model', blocks)


def _trust(facts: RunFacts, secret: bool) -> list[Block]:
  if facts.external:
    return []  # What ran elsewhere says its own trust domain.
  return [Text(_DISTRIBUTED) if secret else Text(_TRUSTED, 'red')]


_DISTRIBUTED = (
  'Trust model: distributed. Each client adds its share of noise before'
  ' anything'
  ' leaves it; nobody is trusted with data of a client.'
)
_TRUSTED = (
  'Trust model: whoever adds the vectors is trusted. No protocol hides the'
  ' vector'
  ' of a client from it.'
)


def _unit(facts: RunFacts) -> Section:
  population = facts.settings.get('population')
  found = [
    Figure(
      'unit of privacy',
      words.shown(facts.settings.get('unit_of_privacy', 'client')),
    ),
    Figure('what differs', words.adjacency(facts.sampling)),
  ]
  blocks: list[Block] = []
  if population:
    found.append(Figure('units in all', words.figure(population)))
  else:
    blocks.append(Blank('How many units of privacy are there?'))
  name = facts.settings.get('population_name')
  if name is not None:
    found.append(Figure('population', words.shown(name)))
  blocks.append(Blank('Can one person be more than one unit, and how many?'))
  return Section('unit', '2. Unit of privacy', [Figures(found), *blocks])


def _parameters(facts: RunFacts, ahead: forecasting.Forecast) -> Section:
  found = [
    Figure('ε, release view', words.figure(facts.release.value)),
    Figure('ε, server view', words.figure(facts.server.value)),
    Figure('δ', words.figure(facts.delta)),
    Figure(
      'of which for claims that may fail',
      words.figure(facts.delta - facts.spendable_delta),
    ),
    Figure('rounds composed', words.figure(len(facts.series))),
    *(
      Figure(
        f'ε computed anew from the charges, {view} view',
        f'{words.figure(anew.value)} ({anew.accountant or "nothing finite"})',
      )
      for view, anew in ahead.anew.items()
    ),
    Figure('cohorts', basis.sampling(facts)),
  ]
  blocks: list[Block] = [Figures(found)]
  if facts.budget is not None and ahead.spent is not None:
    budget = facts.budget.budget
    told = (
      f'Budget: ε {words.figure(budget.epsilon)} at δ'
      f' {words.figure(budget.delta)} in the {budget.view} view, of which'
      f' {words.figure(ahead.spent.value)} is spent. It was fixed before the'
      ' first round.'
    )
    blocks.append(Text(told))
  else:
    blocks.append(Blank('Which ε is acceptable for this use, and who says so?'))
  blocks.append(Text(verdicts.meaning(facts.release.value, facts.delta)))
  for told, reasons in exposure.infinite(facts).items():
    if reasons:
      blocks.append(Text(told, 'red'))
      blocks.append(Items([words.shown(reason) for reason in reasons], 'red'))
  blocks.append(Blank('What else was released about these people, elsewhere?'))
  return Section('parameters', '3. Privacy parameters', blocks)


def _mechanism(facts: RunFacts) -> Section:
  series, spec = facts.series, facts.mapping('aggregator')
  clipping = spec.get('clipping')
  how = (
    words.listed(f'{n.replace("_", " ")} {v}' for n, v in clipping.items())
    if isinstance(clipping, dict)
    else words.shown('not on record' if clipping is None else clipping)
  )
  found = [
    Figure('mechanism', basis.mechanism(facts)),
    Figure('noise multiplier, planned', words.figure(facts.planned_noise)),
    Figure(
      'least that a round had, release and server',
      f'{words.figure(plots.least(series.release_noise))} and'
      f' {words.figure(plots.least(series.server_noise))}',
    ),
    Figure('sensitivity', _sensitivity(facts)),
    Figure('clipping', how),
    Figure('clip norm at the end', words.figure(plots.last(series.clip_norm))),
    Figure('zeroing', _yes(spec.get('zeroing'))),
    Figure(
      'colluders that noise is sized for',
      words.figure(spec.get('max_colluders') or 0),
    ),
    Figure(
      'wrap probability, at most',
      words.figure(plots.most(series.wrap_probability)),
    ),
  ]
  return Section('mechanism', '4. Mechanism and sensitivity', [Figures(found)])


def _sensitivity(facts: RunFacts) -> str:
  if facts.external:
    return 'that of the events, which others vouch for'
  if facts.is_distributed:
    return (
      'L2 norm of a client’s integer vector after rounding, bits of the'
      ' adaptive thresholds included'
    )
  return 'L2 norm of what a client sends, as each round was charged'


def _yes(value: object) -> str:
  if value is None:
    return 'not on record'
  return 'yes' if value else 'no'


def _implementation(facts: RunFacts) -> Section:
  found = [
    Figure(
      'floating point',
      'noise, sums and the norm bound are integers, so that no rounding of'
      ' floats'
      ' reveals anything'
      if facts.is_distributed
      else 'samplers in floating point are taken for granted; see the settings',
    ),
    Figure(
      'timing',
      'times of rounds are kept out of what is published; whoever sees when'
      ' models are released sees how long rounds took. Whether the sampler'
      ' takes'
      ' constant time is not claimed',
    ),
    Figure('randomness', basis.randomness(facts)),
  ]
  blocks: list[Block] = [Figures(found)]
  audit = facts.newest('implementation')
  if audit is None or audit.figures is None:
    blocks.append(
      Text('No audit of the implementation is on record for this run.', 'red')
    )
  else:
    blocks.append(
      Text(
        'Attacks on the implementation (`tff-secagg audit implementation`):'
        f' {costs.summary(audit.figures)}.'
      )
    )
  if facts.versions:
    rows = [list(map(words.shown, item)) for item in facts.versions[-1].items()]
    blocks.append(Table('Versions', ('package', 'version'), rows))
  return Section('implementation', '5. Implementation', blocks)


def _exposure(facts: RunFacts) -> Section:
  secret = words.is_secret(facts.settings.get('secure_sums'))
  blocks: list[Block] = [
    Text('Who saw un-noised numbers?', 'head'),
    *exposure.unnoised(facts).blocks,
  ]
  if not facts.external:
    share = _WITH_NOISE if facts.clients_add_noise else _WITHOUT_NOISE
    blocks.append(Text(_MASKED if secret else f'{_IN_THE_CLEAR} {share}'))
  blocks += [
    Blank('How long do clients keep their data, and under which consent?'),
    Blank('Who can access checkpoints, which are the coordinator’s?'),
  ]
  return Section('exposure', '6. Data collection and exposure', blocks)


_MASKED = (
  'Raw data stay with the clients. Of a client the coordinator sees masked'
  ' vectors and that it took part.'
)
_IN_THE_CLEAR = (
  'Raw data stay with the clients. Their vectors are seen by whoever adds them,'
)
_WITH_NOISE = 'with a share of noise each.'
_WITHOUT_NOISE = 'without any noise.'


def _utility(facts: RunFacts) -> Section:
  blocks: list[Block] = []
  for block in costs.utility(facts).blocks:
    # A chart is for a page; its table is for a document.
    blocks.append(getattr(block, 'table', block))
  blocks.append(Blank('Is this good enough for every group it is used for?'))
  return Section('utility', '7. Utility', blocks)


def _limits(facts: RunFacts, found: verdicts.Verdict) -> Section:
  limits = [
    *found.caveats,
    'ε bounds what is learned of one unit; what is true of many is learned, as'
    ' it'
    ' is meant to be.',
    'ε of several releases about the same people adds up; this statement is of'
    ' this run alone'
    + (
      ', and its budget of its population.'
      if facts.budget is not None and facts.budget.population is not None
      else '.'
    ),
  ]
  if not facts.external:
    limits.append(
      'Clients that send poisoned updates are limited by the clip norm, not'
      ' stopped.'
    )
  if words.is_secret(facts.settings.get('secure_sums')):
    limits.append(
      'The protocol’s secrecy is computational, and more colluders than stated'
      ' break it.'
    )
  blocks: list[Block] = [Items(limits), *costs.audits(facts).blocks]
  return Section('limits', '8. Limits, and what audits found', blocks)


def _record(facts: RunFacts) -> Section:
  blocks: list[Block] = [Text('Was the record altered?', 'head')]
  blocks += basis.record(facts).blocks
  blocks += [
    Blank('Decision'),
    Blank('Name and date'),
    Blank('Signature'),
  ]
  return Section('record', '10. Record and signature', blocks)


def blanks(found: Document) -> Iterator[str]:
  """Yields what a person must decide."""
  for section in found.sections:
    for block in section.blocks:
      if isinstance(block, Blank):
        yield block.question
