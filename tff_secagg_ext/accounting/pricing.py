# SPDX-License-Identifier: Apache-2.0
"""Rounds in order, and what they cost together in each view."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import math

from tff_secagg_ext.accounting import costs, external_costs, pld, profiles
from tff_secagg_ext.accounting import events as events_lib
from tff_secagg_ext.accounting import sampling as sampling_lib


@dataclasses.dataclass(frozen=True, eq=False)
class Priced:
  """What a round costs.

  Attributes:
    release: In the release view, not amplified.
    server: In the server's view.
    profiles: The dominating pairs in the release view, each with how often it
      is in the round. An external round has no cohort: its own hold in the
      server's view as well.
  """

  release: costs.Cost
  server: costs.Cost
  profiles: tuple[tuple[profiles.Profile, int], ...]

  @property
  def sampled(self) -> bool:
    """Whether sampling amplifies any of its profiles."""
    return any(profile.q < 1.0 for profile, _ in self.profiles)

  def composed(
    self, composition: pld.Composition, count: int
  ) -> pld.Composition:
    """Returns the composition followed by `count` such rounds.

    In their order, so that one by one or many at once give the same numbers.
    """
    if len(self.profiles) == 1:
      ((profile, times),) = self.profiles
      return composition.then(profile, times * count)
    for profile, times in self.profiles * count:
      composition = composition.then(profile, times)
    return composition


_PROFILES = {
  (sampling_lib.NoSampling, 'zero_out'): 'poisson',
  (sampling_lib.NoSampling, 'substitution'): 'poisson',
  (sampling_lib.PoissonSampling, 'zero_out'): 'poisson',
  (sampling_lib.FixedSizeSampling, 'zero_out'): 'fixed',
  (sampling_lib.FixedSizeSampling, 'substitution'): 'substituted',
}


@functools.lru_cache(maxsize=1024)
def price(a_round: events_lib.Round) -> Priced:
  """Returns what a round costs, that is not of an epoch of allocation."""
  release = costs.round_cost(a_round, 'release')
  server = costs.round_cost(a_round, 'server')
  if a_round.external is not None:
    found = external_costs.parts(a_round.external, 'release')
    own = tuple((p.profile, p.count) for p in found if p.profile is not None)
    return Priced(release, server, own)
  sampling = a_round.sampling
  if release.squared_ratio == 0.0:
    return Priced(release, server, ())
  kind = _PROFILES[type(sampling), sampling.adjacency]
  ratio = math.sqrt(release.squared_ratio)
  profile = profiles.Profile(kind, ratio, sampling.rate)
  return Priced(release, server, ((profile, 1),))


@functools.lru_cache(maxsize=1024)
def _amplified(a_round: events_lib.Round) -> costs.Cost:
  """The cost in the release view, its divergences under Poisson sampling."""
  release, sampling = price(a_round).release, a_round.sampling
  if isinstance(sampling, sampling_lib.PoissonSampling):
    return release.amplified(sampling.rate)
  return release


_COSTS: Mapping[str, Callable[[events_lib.Round], costs.Cost]] = {
  'release': lambda a_round: price(a_round).release,
  'amplified': _amplified,
  'server': lambda a_round: price(a_round).server,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Rounds:
  """Rounds in order, as runs of equal ones; immutable.

  A sum of their costs is that of all runs but the last, which is kept, and of
  the last: it takes no longer the more rounds there are, and rounds that are
  added one by one are summed as if they came at once.

  Attributes:
    runs: Rounds with the number of consecutive ones.
    sampled: Whether sampling amplifies any of them.
    kept: By the name of the cost, the number of runs that are summed, and what
      they cost.
  """

  runs: tuple[tuple[events_lib.Round, int], ...] = ()
  sampled: bool = False
  kept: dict[str, tuple[int, costs.Cost]] = dataclasses.field(
    default_factory=dict
  )

  def then(self, a_round: events_lib.Round, count: int) -> Rounds:
    """Returns these rounds followed by `count` like `a_round`."""
    before, sampled = self.runs, self.sampled or price(a_round).sampled
    if before and before[-1][0] == a_round:
      before, count = before[:-1], before[-1][1] + count
    return Rounds((*before, (a_round, count)), sampled, dict(self.kept))

  def cost(self, name: str) -> costs.Cost:
    """Returns what all of them cost together.

    Args:
      name: 'release', without amplification; 'amplified', the same with its
        divergences under Poisson sampling; or 'server'.
    """
    if not self.runs:
      return costs.Cost()
    found = _COSTS[name]
    done, total = self.kept.get(name, (0, costs.Cost()))
    for a_round, count in self.runs[done:-1]:
      total += found(a_round).times(count)
    self.kept[name] = len(self.runs) - 1, total
    a_round, count = self.runs[-1]
    return total + found(a_round).times(count)

  def costed(self) -> Sequence[tuple[costs.Cost, int]]:
    """Returns what each distinct one costs the server, and how often it was."""
    counts: dict[events_lib.Round, int] = {}
    for a_round, count in self.runs:
      counts[a_round] = counts.get(a_round, 0) + count
    return [(price(a_round).server, n) for a_round, n in counts.items()]
