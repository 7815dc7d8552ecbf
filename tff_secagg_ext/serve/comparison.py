# SPDX-License-Identifier: Apache-2.0
"""Runs beside one another: what each has spent, and where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tff_secagg_ext.ledger import view as view_lib
from tff_secagg_ext.report import cost_sections as costs
from tff_secagg_ext.report import plots, words
from tff_secagg_ext.report.charts import Chart, Line
from tff_secagg_ext.report.document import Block, Plot, Section, Table, Text
from tff_secagg_ext.report.facts import Floats, RunFacts
from tff_secagg_ext.serve.library import Judged

# As many as a chart has styles of lines.
MOST = len(plots.STYLES)
# What is told beside the settings, or is no setting.
_ELSEWHERE = ('notes', 'budget.failures', 'failure_probability', 'sampling')


def compare(runs: Sequence[Judged]) -> list[Section]:
  """Returns the sections of a comparison.

  Args:
    runs: Two to `MOST` of them, of different names.
  """
  facts = [run.facts for run in runs]
  spent = [_epsilons(facts, view) for view in ('release', 'server')]
  return [
    Section('glance', 'At a glance', [_glance(runs)]),
    Section('epsilon', 'What was spent, round by round', spent),
    Section('settings', 'Where their settings differ', [_settings(facts)]),
    Section('utility', 'What they are good for', list(_utility(facts))),
  ]


def _glance(runs: Sequence[Judged]) -> Table:
  rows = []
  for run in runs:
    found, mark = run.summary, '†' if run.summary.waived else ''
    rows.append(
      [
        words.shown(run.facts.name),
        found.headline,
        words.figure(found.release) + mark,
        words.figure(found.server) + mark,
        words.figure(run.facts.delta),
        words.figure(found.rounds),
      ]
    )
  return Table(
    'The runs',
    ('run', 'verdict', 'ε release', 'ε server', 'δ', 'rounds'),
    rows,
    note='† leaves out what is waived.' if _any_waived(runs) else '',
  )


def _any_waived(runs: Sequence[Judged]) -> bool:
  return any(run.summary.waived for run in runs)


def _epsilons(facts: Sequence[RunFacts], view: str) -> Plot | Text:
  whose = {
    'release': 'Towards whoever sees the models: ε',
    'server': 'Towards the coordinator: ε',
  }[view]
  lines, told = [], []
  for n, run in enumerate(facts):
    series = run.series
    values = series.release_epsilon
    if view == 'server':
      values = series.server_epsilon
    found = run.server if view == 'server' else run.release
    name = words.shown(run.name)
    end = words.figure(found.value)
    told.append(f'{name} has come to {end}')
    lines.append(_line(n, f'{name}: {end}', series.round, values))
  if not any(len(line.x) for line in lines):
    return Text('None of them has begun a round.', 'note')
  chart = Chart(whose, f'{"; ".join(told)}.', lines, 'round', 'ε')
  return plots.with_table(chart)


def _line(
  place: int, name: str, x: Any, y: Floats, *, steps: bool = True
) -> Line:
  style, dashes = plots.STYLES[place]
  return Line(name, np.asarray(x, np.float64), y, style, dashes, steps)


def _settings(facts: Sequence[RunFacts]) -> Block:
  settled = [
    dict(view_lib.leaves({**run.settings, 'delta': run.delta})) for run in facts
  ]
  names = dict.fromkeys(name for found in settled for name in found)
  rows = []
  claims = [words.sampling(run.sampling) for run in facts]
  if len(set(claims)) > 1:
    rows.append(['how cohorts are chosen', *claims])
  for name in names:
    if name.startswith(_ELSEWHERE):
      continue
    values = [_told(found.get(name)) for found in settled]
    if len(set(values)) > 1:
      rows.append([name.replace('_', ' ').replace('.', ': '), *values])
  if not rows:
    return Text('Nowhere: they were begun with the same settings.', 'note')
  header = ('setting', *(words.shown(run.name) for run in facts))
  return Table('Settings that differ', header, rows)


def _told(value: object) -> str:
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  if isinstance(value, (int, float)):
    return words.figure(value)
  if value is None or value in ([], {}):
    return 'none'
  if isinstance(value, list):
    return words.listed(value)
  return words.shown(value)


def _utility(facts: Sequence[RunFacts]) -> Iterator[Block]:
  named = dict.fromkeys(name for run in facts for name in costs.utilities(run))
  for name in named:
    lines = []
    for n, run in enumerate(facts):
      rounds, values = costs.utility_over(run, name)
      if len(values):
        lines.append(
          _line(n, words.shown(run.name), rounds, values, steps=False)
        )
    told = '; '.join(
      f'{line.name}: {words.figure(float(line.y[-1]))}' for line in lines
    )
    shown = words.shown(name)
    yield plots.with_table(
      Chart(
        shown, f'{told} at the end.', lines, 'round', shown, from_zero=False
      )
    )
  if not named:
    yield Text('No evaluation of them is on record.', 'note')
