# SPDX-License-Identifier: Apache-2.0
"""Epsilon of the Gaussian mechanism."""

from __future__ import annotations

import math

import dp_accounting
from dp_accounting import pld as dp_pld
import hypothesis
from hypothesis import strategies as st
import mpmath
import pytest

from tff_secagg_ext.accounting import gaussian


def _delta(ratio: float, epsilon: float) -> mpmath.mpf:
  m, e = mpmath.mpf(ratio), mpmath.mpf(epsilon)
  return mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(
    -m / 2 - e / m
  )


@hypothesis.given(
  st.floats(-3.0, 2.0).map(lambda x: 10.0**x),
  st.floats(-14.0, -0.5).map(lambda x: 10.0**x),
)
@hypothesis.settings(max_examples=100)
def test_least_epsilon_to_sixty_digits(ratio: float, delta: float) -> None:
  epsilon = gaussian.epsilon(ratio, delta)
  assert _delta(ratio, epsilon) <= delta * (1 + 1e-8)
  if epsilon > 0.0:
    assert _delta(ratio, epsilon * (1 - 1e-7)) >= delta * (1 - 1e-8)


@pytest.mark.parametrize('ratio', [0.2, 1.0, 3.0])
def test_agrees_with_dp_accounting(ratio: float) -> None:
  accountant = dp_pld.PLDAccountant()
  accountant.compose(dp_accounting.GaussianDpEvent(1.0 / ratio))
  assert gaussian.epsilon(ratio, 1e-6) == pytest.approx(
    accountant.get_epsilon(1e-6), rel=1e-3
  )


def test_edges() -> None:
  assert gaussian.epsilon(0.0, 0.0) == 0.0
  assert math.isinf(gaussian.epsilon(1.0, 0.0))
  assert gaussian.epsilon(1e-3, 0.5) == 0.0
  assert gaussian.epsilon(1e5, 1e-5) > 5e9
