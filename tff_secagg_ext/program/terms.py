# SPDX-License-Identifier: Apache-2.0
"""The terms on which rounds are charged: from what happened to a charge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
from typing import Any

from tff_secagg_ext import accounting, aggregators
from tff_secagg_ext._dropout_noise import DropoutNoise
from tff_secagg_ext.execution import Report, RoundAborted, SecureOptions
from tff_secagg_ext.metrics import NOISED_SUM
from tff_secagg_ext.program import releases as releases_lib
from tff_secagg_ext.program.hidden_cohorts import HiddenCohorts
from tff_secagg_ext.program.noised_sums import (
  MeasurementError,
  NoisedSum,
  check_same_clients,
)

# The share of delta that pays for cohorts of hidden size out of their bounds.
COHORTS_SHARE_OF_DELTA = 0.01
# What may be claimed of cohorts whose size is hidden.
HIDDEN_SIZE = (accounting.PoissonSampling, accounting.RandomAllocation)
SIMULATED_SUMS = (
  'simulated: the vectors of the clients are added in the clear, inside one'
  ' process'
)


def sums(options: SecureOptions | None) -> Any:
  """Returns how vectors are summed, as a ledger is told.

  Args:
    options: Of the secure context; `None` where there is none.
  """
  return SIMULATED_SUMS if options is None else options.settings


def failures(sampling: accounting.Sampling, delta: float) -> float:
  """Returns the part of delta that pays for cohorts out of their bounds."""
  hidden = isinstance(sampling, HIDDEN_SIZE)
  return COHORTS_SHARE_OF_DELTA * delta if hidden else 0.0


@dataclasses.dataclass(frozen=True)
class Terms:
  """How the rounds of a run are charged.

  Edge cases, all of which fail closed:

  | what happened | how it is charged |
  | --- | --- |
  | a cohort of another size than `FixedSizeSampling` says | no sampling |
  | a cohort whose size is not known, under `FixedSizeSampling` | no sampling |
  | the aggregator aborted, or will: cohort out of bounds | no sampling |
  | more rounds than Poisson or allocated cohorts may fail in | no sampling |
  | any of these to a round of an epoch of random allocation | all its epoch |
  | fewer contributors than expected | with the noise that was there |
  | a session that ended before any mask was taken off | nothing |
  | a session that ended later | in full, no sampling |
  | clients that may collude with the server | their noise protects nothing |
  | canaries, which the coordinator runs | the same, and they collude |
  | nobody contributed | nothing |
  | something else left the clients | infinite, by name |
  | something that is waived left the clients | nothing; epsilon names it |
  | measurements contradict the aggregator | `MeasurementError`; infinite |
  | vectors were not summed as the run says | `MeasurementError`; infinite |
  | noise to be exact after dropouts, and no layers | the same |

  Attributes:
    aggregator: The aggregator of the process.
    releases: What leaves the clients in a round.
    sampling: What is claimed of the cohorts.
    population: The number of clients; `None` if it is not known.
    allowed_failures: The probability, part of delta, with which cohorts of
      hidden size may leave their bounds, all rounds together.
    options: Of the secure context that the rounds run in; `None` where TFF
      adds the vectors in the clear. At most the fraction of a cohort that they
      state drops out, and at most the one that they state colludes.
    metrics: The aggregator of the noised metrics, if there are any.
    waivers: What else leaves the clients and is not charged; not in `releases`.
    canaries: How many clients that the coordinator runs take part in every
      round beside those that are drawn; `clients`, below, does not count them.
      They are summed as others are, and the server knows their noise.
  """

  aggregator: aggregators.DdpSecureAggregationFactory
  releases: releases_lib.Releases
  sampling: accounting.Sampling
  population: int | None
  allowed_failures: float
  options: SecureOptions | None = None
  metrics: aggregators.DdpSecureAggregationFactory | None = None
  waivers: tuple[accounting.Waiver, ...] = ()
  canaries: int = 0

  def __post_init__(self) -> None:
    if self.metrics is not None:
      check_same_clients(self.aggregator, self.metrics)
    self._check_population()
    self._check_exact_noise()
    if not isinstance(self.sampling, HIDDEN_SIZE):
      return
    spec, claim = self.aggregator.spec, type(self.sampling).__name__
    if spec.cohorts != 'poisson':
      raise ValueError(
        f"`sampling` must not be {claim} for cohorts='fixed', which"
        f' makes the number of clients public. Found {self.sampling!r}. Make'
        " the aggregator with cohorts='poisson'."
      )
    if not self.affords(1):
      raise ValueError(
        f'Cohorts of {claim} with probability {self.sampling.rate:g} must'
        f' stay between {spec.min_contributors} and {spec.max_contributors}'
        f' clients. Found that one leaves them with probability'
        f' {self.hidden.failures:.2g}, above the {self.allowed_failures:.2g}'
        f' that delta affords{self.hidden.with_dropouts}. Widen'
        ' min_contributors and max_contributors; see'
        ' accounting.poisson_cohort_bounds and allocated_cohort_bounds.'
      )

  @staticmethod
  def failures(sampling: accounting.Sampling, delta: float) -> float:
    """Returns the part of delta that pays for cohorts out of their bounds."""
    return failures(sampling, delta)

  @functools.cached_property
  def noised_sums(self) -> tuple[NoisedSum, ...]:
    """The noised vectors of a round."""
    found = self.releases
    sums = []
    if found.dimension is not None:
      sums.append(NoisedSum(self.aggregator, found.dimension))
    if found.metrics_dimension is not None and self.metrics is not None:
      prefix = f'{NOISED_SUM}.'
      sums.append(NoisedSum(self.metrics, found.metrics_dimension, prefix))
    return tuple(sums)

  def evidence(self, output: Any) -> Any:
    """Returns that part of a round's output that tells what it cost."""
    return output.metrics

  def measured(self, evidence: Any) -> dict[str, Any]:
    """Returns the measurements that are recorded, public or noised, by name."""
    return releases_lib.find_measurements(evidence)

  def affords(self, rounds: int) -> bool:
    """Whether delta pays for cohorts out of bounds in so many rounds."""
    return rounds * self.hidden.failures <= self.allowed_failures

  def planned(
    self, clients: int | None, claim: accounting.Sampling, state: Any = None
  ) -> accounting.Round:
    """Returns what a round is expected to cost, before it runs.

    Args:
      clients: How many clients it will run with; `None` if that is not known.
      claim: What is claimed of how they were chosen.
      state: Of the process before the round; `None` for the initial one. The
        cost of our aggregators does not depend on it.

    Raises:
      ValueError: If it has more clients than there are.
    """
    del state
    contributors = self._expected_contributors(clients)
    return self._charge(clients, contributors, claim, aborted=False)

  def _expected_contributors(self, clients: int | None) -> int | None:
    most = self.population
    if clients is not None and most is not None and clients > most:
      raise ValueError(
        f'A round must have at most the {most} clients of the'
        f' population. Found {clients}. Somebody is there twice, and counts'
        ' twice in the sum: give each client once.'
      )
    contributors = self._with_canaries(clients)
    if contributors is not None and self.options is not None:
      contributors = self.options.least_contributors(contributors)
    return contributors

  def _with_canaries(self, clients: int | None) -> int | None:
    return None if clients is None else clients + self.canaries

  @property
  def usual(self) -> accounting.Round:
    """What a round is reserved at whose cohort is as the run claims."""
    sampling = self.sampling
    clients = None
    if isinstance(sampling, accounting.FixedSizeSampling):
      clients = sampling.cohort
    return self.planned(clients, sampling)

  def aborted(
    self, charge: accounting.Round, error: RoundAborted
  ) -> accounting.Round:
    """Returns what a round cost whose session ended without a sum.

    Args:
      charge: What it was reserved at.
      error: How it ended.
    """
    claim = accounting.unclaimed(charge.sampling)
    return accounting.Round(() if error.nothing_left else charge.events, claim)

  def happened(
    self,
    clients: int | None,
    claim: accounting.Sampling,
    measured: Mapping[str, Any],
    session: Report | None = None,
  ) -> accounting.Round:
    """Returns what a round cost, once it has run.

    Args:
      clients: How many clients it ran with; `None` if that is not known.
      claim: What is claimed of how they were chosen.
      measured: The aggregator's measurements; empty if it has none.
      session: How their vectors were summed; `None` in the clear.

    Raises:
      MeasurementError: If they contradict the aggregator.
    """
    summed = self._with_canaries(clients)
    if session is not None:
      summed = session.survivors
    if not measured:
      return self._charge(clients, summed, claim, aborted=False)
    each = [(noised, noised.measured(measured)) for noised in self.noised_sums]
    counts = [found.get('contributors', summed) for _, found in each]
    if len(set(counts)) > 1:
      raise MeasurementError(
        'The sums of a round must have the same contributors. Found'
        f' {counts}. A part of the clients may have sent a part of it.'
      )
    contributors = summed if not counts or counts[0] is None else int(counts[0])
    aborted = any(bool(found.get('aborted', True)) for _, found in each)
    charge = self._charge(clients, contributors, claim, aborted, summed)
    for noised, found in each:
      noised.check(summed, contributors, found)
    return charge

  def check_session(self, sessions: Sequence[Report]) -> Report | None:
    """Returns how the vectors of a round were summed; `None` in the clear.

    Args:
      sessions: The reports of the sessions that the round has run.

    Raises:
      MeasurementError: If it was not in one session, of the threat class that
        the run says.
    """
    expected = []
    if self.options is not None:
      plain = self.options.protocol == 'plain'
      expected = ['plain' if plain else self.options.security.threat]
    released = (self.releases.dimension, self.releases.metrics_dimension)
    if released == (None, None) and not sessions:
      return None
    found = [session.threat for session in sessions]
    if found != expected:
      raise MeasurementError(
        'The vectors of a round must be summed as the run says, in sessions of'
        f' the classes {expected}. Found {found}. Make the recorder in the'
        ' context that its rounds run in.'
      )
    for noise in self._exact_noises:
      if noise not in sessions[0].noise:
        raise MeasurementError(
          f'The noise of a sum must be exact after dropouts: {noise}. Found a'
          f' session with {list(sessions[0].noise)}. Make the context with the'
          ' `dropout_noise` of the aggregator.'
        )
    return sessions[0] if sessions else None

  @property
  def _exact_noises(self) -> list[DropoutNoise]:
    """The noises that are charged as exact after dropouts."""
    noises = [noised.dropout_noise for noised in self.noised_sums]
    return [noise for noise in noises if noise is not None]

  @functools.cached_property
  def hidden(self) -> HiddenCohorts:
    """The cohorts, where their size is hidden, and their bounds."""
    return HiddenCohorts(
      self.sampling,
      self.aggregator.spec,
      self.population,
      self.options,
      self.canaries,
    )

  def _charge(
    self,
    clients: int | None,
    contributors: int | None,
    claim: accounting.Sampling,
    aborted: bool,
    summed: int | None = None,
  ) -> accounting.Round:
    nothing = contributors == 0
    events: list[accounting.Event] = []
    if not nothing:
      took_part = self._with_canaries(clients)
      events.extend(
        self._told(noised.event(took_part, contributors, self.options, summed))
        for noised in self.noised_sums
      )
      events.extend(self._exposed(took_part))
    if aborted or nothing:
      claim = accounting.unclaimed(claim)
    return self._round(events, clients, claim)

  def _told(self, event: accounting.NoisedSumEvent) -> accounting.Event:
    """Returns the event with canaries among those whose noise is known.

    Beside the colluders that the aggregator states; among those that the
    secure context does, which are all that the protocol bears.
    """
    known = self.aggregator.spec.max_colluders + self.canaries
    colluders = max(event.colluders, known)
    return dataclasses.replace(event, colluders=colluders)

  def _exposed(self, clients: int | None) -> Iterator[accounting.Event]:
    """Yields what more colluders than the protocol bears may see."""
    options, spec = self.options, self.aggregator.spec
    if not self.canaries or options is None or options.protocol == 'plain':
      return
    if clients is None or spec.cohorts == 'poisson':
      # What is told of a hidden cohort is the same for all of them.
      clients = spec.min_contributors or spec.expected_clients_per_round
    most = options.colluders(clients)
    if self.canaries > most:
      yield accounting.SeenByServerEvent(
        (
          f'single updates: the coordinator runs {self.canaries} canaries, and'
          f' the protocol is secure against {most} colluders',
        )
      )

  def _round(
    self,
    events: Sequence[accounting.Event],
    clients: int | None,
    claim: accounting.Sampling,
  ) -> accounting.Round:
    """Returns a round of noised releases, and of all that is not noised."""
    besides: list[accounting.Event] = []
    if self.releases.unaccounted:
      reasons = self.releases.unaccounted
      besides.append(accounting.UnaccountedEvent(reasons))
    if self.releases.seen_by_server:
      reasons = self.releases.seen_by_server
      besides.append(accounting.SeenByServerEvent(reasons))
    besides.extend(self.waivers)
    if not self._supports(claim, clients):
      claim = accounting.unclaimed(claim)
    return accounting.Round(
      (*events, *besides) if clients != 0 else tuple(events), claim
    )

  def _supports(self, claim: accounting.Sampling, clients: int | None) -> bool:
    """Whether a cohort of so many clients is one that `claim` speaks of."""
    if isinstance(claim, accounting.FixedSizeSampling):
      return clients == claim.cohort
    if isinstance(claim, HIDDEN_SIZE) and clients is not None:
      return self.hidden.contain(clients)
    return True

  def _check_population(self) -> None:
    """Raises `ValueError` if the sampling is from another population."""
    sampling = self.sampling
    if (
      isinstance(sampling, accounting.FixedSizeSampling)
      and self.population is not None
      and self.population != sampling.population
    ):
      raise ValueError(
        f'`sampling` must be from the {self.population} clients of the run.'
        f' Found {sampling!r}. Give both the same population.'
      )

  def _check_exact_noise(self) -> None:
    """Raises `ValueError` if noise is not kept exact that is said to be."""
    given = () if self.options is None else self.options.dropout_noise
    for noise in self._exact_noises:
      if noise not in given:
        raise ValueError(
          'The secure context must be told of the noise of an aggregator with'
          f' `exact_noise`: {noise}. Found'
          f' {list(given) if self.options else "no secure context"}. Make it'
          ' with SecureOptions(dropout_noise=[aggregator.dropout_noise('
          f'{noise.dimension})]).'
        )
