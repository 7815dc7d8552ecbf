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


@dataclasses.dataclass(frozen=True)
class RandomAllocation:
  """Every client took part in some random rounds of each epoch, and no others.

  Requires of the run:
    - before an epoch each client draws a uniformly random subset of
      `participations` of its `rounds`, independently of all else, and takes
      part in these and no others;
    - an attempt at a round uses the round up, whatever becomes of it: nobody
      takes part in it again. Attempts that were lost, or never run, have
      charges with the same `epoch`;
    - nothing that the view sees depends on the size of a cohort, as for
      `PoissonSampling`. From a round on where something did, until the end of
      its epoch, `hidden` is False, and the probability that it happened is
      part of delta where earlier rounds claim the opposite.

  An epoch is charged as a whole from its first round on: what it costs does not
  depend on how many of its rounds were run. Knowing who took part when, the
  server sees at most `participations` of them.

  The relation is zero-out.

  Attributes:
    participations: In how many rounds of an epoch a client takes part, at least
      1.
    rounds: The number of rounds of an epoch, at least `participations`.
    epoch: A name that no other epoch of the population has; at most `rounds`
      charges may have it. Without a name, each `rounds` successive rounds of
      the account that make this claim are an epoch.
    hidden: Whether who took part is hidden from the release view. If not, for
      any of its rounds, an epoch is not amplified.
  """

  participations: int
  rounds: int
  epoch: str = ''
  hidden: bool = True

  def __post_init__(self) -> None:
    rounds = _validate.check_int(self.rounds, 'rounds', minimum=1)
    participations = _validate.check_int(
      self.participations,
      'participations',
      minimum=1,
      maximum=rounds,
      remedy='A client takes part in a round once.',
    )
    if not isinstance(self.epoch, str):
      raise TypeError(
        f'`epoch` must be a string. Found {self.epoch!r}. It names the epoch.'
      )
    _validate.check_bool(self.hidden, 'hidden')
    object.__setattr__(self, 'rounds', rounds)
    object.__setattr__(self, 'participations', participations)

  @property
  def adjacency(self) -> str:
    """The relation of the run: zero-out."""
    return 'zero_out'

  @property
  def rate(self) -> float:
    """The probability, in (0, 1], that the client takes part in a round."""
    return self.participations / self.rounds


Sampling: TypeAlias = (
  NoSampling | PoissonSampling | FixedSizeSampling | RandomAllocation
)
SAMPLING_TYPES = (
  NoSampling,
  PoissonSampling,
  FixedSizeSampling,
  RandomAllocation,
)


def unclaimed(sampling: Sampling) -> Sampling:
  """Returns what may be assumed of a round that does not support `sampling`.

  No amplification; of an allocated round still which epoch it belongs to.
  """
  if isinstance(sampling, RandomAllocation):
    return dataclasses.replace(sampling, hidden=False)
  return NoSampling(sampling.adjacency)
