# SPDX-License-Identifier: Apache-2.0
"""Renyi divergences from the noise's exact law, coordinate by coordinate.

For independent coordinates and an integer vector v of norm at most D2,

  D_a(X + v || X) = sum_j R_a(v_j) <= D2^2 max_{1 <= u <= D2} R_a(u) / u^2,

with R_a(u) the divergence of one coordinate that is moved by u. There is no
term for the dimension. docs/accounting.md, section 5, has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import math

import numpy as np
from scipy import special

from tff_secagg_ext.accounting import arrays, renyi

# Laws that are larger, or whose closed form is near enough, are left to it.
_MOST_SHARES = 1024
_MOST_VARIANCE = 400.0
_MOST_SENSITIVITY = 32.0
# What double precision may have lost of a divergence of one coordinate.
_ROUNDING = 1e-11
# Terms below e^-40 of the largest are left out, or bounded.
_NEGLIGIBLE = 40.0
# Few enough to be quick, near enough for their chords.
_ORDERS: arrays.FloatArray = np.unique(
  np.concatenate([np.arange(2.0, 25.0), np.round(24.0 * 1.08 ** np.arange(31))])
)


def discrete_gaussian_renyi(
  l2_sensitivity: float, variance: float, count: int
) -> arrays.FloatArray:
  """Returns the Renyi divergence of a sum of equal discrete Gaussians.

  Guarantees:
    - never below the exact divergence;
    - finite for the smallest noise, where `domination` says nothing.

  Args:
    l2_sensitivity: D2, the L2 distance of the two integer sums, integer units.
    variance: Variance parameter of one share, positive, in integer units.
    count: The number of shares, at least 1.

  Returns:
    Divergences in nats at renyi.ORDERS; infinite above the order 242, and
    everywhere for more than 1024 shares.
  """
  if count > _MOST_SHARES:
    return np.full(renyi.ORDERS.shape, math.inf)
  factor = _log_factor(variance, count)
  weights = _log_weights(variance * count, count)
  total = special.logsumexp(weights + factor)
  outcomes = np.arange(count)
  # Moving by the number of shares leaves the factor as it is.
  moves = np.arange(1, min(_largest(l2_sensitivity), count) + 1)[:, None]

  def divergence(order: float) -> float:
    above = factor[(outcomes + (int(order) - 1) * moves) % count]
    below = factor[(outcomes + int(order) * moves) % count]
    logs = weights + order * above - (order - 1.0) * below
    moments = special.logsumexp(logs, axis=1) - total
    excess = moments / (order - 1.0) / moves[:, 0] ** 2
    return order / (2.0 * variance * count) + float(np.max(excess))

  return l2_sensitivity**2 * _at_all_orders(divergence)


def skellam_renyi(l2_sensitivity: float, variance: float) -> arrays.FloatArray:
  """Returns the Renyi divergence of Skellam noise, from its probabilities.

  Args:
    l2_sensitivity: D2, the L2 distance of the two integer sums, integer units.
    variance: mu, the total variance of the noise per coordinate; positive.

  Returns:
    Divergences in nats at renyi.ORDERS, never below the exact ones; infinite
    above the order 242, and everywhere for variances above 400 or
    sensitivities above 32.
  """
  if variance > _MOST_VARIANCE or l2_sensitivity > _MOST_SENSITIVITY:
    return np.full(renyi.ORDERS.shape, math.inf)
  moves = range(1, _largest(l2_sensitivity) + 1)
  law = _SkellamLaw(variance, moves[-1])
  return l2_sensitivity**2 * _at_all_orders(
    lambda order: max(law.divergence(order, u) / u**2 for u in moves)
  )


def _largest(l2_sensitivity: float) -> int:
  """The largest move of one coordinate, rounded up where it is in doubt."""
  return max(1, math.floor(l2_sensitivity * (1.0 + 1e-9)))


def _at_all_orders(
  divergence: Callable[[float], float],
) -> arrays.FloatArray:
  """Returns at renyi.ORDERS what is computed at few of them.

  (a - 1) D_a is convex in a: its chords are not below it.
  """
  computed = np.asarray([divergence(order) for order in _ORDERS]) + _ROUNDING
  chords = np.interp(
    renyi.ORDERS, _ORDERS, (_ORDERS - 1.0) * computed, right=math.inf
  )
  return np.asarray(chords / (renyi.ORDERS - 1.0))


@functools.lru_cache(maxsize=256)
def _log_factor(variance: float, count: int) -> arrays.FloatArray:
  """Log of g for P(sum = k) = exp(-k^2 / (2 count variance)) g(k), k < count.

  g has the period `count`: adding 1 to every share moves the sum by as much.
  Up to a constant.
  """
  if count == 1:
    return np.zeros(1)
  first = count // 2
  return _merged(
    _log_factor(variance, first),
    _log_factor(variance, count - first),
    variance,
  )


def _merged(
  one: arrays.FloatArray, other: arrays.FloatArray, variance: float
) -> arrays.FloatArray:
  """The factor of two independent sums' sum, by completing the square."""
  count = one.size + other.size
  step = variance * one.size * other.size / count
  spread = float(np.ptp(one) + np.ptp(other))
  reach = math.ceil(math.sqrt(2.0 * step * (_NEGLIGIBLE + spread))) + 1
  sums = np.arange(count)[:, None]
  centres = sums * (one.size / count)
  points = np.round(centres).astype(int) + np.arange(-reach, reach + 1)
  logs = (
    -((points - centres) ** 2) / (2.0 * step)
    + one[points % one.size]
    + other[(sums - points) % other.size]
  )
  factor = special.logsumexp(logs, axis=1)
  return np.asarray(factor - factor.max())


def _log_weights(variance: float, count: int) -> arrays.FloatArray:
  """Logs of sums of exp(-y^2 / (2 variance)), over y = 0, 1, ... mod count."""
  wraps = math.ceil(math.sqrt(2.0 * _NEGLIGIBLE * variance) / count) + 2
  y = np.arange(count)[:, None] + count * np.arange(-wraps, wraps + 1)
  return np.asarray(special.logsumexp(-(y**2) / (2.0 * variance), axis=1))


class _SkellamLaw:
  """ln P(X = k) = ln(e^-mu I_k(mu)), and what follows from it."""

  def __init__(self, variance: float, largest: int):
    self._variance = variance
    last = math.ceil(_ORDERS[-1] * largest + 4.0 * variance) + 200
    self._log_ratios = _log_bessel_ratios(variance, last)
    logs = np.concatenate([[0.0], np.cumsum(self._log_ratios[1:])])
    self._logs = logs - np.logaddexp(
      0.0, math.log(2.0) + special.logsumexp(logs[1:])
    )
    # Of the outcomes below -left only a bound is used.
    self._left = math.ceil(12.0 * math.sqrt(variance)) + 60

  def divergence(self, order: float, move: int) -> float:
    """R_order(move); infinite where the table ends too early."""
    right = self._right(order, move)
    if right is None:
      return math.inf
    x = np.arange(-self._left, right + 1)
    terms = order * self._logs[np.abs(x - move)]
    terms += (1.0 - order) * self._logs[np.abs(x)]
    # Beyond `right` terms at least halve. Beyond -left each falls by a ratio
    # of neighbouring probabilities at least, which falls itself.
    ratio = math.exp(self._log_ratios[self._left + 1])
    tails = [terms[-1], terms[0] + math.log(ratio / (1.0 - ratio))]
    moment = special.logsumexp(np.concatenate([terms, tails]))
    return max(0.0, float(moment) / (order - 1.0))

  def _right(self, order: float, move: int) -> int | None:
    """An outcome from which on terms at least halve, and 64 more.

    With Amos' bounds U and L on I_k/I_{k-1}, terms grow at x by at most
    U(x+1-u)^a / L(x+1)^(a-1), which falls where x >= u and 2x >= a.
    """
    start = max(move, math.ceil(order / 2.0))
    x = np.arange(start, self._logs.size - 65)
    low = x + 0.5 - move
    high = x + 0.5
    growth = (order - 1.0) * np.log(
      (high + np.hypot(high + 1.0, self._variance)) / self._variance
    ) - order * np.arcsinh(low / self._variance)
    halving = np.flatnonzero(growth <= -math.log(2.0))
    return int(x[halving[0]]) + 64 if halving.size else None


def _log_bessel_ratios(variance: float, last: int) -> arrays.FloatArray:
  """ln(I_k(mu) / I_{k-1}(mu)) for k <= last; the entry 0 is not used.

  Backwards, r_k = 1 / (2k/mu + r_{k+1}), where errors shrink by r^2 a step.
  """
  start = last + 64
  ratio = math.exp(-math.asinh((start + 0.5) / variance))
  ratios = np.ones(last + 1)
  for k in range(start, 0, -1):
    ratio = 1.0 / (2.0 * k / variance + ratio)
    if k <= last:
      ratios[k] = ratio
  return np.asarray(np.log(ratios))
