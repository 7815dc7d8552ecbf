# SPDX-License-Identifier: Apache-2.0
"""Naive oracles for the audits: loops and integrals, straight from the papers.

Nothing here is fast, and nothing is shared with the package.
"""

from __future__ import annotations

import math

import mpmath


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
