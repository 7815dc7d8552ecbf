# SPDX-License-Identifier: Apache-2.0
"""What more rounds would cost, and what dropouts would: by the accountant."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import numpy as np

from tff_secagg_ext import accounting
from tff_secagg_ext.accounting import filters
from tff_secagg_ext.report.facts import (
  BudgetFacts,
  Charges,
  Floats,
  Integers,
  RunFacts,
)

# Points of a forecast, and of one whose prices are dear.
_POINTS, _FEW_POINTS, _DEAR = 5, 2, 32
# Of each cohort, in the question what happens if so many drop out.
DROPPED = 0.4
# So many times the attempts of a run are looked for at most, and at least so
# many rounds.
_TIMES, _FEWEST = 1, 1000
# Distinct charges that are composed anew: each takes milliseconds, and there is
# no more to be seen than what the ledger says already.
MOST_DISTINCT = 400


@dataclasses.dataclass(frozen=True)
class Forecast:
  """What comes if rounds go on as the newest was planned.

  Attributes:
    spent: What the budget says is spent, by its filter; `None` without budget.
    left: How many more rounds it admits; `None` if it is not known.
    limit: How many were looked for: `left` is at most that.
    rounds: How many rounds more, int64[k], from 0.
    release: Epsilon then, float64[k].
    server: The same towards the coordinator.
    anew: Epsilon of what is on record, composed anew from the charges, by view;
      empty before the first attempt.
  """

  spent: accounting.Epsilon | None
  left: int | None
  limit: int
  rounds: Integers
  release: Floats
  server: Floats
  anew: Mapping[str, accounting.Epsilon]


@dataclasses.dataclass(frozen=True)
class WhatIf:
  """What it would have cost if more clients had dropped out of every round.

  Attributes:
    fraction: Of each cohort that drops out, in (0, 1).
    invited: How many clients a round is planned with.
    remaining: How many of them are left.
    minimum: How many must be left for there to be a sum.
    tolerated: The fraction that the protocol is set up for; `None` without one.
    release: Epsilon of all rounds so far, with those dropouts; infinite if
      nothing finite is known.
    server: The same towards the coordinator.
    rounds: How many attempts that is for.
  """

  fraction: float
  invited: int
  remaining: int
  minimum: int
  tolerated: float | None
  release: float
  server: float
  rounds: int

  @property
  def aborts(self) -> bool:
    """Whether too few are left for a sum."""
    return self.remaining < self.minimum


def forecast(facts: RunFacts) -> Forecast:
  """Returns what more rounds would cost, and how many the budget admits.

  Guarantees:
    - as many rounds as `left` were priced by the filter of the budget, with
      all that is spent, and are within it; one more was, and is not.

    - of a run with more than `MOST_DISTINCT` distinct charges nothing is
      forecast.

  Epsilons are those of the ledger's accountant, for the run alone.
  """
  plan, limit = (
    _repeatable(facts.plan),
    max(_FEWEST, _TIMES * len(facts.series)),
  )
  charges = _merged(facts)
  if plan is None or facts.fault is not None or len(charges) > MOST_DISTINCT:
    nothing = np.zeros(0)
    rounds = nothing.astype(np.int64)
    return Forecast(None, None, limit, rounds, nothing, nothing, {})
  account = _account(facts, charges)
  spent = left = None
  known: dict[int, accounting.Epsilon] = {}
  if facts.budget is not None:
    filter_ = _spent(facts, facts.budget, charges, account)
    spent = filter_.epsilon()
    budget = facts.budget.budget
    found = accounting.rounds_left(budget, filter_, plan, limit=limit)
    left = found.value
    if _is_of(filter_, account) and budget.at_most(plan) == plan:
      # Priced already, by the same account.
      known[left] = found.epsilon
  points = _POINTS if len(charges) <= _DEAR else _FEW_POINTS
  more = _horizon(facts, left, points).tolist()
  priced = {n: account.with_round(plan, n) if n else account for n in more}
  release = [known.get(n) or then.release() for n, then in priced.items()]
  server = [then.server() for then in priced.values()]
  return Forecast(
    spent,
    left,
    limit,
    np.array(more, np.int64),
    np.array([epsilon.value for epsilon in release], np.float64),
    np.array([epsilon.value for epsilon in server], np.float64),
    {'release': release[0], 'server': server[0]},
  )


def dropouts(facts: RunFacts, fraction: float) -> WhatIf | None:
  """Returns what all rounds so far would have cost with more dropouts.

  Guarantees:
    - `None` where nothing can be said: no round, or no noise of clients.

  Cohorts of hidden size are charged for the fewest contributors that the
  aggregator allows already, and cost no more; with fewer there is no sum.

  Args:
    facts: Of the run.
    fraction: Of each cohort that drops out, in (0, 1).
  """
  plan = _repeatable(facts.plan)
  event = _noised(plan)
  if plan is None or event is None or facts.fault is not None:
    return None
  spec, sums = facts.mapping('aggregator'), facts.mapping('secure_sums')
  hidden = spec.get('cohorts') == 'poisson'
  invited = _invited(plan, spec, event)
  remaining = invited - math.floor(fraction * invited)
  minimum = max(
    int(source.get('min_contributors') or 1) for source in (spec, sums)
  )
  shares = event.client_shares if hidden else remaining
  changed = dataclasses.replace(event, client_shares=shares)
  events = tuple(changed if e is event else e for e in plan.events)
  rounds = len(facts.series)
  account = _account(facts, ()).with_round(
    dataclasses.replace(plan, events=events), rounds
  )
  return WhatIf(
    fraction,
    invited,
    remaining,
    minimum,
    sums.get('dropout'),
    account.release().value,
    account.server().value,
    rounds,
  )


def _invited(
  plan: accounting.Round,
  spec: Mapping[str, Any],
  event: accounting.NoisedSumEvent,
) -> int:
  if isinstance(plan.sampling, accounting.FixedSizeSampling):
    return plan.sampling.cohort
  return int(spec.get('expected_clients_per_round') or event.client_shares)


def _noised(
  plan: accounting.Round | None,
) -> accounting.NoisedSumEvent | None:
  for event in plan.events if plan is not None else ():
    if isinstance(event, accounting.NoisedSumEvent):
      return event
  return None


def _repeatable(plan: accounting.Round | None) -> accounting.Round | None:
  """Returns a plan that may be repeated: of no named epoch, and not empty."""
  if plan is None or not plan.events:
    return None
  if isinstance(plan.sampling, accounting.RandomAllocation):
    sampling = dataclasses.replace(plan.sampling, epoch='')
    return dataclasses.replace(plan, sampling=sampling)
  return plan


def _account(facts: RunFacts, charges: Charges) -> accounting.Accountant:
  account = accounting.Accountant(facts.spendable_delta, facts.participation)
  for charge, count in charges:
    account = account.with_round(charge, count)
  return account


def _merged(facts: RunFacts) -> Charges:
  """Returns the charges, alike ones together where their order is no matter."""
  ordered = facts.participation is not None or any(
    isinstance(charge.sampling, accounting.RandomAllocation)
    for charge, _ in facts.charges
  )
  if ordered:
    return facts.charges
  merged: dict[accounting.Round, int] = {}
  for charge, count in facts.charges:
    merged[charge] = merged.get(charge, 0) + count
  return tuple(merged.items())


def _spent(
  facts: RunFacts,
  stated: BudgetFacts,
  charges: Charges,
  account: accounting.Accountant,
) -> accounting.Filter:
  """Returns all that counts against the budget, in its filter."""
  budget = stated.budget
  empty = filters.from_settings(
    stated.settings, budget.view, budget.spendable_delta
  )
  if (
    isinstance(empty, filters.CompositionFilter)
    and account.delta == empty.account.delta
    and not stated.charges
    and facts.participation is None
  ):
    # The same account, which has been priced in part.
    return filters.CompositionFilter(account, budget.view)
  found = empty
  for charge, count in (*stated.charges, *charges):
    found = found.with_round(charge, count)
  return found


def _is_of(filter_: accounting.Filter, account: accounting.Accountant) -> bool:
  """Whether a filter counts what an account does, towards releases."""
  return (
    isinstance(filter_, filters.CompositionFilter)
    and filter_.account is account
    and filter_.view == 'release'
  )


def _horizon(facts: RunFacts, left: int | None, points: int) -> Integers:
  """Returns after how many more rounds epsilon is told."""
  most = max(10, len(facts.series))
  if left is not None:
    most = min(left, 2 * most)
  even = np.linspace(0, most, points)
  return np.asarray(np.unique(np.round(even)), np.int64)
