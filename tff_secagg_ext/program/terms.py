# SPDX-License-Identifier: Apache-2.0
"""The terms on which rounds are charged: from what happened to a charge."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any

from scipy import stats

from tff_secagg_ext import accounting, aggregators
from tff_secagg_ext.program import releases as releases_lib

# The share of delta that pays for Poisson cohorts out of their bounds.
COHORTS_SHARE_OF_DELTA = 0.01
# Constants are measured in float32.
_TOLERANCE = 1e-5


class MeasurementError(Exception):
  """What a round measured contradicts the aggregator that it is charged by.

  The round must not be released; nobody can say what it would release.
  """


@dataclasses.dataclass(frozen=True)
class Terms:
  """How the rounds of a run are charged.

  Edge cases, all of which fail closed:

  | what happened | how it is charged |
  | --- | --- |
  | a cohort of another size than `FixedSizeSampling` says | no sampling |
  | a cohort whose size is not known, under `FixedSizeSampling` | no sampling |
  | the aggregator aborted, or will: cohort out of bounds | no sampling |
  | more rounds than Poisson cohorts may fail in | no sampling |
  | fewer contributors than expected | with the noise that was there |
  | nobody contributed | nothing |
  | something else left the clients | infinite, by name |
  | measurements contradict the aggregator | `MeasurementError`; infinite |

  Attributes:
    aggregator: The aggregator of the process.
    releases: What leaves the clients in a round.
    sampling: What is claimed of the cohorts.
    population: The number of clients; `None` if it is not known.
    allowed_failures: The probability, part of delta, with which Poisson
      cohorts may leave their bounds, all rounds together.
  """

  aggregator: aggregators.DdpSecureAggregationFactory
  releases: releases_lib.Releases
  sampling: accounting.Sampling
  population: int | None
  allowed_failures: float

  def __post_init__(self) -> None:
    if not isinstance(self.sampling, accounting.PoissonSampling):
      return
    spec = self.aggregator.spec
    if spec.cohorts != 'poisson':
      raise ValueError(
        "`sampling` must not be PoissonSampling for cohorts='fixed', which"
        f' makes the number of clients public. Found {self.sampling!r}. Make'
        " the aggregator with cohorts='poisson'."
      )
    if not self.affords(1):
      raise ValueError(
        f'Poisson cohorts of probability {self.sampling.probability:g} must'
        f' stay between {spec.min_contributors} and {spec.max_contributors}'
        f' clients. Found that one leaves them with probability'
        f' {self._failures:.2g}, above the {self.allowed_failures:.2g} that'
        ' delta affords. Widen min_contributors and max_contributors; see'
        ' accounting.poisson_cohort_bounds.'
      )

  def affords(self, rounds: int) -> bool:
    """Whether delta pays for cohorts out of bounds in so many rounds."""
    return rounds * self._failures <= self.allowed_failures

  def planned(
    self, clients: int | None, claim: accounting.Sampling
  ) -> accounting.Round:
    """Returns what a round is expected to cost, before it runs."""
    return self._charge(clients, clients, claim, aborted=False)

  def happened(
    self,
    clients: int | None,
    claim: accounting.Sampling,
    measured: Mapping[str, Any],
  ) -> accounting.Round:
    """Returns what a round cost, once it has run.

    Args:
      clients: How many clients it ran with; `None` if that is not known.
      claim: What is claimed of how they were chosen.
      measured: The aggregator's measurements; empty if it has none.

    Raises:
      MeasurementError: If they contradict the aggregator.
    """
    if not measured:
      return self._charge(clients, clients, claim, aborted=False)
    contributors = measured.get('contributors', clients)
    if contributors is not None:
      contributors = int(contributors)
    aborted = bool(measured['aborted'])
    charge = self._charge(clients, contributors, claim, aborted)
    self._check(clients, contributors, measured)
    return charge

  @functools.cached_property
  def _failures(self) -> float:
    """The probability that one Poisson cohort leaves its bounds."""
    if not isinstance(self.sampling, accounting.PoissonSampling):
      return 0.0
    spec = self.aggregator.spec
    if self.population is None:
      cohort = stats.poisson(spec.expected_clients_per_round)
    else:
      cohort = stats.binom(self.population, self.sampling.probability)
    below = cohort.cdf((spec.min_contributors or 1) - 1)
    return float(below + cohort.sf(spec.max_shares))

  def _charge(
    self,
    clients: int | None,
    contributors: int | None,
    claim: accounting.Sampling,
    aborted: bool,
  ) -> accounting.Round:
    nothing = contributors == 0
    events: list[accounting.Event] = []
    if self.releases.dimension is not None and not nothing:
      events.append(self._event(clients, contributors))
    if self.releases.unaccounted and clients != 0:
      reasons = self.releases.unaccounted
      events.append(accounting.UnaccountedEvent(reasons))
    if aborted or nothing or not self._supports(claim, clients):
      claim = accounting.NoSampling(claim.adjacency)
    return accounting.Round(tuple(events), claim)

  def _event(
    self, clients: int | None, contributors: int | None
  ) -> accounting.NoisedSumEvent:
    assert self.releases.dimension is not None
    if self.aggregator.spec.cohorts == 'fixed':
      return self.aggregator.event(self.releases.dimension, contributors)
    event = self.aggregator.event(self.releases.dimension)
    if clients is None or clients >= event.client_shares:
      return event
    # The cohort is too small, which the abort makes known anyway.
    return dataclasses.replace(event, client_shares=clients)

  def _supports(self, claim: accounting.Sampling, clients: int | None) -> bool:
    """Whether a cohort of so many clients is one that `claim` speaks of."""
    if isinstance(claim, accounting.FixedSizeSampling):
      return clients == claim.cohort
    if isinstance(claim, accounting.PoissonSampling) and clients is not None:
      spec = self.aggregator.spec
      return (spec.min_contributors or 1) <= clients <= spec.max_shares
    return True

  def _check(
    self,
    clients: int | None,
    contributors: int | None,
    measured: Mapping[str, Any],
  ) -> None:
    """Raises `MeasurementError` if a constant is not that of the aggregator."""
    dimension = self.releases.dimension
    if dimension is None:
      return
    expected = {
      'dimension': dimension,
      'scale': self.aggregator.constants(dimension).scale,
      'effective_noise_multiplier': self._noise_multiplier(contributors),
    }
    for name, value in expected.items():
      if not math.isclose(float(measured[name]), value, rel_tol=_TOLERANCE):
        raise MeasurementError(
          f'The measured {name} must be {value:g}, that of the aggregator that'
          f' the run is charged by. Found {float(measured[name]):g}. Give the'
          ' recorder the aggregator that the process was built with.'
        )
    if None not in (clients, contributors) and contributors > clients:  # type: ignore[operator]
      raise MeasurementError(
        f'At most {clients} clients can have contributed. Found {contributors}.'
      )

  def _noise_multiplier(self, contributors: int | None) -> float:
    """Returns what 'effective_noise_multiplier' must be measured as."""
    assert self.releases.dimension is not None
    if contributors == 0 and self.aggregator.spec.cohorts == 'fixed':
      return 0.0
    event = self._event(None, contributors)
    shares = event.client_shares + event.server_shares
    return event.share_stddev * math.sqrt(shares) / event.l2_sensitivity
