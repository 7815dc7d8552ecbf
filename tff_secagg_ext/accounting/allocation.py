# SPDX-License-Identifier: Apache-2.0
"""The privacy profile of an epoch in which each client has one random round.

Each client takes part in one uniformly random round of t; m is its sensitivity
over the noise's standard deviation. Theorem 9 of docs/accounting.md: the
likelihood ratio of such an epoch, client present against zeroed, is at worst

  L = (X_1 + ... + X_t) / t,  X_i = exp(m g_i - m^2/2),

with independent standard normal g_i under the zeroed law; so that
H_a(present, zeroed) = E[L - a]_+ and H_a(zeroed, present) = E[1 - a L]_+. The
same pair is in [FS25, arXiv 2502.08202] and [FS26, arXiv 2602.17284].

Both are expectations of convex functions of L, hence grow when an X_i, or a
partial mean, is replaced by another that has the same mean and is larger in
the convex order. Spreading a mass onto its two neighbours on a grid, so that
its mean stays, is such a replacement. So the law of L comes from sums over
grids, by doubling, and is pessimistic whatever the grids.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from tff_secagg_ext.accounting import arrays, discretization, profiles

# Above it, one round tells nearly all, and no amplification is claimed.
LARGEST_RATIO = 8.0
# Grid points on each side of 1, and standard deviations of g that they cover.
_POINTS = 500
_REACH = 10.0
# Spacing of the grid at 1, relative to its spacing far out.
_BEND = 0.25
# More than the relative rounding error of any sum here: all terms are positive.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True, eq=False)
class Law:
  """A likelihood ratio L of mean 1 on a grid, under the zeroed law.

  Attributes:
    values: Increasing, 0 first and 1 among them.
    masses: Their probabilities, of the shape of `values`.
    infinite: What of the mean of L is at infinity: the probability of that
      under the law with the client present.
  """

  values: arrays.FloatArray
  masses: arrays.FloatArray
  infinite: float

  @functools.cached_property
  def above(self) -> arrays.FloatArray:
    """E[L - v]_+ at each value v."""
    tail = np.cumsum(self.masses[:0:-1])[::-1]
    steps = np.append(tail * np.diff(self.values), self.infinite)
    return np.asarray(np.cumsum(steps[::-1])[::-1])

  @functools.cached_property
  def below(self) -> arrays.FloatArray:
    """E[v - L]_+ at each value v."""
    head = np.cumsum(self.masses[:-1])
    steps = np.concatenate([[0.0], head * np.diff(self.values)])
    return np.asarray(np.cumsum(steps))


def _grid(m: float, count: int) -> arrays.FloatArray:
  """Returns values for a mean of `count` ratios: dense where its mass is.

  Logarithms of the values are s sinh(w) for evenly spaced w, s of the order of
  the standard deviation of the mean's logarithm.
  """
  variance = math.expm1(m * m) / count
  spread = _BEND * math.sqrt(math.log1p(variance))
  # A mean is large by chance, or for a single large term.
  term = math.exp(m * m / 2.0 + _REACH * m) / count
  top = math.log1p(term + _REACH * math.sqrt(variance))
  bottom = m * m / 2.0 + _REACH * m
  steps = np.arange(1.0, _POINTS + 1.0) / _POINTS
  up = spread * np.sinh(steps * math.asinh(top / spread))
  down = spread * np.sinh(steps * math.asinh(bottom / spread))
  return np.concatenate([[0.0], np.exp(-down[::-1]), [1.0], np.exp(up)])


def _one(m: float) -> Law:
  """Returns the law of X_1: that of a Gaussian, with its dots connected."""
  values = _grid(m, 1)
  losses = np.log(values[1:])
  excess = profiles.Profile('poisson', m, 1.0).excess(losses, False)
  present = discretization.connect_dots(excess, np.diff(losses))
  present[_POINTS] += 1.0
  masses = np.maximum(present, 0.0) / values[1:]
  # E[v - X]_+ at the least v above 0 is v times the mass at 0.
  at_zero = excess[0] / values[1]
  return Law(values, np.append(at_zero, masses), float(excess[-1]))


def _mean(m: float, laws: tuple[Law, Law], counts: tuple[int, int]) -> Law:
  """Returns the law of the mean of two independent means, of these counts."""
  total = sum(counts)
  one, other = (
    law.values * (count / total)
    for law, count in zip(laws, counts, strict=True)
  )
  values = _grid(m, total)
  sums = np.add.outer(one, other).ravel()
  masses = np.multiply.outer(laws[0].masses, laws[1].masses).ravel()
  cells = np.searchsorted(values, sums, side='right') - 1
  cells = np.minimum(cells, values.size - 2)
  left, right = values[cells], values[cells + 1]
  # Beyond the last value the mass stays there, and the mean goes further.
  shares = np.minimum((sums - left) / (right - left), 1.0)
  spilled = float(np.sum(masses * np.maximum(sums - values[-1], 0.0)))
  spread = np.zeros(values.size)
  spread += np.bincount(cells, masses * (1.0 - shares), values.size)
  spread += np.bincount(cells + 1, masses * shares, values.size)
  infinite = sum(
    law.infinite * count / total
    for law, count in zip(laws, counts, strict=True)
  )
  return Law(values, spread, infinite + spilled)


@functools.lru_cache(maxsize=256)
def law(m: float, rounds: int) -> Law:
  """Returns L for an epoch of `rounds` rounds, never less in convex order.

  Args:
    m: Sensitivity over standard deviation, in (0, LARGEST_RATIO].
    rounds: t, at least 1.
  """
  if rounds == 1:
    return _one(m)
  half = rounds // 2
  rest = rounds - half
  return _mean(m, (law(m, half), law(m, rest)), (half, rest))


def profile(m: float, rounds: int) -> profiles.Profile:
  """Returns the dominating pair of an epoch of `rounds` rounds.

  Args:
    m: Sensitivity over standard deviation, above 0.
    rounds: t, at least 1.
  """
  if rounds == 1 or m > LARGEST_RATIO:
    return profiles.Profile('poisson', m, 1.0)
  return _Allocated('allocated', m, 1.0 / rounds)


class _Allocated(profiles.Profile):
  """The pair of `law`, q being one over the number of rounds."""

  @property
  def tails(self) -> tuple[profiles.Tail, profiles.Tail]:
    """The profiles above 0, with their losses: present, absent."""
    return (_present, _present_losses), (_absent, _absent_losses)


def _law(m: float, q: float) -> Law:
  return law(m, round(1.0 / q))


def _present(
  m: float, q: float, epsilon: arrays.FloatArray
) -> arrays.FloatArray:
  """E[L - a]_+ at a = e^epsilon for epsilon >= 0: linear between values."""
  found = _law(m, q)
  a = np.exp(np.minimum(epsilon, 700.0))
  value = np.interp(a, found.values, found.above)
  return np.asarray(value * (1.0 + _ROUNDING))


def _absent(
  m: float, q: float, epsilon: arrays.FloatArray
) -> arrays.FloatArray:
  """E[1 - a L]_+ = a E[1/a - L]_+ at a = e^epsilon for epsilon >= 0."""
  found = _law(m, q)
  exponent = np.minimum(epsilon, 700.0)
  value = np.interp(np.exp(-exponent), found.values, found.below)
  return np.asarray(value * np.exp(exponent) * (1.0 + _ROUNDING))


def _present_losses(m: float, q: float) -> arrays.FloatArray:
  return np.asarray(np.log(_law(m, q).values[_POINTS + 2 :]))


def _absent_losses(m: float, q: float) -> arrays.FloatArray:
  return np.asarray(-np.log(_law(m, q).values[_POINTS:0:-1]))
