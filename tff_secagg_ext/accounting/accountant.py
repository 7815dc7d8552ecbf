# SPDX-License-Identifier: Apache-2.0
"""Epsilon of a run, in the release view and in the server view."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import dataclasses
import functools
import itertools
import math

import numpy as np

from tff_secagg_ext import _validate
from tff_secagg_ext.accounting import (
  conversion,
  costs,
  external_costs,
  pld,
  profiles,
)
from tff_secagg_ext.accounting import events as events_lib
from tff_secagg_ext.accounting import sampling as sampling_lib
from tff_secagg_ext.accounting.conversion import Epsilon

VIEWS: tuple[str, ...] = ('release', 'server')


@dataclasses.dataclass(frozen=True, eq=False)
class _Priced:
  """A distinct round, its costs in both views, and how often it happened.

  Its profiles, each with how often it is in a round, are those of the release
  view. An external one has no cohort: they hold in the server's view, too.
  """

  release: costs.Cost
  server: costs.Cost
  profiles: tuple[tuple[profiles.Profile, int], ...]
  external: bool
  count: int = 0

  @property
  def sampled(self) -> bool:
    return any(profile.q < 1.0 for profile, _ in self.profiles)


_PROFILES = {
  (sampling_lib.NoSampling, 'zero_out'): 'poisson',
  (sampling_lib.NoSampling, 'substitution'): 'poisson',
  (sampling_lib.PoissonSampling, 'zero_out'): 'poisson',
  (sampling_lib.FixedSizeSampling, 'zero_out'): 'fixed',
  (sampling_lib.FixedSizeSampling, 'substitution'): 'substituted',
}


@functools.lru_cache(maxsize=1024)
def _price(a_round: events_lib.Round) -> _Priced:
  release = costs.round_cost(a_round, 'release')
  server = costs.round_cost(a_round, 'server')
  if a_round.external is not None:
    found = external_costs.parts(a_round.external, 'release')
    own = tuple((p.profile, p.count) for p in found if p.profile is not None)
    return _Priced(release, server, own, external=True)
  sampling, own = a_round.sampling, ()
  if isinstance(sampling, sampling_lib.PoissonSampling):
    release = release.amplified(sampling.rate)
  if release.squared_ratio > 0.0:
    kind = _PROFILES[type(sampling), sampling.adjacency]
    ratio = math.sqrt(release.squared_ratio)
    own = ((profiles.Profile(kind, ratio, sampling.rate), 1),)
  return _Priced(release, server, own, external=False)


class Accountant:
  """The account of a run, one round after the other. Immutable.

  Guarantees:
    - gives exactly the numbers of `release_epsilon` and `server_epsilon` for
      the same rounds in the same order;
    - `with_round` returns a new account and leaves this one as it was, so that
      a round's cost can be seen before it is spent;
    - reading takes a few milliseconds whatever the number of rounds; what
      grows is the number of *distinct* rounds.

  Attributes:
    delta: The delta that both views' epsilons are for.
    rounds: The number of rounds so far.
  """

  def __init__(self, delta: float):
    """Starts an account with nothing spent.

    Args:
      delta: In (0, 1): what is left of the run's delta once other failure
        probabilities are taken off (see `poisson_cohort_bounds`).
    """
    self.delta = _validate.check_float(
      delta,
      'delta',
      minimum=0.0,
      maximum=1.0,
      exclusive=True,
      remedy='Usually it is below one over the population.',
    )
    self.rounds = 0
    self._adjacency: str | None = None
    self._priced: dict[events_lib.Round, _Priced] = {}
    self._composition = pld.Composition()
    # Of what is external alone, for the server's view.
    self._external = pld.Composition()

  def with_round(self, a_round: events_lib.Round, count: int = 1) -> Accountant:
    """Returns the account after `count` more rounds like `a_round`.

    Raises:
      TypeError: If `a_round` is not a Round.
      ValueError: If its adjacency relation is not that of earlier rounds.
    """
    if not isinstance(a_round, events_lib.Round):
      raise TypeError(
        f'`a_round` must be a Round. Found {a_round!r}. Say how its cohort '
        'was formed: Round(events=(event,), sampling=NoSampling()).'
      )
    count = _validate.check_int(count, 'count', minimum=1)
    adjacency = a_round.sampling.adjacency
    if self._adjacency not in (None, adjacency):
      raise ValueError(
        f'All rounds must have the adjacency {self._adjacency!r} of the '
        f'first. Found {adjacency!r}. Two relations do not compose: keep '
        'one account for each.'
      )
    priced = self._priced.get(a_round) or _price(a_round)
    result = Accountant(self.delta)
    result.rounds = self.rounds + count
    result._adjacency = adjacency
    result._priced = {
      **self._priced,
      a_round: dataclasses.replace(priced, count=priced.count + count),
    }
    result._composition = _then(self._composition, priced, count)
    result._external = self._external
    if priced.external:
      result._external = _then(self._external, priced, count)
    return result

  def release(self) -> Epsilon:
    """Returns the epsilon towards whoever sees models and metrics.

    All rounds are composed, each amplified by its cohort's sampling; noise too
    small for Gaussian domination by Poisson sampling alone.
    """
    rounds = list(self._priced.values())
    total = _sum((r.release, r.count) for r in rounds)
    sampled = any(r.sampled for r in rounds)
    return conversion.best(
      total, self.delta, self._composition if sampled else None
    )

  def server(self, max_participations: int | None = None) -> Epsilon:
    """Returns the epsilon towards the server, which knows who took part.

    Args:
      max_participations: The most rounds of this run that any client took
        part in, at least 0; None for all of them. The worst ones count, and
        all that is external.
    """
    rounds = list(self._priced.values())
    costed = [(r.server, r.count) for r in rounds if not r.external]
    if max_participations is None:
      total = _sum(costed)
    else:
      limit = _validate.check_int(
        max_participations, 'max_participations', minimum=0
      )
      total = _worst(costed, limit)
    composition = None
    if any(r.external and r.sampled for r in rounds):
      composition = self._external
      if total.squared_ratio > 0.0:
        ratio = math.sqrt(total.squared_ratio)
        composition = composition.then(profiles.Profile('poisson', ratio, 1.0))
    total += _sum((r.server, r.count) for r in rounds if r.external)
    return conversion.best(total, self.delta, composition)


def _sum(costed: Iterable[tuple[costs.Cost, int]]) -> costs.Cost:
  return sum((cost.times(count) for cost, count in costed), costs.Cost())


def _then(
  composition: pld.Composition, priced: _Priced, count: int
) -> pld.Composition:
  """Returns the composition followed by `count` rounds.

  In their order, so that one by one or many at once give the same numbers.
  """
  if len(priced.profiles) == 1:
    ((profile, times),) = priced.profiles
    return composition.then(profile, times * count)
  for profile, times in priced.profiles * count:
    composition = composition.then(profile, times)
  return composition


def _worst(costed: Sequence[tuple[costs.Cost, int]], limit: int) -> costs.Cost:
  """Returns a bound on the cost of any `limit` of the rounds.

  The worst are taken for each component of the cost by itself.
  """
  everything = _sum(costed)
  if everything.reasons or not costed:
    return everything
  table = np.asarray(
    [[cost.squared_ratio, cost.slack, *cost.divergences] for cost, _ in costed]
  )
  counts = np.asarray([count for _, count in costed])
  order = np.argsort(-table, axis=0, kind='stable')
  sorted_counts = counts[order]
  before = np.cumsum(sorted_counts, axis=0) - sorted_counts
  taken = np.clip(limit - before, 0, sorted_counts)
  # What is not taken may be infinite: it must not be multiplied by 0.
  chosen = np.where(taken > 0, np.take_along_axis(table, order, axis=0), 0.0)
  worst = (chosen * taken).sum(axis=0)
  # Which rounds these are may depend on the outcomes: all noise counts.
  return costs.Cost(
    float(worst[0]),
    float(worst[1]),
    worst[2:],
    everything.near,
    waivers=everything.waivers,
  )


def _account(rounds: Iterable[events_lib.Round], delta: float) -> Accountant:
  account = Accountant(delta)
  for a_round, same in itertools.groupby(rounds):
    account = account.with_round(a_round, sum(1 for _ in same))
  return account


def epsilon(
  rounds: Iterable[events_lib.Round],
  delta: float,
  view: str = 'release',
  max_participations: int | None = None,
) -> Epsilon:
  """Returns the epsilon at `delta` of all rounds composed, in one view.

  Guarantees:
    - the least that any valid accountant gives, and which one it is (its
      `accountant`);
    - never below the true epsilon, given what the events and samplings state;
    - infinite, with the reasons by name, if anything has no finite cost.

  Args:
    rounds: All rounds that were run, in order.
    delta: In (0, 1), with other failure probabilities taken off.
    view: 'release', towards whoever sees what was released, or 'server',
      towards the honest-but-curious server.
    max_participations: In the server's view, the most rounds that any client
      took part in; None if nothing limited it.

  Raises:
    ValueError: If `view` is neither, or a limit is given for the release view,
      or the rounds have different adjacency relations.
  """
  _validate.check_choice(view, 'view', VIEWS)
  account = _account(rounds, delta)
  if view == 'server':
    return account.server(max_participations)
  if max_participations is not None:
    raise ValueError(
      "`max_participations` must be None in the view 'release'. Found "
      f'{max_participations!r}. A cap says something to the server alone, '
      'which knows who took part.'
    )
  return account.release()


def release_epsilon(
  rounds: Iterable[events_lib.Round], delta: float
) -> Epsilon:
  """Returns the epsilon at `delta` towards whoever sees what was released.

  Guarantees:
    - never below the true epsilon of all the rounds composed, given what
      their events and samplings state;
    - infinite, with the reasons by name, if anything has no finite cost;
    - within about 0.1 % of the epsilon of the dominating pairs, where there
      are any.

  Args:
    rounds: All rounds that were run, in order.
    delta: In (0, 1), with other failure probabilities taken off.
  """
  return epsilon(rounds, delta)


def server_epsilon(
  rounds: Iterable[events_lib.Round],
  delta: float,
  max_participations: int | None = None,
) -> Epsilon:
  """Returns the epsilon at `delta` towards the honest-but-curious server.

  Guarantees:
    - never below the true epsilon for a client that took part in at most
      `max_participations` of the rounds, whichever they were;
    - no sampling is claimed: the server knows who took part;
    - infinite, with the reasons by name, if anything has no finite cost.

  Args:
    rounds: All rounds that were run, in order.
    delta: In (0, 1), with other failure probabilities taken off.
    max_participations: The most rounds that any client took part in; None if
      nothing limited it.
  """
  return epsilon(rounds, delta, 'server', max_participations)
