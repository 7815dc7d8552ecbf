# SPDX-License-Identifier: Apache-2.0
"""Noise that the server adds: what it costs to whom."""

from __future__ import annotations

import math

from dp_accounting import dp_event
from dp_accounting import pld as dp_pld
import hypothesis
from hypothesis import strategies as st
import pytest

from tff_secagg_ext import accounting
from tff_secagg_ext.accounting import costs, gaussian

Z, STDDEV = 1.2, 5.0
SUM = accounting.CentralGaussianEvent(0.3, 0.3 * Z, 'sum')
BIT = accounting.CentralGaussianEvent(0.5, STDDEV, 'clip quantile bit')


@hypothesis.given(st.floats(0.3, 20.0), st.floats(1.0, 100.0))
def test_a_sum_and_its_bit_are_one_gaussian(z: float, stddev: float) -> None:
  # [ATMR21, Thm 1]: z^-2 = z_sum^-2 + (2 stddev)^-2.
  hypothesis.assume(z < 2.0 * stddev)
  z_sum = (z**-2 - (2.0 * stddev) ** -2) ** -0.5
  a_round = accounting.Round(
    (
      accounting.CentralGaussianEvent(1.0, z_sum, 'sum'),
      accounting.CentralGaussianEvent(0.5, stddev, 'bit'),
    ),
    accounting.NoSampling(),
  )
  found = costs.round_cost(a_round, 'release').squared_ratio
  assert found == pytest.approx(z**-2, rel=1e-9)


def test_the_release_view_is_that_of_dp_accounting() -> None:
  q, rounds, delta = 0.05, 200, 1e-5
  sampled = dp_event.PoissonSampledDpEvent(q, dp_event.GaussianDpEvent(Z))
  oracle = dp_pld.PLDAccountant()
  oracle.compose(dp_event.SelfComposedDpEvent(sampled, rounds))
  a_round = accounting.Round((SUM,), accounting.PoissonSampling(q))
  found = accounting.release_epsilon([a_round] * rounds, delta)
  assert found.value == pytest.approx(oracle.get_epsilon(delta), rel=5e-3)


def test_without_sampling_it_is_exact() -> None:
  a_round = accounting.Round((SUM, BIT), accounting.NoSampling())
  ratio = math.sqrt(Z**-2 + (2.0 * STDDEV) ** -2)
  found = accounting.release_epsilon([a_round], 1e-5)
  assert found.value == pytest.approx(gaussian.epsilon(ratio, 1e-5))


def test_substitution_doubles_the_sensitivity() -> None:
  once = accounting.Round((SUM,), accounting.NoSampling('substitution'))
  ratio = costs.round_cost(once, 'release').squared_ratio
  assert ratio == pytest.approx(4.0 / Z**2)


def test_the_server_view_is_infinite_by_name() -> None:
  a_round = accounting.Round((SUM, BIT), accounting.NoSampling())
  found = accounting.server_epsilon([a_round], 1e-5)
  assert math.isinf(found.value)
  assert found.reasons == (
    'sum is noised by the server',
    'clip quantile bit is noised by the server',
  )


def test_no_noise_is_infinite_by_name() -> None:
  bare = accounting.CentralGaussianEvent(1.0, 0.0, 'sum')
  a_round = accounting.Round((bare,), accounting.NoSampling())
  found = accounting.release_epsilon([a_round], 1e-5)
  assert found.reasons == ('no noise: sum, of stddev 0',)


def test_what_the_server_sees_costs_others_nothing() -> None:
  seen = accounting.SeenByServerEvent(('clipped count is exact',))
  a_round = accounting.Round((seen, SUM), accounting.NoSampling())
  alone = accounting.Round((SUM,), accounting.NoSampling())
  release = accounting.release_epsilon([a_round], 1e-5)
  assert release.value == accounting.release_epsilon([alone], 1e-5).value
  server = accounting.server_epsilon([a_round], 1e-5, max_participations=1)
  assert server.reasons == (
    'clipped count is exact',
    'sum is noised by the server',
  )
