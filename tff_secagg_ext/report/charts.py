# SPDX-License-Identifier: Apache-2.0
"""Line and step charts as inline SVG, however many points there are.

A line is thinned to the smallest and the largest point of each of `BUCKETS`
buckets, so that no peak is lost, and a million points are as small as a
thousand. Lines differ by dashes as well as by colour.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import html
import itertools
import math

import numpy as np

from tff_secagg_ext.report import words
from tff_secagg_ext.report.facts import Floats, Integers

BUCKETS = 280
TABLE_ROWS = 40
_WIDTH, _HEIGHT = 640.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 14.0, 12.0, 40.0
_TICKS = 5


@dataclasses.dataclass(frozen=True)
class Line:
  """One line of a chart.

  Attributes:
    name: In the legend.
    x: float64[n], ascending.
    y: float64[n]; NaN and infinite values are gaps.
    style: A class of the style sheet: 'accent', 'ink', 'faint' or 'red'.
    dashes: Of the stroke, such as '6 4'; empty for a solid line.
    steps: Whether a value holds until the next.
  """

  name: str
  x: Floats
  y: Floats
  style: str = 'accent'
  dashes: str = ''
  steps: bool = True


@dataclasses.dataclass(frozen=True)
class Chart:
  """A chart.

  Attributes:
    title: What it shows.
    description: What is to be seen in it, for those who cannot see it.
    lines: Of which each is in the legend.
    x_name: Of the horizontal axis.
    y_name: Of the vertical axis, with the unit.
    rules: Horizontal lines, by name.
    alarming: Whether rules are limits, and so in red.
    marks: x of events that are marked on the horizontal axis.
    marks_name: What they are.
    from_zero: Whether the vertical axis begins at 0.
  """

  title: str
  description: str
  lines: Sequence[Line]
  x_name: str = 'attempt'
  y_name: str = ''
  rules: Sequence[tuple[str, float]] = ()
  alarming: bool = True
  marks: Floats = dataclasses.field(default_factory=lambda: np.zeros(0))
  marks_name: str = ''
  from_zero: bool = True


@dataclasses.dataclass(frozen=True)
class _Axes:
  """From figures to places in the drawing."""

  low: tuple[float, float]
  high: tuple[float, float]

  def x(self, values: Floats) -> Floats:
    span = self.high[0] - self.low[0]
    width = _WIDTH - _LEFT - _RIGHT
    return np.asarray(_LEFT + (values - self.low[0]) / span * width)

  def y(self, values: Floats) -> Floats:
    span = self.high[1] - self.low[1]
    height = _HEIGHT - _TOP - _BOTTOM
    return np.asarray(
      _HEIGHT - _BOTTOM - (values - self.low[1]) / span * height
    )


def thinned(y: Floats, buckets: int = BUCKETS) -> Integers:
  """Returns which points are drawn: of each bucket the least and the largest.

  Guarantees:
    - at most 2 `buckets` + 2 indices, ascending, the first and the last among
      them;
    - the least and the largest finite value of all are there.

  Args:
    y: float64[n].
    buckets: At least 1.
  """
  count = len(y)
  if count <= 2 * buckets + 2:
    return np.arange(count)
  edges = np.linspace(0, count, buckets + 1).astype(np.int64)
  kept = {0, count - 1}
  for start, stop in itertools.pairwise(edges.tolist()):
    part = y[start:stop]
    if np.isfinite(part).any():
      low = np.where(np.isfinite(part), part, math.inf).argmin()
      high = np.where(np.isfinite(part), part, -math.inf).argmax()
      kept |= {int(start + low), int(start + high)}
    else:
      kept.add(int(start))
  return np.array(sorted(kept), np.int64)


def thin(line: Line) -> Line:
  """Returns a line of the points that are drawn of it."""
  kept = thinned(line.y)
  return dataclasses.replace(line, x=line.x[kept], y=line.y[kept])


def ticks(low: float, high: float, count: int = _TICKS) -> list[float]:
  """Returns round numbers that divide [low, high] into about `count` parts."""
  span = high - low
  raw = span / count
  power = 10.0 ** math.floor(math.log10(raw))
  step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * 0.999)
  first = math.ceil(low / step - 1e-9)
  last = math.floor(high / step + 1e-9)
  return [n * step for n in range(first, last + 1)]


def svg(chart: Chart, identity: str) -> str:
  """Returns a chart as an SVG element.

  Args:
    chart: What is drawn.
    identity: A name that no other chart of the page has.
  """
  axes = _axes(chart)
  parts = [
    f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img"'
    f' aria-labelledby="{identity}-t {identity}-d">',
    f'<title id="{identity}-t">{html.escape(chart.title)}</title>',
    f'<desc id="{identity}-d">{html.escape(chart.description)}</desc>',
    *_grid(chart, axes),
  ]
  rule = 'rule' if chart.alarming else 'rule mild'
  for name, value in chart.rules:
    y = float(axes.y(np.array([value]))[0])
    parts.append(
      f'<path class="{rule}" d="M{_LEFT:g} {y:.1f}H{_WIDTH - _RIGHT:g}"/>'
      f'<text class="{rule}" x="{_LEFT + 6:g}" y="{y - 5:.1f}">'
      f'{html.escape(name)}</text>'
    )
  parts += [_path(line, axes) for line in chart.lines]
  parts += _marks(chart, axes)
  said = why_empty(chart)
  if said:
    parts.append(
      f'<text class="empty" x="{_WIDTH / 2:g}" y="{_HEIGHT / 2 - 12:g}">'
      f'{said}</text>'
    )
  return '\n'.join([*parts, '</svg>'])


def rows(count: int, most: int = TABLE_ROWS) -> Integers:
  """Returns which points a table has: evenly spaced ones, and the last."""
  if count <= most:
    return np.arange(count)
  return np.unique(np.linspace(0, count - 1, most).astype(np.int64))


def why_empty(chart: Chart) -> str:
  """Returns why a chart has no line, in words; empty if it has one."""
  if any(np.isfinite(line.y).any() for line in chart.lines):
    return ''
  infinite = any(np.isinf(line.y).any() for line in chart.lines)
  return 'infinite: nothing finite holds' if infinite else 'nothing to show yet'


def _axes(chart: Chart) -> _Axes:
  xs = [line.x for line in chart.lines if len(line.x)]
  ys = [line.y[np.isfinite(line.y)] for line in chart.lines]
  values = np.concatenate([*ys, [value for _, value in chart.rules]])
  places = np.concatenate(xs) if xs else np.array([0.0, 1.0])
  low, high = (
    (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
  )
  if chart.from_zero:
    low = min(0.0, low)
  room = (high - low) * 0.08 or max(abs(high) * 0.1, 1e-12)
  bottom = low if chart.from_zero and low == 0.0 else low - room
  left, right = float(places.min()), float(places.max())
  if right - left < 1.0:
    left, right = left - 0.5, right + 0.5
  return _Axes((left, bottom), (right, high + room))


def _grid(chart: Chart, axes: _Axes) -> list[str]:
  parts = []
  base = _HEIGHT - _BOTTOM
  levels = ticks(axes.low[1], axes.high[1], 4)
  for value, y in zip(levels, axes.y(np.array(levels)), strict=True):
    parts.append(
      f'<path class="grid" d="M{_LEFT:g} {y:.1f}H{_WIDTH - _RIGHT:g}"/>'
      f'<text class="y" x="{_LEFT - 8:g}" y="{y + 4:.1f}">'
      f'{words.short(value)}</text>'
    )
  places = [p for p in ticks(axes.low[0], axes.high[0]) if p == round(p)]
  for value, x in zip(places, axes.x(np.array(places)), strict=True):
    parts.append(
      f'<path class="tick" d="M{x:.1f} {base:g}v4"/>'
      f'<text class="x" x="{x:.1f}"'
      f' y="{base + 19:g}">{words.short(value)}</text>'
    )
  parts.append(
    f'<path class="axis" d="M{_LEFT:g} {base:g}H{_WIDTH - _RIGHT:g}"/>'
  )
  parts.append(
    f'<text class="name" x="{_WIDTH - _RIGHT:g}" y="{_HEIGHT - 5:g}">'
    f'{html.escape(chart.x_name)}</text>'
  )
  return parts


def _path(line: Line, axes: _Axes) -> str:
  line = thin(line)
  xs, ys = axes.x(line.x), axes.y(line.y)
  finite = np.isfinite(line.y)
  drawn: list[str] = []
  before = None
  for x, y, there in zip(xs, ys, finite, strict=True):
    if not there:
      before = None
    elif before is None:
      drawn.append(f'M{x:.1f} {y:.1f}')
      before = y
    else:
      drawn.append(f'H{x:.1f}V{y:.1f}' if line.steps else f'L{x:.1f} {y:.1f}')
      before = y
  dashes = f' stroke-dasharray="{line.dashes}"' if line.dashes else ''
  path = f'<path class="line {line.style}"{dashes} d="{"".join(drawn)}"/>'
  # A single point is no line.
  alone = [n for n in np.flatnonzero(finite) if finite.sum() == 1]
  return path + ''.join(
    f'<circle class="dot {line.style}" cx="{xs[n]:.1f}" cy="{ys[n]:.1f}"'
    ' r="4"/>'
    for n in alone
  )


def _marks(chart: Chart, axes: _Axes) -> list[str]:
  if not len(chart.marks):
    return []
  places = np.unique(np.round(axes.x(chart.marks)))
  base = _HEIGHT - _BOTTOM
  strokes = ''.join(f'M{x:g} {base - 9:g}v9' for x in places)
  return [f'<path class="mark" d="{strokes}"/>']
