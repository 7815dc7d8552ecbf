# SPDX-License-Identifier: Apache-2.0
"""Connect-the-Dots: pessimistic, exact at the dots, with honest moments."""

from __future__ import annotations

import math

from dp_accounting.pld import privacy_loss_distribution
import numpy as np
import pytest
from scipy import integrate

from tests.oracles import accounting as oracle
from tff_secagg_ext.accounting import discretization, profiles

_PROFILES = [
  profiles.Profile(kind, m, q)
  for kind in ('poisson', 'fixed')
  for m in (0.05, 1.0, 5.0)
  for q in (1e-3, 0.1, 1.0)
]


@pytest.mark.parametrize('profile', _PROFILES, ids=str)
@pytest.mark.parametrize('reverse', [False, True])
def test_profile_is_met_at_the_dots_and_passed_between(
  profile: profiles.Profile, reverse: bool
) -> None:
  step = profile.losses(False)[-1] / 50.0
  first, masses, infinite = discretization.discretize(profile, reverse, step)
  losses = (first + np.arange(masses.size)) * step
  assert masses.sum() + infinite == pytest.approx(1.0, abs=1e-12)
  assert (masses * np.exp(-losses)).sum() <= 1.0 + 1e-9

  def divergence(level: float) -> float:
    gains = -np.expm1(np.minimum(level - losses, 0.0))
    return float((masses * gains).sum()) + infinite

  def exact(level: float) -> float:
    excess = profile.excess(np.array([level]), reverse)[0]
    return float(excess) + max(0.0, -math.expm1(level))

  for i in range(0, masses.size, 7):
    level = losses[i]
    assert divergence(level) == pytest.approx(exact(level), rel=1e-6, abs=1e-12)
    level += step / 3.0
    assert divergence(level) >= exact(level) * (1 - 1e-9) - 1e-13


@pytest.mark.parametrize('q', [0.01, 0.3])
def test_agrees_with_dp_accounting(q: float) -> None:
  profile = profiles.Profile('poisson', 0.5, q)
  theirs = privacy_loss_distribution.from_gaussian_mechanism(
    2.0, value_discretization_interval=1e-3, sampling_prob=q
  )
  first, masses, infinite = discretization.discretize(profile, False, 1e-3)
  losses = (first + np.arange(masses.size)) * 1e-3
  for level in (0.0, 0.1, 0.35, 0.6):
    gains = -np.expm1(np.minimum(level - losses, 0.0))
    assert (masses * gains).sum() + infinite == pytest.approx(
      theirs.get_delta_for_epsilon(level), rel=1e-5, abs=1e-13
    )


@pytest.mark.parametrize('m', [0.05, 0.5, 1.0])
@pytest.mark.parametrize('q', [1e-3, 0.1, 1.0])
def test_cumulants_are_upper_bounds_and_close(m: float, q: float) -> None:
  profile = profiles.Profile('poisson', m, q)
  found = discretization.cumulants(profile)

  def log_mix(x: float) -> float:
    return math.log1p(q * math.expm1(m * x - m * m / 2.0))

  # Moments of higher orders are those of losses beyond the last dot.
  for order in (0.5, 1.0, 4.0):
    row = int(np.flatnonzero(order == discretization.ORDERS)[0])
    for reverse in (False, True):

      def moment(x: float, order: float = order, back: bool = reverse) -> float:
        loss = -log_mix(x) if back else log_mix(x)
        weight = 0.0 if back else log_mix(x)
        return math.exp(order * loss + weight - x * x / 2.0)

      value, _ = integrate.quad(moment, -10.0, 10.0 + m, epsabs=0, limit=200)
      exact = math.log(value / math.sqrt(2.0 * math.pi))
      assert found[int(reverse), row] >= exact * (1 - 1e-6) - 1e-13
      assert found[int(reverse), row] <= exact * 1.01 + 1e-12


@pytest.mark.parametrize('order', [0.5, 1.0, 4.0, 8.0])
def test_a_step_adds_at_most_its_bound_to_a_cumulant(order: float) -> None:
  profile = profiles.Profile('poisson', 1.0, 0.1)
  row = int(np.flatnonzero(order == discretization.ORDERS)[0])
  bounds = discretization.cumulants(profile)[:, row]
  for step in (0.5, 0.125, 0.01):
    for reverse in (False, True):
      first, masses, _ = discretization.discretize(profile, reverse, step)
      losses = (first + np.arange(masses.size)) * step
      found = (masses * np.exp(order * losses)).sum()
      slack = order * (1.0 + order) * step**2 / 8.0
      beyond = profiles.BEYOND * math.exp(order * losses[-1])
      assert found <= math.exp(bounds[int(reverse)] + slack) + beyond


def test_envelope_mass_sits_where_the_theorem_puts_it() -> None:
  """Above 0 from the first pair, below 0 from the second, the rest at 0."""
  m, q, step = 1.0, 0.1, 1.0 / 64.0
  profile = profiles.Profile('fixed', m, q)
  first, masses, _ = discretization.discretize(profile, False, step)
  losses = (first + np.arange(masses.size)) * step
  x = np.linspace(-12.0, 14.0, 400_001)
  cell = x[1] - x[0]
  upper = (1 - q) * oracle.normal(x, 0.0) + q * oracle.normal(x, 2 * m)
  loss = oracle.fixed_size_losses(m, q)(x)
  exact = float(upper[loss > 2.5 * step].sum()) * cell
  found = float(masses[losses > 2.5 * step].sum())
  assert found == pytest.approx(exact, rel=0.03)
  loss = -np.log1p(q * np.expm1(m * x - m * m / 2.0))
  exact = float(oracle.normal(x, 0.0)[loss < -2.5 * step].sum()) * cell
  found = float(masses[losses < -2.5 * step].sum())
  assert found == pytest.approx(exact, rel=0.03)
