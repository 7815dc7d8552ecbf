# SPDX-License-Identifier: Apache-2.0
"""Who was in the training set, guessed from losses; with intervals.

Members and non-members are examples, or clients by their mean loss. Scores are
larger for likely members: the negative loss, or the likelihood ratio of shadow
models [CCNSTT22, arXiv 2112.03570]. docs/audit.md, section 5.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math
from typing import TypeVar

import numpy as np
from scipy import optimize, special, stats

from tff_secagg_ext import _validate
from tff_secagg_ext.audit import checks

T = TypeVar('T')

# Losses below cannot be told from 0 by confidences in double precision.
_LEAST_LOSS = 2.0**-53


@dataclasses.dataclass(frozen=True)
class Interval:
  """A figure and its two-sided confidence interval."""

  value: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Attack:
  """How well scores tell members from non-members.

  Attributes:
    auc: P(member's score > non-member's), ties counted half. 0.5 is guessing.
    true_positive_rate: Members above the threshold.
    threshold: Exceeded by at most the asked share of the given non-members.
    false_positive_bound: Above the share of all non-members that exceed the
      threshold, with the confidence of the intervals.
  """

  auc: Interval
  true_positive_rate: Interval
  threshold: float
  false_positive_bound: float


def losses(
  model: Callable[[T], checks.ArrayLike], examples: T
) -> checks.FloatArray:
  """Returns model(examples), [examples] float64, checked.

  Args:
    model: Returns one loss in nats for each example, or client.
    examples: Whatever the model takes.

  Raises:
    TypeError: If it returns no real numbers.
    ValueError: If it returns another shape, or a loss that is not finite.
  """
  return checks.check_array(
    model(examples),
    'model(examples)',
    (None,),
    'An audit of such a model would say nothing.',
  )


def attack(
  members: checks.ArrayLike,
  others: checks.ArrayLike,
  false_positive_rate: float = 1e-3,
  confidence: float = 0.95,
) -> Attack:
  """Returns how well scores tell members from others.

  Guarantees, for independent members and others:
    - the interval of the true positive rate is Clopper and Pearson's; given the
      threshold, which the members do not touch, it is exact;
    - that of the AUC holds for every law of the scores and every number
      [Hoeffding 1963, section 5]; no normality is assumed.

  Args:
    members: [any] scores, larger for likely members.
    others: [any] scores of examples that were not trained on.
    false_positive_rate: The share of `others` that may exceed the threshold;
      in [0, 1). Below 1 / len(others) none may.
    confidence: Of each interval, in (0, 1).

  Raises:
    TypeError: If scores are not real numbers.
    ValueError: If a shape or a value is outside of its range.
  """
  inside = checks.check_array(members, 'members', (None,))
  outside = checks.check_array(others, 'others', (None,))
  rate = _validate.check_float(
    false_positive_rate, 'false_positive_rate', minimum=0.0, maximum=1.0
  )
  if rate == 1.0:
    raise ValueError('`false_positive_rate` must be below 1. Found 1.0.')
  _check_confidence(confidence)
  # A hair above, as 0.07 * 100 is not 7.
  allowed = math.floor(rate * outside.size * (1.0 + 1e-12))
  threshold = float(np.sort(outside)[outside.size - 1 - allowed])
  found = int(np.count_nonzero(inside > threshold))
  return Attack(
    _auc(inside, outside, confidence),
    clopper_pearson(found, inside.size, confidence),
    threshold,
    # The order statistic's rate has this beta law; ties make it smaller.
    float(stats.beta.ppf(confidence, allowed + 1, outside.size - allowed)),
  )


def clopper_pearson(
  successes: int, trials: int, confidence: float = 0.95
) -> Interval:
  """Returns a rate with its exact two-sided interval.

  Raises:
    ValueError: If there are no trials, or more successes than trials.
  """
  _validate.check_int(trials, 'trials', minimum=1)
  _validate.check_int(successes, 'successes', minimum=0, maximum=trials)
  level = (1.0 - _check_confidence(confidence)) / 2.0
  failures = trials - successes
  low = stats.beta.ppf(level, successes, failures + 1) if successes else 0.0
  high = stats.beta.isf(level, successes + 1, failures) if failures else 1.0
  return Interval(successes / trials, float(low), float(high))


def logit_confidences(cross_entropies: checks.ArrayLike) -> checks.FloatArray:
  """Returns ln(p / (1 - p)) for p = e^-loss, which is nearly normal.

  Args:
    cross_entropies: Losses in nats, of any shape, at least 0. Below 2^-53 they
      count as that.

  Raises:
    ValueError: If a loss is negative or not finite.
  """
  values = np.asarray(cross_entropies, dtype=np.float64)
  if not np.all((values >= 0.0) & np.isfinite(values)):
    raise ValueError(
      '`cross_entropies` must be finite and at least 0. Found '
      f'{values[~((values >= 0.0) & np.isfinite(values))].flat[0]!r}. Other '
      'losses are given to `likelihood_ratios` as they are.'
    )
  clipped = np.maximum(values, _LEAST_LOSS)
  # ln(p / (1 - p)) = -ln(e^loss - 1), without overflow.
  return np.asarray(-clipped - np.log(-np.expm1(-clipped)))


def likelihood_ratios(
  target: checks.ArrayLike,
  shadows: checks.ArrayLike,
  trained: checks.ArrayLike,
  *,
  online: bool,
  pooled: bool = False,
) -> checks.FloatArray:
  """Returns the scores of LiRA: how well Gaussian fits explain the target.

  Online: ln N(x; mean and variance of shadow models trained on the example) -
  ln N(x; those of the others). Offline: (x - mean) / deviation of the others
  alone, which orders examples as the one-sided p-value does.

  Args:
    target: [examples], what the audited model gives; larger for examples it
      knows, such as `logit_confidences`.
    shadows: [models, examples], the same of the shadow models.
    trained: [models, examples] bool: which model was trained on which example.
    online: Whether shadow models that were trained on an example are used.
    pooled: Whether examples share their variances; better for few shadows.

  Raises:
    TypeError: If arrays have other types.
    ValueError: If shapes do not fit, values are not finite, or the shadows of
      an example are too few, or too equal, for a variance.
  """
  flags = checks.check_flags(trained, 'trained', (None, None))
  values = checks.check_array(shadows, 'shadows', flags.shape)
  found = checks.check_array(target, 'target', flags.shape[1:])
  out_mean, out_variance = _fits(values, ~flags, pooled, 'not trained')
  out = (found - out_mean) ** 2 / out_variance
  if not online:
    return np.asarray((found - out_mean) / np.sqrt(out_variance))
  mean, variance = _fits(values, flags, pooled, 'trained')
  ratios = out - (found - mean) ** 2 / variance
  return np.asarray((ratios + np.log(out_variance / variance)) / 2.0)


def _check_confidence(confidence: float) -> float:
  return _validate.check_float(
    confidence, 'confidence', minimum=0.0, maximum=1.0, exclusive=True
  )


def _auc(
  members: checks.FloatArray, others: checks.FloatArray, confidence: float
) -> Interval:
  """Of Mann and Whitney's statistic, a mean of means of n independent pairs.

  n = min(members, others). Hence the Chernoff bound of n independent values in
  [0, 1]: P(U >= A + t) <= exp(-n kl(A + t, A)).
  """
  ranks = stats.rankdata(np.concatenate([members, others]))[: members.size]
  wins = ranks.sum() - members.size * (members.size + 1) / 2.0
  value = min(1.0, float(wins) / (members.size * others.size))
  limit = math.log(2.0 / (1.0 - confidence)) / min(members.size, others.size)

  def excess(mean: float) -> float:
    divergence = special.rel_entr(value, mean)
    return float(divergence + special.rel_entr(1.0 - value, 1.0 - mean) - limit)

  low = optimize.brentq(excess, 1e-300, value) if value > 0.0 else 0.0
  top = 1.0 - 2.0**-53
  high = optimize.brentq(excess, value, top) if excess(top) > 0.0 else 1.0
  return Interval(value, float(low), float(high))


def _fits(
  values: checks.FloatArray, chosen: checks.BoolArray, pooled: bool, kind: str
) -> tuple[checks.FloatArray, checks.FloatArray]:
  """Means and unbiased variances of the chosen shadows of each example."""
  counts = chosen.sum(axis=0)
  least = 1 if pooled else 2
  if counts.min() < least or counts.sum() <= counts.size:
    raise ValueError(
      f'Each example must have at least {least} shadow models that were {kind} '
      f'on it, and some must have 2. Found {counts.min()} for example '
      f'{int(np.argmin(counts))}. Train more, or pool the variances.'
    )
  means = np.where(chosen, values, 0.0).sum(axis=0) / counts
  squares = np.where(chosen, (values - means) ** 2, 0.0).sum(axis=0)
  if pooled:
    total = squares.sum() / (counts.sum() - counts.size)
    variances = np.full(counts.shape, total)
  else:
    variances = squares / (counts - 1)
  if not variances.all():
    raise ValueError(
      f'The shadow models that were {kind} on example '
      f'{int(np.argmin(variances))} must differ. Found the variance 0. Train '
      'them from other seeds, or pool the variances.'
    )
  return means, variances
