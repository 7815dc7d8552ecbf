# SPDX-License-Identifier: Apache-2.0
"""What is left of budgets: of those of populations, and of those of runs."""

from __future__ import annotations

from collections.abc import Sequence

from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.report import verdicts, words
from tff_secagg_ext.report.document import (
  Block,
  Figure,
  Figures,
  Section,
  Table,
  Text,
)
from tff_secagg_ext.report.facts import BudgetFacts
from tff_secagg_ext.serve.library import Judged, Library

_SHARED = (
  'All attempts of all its runs count from their reservation on, lost and open'
  ' ones too.'
)
_LEFT = (
  'Found by pricing all that is spent and so many rounds like the newest of the'
  ' run that was begun last.'
)


def sections(library: Library, runs: Sequence[Judged]) -> list[Section]:
  """Returns a section for each population, and one for runs that have none.

  Args:
    library: Where the runs are.
    runs: All of them.

  Raises:
    LedgerError: If the ledger cannot be read.
  """
  shared: dict[str, list[Judged]] = {}
  for run in runs:
    name = run.facts.settings.get('population_name')
    if isinstance(name, str):
      shared.setdefault(name, []).append(run)
  found = [
    _population(library, name, members, f'population{n}')
    for n, (name, members) in enumerate(shared.items(), 1)
  ]
  own = [
    run for run in runs if (stated := _budget(run)) and not stated.population
  ]
  if own or not found:
    found.append(Section('own', 'Runs with a budget of their own', [_own(own)]))
  return found


def _population(
  library: Library, name: str, members: Sequence[Judged], anchor: str
) -> Section:
  title = f'Population {words.shown(name)}'
  try:
    account = library.population(name)
  except (ValueError, ledger_lib.BrokenChainError) as error:
    return Section(anchor, title, [Text(words.shown(error), 'red')])
  limited = [run for run in members if _budget(run) is not None]
  figures = [*_limits(limited[-1])] if limited else []
  figures += [
    Figure(
      f'ε of all its runs together, {view}',
      words.figure(found.value) + ('†' if found.waivers else ''),
      f'At δ {words.figure(account.delta)}. {_SHARED}',
    )
    for view, found in (
      ('towards whoever sees the models', account.release),
      ('towards the coordinator', account.server),
    )
  ]
  blocks: list[Block] = [Figures(figures)]
  if not limited:
    blocks.append(Text(_NO_BUDGET, 'note'))
  return Section(anchor, title, [*blocks, _spenders(account)])


def _spenders(account: ledger_lib.PopulationAccount) -> Table:
  rows = [
    [
      words.shown(item.run),
      words.shown(item.source),
      words.figure(item.attempts),
      words.figure(item.release.value),
      words.figure(item.server.value),
      words.shown(item.vouched_by),
    ]
    for item in account.items
  ]
  return Table(
    'Who has spent it',
    ('run', 'what ran', 'attempts', 'ε release', 'ε server', 'who says so'),
    rows,
    note='Each alone; together they are less than the sum, or as much.',
  )


_NO_BUDGET = 'None of its runs has a budget: nothing but people stops them.'


def _budget(run: Judged) -> BudgetFacts | None:
  return run.facts.budget if run.ahead.spent is not None else None


def _limits(run: Judged) -> list[Figure]:
  stated, spent = run.facts.budget, run.ahead.spent
  assert stated is not None
  assert spent is not None
  budget = stated.budget
  tone = 'red' if spent.value > budget.epsilon else ''
  return [
    Figure('more rounds it admits', verdicts.afforded(run.ahead), _LEFT, tone),
    Figure('spent of it', words.figure(spent.value), _SHARED, tone),
    Figure(
      'budget',
      f'ε {words.figure(budget.epsilon)} at δ {words.figure(budget.delta)}',
      f'Of the {budget.view} view.',
    ),
  ]


def _own(runs: Sequence[Judged]) -> Block:
  if not runs:
    return Text('No run has a budget of its own.', 'note')
  rows = []
  for run in runs:
    left, spent, budget = (figure.value for figure in _limits(run))
    rows.append([words.shown(run.facts.name), left, spent, budget])
  header = ('run', 'more rounds it admits', 'spent of it', 'budget')
  return Table('Budgets of runs', header, rows)
