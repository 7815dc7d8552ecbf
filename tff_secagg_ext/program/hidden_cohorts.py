# SPDX-License-Identifier: Apache-2.0
"""Cohorts whose size is hidden: how often one leaves its bounds."""

from __future__ import annotations

import dataclasses
import functools

from scipy import stats

from tff_secagg_ext import accounting
from tff_secagg_ext.execution import SecureOptions
from tff_secagg_ext.mechanism.spec import MechanismSpec


@dataclasses.dataclass(frozen=True)
class HiddenCohorts:
  """The bounds of an aggregator, and the cohorts that shall be within them.

  Attributes:
    sampling: What is claimed of the cohorts.
    spec: The aggregator's choices.
    population: The number of clients; `None` if it is not known.
    options: Of the secure context; `None` where there is none.
    canaries: How many more take part in every round, whoever is drawn.
  """

  sampling: accounting.Sampling
  spec: MechanismSpec
  population: int | None
  options: SecureOptions | None
  canaries: int

  @functools.cached_property
  def least(self) -> int:
    """The smallest cohort that is released, whoever drops out of it.

    Canaries are counted.
    """
    least = cohort = self.spec.min_contributors or 1
    while (
      self.options is not None and cohort - self.options.lost(cohort) < least
    ):
      cohort += 1
    return cohort

  def contain(self, clients: int) -> bool:
    """Whether a cohort of so many drawn clients is within the bounds."""
    return self.least <= clients + self.canaries <= self.spec.max_shares

  @property
  def with_dropouts(self) -> str:
    """What dropouts change about the least cohort, for errors."""
    if self.least == (self.spec.min_contributors or 1):
      return ''
    return (
      ': with the dropouts that the secure context states, a cohort must have'
      f' {self.least} clients'
    )

  @functools.cached_property
  def failures(self) -> float:
    """The probability that one cohort of hidden size leaves its bounds."""
    if isinstance(self.sampling, accounting.RandomAllocation):
      return self._allocated_failures
    if not isinstance(self.sampling, accounting.PoissonSampling):
      return 0.0
    if self.population is None:
      drawn = self.spec.expected_clients_per_round - self.canaries
      cohort = stats.poisson(drawn)
    else:
      cohort = stats.binom(self.population, self.sampling.probability)
    # docs/accounting.md, section 6: why too small a cohort may count more.
    odds = accounting.odds_of_being_needed(self.sampling)
    below = odds * cohort.cdf(self._fewest - 1)
    return float(below + cohort.sf(self._most))

  @property
  def _allocated_failures(self) -> float:
    """The same, where no client may be what a cohort needs or is too many by.

    docs/accounting.md, section 6.
    """
    if self.population is None:
      raise ValueError(
        '`population` must be known for RandomAllocation. Found None. Give'
        ' RunDescription(population=...).'
      )
    others = stats.binom(self.population - 1, self.sampling.rate)
    below = others.cdf(self._fewest - 1)
    return float(below + others.sf(self._most - 1))

  @property
  def _fewest(self) -> int:
    return self.least - self.canaries

  @property
  def _most(self) -> int:
    return self.spec.max_shares - self.canaries
