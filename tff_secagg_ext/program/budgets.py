# SPDX-License-Identifier: Apache-2.0
"""Budgets of runs, and of all runs that share a population."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

from tff_secagg_ext import accounting
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.accounting import filters
from tff_secagg_ext.program import terms as terms_lib

# The part of a shared budget's delta that pays for the Poisson cohorts of all
# its runs: for those of ten.
SHARED_FAILURES = 10 * terms_lib.COHORTS_SHARE_OF_DELTA


def resolved(
  budget: accounting.Budget, sampling: accounting.Sampling, *, shared: bool
) -> accounting.Budget:
  """Returns the budget with the part of delta that cohorts may fail with.

  Args:
    budget: As asked for.
    sampling: What is claimed of the cohorts.
    shared: Whether it is that of a population: then it is fixed for all its
      runs, whatever they claim.
  """
  failures = terms_lib.failures(sampling, budget.delta)
  if shared:
    failures = SHARED_FAILURES * budget.delta
  return dataclasses.replace(budget, failures=failures)


@dataclasses.dataclass(frozen=True)
class Scope:
  """Whose budget it is.

  Attributes:
    run: The name of the run.
    population: The name of the population, all of whose runs share the budget;
      `None` if the budget is that of the run alone.
  """

  run: str
  population: str | None

  def __str__(self) -> str:
    if self.population is None:
      return f'Run {self.run!r}'
    return f'Population {self.population!r}'

  def others(
    self, ledger: ledger_lib.Ledger, strangers: set[str]
  ) -> Iterator[Mapping[str, Any]]:
    """Yields the other runs of the scope, as `Ledger.show` tells them.

    Args:
      ledger: Where they are.
      strangers: Runs that are known to be of other populations, as they will be
        for ever; gets what is found out.
    """
    if self.population is None:
      return
    for name in ledger.names():
      if name == self.run or name in strangers:
        continue
      shown = ledger.show(name)
      if shown['settings'].get('population_name') == self.population:
        yield shown
      else:
        strangers.add(name)


@dataclasses.dataclass(frozen=True)
class Agreement:
  """A budget with its filter, as all runs of its scope have it on record.

  Attributes:
    scope: Whose it is.
    budget: What may be spent.
    opening: The empty filter: fixed before the first round of the scope.
  """

  scope: Scope
  budget: accounting.Budget
  opening: accounting.Filter

  @property
  def settings(self) -> dict[str, Any]:
    """What a ledger is told, as JSON values."""
    budget = dataclasses.asdict(self.budget)
    if not self.budget.headroom:
      # Budgets on record that were fixed before there was any have none.
      del budget['headroom']
    return {**budget, **self.opening.settings}


def agree(
  ledger: ledger_lib.Ledger,
  scope: Scope,
  budget: accounting.Budget | None,
  plan: terms_lib.Terms,
) -> Agreement | None:
  """Returns the budget of a run that is about to be opened.

  Guarantees:
    - a filter, once it is on record for the run or its population, is kept;
    - all runs of a population have one budget, from the first one on.

  Args:
    ledger: Where the run will be.
    scope: The run and its population.
    budget: As asked for; `None` for none.
    plan: The terms of the run.

  Raises:
    ValueError: If the runs of the population have another budget, or none; if
      their Poisson cohorts may fail more often than the budget pays for; or if
      a shared budget is not adaptive.
  """
  others = list(scope.others(ledger, set()))
  if budget is None:
    for other in others:
      _check_same(scope, other, None)
    return None
  shared = scope.population is not None
  if shared and not budget.adaptive:
    raise ValueError(
      '`budget` must be adaptive where it is shared by the runs of a'
      f' population. Found {budget!r}. A run is planned by what earlier ones'
      ' released: use Budget(..., adaptive=True).'
    )
  budget = resolved(budget, plan.sampling, shared=shared)
  recorded = [other['settings'] for other in others]
  if scope.run in ledger.names():
    recorded.append(ledger.show(scope.run)['settings'])
  opening = budget.filter(plan.usual)
  for settings in recorded:
    if 'budget' in settings:
      delta = budget.spendable_delta
      opening = filters.from_settings(settings['budget'], budget.view, delta)
      break
  agreement = Agreement(scope, budget, opening)
  for other in others:
    _check_same(scope, other, agreement)
  _check_failures(agreement, others, plan)
  return agreement


def _check_same(
  scope: Scope, other: Mapping[str, Any], agreement: Agreement | None
) -> None:
  # External events have happened, with no budget of theirs: all of them count.
  if 'external' in other['settings']:
    return
  found = other['settings'].get('budget')
  expected = None if agreement is None else agreement.settings
  if found != expected:
    raise ValueError(
      f'All runs of population {scope.population!r} must have the budget of'
      f' its first, {found}, that of run {other["run"]!r}. Found {expected}.'
      ' Use that budget, or declare another population if it is one.'
    )


def _check_failures(
  agreement: Agreement,
  others: list[Mapping[str, Any]],
  plan: terms_lib.Terms,
) -> None:
  if agreement.scope.population is None:
    return
  total = plan.allowed_failures + sum(
    other['settings'].get('failure_probability', 0.0) for other in others
  )
  # Sums of the same shares, but for rounding errors.
  if total > agreement.budget.failures * (1.0 + 1e-9):
    raise ValueError(
      f'{agreement.scope} must keep the failures of its cohorts within'
      f' {agreement.budget.failures:.2g} of delta. Found {total:.2g} with run'
      f' {agreement.scope.run!r}. Go on with a run that there is, or without'
      ' PoissonSampling and RandomAllocation.'
    )


class Guard:
  """Refuses the rounds of a run that would pass a budget.

  Guarantees:

  * An attempt counts from its reservation on, with what it was reserved at, and
    once it is settled with what it really cost: as in the ledger.
  * What is spent never passes the budget by a round that was admitted here, if
    it costs what it was planned at, whatever was lost or killed; of a budget
    with headroom, not if its session ended late either.
  * Once the budget is passed, as by a round whose measurements contradict its
    aggregator, whose cost is infinite, no round of the scope is admitted.
  * Of runs that race for what is left of a shared budget, none that goes on
    passes it: each looks again after its reservation is on the disk.
  """

  def __init__(
    self,
    ledger: ledger_lib.Ledger,
    run: ledger_lib.Run,
    agreement: Agreement,
  ):
    self._ledger = ledger
    self._run = run
    self._agreement = agreement
    self._settled = agreement.opening
    self._open: dict[ledger_lib.Attempt, accounting.Round] = {}
    self._read = 0
    self._strangers: set[str] = set()

  @property
  def agreement(self) -> Agreement:
    """The budget."""
    return self._agreement

  def check(self, charge: accounting.Round) -> None:
    """Raises `BudgetExceeded` if `charge` would pass the budget."""
    agreement = self._agreement
    agreement.budget.check(str(agreement.scope), self.spent(), charge)

  def overtaken(self) -> accounting.BudgetExceeded | None:
    """Returns the error if other runs have passed the budget meanwhile."""
    scope, budget = self._agreement.scope, self._agreement.budget
    if scope.population is None or budget.admits(spent := self.spent()):
      return None
    epsilon = spent.epsilon()
    return accounting.BudgetExceeded(str(scope), budget, epsilon, epsilon)

  def spent(self) -> accounting.Filter:
    """Returns what all attempts of the scope cost, as the filter counts."""
    self._read_own()
    total = self._settled
    for charge in self._open.values():
      total = total.with_round(self._agreement.budget.at_most(charge))
    scope = self._agreement.scope
    for other in scope.others(self._ledger, self._strangers):
      _check_same(scope, other, self._agreement)
      for charge, status in ledger_lib.charges(other):
        if status == 'reserved':
          charge = self._agreement.budget.at_most(charge)
        total = total.with_round(charge)
    return total

  def _read_own(self) -> None:
    entries = self._run.entries
    for entry in entries[self._read :]:
      if entry.kind == 'reserved':
        self._open[entry.attempt] = entry.charge
      else:
        del self._open[entry.attempt]
        self._settled = self._settled.with_round(entry.charge)
    self._read = len(entries)


def guard(
  ledger: ledger_lib.Ledger, run: ledger_lib.Run, agreement: Agreement | None
) -> Guard | None:
  """Returns what guards the budget of a run; `None` if it has none."""
  return None if agreement is None else Guard(ledger, run, agreement)
