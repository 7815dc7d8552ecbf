# SPDX-License-Identifier: Apache-2.0
"""What is remembered is what was returned, in no more bytes than allowed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
import numpy as np

from tff_secagg_ext.accounting import caching

LIMIT = 80


@given(st.lists(st.integers(0, 12), max_size=60))
def test_the_newest_that_fit_are_remembered(asked: list[int]) -> None:
  called: list[int] = []

  @caching.by_bytes(LIMIT)
  def zeros(count: int) -> np.ndarray:
    called.append(count)
    return np.zeros(count)

  kept: list[int] = []  # Naively: the newest last.
  for count in asked:
    before = len(called)
    assert len(zeros(count)) == count
    assert (len(called) == before) == (count in kept)
    if count in kept:
      kept.remove(count)
    if 8 * count <= LIMIT:
      kept.append(count)
    while 8 * sum(kept) > LIMIT:
      kept.pop(0)


def test_tuples_count_whole_and_can_be_forgotten() -> None:
  called = []

  @caching.by_bytes(LIMIT)
  def pair(count: int) -> tuple[np.ndarray, np.ndarray]:
    called.append(count)
    return np.zeros(count), np.zeros(count)

  for count in (5, 5, 6, 6, 5):
    pair(count)
  assert called == [5, 6, 6]
  pair.cache_clear()
  pair(5)
  assert called == [5, 6, 6, 5]


def test_a_function_may_ask_itself() -> None:
  @caching.by_bytes(LIMIT)
  def power(exponent: int) -> np.ndarray:
    return np.array([2.0]) * (power(exponent - 1) if exponent else 0.5)

  assert power(50)[0] == 2.0**50


def test_arguments_by_name_decide_as_well() -> None:
  @caching.by_bytes(LIMIT)
  def filled(count: int, value: float = 0.0) -> np.ndarray:
    return np.full(count, value)

  assert filled(2, value=1.0).tolist() == [1.0, 1.0]
  assert filled(2, value=2.0).tolist() == [2.0, 2.0]
