# SPDX-License-Identifier: Apache-2.0
"""Canaries of a training: fresh directions, and one bound for all rounds."""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats

from tests.oracles import audit as oracle
from tff_secagg_ext import audit
from tff_secagg_ext.audit import one_shot, training

# A correct test fails this seldom.
FALSE_ALARM = 1e-6
DELTA = 1e-5
KEY = bytes(range(32))


def statistic(value: float, degrees: int = 99) -> training.RoundStatistic:
  return training.RoundStatistic(value, degrees, 4.0)


def test_canaries_send_unit_vectors_and_those_of_coins_that_fell_so() -> None:
  canaries = training.TrainingCanaries(KEY, 3, 40, 100)
  sent = list(canaries.sent('1/1'))
  norms = [np.linalg.norm(each) for each in sent]
  expected = [1.0] * 3 + canaries.included.astype(float).tolist()
  assert norms == pytest.approx(expected)
  always, flipped = canaries.of_attempt('1/1')
  np.testing.assert_array_equal(sent[2], next(always.directions([2])))
  where = int(np.flatnonzero(canaries.included)[-1])
  np.testing.assert_array_equal(
    sent[3 + where], next(flipped.directions([where]))
  )


def test_directions_are_those_of_key_and_attempt() -> None:
  def first(key: bytes, attempt: str) -> Any:
    return next(training.TrainingCanaries(key, 1, 1, 50).sent(attempt))

  np.testing.assert_array_equal(first(KEY, '1/1'), first(KEY, '1/1'))
  for other in (first(KEY, '1/2'), first(KEY, '2/1'), first(KEY[::-1], '1/1')):
    assert abs(other @ first(KEY, '1/1')) < 0.9


def test_coins_are_fair_and_stay() -> None:
  """Fails as often as stated."""
  flips = [
    training.TrainingCanaries(bytes([n]) * 32, 0, 400, 401).included
    for n in range(25)
  ]
  heads = int(np.sum(flips))
  low, high = stats.binom(10_000, 0.5).interval(1.0 - FALSE_ALARM)
  assert low <= heads <= high
  again = training.TrainingCanaries(bytes(32), 0, 400, 401).included
  np.testing.assert_array_equal(flips[0], again)


def test_one_round_is_what_one_shot_says() -> None:
  canaries = audit.Canaries(KEY, 16, 300)
  generator = np.random.default_rng(0)
  release = canaries.total() + 0.7 * generator.normal(size=300)
  cosines = canaries.cosines(release[None])
  [expected] = audit.one_shot.estimates(cosines, DELTA)
  found = training.compose([training.RoundStatistic.of(cosines)], DELTA)
  assert found.known == pytest.approx(expected.known)
  assert found.lower_bound == pytest.approx(expected.lower_bound)


def test_what_an_earlier_release_explains_is_taken_off() -> None:
  """The statistic is that of a regression of the release on both."""
  canaries = training.TrainingCanaries(KEY, 5, 6, 40)
  generator = np.random.default_rng(1)
  release, earlier = generator.normal(size=(2, 40))
  found = canaries.observe('1/1', release, earlier)
  with_momentum = canaries.observe('1/1', release + 30 * earlier, earlier)
  direction = sum(list(canaries.sent('1/1'))[:5])
  expected = oracle.students_t(release, [direction, earlier])
  assert found.statistic.value == pytest.approx(expected)
  assert found.statistic.degrees == 38
  assert with_momentum.statistic.value == pytest.approx(expected)
  np.testing.assert_allclose(with_momentum.scores, found.scores)
  rest = release - (release @ earlier) / (earlier @ earlier) * earlier
  flipped = list(canaries.of_attempt('1/1')[1].directions(range(6)))
  np.testing.assert_allclose(
    found.scores, flipped @ rest / np.linalg.norm(rest)
  )


@pytest.mark.parametrize('degrees', [1, 7, 60, 4000])
def test_normal_scores_have_the_tails_of_noncentral_t(degrees: int) -> None:
  values = np.linspace(-5.1, 8.1, 23)
  for noncentrality in (0.0, 0.5, 5.0):
    found = one_shot.normal_scores(values, np.full(23, noncentrality), degrees)
    tails = stats.nct.sf(values, degrees, noncentrality)
    np.testing.assert_allclose(
      stats.norm.sf(found), tails, rtol=1e-6, atol=1e-9
    )


def test_scores_are_finite_far_out() -> None:
  values = np.asarray([500.0, -50.0, 0.0])
  others = np.asarray([0.0, 500.0, 1000.0])
  assert np.isfinite(one_shot.normal_scores(values, others, 10_000)).all()


@given(st.lists(st.floats(-3.0, 40.0), min_size=1, max_size=6))
def test_the_bound_is_below_the_estimate_and_grows_with_the_values(
  values: list[float],
) -> None:
  found = training.compose([statistic(v) for v in values], DELTA)
  assert 0.0 <= found.lower_bound <= found.known + 1e-9
  assert found.rounds == len(values)
  more = training.compose([statistic(v + 1.0) for v in values], DELTA)
  assert more.lower_bound >= found.lower_bound


def chases_canaries(past: list[Any], noise: Any) -> Any:
  """Others that send what they know of earlier canaries, and of noise."""
  return sum(past, np.zeros_like(noise)) * 3.0


@pytest.mark.parametrize('others', [None, chases_canaries])
def test_bounds_of_adaptive_trainings_miss_as_often_as_they_say(
  others: Callable[..., Any] | None,
) -> None:
  """Fails as often as stated, on either side where nobody else is there."""
  dimension, rounds, repeats, ratio = 30, 4, 200, 0.5
  generator = np.random.default_rng(2)
  true = audit.one_shot._gaussian(ratio * math.sqrt(rounds), DELTA)
  misses = 0
  for _ in range(repeats):
    canaries = training.TrainingCanaries(generator.bytes(32), 4, 0, dimension)
    past: list[Any] = []
    seen = []
    for number in range(rounds):
      total = sum(canaries.sent(f'{number}/1'))
      noise = generator.normal(size=dimension) / ratio
      beside = others(past, noise) if others else 0.0
      release = total + noise + beside
      earlier = past[-1] if past else None
      seen.append(canaries.observe(f'{number}/1', release, earlier).statistic)
      past.append(release)
    misses += training.compose(seen, DELTA).lower_bound > true
  law = stats.binom(repeats, 0.05)
  assert misses <= law.isf(FALSE_ALARM)
  if others is None:
    assert misses >= law.ppf(FALSE_ALARM)


def test_a_bad_key_or_number_is_refused() -> None:
  with pytest.raises(ValueError, match='`key` must be 32 bytes'):
    training.TrainingCanaries(b'short', 1, 0, 10)
  with pytest.raises(ValueError, match=r'There must be canaries\. Found none'):
    training.TrainingCanaries(KEY, 0, 0, 10)
  with pytest.raises(ValueError, match=r'`always` must be at most 9.*fewer'):
    training.TrainingCanaries(KEY, 10, 0, 10)
  with pytest.raises(ValueError, match='`degrees` must be at least 1'):
    training.RoundStatistic(1.0, 0, 1.0)


@pytest.mark.parametrize(
  ['release', 'earlier', 'message'],
  [
    (np.ones(9), None, r'`release` must have the shape \[10\]. Found \[9\]'),
    (np.full(10, np.nan), None, '`release` must be finite. Found 10 of 10'),
    (np.ones(10), np.ones((1, 10)), r'`earlier` must have the shape \[10\]'),
    (np.zeros(10), None, '`releases` must not be zero'),
  ],
)
def test_bad_releases_are_refused(
  release: Any, earlier: Any, message: str
) -> None:
  canaries = training.TrainingCanaries(KEY, 2, 2, 10)
  with pytest.raises(ValueError, match=message):
    canaries.observe('1/1', release, earlier)


def test_bad_compositions_are_refused() -> None:
  with pytest.raises(
    ValueError, match=r'a round that was audited\. Found none'
  ):
    training.compose([], DELTA)
  with pytest.raises(ValueError, match='`delta` must be'):
    training.compose([statistic(1.0)], 0.0)
  with pytest.raises(ValueError, match='`confidence` must be below 1'):
    training.compose([statistic(1.0)], DELTA, 1.0)
