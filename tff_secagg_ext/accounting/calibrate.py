# SPDX-License-Identifier: Apache-2.0
"""From a budget to the noise, the rounds or the cohort that it affords.

Each function searches one unknown, and asks of every candidate what the filter
of the budget asks of it before a run: a plan that is found here is one that the
filter lets run to its end.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math
from typing import Generic, TypeVar

from tff_secagg_ext import _validate
from tff_secagg_ext.accounting import events as events_lib
from tff_secagg_ext.accounting.budget import Budget
from tff_secagg_ext.accounting.conversion import Epsilon
from tff_secagg_ext.accounting.filters import Filter

_MOST_ROUNDS = 10**7

Number = TypeVar('Number', int, float)


class UnmetTargetError(ValueError):
  """No value in the range meets the budget; the message has the nearest.

  Attributes:
    nearest: The value in the range that comes nearest to it.
    epsilon: What it costs.
  """

  def __init__(self, message: str, nearest: float, epsilon: Epsilon):
    super().__init__(message)
    self.nearest, self.epsilon = nearest, epsilon


@dataclasses.dataclass(frozen=True)
class Calibrated(Generic[Number]):
  """What a budget affords.

  Attributes:
    value: The noise multiplier, the number of rounds or the cohort.
    epsilon: What it costs, as the filter counts; at most the budget's.
    rounds: How many rounds that is for.
  """

  value: Number
  epsilon: Epsilon
  rounds: int


@dataclasses.dataclass(frozen=True)
class _Question:
  """Whether so many rounds are within a budget, and what they cost."""

  budget: Budget

  def epsilon(self, a_round: events_lib.Round, rounds: int) -> Epsilon:
    if rounds == 0:
      return Epsilon(0.0)
    spent, last = self.budget.filter(a_round), self.budget.at_most(a_round)
    if last == a_round:
      return spent.with_round(a_round, rounds).epsilon()
    if rounds > 1:
      spent = spent.with_round(a_round, rounds - 1)
    return spent.with_round(last).epsilon()

  def met(self, epsilon: Epsilon) -> bool:
    return epsilon.value <= self.budget.epsilon

  def refuse(self, what: str, nearest: float, epsilon: Epsilon) -> None:
    why = f' ({"; ".join(epsilon.reasons)})' if epsilon.reasons else ''
    raise UnmetTargetError(
      f'A target must be one that {what} can meet. Found epsilon'
      f' {self.budget.epsilon:g} at delta {self.budget.delta:g} in the'
      f' {self.budget.view} view. The nearest that can be met is epsilon'
      f' {epsilon.value:.4g}, with {nearest:.4g}{why}.',
      nearest,
      epsilon,
    )


def calibrate(
  budget: Budget,
  make_round: Callable[[float], events_lib.Round],
  rounds: int,
  *,
  between: tuple[float, float] = (0.01, 1000.0),
  precision: float = 1e-4,
) -> Calibrated[float]:
  """Returns the least noise multiplier at which `rounds` are within `budget`.

  Guarantees:
    - the result was priced: its epsilon is at most the budget's, by the filter
      that the budget has for it, whatever `make_round` does;
    - a value smaller by the relative `precision`, or less, was priced as well,
      and is above the budget, unless the result is the lower end.

  Bisection needs epsilon to fall with the noise. It does: more noise of the
  same kind is a post-processing of less (add the rest), so that no profile
  rises. Where rounding to integers follows the noise, as in this package's
  mechanism, this holds but for a change far below `precision` in the last
  term; the first guarantee never rests on it.

  Args:
    budget: What is to be met.
    make_round: From a noise multiplier to a round as it is planned.
    rounds: How many rounds, at least 1.
    between: The least and the largest noise multiplier, above 0.
    precision: Relative, in (0, 1). The accountant's own is 4e-4 of epsilon.

  Raises:
    UnmetTargetError: If the largest noise multiplier does not meet it.
    TypeError: If an argument is of the wrong kind.
    ValueError: If one is out of its range.
  """
  rounds = _validate.check_int(rounds, 'rounds', minimum=1)
  low, high = _checked_range(between)
  precision = _validate.check_float(
    precision, 'precision', minimum=0.0, maximum=1.0, exclusive=True
  )
  question = _Question(budget)

  def price(value: float) -> Epsilon:
    return question.epsilon(make_round(value), rounds)

  best = price(high)
  if not question.met(best):
    question.refuse(f'noise multipliers up to {high:g}', high, best)
  lowest = low
  # Invariant: `high` was priced and meets the budget; `low` was and does not,
  # unless it is `lowest`, which is dear to price and priced last.
  while low < high * (1.0 - precision):
    middle = math.sqrt(low * high)
    epsilon = price(middle)
    if question.met(epsilon):
      high, best = middle, epsilon
    else:
      low = middle
  if low == lowest and question.met(epsilon := price(low)):
    high, best = low, epsilon
  return Calibrated(high, best, rounds)


def most_rounds(
  budget: Budget, a_round: events_lib.Round, *, limit: int = _MOST_ROUNDS
) -> Calibrated[int]:
  """Returns how many rounds like `a_round` are within `budget`.

  Guarantees:
    - the result was priced and is within the budget; one round more was priced
      and is not, unless the result is `limit`.

  Epsilon rises with the rounds: to leave the last one out is post-processing.

  Args:
    budget: What is to be met.
    a_round: A round as it is planned.
    limit: The largest number that is looked for, at least 1.

  Raises:
    UnmetTargetError: If a single round does not meet it.
    TypeError: If an argument is of the wrong kind.
    ValueError: If one is out of its range.
  """
  limit = _validate.check_int(limit, 'limit', minimum=1)
  question = _Question(budget)

  def price(rounds: int) -> Epsilon:
    return question.epsilon(a_round, rounds)

  first = price(1)
  if not question.met(first):
    question.refuse('one such round', 1, first)
  rounds, epsilon = _largest(price, question.met, (1, limit))
  return Calibrated(rounds, epsilon, rounds)


def rounds_left(
  budget: Budget,
  spent: Filter,
  a_round: events_lib.Round,
  *,
  limit: int = _MOST_ROUNDS,
) -> Calibrated[int]:
  """Returns how many more rounds like `a_round` a budget admits.

  Guarantees:
    - with so many rounds more the budget was priced and is kept; with one round
      more it was priced and is not, unless the result is `limit`;
    - 0 if the budget is passed already.

  Args:
    budget: What is to be kept.
    spent: What is spent, as the budget's filter counts.
    a_round: A round as it is planned.
    limit: The largest number that is looked for, at least 1.

  Raises:
    TypeError: If an argument is of the wrong kind.
    ValueError: If one is out of its range.
  """
  limit = _validate.check_int(limit, 'limit', minimum=1)
  question, last = _Question(budget), budget.at_most(a_round)

  def price(rounds: int) -> Epsilon:
    if rounds == 0:
      return spent.epsilon()
    before = spent.with_round(a_round, rounds - 1) if rounds > 1 else spent
    return before.with_round(last).epsilon()

  low, high = (0, price(0)), (limit, price(limit))
  if not question.met(low[1]):
    return Calibrated(0, low[1], 0)
  if question.met(high[1]):
    return Calibrated(limit, high[1], limit)
  # Invariant: `low` meets the budget and `high` does not. Epsilon grows about
  # as the root of the rounds, so that few prices are needed; halving in turns
  # with it, never many.
  halve = False
  while high[0] - low[0] > 1:
    share = 0.5 if halve else _share(low[1], high[1], budget.epsilon)
    middle = low[0] + round(share * (high[0] - low[0]))
    middle = min(max(middle, low[0] + 1), high[0] - 1)
    epsilon, before = price(middle), high[0] - low[0]
    if question.met(epsilon):
      low = middle, epsilon
    else:
      high = middle, epsilon
    halve = high[0] - low[0] > before / 2
  return Calibrated(low[0], low[1], low[0])


def largest_cohort(
  budget: Budget,
  make_round: Callable[[int], events_lib.Round],
  rounds: int,
  *,
  between: tuple[int, int],
) -> Calibrated[int]:
  """Returns the largest cohort with which `rounds` are within `budget`.

  Guarantees:
    - the result was priced and is within the budget; one client more was priced
      and is not, unless the result is the upper end.

  Bisection needs epsilon to rise with the cohort. It does where the noise on
  the sum, over the sensitivity, is the same for all cohorts: then a larger
  chance to be sampled is all that changes, and a round with the smaller one is
  a round with the larger one in which each member leaves by a coin. Where each
  client adds noise of its own size there is no such order: do not search.

  Args:
    budget: What is to be met.
    make_round: From the size of a cohort to a round as it is planned.
    rounds: How many rounds, at least 1.
    between: The smallest and the largest cohort, at least 1.

  Raises:
    UnmetTargetError: If the smallest cohort does not meet it.
    TypeError: If an argument is of the wrong kind.
    ValueError: If one is out of its range.
  """
  rounds = _validate.check_int(rounds, 'rounds', minimum=1)
  low = _validate.check_int(between[0], 'between[0]', minimum=1)
  high = _validate.check_int(between[1], 'between[1]', minimum=low)
  question = _Question(budget)

  def price(cohort: int) -> Epsilon:
    return question.epsilon(make_round(cohort), rounds)

  first = price(low)
  if not question.met(first):
    question.refuse(f'cohorts of {low} clients or more', low, first)
  cohort, epsilon = _largest(price, question.met, (low, high))
  return Calibrated(cohort, epsilon, rounds)


def _checked_range(between: tuple[float, float]) -> tuple[float, float]:
  low = _validate.check_float(
    between[0], 'between[0]', minimum=0.0, exclusive=True
  )
  return low, _validate.check_float(between[1], 'between[1]', minimum=low)


def _share(low: Epsilon, high: Epsilon, target: float) -> float:
  """Returns where between two prices a target is, were squares linear."""
  span = high.value**2 - low.value**2
  return 0.5 if math.isinf(span) else (target**2 - low.value**2) / span


def _largest(
  price: Callable[[int], Epsilon],
  met: Callable[[Epsilon], bool],
  between: tuple[int, int],
) -> tuple[int, Epsilon]:
  """Returns the largest number that meets the budget; the smallest does."""
  low, limit = between
  best, high, step = price(low), low, 1
  # Doubling first: the answer may be far below the limit.
  while high < limit:
    high = min(limit, low + step)
    epsilon = price(high)
    if not met(epsilon):
      break
    low, best, step = high, epsilon, 2 * step
  else:
    return low, best
  # Invariant: `low` was priced and meets the budget, `high` does not.
  while high - low > 1:
    middle = (low + high) // 2
    epsilon = price(middle)
    if met(epsilon):
      low, best = middle, epsilon
    else:
      high = middle
  return low, best
