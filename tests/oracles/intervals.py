# SPDX-License-Identifier: Apache-2.0
"""Sums of discrete Gaussians in integer arithmetic: bounds on both sides.

A number is between two integers, in units of 2^-BITS; every operation rounds
the lower one down and the upper one up. Nothing is shared with the package.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from fractions import Fraction
import functools

import numpy as np

BITS = 256
ONE = 1 << BITS
# Of a share with a variance of at most 4, what is beyond has less than a unit
# of weight each; five shares lose less than _LOST units together, because the
# weights of a share sum to less than 7.
_REACH = 40
_LOST = 1 << 20

Bounds = tuple[int, int]


def exp_below(x: Fraction, terms: int = 160) -> Fraction:
  """A number not above e^x, for x >= 0: a partial sum of its series."""
  term = total = Fraction(1)
  for n in range(1, terms):
    term = term * x / n
    total += term
  return total


def _exp_minus(x: Fraction) -> Bounds:
  """e^-x for 0 <= x <= 4."""
  below = exp_below(x)
  # What the series lacks is less than 2 x^160 / 160!, far below a unit.
  above = below + Fraction(1, ONE)
  return int(ONE / above), int(ONE / below) + 1


def _times(one: Bounds, other: Bounds) -> Bounds:
  return (one[0] * other[0]) >> BITS, -((-one[1] * other[1]) >> BITS)


@functools.cache
def weights(variance: Fraction, reach: int) -> list[Bounds]:
  """exp(-k^2 / (2 variance)) for k = 0..reach."""
  step = _exp_minus(1 / (2 * variance))
  square, power, found = _times(step, step), step, [(ONE, ONE)]
  for _ in range(reach):
    found.append(_times(found[-1], power))
    power = _times(power, square)
  return found


@dataclasses.dataclass(frozen=True)
class Law:
  """P(sum = k) for |k| <= reach, up to one factor.

  Attributes:
    low: Lower bounds, in units.
    high: Upper bounds, in units.
    variance: Sum of the shares' variance parameters.
  """

  low: Sequence[int]
  high: Sequence[int]
  variance: Fraction

  @property
  def reach(self) -> int:
    return len(self.low) // 2

  def factor_ratio(self, last: int) -> Fraction:
    """Not below max g / min g for |k| <= last, g = P / N_Z(0, variance)."""
    normal = weights(self.variance, last)
    middle = self.reach
    ks = range(-last, last + 1)
    largest = max(
      Fraction(self.high[middle + k], normal[abs(k)][0]) for k in ks
    )
    least = min(Fraction(self.low[middle + k], normal[abs(k)][1]) for k in ks)
    return largest / least

  def divergence(
    self, shift: int, q: Fraction, level: Fraction, reverse: bool
  ) -> Fraction:
    """Not below H_level of the sampled, shifted law against this one.

    Or of this one against that, if `reverse`.
    """
    low, high = (
      np.concatenate([[0] * shift, np.array(x, dtype=object), [0] * shift])
      for x in (self.low, self.high)
    )
    # In units over q's denominator.
    top, bottom = q.numerator, q.denominator
    mixed_low = (bottom - top) * low + top * np.roll(low, shift)
    mixed_high = (bottom - top) * high + top * np.roll(high, shift)
    if reverse:
      gaps = bottom * high * level.denominator - level.numerator * mixed_low
    else:
      gaps = mixed_high * level.denominator - level.numerator * bottom * low
    positive = int(sum(gap for gap in gaps if gap > 0))
    total = bottom * level.denominator * int(sum(self.low))
    return Fraction(positive, total) + Fraction(_LOST, int(sum(self.low)))


@functools.cache
def total(variances: tuple[Fraction, ...]) -> Law:
  """The law of a sum of at most five shares, of variances of at most 4."""
  assert len(variances) <= 5
  assert max(variances) <= 4
  tables = []
  for variance in variances:
    half = weights(variance, _REACH)
    both = [half[abs(k)] for k in range(-_REACH, _REACH + 1)]
    tables.append(
      [np.array(side, dtype=object) for side in zip(*both, strict=True)]
    )
  low, high = tables[0]
  for lower, upper in tables[1:]:
    low = np.convolve(low, lower) >> BITS
    high = -(-np.convolve(high, upper) >> BITS)
  return Law(list(low), list(high + _LOST), sum(variances, Fraction(0)))
