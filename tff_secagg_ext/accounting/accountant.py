# SPDX-License-Identifier: Apache-2.0
"""Epsilon of a run, in the release view and in the server view."""

from __future__ import annotations

from collections.abc import Iterable
import copy
import dataclasses
import itertools
import math

from tff_secagg_ext import _validate
from tff_secagg_ext.accounting import (
  conversion,
  costs,
  pld,
  pricing,
  profiles,
)
from tff_secagg_ext.accounting import epochs as epochs_lib
from tff_secagg_ext.accounting import events as events_lib
from tff_secagg_ext.accounting import sampling as sampling_lib
from tff_secagg_ext.accounting.conversion import Epsilon
from tff_secagg_ext.accounting.participation import ParticipationCap, Selection

VIEWS: tuple[str, ...] = ('release', 'server')


class Accountant:
  """The account of a run, one round after the other. Immutable.

  Guarantees:
    - gives exactly the numbers of `release_epsilon` and `server_epsilon` for
      the same rounds in the same order;
    - `with_round` returns a new account and leaves this one as it was, so that
      a round's cost can be seen before it is spent;
    - reading takes a few milliseconds whatever the number of rounds, distinct
      or not; a round of a new cost takes a few more.

  Attributes:
    delta: The delta that both views' epsilons are for.
    rounds: The number of rounds so far.
  """

  def __init__(
    self, delta: float, participation: ParticipationCap | None = None
  ):
    """Starts an account with nothing spent.

    Args:
      delta: In (0, 1): what is left of the run's delta once other failure
        probabilities are taken off (see `poisson_cohort_bounds`).
      participation: How often any client takes part in the rounds, in the order
        in which they will be added; `None` if nothing limits it.
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
    self._rounds = pricing.Rounds()
    # What has no cohort of ours, and counts in full whoever took part.
    self._external = pricing.Rounds()
    self._composition = pld.Composition()
    self._external_composition = pld.Composition()
    self._epochs = epochs_lib.Epochs()
    self._selection: Selection | None = None
    if participation is not None:
      self._selection = Selection.empty(participation)

  def with_round(self, a_round: events_lib.Round, count: int = 1) -> Accountant:
    """Returns the account after `count` more rounds like `a_round`.

    Raises:
      TypeError: If `a_round` is not a Round.
      ValueError: If its adjacency relation is not that of earlier rounds, or
        its epoch has too many.
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
    result = copy.copy(self)
    result.rounds += count
    result._adjacency = adjacency
    result._add(a_round, count)
    return result

  def _add(self, a_round: events_lib.Round, count: int) -> None:
    external = a_round.external is not None
    if self._selection is not None and not external:
      cost = costs.round_cost(a_round, 'server')
      self._selection = self._selection.then(cost, count)
    if isinstance(a_round.sampling, sampling_lib.RandomAllocation):
      self._epochs = self._epochs.with_round(a_round, count)
      return
    priced = pricing.price(a_round)
    self._composition = priced.composed(self._composition, count)
    if not external:
      self._rounds = self._rounds.then(a_round, count)
      return
    self._external = self._external.then(a_round, count)
    self._external_composition = priced.composed(
      self._external_composition, count
    )

  def release(self) -> Epsilon:
    """Returns the epsilon towards whoever sees models and metrics.

    All rounds are composed, each amplified by its cohort's sampling; noise too
    small for Gaussian domination by Poisson sampling alone. An epoch of random
    allocation counts as a whole once it has begun.
    """
    composition = self._composition
    for epoch, count in self._epochs.counted():
      if epoch.profile is not None:
        times = epoch.participations * count
        composition = composition.then(epoch.profile, times)
    sampled = any(profile.q < 1.0 for profile, _ in composition.runs)
    total = self._released('release')
    if not conversion.asks_renyi(total):
      pairs = composition if sampled else None
      found = conversion.best(total, self.delta, pairs)
      if not sampled or found.accountant == conversion.PLD:
        return found
    return conversion.best(
      self._released('amplified'), self.delta, composition if sampled else None
    )

  def _released(self, name: str) -> costs.Cost:
    total = self._rounds.cost(name) + self._external.cost(name)
    return total + self._epochs.release()

  def server(self, max_participations: int | None = None) -> Epsilon:
    """Returns the epsilon towards the server, which knows who took part.

    Of each epoch of random allocation the worst rounds count, as many as a
    client takes part in; and under a `ParticipationCap` the worst rounds that
    respect it.

    Args:
      max_participations: The most rounds of this run that any client took
        part in, at least 0; None for all of them. The worst ones count, and
        all that is external.
    """
    if max_participations is not None:
      max_participations = _validate.check_int(
        max_participations, 'max_participations', minimum=0
      )
    allocated, rows = self._epochs.server()
    external = self._external.cost('server')
    everything = self._rounds.cost('server') + allocated + external
    if everything.reasons:
      return conversion.best(everything, self.delta)
    if max_participations is None:
      bounds = [self._rounds.cost('server') + epochs_lib.total(rows)]
    else:
      costed = [*self._rounds.costed(), *rows]
      bounds = [epochs_lib.worst(costed, max_participations)]
    if self._selection is not None:
      bounds.append(self._selection.worst(max_participations))
    # Which rounds a client takes part in may depend on the outcomes: the noise
    # of all rounds counts.
    found = (self._with_external(bound, everything) for bound in bounds)
    return min(found, key=lambda epsilon: epsilon.value)

  def _with_external(
    self, bound: costs.Cost, everything: costs.Cost
  ) -> Epsilon:
    """Returns the server's epsilon of rounds and of all that is external."""
    composition = None
    if self._external.sampled:
      composition = self._external_composition
      if bound.squared_ratio > 0.0:
        ratio = math.sqrt(bound.squared_ratio)
        composition = composition.then(profiles.Profile('poisson', ratio, 1.0))
    total = dataclasses.replace(
      bound + self._external.cost('server'),
      near=everything.near,
      waivers=everything.waivers,
    )
    return conversion.best(total, self.delta, composition)


def _account(
  rounds: Iterable[events_lib.Round],
  delta: float,
  participation: ParticipationCap | None = None,
) -> Accountant:
  account = Accountant(delta, participation)
  for a_round, same in itertools.groupby(rounds):
    account = account.with_round(a_round, sum(1 for _ in same))
  return account


def epsilon(
  rounds: Iterable[events_lib.Round],
  delta: float,
  view: str = 'release',
  max_participations: int | ParticipationCap | None = None,
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
      took part in, and how far apart; None if nothing limited it.

  Raises:
    ValueError: If `view` is neither, or a limit is given for the release view,
      or the rounds have different adjacency relations.
  """
  _validate.check_choice(view, 'view', VIEWS)
  if view == 'server':
    if isinstance(max_participations, ParticipationCap):
      return _account(rounds, delta, max_participations).server()
    return _account(rounds, delta).server(max_participations)
  if max_participations is not None:
    raise ValueError(
      "`max_participations` must be None in the view 'release'. Found "
      f'{max_participations!r}. A cap says something to the server alone, '
      'which knows who took part.'
    )
  return _account(rounds, delta).release()


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
  max_participations: int | ParticipationCap | None = None,
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
    max_participations: The most rounds that any client took part in, and how
      far apart; None if nothing limited it.
  """
  return epsilon(rounds, delta, 'server', max_participations)
