# SPDX-License-Identifier: Apache-2.0
"""A run before there is one: its cohorts, its noise, what it costs.

Everything is made here once, for `tff-secagg train`, which runs it, and for
`tff-secagg budget plan`, which does not: what is planned is what is charged.
"""

from __future__ import annotations

import dataclasses
import functools
import math

from tff_secagg_ext import _validate, accounting, aggregators, execution
from tff_secagg_ext.program import budgets
from tff_secagg_ext.program import terms as terms_lib
from tff_secagg_ext.program.allocated import AllocatedCohorts
from tff_secagg_ext.program.cohorts import FixedCohorts, PoissonCohorts
from tff_secagg_ext.program.releases import Releases
from tff_secagg_ext.secagg import costs
from tff_secagg_ext.secagg import setup as setup_lib

# One attempt in so many may be lost without costing the run its amplification.
_SPARE = 10
# Noise multipliers that are looked at, and how many of them for a factor of 10.
_NOISE = (0.01, 1000.0)
_STEPS = 12
# The end of what the bits have room for is found to this.
_PRECISION = 1e-6


@dataclasses.dataclass(frozen=True)
class Outlook:
  """What a run costs with one noise multiplier, before there is one.

  Attributes:
    noise_multiplier: Of the aggregator.
    release: Epsilon of all rounds, towards whoever sees the releases.
    server: The same towards the coordinator.
    mean_error: Standard deviation of a coordinate of the mean, in clip norms.
    traffic: Bytes of one client in one round.
  """

  noise_multiplier: float
  release: accounting.Epsilon
  server: accounting.Epsilon
  mean_error: float
  traffic: costs.Traffic


@dataclasses.dataclass(frozen=True)
class RunPlan:
  """What a run is asked to be, but for its noise.

  Attributes:
    population: The number of clients, at least 1.
    clients_per_round: The expected size of a cohort.
    rounds: The number of rounds, at least 1.
    delta: In (0, 1).
    cohorts: 'poisson', 'allocated' or 'fixed'.
    bits: The sum is modulo 2^bits.
    mechanism: 'distributed_dgauss' or 'distributed_skellam'.
    clipping: A fixed L2 norm, or `AdaptiveClipping`.
    security: The options of the secure context; its `min_contributors` is set
      here. `None` where vectors are added in the clear.
    epoch: For allocated cohorts, the number of rounds of an epoch. A client
      takes part in as many of them as come nearest to the expected cohort, at
      least 1. `None`: the epoch in which that is once.
    canaries: How many of `clients_per_round` are canaries, which the
      coordinator runs, in every round; below it.
  """

  population: int
  clients_per_round: int
  rounds: int
  delta: float
  cohorts: str = 'poisson'
  bits: int = 20
  mechanism: str = 'distributed_dgauss'
  clipping: aggregators.AdaptiveClipping | float = aggregators.DEFAULT_CLIPPING
  security: execution.SecureOptions | None = None
  epoch: int | None = None
  canaries: int = 0

  def __post_init__(self) -> None:
    _validate.check_int(self.population, 'population', minimum=1)
    _validate.check_int(
      self.clients_per_round,
      'clients_per_round',
      minimum=1,
      maximum=self.population,
      remedy='Above the population, the chance to take part would be above 1.',
    )
    _validate.check_int(
      self.canaries,
      'canaries',
      minimum=0,
      maximum=self.clients_per_round - 1,
      remedy='They take places of the cohort: enlarge it, or take fewer.',
    )
    _validate.check_int(self.rounds, 'rounds', minimum=1)
    _validate.check_float(
      self.delta, 'delta', minimum=0.0, maximum=1.0, exclusive=True
    )
    _validate.check_choice(
      self.cohorts, 'cohorts', ('poisson', 'allocated', 'fixed')
    )
    if self.epoch is not None:
      _validate.check_int(self.epoch, 'epoch', minimum=1)
      if self.cohorts != 'allocated':
        raise ValueError(
          "`epoch` must be None unless `cohorts` is 'allocated'. Found"
          f' {self.epoch!r} for {self.cohorts!r}. Other cohorts have none.'
        )

  @functools.cached_property
  def former(self) -> FixedCohorts | PoissonCohorts | AllocatedCohorts:
    """How the cohorts are formed, of clients that are no canaries."""
    population = self.population
    expected = self.clients_per_round - self.canaries
    rounds = self.rounds + -(-self.rounds // _SPARE)
    if self.cohorts == 'fixed':
      return FixedCohorts(population, expected)
    if self.cohorts == 'poisson':
      return PoissonCohorts.for_run(
        population, expected, rounds=rounds, delta=self.delta
      )
    epoch = self.epoch or max(1, round(population / expected))
    times = max(1, round(epoch * expected / population))
    return AllocatedCohorts.for_run(
      population, times, epoch, rounds=rounds, delta=self.delta
    )

  @property
  def expected(self) -> int:
    """The expected size of a cohort that sums are divided by.

    Of allocated cohorts it is as near to what is asked for as epochs allow.
    """
    if isinstance(self.former, AllocatedCohorts):
      return max(1, round(self.former.expected)) + self.canaries
    return self.clients_per_round

  @functools.cached_property
  def secure(self) -> execution.SecureOptions | None:
    """The secure context: no sum of fewer than must be left."""
    if self.security is None:
      return None
    least = self.former.minimum + self.canaries
    left = least - self.security.lost(least)
    return dataclasses.replace(self.security, min_contributors=left)

  def aggregator(
    self, noise_multiplier: float
  ) -> aggregators.DdpSecureAggregationFactory:
    """Returns the aggregator: noise for the fewest, less the colluders."""
    secure, largest = self.secure, self._largest
    hidden = self.cohorts != 'fixed'
    least = self.former.minimum + self.canaries
    if secure is not None:
      least = secure.min_contributors
    return aggregators.ddp_secure_aggregator(
      noise_multiplier,
      self.expected,
      self.bits,
      mechanism=self.mechanism,
      clipping=self.clipping,
      cohorts='poisson' if hidden else 'fixed',
      min_contributors=least,
      max_contributors=largest if hidden else None,
      max_colluders=0 if secure is None else secure.colluders(largest),
    )

  @property
  def _largest(self) -> int:
    """The largest cohort that runs, with its canaries."""
    return self.former.maximum + self.canaries

  def charge(self, noise_multiplier: float, elements: int) -> accounting.Round:
    """Returns what each round is reserved at.

    Args:
      noise_multiplier: Of the aggregator.
      elements: How many numbers a client sends, before any padding.

    Raises:
      ValueError: If the bits are too few for it.
    """
    aggregator = self.aggregator(noise_multiplier)
    dimension = aggregator.padded_dimension(elements)
    return terms_lib.Terms(
      aggregator,
      Releases(dimension, ()),
      self.former.sampling,
      self.population,
      terms_lib.failures(self.former.sampling, self.delta),
      self.secure,
      canaries=self.canaries,
    ).usual

  def calibrated(
    self, budget: accounting.Budget, elements: int, *, shared: bool = False
  ) -> accounting.Calibrated[float]:
    """Returns the least noise multiplier whose rounds are within `budget`.

    Guarantees:
      - a `PrivacyRecorder` of this plan, with this budget and noise, reserves
        all rounds, if no attempt is lost.

    Args:
      budget: What is to be met.
      elements: How many numbers a client sends.
      shared: Whether the budget is that of a named population.

    Raises:
      accounting.UnmetTargetError: If no noise that the bits have room for does.
      ValueError: If the bits have room for none at all.
    """
    sampling = self.former.sampling
    return accounting.calibrate(
      budgets.resolved(budget, sampling, shared=shared),
      lambda noise: self.charge(noise, elements),
      self.rounds,
      between=self._room(elements),
    )

  def mean_error(self, noise_multiplier: float, elements: int) -> float:
    """Returns the standard deviation of a coordinate of the decoded mean.

    In units of the clip norm; of noise and rounding, for a cohort of the
    expected size. The rotation is orthonormal, and leaves it as it is.

      sqrt(shares * share_stddev^2 + clients / 4) / (scale * clients)

    Rounding a coordinate of one client has a variance of at most 1/4. Under
    Poisson cohorts the noise is topped up to that of the largest.

    Args:
      noise_multiplier: Of the aggregator.
      elements: How many numbers a client sends.
    """
    aggregator = self.aggregator(noise_multiplier)
    constants = aggregator.constants(aggregator.padded_dimension(elements))
    clients = self.expected
    shares = self._largest
    variance = shares * constants.share_stddev**2 + clients / 4.0
    return math.sqrt(variance) / (constants.scale * clients)

  def traffic(self, noise_multiplier: float, elements: int) -> costs.Traffic:
    """Returns a client's bytes in a round of the expected size.

    Of the vector and of the number of contributors, which are summed securely.

    Args:
      noise_multiplier: Of the aggregator.
      elements: How many numbers a client sends.

    Raises:
      ValueError: If vectors are added in the clear.
    """
    if self.secure is None:
      raise ValueError(
        '`security` must be given to count bytes. Found None: nothing is sent'
        ' by a protocol. Plan with `execution.SecureOptions()`.'
      )
    length = self.aggregator(noise_multiplier).padded_dimension(elements) + 1
    setup = setup_lib.Setup(
      session=bytes(setup_lib.SESSION_BYTES),
      round=0,
      security=self.secure.security,
      verify=self.secure.verified,
      min_survivors=self.secure.min_contributors,
      vectors=(setup_lib.VectorSpec('update', length, 1 << self.bits),),
    )
    return costs.traffic(self.clients_per_round, setup)

  def outlook(self, noise_multiplier: float, elements: int) -> Outlook:
    """Returns what all rounds cost, if none is lost.

    Guarantees:
      - both epsilons are those of the account that a recorder of this plan
        keeps.

    Args:
      noise_multiplier: Of the aggregator.
      elements: How many numbers a client sends.

    Raises:
      ValueError: If the bits have no room for the noise, or vectors are added
        in the clear.
    """
    spendable = self.delta - terms_lib.failures(
      self.former.sampling, self.delta
    )
    account = accounting.Accountant(spendable).with_round(
      self.charge(noise_multiplier, elements), self.rounds
    )
    return Outlook(
      noise_multiplier,
      account.release(),
      account.server(),
      self.mean_error(noise_multiplier, elements),
      self.traffic(noise_multiplier, elements),
    )

  def _room(self, elements: int) -> tuple[float, float]:
    """The least and largest noise multiplier that the bits have room for."""

    def fits(noise: float) -> bool:
      try:
        aggregator = self.aggregator(noise)
        aggregator.constants(aggregator.padded_dimension(elements))
      except ValueError:
        return False
      return True

    low, high = (math.log10(end) for end in _NOISE)
    steps = round((high - low) * _STEPS)
    tried = [10 ** (low + i / _STEPS) for i in range(steps + 1)]
    there = [noise for noise in tried if fits(noise)]
    if not there:
      self.charge(1.0, elements)
    least, most = there[0], there[-1]
    beyond = most * 10 ** (1 / _STEPS)
    while most < _NOISE[1] and beyond > most * (1.0 + _PRECISION):
      middle = math.sqrt(most * beyond)
      most, beyond = (middle, beyond) if fits(middle) else (most, middle)
    return least, min(most, _NOISE[1])


def warn_of_noise(noise_multiplier: float) -> str | None:
  """Returns what is wrong with so little noise; None if nothing is."""
  if noise_multiplier >= 1.0:
    return None
  return (
    'a noise multiplier below 1 is noise smaller than what one client can move'
    ' the sum by: what protects is that nobody knows who took part. Larger'
    ' cohorts afford more noise.'
  )
