# SPDX-License-Identifier: Apache-2.0
"""A checklist of privacy hazards, answered from evidence.

The hazards are those that NIST SP 800-226 warns of, in our words, as far as
they are about training a model.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import math

from tff_secagg_ext import accounting
from tff_secagg_ext.report import basis_sections as basis
from tff_secagg_ext.report import exposure_sections as exposure
from tff_secagg_ext.report import plots, verdicts, words
from tff_secagg_ext.report.document import Block, Section, Table
from tff_secagg_ext.report.facts import RunFacts
from tff_secagg_ext.report.forecasting import Forecast

_ELSEWHERE = 'it ran elsewhere: others vouch for it'
AVOIDED, PRESENT, DECIDE = 'avoided', 'PRESENT', 'for the reviewer'


@dataclasses.dataclass(frozen=True)
class Hazard:
  """A hazard, whether it is there, and how that is known.

  Attributes:
    name: In plain words.
    answer: `AVOIDED`, `PRESENT` or `DECIDE`.
    evidence: What the ledger says of it.
  """

  name: str
  answer: str
  evidence: str


def checklist(facts: RunFacts, ahead: Forecast) -> Section:
  """Returns the checklist as a section."""
  rows = [[h.name, h.answer, h.evidence] for h in hazards(facts, ahead)]
  table = Table('Hazards', ('hazard', 'answer', 'evidence'), rows)
  blocks: list[Block] = [table]
  return Section('hazards', '9. Checklist of hazards', blocks)


def hazards(facts: RunFacts, ahead: Forecast) -> Iterator[Hazard]:
  """Yields all hazards."""
  yield from _of_parameters(facts, ahead)
  yield from _of_releases(facts)
  yield from _of_implementation(facts)
  yield from _of_evidence(facts)


def _answer(avoided: bool) -> str:
  return AVOIDED if avoided else PRESENT


def _of_parameters(facts: RunFacts, ahead: Forecast) -> Iterator[Hazard]:
  release = facts.release.value
  yield Hazard(
    'ε so large that it promises next to nothing',
    _answer(release <= verdicts.REASONABLE_EPSILON),
    f'release view {words.figure(release)}, of at most'
    f' {verdicts.REASONABLE_EPSILON:g}; server view'
    f' {words.figure(facts.server.value)}',
  )
  population = facts.settings.get('population')
  if population:
    warning = accounting.warn_of_delta(facts.delta, population)
    yield Hazard(
      'δ above one over the population',
      _answer(warning is None),
      f'δ {words.figure(facts.delta)} for {words.figure(population)} units',
    )
  else:
    yield Hazard(
      'δ above one over the population', DECIDE, 'size not on record'
    )
  yield Hazard(
    'a unit of privacy smaller than a person',
    DECIDE,
    f'the unit is: {words.shown(facts.settings.get("unit_of_privacy"))}',
  )
  yield Hazard(
    'a privacy budget that is not kept, or that nobody fixed',
    _answer(_keeps_budget(facts, ahead)),
    'no budget is on record'
    if facts.budget is None
    else 'fixed before the first round: ε'
    f' {words.figure(facts.budget.budget.epsilon)}',
  )
  none = isinstance(facts.sampling, accounting.NoSampling)
  yield Hazard(
    'amplification by sampling that the sampling does not support',
    AVOIDED if none and not facts.external else DECIDE,
    f'the claim is: {basis.sampling(facts)}',
  )


def _keeps_budget(facts: RunFacts, ahead: Forecast) -> bool:
  if facts.budget is None:
    return False
  return ahead.spent is None or (
    ahead.spent.value <= facts.budget.budget.epsilon
  )


def _of_releases(facts: RunFacts) -> Iterator[Hazard]:
  everybody, server = exposure.exact_releases(facts)
  seen = (*everybody, *server)
  yield Hazard(
    'a release that no account covers',
    DECIDE
    if facts.external
    else _answer(not seen and math.isfinite(facts.release.value)),
    words.listed(seen or facts.release.reasons)
    or (
      _ELSEWHERE
      if facts.external
      else 'what leaves the clients is read off the compiled process'
    ),
  )
  yield Hazard(
    'a release that somebody chose not to count',
    _answer(not facts.waivers),
    words.listed(f'{w.name}, by {w.by}' for w in facts.waivers) or 'no waiver',
  )
  yield from _of_sums(facts)


def _of_sums(facts: RunFacts) -> Iterator[Hazard]:
  unbounded = 'contributions of unbounded influence'
  dropouts = 'dropouts that leave less noise than planned'
  if facts.external:
    yield Hazard(unbounded, DECIDE, _ELSEWHERE)
    yield Hazard(dropouts, DECIDE, _ELSEWHERE)
    return
  bounded = _is_bounded(facts)
  yield Hazard(
    unbounded,
    _answer(bounded),
    'each charge has a norm bound of one client’s vector'
    if bounded
    else 'not every charge has a norm bound of one client’s vector',
  )
  dropped = facts.series.server_noise
  planned = facts.planned_noise
  least = plots.least(dropped)
  short = planned is not None and least < planned * (1 - 1e-6)
  yield Hazard(
    dropouts,
    _answer(not short),
    f'planned {words.figure(planned)}, least {words.figure(least)} towards the'
    ' coordinator; ε counts what was there',
  )


def _is_bounded(facts: RunFacts) -> bool:
  """Whether all that was charged has a norm bound."""
  noised = (accounting.NoisedSumEvent, accounting.CentralGaussianEvent)
  return bool(facts.charges) and all(
    any(isinstance(event, noised) for event in charge.events)
    for charge, _ in facts.charges
    if charge.events
  )


def _of_implementation(facts: RunFacts) -> Iterator[Hazard]:
  stated = facts.settings.get('secure_sums')
  samplers = _samplers(facts)
  yield Hazard('noise in floating point', *samplers['floats'])
  yield Hazard('noise from a predictable generator', *samplers['seeds'])
  yield Hazard(
    'a curator that sees data of individuals',
    _answer(words.is_secret(stated)),
    words.sums(stated),
  )
  yield Hazard(
    'timing that tells the size of a cohort',
    DECIDE,
    'times are not published from the ledger; release models on a schedule',
  )


def _samplers(facts: RunFacts) -> dict[str, tuple[str, str]]:
  """Returns answers and evidence about what draws the noise."""
  if facts.is_distributed:
    return {
      'floats': (AVOIDED, 'discrete noise, integer sums'),
      'seeds': (AVOIDED, 'seeds from the kernel, ChaCha20'),
    }
  if 'tff' in facts.mapping('aggregator'):
    return {
      'floats': (PRESENT, 'the sampler of a factory of TensorFlow Federated'),
      'seeds': (PRESENT, 'seeds of 32 bits or time stamps; see the settings'),
    }
  return dict.fromkeys(('floats', 'seeds'), (DECIDE, 'not on record'))


def _of_evidence(facts: RunFacts) -> Iterator[Hazard]:
  audit = facts.newest('implementation')
  broken = (audit.figures or {}).get('broken') if audit is not None else None
  yield Hazard(
    'an implementation that nobody attacked',
    _answer(audit is not None and not broken),
    f'audit {audit.number}, broken: {words.listed(broken or ()) or "nothing"}'
    if audit is not None
    else 'no audit is on record',
  )
  yield Hazard(
    'an attack that finds more than is claimed',
    _answer(not verdicts.contradictions(facts)) if facts.audits else DECIDE,
    words.plural(len(facts.audits), 'audit') + ' on record',
  )
  yield Hazard(
    'a record that was altered',
    AVOIDED,
    f'the chain was checked; its head is {facts.head[:24]}…',
  )
