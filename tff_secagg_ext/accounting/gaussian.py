# SPDX-License-Identifier: Apache-2.0
"""Epsilon of the Gaussian mechanism, exactly."""

from __future__ import annotations

import math

import numpy as np

from tff_secagg_ext.accounting import profiles

_RELATIVE_ERROR = 1e-12
_POINTS = 513


def epsilon(ratio: float, delta: float) -> float:
  """Returns the least epsilon of N(ratio, 1) against N(0, 1) at `delta`.

  Guarantees:
    - never below the exact value ([BW18, Thm 8], arXiv 1805.06530), and above
      it by a relative error of at most 1e-12 plus rounding;
    - infinite if `delta` is 0 and `ratio` is not.

  Args:
    ratio: Sensitivity over standard deviation, at least 0. T rounds compose to
      the square root of the sum of their squares.
    delta: In [0, 1].
  """
  if ratio == 0.0:
    return 0.0
  if delta <= 0.0:
    return math.inf

  if profiles.gaussian(ratio, np.zeros(1))[0] <= delta:
    return 0.0
  # H_a is below P(loss > epsilon) <= exp(-(epsilon/m - m/2)^2 / 2).
  low, high = 0.0, ratio**2 / 2.0 + ratio * math.sqrt(-2.0 * math.log(delta))
  while high - low > _RELATIVE_ERROR * high:
    points = np.linspace(low, high, _POINTS)
    # The profile falls; its last point is not above delta, up to rounding.
    over = np.flatnonzero(profiles.gaussian(ratio, points[:-1]) > delta)
    index = int(over[-1]) if over.size else 0
    low, high = float(points[index]), float(points[index + 1])
  return high
