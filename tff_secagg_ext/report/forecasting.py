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
from tff_secagg_ext.report.facts import Charges, Floats, Integers, RunFacts

_POINTS = 6
# Of each cohort, in the question what happens if so many drop out.
DROPPED = 0.4
# Rounds that are looked for at most: nobody plans for more.
LIMIT = 10**6


@dataclasses.dataclass(frozen=True)
class Forecast:
  """What comes if rounds go on as the newest was planned.

  Attributes:
    spent: What the budget says is spent, by its filter; `None` without budget.
    left: How many more rounds it admits, `LIMIT` for as many or more; `None`
      without a budget.
    rounds: How many rounds more, int64[k], from 0.
    release: Epsilon then, float64[k].
    server: The same towards the coordinator.
    anew: Epsilon of what is on record, composed anew from the charges, by view;
      empty before the first attempt.
  """

  spent: accounting.Epsilon | None
  left: int | None
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

  Epsilons are those of the ledger's accountant, for the run alone.
  """
  plan = _repeatable(facts.plan)
  if plan is None or facts.fault is not None:
    nothing = np.zeros(0)
    return Forecast(None, None, nothing.astype(np.int64), nothing, nothing, {})
  spent = left = None
  if facts.budget is not None:
    budget = facts.budget.budget
    filter_ = _spent(facts)
    spent = filter_.epsilon()
    left = accounting.rounds_left(budget, filter_, plan, limit=LIMIT).value
  more = _horizon(facts, left)
  account = _account(facts, facts.charges)
  priced = [(account.with_round(plan, int(n)) if n else account) for n in more]
  release = [account.release() for account in priced]
  server = [account.server() for account in priced]
  return Forecast(
    spent,
    left,
    more,
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


def _spent(facts: RunFacts) -> accounting.Filter:
  """Returns all that counts against the budget, in its filter."""
  stated = facts.budget
  assert stated is not None
  budget = stated.budget
  found = filters.from_settings(
    stated.settings, budget.view, budget.spendable_delta
  )
  for charge, count in (*stated.charges, *facts.charges):
    found = found.with_round(charge, count)
  return found


def _horizon(facts: RunFacts, left: int | None) -> Integers:
  """Returns after how many more rounds epsilon is told."""
  most = max(10, len(facts.series))
  if left is not None:
    most = min(left, 2 * most)
  points = np.linspace(0, most, _POINTS)
  return np.asarray(np.unique(np.round(points)), np.int64)
