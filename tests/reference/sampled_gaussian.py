# SPDX-License-Identifier: Apache-2.0
"""Renyi divergences of the sampled Gaussian, as dp_accounting 0.6.0 has them.

At fractional orders that release adds the absolute values of the series of
[MTZ19, arXiv 1908.10530, section 3.3], an upper bound, and gives up an order
after 1000 terms. Earlier releases add them with their signs. So that a case
has one epsilon whatever is installed, the series is summed here.
"""

from __future__ import annotations

import math

from dp_accounting import rdp
import numpy as np
from scipy import special

from tff_secagg_ext.accounting import arrays

ORDERS: arrays.FloatArray = np.array(
  [1.0 + x / 10.0 for x in range(1, 100)]
  + [float(order) for order in (*range(11, 64), 128, 256, 512, 1024)]
)
_TERMS = 1000
_NEGLIGIBLE = 30.0


def epsilon(
  noise_multiplier: float, probability: float, rounds: int, delta: float
) -> float:
  """Returns epsilon by [CKS20, Prop. 12], the least over ORDERS."""
  divergences = [
    divergence(order, noise_multiplier, probability) for order in ORDERS
  ]
  # What dp_accounting cannot read as a number it leaves out.
  total = rounds * np.array(divergences)
  return float(rdp.compute_epsilon(ORDERS, total, delta)[0])


def divergence(order: float, z: float, q: float) -> float:
  """Returns D_order of (1-q) N(0, z^2) + q N(1, z^2) against N(0, z^2)."""
  if q == 1.0:
    return order / (2.0 * z * z)
  if order == round(order):
    i = np.arange(order + 1.0)
    logs = _log_binomial(order, i) + i * math.log(q)
    logs += (order - i) * math.log1p(-q) + (i * i - i) / (2.0 * z * z)
    return float(special.logsumexp(logs)) / (order - 1.0)
  return _fractional(order, z, q) / (order - 1.0)


def _fractional(order: float, z: float, q: float) -> float:
  i = np.arange(float(_TERMS))
  j = order - i
  middle = z * z * math.log(1.0 / q - 1.0) + 0.5
  rows = [
    _log_binomial(order, i)
    + inside * math.log(q)
    + (order - inside) * math.log1p(-q)
    + (inside * inside - inside) / (2.0 * z * z)
    + special.log_ndtr(side / z)
    for inside, side in ((i, middle - i), (j, j - middle))
  ]
  sums = np.logaddexp.accumulate(np.logaddexp(*rows))
  falling = [np.diff(row, prepend=-math.inf) < 0.0 for row in rows]
  small = np.maximum(*rows) < sums - _NEGLIGIBLE
  done = np.flatnonzero(falling[0] & falling[1] & small)
  return float(sums[done[0]]) if done.size else math.inf


def _log_binomial(order: float, i: arrays.FloatArray) -> arrays.FloatArray:
  """Log of |C(order, i)|."""
  return np.asarray(
    special.gammaln(order + 1.0)
    - special.gammaln(i + 1.0)
    - special.gammaln(order - i + 1.0)
  )
