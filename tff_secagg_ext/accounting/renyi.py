# SPDX-License-Identifier: Apache-2.0
"""Renyi divergences of the noises, amplified, and what they say of epsilon.

The bounds in closed form; `exact` has those from the noise's exact law. The
theorems, with their proofs, are in docs/accounting.md, section 5.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy import special

from tff_secagg_ext.accounting import arrays

# Integers, since [AKL21, Thm 3.5] is for integer orders: all up to 512, then
# in steps of 2 % up to 2^20.
ORDERS: arrays.FloatArray = np.unique(
  np.concatenate(
    [
      np.arange(2.0, 513.0),
      np.round(512.0 * 1.02 ** np.arange(1, 386)),
    ]
  )
)
# Orders above are not amplified: each takes a sum of as many terms.
_AMPLIFIED = [int(order) for order in ORDERS if order <= 4096.0]
_TERMS: arrays.FloatArray = np.arange(2.0, _AMPLIFIED[-1] + 1.0)
_LOG_FACTORIALS: arrays.FloatArray = special.gammaln(
  np.arange(1.0, _AMPLIFIED[-1] + 2.0)
)
# Stands for infinity where infinities would cancel.
_HUGE = 1e200


def skellam_renyi(
  l2_sensitivity: float,
  variance: float,
  dimension: int,
  orders: arrays.FloatArray = ORDERS,
) -> arrays.FloatArray:
  """Returns the Renyi divergence of Skellam noise, [AKL21, Thm 3.5].

  a D2^2/(2 mu) + min{((2a-1) D2^2 + 6 D1)/(4 mu^2), 3 D1/(2 mu)}, with
  D1 <= D2 min(sqrt(d), D2), which integer vectors obey.

  Args:
    l2_sensitivity: D2, the L2 distance of the two integer sums, integer units.
    variance: mu, the total variance of the noise per coordinate; positive.
    dimension: d, the number of coordinates.
    orders: a, integers above 1.

  Returns:
    Divergences in nats, of the shape of `orders`.
  """
  square = l2_sensitivity**2
  l1_sensitivity = largest_l1(l2_sensitivity, dimension)
  first = ((2.0 * orders - 1.0) * square + 6.0 * l1_sensitivity) / (
    4.0 * variance**2
  )
  second = 3.0 * l1_sensitivity / (2.0 * variance)
  main = orders * square / (2.0 * variance)
  return np.asarray(main + np.minimum(first, second))


def discrete_gaussian_renyi(
  l2_sensitivity: float,
  variance: float,
  dimension: int,
  log_range: float,
  orders: arrays.FloatArray = ORDERS,
) -> arrays.FloatArray:
  """Returns the Renyi divergence of a sum of discrete Gaussians.

  Theorem 4 of docs/accounting.md: min{a D2^2/(2 S) + d R a/(a-1),
  (a/2)(D2^2/S + 2 D1 R/sqrt(S) + d R^2), (a/2)(D2/sqrt(S) + R sqrt(d))^2},
  which has the form of [KLS21, Prop. 14] but holds for unequal shares, and R
  is less than half of that proposition's tau.

  Args:
    l2_sensitivity: D2, the L2 distance of the two integer sums, integer units.
    variance: S, the sum of the shares' variance parameters; positive.
    dimension: d, the number of coordinates.
    log_range: R of the shares (`domination.sum_range` or
      `equal_sum_range`), at least 0; infinite
      gives infinite divergences.
    orders: a, above 1.

  Returns:
    Divergences in nats, of the shape of `orders`.
  """
  if math.isinf(log_range):
    return np.full(orders.shape, math.inf)
  ratio = l2_sensitivity / math.sqrt(variance)
  l1_ratio = largest_l1(l2_sensitivity, dimension) / math.sqrt(variance)
  pointwise = orders / (orders - 1.0) * dimension * log_range
  squares = min(
    ratio**2 + 2.0 * l1_ratio * log_range + dimension * log_range**2,
    (ratio + math.sqrt(dimension) * log_range) ** 2,
  )
  return np.asarray(
    np.minimum(orders / 2.0 * ratio**2 + pointwise, orders / 2.0 * squares)
  )


def largest_l1(l2_sensitivity: float, dimension: int) -> float:
  """Returns D2 min(sqrt(d), D2), which no integer vector's L1 norm exceeds."""
  return l2_sensitivity * min(math.sqrt(dimension), l2_sensitivity)


def amplify(
  divergences: arrays.FloatArray, probability: float
) -> arrays.FloatArray:
  """Returns the Renyi divergences under Poisson sampling.

  Theorem 5 of docs/accounting.md, for noise that is symmetric about 0:
  exp((a-1) D'_a) = 1 + sum_{l=2}^a C(a,l) (1-q)^(a-l) q^l (e^((l-1) D_l) - 1).

  Guarantees:
    - at no order more than the given divergence;
    - orders above 4096 are left as they are.

  Args:
    divergences: Bounds on the divergences without sampling at ORDERS, in nats.
    probability: q, a client's chance to take part, in (0, 1].

  Returns:
    Divergences in nats at ORDERS.
  """
  if probability == 1.0:
    return divergences
  # (l - 1) D_l is convex in l: its chords are not below it.
  finite = np.minimum(divergences, _HUGE)
  moments = np.interp(_TERMS, ORDERS, (ORDERS - 1.0) * finite)
  with np.errstate(divide='ignore'):
    # ln(e^moment - 1), without overflow.
    log_excess = moments + np.log(-np.expm1(-moments))
  odds = math.log(probability) - math.log1p(-probability)
  weighted = log_excess + _TERMS * odds - _LOG_FACTORIALS[2:]
  amplified = np.array(divergences)
  for index, order in enumerate(_AMPLIFIED):
    logs = weighted[: order - 1] - _LOG_FACTORIALS[order - 2 :: -1]
    top = max(float(logs.max()), -_HUGE)
    total = top + math.log(max(np.exp(logs - top).sum(), 1e-300))
    total += _LOG_FACTORIALS[order] + order * math.log1p(-probability)
    amplified[index] = np.logaddexp(0.0, total) / (order - 1.0)
  amplified[amplified >= math.sqrt(_HUGE)] = math.inf
  return np.asarray(np.minimum(amplified, divergences))


@functools.lru_cache(maxsize=1024)
def _log_binomials(order: int) -> arrays.FloatArray:
  """Logarithms of binom(order, k) for k = 0, ..., order."""
  logs = special.gammaln(np.arange(order + 1.0) + 1.0)
  return np.asarray(logs[-1] - logs - logs[::-1])


def sampled_gaussian_renyi(
  order: int, ratio: float, probability: float
) -> float:
  """Returns the Renyi divergence of a Poisson-sampled Gaussian, in nats.

  ln(sum_k binom(a, k) (1-q)^(a-k) q^k exp(m^2 k (k-1) / 2)) / (a - 1), that of
  (1-q) phi_0 + q phi_m from phi_0; the converse is not larger [MTZ19,
  arXiv 1908.10530, Sec. 3].

  Args:
    order: a, an integer from 2 on.
    ratio: m, sensitivity over standard deviation.
    probability: q, in (0, 1].
  """
  if probability == 1.0:
    return order * ratio**2 / 2.0
  k = np.arange(order + 1.0)
  weights = (
    _log_binomials(order)
    + k * math.log(probability)
    + (order - k) * math.log1p(-probability)
  )
  growth = k * (k - 1.0) * ratio**2 / 2.0
  # The weights sum to 1: without it, small divergences keep their precision.
  with np.errstate(over='ignore', invalid='ignore'):
    excess = float(np.sum(np.exp(weights) * np.expm1(growth)))
  if math.isfinite(excess):
    return math.log1p(excess) / (order - 1.0)
  return float(special.logsumexp(weights + growth)) / (order - 1.0)


def epsilon_from_renyi(
  divergences: arrays.FloatArray,
  delta: float,
  orders: arrays.FloatArray = ORDERS,
) -> float:
  """Returns the least epsilon that [CKS20, Prop. 12] gives, at least 0.

  rdp(a) + ln(1 - 1/a) - (ln delta + ln a)/(a - 1), minimised over the orders.
  """
  bounds = (
    divergences
    + np.log1p(-1.0 / orders)
    - (math.log(delta) + np.log(orders)) / (orders - 1.0)
  )
  return max(0.0, float(np.min(bounds)))
