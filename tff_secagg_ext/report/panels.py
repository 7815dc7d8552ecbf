# SPDX-License-Identifier: Apache-2.0
"""The few charts that say most of a run, for papers and notebooks."""

from __future__ import annotations

import math

import numpy as np

from tff_secagg_ext import accounting
from tff_secagg_ext.report import words
from tff_secagg_ext.report.charts import Chart, Line
from tff_secagg_ext.report.document import Table
from tff_secagg_ext.report.facts import Floats, RunFacts


def panels(facts: RunFacts) -> list[Chart]:
  """Returns charts of epsilon, the clip norm and contributors over rounds.

  Guarantees:
    - an epsilon that leaves out what is waived is marked with a dagger, one
      that is infinite is said to be;
    - what the view of the facts does not tell is not there.

  Args:
    facts: Of the run.

  Raises:
    ValueError: If there is no round to show, or the rows were altered.
  """
  if facts.fault is not None:
    raise ValueError(
      f'Run {words.shown(facts.name)!r} must be as it was written to be drawn.'
      f' Found: {words.shown(facts.fault)}. Compare it with an export.'
    )
  if not len(facts.series):
    raise ValueError(
      f'Run {words.shown(facts.name)!r} must have a round to be drawn. Found'
      ' none. Draw it after its first round.'
    )
  series = facts.series
  found = [
    epsilon(facts),
    _measured(facts, 'Clip norm', 'clip norm', series.clip_norm),
    _measured(facts, 'Contributors', 'contributors', series.contributors),
  ]
  return [chart for chart in found if chart is not None]


def epsilon(facts: RunFacts) -> Chart:
  """Returns the chart of both views' epsilon so far, with the budget."""
  series = facts.series
  rounds = series.round.astype(np.float64)
  release = _named('release view', facts.release)
  server = _named('server view', facts.server)
  rules: list[tuple[str, float]] = []
  known = series.release_epsilon, series.server_epsilon
  if facts.budget is not None and np.isfinite(np.concatenate(known)).any():
    budget = facts.budget.budget
    stated = words.figure(budget.epsilon)
    rules = [(f'budget {stated}, {budget.view} view', budget.epsilon)]
  return Chart(
    f'ε at δ = {words.figure(facts.delta)}',
    f'After {words.plural(len(series), "attempt")} ε is'
    f' {words.figure(facts.release.value)} towards whoever sees the models and'
    f' {words.figure(facts.server.value)} towards the coordinator.',
    [
      Line(release, rounds, series.release_epsilon),
      Line(server, rounds, series.server_epsilon, 'ink', '6 4'),
    ],
    'round',
    'ε',
    rules,
  )


def newest(facts: RunFacts, count: int) -> Table:
  """Returns the newest attempts, with what the view tells of them.

  Args:
    facts: Of the run.
    count: How many at most.
  """
  series = facts.series
  columns = {
    'ε release': series.release_epsilon,
    'ε server': series.server_epsilon,
    'clip norm': series.clip_norm,
    'invited': series.invited,
    'summed': series.contributors,
    'seconds': series.seconds,
  }
  told = {n: v for n, v in columns.items() if not np.isnan(v).all()}
  rows = []
  for n in range(max(0, len(series) - count), len(series)):
    again = f' ({series.attempt[n]})' if series.attempt[n] > 1 else ''
    status = str(series.status[n])
    rows.append(
      [
        str(series.round[n]),
        ('open' if status == 'reserved' else status) + again,
        *(words.figure(float(values[n])) for values in told.values()),
      ]
    )
  return Table('The newest attempts', ('round', 'state', *told), rows)


def _named(view: str, found: accounting.Epsilon) -> str:
  infinite = ': ∞' if math.isinf(found.value) else ''
  return f'{view}{"†" if found.waivers else ""}{infinite}'


def _measured(
  facts: RunFacts, title: str, name: str, values: Floats
) -> Chart | None:
  """Returns a chart of what rounds measured; `None` if it is not told."""
  told = np.isfinite(values)
  if not told.any():
    return None
  newest = words.figure(float(values[told][-1]))
  line = Line(name, facts.series.round[told].astype(np.float64), values[told])
  return Chart(title, f'The newest is {newest}.', [line], 'round', name)
