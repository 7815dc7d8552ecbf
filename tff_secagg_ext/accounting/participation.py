# SPDX-License-Identifier: Apache-2.0
"""How often a client may take part, and the worst that it can do within that.

Rounds cost differently, and a client that is bound to keep its distance takes
part in the worst of those that leave it the others. `Selection` finds that, by
dynamic programming, for each component of the cost by itself.
"""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from tff_secagg_ext import _validate
from tff_secagg_ext.accounting import arrays, costs, renyi


@dataclasses.dataclass(frozen=True)
class ParticipationCap:
  """A bound on the rounds of a run that each client takes part in.

  Rounds are numbered as they were begun, those that were lost included.

  Attributes:
    most: The most rounds that any client takes part in, at least 1.
    separation: The least difference between the numbers of two of them, at
      least 1. With 1 they may follow each other.
  """

  most: int
  separation: int = 1

  def __post_init__(self) -> None:
    for name in ('most', 'separation'):
      value = _validate.check_int(getattr(self, name), name, minimum=1)
      object.__setattr__(self, name, value)


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
  """The most that a client can cost within a cap. Immutable.

  With F_i(j) the largest sum of j of the first i rounds, or fewer, that are
  `separation` s or more apart, and c_i what round i costs,

    F_i(j) = max(F_{i-1}(j), F_{i-s}(j - 1) + c_i):

  round i is taken, or not. A round takes as long as there are participations.

  Attributes:
    cap: The cap.
    rows: F of the last `separation` numbers of rounds, the newest last, each
      float64[participations + 1, components].
  """

  cap: ParticipationCap
  rows: tuple[arrays.FloatArray, ...]

  @classmethod
  def empty(cls, cap: ParticipationCap) -> Selection:
    """Returns the selection before the first round."""
    nothing = np.zeros((1, 2 + renyi.ORDERS.size))
    return cls(cap, (nothing,) * cap.separation)

  def then(self, cost: costs.Cost, count: int = 1) -> Selection:
    """Returns it after `count` more rounds that cost as much each."""
    parts = np.array([cost.squared_ratio, cost.slack, *cost.divergences])
    rows = collections.deque(self.rows, maxlen=self.cap.separation)
    for _ in range(count):
      before, newest = rows[0], rows[-1]
      size = max(newest.shape[0], min(self.cap.most, before.shape[0]) + 1)
      row = _with_rows(newest, size)
      row[1:] = np.maximum(row[1:], _with_rows(before, size - 1) + parts)
      rows.append(row)
    return Selection(self.cap, tuple(rows))

  def worst(self, limit: int | None = None) -> costs.Cost:
    """Returns the most that the rounds cost a client, of `limit` of them."""
    row = self.rows[-1]
    last = row.shape[0] - 1
    found = row[last if limit is None else min(limit, last)]
    return costs.Cost(float(found[0]), float(found[1]), found[2:])


def _with_rows(found: arrays.FloatArray, size: int) -> arrays.FloatArray:
  """Returns a copy of `size` rows; more participations than can be add none."""
  return np.asarray(found[np.minimum(np.arange(size), found.shape[0] - 1)])
