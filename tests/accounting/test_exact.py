# SPDX-License-Identifier: Apache-2.0
"""Renyi divergences from exact laws, against sums of 60 digits."""

from __future__ import annotations

import math

import hypothesis
from hypothesis import strategies as st
import mpmath
import numpy as np
import pytest

from tests.oracles import accounting as oracle
from tests.oracles import laws
from tff_secagg_ext.accounting import domination, exact, renyi

_ORDERS = (2, 3, 5, 12)


def _at(divergences: np.ndarray, order: int) -> float:
  return float(divergences[np.flatnonzero(order == renyi.ORDERS)[0]])


def _largest(law: list[mpmath.mpf], sensitivity: float, order: int) -> float:
  """D2^2 max_u R_a(u) / u^2."""
  per_move = []
  for move in range(1, math.floor(sensitivity) + 1):
    present, absent = oracle.shifted_laws(law, move, 1.0)
    divergence = oracle.renyi_divergence(present, absent, order)
    per_move.append(divergence / move**2)
  return sensitivity**2 * max(per_move)


@pytest.mark.parametrize('count', [1, 2, 3, 7, 12])
@pytest.mark.parametrize('variance', [0.05, 0.3, 1.0])
def test_discrete_gaussians(count: int, variance: float) -> None:
  law = oracle.sum_of_discrete_gaussians((variance,) * count, 60)
  for sensitivity in (1.0, 2.5, 4.0):
    found = exact.discrete_gaussian_renyi(sensitivity, variance, count)
    for order in _ORDERS:
      if order * sensitivity + 12 * math.sqrt(count * variance) > 58:
        continue
      expected = _largest(law, sensitivity, order)
      assert _at(found, order) >= expected
      assert _at(found, order) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize('variance', [0.5, 3.0, 20.0])
def test_skellam(variance: float) -> None:
  law = list(laws.skellam(variance, 400).values())
  for sensitivity in (1.0, 2.5, 4.0):
    found = exact.skellam_renyi(sensitivity, variance)
    for order in _ORDERS:
      expected = _largest(law, sensitivity, order)
      assert _at(found, order) >= expected
      assert _at(found, order) == pytest.approx(expected, rel=1e-7)


def test_orders_between_are_bounded_by_chords() -> None:
  law = oracle.sum_of_discrete_gaussians((0.2,) * 4, 120)
  found = exact.discrete_gaussian_renyi(1.0, 0.2, 4)
  for order in (25, 27, 31, 36):
    expected = _largest(law, 1.0, order)
    assert expected <= _at(found, order) <= 1.01 * expected


@hypothesis.given(st.integers(1, 60), st.floats(0.02, 4.0))
@hypothesis.settings(max_examples=25, deadline=None)
def test_one_coordinate_costs_no_more_than_the_closed_form_says(
  count: int, variance: float
) -> None:
  found = exact.discrete_gaussian_renyi(1.0, variance, count)
  closed = renyi.discrete_gaussian_renyi(
    1.0, count * variance, 1, domination.equal_sum_range(variance, count)
  )
  finite = np.isfinite(found)
  # Three thousandths are for the chords.
  assert np.all(found[finite] <= closed[finite] * 1.003 + 1e-9)


@pytest.mark.parametrize('variance', [0.7, 30.0, 399.0])
def test_bessel_ratios_and_amos_bounds(variance: float) -> None:
  found = np.exp(exact._log_bessel_ratios(variance, 200))
  for k in (1, 2, 10, 77, 200):
    ratio = mpmath.besseli(k, variance) / mpmath.besseli(k - 1, variance)
    assert found[k] == pytest.approx(float(ratio), rel=1e-13)
    assert ratio <= mpmath.exp(-mpmath.asinh((k - 0.5) / variance))
    root = mpmath.sqrt((k + 0.5) ** 2 + variance**2)
    assert ratio >= variance / (k - 0.5 + root)


def test_what_is_left_to_the_closed_forms_is_infinite() -> None:
  assert np.isinf(exact.discrete_gaussian_renyi(3.0, 1.0, 1025)).all()
  assert np.isinf(exact.skellam_renyi(3.0, 401.0)).all()
  assert np.isinf(exact.skellam_renyi(33.0, 10.0)).all()
  found = exact.skellam_renyi(3.0, 10.0)
  assert np.isfinite(found[renyi.ORDERS <= 242]).all()
  assert np.isinf(found[renyi.ORDERS > 242]).all()
