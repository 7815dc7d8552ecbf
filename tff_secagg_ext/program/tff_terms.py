# SPDX-License-Identifier: Apache-2.0
"""The terms on which rounds of TFF's own factories are charged."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from tff_secagg_ext import accounting
from tff_secagg_ext._compat import tff
from tff_secagg_ext._dropout_noise import DropoutNoise
from tff_secagg_ext.execution import Report
from tff_secagg_ext.program import tff_factories, tff_releases
from tff_secagg_ext.program.noised_sums import MeasurementError
from tff_secagg_ext.program.releases import Releases
from tff_secagg_ext.program.terms import Terms

# TFF computes in float32.
_TOLERANCE = 1e-5
CLIP_IS_UNKNOWN = 'the clip norm of a round is not known before it runs'
_ASSUMED = (
  'updates are finite numbers: TFF passes others on, or fails',
  'norms are as float32 arithmetic finds them',
)
_ASSUMED_OF = {
  'Central': (
    'noise in float32, of a generator that TensorFlow seeds with 32 bits a'
    ' process, is Gaussian noise'
  ),
  'Distributed': 'samplers in floating point draw from the laws they state',
}


class TffAggregation:
  """A factory of TFF, as a `PrivacyRecorder` takes it; see `recorded`."""

  def __init__(self, factory: Any):
    """Reads the factory.

    Raises:
      TypeError: If it is none of those that are known.
    """
    self._factory = factory
    self._read = tff_factories.read(factory)

  @property
  def noise(self) -> tff_factories.Mechanism:
    """Its mechanism, with TFF's numbers."""
    return self._read.noise

  @property
  def path(self) -> tuple[str, ...]:
    """Where in the state of the aggregator that of the mechanism is."""
    return self._read.path

  @property
  def settings(self) -> dict[str, Any]:
    """What a ledger is told, as JSON values: also what is taken for granted."""
    kind = type(self.noise).__name__
    assumed = [*_ASSUMED, *filter(None, [_ASSUMED_OF.get(kind)])]
    fields = dataclasses.asdict(self.noise)
    return {'tff': kind.lower(), **fields, 'assumed': assumed}

  def releases(
    self, process: tff.learning.templates.LearningProcess
  ) -> Releases:
    """Returns what leaves the clients of a process.

    Raises:
      ValueError: If it was not built with this factory.
    """
    tff_releases.check_built_with(process, self._factory)
    return tff_releases.of_process(process, self._read)


@dataclasses.dataclass(frozen=True)
class TffTerms(Terms):
  """How the rounds of a factory of TFF are charged.

  Edge cases, besides those of `Terms`:

  | what happened | how it is charged |
  | --- | --- |
  | the clip norm moved | with the numbers of that round |
  | a round that was lost | with the numbers of the state it began in |
  | that state cannot be read, such as a reference | infinite, by name |
  | fewer contributors than expected, distributed noise | with their noise |
  | fewer contributors than expected, the server's noise | with all of it |
  | a number that does not follow from the clip norm | `MeasurementError` |
  | the number of clients is released, under Poisson sampling | `ValueError` |
  """

  aggregator: TffAggregation  # type: ignore[assignment]

  def __post_init__(self) -> None:
    if self.metrics is not None:
      raise ValueError(
        '`metrics` must be None for a factory of TFF. Found noised ones. Build'
        ' the process with tff_secagg_ext.no_client_metrics, or with an'
        ' aggregator of this package.'
      )
    if isinstance(self.sampling, accounting.RandomAllocation):
      raise ValueError(
        '`sampling` must not be RandomAllocation for a factory of TFF, which'
        f' shows the size of a cohort. Found {self.sampling!r}. Use an'
        " aggregator of this package with cohorts='poisson'."
      )
    poisson = isinstance(self.sampling, accounting.PoissonSampling)
    if poisson and self.releases.counts:
      raise ValueError(
        '`sampling` must not be PoissonSampling where the number of clients is'
        f' released, by {list(self.releases.counts)}. Found {self.sampling!r}.'
        ' Claim FixedSizeSampling, or use a factory that releases no count.'
      )

  @staticmethod
  def failures(sampling: accounting.Sampling, delta: float) -> float:
    """Returns 0: cohorts have no bounds."""
    del sampling, delta
    return 0.0

  @property
  def _exact_noises(self) -> list[DropoutNoise]:
    """None: TFF's noise has no layers."""
    return []

  def evidence(self, output: Any) -> Any:
    """Returns the aggregator's measurements and state, as they are after."""
    return {
      'measurements': output.metrics['aggregator'],
      'state': output.state.aggregator,
    }

  def measured(self, evidence: Any) -> dict[str, Any]:
    """Returns the numbers of a round that its cost is computed from."""
    state = tff_factories.at(evidence['state'], *self.aggregator.path)
    return self.aggregator.noise.measured(
      state, _measurements(evidence['measurements'])
    )

  def planned(
    self, clients: int | None, claim: accounting.Sampling, state: Any = None
  ) -> accounting.Round:
    """Returns what a round costs that begins in `state`, before it runs."""
    if state is not None:
      # What cannot be read is not None either.
      state = tff_factories.at(state, 'aggregator', *self.aggregator.path) or ()
    dimension = self.releases.dimension or 1
    numbers = self.aggregator.noise.planned(dimension, state)
    if numbers is None:
      unknown = accounting.UnaccountedEvent((CLIP_IS_UNKNOWN,))
      return self._round((unknown,), clients, claim)
    contributors = self._expected_contributors(clients)
    return self._cost(numbers, clients, contributors, claim)

  def happened(
    self,
    clients: int | None,
    claim: accounting.Sampling,
    measured: Mapping[str, Any],
    session: Report | None = None,
  ) -> accounting.Round:
    """Returns what a round cost, once it has run; see `Terms.happened`."""
    dimension = self.releases.dimension
    if dimension is None:
      return self._round((), clients, claim)
    contributors = clients if session is None else session.survivors
    if tff_factories.COUNT in measured:
      contributors = _counted(measured[tff_factories.COUNT], contributors)
    expected = self.aggregator.noise.expected(dimension, measured)
    _check(measured, expected)
    return self._cost(measured, clients, contributors, claim)

  def affords(self, rounds: int) -> bool:
    """Whether delta pays for cohorts out of bounds: there are no bounds."""
    del rounds
    return True

  def _cost(
    self,
    numbers: Mapping[str, float],
    clients: int | None,
    contributors: int | None,
    claim: accounting.Sampling,
  ) -> accounting.Round:
    noise = self.aggregator.noise
    if self.releases.dimension is None:
      return self._round((), clients, claim)
    if isinstance(noise, tff_factories.Distributed):
      if contributors is None:
        contributors = noise.expected_clients
      if contributors == 0:
        claim = accounting.NoSampling(claim.adjacency)
        return self._round((), clients, claim)
    colluders = 0
    if self.options is not None:
      colluders = self.options.colluders(clients or contributors or 0)
    events = noise.events(numbers, contributors or 0, colluders)
    return self._round(events, clients, claim)

  def _supports(self, claim: accounting.Sampling, clients: int | None) -> bool:
    if isinstance(claim, accounting.FixedSizeSampling):
      return clients == claim.cohort
    return True


def _measurements(metrics: Any) -> Any:
  """Returns those of the mechanism, within those of what is wrapped around."""
  while isinstance(metrics, Mapping) and tff_factories.COUNT not in metrics:
    inner = [value for value in metrics.values() if isinstance(value, Mapping)]
    metrics = inner[0] if inner else None
  return metrics


def _counted(found: float, summed: int | None) -> int:
  if not found >= 0 or (summed is not None and found > summed):
    raise MeasurementError(
      f'At most {summed} clients can have contributed. Found {found:g}.'
    )
  return int(found)


def _check(
  measured: Mapping[str, float], expected: Mapping[str, float]
) -> None:
  """Raises `MeasurementError` if a number is not what TFF computes."""
  if not expected:
    raise MeasurementError(
      f'The clip norm must be above 0 and finite. Found {dict(measured)}. A'
      ' value that is not finite may have been aggregated.'
    )
  for name, value in expected.items():
    if not math.isclose(measured[name], value, rel_tol=_TOLERANCE):
      raise MeasurementError(
        f'The measured {name} must be {value:g}, that of the factory that the'
        f' run is charged by. Found {measured[name]:g}. Give `recorded` the'
        ' factory that the process was built with.'
      )
