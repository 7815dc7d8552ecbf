# SPDX-License-Identifier: Apache-2.0
"""Tables for sampling integers by inversion of their distribution function.

All arithmetic is on Python integers: weights in fixed point, thresholds of 111
bits. Every rounding is bounded, and the bounds are carried along as numbers, so
that a sampler can state its total variation (TV) distance from the ideal law:

*   Leaving out outcomes of total mass t and renormalising moves a law by t.
*   Weights w_k known up to errors e_k give a law that is off by at most
    sum(e_k) / sum(w_k).
*   Rounding N thresholds down to 111 bits moves at most 2^-111 of mass at each,
    so N 2^-111 in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from fractions import Fraction
import itertools
import math

import numpy as np
import numpy.typing as npt

HEAD_BITS = 16
MIDDLE_BITS = 32
LOW_BITS = 63
_THRESHOLD_BITS = HEAD_BITS + MIDDLE_BITS + LOW_BITS
UNDECIDED = 2**16 - 1
UNIT_BITS = 160  # Weights are integers in units of 2^-160 of the largest.
_TAIL = 64 * math.log(2)
_RECURRENCE_TAIL = 100 * math.log(2)


@dataclasses.dataclass(frozen=True)
class Weights:
  """A symmetric law on the integers `-last` to `last`, up to a constant factor.

  Attributes:
    values: `values[k]` is the weight of `k` and of `-k`, for `0 <= k <= last`.
    tv_bound: TV distance between the law of these weights and the ideal one.
  """

  values: tuple[int, ...]
  tv_bound: float

  @property
  def last(self) -> int:
    """The largest outcome."""
    return len(self.values) - 1

  @property
  def both_sides(self) -> list[int]:
    """The weights of `-last` to `last`."""
    return [*self.values[:0:-1], *self.values]

  @property
  def total(self) -> int:
    """The sum of all weights, both sides."""
    return 2 * sum(self.values) - self.values[0]


def _first_reaching(exponent: Callable[[int], float], target: float) -> int:
  """Returns the smallest k >= 1 with `exponent(k) >= target`, increasing."""
  high = 1
  while exponent(high) < target:
    high *= 2
  low = high // 2
  while high - low > 1:
    middle = (low + high) // 2
    if exponent(middle) < target:
      low = middle
    else:
      high = middle
  return high


def _exp_minus(x: Fraction) -> int:
  """Returns exp(-x) for x >= 0 in units of 2^-160, off by less than 1 unit."""
  guard = 64
  one = 1 << (UNIT_BITS + guard)
  halvings = max(0, math.ceil(2 * x).bit_length())
  term = scaled = (one * x.numerator // x.denominator) >> halvings
  total, n = one + term, 1
  while term:
    n += 1
    term = (term * scaled >> (UNIT_BITS + guard)) // n
    total += term
  for _ in range(halvings):
    total = total * total >> (UNIT_BITS + guard)
  return (one * one // total) >> guard


def discrete_gaussian_weights(variance: Fraction) -> Weights:
  """Returns weights of the discrete Gaussian N_Z(0, variance) of [CKS20].

  w_k = exp(-k^2 / (2 variance)) is built up by w_k = w_{k-1} r_k and
  r_{k+1} = r_k exp(-1 / variance). In units of 2^-160, r_k is off by at most
  4k + 1 and hence w_k by at most 2 (k+1)^2; summed over both sides that is less
  than 2 (last+2)^3, while w_0 alone is 2^160 units. The tail is sub-Gaussian
  [CKS20, Cor. 17]: P(|X| > last) <= 2 exp(-(last+1)^2 / (2 variance)), and
  `last` is the first that brings it to 2^-63 or less.

  Args:
    variance: The parameter sigma^2 of the law, exact, at least 1/16.
  """
  sigma2 = float(variance)
  first_cut = _first_reaching(lambda k: k * k / (2 * sigma2), _TAIL)
  weight = 1 << UNIT_BITS
  ratio = _exp_minus(1 / (2 * variance))
  step = ratio * ratio >> UNIT_BITS
  values = [weight]
  for _ in range(1, first_cut):
    weight = weight * ratio >> UNIT_BITS
    ratio = ratio * step >> UNIT_BITS
    values.append(weight)
  tail = 2 * math.exp(-(first_cut**2) / (2 * sigma2))
  rounding = math.ldexp(2 * (first_cut + 1) ** 3, -UNIT_BITS)
  return Weights(tuple(values), tail + rounding)


def skellam_weights(variance: Fraction) -> Weights:
  """Returns weights of Skellam(mu/2, mu/2), mu = variance, as [AKL21] has it.

  P(k) = exp(-mu) I_k(mu), with the Bessel functions from Miller's backward
  recurrence I_{k-1} = I_{k+1} + (2k/mu) I_k, started at f_m = f_{m-1}. What is
  computed, f, is a multiple of I_k + c (-1)^k K_k with
  |c| = (I_{m-1} - I_m) / (K_{m-1} + K_m), and K_k increases in k: so each
  probability below m is off by at most P(m-1), absolutely. All terms are
  positive and at least 2^160 units, so that rounding m steps down to units
  costs a relative m 2^-160 at most. The values are then scaled down, w_0 to
  2^159 units or more, and rounded to units once more: (2 last + 1) 2^-159.
  The tail is Chernoff's: P(X >= k) <= exp(-(k asinh(k/mu) + mu
  - sqrt(k^2 + mu^2))), taken twice; `last` brings it to 2^-63 or less, and m is
  such that P(m-1) <= 2^-100.

  Args:
    variance: The total variance mu, exact, at least 1/16.
  """
  mu = float(variance)

  def exponent(k: int) -> float:
    return k * math.asinh(k / mu) - k * k / (math.hypot(k, mu) + mu)

  first_cut = _first_reaching(exponent, _TAIL)
  start = 1 + _first_reaching(exponent, _RECURRENCE_TAIL)
  doubled, divisor = 2 * variance.denominator, variance.numerator
  above, value = 1 << UNIT_BITS, 1 << UNIT_BITS
  values = []
  for k in range(start - 1, 0, -1):
    above, value = value, above + k * doubled * value // divisor
    values.append(value)
  shift = value.bit_length() - UNIT_BITS
  values = [v >> shift for v in values[: -first_cut - 1 : -1]]
  tail = 2 * math.exp(-exponent(first_cut))
  recurrence = (2 * first_cut + 1) * math.exp(-exponent(start - 1))
  rounding = math.ldexp(start + 4 * first_cut, -UNIT_BITS)
  return Weights(tuple(values), tail + recurrence + rounding)


def _thresholds(weights: Sequence[int], bits: int) -> list[int]:
  """Returns 2^bits times the distribution function, rounded down.

  The last value of the function, 1, is left out.
  """
  cumulated = list(itertools.accumulate(weights))
  total = cumulated.pop()
  return [(c << bits) // total for c in cumulated]


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
  """Inversion tables of one or several laws, laid end to end.

  A uniform number U of 111 bits chooses from law r the outcome whose index is
  the number of thresholds of law r that are at most U; adding the number of
  thresholds of all laws before r makes it a position. The first 16 bits of U
  alone decide it, unless a threshold begins with just those 16 bits; so do the
  first 48, with the same exception.

  Attributes:
    guide: `uint16[laws * 2^16]`, the position for law `r` and first bits `h` at
      `r * 2^16 + h`, or `UNDECIDED`.
    high: `int64[thresholds]`, increasing: `r * 2^48` plus the first 48 bits.
    low: `int64[thresholds]`, the last 63 bits.
    starts: For each law, the position of its outcome of index 0.
    tv_bound: TV distance from the laws of the weights, summed over the laws.
  """

  guide: npt.NDArray[np.uint16]
  high: npt.NDArray[np.int64]
  low: npt.NDArray[np.int64]
  starts: tuple[int, ...]
  tv_bound: float


def lay_out(laws: Sequence[Sequence[int]]) -> Table:
  """Returns the `Table` of laws given by weights of their outcomes, in order.

  Raises:
    ValueError: If there are more than 2^16 - 1 outcomes in all.
  """
  size = sum(len(law) for law in laws)
  if size > UNDECIDED:
    raise ValueError(
      f'`laws` must have at most {UNDECIDED} outcomes in all. Found {size}. '
      'Split a wide law into a sum of two.'
    )
  numbers: list[int] = []
  starts = []
  for law_number, law in enumerate(laws):
    starts.append(len(numbers))
    offset = law_number << _THRESHOLD_BITS
    numbers.extend(offset + t for t in _thresholds(law, _THRESHOLD_BITS))
  high = np.asarray([n >> LOW_BITS for n in numbers], np.int64)
  low = np.asarray([n & ((1 << LOW_BITS) - 1) for n in numbers], np.int64)
  heads = np.arange(len(laws) << HEAD_BITS)
  first = np.searchsorted(high >> MIDDLE_BITS, heads, side='left')
  end = np.searchsorted(high >> MIDDLE_BITS, heads, side='right')
  guide = np.where(first == end, first, UNDECIDED).astype(np.uint16)
  bound = math.ldexp(len(numbers), -_THRESHOLD_BITS)
  return Table(guide, high, low, tuple(starts), bound)


@dataclasses.dataclass(frozen=True, eq=False)
class Residual:
  """What is left of a law after a share of a similar one: a rare correction.

  Attributes:
    odds: Weight of the residual beside a weight of 2^160 for the similar law.
    thresholds: `int64[last]`, 2^63 times the distribution function of |X| under
      the residual, rounded down; its outcomes are 0 to `last`.
    tv_bound: TV distance that rounding them adds to the mixture.
  """

  odds: int
  thresholds: npt.NDArray[np.int64]
  tv_bound: float


def residual(law: Weights, similar: Weights) -> Residual:
  """Writes p = (1-d) q + d r, with p and q the laws of `law` and `similar`.

  1 - d is min_k p_k / q_k over the outcomes of q, found in floats, made smaller
  by 2^-49 so that their rounding cannot make it too large, and a multiple of
  2^-60. With that number taken as exact, r_k = (p_k - (1-d) q_k) / d is
  non-negative everywhere and computed without rounding; only its N thresholds
  are, to 63 bits, which moves d N 2^-63 of the mixture's mass.

  Args:
    law: It must reach as far out as `similar`.
    similar: The law that is to be drawn from with probability 1 - d.
  """
  p, q = law.values, similar.values
  ratios = np.asarray(p[: len(q)], float) / np.asarray(q, float)
  lowest = float(ratios.min()) * (similar.total / law.total)
  kept = math.floor(math.ldexp(lowest * (1 - 2**-49), 60))
  p_factor, q_factor = similar.total << 60, law.total * kept
  left = [a * p_factor - b * q_factor for a, b in zip(p, q, strict=False)]
  left.extend(a * p_factor for a in p[len(q) :])
  absolute = [left[0], *(2 * w for w in left[1:])]
  share = (1 << 60) - kept
  thresholds = np.asarray(_thresholds(absolute, LOW_BITS), np.int64)
  bound = len(p) * math.ldexp(share, -60 - LOW_BITS)
  return Residual((share << UNIT_BITS) // kept, thresholds, bound)
