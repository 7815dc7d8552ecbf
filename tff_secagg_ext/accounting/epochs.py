# SPDX-License-Identifier: Apache-2.0
"""Epochs of random allocation: charged whole, from their first round on.

Costs of several rounds are here as well: their sum, and the worst of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import math

import numpy as np

from tff_secagg_ext.accounting import allocation, costs, profiles
from tff_secagg_ext.accounting import events as events_lib
from tff_secagg_ext.accounting import sampling as sampling_lib

Costed = Sequence[tuple[costs.Cost, int]]


def total(costed: Iterable[tuple[costs.Cost, int]]) -> costs.Cost:
  """Returns what all rounds cost together, each so many times."""
  return sum((cost.times(count) for cost, count in costed), costs.Cost())


def worst(costed: Costed, limit: int) -> costs.Cost:
  """Returns a bound on the cost of any `limit` of the rounds.

  The worst are taken for each component of the cost by itself. Which rounds
  these are may depend on the outcomes: the noise of all counts.
  """
  everything = total(costed)
  if everything.reasons or not costed:
    return everything
  rows = worst_rows(costed, limit)
  return dataclasses.replace(
    total(rows), near=everything.near, waivers=everything.waivers
  )


def worst_rows(costed: Costed, limit: int) -> Costed:
  """Returns the `limit` largest of each component of the cost, in their order.

  The i-th row has the i-th largest of each: no `limit` rounds have more, of any
  component, and neither have fewer of them more than as many rows.
  """
  table = np.asarray(
    [[cost.squared_ratio, cost.slack, *cost.divergences] for cost, _ in costed]
  ).reshape(len(costed), -1)
  counts = np.asarray([count for _, count in costed])
  order = np.argsort(-table, axis=0, kind='stable')
  ends = np.cumsum(counts[order], axis=0)
  # Where any component changes its round, a row of its own begins.
  edges = np.unique(np.minimum(ends, limit))
  rows = []
  for start, end in zip(np.append(0, edges[:-1]), edges, strict=True):
    # The round of each component that covers the ranks from start to end.
    index = (ends > start).argmax(axis=0)[np.newaxis]
    row = np.take_along_axis(table, np.take_along_axis(order, index, 0), 0)[0]
    cost = costs.Cost(float(row[0]), float(row[1]), row[2:])
    rows.append((cost, int(end - start)))
  return rows


@dataclasses.dataclass(frozen=True)
class Epoch:
  """The rounds so far of one epoch.

  Attributes:
    participations: In how many of its rounds a client takes part.
    length: How many rounds it may have.
    rounds: Each distinct one, without the name of the epoch, and how often.
  """

  participations: int
  length: int
  rounds: tuple[tuple[events_lib.Round, int], ...] = ()

  @property
  def left(self) -> int:
    """How many rounds it may still have."""
    return self.length - sum(count for _, count in self.rounds)

  def with_round(self, a_round: events_lib.Round, count: int) -> Epoch:
    """Returns it with `count` more rounds, at most `left`."""
    found = dict(self.rounds)
    found[a_round] = found.get(a_round, 0) + count
    return dataclasses.replace(self, rounds=tuple(found.items()))

  @property
  def everything(self) -> costs.Cost:
    """What its rounds cost the server together, if a client were in all."""
    return total(self._costed('server'))

  @functools.cached_property
  def server(self) -> Costed:
    """The worst rounds that a client can take part in, for the server."""
    return worst_rows(self._costed('server'), self.participations)

  @functools.cached_property
  def release(self) -> costs.Cost:
    """What it costs without amplification.

    The Gaussians that dominate are those of the rounds that a client takes part
    in; that the noise is near them, within a slack, is asked of all rounds.
    """
    costed = self._costed('release')
    slack = total(costed).slack
    found = worst(costed, self.participations)
    return found if found.reasons else dataclasses.replace(found, slack=slack)

  @functools.cached_property
  def profile(self) -> profiles.Profile | None:
    """What dominates it, `participations` times; `None` if it costs nothing.

    Each participation is a random round of a block of its own, of
    floor(length / participations) rounds, with the least noise of any round of
    the epoch (docs/accounting.md, Theorem 9).
    """
    largest = max(cost.squared_ratio for cost, _ in self._costed('release'))
    if largest == 0.0:
      return None
    ratio, block = math.sqrt(largest), self.length // self.participations
    hidden = all(_allocation(each).hidden for each, _ in self.rounds)
    return allocation.profile(ratio, block if hidden else 1)

  def _costed(self, view: str) -> Costed:
    return [
      (costs.round_cost(a_round, view), count) for a_round, count in self.rounds
    ]


def _allocation(a_round: events_lib.Round) -> sampling_lib.RandomAllocation:
  sampling = a_round.sampling
  assert isinstance(sampling, sampling_lib.RandomAllocation)
  return sampling


@dataclasses.dataclass(frozen=True)
class Epochs:
  """All epochs of an account. Immutable.

  Attributes:
    full: Those that have all their rounds, and how many are alike.
    begun: Those that have not, by name and size.
  """

  full: Mapping[Epoch, int] = dataclasses.field(default_factory=dict)
  begun: Mapping[tuple[str, int, int], Epoch] = dataclasses.field(
    default_factory=dict
  )

  def with_round(self, a_round: events_lib.Round, count: int) -> Epochs:
    """Returns them with `count` rounds more of the epoch that they name.

    Raises:
      ValueError: If it has a name and would have too many rounds.
    """
    claim = _allocation(a_round)
    size = (claim.participations, claim.rounds)
    nameless = dataclasses.replace(claim, epoch='')
    a_round = events_lib.Round(a_round.events, nameless)
    full, begun = dict(self.full), dict(self.begun)
    epoch = begun.pop((claim.epoch, *size), Epoch(*size))
    if claim.epoch and count > epoch.left:
      raise ValueError(
        f'Epoch {claim.epoch!r} must have at most {claim.rounds} rounds. Found'
        f' {count} more, where {epoch.left} are left. Give each epoch a name of'
        ' its own.'
      )
    first = min(count, epoch.left)
    epoch = epoch.with_round(a_round, first)
    if not epoch.left:
      full[epoch] = full.get(epoch, 0) + 1
      whole, rest = divmod(count - first, claim.rounds)
      epoch = Epoch(*size)
      if whole:
        same = epoch.with_round(a_round, claim.rounds)
        full[same] = full.get(same, 0) + whole
      epoch = epoch.with_round(a_round, rest) if rest else epoch
    if epoch.rounds:
      begun[(claim.epoch, *size)] = epoch
    return Epochs(full, begun)

  def counted(self) -> Sequence[tuple[Epoch, int]]:
    """Returns each distinct epoch, and how often it was."""
    found: dict[Epoch, int] = dict(self.full)
    for epoch in self.begun.values():
      found[epoch] = found.get(epoch, 0) + 1
    return list(found.items())

  def release(self) -> costs.Cost:
    """Returns what all cost together, without amplification."""
    return total((epoch.release, count) for epoch, count in self.counted())

  def server(self) -> tuple[costs.Cost, Costed]:
    """Returns what all rounds cost the server, and the worst for a client."""
    found = self.counted()
    rows = [(c, n * count) for e, count in found for c, n in e.server]
    return total((e.everything, count) for e, count in found), rows
