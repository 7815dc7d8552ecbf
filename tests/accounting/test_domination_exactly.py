# SPDX-License-Identifier: Apache-2.0
"""The domination lemma on many small instances, in integer arithmetic.

What is exact is bounded from above by integers, so that a bound that passes is
not below the exact value, but for the width of the integers' own bounds.
"""

from __future__ import annotations

from fractions import Fraction
import math
import random

import numpy as np
import pytest

from tests.oracles import intervals
from tff_secagg_ext.accounting import domination, profiles

_PARTS = 10
_IN_EACH = 60
_WIDTH = Fraction(1, 2**120)


def _shares(generator: random.Random) -> tuple[Fraction, ...]:
  """One to five shares, of which some have the same variance."""
  count = generator.randint(1, 5)
  kinds = [Fraction(generator.randint(1, 32), 8) for _ in range(2)]
  return tuple(generator.choice(kinds) for _ in range(count))


@pytest.mark.parametrize('part', range(_PARTS))
def test_range_of_the_factor(part: int) -> None:
  """Lemma 2, in 600 instances."""
  generator = random.Random(part)
  for _ in range(_IN_EACH):
    shares = _shares(generator)
    bound = domination.sum_range([float(v) for v in shares])
    law = intervals.total(shares)
    # Where the law is above 2^-90 or so, the table tells it well.
    exact = law.factor_ratio(math.isqrt(int(100 * law.variance)))
    if math.isfinite(bound):
      assert exact <= intervals.exp_below(Fraction(bound)) + _WIDTH
    else:
      assert min(shares) < Fraction(1, 2)


@pytest.mark.parametrize('part', range(_PARTS))
def test_divergence_of_sampled_and_shifted_sums(part: int) -> None:
  """Theorem 1 for one coordinate and one round, in 600 instances."""
  generator = random.Random(100 + part)
  checked = 0
  while checked < _IN_EACH:
    shares = _shares(generator)
    law = intervals.total(shares)
    smoothing = min(3.0, float(law.variance) / 2.0)
    bound = domination.dominate([float(v) for v in shares], smoothing)
    if not math.isfinite(bound.log_range):
      continue
    checked += 1
    shift = generator.randint(1, 6)
    q = Fraction(generator.randint(1, 8), 8)
    level = Fraction(generator.randint(8, 64), 8)
    reverse = generator.random() < 0.5
    exact = law.divergence(shift, q, level, reverse)
    found = _bound(bound, shift, float(q), math.log(level), reverse)
    assert exact <= Fraction(found) + _WIDTH


def _bound(
  bound: domination.Domination,
  shift: int,
  q: float,
  epsilon: float,
  reverse: bool,
) -> float:
  """e^E H_{a exp(-E)} of the dominating pair."""
  profile = profiles.Profile('poisson', shift / math.sqrt(bound.variance), q)
  at = epsilon - bound.log_range
  divergence = float(profile.excess(np.array([at]), reverse)[0])
  divergence += max(0.0, -math.expm1(at))
  return math.exp(bound.log_range) * divergence
