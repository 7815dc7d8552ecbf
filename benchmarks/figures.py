# SPDX-License-Identifier: Apache-2.0
"""The figures of docs/, as SVG that is light or dark as the reader's screen is.

  python -m benchmarks.figures [FOLDER]

writes them to docs/figures, or elsewhere; some seconds. Epsilons are of
`tff_secagg_ext.accounting`; what audits found is in the table of docs/audit.md,
which `python benchmarks/audit.py` prints.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
import html
import pathlib
import re

import numpy as np

from tff_secagg_ext import accounting
from tff_secagg_ext.report import charts

DOCS = pathlib.Path(__file__).parents[1] / 'docs'
# As for EMNIST, at noise multiplier 1; see docs/accounting.md.
CLIENTS, POPULATION, ROUNDS = 100, 3400, 1500
DELTA = 1.0 / POPULATION
# Of a client, in the server's view.
CAP = 10
EVENT = accounting.NoisedSumEvent(
  'distributed_dgauss',
  l2_sensitivity=30_005.0,
  share_stddev=3_000.0,
  client_shares=CLIENTS,
  dimension=2**20,
)
_STYLE = """
svg { --paper: #fff; --ink: #1d1f22; --soft: #5d6369; --line: #dcdfe2;
  --accent: #0b5cad; background: var(--paper);
  font: 13px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #16181b; --ink: #e8eaec; --soft: #a2a9b1; --line: #33383e;
    --accent: #7cb8f2; } }
text { fill: var(--soft); } .title { fill: var(--ink); font-weight: 600; }
.y, .name { text-anchor: end; } .x { text-anchor: middle; }
.grid { stroke: var(--line); } .axis, .tick { stroke: var(--soft); fill: none; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.accent { stroke: var(--accent); } .ink { stroke: var(--ink); }
.faint { stroke: var(--soft); }
path.rule { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 8 4; }
"""


def curve(
  sampling: accounting.Sampling, price: Callable[[accounting.Accountant], float]
) -> tuple[charts.Floats, charts.Floats]:
  """Returns rounds, and epsilon after so many."""
  a_round = accounting.Round((EVENT,), sampling)
  rounds = np.unique(np.geomspace(1, ROUNDS, 24).astype(np.int64))
  empty = accounting.Accountant(DELTA)
  found = [price(empty.with_round(a_round, n)) for n in rounds.tolist()]
  return rounds.astype(np.float64), np.array(found)


def release(account: accounting.Accountant) -> float:
  """Returns epsilon towards whoever sees what was released."""
  return account.release().value


def views() -> charts.Chart:
  """Returns epsilon over rounds in both views."""
  poisson = accounting.PoissonSampling(CLIENTS / POPULATION)
  capped = curve(poisson, lambda a: a.server(max_participations=CAP).value)
  return charts.Chart(
    'ε over rounds: whoever sees the models, and the coordinator',
    'Towards whoever sees the models ε grows slowly and ends near 6; towards'
    f' the coordinator it is near 15 once a client has taken part {CAP} times.',
    [
      charts.Line('release view', *curve(poisson, release), steps=False),
      charts.Line(
        f'server view, a client in {CAP} rounds', *capped, 'ink', '6 4', False
      ),
    ],
    'round',
    'ε',
  )


def naive_and_true() -> charts.Chart:
  """Returns what is usually said of fixed cohorts, and what is true."""
  poisson = accounting.PoissonSampling(CLIENTS / POPULATION)
  fixed = accounting.FixedSizeSampling(CLIENTS, POPULATION)
  return charts.Chart(
    'Cohorts of fixed size: ε by the usual formula, and ε that holds',
    'The usual formula ends near 6; what holds for cohorts of a fixed size ends'
    ' near 25.',
    [
      charts.Line('what holds', *curve(fixed, release), steps=False),
      charts.Line(
        'the usual formula', *curve(poisson, release), 'faint', '3 4', False
      ),
    ],
    'round',
    'ε',
  )


def drawn(chart: charts.Chart) -> str:
  """Returns a chart as a file of its own, with its title and a legend."""
  body = charts.svg(chart, 'chart')
  first, _, rest = body.partition('>')
  width, height = map(float, re.findall(r'viewBox="0 0 (\S+) (\S+)"', first)[0])
  named = [(line.name, line.style, line.dashes) for line in chart.lines]
  parts = [*_legend(named), rest.rpartition('</')[0]]
  return _file(width, height, chart.title, parts)


def _legend(named: Sequence[tuple[str, str, str]]) -> list[str]:
  """Returns a legend of lines: their names, styles and dashes."""
  parts, x = [], 62.0
  for name, style, dashes in named:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ''
    parts.append(
      f'<path class="line {style}"{dashed} d="M{x:g} -14h30"/>'
      f'<text x="{x + 38:g}" y="-10">{html.escape(name)}</text>'
    )
    x += 70 + 7.2 * len(name)
  return parts


def _file(width: float, height: float, title: str, parts: list[str]) -> str:
  return '\n'.join(
    [
      '<svg xmlns="http://www.w3.org/2000/svg" role="img"'
      f' aria-labelledby="chart-t chart-d" width="{width + 12:g}"'
      f' viewBox="0 -52 {width + 12:g} {height + 52:g}">',
      f'<style>{_STYLE}</style>',
      f'<text class="title" x="62" y="-34">{html.escape(title)}</text>',
      *parts,
      '</svg>\n',
    ]
  )


def audited() -> Mapping[float, Mapping[str, tuple[float, float]]]:
  """Returns mean and deviation of estimates, by exact epsilon and by name."""
  text = (DOCS / 'audit.md').read_text()
  table = text[text.index('| epsilon | known | fitted | lower bound') :]
  header, _, *rows = table[: table.index('\n\n')].splitlines()
  names = [cell.strip() for cell in header.strip('|').split('|')]
  found = {}
  for row in rows:
    cells = [cell.strip() for cell in row.strip('|').split('|')]
    found[float(cells[0])] = {
      name: (float(mean), float(deviation))
      for name, cell in zip(names[1:4], cells[1:4], strict=True)
      for mean, deviation in [cell.split(' +- ')]
    }
  return found


def audits() -> str:
  """Returns how far estimates of the plain Gaussian mechanism are off."""
  found = audited()
  low, high = -0.75, 1.25
  styles = {'lower bound': 'faint', 'known': 'accent', 'fitted': 'ink'}

  def y(value: float) -> float:
    return 20.0 + (high - value) / (high - low) * 190.0

  parts = [
    '<title id="chart-t">Audits of the plain Gaussian mechanism</title>',
    '<desc id="chart-d">With a known deviation the estimates are right on'
    ' average; with a fitted one they are about 0.4 too large; lower bounds are'
    ' below.</desc>',
  ]
  for level in (-0.5, 0.0, 0.5, 1.0):
    parts.append(
      f'<path class="{"rule" if level == 0 else "grid"}"'
      f' d="M62 {y(level):.1f}H626"/>'
      f'<text class="y" x="54" y="{y(level) + 4:.1f}">{level:g}</text>'
    )
  parts += _legend([(name, style, '') for name, style in styles.items()])
  for place, (epsilon, estimates) in enumerate(found.items()):
    middle = 156.0 + 188.0 * place
    parts.append(
      f'<text class="x" x="{middle:g}" y="232">ε = {epsilon:g}</text>'
    )
    for offset, (name, style) in zip((-56, 0, 56), styles.items(), strict=True):
      mean, deviation = estimates[name]
      x, centre = middle + offset, mean - epsilon
      parts.append(
        f'<path class="line {style}" d="M{x:g} {y(centre - deviation):.1f}'
        f'V{y(centre + deviation):.1f}M{x - 9:g} {y(centre):.1f}h18"/>'
      )
  title = 'Estimate less exact ε: mean and standard deviation of 50 audits'
  return _file(640.0, 244.0, title, parts)


def figures() -> Mapping[str, str]:
  """Returns all figures, by the names of their files."""
  return {
    'epsilon_views.svg': drawn(views()),
    'naive_and_true.svg': drawn(naive_and_true()),
    'audits.svg': audits(),
  }


def main() -> None:
  """Writes all figures."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    'folder', type=pathlib.Path, nargs='?', default=DOCS / 'figures'
  )
  folder = parser.parse_args().folder
  folder.mkdir(parents=True, exist_ok=True)
  for name, text in figures().items():
    (folder / name).write_text(text)
    print(folder / name)


if __name__ == '__main__':
  main()
