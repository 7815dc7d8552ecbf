# SPDX-License-Identifier: Apache-2.0
"""Epsilon from the cosines of canaries with what was released.

Canaries that are not in a release have cosines of exactly known law; those that
are in it are moved [AKOOMS23, arXiv 2302.03098]. From how far, one estimates
the Gaussian noise that the canaries met, and the epsilon of that noise.
docs/audit.md, section 3, has the proofs and says what is assumed.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
from scipy import optimize, special

from tff_secagg_ext import _validate
from tff_secagg_ext.audit import canaries as canaries_lib
from tff_secagg_ext.audit import checks, two_gaussians

_NODES = 200
# Probability that is left out on both sides of the chi law.
_LEFT_OUT = 1e-15


@dataclasses.dataclass(frozen=True)
class Estimate:
  """What the cosines of one release say about epsilon, in nats.

  Attributes:
    known: The estimate with the noise's standard deviation along a canary taken
      from the norm of the release, as it is for isotropic noise.
    fitted: The estimate with the standard deviation of the cosines themselves,
      for noise of unknown shape; biased upwards, as an error in the deviation
      either way costs epsilon. It needs two canaries, and is NaN for one.
    lower_bound: Above the epsilon of the noise with probability at most
      1 - `confidence`, never above `known`.
    delta: For which all three are.
    confidence: Of the lower bound.
  """

  known: float
  fitted: float
  lower_bound: float
  delta: float
  confidence: float


def estimates(
  cosines: canaries_lib.Cosines, delta: float, confidence: float = 0.95
) -> list[Estimate]:
  """Returns an estimate for each release.

  Guarantees, for a release u = a (c_1 + ... + c_k) + x + s Z, with Z standard
  normal, x anything that does not depend on canaries or Z, and epsilon that of
  the Gaussian mechanism of sensitivity a and standard deviation s:
    - `lower_bound` is above epsilon with probability at most 1 - `confidence`,
      for every x, in every dimension: exactly so, not for many canaries only;
    - `known` tends to epsilon where x is small beside s times the square root
      of the dimension, and below it else.

  Args:
    cosines: Of canaries that all were in the release with one weight.
    delta: In (0, 1).
    confidence: In [0.5, 1).

  Raises:
    ValueError: If delta or confidence is outside of its range, or there is
      nothing but canaries in a release.
  """
  two_gaussians.check_positive_delta(delta)
  if _validate.check_float(confidence, 'confidence', minimum=0.5) >= 1.0:
    raise ValueError(f'`confidence` must be below 1. Found {confidence!r}.')
  found = []
  for row in cosines.values:
    statistic = _statistic(row, cosines)
    least = _least_noncentrality(
      statistic, cosines.dimension - 1, 1.0 - confidence
    )
    found.append(
      Estimate(
        _gaussian(statistic / cosines.sum_norm, delta),
        _fitted(row, cosines.dimension, delta),
        _gaussian(least / cosines.sum_norm, delta),
        delta,
        confidence,
      )
    )
  return found


def null_tail(cosines: checks.ArrayLike, dimension: int) -> checks.FloatArray:
  """Returns P(C >= cosine) for a canary of a seed that is not in the release.

  (1 + C) / 2 has the law Beta((d - 1) / 2, (d - 1) / 2), whatever the release
  is, if none of the seed's canaries is in it. The tail is a p-value of that;
  for the largest cosine over rounds or over canaries, multiply the least by
  their number.

  Args:
    cosines: In [-1, 1], of any shape.
    dimension: d, at least 2.

  Raises:
    ValueError: If a cosine or the dimension is outside of its range.
  """
  _validate.check_int(dimension, 'dimension', minimum=2)
  values = canaries_lib.check_cosines(np.asarray(cosines, dtype=np.float64))
  # By 1 - c^2 both tails are as precise as they are small.
  half = special.betainc((dimension - 1) / 2.0, 0.5, 1.0 - values**2) / 2.0
  return np.asarray(np.where(values >= 0.0, half, 1.0 - half))


def _statistic(row: checks.FloatArray, cosines: canaries_lib.Cosines) -> float:
  """Student's t of the sum's direction b: of <b, u> by the rest of u.

  Noncentral t with dimension - 1 degrees of freedom and the noncentrality
  sum_norm a / s, where nothing but canaries and noise is in the release.
  """
  cosine = float(row.sum()) / cosines.sum_norm
  return student(cosine, cosines.dimension - 1)


def student(cosine: float, degrees: int) -> float:
  """Returns Student's t of a cosine with the direction of the canaries' sum.

  Raises:
    ValueError: If the cosine is not inside (-1, 1).
  """
  if not abs(cosine) < 1.0:
    raise ValueError(
      f'The cosines are those of a release that is nothing but canaries: the '
      f'cosine with their sum is {cosine!r}, and must be inside (-1, 1). There '
      'is no noise in it.'
    )
  return cosine * math.sqrt(degrees / (1.0 - cosine**2))


def normal_scores(
  statistics: checks.FloatArray,
  noncentralities: checks.FloatArray,
  degrees: int,
) -> checks.FloatArray:
  """Returns z such that a normal variable is above it as often as t is.

  That is P(Z >= z) = P(T >= statistic) for the noncentral t law; it falls in
  the noncentrality. Computed from the smaller tail, in logarithms.

  Args:
    statistics: Student's t, [any].
    noncentralities: At least 0, [any].
    degrees: Of freedom, at least 1.
  """
  points, weights = _chi(degrees)
  offsets = noncentralities[:, None] - statistics[:, None] * points
  above, below = (
    special.logsumexp(special.log_ndtr(sign * offsets), 1, weights)
    for sign in (1.0, -1.0)
  )
  scores = special.ndtri_exp(np.minimum(above, below))
  return np.asarray(np.where(above < below, -scores, scores))


def median_noncentralities(
  statistics: checks.FloatArray, degrees: int
) -> checks.FloatArray:
  """Returns noncentralities, at least 0, at which no normal score is above 0.

  That is, t is as large as the statistic half the time or more often.
  """
  # With l = statistic w the tail is 1/2 for each value w of the denominator.
  return np.asarray(np.maximum(0.0, statistics * _chi(degrees)[0][-1]))


def _gaussian(ratio: float, delta: float) -> float:
  return two_gaussians.epsilon(max(0.0, ratio), 1.0, delta)


def _fitted(row: checks.FloatArray, dimension: int, delta: float) -> float:
  if row.size < 2:
    return math.nan
  # The null law has the standard deviation 1 / sqrt(dimension).
  scaled = row * math.sqrt(dimension)
  return two_gaussians.epsilon(
    float(scaled.mean()), float(scaled.std(ddof=1)), delta
  )


def _least_noncentrality(statistic: float, degrees: int, level: float) -> float:
  """The least noncentrality at which t is `statistic` or more often enough.

  That is, the l >= 0 with P(T >= statistic) = level for the noncentral t law,
  T = (Z + l) / w, where w^2 degrees is chi-squared; or 0.
  """
  points, weights = _chi(degrees)

  def tail(noncentrality: float) -> float:
    return float(weights @ special.ndtr(noncentrality - statistic * points))

  if tail(0.0) >= level:
    return 0.0
  # With l = statistic w the tail is 1/2 for every w.
  high = statistic * float(points[-1])
  return float(optimize.brentq(lambda x: tail(x) - level, 0.0, high))


@functools.lru_cache(maxsize=64)
def _chi(degrees: int) -> tuple[checks.FloatArray, checks.FloatArray]:
  """Points and weights of chi / sqrt(degrees), by Gauss and Legendre."""
  ends = np.sqrt(
    2.0
    / degrees
    * np.asarray(
      [
        special.gammaincinv(degrees / 2.0, _LEFT_OUT),
        special.gammainccinv(degrees / 2.0, _LEFT_OUT),
      ]
    )
  )
  nodes, weights = special.roots_legendre(_NODES)
  points = ends[0] + (nodes + 1.0) / 2.0 * (ends[1] - ends[0])
  logs = (degrees - 1.0) * np.log(points) - degrees * points**2 / 2.0
  weights = weights * np.exp(logs - logs.max())
  return points, weights / weights.sum()
