# SPDX-License-Identifier: Apache-2.0
"""Membership inference: figures, intervals and what is refused."""

from __future__ import annotations

import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats

from tests.oracles import audit as oracle
from tff_secagg_ext.audit import membership

# A correct test fails this seldom.
FALSE_ALARM = 1e-6
_SCORES = st.lists(
  st.integers(-5, 5).map(float) | st.floats(-3.0, 3.0), min_size=1, max_size=20
)


@hypothesis.given(_SCORES, _SCORES)
def test_auc_pair_by_pair(members: list[float], others: list[float]) -> None:
  found = membership.attack(members, others).auc
  assert found.value == pytest.approx(oracle.auc(members, others))
  assert 0.0 <= found.low <= found.value <= found.high <= 1.0


@hypothesis.given(_SCORES, _SCORES, st.floats(0.0, 0.99))
def test_threshold_and_rates_by_counting(
  members: list[float], others: list[float], rate: float
) -> None:
  found = membership.attack(members, others, rate)
  false = sum(o > found.threshold for o in others)
  assert false <= rate * len(others) + 1e-9
  # The next lower threshold would be too low.
  lower = [o for o in others if o >= found.threshold]
  assert len(lower) > rate * len(others) - 1e-9
  true = sum(m > found.threshold for m in members)
  assert found.true_positive_rate.value == true / len(members)
  assert false / len(others) <= found.false_positive_bound


@hypothesis.given(st.integers(1, 60), st.data())
def test_clopper_pearson_by_the_binomial_law(
  trials: int, data: st.DataObject
) -> None:
  successes = data.draw(st.integers(0, trials))
  found = membership.clopper_pearson(successes, trials, 0.9)
  if successes:
    assert stats.binom.sf(successes - 1, trials, found.low) == pytest.approx(
      0.05
    )
  else:
    assert found.low == 0.0
  if successes < trials:
    assert stats.binom.cdf(successes, trials, found.high) == pytest.approx(0.05)
  else:
    assert found.high == 1.0


def test_published_interval() -> None:
  """No success in 10 trials: at most 0.3085 at 95 % [Clopper, Pearson 1934]."""
  found = membership.clopper_pearson(0, 10)
  assert found.high == pytest.approx(0.3085, abs=5e-5)


def test_intervals_cover() -> None:
  """Normal scores one deviation apart, whose AUC and rates are known.

  1,000 attacks; at a miss of 5 % each line fails once in 10^6.
  """
  generator = np.random.default_rng(3)
  auc = stats.norm.cdf(1.0 / math.sqrt(2.0))
  misses = np.zeros(3)
  for _ in range(1000):
    found = membership.attack(
      generator.normal(1.0, size=60), generator.normal(size=80), 0.1
    )
    rate = stats.norm.sf(found.threshold - 1.0)
    interval = found.true_positive_rate
    misses += [
      not found.auc.low <= auc <= found.auc.high,
      not interval.low <= rate <= interval.high,
      stats.norm.sf(found.threshold) > found.false_positive_bound,
    ]
  assert (misses <= stats.binom.isf(FALSE_ALARM, 1000, 0.05)).all()
  # The last one is exact.
  assert misses[2] >= stats.binom.ppf(FALSE_ALARM, 1000, 0.05)


def test_perfect_separation() -> None:
  found = membership.attack([2.0] * 50, [1.0] * 50)
  assert found.auc.value == found.auc.high == 1.0
  assert found.auc.low == pytest.approx(math.exp(-math.log(40.0) / 50))
  assert found.true_positive_rate.value == 1.0


def test_the_wrong_way_round() -> None:
  found = membership.attack([1.0] * 50, [2.0] * 50)
  assert found.auc.value == found.auc.low == 0.0
  assert found.true_positive_rate.value == 0.0


def test_logit_confidences() -> None:
  p = np.asarray([1e-9, 0.3, 0.5, 0.99])
  np.testing.assert_allclose(
    membership.logit_confidences(-np.log(p)), np.log(p / (1.0 - p)), atol=1e-12
  )
  found = membership.logit_confidences([0.0, 1000.0])
  np.testing.assert_allclose(found, [53.0 * math.log(2.0), -1000.0])


def test_likelihood_ratios_one_by_one() -> None:
  generator = np.random.default_rng(4)
  shadows = generator.normal(size=(16, 5))
  trained = np.arange(80).reshape(16, 5) % 3 == 0
  target = generator.normal(size=5)
  online = membership.likelihood_ratios(target, shadows, trained, online=True)
  offline = membership.likelihood_ratios(target, shadows, trained, online=False)
  for n, x in enumerate(target):
    inside, outside = shadows[trained[:, n], n], shadows[~trained[:, n], n]
    assert online[n] == pytest.approx(
      oracle.normal_log_density(x, inside.mean(), inside.var(ddof=1))
      - oracle.normal_log_density(x, outside.mean(), outside.var(ddof=1))
    )
    assert offline[n] == pytest.approx(
      (x - outside.mean()) / outside.std(ddof=1)
    )


def test_pooled_variance_is_that_of_all_examples() -> None:
  shadows = np.asarray([[0.0, 5.0], [2.0, 5.0]])
  out = np.zeros((2, 2), bool)
  found = membership.likelihood_ratios(
    [3.0, 5.0], shadows, out, online=False, pooled=True
  )
  # Squares of 2, over four values less two means.
  np.testing.assert_allclose(found, [2.0, 0.0])


def test_likelihood_ratios_beat_losses_where_examples_differ() -> None:
  """Examples of their own difficulty, which memorizing moves by a little."""
  generator = np.random.default_rng(5)
  difficulty = 5.0 * generator.normal(size=400)
  trained = generator.random((33, 400)) < 0.5
  values = difficulty + trained + 0.5 * generator.normal(size=(33, 400))
  members = trained[0]
  for online in (True, False):
    ratios = membership.likelihood_ratios(
      values[0], values[1:], trained[1:], online=online
    )
    found = membership.attack(ratios[members], ratios[~members])
    assert found.auc.low > 0.75
  plain = membership.attack(values[0][members], values[0][~members])
  assert plain.auc.high < 0.75


def test_a_model_is_a_function() -> None:
  found = membership.losses(lambda x: x**2, np.asarray([1.0, 2.0]))
  np.testing.assert_array_equal(found, [1.0, 4.0])


@pytest.mark.parametrize(
  ('result', 'error', 'message'),
  [
    ([1.0, math.nan], ValueError, r'finite. Found 1 of 2 .* say nothing'),
    ([[1.0]], ValueError, r'`model\(examples\)` must have the shape \[any\]'),
    (['a'], TypeError, 'array of real numbers'),
  ],
)
def test_models_that_are_refused(
  result: list[object], error: type, message: str
) -> None:
  with pytest.raises(error, match=message):
    membership.losses(lambda _: result, None)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (([], [1.0]), r'`members` must have the shape \[any\]. Found \[0\]'),
    (([1.0], [math.inf]), r'`others` must be finite. Found 1 of 1'),
    (([1.0], [1.0], -0.1), r'`false_positive_rate` must be in \[0, 1\]'),
    (([1.0], [1.0], 1.0), r'`false_positive_rate` must be below 1'),
    (([1.0], [1.0], 0.1, 1.0), r'`confidence` must be in \(0, 1\)'),
  ],
)
def test_attacks_that_are_refused(
  arguments: tuple[object, ...], message: str
) -> None:
  with pytest.raises(ValueError, match=message):
    membership.attack(*arguments)


def test_more_successes_than_trials() -> None:
  with pytest.raises(ValueError, match=r'`successes` must be at most 3'):
    membership.clopper_pearson(4, 3)


@pytest.mark.parametrize('loss', [-0.1, math.nan, math.inf])
def test_losses_that_are_no_cross_entropies(loss: float) -> None:
  with pytest.raises(ValueError, match=r'finite and at least 0. Found .*Other'):
    membership.logit_confidences([1.0, loss])


@pytest.mark.parametrize(
  ('shadows', 'trained', 'pooled', 'message'),
  [
    ([[1.0], [2.0]], [[True], [False]], False, 'at least 2 .* not trained on'),
    ([[1.0], [2.0]], [[True], [True]], True, r'at least 1 .* Found 0 for ex'),
    ([[1.0], [2.0]], [[True], [False]], True, 'some must have 2. .*Train more'),
    ([[1.0], [1.0]], [[False], [False]], True, 'must differ. Found the varian'),
    ([[1.0]], [[False], [False]], True, r'`shadows` must have the shape'),
  ],
)
def test_shadows_that_are_refused(
  shadows: list[list[float]],
  trained: list[list[bool]],
  pooled: bool,
  message: str,
) -> None:
  with pytest.raises(ValueError, match=message):
    membership.likelihood_ratios(
      [1.0], shadows, trained, online=False, pooled=pooled
    )


def test_online_needs_shadows_that_were_trained() -> None:
  shadows, trained = [[1.0], [2.0]], [[False], [False]]
  with pytest.raises(ValueError, match='that were trained on it'):
    membership.likelihood_ratios([1.0], shadows, trained, online=True)


def test_flags_are_bool() -> None:
  with pytest.raises(TypeError, match='`trained` must be an array of bool'):
    membership.likelihood_ratios([1.0], [[1.0]], [[1]], online=False)
