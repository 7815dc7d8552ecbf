# SPDX-License-Identifier: Apache-2.0
"""From the user's choices to the constants of the integer mechanism.

Clients divide by the clip norm first, so what is rounded, noised and summed is
always a vector of norm at most 1. Scale, norm bound and noise are therefore
constants, fixed here once; the noise multiplier holds after rounding, and does
not move when the clip norm does.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

from tff_secagg_ext.mechanism import rounding
from tff_secagg_ext.mechanism import spec as spec_lib

# float32 holds integers up to 2^24, and the sampler's range ends at 1e5.
_MAX_SCALE = 2.0**20
_MAX_TOTAL_STDDEV = 1e5

# A finer grid than this gains nothing, and makes noise more costly to draw: a
# share's variance is 10^6 times that of rounding, or rounding adds less than
# 1 % to the norm bound.
_FINE_SHARE_STDDEV = 512.0
_FINE_SCALE_PER_ROOT_DIMENSION = 4.0

# Below this a share is so coarse that a sum of them is far from a discrete
# Gaussian, and no accountant of sums covers it.
_MIN_SHARE_STDDEV = 0.5


@dataclasses.dataclass(frozen=True)
class IntegerMechanism:
  """The constants of the integer mechanism, in integer units.

  Attributes:
    dimension: Coordinates of the rotated vector.
    modulus: 2**bits.
    scale: Integer units per unit of the clipped vector; exact in float32.
    norm_bound_squared: What the squared L2 norm of a rounded vector is at most.
    share_stddev: Standard deviation of one noise share; 0 for no noise.
  """

  dimension: int
  modulus: int
  scale: float
  norm_bound_squared: int
  share_stddev: float

  @property
  def sensitivity(self) -> float:
    """The L2 sensitivity of the sum, threshold bits included."""
    return math.sqrt(self.norm_bound_squared)

  def noise_multiplier(self, shares: int) -> float:
    """The central standard deviation of `shares` shares over sensitivity."""
    return self.share_stddev * math.sqrt(shares) / self.sensitivity

  def coordinate_variance(self, contributors: Any, shares: Any = None) -> Any:
    """Variance of a coordinate of the rotated, rounded, noised sum.

    All contributors are taken to send the same vector of norm 1, the worst
    case; a rotated coordinate of it has variance 1/d [KLS21, Section 4.2].

    Args:
      contributors: A number, or a float32 tensor of one.
      shares: The same, of the shares of noise; `None`: one a contributor.
    """
    shares = contributors if shares is None else shares
    signal = contributors * contributors * (self.scale**2 / self.dimension)
    return signal + contributors * 0.25 + shares * self.share_stddev**2

  def wrap_probability(
    self, contributors: int, shares: float | None = None
  ) -> float:
    """Probability that a coordinate of the sum leaves the range."""
    stddev = math.sqrt(self.coordinate_variance(contributors, shares))
    return math.erfc(self.modulus / 2 / stddev / math.sqrt(2))


@functools.lru_cache(maxsize=64)
def calibrate(spec: spec_lib.MechanismSpec, dimension: int) -> IntegerMechanism:
  """Returns the mechanism with the largest scale that fits into the bits.

  - `spec.modclip_prob` bounds the probability that a coordinate of the sum of
    `spec.max_shares` contributors leaves the range.
  - z = share_stddev sqrt(spec.noise_shares) / sensitivity, after rounding.

  Args:
    spec: The choices.
    dimension: Coordinates of the rotated vector, at least 1.

  Raises:
    ValueError: If the bits are too few; names the bits that would do.
  """
  mechanism = _fit(spec, dimension)
  if mechanism is not None:
    return mechanism
  remedy = 'No number of bits up to 30 does.'
  for bits in range(spec.bits + 1, spec_lib.MAX_BITS + 1):
    if _fit(dataclasses.replace(spec, bits=bits), dimension) is not None:
      remedy = f'Use bits={bits} or more.'
      break
  raise ValueError(
    f'`bits` must be enough for {spec.max_shares} contributors of'
    f' {dimension} coordinates at noise multiplier {spec.noise_multiplier:g}.'
    f' Found {spec.bits}. {remedy}'
  )


def _fit(
  spec: spec_lib.MechanismSpec, dimension: int
) -> IntegerMechanism | None:
  """The mechanism with the largest scale, at least 1, that fits; else None."""

  def fits(scale: float) -> bool:
    candidate = _at_scale(spec, dimension, scale)
    total_stddev = candidate.share_stddev * math.sqrt(spec.most_noise)
    wraps = candidate.wrap_probability(spec.max_shares, spec.most_noise)
    fine = _FINE_SCALE_PER_ROOT_DIMENSION * math.sqrt(dimension)
    return (
      total_stddev <= _MAX_TOTAL_STDDEV
      and (candidate.share_stddev <= _FINE_SHARE_STDDEV or scale <= fine)
      and wraps <= spec.modclip_prob
    )

  # The contributors are counted modulo 2**bits as well.
  if spec.max_shares >= 2**spec.bits or not fits(1.0):
    return None
  low, high = 1.0, _MAX_SCALE
  if fits(high):
    low = high
  while high - low > 1e-6 * low:
    middle = (low + high) / 2
    low, high = (middle, high) if fits(middle) else (low, middle)
  # To 2^-3 below the bisected scale, and so exact in float32.
  mechanism = _at_scale(spec, dimension, math.floor(low * 8) / 8)
  too_fine = 0 < mechanism.share_stddev < _MIN_SHARE_STDDEV
  return None if too_fine else mechanism


def _at_scale(
  spec: spec_lib.MechanismSpec, dimension: int, scale: float
) -> IntegerMechanism:
  bound = rounding.norm_bound_squared(scale, dimension, spec.beta)
  return IntegerMechanism(
    dimension=dimension,
    modulus=2**spec.bits,
    scale=scale,
    norm_bound_squared=bound,
    share_stddev=(spec.noise_multiplier * math.sqrt(bound / spec.noise_shares)),
  )
