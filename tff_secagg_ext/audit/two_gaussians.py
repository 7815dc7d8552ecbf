# SPDX-License-Identifier: Apache-2.0
"""Epsilon between two Gaussians of different means and deviations, exactly.

P = N(mean, stddev^2) and Q = N(0, 1). The set where p > e^epsilon q is an
interval, its complement or a half-line, whose ends solve a quadratic equation;
with equal deviations it is [BW18, arXiv 1805.06530, Thm 8].
"""

from __future__ import annotations

import math

from scipy import optimize, special

from tff_secagg_ext import _validate

_TOLERANCE = 1e-13


def epsilon(mean: float, stddev: float, delta: float) -> float:
  """Returns the least epsilon of P against Q, and of Q against P, at `delta`.

  Args:
    mean: Finite. Q has the mean 0 and the standard deviation 1.
    stddev: Positive.
    delta: In (0, 1). At 0 no epsilon is finite, but for equal Gaussians.

  Returns:
    Epsilon in nats, to 12 digits or to 1e-12.

  Raises:
    ValueError: If an argument is outside of its range.
  """
  mean = _validate.check_float(mean, 'mean')
  stddev = _validate.check_float(stddev, 'stddev', minimum=0.0, exclusive=True)
  delta = check_positive_delta(delta)
  high = 1.0
  while divergence(mean, stddev, high) > delta:
    high *= 2.0
  low = 0.0 if high == 1.0 else high / 2.0
  if divergence(mean, stddev, low) <= delta:
    return 0.0
  return float(
    optimize.brentq(
      lambda middle: divergence(mean, stddev, middle) - delta,
      low,
      high,
      xtol=_TOLERANCE,
      rtol=_TOLERANCE,
    )
  )


def check_positive_delta(delta: object) -> float:
  """Returns `delta`; raises unless it is in (0, 1)."""
  return _validate.check_float(
    delta,
    'delta',
    minimum=0.0,
    maximum=1.0,
    exclusive=True,
    remedy='Gaussians have no finite epsilon at delta 0; use a positive one.',
  )


def divergence(mean: float, stddev: float, epsilon: float) -> float:
  """Returns the larger of H_a(P, Q) and H_a(Q, P) at a = e^epsilon.

  H_a(P, Q) = sup over events S of P(S) - a Q(S).
  """
  # (x - mean) / stddev turns P into N(0, 1) and Q into the first argument.
  return max(
    _one_way(abs(mean), stddev, epsilon),
    _one_way(abs(mean) / stddev, 1.0 / stddev, epsilon),
  )


def _one_way(mean: float, stddev: float, epsilon: float) -> float:
  """H_a(N(mean, stddev^2), N(0, 1)) for mean >= 0, by where p > a q."""
  # ln p - ln q - epsilon = square x^2 + slope x + constant.
  square = (1.0 - stddev**-2) / 2.0
  slope = mean / stddev**2
  constant = -(mean**2) / (2.0 * stddev**2) - math.log(stddev) - epsilon
  if square == 0.0:
    if slope == 0.0:
      return 0.0
    return _excess(-constant / slope, math.inf, mean, stddev, epsilon)
  discriminant = slope**2 - 4.0 * square * constant
  if discriminant <= 0.0:
    # Nowhere: p cannot be larger everywhere.
    return 0.0
  # Neither root by a difference of numbers that are nearly equal.
  stable = -(slope + math.sqrt(discriminant)) / 2.0
  left, right = sorted((stable / square, constant / stable))
  if square < 0.0:
    return _excess(left, right, mean, stddev, epsilon)
  return _excess(-math.inf, left, mean, stddev, epsilon) + _excess(
    right, math.inf, mean, stddev, epsilon
  )


def _excess(
  left: float, right: float, mean: float, stddev: float, epsilon: float
) -> float:
  """P - e^epsilon Q of the interval between `left` and `right`."""
  p = _log_probability((left - mean) / stddev, (right - mean) / stddev)
  q = _log_probability(left, right)
  # Where p > e^epsilon q, e^epsilon Q is at most P: it cannot overflow.
  return math.exp(p) - math.exp(min(0.0, epsilon + q))


def _log_probability(left: float, right: float) -> float:
  """Returns ln P(left < N(0, 1) < right), in the tails too."""
  if left > 0.0:
    left, right = -right, -left
  upper = float(special.log_ndtr(right))
  lower = float(special.log_ndtr(left))
  if upper == lower:
    return -math.inf
  return upper + math.log(-math.expm1(lower - upper))
