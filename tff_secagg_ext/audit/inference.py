# SPDX-License-Identifier: Apache-2.0
"""Membership inference on trained models, beside what epsilon allows.

Clients are in a training by coins; an attacker who knows their data, and who
has trained shadow models with and without them, guesses from the released model
which ones were [CCNSTT22, arXiv 2112.03570]. A training enters as a function of
the coins. docs/audit.md, section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import TypeAlias

import numpy as np

from tff_secagg_ext import _validate
from tff_secagg_ext.audit import checks, membership, one_run

Train: TypeAlias = Callable[[checks.BoolArray], checks.ArrayLike]
"""Trains with the clients whose flags are set, and returns all clients' losses.

bool[clients] -> [clients], mean cross-entropies in nats.
"""

ATTACKS = ('loss', 'likelihood ratio')
"""The scores that are attacked with."""

# With fewer shadow models clients share their variances [CCNSTT22, section VI].
_SHADOWS_FOR_VARIANCES = 64
# Of the coins, so many are guessed heads, and as many tails: chosen before.
_GUESSED = 0.1


@dataclasses.dataclass(frozen=True)
class Models:
  """Trained models, by who was in and what each client's loss is.

  Attributes:
    members: bool[models, clients].
    losses: float64[models, clients], finite.
  """

  members: checks.BoolArray
  losses: checks.FloatArray

  def __post_init__(self) -> None:
    members = checks.check_flags(self.members, 'members', (None, None))
    checks.check_array(self.losses, 'losses', members.shape)


@dataclasses.dataclass(frozen=True)
class Finding:
  """What an attack found out.

  Attributes:
    attack: Its rates, whose intervals hold for independent scores.
    epsilon_lower_bound: From the coins that were guessed (`one_run`), in nats;
      holds however scores depend on each other.
  """

  attack: membership.Attack
  epsilon_lower_bound: float


def halves(uniform: checks.ArrayLike) -> checks.BoolArray:
  """Returns bool[models, clients]: each client is in a random half of models.

  Args:
    uniform: [models, clients], independent draws of one continuous law; at
      least two models.

  Raises:
    ValueError: If there are fewer models.
  """
  draws = checks.check_array(uniform, 'uniform', (None, None))
  _validate.check_int(len(draws), 'models', minimum=2)
  ranks = np.argsort(np.argsort(draws, axis=0), axis=0)
  return np.asarray(ranks < len(draws) // 2)


def observe(train: Train, members: checks.ArrayLike) -> Models:
  """Trains a model for each row of `members`.

  Args:
    train: The training.
    members: bool[models, clients].

  Raises:
    TypeError: If losses are not real numbers.
    ValueError: If a model gives another number of losses than there are
      clients, or one that is not finite.
  """
  flags = checks.check_flags(members, 'members', (None, None))
  found = [membership.losses(train, row) for row in flags]
  for losses in found:
    checks.check_array(losses, 'losses', flags.shape[1:])
  return Models(flags, np.stack(found))


def scores(audited: Models, shadows: Models) -> Mapping[str, checks.FloatArray]:
  """Returns float64[models, clients] by attack, larger for likely members.

  The losses' negatives, and LiRA's online ratios of their logits; with fewer
  than 64 shadow models clients share their variances.

  Args:
    audited: What is attacked; of its `members` nothing is used.
    shadows: Models of the attacker's own; each client is in some of them, and
      out of others.

  Raises:
    ValueError: If shapes do not fit, losses are negative, or shadows are too
      few or too equal.
  """
  logits = membership.logit_confidences(shadows.losses)
  ratios = [
    membership.likelihood_ratios(
      row,
      logits,
      shadows.members,
      online=True,
      pooled=len(logits) < _SHADOWS_FOR_VARIANCES,
    )
    for row in membership.logit_confidences(audited.losses)
  ]
  return dict(zip(ATTACKS, (-audited.losses, np.stack(ratios)), strict=True))


def infer(
  scores: checks.ArrayLike,
  members: checks.ArrayLike,
  delta: float,
  false_positive_rate: float = 1e-3,
  confidence: float = 0.95,
) -> Finding:
  """Returns how well scores tell who was in.

  Args:
    scores: [models, clients], larger for likely members.
    members: bool[models, clients], independent fair coins.
    delta: At which the lower bound of epsilon is, in [0, 1).
    false_positive_rate: As for `membership.attack`.
    confidence: Of each interval and bound, in (0, 1).

  Raises:
    TypeError: If arrays have other types.
    ValueError: If a shape or a value is outside of its range.
  """
  flags = checks.check_flags(members, 'members', (None, None))
  values = checks.check_array(scores, 'scores', flags.shape)
  ends = math.floor(_GUESSED * flags.size)
  guesses = one_run.guess(values.ravel(), flags.ravel(), ends, ends)
  return Finding(
    membership.attack(
      values[flags], values[~flags], false_positive_rate, confidence
    ),
    one_run.epsilon_lower_bound(guesses, delta, confidence),
  )


def allowed_true_positive_rate(
  epsilon: float, delta: float, false_positive_rate: float
) -> float:
  """Returns the largest true positive rate under (epsilon, delta).

    min{e^epsilon FPR + delta, 1 - e^-epsilon (1 - delta - FPR), 1}

  [KOV15, arXiv 1311.0776, Thm 2.1]: neither set of outputs nor its complement
  is likelier than privacy allows.

  Args:
    epsilon: In nats, at least 0; may be infinite.
    delta: In [0, 1].
    false_positive_rate: In [0, 1].

  Raises:
    ValueError: If a number is outside of its range.
  """
  epsilon = _check_epsilon(epsilon)
  delta = _validate.check_float(delta, 'delta', minimum=0.0, maximum=1.0)
  rate = _validate.check_float(
    false_positive_rate, 'false_positive_rate', minimum=0.0, maximum=1.0
  )
  steep = math.exp(epsilon) * rate + delta if rate > 0.0 else delta
  flat = 1.0 - math.exp(-epsilon) * (1.0 - delta - rate)
  return min(steep, flat, 1.0)


def allowed_auc(epsilon: float, delta: float) -> float:
  """Returns the largest AUC under (epsilon, delta).

  The integral of `allowed_true_positive_rate`, whose two lines meet where both
  errors are x = (1 - delta) / (1 + e^epsilon):

    1 - (1 - delta)^2 / (1 + e^epsilon).

  Args:
    epsilon: In nats, at least 0; may be infinite.
    delta: In [0, 1].

  Raises:
    ValueError: If a number is outside of its range.
  """
  epsilon = _check_epsilon(epsilon)
  delta = _validate.check_float(delta, 'delta', minimum=0.0, maximum=1.0)
  odds = math.exp(-epsilon)
  return 1.0 - (1.0 - delta) ** 2 * odds / (1.0 + odds)


def contradicts(finding: Finding, epsilon: float, delta: float) -> bool:
  """Returns whether a finding is above what (epsilon, delta) allows.

  That is so if the lower end of the true positive rate's interval is above
  what is allowed at the largest false positive rate that the threshold may
  have, that of the AUC is above what is allowed, or the lower bound of epsilon
  is above epsilon.

  Args:
    finding: Of models that are claimed to be private.
    epsilon: In nats, at least 0; may be infinite.
    delta: In [0, 1].

  Raises:
    ValueError: If a number is outside of its range.
  """
  attack = finding.attack
  rate = allowed_true_positive_rate(epsilon, delta, attack.false_positive_bound)
  return (
    attack.true_positive_rate.low > rate
    or attack.auc.low > allowed_auc(epsilon, delta)
    or finding.epsilon_lower_bound > epsilon
  )


def _check_epsilon(epsilon: float) -> float:
  if epsilon == math.inf:
    return epsilon
  # e^epsilon is a number up to here; nothing is allowed or not beyond.
  return min(_validate.check_float(epsilon, 'epsilon', minimum=0.0), 700.0)
