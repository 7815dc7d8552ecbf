# SPDX-License-Identifier: Apache-2.0
"""`tff-secagg watch`: a run in the terminal while another process trains."""

from __future__ import annotations

from collections.abc import Iterator
import math
import time

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tff_secagg_ext import report
from tff_secagg_ext.cli import errors
from tff_secagg_ext.ledger import Ledger, LedgerError
from tff_secagg_ext.report import panels, verdicts, words
from tff_secagg_ext.report.facts import BudgetFacts, Floats, RunFacts

# Seconds between two looks. A look that finds nothing new is three queries of
# one row each; reading a run takes at most a fifth of a core.
_EVERY, _SHARE = 0.4, 4.0
_SHOWN = 8
_WIDTH = 40
_BLOCKS = '▁▂▃▄▅▆▇█'
_CTRL_C = 'Ctrl-C ends this view, and not the run.'


def watch(
  run: str, location: str, *, server_view: bool = False, once: bool = False
) -> None:
  """Shows a run until the process that writes it ends, or Ctrl-C.

  Args:
    run: The name of the run.
    location: SQLAlchemy URL of the ledger.
    server_view: Whether to show what is the coordinator's alone.
    once: Whether to show it once.
  """
  console = Console()
  with (
    errors.one_line(LedgerError, ValueError, OSError),
    Ledger.open(location, create=False) as ledger,
  ):
    frames = follow(ledger, run, server_view)
    if once:
      console.print(next(frames))
      return
    try:
      with Live(console=console, auto_refresh=False) as live:
        for frame in frames:
          live.update(frame, refresh=True)
    except KeyboardInterrupt:
      console.print('No longer watched; the run goes on.', style='dim')
    if not console.is_terminal:
      console.line()


def follow(
  ledger: Ledger, run: str, server_view: bool = False
) -> Iterator[RenderableType]:
  """Yields a frame whenever the run has changed, the first one at once.

  Guarantees:
    - the writer never waits for it;
    - it ends after the last entry of a process that has ended. Whether a
      process of another host has ended cannot be told: it goes on.

  Args:
    ledger: Where the run is.
    run: Its name.
    server_view: Whether to show what is the coordinator's alone.

  Raises:
    UnknownRunError: If there is no run of that name; names the nearest.
    LedgerError: If the ledger cannot be read.
  """
  before = None
  while True:
    now = ledger.progress(run)
    took = 0.0
    # What was written before its process was seen to have ended is read after.
    if now != before:
      start = time.monotonic()
      yield frame(report.read(ledger, run, server_view), now.writing)
      before, took = now, time.monotonic() - start
    if now.writing is False:
      return
    time.sleep(max(_EVERY, _SHARE * took))


def frame(facts: RunFacts, writing: bool | None) -> RenderableType:
  """Returns how a run is.

  Args:
    facts: Of the run.
    writing: Whether its process is still running; `None` if it is not known.
  """
  found = report.verdict(facts)
  title = Text(words.shown(facts.name), 'bold')
  title.append(f'   {facts.view} view', 'dim')
  sentence = Text(words.shown(found.sentence), '' if found.holds else 'red')
  parts: list[RenderableType] = [title, Text(), sentence]
  if found.server:
    parts.append(Text(words.shown(found.server), 'dim'))
  parts += [Text(caveat, 'dim') for caveat in found.caveats]
  if len(facts.series):
    parts += [Text(), _figures(facts), Text(), _attempts(facts)]
  parts += [Text(), Text(_state(facts, writing), 'dim')]
  return Padding(Group(*parts), (0, 1))


def sparkline(values: Floats, width: int = _WIDTH) -> str:
  """Returns a line of blocks, from zero to the largest finite value.

  Args:
    values: float64[n], not negative; ∞ stands for what is infinite.
    width: Of at most so many characters, each the newest of its part.
  """
  count = len(values)
  places = (
    np.unique(
      np.linspace(count / min(count, width) - 1, count - 1, min(count, width))
      .round()
      .astype(np.int64)
    )
    if count
    else np.zeros(0, np.int64)
  )
  finite = values[np.isfinite(values)]
  top = float(finite.max()) if len(finite) else 0.0
  return ''.join(_block(value, top) for value in values[places].tolist())


def _block(value: float, top: float) -> str:
  if math.isnan(value):
    return ' '
  if math.isinf(value):
    return '∞'
  share = value / top if top else 0.0
  return _BLOCKS[min(int(share * len(_BLOCKS)), len(_BLOCKS) - 1)]


def _figures(facts: RunFacts) -> Table:
  series, mark = facts.series, '†' if facts.waivers else ''
  table = Table.grid(padding=(0, 2))
  for name, epsilon, values in (
    ('ε release', facts.release, series.release_epsilon),
    ('ε server', facts.server, series.server_epsilon),
  ):
    style = 'red' if math.isinf(epsilon.value) else 'bold'
    told = Text(words.figure(epsilon.value) + mark, style)
    table.add_row(name, told, Text(sparkline(values), 'blue'))
  table.add_row('δ', words.figure(facts.delta))
  if facts.budget is not None:
    table.add_row('budget', *_budget(facts, facts.budget))
  table.add_row('rounds', words.figure(facts.rounds), _lost(facts))
  return table


def _budget(facts: RunFacts, stated: BudgetFacts) -> tuple[str, Text]:
  budget = stated.budget
  of = f'of the {budget.view} view'
  if stated.population is not None:
    whose = words.shown(stated.population)
    others = words.plural(len(stated.others), 'other run')
    told = Text(f'{of}, shared by population {whose} with {others}', 'dim')
    return words.figure(budget.epsilon), told
  spent = facts.server if budget.view == 'server' else facts.release
  share = spent.value / budget.epsilon
  style = 'red' if share > 1 else 'dim'
  percent = '∞' if math.isinf(share) else words.percent(share)
  return words.figure(budget.epsilon), Text(f'{of}, {percent} spent', style)


def _lost(facts: RunFacts) -> Text:
  return Text(f'and {words.plural(facts.lost, "attempt")} lost', 'dim')


def _attempts(facts: RunFacts) -> Table:
  newest = panels.newest(facts, _SHOWN)
  table = Table(box=None, padding=(0, 2, 0, 0), header_style='dim')
  for name in newest.header:
    left = name == 'state'
    table.add_column(
      '' if left else name, justify='left' if left else 'right', no_wrap=True
    )
  for row in newest.rows:
    table.add_row(*row)
  return table


def _state(facts: RunFacts, writing: bool | None) -> str:
  told = verdicts.activity(facts, writing)
  return told if writing is False else f'{told} {_CTRL_C}'
