# SPDX-License-Identifier: Apache-2.0
"""The accountant of google-research/federated for distributed noises.

What its distributed_dp/accounting_utils.py computes, to compare with: orders 2
to 128 and 256, [KLS21, Prop. 14] for sums of discrete Gaussians and [AKL21,
Thm 3.5] for Skellam, Zhu and Wang's general bound for Poisson sampling [ZW19,
Thm 5], and [CKS20, Prop. 12]. The package's own bounds are never above it.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy import special

from tff_secagg_ext.accounting import arrays, renyi

ORDERS: arrays.FloatArray = np.concatenate([np.arange(2.0, 129.0), [256.0]])


@dataclasses.dataclass(frozen=True)
class Mechanism:
  """A sum with equal shares of noise.

  Attributes:
    discrete_gaussian: Whether the shares are that; else Skellam.
    l2_sensitivity: In integer units.
    l1_sensitivity: Its own choice, in integer units.
    share_stddev: Of one share, in integer units.
    clients: The number of shares.
    dimension: The number of coordinates.
  """

  discrete_gaussian: bool
  l2_sensitivity: float
  l1_sensitivity: float
  share_stddev: float
  clients: int
  dimension: int

  def renyi(self, orders: arrays.FloatArray) -> arrays.FloatArray:
    """Returns the divergences without sampling, in nats."""
    variance = self.clients * self.share_stddev**2
    if not self.discrete_gaussian:
      return self._skellam(variance, orders)
    ratio = self.l2_sensitivity / math.sqrt(variance)
    l1_ratio = self.l1_sensitivity / math.sqrt(variance)
    tau, d = smoothing(self.share_stddev, self.clients), self.dimension
    squares = min(
      ratio**2 + 2.0 * l1_ratio * tau + d * tau**2,
      (ratio + math.sqrt(d) * tau) ** 2,
    )
    first = orders / 2.0 * ratio**2 + d * tau
    return np.minimum(first, orders / 2.0 * squares)

  def _skellam(
    self, variance: float, orders: arrays.FloatArray
  ) -> arrays.FloatArray:
    l2, l1 = self.l2_sensitivity, self.l1_sensitivity
    rest = ((2.0 * orders - 1.0) * l2**2 + 6.0 * l1) / (4.0 * variance**2)
    rest = np.minimum(rest, 3.0 * l1 / (2.0 * variance))
    return orders * l2**2 / (2.0 * variance) + rest


def smoothing(share_stddev: float, clients: int) -> float:
  """Returns tau = 10 sum_{k=1}^{n-1} exp(-2 pi^2 sigma^2 k/(k+1))."""
  k = np.arange(1.0, clients)
  return 10.0 * math.fsum(
    np.exp(-2.0 * math.pi**2 * share_stddev**2 * k / (k + 1.0))
  )


def amplified(
  order: int, probability: float, divergences: arrays.FloatArray
) -> float:
  """Returns the bound of [ZW19, Thm 5].

  Args:
    order: An integer, at least 2.
    probability: In (0, 1).
    divergences: At the orders 2, 3, ..., at least up to `order`.
  """
  q, rest = probability, math.log1p(-probability)
  terms = np.arange(2.0, order + 1.0)
  logs = (
    (terms - 1.0) * divergences[: terms.size]
    + special.gammaln(order + 1.0)
    - special.gammaln(terms + 1.0)
    - special.gammaln(order - terms + 1.0)
    + (order - terms) * rest
    + terms * math.log(q)
    + np.where(terms == 2.0, 0.0, math.log(3.0))
  )
  first = (order - 1) * rest + math.log(order * q - q + 1.0)
  return float(special.logsumexp([first, *logs])) / (order - 1.0)


def epsilon(
  mechanism: Mechanism, probability: float, rounds: int, delta: float
) -> float:
  """Returns epsilon after so many rounds, each client in with `probability`."""
  divergences = mechanism.renyi(ORDERS)
  if probability < 1.0:
    every = mechanism.renyi(np.arange(2.0, ORDERS[-1] + 1.0))
    sampled = [amplified(int(order), probability, every) for order in ORDERS]
    divergences = np.minimum(divergences, sampled)
  return renyi.epsilon_from_renyi(rounds * divergences, delta, ORDERS)
