# SPDX-License-Identifier: Apache-2.0
"""Gaussian domination: what a sum of discrete Gaussians costs, as a Gaussian.

The lemma, with its proof, is in docs/accounting.md. In one dimension a sum of
independent discrete Gaussians, shifted by an integer a, has at every integer
the probability of a post-processing of N(a, variance - SMOOTHING), up to a
factor whose logarithm has at most the range `log_range`. Factors multiply over
coordinates and rounds and survive mixtures, so that a whole run costs what the
continuous Gaussians cost, plus the sum of the ranges: its slack.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import dataclasses
import math

import numpy as np

from tff_secagg_ext.accounting import arrays

# Variance of the discrete Gaussian that turns the continuous one into
# integers (s2 in the lemma): its own log-range is below 2e-25.
SMOOTHING = 3.0
# Beyond so many terms, the range of equal shares is bounded by its last term.
_EXACT_TERMS = 4096
# Covers the rounding errors of double precision.
_ROUND_UP = 1.0 + 2.0**-40


@dataclasses.dataclass(frozen=True)
class Domination:
  """A continuous Gaussian, and how far from it the discrete noise may be.

  Attributes:
    variance: Variance of the dominating continuous Gaussian, per coordinate.
    log_range: Range of the logarithm of the factor, per coordinate; infinite
      where the lemma says nothing.
  """

  variance: float
  log_range: float


def poisson_summation_error(
  variance: arrays.FloatArray | float,
) -> arrays.FloatArray:
  """Returns eps_v = 2 sum_{m>=1} exp(-2 pi^2 v m^2), for v > 0.

  For every offset c, sum_j exp(-(j-c)^2 / (2v)) is within a factor 1 +- eps_v
  of sqrt(2 pi v), the lower side where eps_v < 1. Rounded up: the tail of the
  series is bounded by a geometric one.
  """
  exponent = -2.0 * math.pi**2 * np.asarray(variance, dtype=np.float64)
  # With b = exp(exponent), b^(m^2) <= b^(3m-2) for m >= 1.
  return np.asarray(2.0 * np.exp(exponent) / -np.expm1(3.0 * exponent))


def log_factor_range(variance: arrays.FloatArray | float) -> arrays.FloatArray:
  """Returns ln((1 + eps_v) / (1 - eps_v)); infinite where eps_v >= 1.

  Rounded up.
  """
  error = poisson_summation_error(variance)
  inside = np.where(error < 1.0, error, 0.0)
  ranges = _ROUND_UP * (np.log1p(inside) - np.log1p(-inside))
  return np.where(error < 1.0, ranges, math.inf)


def _step_variance(
  total: arrays.FloatArray, share: arrays.FloatArray
) -> arrays.FloatArray:
  return total * share / (total + share)


def sum_range(variances: Iterable[float]) -> float:
  """Returns R of Lemma 2 for shares of any variances; infinite if it fails.

  It bounds ln max g - ln min g, with g the factor between the law of the sum
  and the discrete Gaussian of the same total variance.

  Args:
    variances: Variance parameter of each share, positive, in integer units;
      at least one.
  """
  # Any order is valid; wide shares first keep the range small.
  shares = np.sort(np.asarray(list(variances), dtype=np.float64))[::-1]
  partial = np.cumsum(shares)
  return math.fsum(log_factor_range(_step_variance(partial[:-1], shares[1:])))


def dominate(
  variances: Iterable[float], smoothing: float = SMOOTHING
) -> Domination:
  """Returns the domination of a sum of discrete Gaussians, unequal ones too.

  Guarantees:
    - holds for the shares in whatever order they were summed;
    - `log_range` is infinite, never a wrong finite number, if a share or the
      sum is too narrow for the lemma.

  Args:
    variances: Variance parameter of each share, positive, in integer units;
      at least one.
    smoothing: The lemma's s2.
  """
  shares = list(variances)
  return _domination(math.fsum(shares), sum_range(shares), smoothing)


def equal_sum_range(variance: float, count: int) -> float:
  """Returns R of Lemma 2 for `count` equal shares, in bounded time.

  Guarantees:
    - never below the range of the exact factor between the sum and a discrete
      Gaussian of the same total variance;
    - also holds where some of the shares come as one discrete Gaussian of the
      same total variance (docs/accounting.md, merging shares).

  Args:
    variance: Variance parameter of one share, positive, in integer units.
    count: The number of shares, at least 1.
  """
  share = np.asarray(variance, np.float64)
  partial = np.arange(1, min(count, _EXACT_TERMS), dtype=np.float64) * share
  ranges = log_factor_range(_step_variance(partial, share))
  rest = count - 1 - ranges.size
  tail = rest * float(ranges[-1]) if rest > 0 else 0.0
  return math.fsum(ranges) + tail


def layered_sum_range(
  variance: float, count: int, layers: Sequence[float], clients: int
) -> float:
  """Returns R of Lemma 2 for equal shares with layers on top of them.

  Guarantees:
    - never below the range of the exact factor between the sum and a discrete
      Gaussian of the same total variance;
    - holds for any number of shares from `count` to `max(count, clients)`, for
      at most `clients` layers of each kind, and where some of the shares come
      as one discrete Gaussian of the same total variance.

  Args:
    variance: Variance parameter of one share, positive, in integer units.
    count: The least number of shares, at least 1.
    layers: Variance parameter of each kind of layer, positive.
    clients: The most layers of each kind.
  """
  shares = equal_sum_range(variance, max(count, clients if layers else 0))
  # Shares first: a layer joins a sum of at least theirs, and terms fall in it.
  widths = np.asarray(layers, np.float64)
  steps = _step_variance(np.asarray(count * variance), widths)
  return shares + clients * math.fsum(log_factor_range(steps))


def dominate_layered(
  variance: float, count: int, layers: Sequence[float], clients: int
) -> Domination:
  """Returns the domination of `count` shares and `clients` layers of each kind.

  Args:
    variance: Variance parameter of one share, positive, in integer units.
    count: The number of shares, at least 1.
    layers: Variance parameter of each kind of layer, positive.
    clients: How many layers of each kind there are.
  """
  return _domination(
    count * variance + clients * math.fsum(layers),
    layered_sum_range(variance, count, layers, clients),
    SMOOTHING,
  )


def dominate_equal(
  variance: float, count: int, smoothing: float = SMOOTHING
) -> Domination:
  """Returns `dominate([variance] * count)`, in bounded time.

  Guarantees:
    - never below `dominate` of the same shares, and equal to it up to rounding
      for at most 4096 of them;
    - also holds where some of the shares come as one discrete Gaussian of the
      same total variance (docs/accounting.md, merging shares).

  Args:
    variance: Variance parameter of one share, positive, in integer units.
    count: The number of shares, at least 1.
    smoothing: The lemma's s2.
  """
  return _domination(
    count * variance, equal_sum_range(variance, count), smoothing
  )


def _domination(total: float, summed: float, smoothing: float) -> Domination:
  if not total > smoothing:
    return Domination(variance=0.0, log_range=math.inf)
  return Domination(
    variance=total - smoothing,
    log_range=summed + float(log_factor_range(smoothing)),
  )
