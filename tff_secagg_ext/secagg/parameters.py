# SPDX-License-Identifier: Apache-2.0
"""How many neighbors a client has, and how many shares open a secret.

n clients stand on a circle in random order; each has the k/2 nearest on both
sides as neighbors, and shares its secrets among them with threshold t. At
most gamma n of the clients are corrupt, at most delta n drop out. Of the n - 1
others a client's neighbors are a random k, so that the corrupt ones among
them, and those that drop out, are hypergeometric. Let C and D be the smallest
numbers with

  P[more than C corrupt neighbors]  <= 2^-(sigma + 1) / n,
  P[more than D neighbors drop out] <= 2^-eta / n.

k and t are sound if three conditions hold (Bell et al. 2020, "Secure
single-server aggregation with (poly)logarithmic overhead": Section 3 for the
curious server, Section 4 for the active one), with the union bound over all
clients:

1. The honest survivors are connected, but for a probability of 2^-(sigma + 1).
   Else the masks cancel in each part of the graph alone, and the server learns
   the sum of each part. To fall apart, the circle must lose k/2 successive
   clients at two places, with somebody left on both sides between them. There
   are n (n - k - 1)/2 such pairs of places, and the k clients of a pair are
   all among the B = floor(gamma n) + floor(delta n) with probability
   binomial(n - k, B - k) / binomial(n, B).
2. No secret is open: a curious server has the shares of the C corrupt
   neighbors, so that t > C. An active one may besides tell each honest
   neighbor another tale, and ask some for their share of one secret and some
   for the other. Both would be open if t <= C + a and t <= C + b for disjoint
   sets of a and b honest neighbors, a + b = k - C: so that 2t > k + C.
3. Every secret can be rebuilt: t <= k - D.

There is a threshold for k exactly if C + w D < k, w = 1 for the curious server
and 2 for the active one. In the complete graph C and D are no quantiles but
the counts floor(gamma n) and floor(delta n), and the first condition is void.

Dropouts are independent of the graph in all this. An active server sees the
graph before it decides whom it leaves out. The second condition holds whatever
it decides; the first is not proven then. To cut the circle into two arcs, and
learn a sum for each, the server must leave out k/2 successive clients, but for
a corrupt ones, beside each end of an arc. The client there has k/2 + a
neighbors among its survivors, and refuses if that is below t. So there must be
two disjoint stretches of k/2 clients with t - k/2 corrupt ones each, which has
a probability of at most n (n - k + 1)/2 P[two given ones are such]: below 2^-39
for n = 1000 and below 2^-30 for n = 10^5, at gamma = delta = 5 %. No bound is
claimed for other ways to part the survivors.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
import dataclasses
import functools
import itertools
import math

import numpy as np

from tff_secagg_ext import _validate
from tff_secagg_ext.secagg import errors
from tff_secagg_ext.secagg.setup import Security

# Largest gamma + w delta. The fractions are estimates, and k grows as
# 1/(1 - gamma - w delta)^2: nearer to 1 nearly all are neighbors, and a small
# error in an estimate breaks the guarantee. The deployed parameter finder of
# Google's federated-compute has the same limit.
LARGEST_SUM = 0.9
# The steps in which fractions that would do are looked for, to the unit.
_STEPS = 10_000


@dataclasses.dataclass(frozen=True)
class Parameters:
  """What all clients of a session have in common.

  Attributes:
    neighbors: k, even or n - 1.
    threshold: t, from 1 to k; 0 if k is.
  """

  neighbors: int
  threshold: int


@functools.lru_cache(maxsize=1024, typed=True)
def derive(
  clients: int, security: Security, sigma: int = 40, eta: int = 20
) -> Parameters:
  """Returns the smallest k, and the smallest t for it.

  - k is the smallest even number for which there is a t; n - 1, the complete
    graph, if there is none below.
  - The honest survivors are connected and no secret is open, but for a
    probability of 2^-sigma.
  - If at most floor(delta n) clients drop out, every secret can be rebuilt, but
    for a probability of 2^-eta.
  - 'malicious' has the numbers of 'semi-malicious'.
  - One client alone has no neighbors: k = t = 0.

  Neighbors and threshold that `security` names are taken as they are, k at most
  n - 1; the probabilities are then those of whoever chose them.

  All of this assumes the fractions: see `least_survivors` for what to do when
  more drop out. What an active server gains by choosing who drops out is at the
  top of this module.

  Args:
    clients: n, those that advertised their keys, at least 1.
    security: Threat class and fractions.
    sigma: Bits of statistical security, at least 1.
    eta: Bits of correctness, at least 1.

  Raises:
    TypeError: If an argument is of the wrong kind.
    ValueError: If there are no such k and t (the message says what would do),
      or the named ones fit neither the number of clients nor the class.
  """
  clients = _validate.check_int(clients, 'clients', minimum=1)
  sigma = _validate.check_int(sigma, 'sigma', minimum=1)
  eta = _validate.check_int(eta, 'eta', minimum=1)
  if not isinstance(security, Security):
    raise TypeError(f'`security` must be a `Security`. Found {security!r}.')
  if clients == 1:
    return Parameters(0, 0)
  if security.neighbors is not None and security.threshold is not None:
    return _named(clients, security, security.neighbors, security.threshold)
  if not _is_feasible(clients, security):
    raise ValueError(_infeasible(clients, security))
  return _sparsest(clients, security, sigma, eta)


def least_survivors(clients: int, security: Security) -> int:
  """Returns how many of n clients must survive for their sum to be safe.

  On a sparse graph, more than floor(delta n) dropouts between the keys and the
  masked vectors may part the survivors: then a curious server, too, sees the
  sum of each part. The complete graph cannot be parted, and the threshold sees
  to the rest: any number will do.

  Raises:
    TypeError: As `derive`.
    ValueError: As `derive`.
  """
  if derive(clients, security).neighbors == clients - 1:
    return 1
  _, dropouts = counts(clients, security)
  return clients - dropouts


def check(
  clients: int, neighbors: int, threshold: int, security: Security
) -> None:
  """Refuses k and t other than those that the client derives itself.

  Nothing but equality is accepted. More neighbors with the same t give an
  active server more disjoint sets; a larger t with the same k is as safe, but
  fails with fewer dropouts than were agreed; and whatever differs from what
  an honest server derives is not from one.

  Raises:
    LoweredThreshold: If they differ, or there are none for so many clients.
  """
  try:
    own = derive(clients, security)
  except ValueError as error:
    raise errors.LoweredThreshold(str(error)) from error
  if Parameters(neighbors, threshold) != own:
    raise errors.LoweredThreshold(
      f'The server asks for {neighbors} neighbors and threshold {threshold}.'
      f' Expected {own.neighbors} and {own.threshold} for {clients} clients'
      f' in the class {security.threat!r}.'
    )


def _named(
  clients: int, security: Security, neighbors: int, threshold: int
) -> Parameters:
  """Returns the numbers that `security` names, if they make sense."""
  k = min(neighbors, clients - 1)
  if k % 2 and k < clients - 1:
    raise ValueError(
      f'`neighbors` must be even, or at least {clients - 1}: all, for {clients}'
      f' clients. Found {neighbors}. Take {k + 1}.'
    )
  if threshold > k:
    raise ValueError(
      f'`threshold` must be at most the number of neighbors, {k} for {clients}'
      f' clients. Found {threshold}. Lower it, or wait for more clients.'
    )
  if security.active and 2 * threshold <= k:
    raise ValueError(
      f'`threshold` must be above half of the {k} neighbors in the class'
      f' {security.threat!r}. Found {threshold}. Take {k // 2 + 1} and half of'
      " the corrupt neighbors, or the class 'curious'."
    )
  return Parameters(k, threshold)


def _sparsest(
  clients: int, security: Security, sigma: int, eta: int
) -> Parameters:
  """Returns k and t of a feasible cohort."""
  corrupt, dropouts = counts(clients, security)
  weight = _weight(security)
  log_open = -(sigma + 1) * math.log(2) - math.log(clients)
  log_lost = -eta * math.log(2) - math.log(clients)
  k = _sparsest_connected(clients, corrupt + dropouts, sigma)
  while k < clients - 1:
    bad = _most(clients - 1, corrupt, k, log_open)
    gone = _most(clients - 1, dropouts, k, log_lost)
    excess = bad + weight * gone - k
    if excess < 0:
      return Parameters(k, _smallest_threshold(k, bad, security))
    # More draws hold no fewer corrupt ones and dropouts: the excess falls by at
    # most 1 with each, and no k in between would do.
    k += excess + 1 + (excess + 1) % 2
  k = clients - 1
  return Parameters(k, _smallest_threshold(k, corrupt, security))


def _smallest_threshold(k: int, corrupt: int, security: Security) -> int:
  """Returns the smallest t for which no secret is open (condition 2)."""
  return (k + corrupt) // 2 + 1 if security.active else corrupt + 1


def _sparsest_connected(clients: int, bad: int, sigma: int) -> int:
  """Returns the smallest even k that fulfils condition 1, or n - 1 or n."""

  def is_connected(k: int) -> bool:
    if k > bad or k >= clients - 1:
      return True
    log_parted = (
      math.log(clients)
      + math.log(clients - k - 1)
      - math.log(2)
      + math.lgamma(clients - k + 1)
      - math.lgamma(clients + 1)
      + math.lgamma(bad + 1)
      - math.lgamma(bad - k + 1)
    )
    return log_parted <= -(sigma + 1) * math.log(2)

  even = range(2, clients + 1, 2)
  return even[bisect.bisect_left(even, True, key=is_connected)]


def _most(others: int, marked: int, draws: int, log_tail: float) -> int:
  """Returns the smallest x with log P[X > x] <= `log_tail`.

  X is the number of marked ones among `draws` out of `others`, hypergeometric.
  Probabilities are summed as logarithms from the far end of the tail, so that
  none is the difference of two larger ones.
  """
  unmarked = others - marked
  x = np.arange(max(0, draws - unmarked), min(draws, marked) + 1, dtype=float)
  ratios = ((marked - x) * (draws - x))[:-1] / (
    x[1:] * (unmarked - draws + x[1:])
  )
  log_weights = np.concatenate([[0.0], np.cumsum(np.log(ratios))])
  log_tails = np.logaddexp.accumulate(log_weights[::-1])[::-1]
  likely = np.count_nonzero(log_tails - log_tails[0] > log_tail)
  return int(x[0]) + int(likely) - 1


def counts(clients: int, security: Security) -> tuple[int, int]:
  """Returns floor(gamma n) and floor(delta n).

  A product such as 0.29 * 100 that lies below an integer by its rounding
  errors alone is that integer.
  """
  return (
    math.floor(round(security.corrupt * clients, 9)),
    math.floor(round(security.dropout * clients, 9)),
  )


def _weight(security: Security) -> int:
  """Returns w: what a dropout counts in corrupt clients."""
  return 2 if security.active else 1


def _sum(security: Security) -> float:
  """Returns gamma + w delta."""
  return round(security.corrupt + _weight(security) * security.dropout, 9)


def _is_feasible(clients: int, security: Security) -> bool:
  """Whether there are k and t: if so, those of the complete graph will do."""
  corrupt, dropouts = counts(clients, security)
  return (
    _sum(security) <= LARGEST_SUM
    and corrupt + _weight(security) * dropouts < clients - 1
  )


def _infeasible(clients: int, security: Security) -> str:
  """Says what is wrong with an infeasible cohort, and what would do."""
  times = '2 * ' if security.active else ''
  if _sum(security) > LARGEST_SUM:
    problem = (
      f'`corrupt` + {times}`dropout` must be at most {LARGEST_SUM:g} in the'
      f' class {security.threat!r}. Found {security.corrupt:g} +'
      f' {times}{security.dropout:g} = {_sum(security):g}.'
    )
  else:
    corrupt, dropouts = counts(clients, security)
    problem = (
      f'The corrupt clients + {times}the dropouts must be fewer than n -'
      f' 1 = {clients - 1} for {clients} clients in the class'
      f' {security.threat!r}. Found {corrupt} + {times}{dropouts}.'
    )
  remedies = '; '.join(_remedies(clients, security))
  if not remedies:
    return f'{problem} Lower both fractions.'
  return f'{problem} Each of these would do: {remedies}.'


def _remedies(clients: int, security: Security) -> Iterator[str]:
  """Yields what would make it feasible: one change each, the least of all."""
  changes: dict[str, Callable[[float], Security]] = {
    'corrupt': lambda value: dataclasses.replace(security, corrupt=value),
    'dropout': lambda value: dataclasses.replace(security, dropout=value),
  }
  for name, change in changes.items():
    largest = _largest_fraction(clients, change)
    if largest is not None:
      yield f'`{name}` up to {largest:g}'
  if security.active:
    curious = dataclasses.replace(security, threat='curious')
    if _is_feasible(clients, curious):
      yield "`threat` 'curious'"
  if _sum(security) <= LARGEST_SUM:
    # Ends at 11 at the latest: there, 0.9 n is below n - 1.
    numbers = itertools.count(clients + 1)
    yield f'{next(n for n in numbers if _is_feasible(n, security))} clients'


def _largest_fraction(
  clients: int, change: Callable[[float], Security]
) -> float | None:
  """Returns the largest feasible fraction in steps of 1/10000, if any is."""

  def fails(steps: int) -> bool:
    return not _is_feasible(clients, change(steps / _STEPS))

  feasible = bisect.bisect_left(range(_STEPS), True, key=fails)
  return (feasible - 1) / _STEPS if feasible else None
