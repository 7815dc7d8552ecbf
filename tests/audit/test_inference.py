# SPDX-License-Identifier: Apache-2.0
"""Membership inference by shadow models: power, bounds, what is refused."""

from __future__ import annotations

import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import integrate

from tff_secagg_ext.audit import inference, membership

_EPSILONS = st.floats(0.0, 20.0)
_SHARES = st.floats(0.0, 1.0)
# Of a correct test; each bound below is that of an attack that guesses.
_CLIENTS = 200


def coins(models: int, seed: int) -> np.ndarray:
  return np.random.default_rng(seed).random((models, _CLIENTS)) < 0.5


class Overfitted:
  """Linear regression with half again as many weights as a model's members.

  Each client has one example with a label that nothing explains. A model that
  has learnt it by heart has no loss on it.
  """

  def __init__(self, steps: int, seed: int):
    generator = np.random.default_rng(seed)
    self._x = generator.normal(size=(_CLIENTS, 150)) / 12.0
    self._y = generator.normal(size=_CLIENTS)
    self._steps = steps

  def __call__(self, members: np.ndarray) -> np.ndarray:
    weights = np.zeros(self._x.shape[1])
    x, y = self._x[members], self._y[members]
    for _ in range(self._steps):
      weights -= 0.3 * x.T @ (x @ weights - y)
    return (self._x @ weights - self._y) ** 2


def audit(train: inference.Train) -> dict[str, inference.Finding]:
  halves = inference.halves(np.random.default_rng(1).random((16, _CLIENTS)))
  shadows = inference.observe(train, halves)
  audited = inference.observe(train, coins(4, 2))
  return {
    attack: inference.infer(scores, audited.members, delta=0.0)
    for attack, scores in inference.scores(audited, shadows).items()
  }


def test_an_overfitted_model_is_caught() -> None:
  found = audit(Overfitted(steps=300, seed=3))
  assert set(found) == set(inference.ATTACKS)
  for finding in found.values():
    assert finding.attack.auc.low > 0.6
    assert finding.epsilon_lower_bound > 1.0
    assert inference.contradicts(finding, 0.5, 0.0)
    assert not inference.contradicts(finding, math.inf, 0.0)
  # Above chance at few false positives, too.
  best = found['likelihood ratio'].attack
  assert best.true_positive_rate.low > best.false_positive_bound


def test_an_untrained_model_is_not() -> None:
  """Its losses have nothing to do with coins: rates are those of guessing."""
  seeds = np.random.default_rng(7)
  for finding in audit(lambda members: seeds.random(members.size)).values():
    auc = finding.attack.auc
    assert auc.low < 0.5 < auc.high
    assert not inference.contradicts(finding, 0.0, 0.0)


def test_guesses_of_coins_bound_epsilon_seldom_too_high() -> None:
  """Of scores that say nothing, the lower bound of epsilon is mostly 0.

  200 audits; at a miss of 5 % more than 27 fail once in 10^6.
  """
  generator = np.random.default_rng(4)
  missed = 0
  for _ in range(200):
    members = generator.random((2, _CLIENTS)) < 0.5
    scores = generator.normal(size=members.shape)
    missed += inference.infer(scores, members, 0.0).epsilon_lower_bound > 0.0
  assert missed <= 27


@hypothesis.given(_EPSILONS, _SHARES, _SHARES)
def test_no_test_does_better_than_randomized_response(
  epsilon: float, delta: float, rate: float
) -> None:
  """All is lost with probability delta, or the coin is told by a biased one.

  [KOV15]: its outputs reach the bound, and mixtures of them.
  """
  found = inference.allowed_true_positive_rate(epsilon, delta, rate)
  truth = 1.0 / (1.0 + math.exp(-epsilon))
  member = [delta, (1 - delta) * truth, (1 - delta) * (1 - truth), 0.0]
  other = [0.0, (1 - delta) * (1 - truth), (1 - delta) * truth, delta]
  x, y = np.cumsum([0.0, *other]), np.cumsum([0.0, *member])
  # The first step is straight up.
  best = float(np.interp(rate, x[1:], y[1:]))
  assert found == pytest.approx(best, abs=1e-9)


@hypothesis.given(_EPSILONS, _SHARES)
def test_allowed_auc_by_integration(epsilon: float, delta: float) -> None:
  corner = (1.0 - delta) / (1.0 + math.exp(epsilon))
  area, _ = integrate.quad(
    lambda x: inference.allowed_true_positive_rate(epsilon, delta, x),
    0.0,
    1.0,
    points=sorted({corner, 1.0 - delta}),
  )
  assert inference.allowed_auc(epsilon, delta) == pytest.approx(area, abs=1e-7)


@hypothesis.given(_EPSILONS, _EPSILONS, _SHARES, _SHARES)
def test_more_epsilon_allows_more(
  one: float, other: float, delta: float, rate: float
) -> None:
  low, high = sorted([one, other])
  for allowed in (
    lambda epsilon: inference.allowed_auc(epsilon, delta),
    lambda epsilon: inference.allowed_true_positive_rate(epsilon, delta, rate),
  ):
    assert allowed(low) <= allowed(high) + 1e-12


def test_published_bounds() -> None:
  """Randomized response at epsilon = ln 3 tells the truth in 3 of 4 cases.

  [Warner 1965]; without privacy all is allowed, with epsilon 0 guessing.
  """
  assert inference.allowed_auc(math.log(3.0), 0.0) == pytest.approx(0.75)
  rate = inference.allowed_true_positive_rate(math.log(3.0), 0.0, 0.25)
  assert rate == pytest.approx(0.75)
  assert inference.allowed_auc(0.0, 0.0) == 0.5
  assert inference.allowed_true_positive_rate(0.0, 0.0, 0.3) == 0.3
  assert inference.allowed_auc(math.inf, 0.0) == 1.0
  assert inference.allowed_true_positive_rate(math.inf, 0.1, 0.3) == 1.0
  assert inference.allowed_true_positive_rate(1e6, 0.0, 1e-3) == 1.0


def test_each_client_is_in_half_of_the_shadows() -> None:
  flags = inference.halves(np.random.default_rng(5).random((9, 1000)))
  np.testing.assert_array_equal(flags.sum(axis=0), 4)
  # In each model, by the hypergeometric law; six deviations.
  assert np.abs(flags.sum(axis=1) - 4000 / 9).max() < 6 * math.sqrt(1000 / 4)


def test_many_shadows_have_variances_of_their_own() -> None:
  """Clients whose losses spread differently, with 63 and with 64 shadows."""
  generator = np.random.default_rng(6)
  for models, pooled in ((63, True), (64, False)):
    losses = np.exp(generator.normal(size=(models, 50)) * np.linspace(0.1, 2))
    flags = inference.halves(generator.random(losses.shape))
    shadows = inference.Models(flags, losses)
    found = inference.scores(shadows, shadows)['likelihood ratio'][0]
    logits = membership.logit_confidences(losses)
    expected = membership.likelihood_ratios(
      logits[0], logits, flags, online=True, pooled=pooled
    )
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(
  ('losses', 'message'),
  [
    ([1.0, math.nan, 1.0], r'finite. Found 1 of 3 .* say nothing'),
    ([1.0, 1.0], r'`losses` must have the shape \[3\]. Found \[2\]'),
  ],
)
def test_trainings_that_are_refused(losses: list[float], message: str) -> None:
  with pytest.raises(ValueError, match=message):
    inference.observe(lambda _: losses, np.ones((1, 3), bool))


def test_input_that_is_refused() -> None:
  flags = np.ones((2, 3), bool)
  with pytest.raises(ValueError, match=r'`models` must be at least 2. Found 1'):
    inference.halves(np.zeros((1, 3)))
  with pytest.raises(TypeError, match='`members` must be an array of bool'):
    inference.Models(np.ones((2, 3)), np.ones((2, 3)))
  with pytest.raises(ValueError, match=r'`losses` must have the shape \[2, 3'):
    inference.Models(flags, np.ones((2, 2)))
  with pytest.raises(ValueError, match=r'`scores` must have the shape \[2, 3'):
    inference.infer(np.ones((3, 2)), flags, 0.0)
  with pytest.raises(ValueError, match=r'`epsilon` must be finite. Found nan'):
    inference.allowed_auc(math.nan, 0.0)
  with pytest.raises(ValueError, match=r'`epsilon` must be in \[0, inf'):
    inference.allowed_auc(-1.0, 0.0)
  with pytest.raises(ValueError, match=r'`delta` must be in \[0, 1\]'):
    inference.allowed_true_positive_rate(1.0, 2.0, 0.1)
  with pytest.raises(ValueError, match='`false_positive_rate` must be in'):
    inference.allowed_true_positive_rate(1.0, 0.0, 2.0)
