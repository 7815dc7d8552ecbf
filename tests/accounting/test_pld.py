# SPDX-License-Identifier: Apache-2.0
"""Composition: between lower and upper bounds made by other means."""

from __future__ import annotations

import math
from typing import Any

from dp_accounting.pld import privacy_loss_distribution
import numpy as np
import pytest

from tests.oracles import accounting as oracle
from tff_secagg_ext.accounting import gaussian, pld, profiles


def _epsilon(kind: str, m: float, q: float, rounds: int, delta: float) -> float:
  profile = profiles.Profile(kind, m, q)
  return pld.Composition().then(profile, rounds).epsilon(delta)


@pytest.mark.parametrize(
  ('z', 'q', 'rounds', 'delta'),
  [
    (1.0, 0.03, 1, 1e-5),
    (1.0, 0.03, 300, 1e-5),
    (4.0, 0.3, 100, 1e-6),
    (0.5, 0.01, 200, 1e-4),
    (1.0, 0.001, 500, 1e-6),
  ],
)
def test_poisson_is_between_the_bounds_of_dp_accounting(
  z: float, q: float, rounds: int, delta: float
) -> None:
  low, high = (
    privacy_loss_distribution.from_gaussian_mechanism(
      z,
      value_discretization_interval=2e-4,
      sampling_prob=q,
      pessimistic_estimate=pessimistic,
      use_connect_dots=pessimistic,
    )
    .self_compose(rounds)
    .get_epsilon_for_delta(delta)
    for pessimistic in (False, True)
  )
  found = _epsilon('poisson', 1.0 / z, q, rounds, delta)
  assert found >= low
  assert found <= high * 1.001


@pytest.mark.parametrize(
  ('m', 'q', 'rounds', 'delta'),
  [(0.5, 0.1, 20, 1e-5), (1.0, 0.03, 10, 1e-4), (0.25, 0.28, 60, 1e-5)],
)
def test_envelope_is_above_its_pair_for_losses_above_zero(
  m: float, q: float, rounds: int, delta: float
) -> None:
  """Everybody else at -1 is a real run: a lower bound."""

  def weights(x: np.ndarray) -> np.ndarray:
    return (1 - q) * oracle.normal_cdf(x) + q * oracle.normal_cdf(x - 2 * m)

  low = oracle.composed_epsilon(
    oracle.fixed_size_losses(m, q), weights, rounds, delta, round_up=False
  )
  found = _epsilon('fixed', m, q, rounds, delta)
  assert found >= low
  assert found <= low * 1.25


def _fixed_size_pairs(m: float, q: float, zeroed: bool) -> list[Any]:
  """Pairs (u, v) of the theorems: the client's slot in the two worlds."""
  ends = [(2 * m, m), (0.0, -m)] if zeroed else [(2 * m, 0.0), (0.0, 2 * m)]
  return [([(1 - q, 0.0), (q, u)], [(1 - q, 0.0), (q, v)]) for u, v in ends]


@pytest.mark.parametrize('zeroed', [True, False])
@pytest.mark.parametrize(('m', 'q', 'rounds'), [(1.0, 0.03, 10), (0.5, 0.1, 8)])
def test_runs_that_adapt_stay_below_the_envelope(
  m: float, q: float, rounds: int, zeroed: bool
) -> None:
  pairs = _fixed_size_pairs(m, q, zeroed)
  reached = oracle.adaptive_epsilon(pairs, rounds, 1e-5)
  kind, ratio = ('fixed', m) if zeroed else ('substituted', 2 * m)
  found = _epsilon(kind, ratio, q, rounds, 1e-5)
  assert reached <= found <= reached * 1.15


def test_under_substitution_one_pair_does_not_bound_runs_that_adapt() -> None:
  """(1-q) phi_0 + q phi_2m against phi_0 in every round is not the worst."""
  m, q, rounds = 1.0, 0.03, 10
  pairs = _fixed_size_pairs(m, q, zeroed=False)
  reached = oracle.adaptive_epsilon(pairs, rounds, 1e-5)
  assert reached > _epsilon('poisson', 2 * m, q, rounds, 1e-5)
  assert oracle.adaptive_epsilon(pairs[:1], rounds, 1e-5) <= _epsilon(
    'poisson', 2 * m, q, rounds, 1e-5
  )


@pytest.mark.parametrize('m', [0.1, 1.0, 6.0])
@pytest.mark.parametrize('rounds', [1, 30])
def test_without_sampling_it_is_the_gaussian_mechanism(
  m: float, rounds: int
) -> None:
  for kind in ('poisson', 'fixed', 'substituted'):
    found = _epsilon(kind, m, 1.0, rounds, 1e-6)
    exact = gaussian.epsilon(m * math.sqrt(rounds), 1e-6)
    assert exact <= found <= exact * 1.001


def test_different_rounds_compose_to_one_gaussian() -> None:
  composition = pld.Composition()
  ratios = [0.3, 0.05, 0.3, 1.1, 0.7]
  for m in ratios:
    composition = composition.then(profiles.Profile('poisson', m, 1.0), 2)
  exact = gaussian.epsilon(math.sqrt(2 * sum(m * m for m in ratios)), 1e-5)
  assert exact <= composition.epsilon(1e-5) <= exact * 1.001


def test_a_finer_step_changes_little_and_only_downwards(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  cases = [('poisson', 1.0, 0.001, 1000), ('fixed', 0.5, 0.1, 100)]
  coarse = [_epsilon(*case, 1e-6) for case in cases]
  monkeypatch.setattr(pld, '_ACCURACY', 1e-5)
  for case, before in zip(cases, coarse, strict=True):
    after = _epsilon(*case, 1e-6)
    assert after <= before * (1 + 1e-7)
    assert after >= before * (1 - 1e-3)


def test_order_and_grouping() -> None:
  a = profiles.Profile('poisson', 1.0, 0.1)
  b = profiles.Profile('fixed', 0.5, 0.2)
  grouped = pld.Composition().then(a, 3).then(b, 2).then(a, 1)
  single = pld.Composition()
  for profile in (a, a, a, b, b, a):
    single = single.then(profile)
    single.epsilon(1e-5)
  assert single.epsilon(1e-5) == grouped.epsilon(1e-5)
  assert single.epsilon(1e-7) == grouped.epsilon(1e-7)
  assert single.epsilon(1e-5) == grouped.epsilon(1e-5)
  other = pld.Composition().then(b, 2).then(a, 4)
  assert other.epsilon(1e-5) == pytest.approx(grouped.epsilon(1e-5), rel=1e-6)


def test_a_composition_is_not_changed_by_what_follows_it() -> None:
  profile = profiles.Profile('poisson', 1.0, 0.1)
  first = pld.Composition().then(profile, 5)
  before = first.epsilon(1e-5)
  first.then(profile).epsilon(1e-5)
  first.then(profiles.Profile('fixed', 1.0, 0.1), 9).epsilon(1e-5)
  assert first.epsilon(1e-5) == before


def test_no_rounds_cost_nothing() -> None:
  assert pld.Composition().epsilon(1e-5) == 0.0


def test_no_delta_left_is_infinite() -> None:
  profile = profiles.Profile('poisson', 1.0, 0.1)
  assert math.isinf(pld.Composition().then(profile, 100).epsilon(1e-19))


def test_much_delta_costs_nothing() -> None:
  profile = profiles.Profile('poisson', 1e-3, 0.01)
  assert pld.Composition().then(profile, 10).epsilon(0.1) == 0.0


@pytest.mark.parametrize('m', [1e-8, 1e-4, 50.0])
@pytest.mark.parametrize('q', [1e-6, 0.5, 0.999])
@pytest.mark.parametrize('kind', ['poisson', 'fixed'])
def test_extremes_are_below_the_cost_without_sampling(
  kind: str, m: float, q: float
) -> None:
  plain = gaussian.epsilon(m * math.sqrt(7), 1e-7)
  assert 0.0 <= _epsilon(kind, m, q, 7, 1e-7) <= plain * 1.001 + 1e-5
