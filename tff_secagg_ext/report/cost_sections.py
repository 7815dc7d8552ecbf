# SPDX-License-Identifier: Apache-2.0
"""Sections on clients, bytes, seconds, utility and audits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import math
from typing import Any

import numpy as np

from tff_secagg_ext.report import plots, verdicts, words
from tff_secagg_ext.report.charts import Chart, Line
from tff_secagg_ext.report.document import (
  Block,
  Figure,
  Figures,
  Items,
  Section,
  Table,
  Text,
)
from tff_secagg_ext.report.facts import AuditFacts, RunFacts
from tff_secagg_ext.report.forecasting import WhatIf

# [BIK+17], abstract: bytes of the protocol over bytes in the clear, for vectors
# of 16-bit values.
ANCHORS = (
  ('published, 2¹⁰ clients, 2²⁰ coordinates', 1.73),
  ('published, 2¹⁴ clients, 2²⁴ coordinates', 1.98),
)
ELSEWHERE = Text('It ran elsewhere: nothing of this is on record.', 'note')
_HIDDEN = Text(
  'How many clients took part, what sessions cost and how long they took is the'
  ' coordinator’s alone: it tells the size of cohorts, on whose secrecy'
  ' amplification by sampling may rest. `--server-view` shows it.',
  'note',
)


def clients(facts: RunFacts, what_if: WhatIf | None) -> Section:
  """Returns contributors, dropouts by step, aborted rounds, and a what-if."""
  blocks: list[Block] = [_client_figures(facts)]
  series = facts.series
  plot = plots.over_rounds(
    facts,
    'Clients of a round',
    f'On average {words.figure(plots.mean(series.contributors))} are in the'
    ' sum.',
    [('in the sum', series.contributors), ('invited', series.invited)],
    'clients',
  )
  if plot is not None:
    marks = series.round[series.aborted].astype(np.float64)
    name = 'without an update' if len(marks) else ''
    chart = dataclasses.replace(plot.chart, marks=marks, marks_name=name)
    blocks.append(dataclasses.replace(plot, chart=chart))
  named = [(f'lost in {step}', lost) for step, lost in series.dropouts.items()]
  drops = plots.over_rounds(
    facts,
    'Clients lost, by step of the protocol',
    '; '.join(f'{n}: {words.figure(plots.total(y))} in all' for n, y in named),
    named,
    'clients',
    lost=True,
  )
  if drops is not None:
    blocks.append(drops)
  if facts.view == 'release':
    blocks.append(_unknown(facts))
  if facts.notes:
    rows = [[words.shown(n), words.figure(c)] for n, c in facts.notes.items()]
    blocks.append(Table('Why attempts were lost', ('why', 'attempts'), rows))
  blocks += _what_if(facts, what_if)
  return Section('clients', 'Clients, dropouts, aborted rounds', blocks)


def _client_figures(facts: RunFacts) -> Figures:
  series = facts.series
  invited, kept = plots.total(series.invited), plots.total(series.contributors)
  found = [
    Figure('rounds released', words.figure(facts.rounds)),
    Figure(
      'attempts without an update',
      words.figure(facts.aborted),
      'Lost, or aborted as too few clients were left. An attempt that told'
      ' nothing costs nothing; one that ended later is charged in full.',
    ),
    Figure('in a sum, mean', words.figure(plots.mean(series.contributors))),
  ]
  if invited > 0:
    share = words.percent(1 - kept / invited)
    found.append(Figure('invited clients that are in no sum', share))
  return Figures(found)


def _what_if(facts: RunFacts, found: WhatIf | None) -> Iterator[Block]:
  if found is None:
    return
  share = words.percent(found.fraction)
  yield Text(f'What happens if {share} drop out?', 'head')
  left = f'{found.remaining} of {found.invited} clients are left'
  if found.aborts:
    yield Text(
      f'Then {left}, fewer than the {found.minimum} that a sum needs: the round'
      ' is aborted, and nothing of it is released. It costs nothing if the'
      ' session ends before masks are taken off, and a round without'
      ' amplification if later.'
    )
    return
  yield _dropped(facts, found, left)
  if math.isinf(facts.release.value):
    return
  if facts.mapping('aggregator').get('cohorts') == 'poisson':
    yield Text(
      'Cohorts of secret size are charged for the fewest clients from the'
      ' start,'
      ' so that dropouts down to there cost nothing more.',
      'note',
    )
  if found.tolerated is not None and found.fraction > found.tolerated:
    yield Text(
      f'The protocol is set up for {words.percent(found.tolerated)}: on a'
      ' sparse'
      ' graph a session that loses more ends without a sum, and the round is'
      ' aborted.',
      'note',
    )


def _dropped(facts: RunFacts, found: WhatIf, left: str) -> Text:
  """Returns what epsilon would be with enough clients left for a sum."""
  told = f'Then {left}, at least the {found.minimum} that a sum needs.'
  if math.isinf(facts.release.value):
    return Text(f'{told} ε is infinite with or without dropouts.')
  told += f' Had it been so in all {words.plural(found.rounds, "attempt")}, ε'
  views = [
    f'{words.figure(then)} rather than {words.figure(now)} towards {whom}'
    for then, now, whom in (
      (found.release, facts.release.value, 'whoever sees the models'),
      (found.server, facts.server.value, 'the coordinator'),
    )
    if words.figure(then) != words.figure(now)
  ]
  if not views:
    return Text(f'{told} would be the same.')
  return Text(f'{told} would be {", and ".join(views)}.')


def communication(facts: RunFacts) -> Section:
  """Returns bytes: raw, by the protocol, and what was published."""
  series = facts.series
  if math.isnan(plots.mean(series.expansion)):
    blocks: list[Block] = [_unknown(facts)]
    return Section('bytes', 'Communication', blocks)
  both = series.upload_bytes + series.download_bytes
  known = np.isfinite(both) & (series.expansion > 0)
  raw = both[known] / series.expansion[known]
  rows = [
    ['in the clear', words.size(plots.mean(raw)), '1'],
    [
      'this run, sent and received',
      words.size(plots.mean(both)),
      words.figure(plots.mean(series.expansion)),
    ],
    *([name, '', f'{value:g}'] for name, value in ANCHORS),
  ]
  blocks = [
    Table(
      'Bytes of one client in one round, mean',
      ('how vectors are summed', 'bytes', 'times those in the clear'),
      rows,
      note='Published: Bonawitz et al. 2017. Short vectors expand more, as keys'
      ' and shares do not shrink with them.',
    )
  ]
  plot = plots.over_rounds(
    facts,
    'Communication expansion',
    f'On average {words.figure(plots.mean(series.expansion))} times the bytes.',
    [('expansion', series.expansion)],
    'times',
  )
  return Section('bytes', 'Communication', [*blocks, *([plot] if plot else [])])


def seconds(facts: RunFacts) -> Section:
  """Returns how long sessions took, and who computed."""
  series = facts.series
  if math.isnan(plots.mean(series.seconds)):
    return Section('seconds', 'Time', [_unknown(facts)])
  figures = Figures(
    [
      Figure('a session, mean', words.duration(plots.mean(series.seconds))),
      Figure('all sessions', words.duration(plots.total(series.seconds))),
      Figure(
        'CPU of a client, mean',
        words.duration(plots.mean(series.client_seconds)),
      ),
      Figure(
        'CPU of the server, mean',
        words.duration(plots.mean(series.server_seconds)),
      ),
    ]
  )
  plot = plots.over_rounds(
    facts,
    'Seconds of a session',
    'From the first message to the last.',
    [('seconds', series.seconds)],
    's',
  )
  return Section('seconds', 'Time', [figures, *([plot] if plot else [])])


def _unknown(facts: RunFacts) -> Text:
  if facts.external:
    return ELSEWHERE
  if facts.view == 'release':
    return _HIDDEN
  return Text('No session of a protocol is on record.', 'note')


def utility(facts: RunFacts) -> Section:
  """Returns figures on held-out data, beside those of a baseline."""
  lines: list[Block] = []
  names = utilities(facts)
  found = [Figure(name, _newest(facts, name)) for name in names]
  if facts.baseline is not None:
    told = words.shown(facts.baseline.name)
    for name in names:
      found.append(
        Figure(f'{name} of {told}', _newest(facts.baseline, name), _BASELINE)
      )
  if not found:
    said = 'No evaluation is on record (an audit of the kind `utility`).'
    return Section('utility', 'Utility', [Text(said, 'note')])
  lines.append(Figures(found))
  for name in names:
    drawn = [Line('this run', *utility_over(facts, name), 'accent', '', False)]
    if facts.baseline is not None and len(
      utility_over(facts.baseline, name)[0]
    ):
      other = words.shown(facts.baseline.name)
      drawn.append(
        Line(other, *utility_over(facts.baseline, name), 'ink', '6 4', False)
      )
    if len(drawn[0].x):
      told = f'{name} is {_newest(facts, name)} at the end.'
      chart = Chart(
        f'Utility: {name}', told, drawn, 'round', name, from_zero=False
      )
      lines.append(plots.with_table(chart))
  if facts.baseline is None:
    told = '`--baseline RUN` shows a run without privacy beside it.'
    lines.append(Text(told, 'note'))
  return Section('utility', 'Utility', lines)


def utilities(facts: RunFacts) -> tuple[str, ...]:
  """Returns the names of what was evaluated on held-out data."""
  found = dict.fromkeys(
    name
    for audit in _evaluations(facts)
    for name, value in (audit.figures or {}).items()
    if name != 'rounds' and isinstance(value, (int, float))
  )
  return tuple(found)


_BASELINE = 'The newest figure of the run that was given as a baseline.'


def _evaluations(facts: RunFacts) -> list[AuditFacts]:
  return [a for a in facts.audits if a.kind == 'utility' and a.figures]


def utility_over(facts: RunFacts, name: str) -> tuple[Any, Any]:
  """Returns after how many rounds something was evaluated, and its values."""
  points = [
    (a.figures['rounds'], a.figures[name])
    for a in _evaluations(facts)
    if a.figures
    and isinstance(a.figures.get('rounds'), (int, float))
    and isinstance(a.figures.get(name), (int, float))
  ]
  xs, ys = zip(*points, strict=True) if points else ((), ())
  return np.array(xs, np.float64), np.array(ys, np.float64)


def _newest(facts: RunFacts, name: str) -> str:
  made = [(a.figures or {}).get(name) for a in _evaluations(facts)]
  value = made[-1] if made else None
  return words.figure(value if isinstance(value, (int, float)) else None)


def audits(facts: RunFacts) -> Section:
  """Returns what audits found, beside what the ledger allows."""
  blocks: list[Block] = []
  bounds = [a for a in facts.audits if 'lower_bound' in (a.figures or {})]
  wrong = verdicts.contradictions(facts)
  if bounds:
    rows = [_bound(facts, audit) for audit in bounds]
    header = (
      'audit',
      'view',
      'at least (audited)',
      'at most (ledger)',
      'confidence',
    )
    note = (
      'An attack that finds more than the ledger allows refutes it; one that'
    )
    note += ' finds less proves nothing.'
    blocks.append(Table('ε from below and from above', header, rows, note=note))
  others = [
    f'{_named(audit)}: {summary(audit.figures)}'
    for audit in facts.audits
    if audit not in bounds and audit.kind != 'utility'
  ]
  if others:
    blocks.append(Items(others))
  for audit in wrong:
    said = f'{_named(audit)} raised an alarm.'
    blocks.append(Text(said, 'red'))
  if not blocks:
    said = (
      'Nobody has tried to break it: no audit is on record. `tff-secagg audit`'
    )
    blocks.append(Text(f'{said} runs them.', 'note'))
  return Section('audits', 'Attacks that were tried', blocks)


def _named(audit: AuditFacts) -> str:
  kind = audit.kind.replace('_', ' ')
  return f'Audit {audit.number}, {kind}, at entry {audit.entries}'


def _bound(facts: RunFacts, audit: AuditFacts) -> list[str]:
  figures = audit.figures or {}
  view = str(figures.get('view', 'release'))
  stated = figures.get('ledger_epsilon')
  if not isinstance(stated, (int, float)):
    stated = (facts.server if view == 'server' else facts.release).value
  confidence = figures.get('confidence')
  return [
    f'{audit.number}, {audit.kind.replace("_", " ")}',
    view,
    words.figure(_number(figures, 'lower_bound')),
    words.figure(stated),
    words.percent(confidence)
    if isinstance(confidence, float)
    else words.NOT_KNOWN,
  ]


def _number(figures: Mapping[str, Any], name: str) -> float | None:
  value = figures.get(name)
  return value if isinstance(value, (int, float)) else None


def summary(figures: Mapping[str, Any] | None) -> str:
  """Returns the single figures of an audit, in one line."""
  if figures is None:
    return 'its figures are the coordinator’s alone (`--server-view`)'
  told = [
    _told(name.replace('_', ' '), value)
    for name, value in figures.items()
    if isinstance(value, (bool, int, float, str))
  ]
  verdicts = figures.get('verdicts')
  if isinstance(verdicts, Mapping):
    for factory, checks in verdicts.items():
      if isinstance(checks, Mapping):
        held = sum(v in ('holds', 'does not apply') for v in checks.values())
        told.append(
          f'{words.shown(factory)}: {held} of {len(checks)} checks hold'
        )
  return ', '.join(told) or 'no single figure'


def _told(name: str, value: bool | float | str) -> str:
  """Returns one figure of an audit with its name."""
  if isinstance(value, bool):
    return words.shown(name if value else f'no {name}')
  if isinstance(value, str):
    return words.shown(f'{name} {value}')
  return f'{words.shown(name)} {words.figure(value)}'
