# SPDX-License-Identifier: Apache-2.0
"""Bounds that cohorts of random size keep during a whole run."""

from __future__ import annotations

import dataclasses

from scipy import special

from tff_secagg_ext import _validate
from tff_secagg_ext.accounting.sampling import PoissonSampling

# The part of delta that cohorts outside the bounds may take.
_SHARE = 0.01


@dataclasses.dataclass(frozen=True)
class CohortBounds:
  """How large a Poisson or an allocated cohort may be.

  Attributes:
    minimum: The least size, at least 1 where the run can afford it; 0 if an
      empty cohort is not rare enough.
    maximum: The largest size.
    failure_probability: Probability that any cohort of the run is outside;
      it belongs to delta.
  """

  minimum: int
  maximum: int
  failure_probability: float


def _below(population: int, probability: float, size: int) -> float:
  """P(Binomial(population, probability) < size)."""
  if size <= 0:
    return 0.0
  return float(special.betainc(population - size + 1, size, 1.0 - probability))


def _above(population: int, probability: float, size: int) -> float:
  """P(Binomial(population, probability) > size)."""
  if size >= population:
    return 0.0
  return float(special.betainc(size + 1, population - size, probability))


def odds_of_being_needed(sampling: PoissonSampling) -> float:
  """Returns what too small a cohort counts in delta, at least 1.

  A cohort that one client more would make large enough tells whether that
  client is in it: q/(1 - q) times as probable as one that is too small
  (docs/accounting.md, section 6).
  """
  q = sampling.probability
  return max(1.0, q / (1.0 - q)) if q < 1.0 else 1.0


def poisson_cohort_bounds(
  population: int, expected: float, rounds: int, delta: float
) -> CohortBounds:
  """Returns the tightest bounds that Poisson cohorts pass rarely enough.

  Guarantees:
    - the probability that any of `rounds` independent cohorts, each client in
      it with probability expected / population, is outside the bounds is at
      most `failure_probability`, and that is at most delta / 100;
    - each side alone uses at most half of it, and is as tight as that allows.

  Args:
    population: The number of clients, at least 1.
    expected: The expected cohort, above 0 and at most `population`.
    rounds: The number of rounds of the run, at least 1.
    delta: The delta of the whole run, in (0, 1).

  Raises:
    TypeError: If an argument is of the wrong kind.
    ValueError: If one is outside its range.
  """
  population = _validate.check_int(population, 'population', minimum=1)
  expected = _validate.check_float(
    expected,
    'expected',
    minimum=0.0,
    maximum=float(population),
    remedy='It is the mean size of a cohort.',
  )
  if expected == 0.0:
    raise ValueError(
      '`expected` must be above 0. Found 0.0. A run needs clients.'
    )
  rounds = _validate.check_int(rounds, 'rounds', minimum=1)
  delta = _validate.check_float(
    delta, 'delta', minimum=0.0, maximum=1.0, exclusive=True
  )
  probability = expected / population
  allowed = _SHARE * delta / (2.0 * rounds)
  # The largest minimum and the least maximum that are rare enough to miss.
  low, high = 0, population
  while low < high:
    middle = (low + high + 1) // 2
    if _below(population, probability, middle) <= allowed:
      low = middle
    else:
      high = middle - 1
  minimum = low
  low, high = 0, population
  while low < high:
    middle = (low + high) // 2
    if _above(population, probability, middle) <= allowed:
      high = middle
    else:
      low = middle + 1
  failure = rounds * (
    _below(population, probability, minimum)
    + _above(population, probability, low)
  )
  return CohortBounds(minimum, low, failure)


def allocated_cohort_bounds(
  population: int, rate: float, rounds: int, delta: float
) -> CohortBounds:
  """Returns the tightest bounds that allocated cohorts pass rarely enough.

  Who takes part in one round of an epoch tells something of the others, so that
  no client may be what a cohort needs to be within its bounds, or out of them.
  The bounds are those that the cohort keeps with any one client and without it:
  as tight as `poisson_cohort_bounds` are for all other clients, and one more.

  Guarantees:
    - for each client, the probability that the other clients of any of
      `rounds` cohorts are fewer than `minimum` or more than `maximum` - 1 is at
      most `failure_probability`, and that is at most delta / 100.

  Args:
    population: The number of clients, at least 2.
    rate: The chance of a client to take part in a round, in (0, 1].
    rounds: The number of rounds of the run, at least 1.
    delta: The delta of the whole run, in (0, 1).

  Raises:
    TypeError: If an argument is of the wrong kind.
    ValueError: If one is outside its range.
  """
  others = _validate.check_int(population, 'population', minimum=2) - 1
  rate = _validate.check_float(rate, 'rate', minimum=0.0, maximum=1.0)
  bounds = poisson_cohort_bounds(others, rate * others, rounds, delta)
  return dataclasses.replace(bounds, maximum=bounds.maximum + 1)
