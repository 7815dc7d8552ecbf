# SPDX-License-Identifier: Apache-2.0
"""Naive oracles for the audits: loops and integrals, straight from the papers.

Nothing here is fast, and nothing is shared with the package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import itertools
import math
from typing import Any

import mpmath
import numpy as np


def binomial_at_least(trials: int, rate: mpmath.mpf, count: int) -> mpmath.mpf:
  """P(Binomial(trials, rate) >= count)."""
  return mpmath.fsum(
    mpmath.binomial(trials, j) * rate**j * (1 - rate) ** (trials - j)
    for j in range(max(count, 0), trials + 1)
  )


def one_run_p_value(
  m: int, r: int, v: int, epsilon: float, delta: float
) -> float:
  """The formula of [SNJ23], term by term."""
  rate = 1 / (1 + mpmath.exp(-mpmath.mpf(epsilon)))
  tail = binomial_at_least(r, rate, v)
  slopes = [
    (binomial_at_least(r, rate, v - i) - tail) / i for i in range(1, v + 1)
  ]
  return float(min(mpmath.mpf(1), tail + 2 * m * delta * max([0, *slopes])))


def two_gaussians_divergence(
  mean: float, stddev: float, epsilon: float
) -> float:
  """H_a of N(mean, stddev^2) and N(0, 1) in both directions, by integration."""

  def density(x: float, m: float, s: float) -> float:
    return math.exp(-(((x - m) / s) ** 2) / 2) / (s * math.sqrt(2 * math.pi))

  low = min(-10.0, mean - 10.0 * stddev)
  high = max(10.0, mean + 10.0 * stddev)
  points = 40_001
  step = (high - low) / (points - 1)
  one = other = 0.0
  for n in range(points):
    x = low + n * step
    p, q = density(x, mean, stddev), density(x, 0.0, 1.0)
    one += max(0.0, p - math.exp(epsilon) * q)
    other += max(0.0, q - math.exp(epsilon) * p)
  return max(one, other) * step


def auc(members: Sequence[float], others: Sequence[float]) -> float:
  """Pair by pair; ties are half."""
  wins = sum((m > o) + 0.5 * (m == o) for m in members for o in others)
  return wins / (len(members) * len(others))


def normal_log_density(x: float, mean: float, variance: float) -> float:
  return (
    -((x - mean) ** 2) / (2 * variance) - math.log(2 * math.pi * variance) / 2
  )


def skew_normal_log_cdf(z: float, shape: float) -> float:
  """Integral of 2 phi(u) Phi(shape u) up to z, by Simpson's rule in pieces."""
  total = mpmath.mpf(0)
  # Each piece is as wide as what is nearer to z: the density may be thin there.
  ends = [0.0, *(2.0**n for n in range(-22, 6))]
  with mpmath.workdps(15):

    def density(u: float) -> mpmath.mpf:
      return 2 * mpmath.npdf(u) * mpmath.ncdf(shape * u)

    for near, far in itertools.pairwise(ends):
      step = (far - near) / 32
      values = [density(z - near - n * step) for n in range(33)]
      total += (
        step
        / 3
        * (
          values[0]
          + values[-1]
          + 4 * mpmath.fsum(values[1:-1:2])
          + 2 * mpmath.fsum(values[2:-1:2])
        )
      )
    return float(mpmath.log(total))


def likeliest(
  log_probability: Callable[[tuple[int, ...]], float],
  tokens: Sequence[int],
  length: int,
) -> list[tuple[tuple[int, ...], float]]:
  """All sequences, the likeliest first."""
  found = [
    (sequence, log_probability(sequence))
    for sequence in itertools.product(tokens, repeat=length)
  ]
  return sorted(found, key=lambda pair: -pair[1])


def students_t(values: Any, regressors: Any) -> float:
  """Student's t of the first regressor's coefficient, by least squares.

  Without an intercept, as the textbooks have it: the coefficient over its
  standard error.
  """
  columns = np.stack(regressors, axis=1)
  inverse = np.linalg.inv(columns.T @ columns)
  coefficients = inverse @ columns.T @ values
  residuals = values - columns @ coefficients
  degrees = len(values) - columns.shape[1]
  variance = residuals @ residuals / degrees
  return float(coefficients[0] / np.sqrt(variance * inverse[0, 0]))
