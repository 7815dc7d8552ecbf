# SPDX-License-Identifier: Apache-2.0
"""Figures for papers, by matplotlib, which is imported when one is drawn.

Of the same facts and the same matplotlib, a file has the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import textwrap
from typing import Any

import numpy as np

from tff_secagg_ext.report import charts, panels, words
from tff_secagg_ext.report.charts import Chart, Line
from tff_secagg_ext.report.facts import RunFacts

FORMATS = ('pdf', 'svg', 'png')
# Blue and vermilion of Okabe and Ito, which the colour-blind tell apart.
_COLORS = {'accent': '#0072b2', 'ink': '#222222', 'faint': '#777777'}
_RED = '#d55e00'
_WIDTH, _HEIGHT = 5.5, 2.1  # Inches; of one panel.
_LETTERS = 90  # Of a line at the foot.
_STYLE = {
  'axes.grid': True,
  'axes.spines.right': False,
  'axes.spines.top': False,
  'font.size': 9,
  'grid.color': '#dddddd',
  'grid.linewidth': 0.6,
  'legend.frameon': False,
  'lines.linewidth': 1.6,
  # Letters that can be searched and edited; type 3 is refused by publishers.
  'pdf.fonttype': 42,
  'svg.hashsalt': 'tff-secagg',
  # Names are no formulas.
  'text.parse_math': False,
}
# What would tell when a file was written.
_UNDATED: dict[str, dict[str, Any]] = {
  'pdf': {'CreationDate': None},
  'svg': {'Date': None},
  'png': {},
}


class Drawing:
  """A drawing of a run, which notebooks show.

  Attributes:
    figure: The `matplotlib.figure.Figure`, to be changed as one likes.
  """

  def __init__(self, figure: Any):
    """Use `draw`."""
    self.figure = figure

  def to_bytes(self, kind: str) -> bytes:
    """Returns it as a file.

    Args:
      kind: One of `FORMATS`.

    Raises:
      ValueError: If it is none of them.
    """
    if kind not in FORMATS:
      raise ValueError(
        f'`kind` must be one of {", ".join(FORMATS)}. Found {kind!r}.'
      )
    file = io.BytesIO()
    with _style():
      self.figure.savefig(file, format=kind, dpi=200, metadata=_UNDATED[kind])
    return file.getvalue()

  def _repr_svg_(self) -> str:
    return self.to_bytes('svg').decode()


def draw(facts: RunFacts) -> Drawing:
  """Returns a drawing: epsilon, the clip norm and contributors over rounds.

  Args:
    facts: Of the run; contributors are there if their view tells them.

  Raises:
    ValueError: If there is no round to draw, or the rows were altered.
    ImportError: If matplotlib is not installed; names the extra.
  """
  drawn = panels.panels(facts)
  with _style():
    from matplotlib.figure import Figure

    height = _HEIGHT * len(drawn)
    figure = Figure((_WIDTH, height), layout='constrained')
    rows = figure.subplots(len(drawn), sharex=True, squeeze=False)[:, 0]
    for axes, chart in zip(rows, drawn, strict=True):
      _panel(axes, chart)
    rows[-1].set_xlabel(drawn[-1].x_name)
    if facts.waivers:
      left_out = words.listed(waiver.name for waiver in facts.waivers)
      note = f'† leaves out what is waived: {left_out}'
      figure.supxlabel(textwrap.fill(note, _LETTERS), fontsize=7)
  return Drawing(figure)


@contextlib.contextmanager
def _style() -> Any:
  """Draws as this module says, whatever is configured.

  Raises:
    ImportError: If matplotlib is not installed.
  """
  try:
    import matplotlib
    from matplotlib import style
  except ModuleNotFoundError as error:
    raise ImportError(
      f'matplotlib cannot be imported: {error}. Install it with `pip install'
      ' "tff-secagg-ext[notebook]"`.'
    ) from error
  with style.context(['default', _STYLE]), matplotlib.rc_context():
    yield


def _panel(axes: Any, chart: Chart) -> None:
  for line in chart.lines:
    _line(axes, line)
  for name, value in chart.rules:
    axes.axhline(
      value, color=_RED, linewidth=1.2, linestyle=(0, (5, 2)), label=name
    )
  axes.set_ylabel(chart.y_name)
  axes.set_title(chart.title, fontsize=9, loc='left')
  axes.locator_params(axis='x', integer=True)
  if chart.from_zero:
    axes.set_ylim(bottom=0.0)
  if len(chart.lines) + len(chart.rules) > 1:
    axes.legend(fontsize=8)
  empty = charts.why_empty(chart)
  if empty:
    where = {'ha': 'center', 'va': 'center', 'transform': axes.transAxes}
    axes.text(0.5, 0.5, empty, color=_RED, **where)


def _line(axes: Any, line: Line) -> None:
  kept = charts.thinned(line.y)
  y = np.where(np.isfinite(line.y), line.y, np.nan)[kept]
  dashes = tuple(float(part) / 2 for part in line.dashes.split())
  axes.plot(
    line.x[kept],
    y,
    color=_COLORS[line.style],
    linestyle=(0, dashes) if dashes else 'solid',
    drawstyle='steps-post' if line.steps else 'default',
    marker='o' if np.isfinite(y).sum() == 1 else '',
    label=line.name,
  )
