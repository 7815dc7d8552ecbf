# SPDX-License-Identifier: Apache-2.0
"""Who takes part in a round, drawn from the kernel's randomness.

A cohort comes with the claim that the account may make of it. Where a cohort
had to be cut, or is too small to be released, the claim is none.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import fractions
import math
import secrets
from typing import Protocol

import numpy as np

from tff_secagg_ext import _validate, accounting

_WORD = 2**64


@dataclasses.dataclass(frozen=True)
class Cohort:
  """The clients of one round.

  Attributes:
    members: Their indices in the population, ascending.
    claim: What the account may assume of how they were chosen.
  """

  members: tuple[int, ...]
  claim: accounting.Sampling


@dataclasses.dataclass(frozen=True)
class Turn:
  """Which attempt of a run a cohort is for.

  Attributes:
    attempt: How many attempts the run has had before.
    key: Gives the secret key of the run, 32 bytes, the same for all attempts.
  """

  attempt: int
  key: Callable[[], bytes]


class Cohorts(Protocol):
  """How the cohorts of a run are formed."""

  @property
  def population(self) -> int:
    """The number of clients that could take part."""

  @property
  def minimum(self) -> int:
    """The smallest cohort that `sampling` is claimed of."""

  @property
  def maximum(self) -> int:
    """The largest cohort that runs."""

  @property
  def sampling(self) -> accounting.Sampling:
    """What may be assumed of a cohort that was neither cut nor refused."""

  def draw(self, turn: Turn) -> Cohort:
    """Returns the cohort of an attempt, as `sampling` says."""


@dataclasses.dataclass(frozen=True)
class PoissonCohorts:
  """Each client takes part by a coin of its own.

  Guarantees:

  * The coins are independent, fresh from the kernel, and fall on heads with
    `sampling.probability`, short of it by at most 2^-64.
  * A cohort above `maximum` is cut to a uniformly random subset of that size;
    one below `minimum` is left to the aggregator, which fails closed. Neither
    claims amplification.

  Attributes:
    population: The number of clients.
    expected: The mean size of a cohort, in (0, population].
    minimum: The smallest cohort that is released.
    maximum: The largest cohort that runs.
  """

  population: int
  expected: float
  minimum: int
  maximum: int

  def __post_init__(self) -> None:
    _validate.check_int(self.population, 'population', minimum=1)
    _validate.check_float(
      self.expected, 'expected', minimum=0.0, maximum=self.population
    )
    if not self.expected or not self._heads:
      raise ValueError(
        '`expected` must be above 0, by what 64 bits can tell. Found'
        f' {self.expected!r}. A round without clients trains nothing.'
      )
    _validate.check_int(self.minimum, 'minimum', minimum=1)
    _validate.check_int(self.maximum, 'maximum', minimum=self.minimum)

  @classmethod
  def for_run(
    cls, population: int, expected: float, *, rounds: int, delta: float
  ) -> PoissonCohorts:
    """Returns cohorts that stay in bounds but with probability delta/100.

    Too small a cohort counts as `accounting.odds_of_being_needed` says.

    Args:
      population: The number of clients.
      expected: The mean size of a cohort.
      rounds: The number of rounds of the run.
      delta: The delta of the run.
    """
    bounds = accounting.poisson_cohort_bounds(
      population, expected, rounds, delta
    )
    odds = accounting.odds_of_being_needed(
      accounting.PoissonSampling(expected / population)
    )
    if odds > 1.0:
      bounds = accounting.poisson_cohort_bounds(
        population, expected, math.ceil(rounds * odds), delta
      )
    return cls(population, expected, bounds.minimum, bounds.maximum)

  @property
  def sampling(self) -> accounting.PoissonSampling:
    """The coins' probability."""
    return accounting.PoissonSampling(self.expected / self.population)

  @property
  def _heads(self) -> int:
    """How many of the 2^64 words of a coin mean that its client is in."""
    return int(fractions.Fraction(self.sampling.probability) * _WORD)

  def draw(self, turn: Turn | None = None) -> Cohort:
    """Returns a fresh cohort, whatever the attempt."""
    del turn  # No attempt has to do with another.
    words = np.frombuffer(secrets.token_bytes(8 * self.population), np.uint64)
    coins = words <= np.uint64(self._heads - 1)
    chosen: list[int] = np.flatnonzero(coins).tolist()
    if self.minimum <= len(chosen) <= self.maximum:
      return Cohort(tuple(chosen), self.sampling)
    if len(chosen) > self.maximum:
      chosen = secrets.SystemRandom().sample(chosen, self.maximum)
    return Cohort(tuple(sorted(chosen)), accounting.NoSampling())


@dataclasses.dataclass(frozen=True)
class FixedCohorts:
  """A uniformly random subset of constant, public size.

  Attributes:
    population: The number of clients.
    size: The size of each cohort, in [1, population].
  """

  population: int
  size: int

  def __post_init__(self) -> None:
    _validate.check_int(self.population, 'population', minimum=1)
    _validate.check_int(self.size, 'size', minimum=1, maximum=self.population)

  @property
  def minimum(self) -> int:
    """The size."""
    return self.size

  @property
  def maximum(self) -> int:
    """The size."""
    return self.size

  @property
  def sampling(self) -> accounting.FixedSizeSampling:
    """A subset of this size, without replacement, under zero-out."""
    return accounting.FixedSizeSampling(self.size, self.population)

  def draw(self, turn: Turn | None = None) -> Cohort:
    """Returns a fresh cohort, whatever the attempt."""
    del turn  # No attempt has to do with another.
    chosen = secrets.SystemRandom().sample(range(self.population), self.size)
    return Cohort(tuple(sorted(chosen)), self.sampling)
