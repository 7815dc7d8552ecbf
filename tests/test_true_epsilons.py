# SPDX-License-Identifier: Apache-2.0
"""The page of naive and true epsilons is what its script makes."""

from __future__ import annotations

import pytest

from benchmarks import true_epsilons
from tests.oracles import accounting as oracle
from tff_secagg_ext import accounting


def test_the_page_is_what_the_script_makes() -> None:
  assert true_epsilons.PAGE.read_text() == true_epsilons.page()


def test_the_naive_epsilon_and_that_of_half_the_noise() -> None:
  # Published for this setting: 5.97, of dp_accounting's PLD accountant.
  assert true_epsilons.naive() == pytest.approx(5.97, abs=0.01)
  events, _ = true_epsilons.tffs(20, 50)
  half = true_epsilons.release(events, true_epsilons.POISSON)
  assert half == pytest.approx(13.6, abs=0.05)


def test_the_noise_multiplier_is_that_of_tff() -> None:
  (vectors, _), _ = true_epsilons.tffs(12, 100)
  scale = vectors.share_stddev * 10.0 / (0.1 * (1.0 - 0.1**2) ** -0.5)
  # [KLS21, Prop. 22] with beta = 0, and TFF's leeway.
  norm = 0.1 * scale + 2.0**10 + 1e-5 * scale
  assert vectors.l2_sensitivity == pytest.approx(norm)


def test_a_wholly_sampled_cell_is_within_an_independent_composition() -> None:
  q, z = 100 / 3400, 1.0
  upper = oracle.composed_epsilon(
    lambda x: oracle.np.log1p(q * oracle.np.expm1(x / z - 0.5 / z**2)),
    lambda x: (1 - q) * oracle.normal_cdf(x) + q * oracle.normal_cdf(x - 1 / z),
    true_epsilons.ROUNDS,
    true_epsilons.DELTA,
    round_up=True,
  )
  found = true_epsilons.naive()
  assert 0.97 * upper < found < 1.03 * upper


def test_what_the_factory_refuses_is_no_figure() -> None:
  assert true_epsilons.figure(None) == 'refused'
  assert [true_epsilons.figure(e) for e in (5.968, 24.67, 1234.5)] == [
    '5.97',
    '24.7',
    '1,234',
  ]
  with pytest.raises(ValueError, match='Use bits='):
    true_epsilons.ours(12, 50, False)
  assert isinstance(
    true_epsilons.ours(20, 50, False)[0][0], accounting.NoisedSumEvent
  )
