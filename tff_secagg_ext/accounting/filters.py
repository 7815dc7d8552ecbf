# SPDX-License-Identifier: Apache-2.0
"""Privacy filters: accounts that may decide whether one round more is run.

A filter is an account that starts empty, takes rounds one by one, and says
which budget would still admit all of them. A run that goes on while that is
within its budget has that budget's epsilon, at the delta of the filter.

| filter | what it assumes of the rounds | what it may claim |
| --- | --- | --- |
| `CompositionFilter` | costs are none of the outputs' doing | sampling |
| `GaussianFilter` | nothing | no sampling; Gaussian noise only |
| `RenyiFilter` | nothing | Poisson sampling; any noise |

The last two hold where noise, sampling and everything else of a round is chosen
by what earlier rounds released; docs/accounting.md, section 9, proves it.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any, Protocol

import numpy as np

from tff_secagg_ext import _validate
from tff_secagg_ext.accounting import accountant, arrays, costs, gaussian, renyi
from tff_secagg_ext.accounting import events as events_lib
from tff_secagg_ext.accounting import sampling as sampling_lib
from tff_secagg_ext.accounting.conversion import Epsilon

VIEWS = accountant.VIEWS
# A sum over all k <= order gets long; beyond, nothing is gained.
ORDERS: arrays.FloatArray = renyi.ORDERS[renyi.ORDERS <= 4096.0]


class Filter(Protocol):
  """An account that may decide what is run. Immutable."""

  def with_round(self, a_round: events_lib.Round, count: int = 1) -> Filter:
    """Returns the filter after `count` more rounds like `a_round`."""

  def epsilon(self) -> Epsilon:
    """Returns the least budget that admits all rounds so far; 0 for none."""

  @property
  def settings(self) -> Mapping[str, Any]:
    """What was fixed before the first round, as JSON values."""


@dataclasses.dataclass(frozen=True)
class CompositionFilter:
  """Composes what happened, as `Accountant` does, and as tightly.

  Guarantees:
    - valid where what each round costs, if it is run, does not depend on what
      earlier rounds released: constant settings, and dropouts that are not the
      outputs' doing. When to stop may depend on them;
    - gives the numbers of `Accountant` to the last bit.

  Attributes:
    account: The rounds so far.
    view: 'release' or 'server'.
  """

  account: accountant.Accountant
  view: str

  def with_round(
    self, a_round: events_lib.Round, count: int = 1
  ) -> CompositionFilter:
    """Returns the filter after `count` more rounds like `a_round`."""
    return CompositionFilter(self.account.with_round(a_round, count), self.view)

  def epsilon(self) -> Epsilon:
    """Returns the composed epsilon."""
    account = self.account
    return account.release() if self.view == 'release' else account.server()

  @property
  def settings(self) -> Mapping[str, Any]:
    """What was fixed before the first round, as JSON values."""
    return {'filter': 'composition'}


@dataclasses.dataclass(frozen=True)
class GaussianFilter:
  """Adds squared ratios: fully adaptive Gaussian DP [ST22, arXiv 2210.17520].

  Guarantees:
    - valid however the rounds are chosen;
    - as tight as composition for rounds without amplification, but for what
      `slack` takes;
    - claims no sampling. Infinite for noise that is not Gaussian, and where the
      slack of Gaussian domination passes `slack`.

  Attributes:
    delta: In (0, 1), other failures taken off.
    view: 'release' or 'server'.
    slack: How much of epsilon pays for the slack of the lemma, in nats.
    spent: What the rounds so far cost together.
    adjacency: The relation of the rounds so far; `None` before the first.
  """

  delta: float
  view: str
  slack: float
  spent: costs.Cost = dataclasses.field(default_factory=costs.Cost)
  adjacency: str | None = None

  def with_round(
    self, a_round: events_lib.Round, count: int = 1
  ) -> GaussianFilter:
    """Returns the filter after `count` more rounds like `a_round`."""
    cost = costs.round_cost(a_round, self.view).times(count)
    return dataclasses.replace(
      self,
      spent=self.spent + cost,
      adjacency=_same_adjacency(self.adjacency, a_round),
    )

  def epsilon(self) -> Epsilon:
    """Returns the epsilon of one Gaussian with the sum of squared ratios."""
    spent = self.spent
    reasons = spent.reasons
    if spent.near.coordinates:
      reasons += ('noise that is not Gaussian, in a Gaussian filter',)
    if math.isinf(spent.slack):
      reasons += ('noise that no Gaussian dominates, in a Gaussian filter',)
    elif spent.slack > self.slack:
      reason = f'noise too small: the slack of the lemma is {spent.slack:g}'
      reasons += (f'{reason}, above {self.slack:g}',)
    if reasons:
      return Epsilon(math.inf, reasons, spent.waivers)
    if spent.squared_ratio == 0.0:
      return Epsilon(0.0, (), spent.waivers)
    left = self.delta * math.exp(-self.slack)
    value = gaussian.epsilon(math.sqrt(spent.squared_ratio), left)
    return Epsilon(value + self.slack, (), spent.waivers)

  @property
  def settings(self) -> Mapping[str, Any]:
    """What was fixed before the first round, as JSON values."""
    return {'filter': 'gaussian', 'slack': self.slack}


@dataclasses.dataclass(frozen=True)
class RenyiFilter:
  """Adds Renyi divergences of one order, in an adaptive Renyi filter.

  [FZ20, arXiv 2008.11193; Lec21, arXiv 2103.01379].

  Guarantees:
    - valid however the rounds are chosen, since the order is not chosen by
      what happened;
    - claims the sampling of Poisson cohorts in the release view, for Gaussian
      noise; no other.

  Attributes:
    delta: In (0, 1), other failures taken off.
    view: 'release' or 'server'.
    order: The order, one of `ORDERS`; fixed before the first round.
    divergence: The sum of the divergences of the rounds so far, in nats.
    reasons: Why it is infinite; empty if it is finite.
    waivers: What is left out of it.
    adjacency: The relation of the rounds so far; `None` before the first.
  """

  delta: float
  view: str
  order: float
  divergence: float = 0.0
  reasons: tuple[str, ...] = ()
  waivers: tuple[events_lib.Waiver, ...] = ()
  adjacency: str | None = None

  def with_round(
    self, a_round: events_lib.Round, count: int = 1
  ) -> RenyiFilter:
    """Returns the filter after `count` more rounds like `a_round`."""
    adjacency = _same_adjacency(self.adjacency, a_round)
    cost = costs.round_cost(a_round, self.view)
    told = dataclasses.replace(
      self,
      reasons=tuple(dict.fromkeys(self.reasons + cost.reasons)),
      waivers=tuple(dict.fromkeys(self.waivers + cost.waivers)),
      adjacency=adjacency,
    )
    if cost.reasons:
      return told
    index = int(np.searchsorted(ORDERS, self.order))
    one = float(round_divergences(a_round, self.view, (self.order,), index)[0])
    total = self.divergence + count * one
    return dataclasses.replace(told, divergence=total)

  def epsilon(self) -> Epsilon:
    """Returns what [CKS20, Prop. 12] gives at the order."""
    reasons = self.reasons
    if math.isinf(self.divergence):
      reasons += (f'noise too small for Renyi divergences of {self.order:g}',)
    if reasons:
      return Epsilon(math.inf, reasons, self.waivers)
    if self.divergence == 0.0:
      return Epsilon(0.0, (), self.waivers)
    value = renyi.epsilon_from_renyi(
      np.array([self.divergence]), self.delta, np.array([self.order])
    )
    return Epsilon(value, (), self.waivers)

  @property
  def settings(self) -> Mapping[str, Any]:
    """What was fixed before the first round, as JSON values."""
    return {'filter': 'renyi', 'order': self.order}


def _same_adjacency(known: str | None, a_round: events_lib.Round) -> str:
  found = a_round.sampling.adjacency
  if known not in (None, found):
    raise ValueError(
      f'All rounds must have the adjacency {known!r} of the first. Found'
      f' {found!r}. Two relations do not compose: keep one budget for each.'
    )
  return found


@functools.lru_cache(maxsize=1024)
def round_divergences(
  a_round: events_lib.Round,
  view: str,
  orders: tuple[float, ...],
  first: int = 0,
) -> arrays.FloatArray:
  """Returns the Renyi divergences of a round, in nats, of a finite cost.

  The least of two bounds: of the noise itself, and of the Gaussian that
  dominates it.

  Args:
    a_round: The round.
    view: 'release' or 'server'.
    orders: Successive ones of `ORDERS`.
    first: Which of `ORDERS` the first of them is.
  """
  cost = costs.round_cost(a_round, view)
  a = np.asarray(orders)
  probability = 1.0
  if view == 'release' and isinstance(
    a_round.sampling, sampling_lib.PoissonSampling
  ):
    probability = a_round.sampling.probability
    cost = cost.amplified(probability)
  divergences = cost.divergences[first : first + len(orders)]
  if cost.near.coordinates or math.isinf(cost.slack):
    return np.asarray(divergences)
  ratio = math.sqrt(cost.squared_ratio)
  dominated = [
    renyi.sampled_gaussian_renyi(int(each), ratio, probability) for each in a
  ]
  return np.minimum(divergences, dominated + cost.slack * a / (a - 1.0))


def best_order(
  plan: events_lib.Round, view: str, epsilon: float, delta: float
) -> float:
  """Returns the order at which a budget admits the most rounds like `plan`.

  It depends on what is known before the first round alone.
  """
  offsets = np.log1p(-1.0 / ORDERS) - (math.log(delta) + np.log(ORDERS)) / (
    ORDERS - 1.0
  )
  divergences = round_divergences(plan, view, tuple(ORDERS.tolist()))
  admitted = (epsilon - offsets) / np.maximum(divergences, 1e-300)
  return float(ORDERS[int(np.argmax(admitted))])


def from_settings(
  settings: Mapping[str, Any], view: str, delta: float
) -> Filter:
  """Returns the empty filter that has these settings.

  Args:
    settings: The `settings` of a filter.
    view: 'release' or 'server'.
    delta: In (0, 1), other failures taken off.
  """
  kind = _validate.check_choice(
    settings.get('filter'), 'filter', ('composition', 'gaussian', 'renyi')
  )
  if kind == 'composition':
    return CompositionFilter(accountant.Accountant(delta), view)
  if kind == 'gaussian':
    return GaussianFilter(delta, view, settings['slack'])
  return RenyiFilter(delta, view, settings['order'])
