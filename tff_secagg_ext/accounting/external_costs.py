# SPDX-License-Identifier: Apache-2.0
"""What an external event costs: Gaussians exactly, all else by dp_accounting.

| event | how it is priced |
| --- | --- |
| Gaussian, Poisson-sampled Gaussians | a profile, exactly |
| Gaussians sampled without replacement | the profile of Theorem 2, zero-out |
| sampling of anything else | as if it were not sampled |
| what else dp_accounting has a Renyi accountant for | Renyi divergences |
| anything else | infinite, by its name |
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import functools
import math
from typing import Any

import numpy as np

from tff_secagg_ext.accounting import arrays, dp_events, profiles, renyi
from tff_secagg_ext.accounting import external as external_lib

# What dp_accounting is asked for: its sums get long for larger orders.
_ASKED = 512
# Ratios of sensitivity to noise beyond which no epsilon means anything.
_LARGEST_RATIO = 1e6
# Applications beyond which numbers are no longer finite.
_MOST = 1e30

_SEEN = {
  'federated': 'its coordinator, this one, saw who took part',
  'central': 'its curator, the coordinator, saw the data',
}


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
  """One kind of release, and how often it happened.

  Attributes:
    count: How often, at least 1.
    profile: The dominating pair, sampling included; `None` if none is known.
    divergences: Renyi divergences at renyi.ORDERS, sampling included, in nats.
    reason: Why the cost is infinite; empty if it is finite.
  """

  count: int
  profile: profiles.Profile | None
  divergences: arrays.FloatArray
  reason: str = ''


@functools.lru_cache(maxsize=1024)
def parts(event: external_lib.ExternalEvent, view: str) -> tuple[Part, ...]:
  """Returns what an event is made of, in a view; nothing if it is free."""
  domain = event.trust_domain
  if view == 'server' and event.by_coordinator and domain in _SEEN:
    return (_infinite(f'{event.source}: {_SEEN[domain]}'),)
  found = tuple(_parts(dp_events.parse(event.event), 1))
  return tuple(
    dataclasses.replace(part, reason=f'{event.source}: {part.reason}')
    if part.reason
    else part
    for part in found
  )


def _infinite(reason: str) -> Part:
  return Part(1, None, np.full(renyi.ORDERS.shape, math.inf), reason)


def _parts(tree: dp_events.Tree, count: int) -> Iterator[Part]:
  name = tree[dp_events.CLASS]
  if count == 0 or name == 'NoOpDpEvent':
    return
  if count > _MOST:
    yield _infinite(f'{name} more than {_MOST:g} times')
  elif name == 'SelfComposedDpEvent':
    yield from _parts(tree['event'], count * tree['count'])
  elif name == 'ComposedDpEvent':
    for each in tree['events']:
      yield from _parts(each, count)
  elif name == 'PoissonSampledDpEvent':
    rate = tree['sampling_probability']
    if rate > 0.0:
      yield from _sampled(tree['event'], count, 'poisson', rate)
  elif name == 'SampledWithoutReplacementDpEvent':
    rate = tree['sample_size'] / tree['source_dataset_size']
    yield from _sampled(tree['event'], count, 'fixed', rate)
  elif name == 'GaussianDpEvent':
    yield from _sampled(tree, count, 'poisson', 1.0)
  else:
    yield _asked(tree, count)


def _sampled(
  tree: dp_events.Tree, count: int, kind: str, rate: float
) -> Iterator[Part]:
  """Yields what samples cost, amplified if all that sees one is Gaussian.

  All that sees one sample is amplified together, as the events of a round are.
  What cannot be amplified is priced without sampling, which bounds it: by joint
  convexity, a mixture is no worse than its worst member.
  """
  square = _squared_ratio(tree)
  if square is None:
    yield from _parts(tree, count)
  elif square > _LARGEST_RATIO**2:
    yield _infinite('GaussianDpEvent without noise')
  elif square > 0.0:
    divergences = renyi.ORDERS * square / 2.0
    if kind == 'poisson':
      divergences = renyi.amplify(divergences, rate)
    profile = profiles.Profile(kind, math.sqrt(square), rate)
    yield Part(count, profile, divergences)


def _squared_ratio(tree: dp_events.Tree) -> float | None:
  """Returns the sum of squared ratios of nested Gaussians; None if others."""
  name = tree[dp_events.CLASS]
  if name == 'GaussianDpEvent':
    noise = tree['noise_multiplier']
    # Also where the square of the ratio would not be a number.
    return noise**-2.0 if noise * _LARGEST_RATIO > 1.0 else math.inf
  if name == 'NoOpDpEvent':
    return 0.0
  if name == 'SelfComposedDpEvent':
    inner = _squared_ratio(tree['event']) if tree['count'] else 0.0
    return None if inner is None else tree['count'] * inner
  if name == 'ComposedDpEvent':
    squares = [_squared_ratio(each) for each in tree['events']]
    return None if None in squares else sum(s for s in squares if s is not None)
  return None


def _asked(tree: dp_events.Tree, count: int) -> Part:
  """Asks dp_accounting for Renyi divergences, under any relation that it has.

  A record that is removed, replaced by a special one, or by any other: each is
  at least what the absence of a unit is.
  """
  name = tree[dp_events.CLASS]
  try:
    divergences = _rdp(dp_events.build(tree))
  # Whatever it raises of values that nobody has checked, nothing is claimed.
  except Exception as error:
    return _infinite(f'{name} cannot be priced ({error})')
  if divergences is None:
    return _infinite(f'{name} cannot be priced')
  if not np.all(divergences >= 0.0) or np.all(np.isinf(divergences)):
    return _infinite(f'{name} has no finite Renyi divergence')
  whole = np.full(renyi.ORDERS.shape, math.inf)
  whole[: divergences.size] = divergences
  return Part(count, None, whole)


def _rdp(event: Any) -> arrays.FloatArray | None:
  import dp_accounting
  from dp_accounting import rdp

  orders = renyi.ORDERS[renyi.ORDERS <= _ASKED]
  relations = dp_accounting.NeighboringRelation
  for relation in (
    relations.ADD_OR_REMOVE_ONE,
    relations.REPLACE_SPECIAL,
    relations.REPLACE_ONE,
  ):
    accountant = rdp.RdpAccountant(orders, relation)
    if accountant.supports(event):
      accountant.compose(event)
      return np.asarray(accountant.rdp, dtype=np.float64)
  return None
