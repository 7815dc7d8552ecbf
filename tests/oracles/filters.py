# SPDX-License-Identifier: Apache-2.0
"""Naive oracles for budgets: integrals over outcomes, and scans.

Nothing is shared with the package.
"""

from __future__ import annotations

from collections.abc import Callable
import math

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

# A law of one round: takes outcomes, gives densities with the client and
# without it.
Law = Callable[[FloatArray], tuple[FloatArray, FloatArray]]


def gaussian_law(m: float, q: float = 1.0) -> Law:
  """(1-q) phi_0 + q phi_m against phi_0."""

  def law(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    absent = np.exp(-0.5 * x**2) / math.sqrt(2.0 * math.pi)
    return absent * (1.0 - q + q * np.exp(m * x - m * m / 2.0)), absent

  return law


def adaptive_delta(
  first: Law, choose: Callable[[float], Law], epsilon: float
) -> float:
  """The delta of two rounds of which the first one's outcome chooses the other.

  The larger of both directions, by a sum over the plane.
  """
  x = np.linspace(-12.0, 16.0, 1401)
  step = float(x[1] - x[0])
  total = np.zeros(2)
  a = math.exp(epsilon)
  for value, p1, q1 in zip(x, *first(x), strict=True):
    p2, q2 = choose(float(value))(x)
    p, q = p1 * p2, q1 * q2
    total += [
      np.maximum(p - a * q, 0.0).sum(),
      np.maximum(q - a * p, 0.0).sum(),
    ]
  return float(total.max()) * step**2


def first_that_meets(met: Callable[[float], bool], values: FloatArray) -> float:
  """The first of the values that meets a target, by trying all of them."""
  return next(float(value) for value in values if met(float(value)))
