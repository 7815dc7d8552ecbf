# SPDX-License-Identifier: Apache-2.0
"""Charts of the series of a run, each with its table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import numpy as np

from tff_secagg_ext.report import charts, words
from tff_secagg_ext.report.charts import Chart, Line
from tff_secagg_ext.report.document import Plot, Table
from tff_secagg_ext.report.facts import Floats, RunFacts

# Line styles by their place; told apart without colour by their dashes.
STYLES = (('accent', ''), ('ink', '6 4'), ('faint', '2 3'), ('ink', '10 3 2 3'))


def over_rounds(
  facts: RunFacts,
  title: str,
  described: str,
  named: Sequence[tuple[str, Floats]],
  y_name: str = '',
  *,
  lost: bool = False,
) -> Plot | None:
  """Returns a chart of series over rounds; `None` if all are unknown.

  Args:
    facts: Of the run.
    title: Of the chart.
    described: What is to be seen in it.
    named: Series by name, each float64[n] by attempt.
    y_name: Of the vertical axis.
    lost: Whether attempts that were lost are in it, which have no sum.
  """
  told = np.full(len(facts.series), lost) | (facts.series.status != 'lost')
  known = [(name, y[told]) for name, y in named if not np.isnan(y[told]).all()]
  if not known:
    return None
  rounds = facts.series.round[told].astype(np.float64)
  lines = [
    # Alike but for style.
    Line(name, rounds, y, *STYLES[place % len(STYLES)])
    for place, (name, y) in enumerate(known)
  ]
  chart = Chart(title, described, lines, 'round', y_name)
  return with_table(chart)


def with_table(chart: Chart) -> Plot:
  """Returns a chart with a table of its lines, those of one x together.

  Of lines of many points no more are kept than are drawn.
  """
  first = chart.lines[0]
  alike = [
    line
    for line in chart.lines
    if len(line.x) == len(first.x) and np.array_equal(line.x, first.x)
  ]
  kept = charts.rows(len(first.x))
  cells = [
    [words.figure(float(line.x[n])) for line in alike[:1]]
    + [words.figure(float(line.y[n])) for line in alike]
    for n in kept
  ]
  others = [line for line in chart.lines if line not in alike]
  for line in others:
    places = charts.rows(len(line.x))
    for x, y in zip(line.x[places], line.y[places], strict=True):
      empty = [''] * (len(alike) - 1)
      cells.append(
        [f'{words.figure(x)} ({line.name})', words.figure(y), *empty]
      )
  left_out = len(first.x) - len(kept)
  note = (
    f'Every row is a point of the run; {words.figure(left_out)} others are left'
    ' out here, and are in the report as JSON (--format json).'
    if left_out
    else ''
  )
  header = [chart.x_name, *(line.name for line in alike)]
  drawn = dataclasses.replace(chart, lines=list(map(charts.thin, chart.lines)))
  return Plot(drawn, Table(chart.title, header, cells, True, note))


def mean(values: Floats) -> float:
  """Returns the mean of what is known; NaN if nothing is."""
  return _of_known(values, np.mean)


def total(values: Floats) -> float:
  """Returns the sum of what is known; NaN if nothing is."""
  return _of_known(values, np.sum)


def first(values: Floats) -> float:
  """Returns the oldest value that is known; NaN if none is."""
  return _of_known(values, lambda known: known[0])


def last(values: Floats) -> float:
  """Returns the newest value that is known; NaN if none is."""
  return _of_known(values, lambda known: known[-1])


def least(values: Floats) -> float:
  """Returns the smallest value that is known; NaN if none is."""
  return _of_known(values, np.min)


def most(values: Floats) -> float:
  """Returns the largest value that is known; NaN if none is."""
  return _of_known(values, np.max)


def _of_known(values: Floats, reduce: Callable[[Floats], Any]) -> float:
  known = values[np.isfinite(values)]
  return float(reduce(known)) if len(known) else float('nan')
