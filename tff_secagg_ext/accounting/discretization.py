# SPDX-License-Identifier: Apache-2.0
"""From privacy profiles to distributions of the privacy loss, pessimistically.

The rule is Connect-the-Dots, [DGKKM22, Algorithm 1, arXiv 2207.04380]: the
distribution on given losses whose profile is the given one at them, and its
chord, as a function of e^epsilon, between them. A profile is convex there, so
that the chord is never below it.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy import special

from tff_secagg_ext.accounting import arrays, profiles

# Orders of the cumulants, in 1/nats.
ORDERS: arrays.FloatArray = 2.0 ** np.arange(-9.0, 19.0, 0.5)
# Whether a pair is reversed: 'present' against 'absent', and the converse.
DIRECTIONS = (False, True)


def connect_dots(
  excess: arrays.FloatArray, gaps: arrays.FloatArray
) -> arrays.FloatArray:
  """Returns the masses of the pessimistic Connect-the-Dots distribution.

  The rule is linear in the profile and gives [1 - a]_+ a unit mass at loss 0.
  Only the rest is differenced here, so that nothing cancels, and the caller
  adds the unit mass.

  Args:
    excess: Profile less [1 - a]_+ at increasing losses, shape [n].
    gaps: Differences of the losses, shape [n - 1].
  """
  differences = np.diff(np.concatenate([[0.0], excess, excess[-1:]]))
  ends = np.concatenate([[math.inf], gaps, [math.inf]])
  left = differences[:-1] / np.expm1(-ends[:-1])
  with np.errstate(over='ignore'):
    return np.asarray(left + differences[1:] / np.expm1(ends[1:]))


def discretize(
  profile: profiles.Profile, reverse: bool, step: float
) -> tuple[int, arrays.FloatArray, float]:
  """Returns a round's loss on the multiples of `step`.

  Guarantees:
    - its hockey-stick divergence is that of the profile at the grid's points,
      and at least that everywhere.

  Returns:
    The first grid point in steps, the probabilities from there on, and the
    probability of an infinite loss.
  """
  losses = profile.losses(reverse)
  first = math.floor(losses[0] / step)
  last = math.ceil(losses[-1] / step)
  excess = profile.excess(np.arange(first, last + 1) * step, reverse)
  masses = connect_dots(excess, np.full(last - first, step))
  masses[-first] += 1.0
  return first, np.maximum(masses, 0.0), float(excess[-1])


@functools.lru_cache(maxsize=4096)
def cumulants(profile: profiles.Profile) -> arrays.FloatArray:
  """Returns bounds on ln E e^(order * loss) at ORDERS, for both directions.

  They are those of a distribution that dominates the pair, since it connects
  dots too: few, but close together where the pair's mass is.
  """
  rows = []
  for reverse in DIRECTIONS:
    losses = profile.losses(reverse)
    masses = connect_dots(profile.excess(losses, reverse), np.diff(losses))
    masses = np.maximum(masses + (losses == 0.0), 1e-300)
    exponents = np.outer(ORDERS, losses) + np.log(masses)
    rows.append(special.logsumexp(exponents, axis=1))
  return np.asarray(rows)
