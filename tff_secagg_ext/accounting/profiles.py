# SPDX-License-Identifier: Apache-2.0
"""Privacy profiles that dominate one round, in closed form.

A profile is the hockey-stick divergence H_a(P, Q) = int [p - a q]_+ at
a = e^epsilon. For epsilon >= 0 a round has two: with P the round where the
client is present and Q the one where it is zeroed ('present'), and the other
way round ('absent'). Together they fix the dominating pair, because
H_a(P, Q) = 1 - a + a H_{1/a}(Q, P).

phi_u is the density of N(u, 1), m the client's sensitivity over the noise's
standard deviation, q the chance to take part. The table of samplings:

  none       phi_m against phi_0
  poisson    (1-q) phi_0 + q phi_m against phi_0
  fixed      present: (1-q) phi_0 + q phi_2m against (1-q) phi_0 + q phi_m
             absent: (1-q) phi_0 + q phi_m against phi_0
  substituted  (1-q) phi_0 + q phi_m against phi_0, in both directions

docs/accounting.md proves the third, fixed size without replacement under
zero-out, and the fourth, the same under substitution, where m is of the doubled
sensitivity. There 'present' and 'absent' are the two neighbours, which are
alike: which of them has the larger vector may change from round to round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import TypeAlias

import numpy as np
from scipy import special

from tff_secagg_ext.accounting import arrays

# How many standard deviations of the noise the losses cover, and a bound on
# the probability of what lies beyond, 1 - Phi(10).
_REACH = 10.0
BEYOND = 1e-23
_POINTS = 400
_LEAST_GAP = 1e-6


def _mills(t: arrays.FloatArray) -> arrays.FloatArray:
  """Mills' ratio, (1 - Phi(t)) / phi(t)."""
  ratio = math.sqrt(math.pi / 2.0) * special.erfcx(t / math.sqrt(2.0))
  return np.asarray(ratio)


def _density(t: arrays.FloatArray) -> arrays.FloatArray:
  return np.asarray(np.exp(-0.5 * t * t) / math.sqrt(2.0 * math.pi))


def gaussian(m: float, epsilon: arrays.FloatArray) -> arrays.FloatArray:
  """Returns H_a(phi_m, phi_0) for epsilon >= 0; infinite ones give 0.

  Phi(m/2 - epsilon/m) - e^epsilon Phi(-m/2 - epsilon/m), in the tail written
  as a density times a difference of Mills' ratios, so that it keeps its
  relative precision.
  """
  t = epsilon / m - m / 2.0
  far = np.maximum(t, 0.0)
  tail = _density(far) * (_mills(far) - _mills(far + m))
  near = np.minimum(t, 0.0)
  exponent = m * near + m * m / 2.0 + special.log_ndtr(-near - m)
  bulk = special.ndtr(-near) - np.exp(exponent)
  return np.maximum(np.where(t > 0.0, tail, bulk), 0.0)


def _log_odds(q: float, epsilon: arrays.FloatArray) -> arrays.FloatArray:
  """Returns ln(1 + (e^epsilon - 1)/q), -infinity where there is none."""
  near = np.clip(epsilon, -0.5, 0.5)
  cut = np.maximum(epsilon, math.log1p(-q) if q < 1.0 else -math.inf)
  with np.errstate(divide='ignore'):
    low = np.log1p(np.maximum(np.expm1(near) / q, -1.0))
    # Far from 0, where the sum would cancel: (e^epsilon - (1 - q)) / q.
    rest = np.maximum(-(1.0 - q) * np.exp(-cut), -1.0) if q < 1.0 else 0.0
    high = cut + np.log1p(rest) - math.log(q)
  return np.where(np.abs(epsilon) > 0.5, high, low)


def poisson_present(
  m: float, q: float, epsilon: arrays.FloatArray
) -> arrays.FloatArray:
  """Returns H_a((1-q) phi_0 + q phi_m, phi_0) for epsilon >= 0."""
  return np.asarray(q * gaussian(m, _log_odds(q, epsilon)))


def poisson_absent(
  m: float, q: float, epsilon: arrays.FloatArray
) -> arrays.FloatArray:
  """Returns H_a(phi_0, (1-q) phi_0 + q phi_m) for epsilon >= 0."""
  odds = _log_odds(q, -epsilon)
  shares = np.exp(np.minimum(epsilon + odds, 0.0))
  return np.asarray(q * shares * gaussian(m, -odds))


def fixed_present(
  m: float, q: float, epsilon: arrays.FloatArray
) -> arrays.FloatArray:
  """Returns H_a((1-q) phi_0 + q phi_2m, (1-q) phi_0 + q phi_m), epsilon >= 0.

  The likelihood ratio passes a once, at the positive root of a quadratic in
  w = e^(m x). With t = x - 2m there, the profile is
  q phi(t) [A (R(t) - R(t+m)) + B (R(t) - R(t+2m))], R Mills' ratio and A + B =
  1 the shares of the two components of Q in a q(x).
  """
  with np.errstate(divide='ignore'):
    # kappa = (a - 1)(1 - q)/q
    log_kappa = epsilon + np.log(-np.expm1(-epsilon))
    log_kappa = log_kappa + np.log1p(-q) - math.log(q)
  ratio = np.exp(np.log(4.0) - m * m + log_kappa - 2.0 * epsilon)
  x = (
    epsilon - math.log(2.0) + 1.5 * m * m + np.log1p(np.sqrt(1.0 + ratio))
  ) / m
  t = x - 2.0 * m
  far = np.maximum(t, 0.0)
  first = np.exp(np.minimum(epsilon - far * m - m * m / 2.0, 0.0))
  top = _mills(far)
  tail = _density(far) * (
    first * (top - _mills(far + m))
    + (1.0 - first) * (top - _mills(far + 2.0 * m))
  )
  near = np.minimum(t, 0.0)
  bulk = (
    special.ndtr(-near)
    - np.exp(np.minimum(epsilon + special.log_ndtr(-near - m), 0.0))
    - np.exp(np.minimum(log_kappa + special.log_ndtr(-near - 2 * m), 0.0))
  )
  return np.asarray(q * np.maximum(np.where(t > 0.0, tail, bulk), 0.0))


def _log_mix(q: float, exponent: arrays.FloatArray) -> arrays.FloatArray:
  """ln(1 - q + q e^exponent)."""
  rest = math.log1p(-q) if q < 1.0 else -math.inf
  return np.asarray(np.logaddexp(rest, math.log(q) + exponent))


def _points(distance: float) -> arrays.FloatArray:
  return np.linspace(0.0, distance + _REACH, _POINTS + 1)[1:]


def _poisson_present_losses(m: float, q: float) -> arrays.FloatArray:
  # At x = m/2 + t the exponent m x - m^2/2 is m t.
  return _log_mix(q, m * _points(m / 2.0))


def _poisson_absent_losses(m: float, q: float) -> arrays.FloatArray:
  return -_log_mix(q, -m * _points(m / 2.0))


def _fixed_present_losses(m: float, q: float) -> arrays.FloatArray:
  x = 1.5 * m + _points(m / 2.0)
  numerator = _log_mix(q, 2.0 * m * x - 2.0 * m * m)
  return numerator - _log_mix(q, m * x - m * m / 2.0)


def _apart(losses: arrays.FloatArray) -> arrays.FloatArray:
  """Drops what is too close to the next loss to be told from it."""
  least = _LEAST_GAP * losses[-1]
  gaps = np.diff(losses, append=math.inf)
  return np.asarray(losses[(gaps > least) & (losses > least)])


# A profile at losses >= 0, and losses that cover it, both for m and q.
Tail: TypeAlias = tuple[
  Callable[[float, float, arrays.FloatArray], arrays.FloatArray],
  Callable[[float, float], arrays.FloatArray],
]
_POISSON = (
  (poisson_present, _poisson_present_losses),
  (poisson_absent, _poisson_absent_losses),
)
_TABLE: Mapping[str, tuple[Tail, ...]] = {
  'poisson': _POISSON,
  'fixed': ((fixed_present, _fixed_present_losses), _POISSON[0]),
  'substituted': (_POISSON[0], _POISSON[0]),
}


@dataclasses.dataclass(frozen=True)
class Profile:
  """The dominating pair of one round, or of an epoch (`allocation`).

  Attributes:
    kind: 'poisson', 'fixed' or 'substituted'; without sampling, 'poisson' with
      q = 1.
    m: The client's sensitivity over the noise's standard deviation; positive.
    q: The chance to take part, in (0, 1].
  """

  kind: str
  m: float
  q: float

  def losses(self, reverse: bool) -> arrays.FloatArray:
    """Returns losses that cover the pair's, increasing, 0 among them.

    They are the losses at evenly spaced outcomes, and dense where the pair's
    mass is. What is beyond the last has a probability of at most BEYOND.
    """
    (_, above), (_, below) = self._sides(reverse)
    up = _apart(above(self.m, self.q))
    down = _apart(below(self.m, self.q))
    return np.concatenate([-down[::-1], [0.0], up])

  def excess(
    self, epsilon: arrays.FloatArray, reverse: bool
  ) -> arrays.FloatArray:
    """Returns H_a(P, Q) - [1 - a]_+ at a = e^epsilon, for any real epsilon.

    What is taken off is the profile of P = Q: what is left is small where the
    round is private, and can be computed without cancellation.

    Args:
      epsilon: Any shape, in nats.
      reverse: False for P present and Q zeroed, True for the converse.
    """
    (above, _), (below, _) = self._sides(reverse)
    up = above(self.m, self.q, np.maximum(epsilon, 0.0))
    down = below(self.m, self.q, np.maximum(-epsilon, 0.0))
    return np.where(epsilon >= 0.0, up, np.exp(np.minimum(epsilon, 0.0)) * down)

  @property
  def tails(self) -> tuple[Tail, Tail]:
    """The profiles above 0, with their losses: present, absent."""
    present, absent = _TABLE[self.kind]
    return present, absent

  def _sides(self, reverse: bool) -> tuple[Tail, Tail]:
    present, absent = self.tails
    return (absent, present) if reverse else (present, absent)
