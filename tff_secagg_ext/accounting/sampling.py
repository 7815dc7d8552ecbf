# SPDX-License-Identifier: Apache-2.0
"""How a round's cohort was formed, and what the account may assume of it.

A sampling is a claim about a run. It is never inferred from the numbers of a
run: whoever records a round says which one holds, and each class says what it
requires. If a requirement does not hold, the round is `NoSampling`.

Two adjacency relations are known. Under `'zero_out'` the neighbouring run has
the same members, and one client's contributions are replaced by zero while its
noise stays. Under `'substitution'` one client's contributions are replaced by
any other admissible ones, so that the sensitivity doubles. All rounds of an
account must speak of the same relation.

The compatibility promise of `events` holds for these classes too.
"""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

from tff_secagg_ext import _validate

ADJACENCIES: tuple[str, ...] = ('zero_out', 'substitution')


@dataclasses.dataclass(frozen=True)
class NoSampling:
  """No claim: the client is taken to be in the cohort. Always valid.

  The choice for truncated cohorts, for aborted rounds that still released
  something, and for any cohort that an adversary may know or choose.

  Attributes:
    adjacency: The relation of the run, 'zero_out' or 'substitution'.
  """

  adjacency: str = 'zero_out'

  def __post_init__(self) -> None:
    _validate.check_choice(self.adjacency, 'adjacency', ADJACENCIES)

  @property
  def rate(self) -> float:
    """The probability, in (0, 1], that the client takes part."""
    return 1.0


@dataclasses.dataclass(frozen=True)
class PoissonSampling:
  """Every client took part by its own coin, independently of all else.

  Requires of the run:
    - each round's coins are fresh, independent between clients and rounds,
      and of the stated probability;
    - nothing that the view sees depends on the size of the cohort: neither a
      count, nor the divisor of the mean, nor the variance of the noise (hence
      the server's top-up to a constant number of shares);
    - a cohort that was cut or refused for its size is recorded as
      `NoSampling`, and the probability that any was is part of delta (see
      `poisson_cohort_bounds`).

  The relation is zero-out.

  Attributes:
    probability: A client's chance to take part, in (0, 1].
  """

  probability: float

  def __post_init__(self) -> None:
    value = _validate.check_float(
      self.probability,
      'probability',
      minimum=0.0,
      maximum=1.0,
      remedy='It is the expected cohort over the population.',
    )
    if value == 0.0:
      raise ValueError(
        '`probability` must be above 0. Found 0.0. A round that nobody can '
        'join releases nothing: record it with no events.'
      )
    object.__setattr__(self, 'probability', value)

  @property
  def adjacency(self) -> str:
    """The relation of the run: zero-out."""
    return 'zero_out'

  @property
  def rate(self) -> float:
    """The probability, in (0, 1], that the client takes part."""
    return self.probability


@dataclasses.dataclass(frozen=True)
class FixedSizeSampling:
  """The cohort was a uniformly random subset of known size.

  Requires of the run:
    - each round's cohort is drawn afresh, uniformly among all subsets of
      `cohort` of the `population` clients, without replacement;
    - every member contributes exactly one vector within the sensitivity's
      norm bound. A client that dropped out after sampling counts as
      contributing zero, and only its noise is missing from the event;
    - the population does not depend on what earlier rounds released.

  The size may be public. It amplifies less than Poisson sampling does, since
  where the client is absent somebody else has its place.

  Attributes:
    cohort: The number of clients sampled, from 1 to `population`.
    population: The number of clients that could have been.
    adjacency: The relation of the run, 'zero_out' or 'substitution'.
  """

  cohort: int
  population: int
  adjacency: str = 'zero_out'

  def __post_init__(self) -> None:
    population = _validate.check_int(self.population, 'population', minimum=1)
    cohort = _validate.check_int(
      self.cohort,
      'cohort',
      minimum=1,
      maximum=population,
      remedy='A cohort is drawn without replacement from the population.',
    )
    _validate.check_choice(self.adjacency, 'adjacency', ADJACENCIES)
    object.__setattr__(self, 'population', population)
    object.__setattr__(self, 'cohort', cohort)

  @property
  def rate(self) -> float:
    """The probability, in (0, 1], that the client takes part."""
    return self.cohort / self.population


Sampling: TypeAlias = NoSampling | PoissonSampling | FixedSizeSampling
