# SPDX-License-Identifier: Apache-2.0
"""Composition of privacy loss distributions, fast enough for every round.

Each round's profile becomes a distribution on a grid of losses by the
pessimistic Connect-the-Dots rule [DGKKM22, Algorithm 1, arXiv 2207.04380],
whose profile is never below the round's. Composition is convolution, kept as a
product of Fourier transforms modulo the size of the grid. What wraps around is
bounded by Chernoff's inequality and taken off delta.

The grid follows from the run: its step from the accuracy that is asked of
epsilon, its size from the range that the composed loss has.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy import fft

from tff_secagg_ext.accounting import (
  arrays,
  caching,
  discretization,
  profiles,
)

# Relative accuracy of epsilon that the step is chosen for.
_ACCURACY = 4e-4
# The part of delta that tails beyond the grid may take.
_TAIL_SHARE = 1e-5
# Below this epsilon, in nats, the accuracy is absolute.
_LEAST = 1e-4
_MAX_SIZE = 2**22
# Bytes of transforms, and of powers of them: of 100 distinct rounds in a run of
# 10,000, and of all squares in one of a million.
_REMEMBERED = 2**28


@dataclasses.dataclass(frozen=True)
class Grid:
  """Losses that are multiples of `step` nats, modulo `size` of them."""

  step: float
  size: int


@caching.by_bytes(_REMEMBERED)
def _transforms(
  profile: profiles.Profile, grid: Grid
) -> tuple[arrays.ComplexArray, arrays.FloatArray]:
  """Returns both directions' transforms, and ln P(loss is finite)."""
  rows, finite = [], []
  for reverse in discretization.DIRECTIONS:
    first, masses, infinite = discretization.discretize(
      profile, reverse, grid.step
    )
    folded = np.zeros(-(-masses.size // grid.size) * grid.size)
    folded[: masses.size] = masses
    folded = folded.reshape(-1, grid.size).sum(axis=0)
    rows.append(fft.rfft(np.roll(folded, first % grid.size)))
    finite.append(math.log1p(-infinite))
  return np.asarray(rows), np.asarray(finite)


@caching.by_bytes(_REMEMBERED)
def _power(
  profile: profiles.Profile, grid: Grid, exponent: int
) -> arrays.ComplexArray:
  """Returns the transforms of `exponent` rounds.

  The rounding errors depend on the exponent alone, not on what is cached.
  """
  last = exponent & -exponent
  if last != exponent:
    rest = _power(profile, grid, exponent - last)
    return np.asarray(rest * _power(profile, grid, last))
  if exponent == 1:
    return _transforms(profile, grid)[0]
  half = _power(profile, grid, exponent // 2)
  return half * half


@dataclasses.dataclass(frozen=True)
class _Product:
  """Transforms of the first `length` runs of a composition, multiplied."""

  grid: Grid
  length: int
  transforms: arrays.ComplexArray
  finite: arrays.FloatArray


@dataclasses.dataclass(frozen=True, eq=False)
class Composition:
  """Rounds composed in order; each `then` returns a new, longer one.

  Guarantees:
    - `epsilon` depends on the rounds and their order alone: one by one or many
      at once give the same number to the last bit;
    - it is never below the composed pair's epsilon, up to rounding errors of
      double precision, which are measured and taken off delta;
    - `then` and `epsilon` take time that does not grow with the number of
      rounds, but for its logarithm, unless the grid changes.

  Attributes:
    runs: Profiles with the number of consecutive rounds that had them.
    rounds: The number of rounds.
    settled: Sum of the cumulants of all runs but the last, both directions.
  """

  runs: tuple[tuple[profiles.Profile, int], ...] = ()
  rounds: int = 0
  settled: arrays.FloatArray | float = 0.0
  # The product of all runs but the last, for the grid that was used last.
  cache: list[_Product] = dataclasses.field(default_factory=list, repr=False)

  def then(self, profile: profiles.Profile, count: int = 1) -> Composition:
    """Returns this composition followed by `count` rounds of `profile`."""
    rounds = self.rounds + count
    if self.runs and self.runs[-1][0] == profile:
      runs = (*self.runs[:-1], (profile, self.runs[-1][1] + count))
      return dataclasses.replace(self, runs=runs, rounds=rounds)
    return Composition(
      runs=(*self.runs, (profile, count)),
      rounds=rounds,
      settled=self._cumulants() if self.runs else 0.0,
      cache=list(self.cache),
    )

  def epsilon(self, delta: float) -> float:
    """Returns the larger epsilon of both directions; 0 for no rounds.

    Infinite if rounding errors or the tails leave nothing of `delta`.
    """
    if not self.runs:
      return 0.0
    bounds = (self._cumulants() - math.log(delta)) / discretization.ORDERS
    row = int(np.argmax(bounds.min(axis=1)))
    best = int(np.argmin(bounds[row]))
    step = _step(
      float(bounds[row, best]), discretization.ORDERS[best], self.rounds
    )
    value, used = math.inf, []
    while True:
      grid, tops = self._grid(step, delta)
      if grid.size > _MAX_SIZE:
        break
      prefix, product = self._products(grid)
      used.append(prefix)
      value, slope = max(
        self._solve_direction(product, tops, delta, row)
        for row in range(len(discretization.DIRECTIONS))
      )
      # The moments of rare large losses can hide how fast delta falls.
      finer = _step(value, slope, self.rounds)
      if finer >= step:
        break
      step = finer
    self.cache[:] = used
    return value

  def _solve_direction(
    self, product: _Product, tops: arrays.FloatArray, delta: float, row: int
  ) -> tuple[float, float]:
    grid = product.grid
    lost = -math.expm1(product.finite[row]) + self.rounds * profiles.BEYOND
    budget = delta * (1.0 - _TAIL_SHARE) - lost
    masses = fft.irfft(product.transforms[row], grid.size)
    return _solve(masses, grid, math.ceil(tops[row] / grid.step), budget)

  def _cumulants(self) -> arrays.FloatArray:
    profile, count = self.runs[-1]
    return np.asarray(self.settled + count * discretization.cumulants(profile))

  def _grid(self, step: float, delta: float) -> tuple[Grid, arrays.FloatArray]:
    """Returns a grid for the step, and the losses that the tails start at.

    Both directions pass them with probability at most _TAIL_SHARE of delta
    (Chernoff). The cumulants of a grid exceed a round's by at most
    order (1 + order) step^2 / 8 (docs/accounting.md, discretisation).
    """
    slack = (
      self.rounds
      * step**2
      / 8.0
      * discretization.ORDERS
      * (1.0 + discretization.ORDERS)
    )
    cumulants = self._cumulants() + slack
    tail = math.log(delta * _TAIL_SHARE)
    tops = ((cumulants - tail) / discretization.ORDERS).min(axis=1)
    bottoms = ((cumulants[::-1] - tail) / (1.0 + discretization.ORDERS)).min(
      axis=1
    )
    points = max(float(np.max(tops + bottoms)) / step + 2.0, 64.0)
    return Grid(step=step, size=2 ** math.ceil(math.log2(points))), tops

  def _products(self, grid: Grid) -> tuple[_Product, _Product]:
    """Returns the products of all runs but the last, and of all."""
    done = next((p for p in self.cache if p.grid == grid), None)
    if done is None:
      size = grid.size // 2 + 1
      done = _Product(grid, 0, np.ones((2, size), complex), np.zeros(2))
    for profile, count in self.runs[done.length : -1]:
      done = _extended(done, profile, count)
    return done, _extended(done, *self.runs[-1])


def _extended(
  product: _Product, profile: profiles.Profile, count: int
) -> _Product:
  grid = product.grid
  return _Product(
    grid=grid,
    length=product.length + 1,
    transforms=product.transforms * _power(profile, grid, count),
    finite=product.finite + count * _transforms(profile, grid)[1],
  )


def _step(epsilon: float, slope: float, rounds: int) -> float:
  """Returns the step that moves epsilon by about _ACCURACY of itself.

  A power of two, so that it rarely changes as a run goes on.

  Args:
    epsilon: What is to be accurate, in nats.
    slope: -d ln delta / d epsilon there.
    rounds: The number of rounds.
  """
  if not math.isfinite(epsilon):
    return math.inf
  square = 8.0 * _ACCURACY * max(epsilon, _LEAST) / (rounds * (1.0 + slope))
  return float(2.0 ** math.floor(0.5 * math.log2(square)))


def _solve(
  masses: arrays.FloatArray, grid: Grid, top: int, budget: float
) -> tuple[float, float]:
  """Returns the epsilon where the composed divergence falls to `budget`.

  Also returns -d ln delta / d epsilon there.

  Args:
    masses: Probabilities of the losses, in nats `grid.step` times their index
      modulo `grid.size`.
    grid: The grid.
    top: The largest loss of the window, in steps.
    budget: What is left of delta.
  """
  # Probabilities are not negative: what is below 0 measures rounding errors.
  budget -= 4.0 * float(-np.minimum(masses, 0.0).sum())
  start = max(0, top + 1 - grid.size)
  window = np.roll(masses, -start % grid.size)[: top + 1 - start]
  above = np.cumsum(window[::-1])[::-1]
  if budget <= 0.0 or (above.size and above[-1] > budget):
    return math.inf, 0.0
  if not above.size:
    return 0.0, 0.0
  centre = int(np.argmax(above <= budget))
  # Epsilon is in the 600 nats below the centre, which do not overflow.
  lowest = max(0, centre - int(600.0 / grid.step))
  window, above = window[lowest:], above[lowest:]
  offsets = (np.arange(window.size) + lowest - centre) * grid.step
  below = np.cumsum((window * np.exp(-offsets))[::-1])[::-1]
  below *= np.exp(np.minimum(offsets, 0.0))
  index = int(np.argmax(above - below <= budget))
  loss = (start + lowest + index) * grid.step
  if index == 0:
    return loss, 0.0
  # Between grid points the divergence is linear in e^epsilon.
  shift = math.log((above[index] - budget) / below[index])
  return loss + min(max(shift, -grid.step), 0.0), below[index] / budget
