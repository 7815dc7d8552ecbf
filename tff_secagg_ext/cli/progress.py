# SPDX-License-Identifier: Apache-2.0
"""How far a run is: one line a round, and a bar on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tff_secagg_ext import ledger as ledger_lib


class Report:
  """Shows each round as it is committed.

  The lines are the coordinator's: they tell the size of each cohort.

  Attributes:
    utility: The newest figures on held-out data, by name.
  """

  def __init__(self, show: Callable[[int, str], None]):
    self.utility: dict[str, float] = {}
    self._show = show

  def __call__(self, entry: ledger_lib.Entry) -> None:
    """Shows a round that was committed."""
    figures = [f'{name} {value:.3f}' for name, value in self.utility.items()]
    figures += [
      f'ε release {entry.release.value:.3g}',
      f'ε server {entry.server.value:.3g}',
    ]
    if entry.waivers:
      figures.append(f'{len(entry.waivers)} releases waived')
    if entry.protocol is not None:
      figures.insert(0, session(entry.protocol))
    self._show(entry.attempt.round, '  '.join(figures))


def session(protocol: ledger_lib.Protocol) -> str:
  """Returns what came of the session of a round, in a few words."""
  contributed = f'{protocol["survivors"]} of {protocol["clients"]} clients'
  if protocol['threat'] == 'plain':
    return f'{contributed}, in the clear'
  return (
    f'{contributed}, {protocol["expansion"]:.1f} times the bytes,'
    f' {checked(protocol["verified"])}'
  )


def checked(verified: bool | None) -> str:
  """Returns whether the clients have accepted a sum, in words."""
  if verified is None:
    return 'not checked'
  return 'verified' if verified else 'not verified'


@contextlib.contextmanager
def reporting(console: Console, run: str, rounds: int) -> Iterator[Report]:
  """Yields what shows the rounds of a run.

  Args:
    console: Where.
    run: The name of the run.
    rounds: How many rounds it will have.
  """

  def line(number: int, text: str) -> None:
    console.print(
      f'{run}: round {number}/{rounds}  {text}',
      highlight=False,
      soft_wrap=True,
    )

  if not console.is_terminal:
    yield Report(line)
    return
  columns = (
    TextColumn(run),
    BarColumn(bar_width=None),
    TextColumn('{task.completed}/{task.total}'),
    TimeRemainingColumn(compact=True),
  )
  with Progress(*columns, console=console) as progress:
    bar = progress.add_task(run, total=rounds)

    def line_and_bar(number: int, text: str) -> None:
      line(number, text)
      progress.update(bar, completed=number)

    yield Report(line_and_bar)
