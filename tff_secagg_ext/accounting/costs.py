# SPDX-License-Identifier: Apache-2.0
"""What an event costs: one pure function per kind of event and of noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
from typing import Any

import numpy as np

from tff_secagg_ext.accounting import (
  arrays,
  domination,
  exact,
  external_costs,
  nearness,
  renyi,
)
from tff_secagg_ext.accounting import events as events_lib
from tff_secagg_ext.accounting import external as external_lib

# Sensitivity over stddev beyond which no epsilon means anything.
_LARGEST_RATIO = 1e6
# Slack in nats, of one release, that no other accountant can better.
_NO_SLACK = 1e-9


def _no_divergences() -> arrays.FloatArray:
  return np.zeros(renyi.ORDERS.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Cost:
  """What is paid for releases without any amplification; costs add.

  It is said twice, and both hold: releases are dominated by a Gaussian with
  (sensitivity / stddev)^2 = `squared_ratio` within pointwise factors whose
  logarithms have a range of at most `slack`, for noise that is `near` theirs;
  and they have at most the Renyi divergences `divergences`.

  Attributes:
    squared_ratio: Sum of the squared ratios of the Gaussian releases.
    slack: Sum of their log-ranges, in nats; infinite if no Gaussian dominates.
    divergences: Sum of the Renyi divergences at renyi.ORDERS, in nats;
      infinite where no bound is known.
    near: How near the noise is to that for which `squared_ratio` and `slack`
      hold.
    reasons: Why the cost is infinite; empty if it is finite.
    waivers: What was released and is not in the cost.
  """

  squared_ratio: float = 0.0
  slack: float = 0.0
  divergences: arrays.FloatArray = dataclasses.field(
    default_factory=_no_divergences
  )
  near: nearness.Nearness = dataclasses.field(default_factory=nearness.Nearness)
  reasons: tuple[str, ...] = ()
  waivers: tuple[events_lib.Waiver, ...] = ()

  def __add__(self, other: Cost) -> Cost:
    return Cost(
      squared_ratio=self.squared_ratio + other.squared_ratio,
      slack=self.slack + other.slack,
      divergences=self.divergences + other.divergences,
      near=self.near + other.near,
      reasons=tuple(dict.fromkeys(self.reasons + other.reasons)),
      waivers=tuple(dict.fromkeys(self.waivers + other.waivers)),
    )

  def times(self, count: int) -> Cost:
    """Returns what `count` such releases cost together."""
    return Cost(
      squared_ratio=count * self.squared_ratio,
      slack=count * self.slack,
      divergences=count * self.divergences,
      near=self.near.times(count),
      reasons=self.reasons,
      waivers=self.waivers,
    )

  def amplified(self, probability: float) -> Cost:
    """Returns it with divergences under Poisson sampling.

    For one round's cost. All noises are symmetric, as `renyi.amplify` needs.
    """
    divergences = renyi.amplify(self.divergences, probability)
    return dataclasses.replace(self, divergences=divergences)


@dataclasses.dataclass(frozen=True)
class _Noise:
  """What protects a release in one view.

  Attributes:
    shares: The number of shares of noise.
    equal: Whether they are known to be equal; else some may be merged.
    sensitivity: The L2 distance of neighbouring sums, in integer units.
    layered: How many of the shares come with layers.
    layers: The variances of these.
  """

  shares: int
  equal: bool
  sensitivity: float
  layered: int = 0
  layers: tuple[float, ...] = ()

  def variance(self, share: float) -> float:
    """Returns the variance of all of it, for that of a share."""
    return self.shares * share + self.layered * math.fsum(self.layers)


def _distributed_dgauss(
  event: events_lib.NoisedSumEvent, noise: _Noise
) -> Cost:
  """Gaussian domination, and Renyi divergences (docs/accounting.md)."""
  variance = event.share_stddev**2
  shape = (variance, noise.shares, noise.layers, noise.layered)
  bound = domination.dominate_layered(*shape)
  slack = event.dimension * bound.log_range
  largest = _LARGEST_RATIO * math.sqrt(bound.variance)
  dominated = math.isfinite(slack) and noise.sensitivity <= largest
  divergences = renyi.discrete_gaussian_renyi(
    noise.sensitivity,
    noise.variance(variance),
    event.dimension,
    domination.layered_sum_range(*shape),
  )
  if noise.equal and slack > _NO_SLACK:
    divergences = np.minimum(
      divergences,
      exact.discrete_gaussian_renyi(noise.sensitivity, variance, noise.shares),
    )
  return Cost(
    squared_ratio=noise.sensitivity**2 / bound.variance if dominated else 0.0,
    slack=slack if dominated else math.inf,
    divergences=divergences,
  )


def _distributed_skellam(
  event: events_lib.NoisedSumEvent, noise: _Noise
) -> Cost:
  """A sum of Skellam noises, however merged, is Skellam; near a Gaussian."""
  variance = noise.variance(event.share_stddev**2)
  divergences = np.minimum(
    renyi.skellam_renyi(noise.sensitivity, variance, event.dimension),
    exact.skellam_renyi(noise.sensitivity, variance),
  )
  if variance < nearness.LEAST_VARIANCE:
    return Cost(slack=math.inf, divergences=divergences)
  bound = domination.dominate([variance])
  return Cost(
    squared_ratio=noise.sensitivity**2 / bound.variance,
    slack=event.dimension * bound.log_range,
    divergences=divergences,
    near=nearness.of_skellam(variance, event.dimension),
  )


_MECHANISMS: Mapping[
  str, Callable[[events_lib.NoisedSumEvent, _Noise], Cost]
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
  layered = event.client_shares
  if view == 'server':
    layered -= event.colluders
  noise = _Noise(
    shares=shares,
    equal=(view == 'server' or event.server_shares == 0)
    and not event.layer_stddevs,
    sensitivity=factor * event.l2_sensitivity,
    layered=layered if event.layer_stddevs else 0,
    layers=tuple(stddev**2 for stddev in event.layer_stddevs),
  )
  if noise.sensitivity > _LARGEST_RATIO * event.share_stddev * math.sqrt(
    shares
  ):
    return Cost(reasons=(_too_small(event, shares),))
  cost = _MECHANISMS[event.mechanism](event, noise)
  if math.isinf(cost.slack) and not np.isfinite(cost.divergences).any():
    return Cost(reasons=(_too_small(event, shares),))
  return cost


def _too_small(event: events_lib.NoisedSumEvent, shares: int) -> str:
  return (
    f'noise too small for any accountant: {shares} shares of stddev '
    f'{event.share_stddev:g} in integer units'
  )


def _central_gaussian(
  event: events_lib.CentralGaussianEvent, view: str, adjacency: str
) -> Cost:
  if view == 'server':
    return Cost(reasons=(f'{event.name} is noised by the server',))
  factor = 2.0 if adjacency == 'substitution' else 1.0
  sensitivity = factor * event.l2_sensitivity
  if sensitivity > _LARGEST_RATIO * event.stddev:
    return Cost(
      reasons=(f'no noise: {event.name}, of stddev {event.stddev:g}',)
    )
  squared_ratio = (sensitivity / event.stddev) ** 2
  return Cost(squared_ratio, divergences=renyi.ORDERS / 2.0 * squared_ratio)


def _seen_by_server(
  event: events_lib.SeenByServerEvent, view: str, adjacency: str
) -> Cost:
  del adjacency
  return Cost(reasons=event.reasons) if view == 'server' else Cost()


def _unaccounted(
  event: events_lib.UnaccountedEvent, view: str, adjacency: str
) -> Cost:
  del view, adjacency  # Infinite whoever looks.
  return Cost(reasons=event.reasons)


def _waiver(event: events_lib.Waiver, view: str, adjacency: str) -> Cost:
  del view, adjacency  # Told to everybody.
  return Cost(waivers=(event,))


def _external(
  event: external_lib.ExternalEvent, view: str, adjacency: str
) -> Cost:
  """Its sampling is its own: its divergences are amplified here already.

  The squared ratio is without sampling, so that it bounds it as well.
  """
  del adjacency  # `Round` admits one alone.
  total = Cost()
  for part in external_costs.parts(event, view):
    profile = part.profile
    one = Cost(
      squared_ratio=0.0 if profile is None else profile.m**2,
      slack=math.inf if profile is None else 0.0,
      divergences=part.divergences,
      reasons=(part.reason,) if part.reason else (),
    )
    total += one.times(part.count)
  return total


_EVENTS: Mapping[type[Any], Callable[[Any, str, str], Cost]] = {
  events_lib.NoisedSumEvent: _noised_sum,
  events_lib.CentralGaussianEvent: _central_gaussian,
  events_lib.SeenByServerEvent: _seen_by_server,
  events_lib.UnaccountedEvent: _unaccounted,
  events_lib.Waiver: _waiver,
  external_lib.ExternalEvent: _external,
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
  noise: squared ratios add, and so do Renyi divergences.
  """
  adjacency = a_round.sampling.adjacency
  costs = (event_cost(event, view, adjacency) for event in a_round.events)
  return sum(costs, Cost())
