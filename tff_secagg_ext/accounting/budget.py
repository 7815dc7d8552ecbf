# SPDX-License-Identifier: Apache-2.0
"""What may be spent, and what happens to a round that would pass it."""

from __future__ import annotations

import dataclasses

from tff_secagg_ext import _validate
from tff_secagg_ext.accounting import accountant, costs, filters
from tff_secagg_ext.accounting import events as events_lib
from tff_secagg_ext.accounting import sampling as sampling_lib
from tff_secagg_ext.accounting.conversion import Epsilon

# The part of an adaptive budget that pays for the slack of Gaussian domination;
# shares of standard deviation 2.25 or more need less than 1e-9 of it.
_SLACK_SHARE = 1e-3


class BudgetExceeded(Exception):
  """A round would have passed the budget; it was not run.

  Attributes:
    budget: The budget.
    spent: The budget that what is spent needs.
    after: The budget that it would need with the round.
  """

  def __init__(self, name: str, budget: Budget, spent: Epsilon, after: Epsilon):
    self.budget, self.spent, self.after = budget, spent, after
    left = max(0.0, budget.epsilon - spent.value)
    reasons = f' ({"; ".join(after.reasons)})' if after.reasons else ''
    super().__init__(
      f'{name} must stay within epsilon {budget.epsilon:g} at delta'
      f' {budget.delta:g} in the {budget.view} view. Found {spent.value:.4g}'
      f' spent, {left:.4g} left, and {after.value:.4g} with the round that was'
      f' to run{reasons}. It was not run. End here; or go on in another'
      ' run with more noise or smaller cohorts, within the same budget if it is'
      ' shared.'
    )


@dataclasses.dataclass(frozen=True)
class Budget:
  """An epsilon and a delta that a run, or all of a population, stays within.

  Attributes:
    epsilon: Above 0, in nats.
    delta: In (0, 1).
    view: Whose epsilon it is: 'release' or 'server'.
    adaptive: Whether what rounds cost may be chosen by what earlier ones
      released. If not, they are composed as they happened, which is tighter.
    failures: The part of delta, below it, that pays for claims that may fail,
      such as cohorts that stay in their bounds.
    headroom: Whether a round is admitted only if the budget also pays for it
      without amplification. A session that ends after masks were taken off is
      charged so; without headroom it may pass the budget, by that charge.
  """

  epsilon: float
  delta: float
  view: str = 'release'
  adaptive: bool = False
  failures: float = 0.0
  headroom: bool = False

  def __post_init__(self) -> None:
    epsilon = _validate.check_float(
      self.epsilon,
      'epsilon',
      minimum=0.0,
      exclusive=True,
      remedy='A budget of 0 admits no round.',
    )
    delta = _validate.check_float(
      self.delta,
      'delta',
      minimum=0.0,
      maximum=1.0,
      exclusive=True,
      remedy='Usually it is below one over the population.',
    )
    _validate.check_choice(self.view, 'view', accountant.VIEWS)
    _validate.check_bool(self.adaptive, 'adaptive')
    _validate.check_bool(self.headroom, 'headroom')
    failures = _validate.check_float(self.failures, 'failures', minimum=0.0)
    if failures >= delta:
      raise ValueError(
        f'`failures` must be below delta, {delta!r}. Found {failures!r}. Widen'
        ' the bounds of the cohorts.'
      )
    for name, value in (
      ('epsilon', epsilon),
      ('delta', delta),
      ('failures', failures),
    ):
      object.__setattr__(self, name, value)

  @property
  def spendable_delta(self) -> float:
    """What is left of delta for the noise."""
    return self.delta - self.failures

  def filter(self, plan: events_lib.Round) -> filters.Filter:
    """Returns the empty filter that suits rounds like `plan` best.

    Guarantees:
      - everything in it is fixed here, before the first round.

    Args:
      plan: A round as it is planned. It is not charged; other rounds may come.
    """
    delta = self.spendable_delta
    if not self.adaptive:
      return filters.CompositionFilter(accountant.Accountant(delta), self.view)
    cost = costs.round_cost(plan, self.view)
    amplified = self.view == 'release' and isinstance(
      plan.sampling, sampling_lib.PoissonSampling
    )
    if cost.reasons or not (amplified or cost.near.coordinates):
      slack = _SLACK_SHARE * self.epsilon
      return filters.GaussianFilter(delta, self.view, slack)
    order = filters.best_order(plan, self.view, self.epsilon, delta)
    return filters.RenyiFilter(delta, self.view, order)

  def at_most(self, a_round: events_lib.Round) -> events_lib.Round:
    """Returns what the budget must pay for before `a_round` is run.

    With headroom: the same events, for whoever knows the cohort. Nothing that
    runs as planned costs more, however it ends.
    """
    if not self.headroom:
      return a_round
    alone = sampling_lib.NoSampling(a_round.sampling.adjacency)
    return dataclasses.replace(a_round, sampling=alone)

  def admits(self, spent: filters.Filter) -> bool:
    """Whether all rounds of `spent` are within the budget."""
    return spent.epsilon().value <= self.epsilon

  def check(
    self, name: str, spent: filters.Filter, a_round: events_lib.Round
  ) -> None:
    """Raises `BudgetExceeded` if one round more would pass the budget.

    A round that costs nothing is always admitted.

    Args:
      name: Whose budget it is, for the message.
      spent: What is spent.
      a_round: The round that is to run.
    """
    after = spent.with_round(self.at_most(a_round))
    if a_round.events and not self.admits(after):
      raise BudgetExceeded(name, self, spent.epsilon(), after.epsilon())


def warn_of_delta(delta: float, population: int) -> str | None:
  """Returns why a delta is too large for a population; None if it is not."""
  if delta * population <= 1.0:
    return None
  return (
    f'delta {delta:g} is above 1/{population}, one over the population: a'
    ' mechanism that publishes one client at random, with all its data, has'
    f' epsilon 0 at that delta. Use at most {1.0 / population:.2g}.'
  )
