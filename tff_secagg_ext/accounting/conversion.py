# SPDX-License-Identifier: Apache-2.0
"""From what a run cost to an epsilon, by several accountants.

Each gives a bound on the same number, the least epsilon at the given delta, so
that the least of them is a bound. Which one gives it may change with delta:
the least at every delta is a bound at every delta, but no privacy loss
distribution belongs to it, and nothing may be composed with it.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import math

from tff_secagg_ext.accounting import costs, events, gaussian, pld, renyi

# Gaussian domination, composed exactly, no sampling claimed.
GAUSSIAN = 'gaussian'
# Gaussian domination, composed as privacy loss distributions, with sampling.
PLD = 'pld'
# Renyi divergences; amplified where cohorts were Poisson samples.
RENYI = 'renyi'

# Slack in nats below which Renyi divergences cannot be better.
_NO_SLACK = 1e-6
# The part of delta for Skellam noise that is not near a Gaussian's.
_NEAR_SHARE = 1e-4


@dataclasses.dataclass(frozen=True)
class Epsilon:
  """An epsilon that leaves nothing out.

  Attributes:
    value: In nats, from 0 to infinity.
    reasons: Why it is infinite, each named once; empty if it is finite.
    waivers: What was released and is left out of it, each named once. Where
      there are any, the epsilon is true only if they are right.
    accountant: Which accountant gave it: 'gaussian', 'pld' or 'renyi'
      (docs/accounting.md, section 5); empty if it is infinite or not known.
      Equality does not ask for it.
  """

  value: float
  reasons: tuple[str, ...] = ()
  waivers: tuple[events.Waiver, ...] = ()
  accountant: str = dataclasses.field(default='', compare=False)


# Guesses of epsilon for Skellam noise, over that for the noise it is near to.
_ABOVE = (1.1, 1.2, 1.4, 1.8)


def asks_renyi(total: costs.Cost) -> bool:
  """Whether Renyi divergences may give the least epsilon of such a cost."""
  return bool(total.slack > _NO_SLACK or total.near.coordinates)


def best(
  total: costs.Cost, delta: float, composition: pld.Composition | None = None
) -> Epsilon:
  """Returns the least epsilon that a valid accountant gives.

  Args:
    total: What all rounds cost together.
    delta: In (0, 1).
    composition: The dominating pairs of all rounds whose cost has a
      `squared_ratio`, if sampling is to amplify; None for no sampling.
  """
  if total.reasons:
    return Epsilon(math.inf, total.reasons, total.waivers)
  dominated = _near if total.near.coordinates else _dominated
  found = list(dominated(total, delta, composition))
  # Amplification may have been given up as a distribution, and not in Renyi's.
  amplified = composition is None or any(e.accountant == PLD for e in found)
  if not amplified or asks_renyi(total):
    found.append(_renyi(total, delta))
  least = min(found, key=lambda epsilon: epsilon.value)
  if math.isinf(least.value):
    reason = f'noise too small for any accountant at delta {delta:g}'
    return Epsilon(math.inf, (reason,), total.waivers)
  return dataclasses.replace(least, waivers=total.waivers)


def _renyi(total: costs.Cost, delta: float) -> Epsilon:
  value = renyi.epsilon_from_renyi(total.divergences, delta)
  return Epsilon(value, accountant=RENYI)


def _near(
  total: costs.Cost, delta: float, composition: pld.Composition | None
) -> Iterable[Epsilon]:
  """Yields what domination gives for Skellam noise near theirs (Theorem 6).

  How rare the event must be that Theorem 6 leaves out depends on epsilon. So
  it is chosen for a guess, and what comes of it holds if it is no more than
  that. A guess just above what the other noise has is the best; Renyi
  divergences, which are not amplified where cohorts are of a fixed size, are a
  guess that is never of use where what they give is less.
  """
  most = _renyi(total, delta).value
  ideal = [found.value for found in _dominated(total, delta, composition)]
  guesses = {min(most, above * min(ideal, default=0.0)) for above in _ABOVE}
  for guess in sorted(guesses | {most}):
    t = total.near.log_factor(math.log(delta * _NEAR_SHARE / 2.0) - guess)
    left = delta * (1.0 - _NEAR_SHARE) * math.exp(-t)
    for found in _dominated(total, left, composition):
      # Then eta (1 + e^(t + epsilon')) is at most its share of delta.
      if found.value + 2.0 * t <= guess:
        yield dataclasses.replace(found, value=found.value + 2.0 * t)
        return


def _dominated(
  total: costs.Cost, delta: float, composition: pld.Composition | None
) -> Iterable[Epsilon]:
  """Yields what Gaussian domination gives for noise that is not Skellam's."""
  left = delta * math.exp(-total.slack)
  if left <= 0.0:
    return
  if composition is not None:
    value = composition.epsilon(left)
    if math.isfinite(value):
      yield Epsilon(value + total.slack, accountant=PLD)
      return
  value = gaussian.epsilon(math.sqrt(total.squared_ratio), left)
  yield Epsilon(value + total.slack, accountant=GAUSSIAN)
