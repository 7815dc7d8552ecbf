# SPDX-License-Identifier: Apache-2.0
"""Renyi divergences of the Skellam mechanism, and what they say of epsilon."""

from __future__ import annotations

import math

import numpy as np

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
  l1_sensitivity = l2_sensitivity * min(math.sqrt(dimension), l2_sensitivity)
  first = ((2.0 * orders - 1.0) * square + 6.0 * l1_sensitivity) / (
    4.0 * variance**2
  )
  second = 3.0 * l1_sensitivity / (2.0 * variance)
  main = orders * square / (2.0 * variance)
  return np.asarray(main + np.minimum(first, second))


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
