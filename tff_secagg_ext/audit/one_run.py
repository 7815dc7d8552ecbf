# SPDX-License-Identifier: Apache-2.0
"""A lower bound of epsilon from one training run and coin flips.

Each of m canaries is included if its own fair coin says so. After the run the
auditor guesses the coins of r of them, those of which it is surest, and v
guesses are right. Under (epsilon, delta)-differential privacy v is hardly more
than what guesses that are right with probability e^epsilon / (1 + e^epsilon)
would give [SNJ23, arXiv 2305.08846, Cor. 5.4]. Nothing is assumed about the
model, the training or the scores. docs/audit.md, section 4.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
from scipy import special

from tff_secagg_ext import _validate
from tff_secagg_ext.audit import checks

_BISECTIONS = 50
# Where epsilon is larger, a guess is wrong less than once in e^700.
_LARGEST_EPSILON = 700.0


@dataclasses.dataclass(frozen=True)
class Guesses:
  """What came of the guessing.

  Attributes:
    canaries: m, how many coins were flipped; at least 1.
    guessed: r, how many coins were guessed; at most `canaries`.
    correct: v, how many of the guesses were right; at most `guessed`.

  Raises:
    ValueError: If a number is outside of its range.
  """

  canaries: int
  guessed: int
  correct: int

  def __post_init__(self) -> None:
    _validate.check_int(self.canaries, 'canaries', minimum=1)
    _validate.check_int(
      self.guessed,
      'guessed',
      minimum=0,
      maximum=self.canaries,
      remedy='Each canary is guessed at most once.',
    )
    _validate.check_int(
      self.correct,
      'correct',
      minimum=0,
      maximum=self.guessed,
      remedy='A guess is counted once.',
    )


def guess(
  scores: checks.ArrayLike,
  included: checks.ArrayLike,
  most_likely: int,
  least_likely: int = 0,
) -> Guesses:
  """Guesses by scores, and counts.

  The numbers of guesses must not depend on `included`: choose them before the
  run.

  Args:
    scores: [m], larger for canaries that look included, such as cosines or
      negative losses.
    included: [m] bool, the coins.
    most_likely: So many of the largest scores are guessed to be included.
    least_likely: So many of the smallest are guessed to be left out.

  Raises:
    TypeError: If an array or number has another type.
    ValueError: If a shape is another one, a score is not finite, or there are
      more guesses than canaries.
  """
  flags = checks.check_flags(included, 'included', (None,))
  values = checks.check_array(
    scores, 'scores', flags.shape, 'One score for each canary.'
  )
  _validate.check_int(most_likely, 'most_likely', minimum=0)
  _validate.check_int(least_likely, 'least_likely', minimum=0)
  guessed = most_likely + least_likely
  if guessed > flags.size:
    raise ValueError(
      f'`most_likely` + `least_likely` must be at most the {flags.size} '
      f'canaries. Found {guessed}. Each canary is guessed at most once.'
    )
  order = np.argsort(values, kind='stable')
  right = np.count_nonzero(flags[order[flags.size - most_likely :]])
  right += np.count_nonzero(~flags[order[:least_likely]])
  return Guesses(flags.size, guessed, int(right))


def p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
  """Returns a p-value of the hypothesis (epsilon, delta).

  With S(j) = P(Binomial(r, e^epsilon / (1 + e^epsilon)) >= j),

    p = S(v) + 2 m delta max_{1 <= i <= v} (S(v - i) - S(v)) / i.

  Guarantees:
    - under (epsilon, delta)-differential privacy with respect to including one
      canary, P(p <= x) <= x for all x;
    - it does not fall when epsilon grows: where the largest i is below
      2 m delta, for which that is not proven, p is 1.

  Args:
    guesses: What came of the guessing.
    epsilon: In nats, in [0, 700].
    delta: In [0, 1).

  Raises:
    ValueError: If epsilon or delta is outside of its range.
  """
  epsilon = _validate.check_float(
    epsilon, 'epsilon', minimum=0.0, maximum=_LARGEST_EPSILON
  )
  delta = _check_delta(delta)
  r, v = guesses.guessed, guesses.correct
  if v == 0:
    return 1.0
  tail = float(special.betainc(v, r - v + 1, special.expit(epsilon)))
  budget = 2.0 * guesses.canaries * delta
  if not budget:
    return tail
  # P(v - i <= Binomial < v) for i = 1, ..., v.
  gains = np.cumsum(_binomial(r, epsilon, np.arange(v - 1, -1, -1)))
  slopes = gains / np.arange(1.0, v + 1.0)
  best = int(np.argmax(slopes))
  if best + 1 < budget:
    return 1.0
  return min(1.0, tail + budget * float(slopes[best]))


def epsilon_lower_bound(
  guesses: Guesses, delta: float, confidence: float = 0.95
) -> float:
  """Returns a lower bound of epsilon at `delta`.

  Guarantees:
    - for a training that is (epsilon, delta)-differentially private it is above
      epsilon with probability at most 1 - `confidence`;
    - it is 0 where the guesses say nothing, and at most 700.

  Args:
    guesses: What came of the guessing.
    delta: In [0, 1).
    confidence: In (0, 1).

  Returns:
    Epsilon in nats, to within 700 / 2^50 below the exact bound.

  Raises:
    ValueError: If delta or confidence is outside of its range.
  """
  level = 1.0 - _validate.check_float(
    confidence, 'confidence', minimum=0.0, maximum=1.0, exclusive=True
  )
  _check_delta(delta)
  low, high = 0.0, 1.0
  while high < _LARGEST_EPSILON and p_value(guesses, high, delta) <= level:
    low, high = high, min(2.0 * high, _LARGEST_EPSILON)
  for _ in range(_BISECTIONS):
    middle = (low + high) / 2.0
    if p_value(guesses, middle, delta) <= level:
      low = middle
    else:
      high = middle
  return low


def _check_delta(delta: float) -> float:
  found = _validate.check_float(delta, 'delta', minimum=0.0, maximum=1.0)
  if found == 1.0:
    raise ValueError('`delta` must be below 1. Found 1.0.')
  return found


def _binomial(
  trials: int, epsilon: float, counts: npt.NDArray[np.int64]
) -> checks.FloatArray:
  """P(Binomial(trials, e^epsilon / (1 + e^epsilon)) = count)."""
  logs = (
    special.gammaln(trials + 1.0)
    - special.gammaln(counts + 1.0)
    - special.gammaln(trials - counts + 1.0)
    - counts * np.log1p(math.exp(-epsilon))
    - (trials - counts) * np.logaddexp(0.0, epsilon)
  )
  return np.asarray(np.exp(logs))
