# SPDX-License-Identifier: Apache-2.0
"""What an event costs: one pure function per kind of event and of noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
from typing import Any

from tff_secagg_ext.accounting import arrays, domination, renyi
from tff_secagg_ext.accounting import events as events_lib

# Sensitivity over stddev beyond which no epsilon means anything.
_LARGEST_RATIO = 1e6


@dataclasses.dataclass(frozen=True, eq=False)
class Cost:
  """What is paid for releases without any amplification; costs add.

  A release is dominated by a Gaussian with (sensitivity / stddev)^2 =
  `squared_ratio` within pointwise factors whose logarithms have a range of at
  most `slack`, by Renyi divergences `divergences`, or by nothing (`reasons`).

  Attributes:
    squared_ratio: Sum of the squared ratios of the Gaussian releases.
    slack: Sum of their log-ranges, in nats.
    divergences: Sum of the Renyi divergences of the others at renyi.ORDERS, in
      nats; None if there are none.
    reasons: Why the cost is infinite; empty if it is finite.
    waivers: What was released and is not in the cost.
  """

  squared_ratio: float = 0.0
  slack: float = 0.0
  divergences: arrays.FloatArray | None = None
  reasons: tuple[str, ...] = ()
  waivers: tuple[events_lib.Waiver, ...] = ()

  def __add__(self, other: Cost) -> Cost:
    parts = [d for d in (self.divergences, other.divergences) if d is not None]
    return Cost(
      squared_ratio=self.squared_ratio + other.squared_ratio,
      slack=self.slack + other.slack,
      divergences=sum(parts[1:], parts[0]) if parts else None,
      reasons=tuple(dict.fromkeys(self.reasons + other.reasons)),
      waivers=tuple(dict.fromkeys(self.waivers + other.waivers)),
    )

  def times(self, count: int) -> Cost:
    """Returns what `count` such releases cost together."""
    divergences = self.divergences
    return Cost(
      squared_ratio=count * self.squared_ratio,
      slack=count * self.slack,
      divergences=None if divergences is None else count * divergences,
      reasons=self.reasons,
      waivers=self.waivers,
    )


def _distributed_dgauss(
  event: events_lib.NoisedSumEvent, shares: int, sensitivity: float
) -> Cost:
  """Gaussian domination (docs/accounting.md) of a sum of equal shares."""
  variance = event.share_stddev**2
  bound = domination.dominate_equal(variance, shares)
  usable = math.isfinite(bound.log_range)
  if not usable or sensitivity > _LARGEST_RATIO * math.sqrt(bound.variance):
    return Cost(
      reasons=(
        f'noise too small for Gaussian domination: {shares} shares of '
        f'stddev {event.share_stddev:g} in integer units',
      )
    )
  return Cost(
    squared_ratio=sensitivity**2 / bound.variance,
    slack=event.dimension * bound.log_range,
  )


def _distributed_skellam(
  event: events_lib.NoisedSumEvent, shares: int, sensitivity: float
) -> Cost:
  """[AKL21, Thm 3.5]; a sum of Skellam shares is Skellam."""
  return Cost(
    divergences=renyi.skellam_renyi(
      sensitivity, shares * event.share_stddev**2, event.dimension
    )
  )


_MECHANISMS: Mapping[
  str, Callable[[events_lib.NoisedSumEvent, int, float], Cost]
] = {
  'distributed_dgauss': _distributed_dgauss,
  'distributed_skellam': _distributed_skellam,
}


def _noised_sum(
  event: events_lib.NoisedSumEvent, view: str, adjacency: str
) -> Cost:
  shares = event.client_shares
  counted = f'{event.client_shares} client shares'
  if view == 'release':
    shares += event.server_shares
    counted += f' and {event.server_shares} of the server'
  else:
    shares -= event.colluders
    counted += f' less {event.colluders} colluders'
  if shares <= 0 or event.share_stddev == 0.0:
    return Cost(
      reasons=(f'no noise: {counted}, of stddev {event.share_stddev:g} each',)
    )
  # Substituting a vector moves the sum by up to twice the norm bound.
  factor = 2.0 if adjacency == 'substitution' else 1.0
  return _MECHANISMS[event.mechanism](
    event, shares, factor * event.l2_sensitivity
  )


def _unaccounted(
  event: events_lib.UnaccountedEvent, view: str, adjacency: str
) -> Cost:
  del view, adjacency  # Infinite whoever looks.
  return Cost(reasons=event.reasons)


def _waiver(event: events_lib.Waiver, view: str, adjacency: str) -> Cost:
  del view, adjacency  # Told to everybody.
  return Cost(waivers=(event,))


_EVENTS: Mapping[type[Any], Callable[[Any, str, str], Cost]] = {
  events_lib.NoisedSumEvent: _noised_sum,
  events_lib.UnaccountedEvent: _unaccounted,
  events_lib.Waiver: _waiver,
}


@functools.lru_cache(maxsize=1024)
def event_cost(event: events_lib.Event, view: str, adjacency: str) -> Cost:
  """Returns what `event` costs in `view`, without any amplification.

  Args:
    event: The event.
    view: 'release' or 'server'.
    adjacency: 'zero_out' or 'substitution'.
  """
  return _EVENTS[type(event)](event, view, adjacency)


def round_cost(a_round: events_lib.Round, view: str) -> Cost:
  """Returns what all events of a round cost in `view`, not amplified.

  The vectors of a client in all events are one vector, each part scaled by its
  noise: squared ratios add.
  """
  adjacency = a_round.sampling.adjacency
  costs = (event_cost(event, view, adjacency) for event in a_round.events)
  return sum(costs, Cost())
