# SPDX-License-Identifier: Apache-2.0
"""Caps on participations, with a minimum separation, by brute force."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from tests.oracles import accounting as oracle
from tff_secagg_ext import accounting
from tff_secagg_ext.accounting import costs, renyi
from tff_secagg_ext.accounting.participation import Selection

_CAPS = st.builds(
  accounting.ParticipationCap, st.integers(1, 5), st.integers(1, 5)
)
_DELTA = 1e-5


def _cost(value: float) -> costs.Cost:
  divergences = np.linspace(value, 1.0, renyi.ORDERS.size)
  return costs.Cost(value, 1.0 - value, divergences)


@given(_CAPS, st.lists(st.floats(0.0, 1.0), max_size=9))
@settings(deadline=None)
def test_the_worst_selection_is_found(
  cap: accounting.ParticipationCap, values: list[float]
) -> None:
  """Each component has its own, after each round, for each limit below."""
  selection = Selection.empty(cap)
  for number, value in enumerate(values, 1):
    selection = selection.then(_cost(value))
    so_far = values[:number]
    others = [1.0 - v for v in so_far]
    for limit in (*range(cap.most + 1), None):
      most = cap.most if limit is None else limit
      found = selection.worst(limit)
      expected = oracle.worst_selection(so_far, most, cap.separation)
      assert found.squared_ratio == pytest.approx(expected)
      assert found.divergences[0] == pytest.approx(expected)
      expected = oracle.worst_selection(others, most, cap.separation)
      assert found.slack == pytest.approx(expected)


@given(_CAPS, st.lists(st.integers(1, 4), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_rounds_at_once_are_as_one_by_one(
  cap: accounting.ParticipationCap, counts: list[int]
) -> None:
  once = one_by_one = Selection.empty(cap)
  for number, count in enumerate(counts):
    cost = _cost(1.0 / (1 + number % 3))
    once = once.then(cost, count)
    for _ in range(count):
      one_by_one = one_by_one.then(cost)
  assert len(once.rows) == len(one_by_one.rows) == cap.separation
  for first, second in zip(once.rows, one_by_one.rows, strict=True):
    np.testing.assert_array_equal(first, second)


def _round(shares: int = 100, stddev: float = 3000.5) -> accounting.Round:
  event = accounting.NoisedSumEvent(
    'distributed_dgauss', 30_005.0, stddev, shares, 2**20
  )
  return accounting.Round((event,), accounting.NoSampling())


@pytest.mark.parametrize(
  ('cap', 'rounds', 'participations'),
  [((10, 1), 100, 10), ((10, 30), 100, 4), ((10, 30), 90, 3), ((3, 30), 99, 3)],
)
def test_equal_rounds_count_as_often_as_a_client_takes_part(
  cap: tuple[int, int], rounds: int, participations: int
) -> None:
  claimed = accounting.ParticipationCap(*cap)
  found = accounting.server_epsilon([_round()] * rounds, _DELTA, claimed)
  expected = accounting.server_epsilon([_round()] * participations, _DELTA)
  assert found.value == pytest.approx(expected.value, rel=1e-12)


def test_the_worst_rounds_that_keep_their_distance_count() -> None:
  """The two worst are neighbours: one of them, and two at a distance."""
  shares = [100, 30, 40, 100, 90, 100, 100, 80]
  rounds = [_round(n) for n in shares]
  cap = accounting.ParticipationCap(3, 3)
  worst = [_round(n) for n in (30, 90, 80)]
  found = accounting.server_epsilon(rounds, _DELTA, cap).value
  expected = accounting.server_epsilon(worst, _DELTA).value
  assert found == pytest.approx(expected, rel=1e-12)
  # Without the distance they are others, which cost more.
  assert found < accounting.server_epsilon(rounds, _DELTA, 3).value


def test_the_release_view_does_not_know_the_cap() -> None:
  capped = accounting.Accountant(_DELTA, accounting.ParticipationCap(2, 5))
  capped = capped.with_round(_round(), 20)
  plain = accounting.Accountant(_DELTA).with_round(_round(), 20)
  assert capped.release() == plain.release()
  assert capped.server().value < plain.server().value
  with pytest.raises(ValueError, match='must be None in the view'):
    accounting.epsilon(
      [_round()], _DELTA, 'release', accounting.ParticipationCap(2)
    )


def test_cap_and_allocation_are_both_bounds() -> None:
  event = _round().events
  a_round = accounting.Round(event, accounting.RandomAllocation(1, 10))
  for cap, participations in (((2, 1), 2), ((50, 1), 5), ((50, 40), 2)):
    claimed = accounting.ParticipationCap(*cap)
    found = accounting.server_epsilon([a_round] * 50, _DELTA, claimed)
    expected = accounting.server_epsilon([_round()] * participations, _DELTA)
    assert found.value == pytest.approx(expected.value, rel=1e-12)


def test_noise_too_small_for_domination_is_counted_by_divergences() -> None:
  event = accounting.NoisedSumEvent('distributed_dgauss', 4.0, 0.5, 100, 1024)
  small = accounting.Round((event,), accounting.NoSampling())
  cap = accounting.ParticipationCap(2, 4)
  rounds = [small, small, _round(stddev=9e3), small, small, _round(stddev=9e3)]
  found = accounting.server_epsilon(rounds, _DELTA, cap)
  assert found.accountant == 'renyi'
  expected = accounting.server_epsilon([small] * 2, _DELTA)
  assert found.value == pytest.approx(expected.value, rel=1e-12)


def test_no_cap_hides_what_is_not_noised() -> None:
  leak = accounting.Round(
    (accounting.UnaccountedEvent(('count is exact',)),),
    accounting.NoSampling(),
  )
  cap = accounting.ParticipationCap(1, 9)
  found = accounting.server_epsilon([_round(), leak], _DELTA, cap)
  assert found.reasons == ('count is exact',)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((0, 1), '`most` must be at least 1'),
    ((1, 0), '`separation` must be at least 1'),
  ],
)
def test_bad_caps(arguments: tuple[int, int], message: str) -> None:
  with pytest.raises(ValueError, match=message):
    accounting.ParticipationCap(*arguments)
