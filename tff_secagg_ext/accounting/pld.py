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
import functools
import math

import numpy as np
import numpy.typing as npt
from scipy import fft
from scipy import special

from tff_secagg_ext.accounting import profiles

FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]

# Relative accuracy of epsilon that the step is chosen for.
_ACCURACY = 4e-4
# The part of delta that tails beyond the grid may take.
_TAIL_SHARE = 1e-5
_BASE_POINTS = 2048
_MAX_SIZE = 2**22
# Orders of the cumulants, in 1/nats.
_ORDERS: FloatArray = 2.0 ** np.arange(-9.0, 19.0, 0.5)
_DIRECTIONS = (False, True)


@dataclasses.dataclass(frozen=True)
class Grid:
  """Losses that are multiples of `step` nats, modulo `size` of them."""

  step: float
  size: int


def discretize(
    profile: profiles.Profile, reverse: bool, step: float
) -> tuple[int, FloatArray, float]:
  """Returns the pessimistic Connect-the-Dots distribution of a round's loss.

  Guarantees:
    - its hockey-stick divergence is that of the profile at the multiples of
      `step` within its reach, and at least that everywhere.

  Returns:
    The first grid point in steps, the probabilities from there on, and the
    probability of an infinite loss.
  """
  above, below = profile.reach(reverse)
  first, last = -math.ceil(below / step), math.ceil(above / step)
  excess = profile.excess(np.arange(first, last + 1) * step, reverse)
  # Connect-the-Dots is linear in the profile and gives [1 - a]_+ a unit mass
  # at loss 0. Only the rest is differenced, so that nothing cancels.
  padded = np.concatenate([[0.0], excess, excess[-1:]])
  steps = np.diff(padded)
  masses = (steps[1:] - math.exp(step) * steps[:-1]) / math.expm1(step)
  masses[-first] += 1.0
  return first, np.maximum(masses, 0.0), float(excess[-1])


def _base_step(profile: profiles.Profile) -> float:
  reach = sum(profile.reach(False))
  return float(2.0 ** math.floor(math.log2(reach / _BASE_POINTS)))


@functools.lru_cache(maxsize=4096)
def _cumulants(profile: profiles.Profile) -> FloatArray:
  """Returns ln E e^(order * loss) for both directions, on the base grid.

  Steps are powers of two, so that a finer grid holds the base grid's points,
  its distribution is dominated by the base grid's, and these are upper bounds
  for it too.
  """
  step = _base_step(profile)
  rows = []
  for reverse in _DIRECTIONS:
    first, masses, _ = discretize(profile, reverse, step)
    kept = np.flatnonzero(masses)
    losses = (first + kept) * step
    exponents = np.outer(_ORDERS, losses) + np.log(masses[kept])
    rows.append(special.logsumexp(exponents, axis=1))
  return np.asarray(rows)


@functools.lru_cache(maxsize=128)
def _transforms(
    profile: profiles.Profile, grid: Grid
) -> tuple[ComplexArray, FloatArray]:
  """Returns both directions' transforms, and ln P(loss is finite)."""
  rows, finite = [], []
  for reverse in _DIRECTIONS:
    first, masses, infinite = discretize(profile, reverse, grid.step)
    folded = np.zeros(-(-masses.size // grid.size) * grid.size)
    folded[: masses.size] = masses
    folded = folded.reshape(-1, grid.size).sum(axis=0)
    rows.append(fft.rfft(np.roll(folded, first % grid.size)))
    finite.append(math.log1p(-infinite))
  return np.asarray(rows), np.asarray(finite)


def _power(base: ComplexArray, exponent: int) -> ComplexArray:
  result = base
  for bit in bin(exponent)[3:]:
    result = result * result
    if bit == '1':
      result = result * base
  return result


@dataclasses.dataclass(frozen=True)
class _Product:
  """Transforms of the first `length` runs of a composition, multiplied."""

  grid: Grid
  length: int
  transforms: ComplexArray
  finite: FloatArray


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
    finest: The least base step of any run, in nats.
  """

  runs: tuple[tuple[profiles.Profile, int], ...] = ()
  rounds: int = 0
  settled: FloatArray | float = 0.0
  finest: float = math.inf
  # The product of all runs but the last, for the grid that was used last.
  cache: list[_Product] = dataclasses.field(default_factory=list, repr=False)

  def then(self, profile: profiles.Profile, count: int = 1) -> Composition:
    """Returns this composition followed by `count` rounds of `profile`."""
    rounds = self.rounds + count
    if self.runs and self.runs[-1][0] == profile:
      runs = self.runs[:-1] + ((profile, self.runs[-1][1] + count),)
      return dataclasses.replace(self, runs=runs, rounds=rounds)
    return Composition(
        runs=self.runs + ((profile, count),),
        rounds=rounds,
        settled=self._cumulants() if self.runs else 0.0,
        finest=min(self.finest, _base_step(profile)),
        cache=list(self.cache),
    )

  def epsilon(self, delta: float) -> float:
    """Returns the larger epsilon of both directions; 0 for no rounds.

    Infinite if rounding errors or the tails leave nothing of `delta`.
    """
    if not self.runs:
      return 0.0
    cumulants = self._cumulants()
    grid = self._grid(cumulants, delta)
    if grid.size > _MAX_SIZE:
      return math.inf
    product = self._product(grid)
    tops = _tail_bounds(cumulants, delta * _TAIL_SHARE)
    values = []
    for row in range(len(_DIRECTIONS)):
      infinite = -math.expm1(product.finite[row])
      values.append(
          _solve(
              fft.irfft(product.transforms[row], grid.size),
              grid,
              math.ceil(tops[row] / grid.step),
              delta * (1.0 - _TAIL_SHARE) - infinite,
          )
      )
    return max(values)

  def _cumulants(self) -> FloatArray:
    profile, count = self.runs[-1]
    return np.asarray(self.settled + count * _cumulants(profile))

  def _grid(self, cumulants: FloatArray, delta: float) -> Grid:
    """Chooses the grid; docs/accounting.md derives the step."""
    bounds = (cumulants - math.log(delta)) / _ORDERS
    row = int(np.argmax(bounds.min(axis=1)))
    best = int(np.argmin(bounds[row]))
    square = 8.0 * _ACCURACY * bounds[row, best] / (1.0 + _ORDERS[best])
    exponent = math.floor(0.5 * math.log2(square / self.rounds))
    step = min(2.0**exponent, self.finest)
    tops = _tail_bounds(cumulants, delta * _TAIL_SHARE)
    tail = math.log(delta * _TAIL_SHARE)
    bottoms = ((cumulants[::-1] - tail) / (1.0 + _ORDERS)).min(axis=1)
    width = float(np.max(tops + bottoms)) / step + 2.0
    return Grid(step=step, size=2 ** math.ceil(math.log2(max(width, 64.0))))

  def _product(self, grid: Grid) -> _Product:
    done = next((p for p in self.cache if p.grid == grid), None)
    if done is None:
      size = grid.size // 2 + 1
      done = _Product(grid, 0, np.ones((2, size), complex), np.zeros(2))
    for profile, count in self.runs[done.length : -1]:
      done = _extended(done, profile, count)
    self.cache[:] = [done]
    return _extended(done, *self.runs[-1])


def _extended(
    product: _Product, profile: profiles.Profile, count: int
) -> _Product:
  transforms, finite = _transforms(profile, product.grid)
  return _Product(
      grid=product.grid,
      length=product.length + 1,
      transforms=product.transforms * _power(transforms, count),
      finite=product.finite + count * finite,
  )


def _tail_bounds(cumulants: FloatArray, tail: float) -> FloatArray:
  """Returns the losses passed with probability at most `tail` (Chernoff)."""
  return np.asarray(((cumulants - math.log(tail)) / _ORDERS).min(axis=1))


def _solve(masses: FloatArray, grid: Grid, top: int, budget: float) -> float:
  """Returns the epsilon at which the composed divergence falls to `budget`.

  Args:
    masses: Probabilities of the losses, in nats `grid.step` times their index
      modulo `grid.size`.
    grid: The grid.
    top: The largest loss of the window, in steps.
    budget: What is left of delta.
  """
  # Probabilities are not negative: what is below 0 measures rounding errors.
  budget -= 4.0 * float(-np.minimum(masses, 0.0).sum())
  if budget <= 0.0:
    return math.inf
  if top <= 0:
    return 0.0
  start = max(0, top + 1 - grid.size)
  window = masses[np.arange(start, top + 1) % grid.size]
  above = np.cumsum(window[::-1])[::-1]
  if above[-1] > budget:
    return math.inf
  centre = int(np.argmax(above <= budget))
  # Epsilon is in the 600 nats below the centre, which do not overflow.
  lowest = max(0, centre - int(600.0 / grid.step))
  window, above = window[lowest:], above[lowest:]
  offsets = (np.arange(window.size) + lowest - centre) * grid.step
  below = np.cumsum((window * np.exp(-offsets))[::-1])[::-1]
  divergences = above - np.exp(np.minimum(offsets, 0.0)) * below
  index = int(np.argmax(divergences <= budget))
  if index == 0:
    return (start + lowest) * grid.step
  loss = (start + lowest + index) * grid.step
  fraction = math.log((above[index] - budget) / below[index]) - offsets[index]
  return loss + min(max(fraction, -grid.step), 0.0)
