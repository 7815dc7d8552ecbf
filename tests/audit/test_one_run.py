# SPDX-License-Identifier: Apache-2.0
"""The bound from one run: published values, coverage, and what is refused."""

from __future__ import annotations

import math
import time

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import special, stats

from tests.oracles import audit as oracle
from tff_secagg_ext.audit import one_run

# Of the paper's formula, at 95 %.
PUBLISHED = [
  (1000, 100, 100, 0.0, 3.493),
  (1000, 100, 95, 1e-5, 2.1652),
  (1000, 1000, 731, 0.0, 0.8806),
  (10**4, 1000, 990, 1e-5, 4.0212),
  (10**5, 1500, 1429, 1e-5, 2.6688),
]
# A correct test fails this seldom.
FALSE_ALARM = 1e-6


@pytest.mark.parametrize(('m', 'r', 'v', 'delta', 'epsilon'), PUBLISHED)
def test_published_values(
  m: int, r: int, v: int, delta: float, epsilon: float
) -> None:
  found = one_run.epsilon_lower_bound(one_run.Guesses(m, r, v), delta)
  assert found == pytest.approx(epsilon, abs=6e-5)


@st.composite
def _guesses(draw: st.DrawFn) -> one_run.Guesses:
  m = draw(st.integers(1, 40))
  r = draw(st.integers(0, m))
  return one_run.Guesses(m, r, draw(st.integers(0, r)))


@hypothesis.given(
  _guesses(), st.floats(0.0, 6.0), st.floats(0.0, 0.02) | st.just(0.0)
)
def test_p_value_term_by_term(
  guesses: one_run.Guesses, epsilon: float, delta: float
) -> None:
  naive = oracle.one_run_p_value(
    guesses.canaries, guesses.guessed, guesses.correct, epsilon, delta
  )
  found = one_run.p_value(guesses, epsilon, delta)
  if 2.0 * guesses.canaries * delta <= 1.0:
    assert found == pytest.approx(naive, rel=1e-9)
  else:
    # 1 where monotony is not proven.
    assert found == pytest.approx(naive, rel=1e-9) or found == 1.0


@hypothesis.given(
  _guesses(), st.floats(0.0, 8.0), st.floats(0.0, 4.0), st.floats(0.0, 0.2)
)
def test_p_value_does_not_fall_when_epsilon_grows(
  guesses: one_run.Guesses, epsilon: float, more: float, delta: float
) -> None:
  low = one_run.p_value(guesses, epsilon, delta)
  assert one_run.p_value(guesses, epsilon + more, delta) >= low * (1 - 1e-9)


@hypothesis.given(_guesses(), st.floats(0.0, 0.01), st.floats(0.6, 0.99))
def test_bound_is_where_the_p_value_passes_the_level(
  guesses: one_run.Guesses, delta: float, confidence: float
) -> None:
  found = one_run.epsilon_lower_bound(guesses, delta, confidence)
  above = one_run.p_value(guesses, found + 1e-9, delta)
  assert above >= (1 - confidence) * (1 - 1e-6)
  if found > 0.0:
    below = one_run.p_value(guesses, found, delta)
    assert below <= 1 - confidence


@pytest.mark.parametrize('epsilon', [0.5, 1.0, 4.0])
@pytest.mark.parametrize('r', [200, 800])
def test_exact_coverage_of_randomized_response(epsilon: float, r: int) -> None:
  """Each coin is told right with the largest probability that epsilon allows.

  Summed over all outcomes, so there is nothing to be lucky with.
  """
  counts = np.arange(r + 1)
  law = stats.binom.pmf(counts, r, special.expit(epsilon))
  bounds = [
    one_run.epsilon_lower_bound(one_run.Guesses(r, r, int(v)), 0.0)
    for v in counts
  ]
  miss = float(law[np.asarray(bounds) > epsilon].sum())
  assert 0.01 < miss <= 0.05


@pytest.mark.parametrize(('epsilon', 'delta'), [(1.0, 0.0), (2.0, 1e-4)])
def test_coverage_of_a_thousand_audits(epsilon: float, delta: float) -> None:
  """A coin is shown openly with probability delta, else told as above.

  The scores are what the mechanism shows: it is (epsilon, delta)-private for
  each canary. At a miss of 5 % the test fails once in 10^6.
  """
  generator = np.random.default_rng(5)
  m, r, audits = 1000, 200, 1000
  misses, bounds = 0, []
  for _ in range(audits):
    included = generator.random(m) < 0.5
    told = included ^ (generator.random(m) >= special.expit(epsilon))
    shown = generator.random(m) < delta
    scores = np.where(shown, np.where(included, 2.0, -2.0), told * 2.0 - 1.0)
    scores += generator.random(m) * 0.1
    guesses = one_run.guess(scores, included, r // 2, r // 2)
    bounds.append(one_run.epsilon_lower_bound(guesses, delta))
    misses += bounds[-1] > epsilon
  assert misses <= stats.binom.isf(FALSE_ALARM, audits, 0.05)
  # It has power: half of the bounds are near.
  assert np.median(bounds) > 0.6 * epsilon


def test_an_understated_epsilon_is_noticed() -> None:
  generator = np.random.default_rng(6)
  included = generator.random(2000) < 0.5
  told = included ^ (generator.random(2000) >= special.expit(2.0))
  guesses = one_run.guess(told.astype(float), included, 500, 500)
  assert one_run.epsilon_lower_bound(guesses, 1e-6) > 1.5


def test_a_hundred_thousand_canaries_take_less_than_a_second() -> None:
  start = time.perf_counter()
  one_run.epsilon_lower_bound(one_run.Guesses(10**5, 10**5, 60_000), 1e-6)
  assert time.perf_counter() - start < 1.0


def test_guesses_are_counted() -> None:
  scores = [0.1, 0.9, 0.5, 0.7]
  included = [False, True, True, False]
  assert one_run.guess(scores, included, 2, 1) == one_run.Guesses(4, 3, 2)
  assert one_run.guess(scores, included, 1, 1) == one_run.Guesses(4, 2, 2)
  assert one_run.guess(scores, included, 0) == one_run.Guesses(4, 0, 0)


def test_nothing_guessed_says_nothing() -> None:
  assert one_run.epsilon_lower_bound(one_run.Guesses(10, 0, 0), 0.0) == 0.0
  assert one_run.epsilon_lower_bound(one_run.Guesses(10, 10, 0), 0.0) == 0.0


def test_delta_that_explains_everything() -> None:
  guesses = one_run.Guesses(100, 100, 100)
  assert one_run.epsilon_lower_bound(guesses, 0.5) == 0.0


@pytest.mark.parametrize(
  ('numbers', 'message'),
  [
    ((0, 0, 0), r'`canaries` must be at least 1. Found 0'),
    ((10, 11, 0), r'`guessed` must be at most 10. Found 11. Each canary'),
    ((10, 5, 6), r'`correct` must be at most 5. Found 6. A guess is counted'),
    ((10, -1, 0), r'`guessed` must be at least 0'),
  ],
)
def test_impossible_counts(numbers: tuple[int, int, int], message: str) -> None:
  with pytest.raises(ValueError, match=message):
    one_run.Guesses(*numbers)


def test_more_guesses_than_canaries() -> None:
  with pytest.raises(
    ValueError, match=r'must be at most the 3 canaries. Found 4. Each canary'
  ):
    one_run.guess([1.0, 2.0, 3.0], [True, False, True], 2, 2)


def test_a_score_that_is_not_a_number() -> None:
  with pytest.raises(
    ValueError, match=r'`scores` must be finite. Found 1 of 2'
  ):
    one_run.guess([1.0, math.nan], [True, False], 1)


def test_scores_of_other_canaries() -> None:
  with pytest.raises(
    ValueError, match=r'`scores` must have the shape \[2\]. Found \[3\]. One'
  ):
    one_run.guess([1.0, 2.0, 3.0], [True, False], 1)


def test_coins_are_bool() -> None:
  with pytest.raises(TypeError, match='`included` must be an array of bool'):
    one_run.guess([1.0], [1], 1)


@pytest.mark.parametrize('delta', [-0.1, 1.1, math.nan])
def test_delta_out_of_range(delta: float) -> None:
  with pytest.raises(ValueError, match='`delta` must be'):
    one_run.p_value(one_run.Guesses(1, 1, 1), 1.0, delta)


def test_delta_of_one() -> None:
  with pytest.raises(ValueError, match=r'`delta` must be below 1. Found 1.0'):
    one_run.epsilon_lower_bound(one_run.Guesses(1, 1, 1), 1.0)


def test_epsilon_out_of_range() -> None:
  with pytest.raises(ValueError, match=r'`epsilon` must be in \[0, 700\]'):
    one_run.p_value(one_run.Guesses(1, 1, 1), -1.0, 0.0)


@pytest.mark.parametrize('confidence', [0.0, 1.0])
def test_confidence_out_of_range(confidence: float) -> None:
  with pytest.raises(ValueError, match=r'`confidence` must be in \(0, 1\)'):
    one_run.epsilon_lower_bound(one_run.Guesses(1, 1, 1), 0.0, confidence)
