# SPDX-License-Identifier: Apache-2.0
"""Epsilon between two Gaussians."""

from __future__ import annotations

import math

import hypothesis
from hypothesis import strategies as st
import pytest

from tests.oracles import audit as oracle
from tff_secagg_ext.accounting import gaussian
from tff_secagg_ext.audit import two_gaussians

_STDDEVS = st.floats(0.5, 2.0) | st.sampled_from([1.0, 1.0 + 1e-9, 1.0 - 1e-6])


@hypothesis.given(st.floats(-3.0, 3.0), _STDDEVS, st.floats(0.0, 5.0))
@hypothesis.settings(max_examples=40)
def test_divergence_by_integration(
  mean: float, stddev: float, epsilon: float
) -> None:
  naive = oracle.two_gaussians_divergence(mean, stddev, epsilon)
  found = two_gaussians.divergence(mean, stddev, epsilon)
  assert found == pytest.approx(naive, abs=1e-6)


@hypothesis.given(
  st.floats(-2.0, 1.0).map(lambda x: 10.0**x),
  st.floats(-12.0, -0.5).map(lambda x: 10.0**x),
)
def test_equal_deviations_are_the_gaussian_mechanism(
  mean: float, delta: float
) -> None:
  assert two_gaussians.epsilon(mean, 1.0, delta) == pytest.approx(
    gaussian.epsilon(mean, delta), rel=1e-9, abs=1e-12
  )


@hypothesis.given(
  st.floats(-20.0, 20.0),
  st.floats(-1.5, 1.5).map(lambda x: 10.0**x),
  st.floats(-12.0, -0.5).map(lambda x: 10.0**x),
)
def test_epsilon_is_least(mean: float, stddev: float, delta: float) -> None:
  epsilon = two_gaussians.epsilon(mean, stddev, delta)
  above = two_gaussians.divergence(mean, stddev, epsilon * (1 + 1e-9) + 1e-12)
  assert above <= delta * (1 + 1e-6)
  if epsilon > 0.0:
    below = two_gaussians.divergence(mean, stddev, epsilon * (1 - 1e-6))
    assert below >= delta * (1 - 1e-6)


@hypothesis.given(st.floats(-3.0, 3.0), st.floats(0.3, 3.0))
def test_it_does_not_matter_which_one_is_standard(
  mean: float, stddev: float
) -> None:
  assert two_gaussians.epsilon(mean, stddev, 1e-5) == pytest.approx(
    two_gaussians.epsilon(mean / stddev, 1.0 / stddev, 1e-5), rel=1e-6, abs=1e-9
  )


def test_equal_gaussians() -> None:
  assert two_gaussians.epsilon(0.0, 1.0, 1e-9) == 0.0
  assert two_gaussians.divergence(0.0, 1.0, 0.0) == 0.0


def test_published_value() -> None:
  """The analytic Gaussian mechanism's calibration for (1, 1e-5) [BW18]."""
  sigma = 3.730631634944469
  assert two_gaussians.epsilon(1 / sigma, 1.0, 1e-5) == pytest.approx(1.0)


def test_far_apart_gaussians_do_not_overflow() -> None:
  found = two_gaussians.epsilon(100.0, 1.0, 1e-6)
  assert found == pytest.approx(gaussian.epsilon(100.0, 1e-6), rel=1e-9)


@pytest.mark.parametrize('delta', [0.0, 1.0])
def test_delta_out_of_range(delta: float) -> None:
  with pytest.raises(
    ValueError, match=r'`delta` must be in \(0, 1\).*use a positive one'
  ):
    two_gaussians.epsilon(1.0, 1.0, delta)


@pytest.mark.parametrize(
  ('mean', 'stddev', 'message'),
  [(math.nan, 1.0, '`mean` must be finite'), (0.0, 0.0, '`stddev` must be in')],
)
def test_arguments_out_of_range(
  mean: float, stddev: float, message: str
) -> None:
  with pytest.raises(ValueError, match=message):
    two_gaussians.epsilon(mean, stddev, 1e-5)
