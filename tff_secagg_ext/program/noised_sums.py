# SPDX-License-Identifier: Apache-2.0
"""A noised vector of a round: what it costs, and whether it is what it says."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any

from tff_secagg_ext import accounting, aggregators
from tff_secagg_ext._dropout_noise import DropoutNoise
from tff_secagg_ext.execution import SecureOptions

# Constants are measured in float32.
_TOLERANCE = 1e-5


class MeasurementError(Exception):
  """What a round measured contradicts the aggregator that it is charged by.

  The round must not be released; nobody can say what it would release.
  """


@dataclasses.dataclass(frozen=True)
class NoisedSum:
  """One vector that is summed over the clients of a round, with noise.

  Attributes:
    aggregator: How it is noised.
    dimension: Its coordinates.
    prefix: What the names of its measurements begin with.
  """

  aggregator: aggregators.DdpSecureAggregationFactory
  dimension: int
  prefix: str = ''

  def measured(self, measurements: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns those of all measurements that are about this vector."""
    start = len(self.prefix)
    return {
      name[start:]: value
      for name, value in measurements.items()
      if name.startswith(self.prefix) and '.' not in name[start:]
    }

  @functools.cached_property
  def dropout_noise(self) -> DropoutNoise | None:
    """The noise that is exact in it after dropouts; `None` without."""
    if not self.aggregator.spec.exact_noise:
      return None
    return self.aggregator.dropout_noise(self.dimension)

  def event(
    self,
    clients: int | None,
    contributors: int | None,
    options: SecureOptions | None,
    summed: int | None = None,
  ) -> accounting.NoisedSumEvent:
    """Returns what it releases.

    Args:
      clients: How many clients the round had; `None` if that is not known.
      contributors: How many of them are in the sum, as far as is known.
      options: Of the secure context; `None` where there is none.
      summed: How many vectors the protocol has summed, by which it has left or
        taken off layers of noise; `None`: those of the contributors.
    """
    spec = self.aggregator.spec
    poisson = spec.cohorts == 'poisson'
    event = self.aggregator.event(
      self.dimension, None if poisson else contributors
    )
    if poisson:
      clients = spec.max_shares  # Their true number is hidden.
      if contributors is not None and contributors < event.client_shares:
        # Too few, which the abort makes known anyway.
        event = dataclasses.replace(event, client_shares=contributors)
    if options is None:
      return event
    if summed is not None and self.dropout_noise is not None:
      layers = self.aggregator.event(self.dimension, summed).layer_stddevs
      event = dataclasses.replace(event, layer_stddevs=layers)
    if clients is None:
      clients = spec.max_shares
    colluders = max(event.colluders, options.colluders(clients))
    return dataclasses.replace(event, colluders=colluders)

  def check(
    self,
    summed: int | None,
    contributors: int | None,
    measured: Mapping[str, Any],
  ) -> None:
    """Raises `MeasurementError` if a constant is not that of the aggregator.

    Args:
      summed: How many vectors are in the sum, at most.
      contributors: How many the sum itself has counted.
      measured: The measurements of this vector.
    """
    expected = {
      'dimension': self.dimension,
      'scale': self.aggregator.constants(self.dimension).scale,
      'effective_noise_multiplier': self._noise_multiplier(contributors),
    }
    for name, value in expected.items():
      found = float(measured.get(name, math.nan))
      if not math.isclose(found, value, rel_tol=_TOLERANCE):
        raise MeasurementError(
          f'The measured {self.prefix}{name} must be {value:g}, that of the'
          f' aggregator that the run is charged by. Found {found:g}. Give the'
          ' recorder the aggregator that the process was built with.'
        )
    if None not in (summed, contributors) and contributors > summed:  # type: ignore[operator]
      raise MeasurementError(
        f'At most {summed} clients can have contributed. Found {contributors}.'
      )

  def _noise_multiplier(self, contributors: int | None) -> float:
    """Returns what 'effective_noise_multiplier' must be measured as."""
    poisson = self.aggregator.spec.cohorts == 'poisson'
    if contributors == 0 and not poisson:
      return 0.0
    event = self.aggregator.event(
      self.dimension, None if poisson else contributors
    )
    shares = event.client_shares + event.server_shares
    return event.share_stddev * math.sqrt(shares) / event.l2_sensitivity


def check_same_clients(
  model: aggregators.DdpSecureAggregationFactory,
  metrics: aggregators.DdpSecureAggregationFactory,
) -> None:
  """Raises `ValueError` if metrics and model are not of the same cohorts."""
  for name in ('cohorts', 'min_contributors', 'max_contributors'):
    found = getattr(metrics.spec, name)
    expected = getattr(model.spec, name)
    if found != expected:
      raise ValueError(
        f'The {name} of the noised metrics must be {expected!r}, as for the'
        f' model, whose clients they come of. Found {found!r}. Make both'
        ' aggregators with the same numbers of clients.'
      )
