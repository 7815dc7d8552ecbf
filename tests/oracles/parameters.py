# SPDX-License-Identifier: Apache-2.0
"""Naive oracles for neighbors and threshold: exact fractions, all candidates.

Nothing here is fast, and nothing is shared with the package.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
import itertools
import math


def at_least(others: int, marked: int, draws: int, count: int) -> Fraction:
  """P[`count` or more marked among `draws` out of `others`]."""
  ways = sum(
    math.comb(marked, x) * math.comb(others - marked, draws - x)
    for x in range(max(0, count), draws + 1)
  )
  return Fraction(ways, math.comb(others, draws))


def parted_bound(clients: int, k: int, bad: int) -> Fraction:
  """The union bound on a circle that falls apart when `bad` clients leave."""
  if k > bad:
    return Fraction(0)
  pairs = Fraction(clients * (clients - k - 1), 2)
  return pairs * Fraction(
    math.comb(clients - k, bad - k), math.comb(clients, bad)
  )


def parted(clients: int, k: int, bad: int) -> Fraction:
  """P[the circle falls apart], by trying all sets of clients that leave."""
  apart = sum(
    not is_connected(clients, k, set(range(clients)).difference(gone))
    for gone in itertools.combinations(range(clients), bad)
  )
  return Fraction(apart, math.comb(clients, bad))


def is_connected(clients: int, k: int, left: Iterable[int]) -> bool:
  """Whether those who are left can reach each other, k/2 steps at a time."""
  rest = set(left)
  todo = [rest.pop()] if rest else []
  while todo:
    place = todo.pop()
    around = {(place + s) % clients for s in range(-(k // 2), k // 2 + 1)}
    todo += around & rest
    rest -= around
  return not rest


def both_open(k: int, t: int, corrupt: int) -> bool:
  """Whether an active server can open two secrets of one client.

  Each of k - corrupt honest neighbors gives it a share of one or of the other;
  the corrupt ones give it both.
  """
  honest = k - corrupt
  return any(
    corrupt + one >= t and corrupt + honest - one >= t
    for one in range(honest + 1)
  )


def is_sound(
  cohort: tuple[int, int, int],
  k: int,
  t: int,
  active: bool,
  sigma: int,
  eta: int,
) -> bool:
  """Whether k and t fulfil the three conditions.

  Args:
    cohort: Clients, corrupt ones, dropouts.
    k: Even, below n - 1; or n - 1, where nothing is random.
    t: From 1 to k.
    active: Whether the server may deviate.
    sigma: Bits of security.
    eta: Bits of correctness.
  """
  clients, corrupt, dropouts = cohort
  opens = [
    c for c in range(k + 1) if (both_open(k, t, c) if active else c >= t)
  ]
  # Both kinds of server can open more with more corrupt neighbors.
  assert opens == list(range(k + 1))[k + 1 - len(opens) :]
  least = opens[0] if opens else k + 1
  if k == clients - 1:
    return corrupt < least and k - dropouts >= t
  half = Fraction(1, 2 ** (sigma + 1))
  return (
    parted_bound(clients, k, corrupt + dropouts) <= half
    and clients * at_least(clients - 1, corrupt, k, least) <= half
    and clients * at_least(clients - 1, dropouts, k, k - t + 1)
    <= Fraction(1, 2**eta)
  )


def derive(
  cohort: tuple[int, int, int], active: bool, sigma: int, eta: int
) -> tuple[int, int] | None:
  """The first sound (k, t) of all, sparse graphs before the complete."""
  clients = cohort[0]
  for k in [*range(2, clients - 1, 2), clients - 1]:
    for t in range(1, k + 1):
      if is_sound(cohort, k, t, active, sigma, eta):
        return k, t
  return None


def cut_by_choice(clients: int, corrupt: int, k: int, t: int) -> Fraction:
  """Bounds P[a server that knows the graph finds two places to cut it].

  Each is a stretch of k/2 clients with t - k/2 corrupt ones or more.
  """
  half = k // 2
  both = sum(
    math.comb(corrupt, one)
    * math.comb(clients - corrupt, half - one)
    * at_least(clients - half, corrupt - one, half, t - half)
    for one in range(t - half, min(half, corrupt) + 1)
  )
  pairs = Fraction(clients * (clients - k + 1), 2)
  return pairs * both / math.comb(clients, half)
