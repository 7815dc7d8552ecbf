# SPDX-License-Identifier: Apache-2.0
"""How near a run's Skellam noise is to discrete Gaussian noise.

Theorem 6 of docs/accounting.md: but for an event of probability eta, the
densities of a whole run's noise under both laws are within a factor e^t. So
Skellam rounds cost what discrete Gaussian rounds of the same variance do, plus
2 t, and a little of delta.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from tff_secagg_ext.accounting import arrays

# Below, the bounds are of little use, and some of them not proven.
LEAST_VARIANCE = 1000.0
# Standard deviations to which coordinates may be followed.
_REACHES: arrays.FloatArray = np.arange(4.0, 30.5, 0.5)
# Orders of Chernoff's bound, in units of one over the steepness.
_ORDERS: arrays.FloatArray = np.geomspace(1e-4, 50.0, 400)


@dataclasses.dataclass(frozen=True)
class Nearness:
  """What is known of the log-likelihood ratio of the two noises; it adds.

  Attributes:
    distance: Sum over all coordinates of a bound W on the second moment of
      the ratio's logarithm.
    coordinates: The number of coordinates.
    least_variance: The least variance of the noise, over all coordinates.
  """

  distance: float = 0.0
  coordinates: float = 0.0
  least_variance: float = math.inf

  def __add__(self, other: Nearness) -> Nearness:
    return Nearness(
      self.distance + other.distance,
      self.coordinates + other.coordinates,
      min(self.least_variance, other.least_variance),
    )

  def times(self, count: int) -> Nearness:
    """Returns that of `count` such noises."""
    return dataclasses.replace(
      self,
      distance=count * self.distance,
      coordinates=count * self.coordinates,
    )

  def log_factor(self, log_failure: float) -> float:
    """Returns t, such that all but eta of the noise is within e^t.

    Holds for either law against the other.

    Args:
      log_failure: ln eta.

    Returns:
      0 if there is no Skellam noise; infinite if eta is too small to be told.
    """
    if self.coordinates == 0.0:
      return 0.0
    log_half = log_failure - math.log(2.0)
    mu, room = self.least_variance, math.log(2.0 * self.coordinates)
    exponents = _REACHES**2 - mu * (np.cosh(_REACHES / math.sqrt(mu)) - 1.0)
    enough = np.flatnonzero(room - exponents <= log_half)
    if not enough.size:
      return math.inf
    reach = float(_REACHES[enough[0]])
    steepness = max(reach**4 / 24.0, (reach**2 + reach) / 2.0) / mu
    orders = _ORDERS / steepness
    bounds = (
      self.distance * (1.0 + orders / 2.0 * np.exp(_ORDERS)) - log_half / orders
    )
    return float(bounds.min())


def of_skellam(variance: float, dimension: int) -> Nearness:
  """Returns the nearness of `dimension` coordinates of Skellam noise.

  Args:
    variance: mu, the total variance per coordinate, at least LEAST_VARIANCE.
    dimension: The number of coordinates.
  """
  return Nearness(
    distance=dimension * second_moment(variance) * math.exp(1.0 / variance),
    coordinates=float(dimension),
    least_variance=variance,
  )


def second_moment(variance: float) -> float:
  """Returns W, which bounds E h^2 under both laws.

  h is between -(k^2 + |k|)/(2 mu^2) and k^4/(24 mu^3). The moments of Skellam,
  mu, 3 mu^2 + mu and 105 mu^4 + 210 mu^3 + 63 mu^2 + mu, are above the discrete
  Gaussian's; and 2 |k|^3 <= k^4/sqrt(mu) + k^2 sqrt(mu).
  """
  mu, root = variance, math.sqrt(variance)
  fourth = 3.0 * mu**2 + mu
  eighth = 105.0 * mu**4 + 210.0 * mu**3 + 63.0 * mu**2 + mu
  below = (fourth * (1.0 + 1.0 / root) + mu * (1.0 + root)) / (4.0 * mu**4)
  return below + eighth / (576.0 * mu**6)
