# SPDX-License-Identifier: Apache-2.0
"""Sections on what a run has spent: epsilon, budget, noise, clipping."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import math

import numpy as np

from tff_secagg_ext.report import plots, verdicts, words
from tff_secagg_ext.report.charts import Chart, Line
from tff_secagg_ext.report.cost_sections import ELSEWHERE
from tff_secagg_ext.report.document import (
  Block,
  Figure,
  Figures,
  Plot,
  Section,
  Text,
  Why,
)
from tff_secagg_ext.report.facts import Floats, RunFacts
from tff_secagg_ext.report.forecasting import MOST_DISTINCT, Forecast

_VIEWS = {
  'release': 'Towards whoever sees the models',
  'server': 'Towards the coordinator',
}


def epsilon(facts: RunFacts, ahead: Forecast) -> Section:
  """Returns what was spent, against rounds, in both views."""
  blocks: list[Block] = [
    Figures(
      [
        _epsilon(facts, 'release'),
        _epsilon(facts, 'server'),
        Figure(
          'δ',
          words.figure(facts.delta),
          'The probability with which ε may not hold; it should be well below'
          ' one over the number of clients.',
        ),
        Figure('rounds released', words.figure(facts.rounds)),
      ]
    )
  ]
  if len(facts.series):
    blocks += [_epsilon_plot(facts, ahead, view) for view in _VIEWS]
  blocks.append(
    Why(
      'What does ε mean?',
      f'{verdicts.EXPLAINED} '
      + verdicts.meaning(facts.release.value, facts.delta)
      if facts.fault is None
      else '',
    )
  )
  return Section('epsilon', 'What was spent', blocks)


def _epsilon(facts: RunFacts, view: str) -> Figure:
  found = facts.server if view == 'server' else facts.release
  mark = '†' if found.waivers else ''
  why = {
    'release': 'The release view: models and metrics are seen, and who took'
    ' part is not; sampling amplifies privacy.',
    'server': 'The server view: the coordinator follows the protocol, sees sums'
    ' and who took part; no sampling is claimed.',
  }[view]
  if found.accountant:
    why += f' Computed by the accountant “{found.accountant}”.'
  infinite = math.isinf(found.value)
  return Figure(
    f'ε {_VIEWS[view][0].lower()}{_VIEWS[view][1:]}',
    words.figure(found.value) + mark,
    why,
    'red' if infinite else '',
  )


def _epsilon_plot(facts: RunFacts, ahead: Forecast, view: str) -> Plot | Text:
  series = facts.series
  values = series.server_epsilon if view == 'server' else series.release_epsilon
  if not np.isfinite(values).any():
    told = 'ε is infinite after every attempt.'
    return Text(f'{_VIEWS[view]}: {told}', 'red')
  rounds = series.round.astype(np.float64)
  style = 'ink' if view == 'server' else 'accent'
  lines = [Line('ε so far', rounds, values, style)]
  then = ahead.server if view == 'server' else ahead.release
  if len(then) > 1 and np.isfinite(then).all():
    after = ahead.rounds + rounds[-1]
    lines.append(
      Line('forecast', after.astype(np.float64), then, 'faint', '3 4', False)
    )
  rules: list[tuple[str, float]] = []
  budget = facts.budget and facts.budget.budget
  if budget and budget.view == view:
    rules = [(f'budget {words.figure(budget.epsilon)}', budget.epsilon)]
  finite = values[np.isfinite(values)]
  told = (
    f'ε rises from {words.figure(float(finite[0]))} to'
    f' {words.figure(float(finite[-1]))} in'
    f' {words.plural(len(series), "attempt")}.'
  )
  chart = Chart(f'{_VIEWS[view]}: ε', told, lines, 'round', 'ε', rules)
  return plots.with_table(chart)


def budget(facts: RunFacts, ahead: Forecast) -> Section:
  """Returns how many more rounds the budget affords."""
  return Section('budget', 'How many more rounds', list(_budget(facts, ahead)))


def _budget(facts: RunFacts, ahead: Forecast) -> Iterator[Block]:
  if facts.budget is None or ahead.spent is None:
    yield from _without_budget(facts, ahead)
    return
  stated, spent = facts.budget.budget, ahead.spent.value
  tone = 'red' if spent > stated.epsilon else ''
  filter_ = words.shown(facts.budget.settings.get('filter'))
  yield Figures(
    [
      Figure('more rounds it admits', verdicts.afforded(ahead), _LEFT, tone),
      Figure('spent of it', words.figure(spent), _SPENT, tone),
      Figure(
        'budget',
        f'ε {words.figure(stated.epsilon)} at δ {words.figure(stated.delta)}',
        f'Of the {stated.view} view. It is counted by the filter “{filter_}”,'
        ' fixed before the first round.',
      ),
    ]
  )
  if facts.budget.population is not None:
    yield Text(
      f'It is the budget of population {words.shown(facts.budget.population)},'
      f' which {words.plural(len(facts.budget.others), "other run")} of this'
      ' ledger spend of.'
    )
  yield Text(_PASSED, tone) if tone else Text(_REFUSES, 'note')


def _without_budget(facts: RunFacts, ahead: Forecast) -> Iterator[Block]:
  yield Text(_NO_BUDGET if facts.budget is None else _NO_PLAN)
  if len(ahead.rounds) > 1 and math.isfinite(ahead.release[-1]):
    yield Text(
      f'With {words.plural(int(ahead.rounds[-1]), "more round")} as the newest'
      f' was planned, ε would be {words.figure(float(ahead.release[-1]))}'
      ' towards whoever sees the models, and'
      f' {words.figure(float(ahead.server[-1]))} towards the coordinator.'
    )


_NO_BUDGET = (
  'This run has no budget: nothing but people stops it. Give one before the'
  ' first'
  ' round (`PrivacyRecorder(budget=...)`, or `tff-secagg train'
  ' --target-epsilon`).'
)
_NO_PLAN = (
  'Nothing is forecast: no round was planned yet, or more than'
  f' {MOST_DISTINCT} rounds have each a charge of their own.'
)
_PASSED = 'The budget is passed: no round is admitted.'
_REFUSES = 'A round that would pass the budget is refused before it runs.'
_LEFT = (
  'Found by pricing all that is spent and so many rounds like the newest;'
  ' unless'
  ' it says “at least”, one round more was priced as well, and is above the'
  ' budget.'
)
_SPENT = 'All attempts count from their reservation on, lost and open ones too.'


def noise(facts: RunFacts) -> Section:
  """Returns planned and effective noise multipliers."""
  series, planned = facts.series, facts.planned_noise
  if facts.external:
    return Section('noise', 'Noise', [ELSEWHERE])
  blocks: list[Block] = [
    Figures(
      [
        Figure('planned', words.figure(planned), _PLANNED),
        Figure(
          'least that a round had, towards models',
          words.figure(plots.least(series.release_noise)),
          _EFFECTIVE,
        ),
        Figure(
          'least that a round had, towards the coordinator',
          words.figure(plots.least(series.server_noise)),
          _EFFECTIVE_FOR_SERVER,
        ),
      ]
    )
  ]
  plot = plots.over_rounds(
    facts,
    'Noise multiplier',
    'Noise over what one client can change, as rounds really had it.',
    [
      ('towards models', series.release_noise),
      ('towards the coordinator', series.server_noise),
    ],
    'noise / sensitivity',
  )
  if plot is not None:
    rules = []
    if planned is not None:
      rules = [(f'planned {words.figure(planned)}', planned)]
    chart = dataclasses.replace(plot.chart, rules=rules, alarming=False)
    blocks.append(Plot(chart, plot.table))
  return Section('noise', 'Noise', blocks)


_PLANNED = (
  'The noise multiplier z: standard deviation of the noise over the L2'
  ' sensitivity, what one client can move the sum by.'
)
_EFFECTIVE = (
  'With the noise of clients that were there, and of the server, where it adds'
  ' what is missing.'
)
_EFFECTIVE_FOR_SERVER = (
  'Without what the server added, and without the noise of clients that may'
  ' collude with it.'
)


def clipping(facts: RunFacts) -> Section:
  """Returns clip norm, zeroing threshold and wrap probability."""
  series, title = facts.series, 'Clipping, zeroing, wrapping'
  if facts.external:
    return Section('clipping', title, [ELSEWHERE])
  figures = Figures(
    [
      Figure(
        'clip norm now',
        words.figure(plots.last(series.clip_norm)),
        'Updates are scaled down to this L2 norm: what bounds the influence of'
        ' one client.',
      ),
      Figure(
        'zeroing threshold now',
        words.figure(plots.last(series.zeroing_threshold)),
        'An update with a larger coordinate, or one that is not finite, counts'
        ' as'
        ' zero; its noise stays.',
      ),
      Figure(
        'probability that a coordinate wraps, at most',
        words.figure(plots.most(series.wrap_probability)),
        'Sums are modular. A sum that wraps around is wrong, and as private.',
      ),
    ]
  )
  drawn = [
    plots.over_rounds(facts, title, _course(values), [(name, values)])
    for title, name, values in (
      ('Clip norm', 'clip norm', series.clip_norm),
      ('Zeroing threshold', 'threshold', series.zeroing_threshold),
      ('Wrap probability', 'probability', series.wrap_probability),
    )
  ]
  plots_ = [plot for plot in drawn if plot is not None]
  return Section('clipping', title, [figures, *plots_])


def _course(values: Floats) -> str:
  """Returns where a series begins and ends."""
  first = words.figure(plots.first(values))
  return f'From {first} to {words.figure(plots.last(values))}.'
