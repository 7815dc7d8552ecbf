# SPDX-License-Identifier: Apache-2.0
"""Profiles against sums over densities, and the theorem by brute force."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from tests.oracles import accounting as oracle
from tff_secagg_ext.accounting import profiles

_LEVELS = np.array([0.0, 0.01, 0.1, 0.5, 1.0, 2.0, 3.0])


def _mixtures(
  kind: str, m: float, q: float
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
  """P and Q of the profile for losses above 0, client present."""
  if kind == 'fixed':
    return [(1 - q, 0.0), (q, 2 * m)], [(1 - q, 0.0), (q, m)]
  return [(1 - q, 0.0), (q, m)], [(1.0, 0.0)]


@pytest.mark.parametrize('m', [0.05, 0.5, 1.0, 4.0])
@pytest.mark.parametrize('q', [0.001, 0.1, 0.9, 1.0])
@pytest.mark.parametrize('kind', ['poisson', 'fixed'])
def test_closed_forms(kind: str, m: float, q: float) -> None:
  profile = profiles.Profile(kind, m, q)
  present, absent = _mixtures(kind, m, q)
  reverse = (absent, present)
  if kind == 'fixed':
    reverse = _mixtures('poisson', m, q)
  found = profile.excess(_LEVELS, False)
  converse = profile.excess(_LEVELS, True)
  for i, level in enumerate(_LEVELS):
    a = math.exp(level)
    exact = oracle.mixture_divergence(present, absent, a)
    assert found[i] == pytest.approx(exact, rel=1e-6, abs=1e-9)
    exact = oracle.mixture_divergence(*reverse, a)
    assert converse[i] == pytest.approx(exact, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize('m', [0.05, 1.0])
@pytest.mark.parametrize('q', [0.01, 1.0])
def test_tails_keep_their_relative_precision(m: float, q: float) -> None:
  for level in (0.5 * m, 3 * m, 8 * m):
    a = mpmath.exp(level)
    k = mpmath.log(1 + (a - 1) / q)
    exact = q * (
      mpmath.ncdf(m / 2 - k / m) - mpmath.exp(k) * mpmath.ncdf(-m / 2 - k / m)
    )
    found = profiles.poisson_present(m, q, np.array([level]))[0]
    assert found == pytest.approx(float(exact), rel=1e-10)


@pytest.mark.parametrize('kind', ['poisson', 'fixed', 'substituted'])
@pytest.mark.parametrize('m', [1e-3, 0.3, 5.0, 20.0])
@pytest.mark.parametrize('q', [1e-4, 0.2, 1.0])
def test_both_directions_are_one_pair(kind: str, m: float, q: float) -> None:
  """H_a(P, Q) = 1 - a + a H_{1/a}(Q, P), on both sides of a = 1."""
  profile = profiles.Profile(kind, m, q)
  levels = np.linspace(-2.0, 2.0, 81) * m
  forward = profile.excess(levels, False)
  backward = profile.excess(-levels, True)
  assert forward == pytest.approx(np.exp(levels) * backward, rel=1e-9)
  assert np.all(forward >= 0.0)


@pytest.mark.parametrize('kind', ['poisson', 'fixed', 'substituted'])
@pytest.mark.parametrize('m', [0.25, 1.0])
@pytest.mark.parametrize('reverse', [False, True])
def test_profiles_are_convex_in_a_and_fall(
  kind: str, m: float, reverse: bool
) -> None:
  """Which makes the envelope a profile with a dominating pair."""
  a = np.linspace(0.02, 8.0, 2000)
  profile = profiles.Profile(kind, m, 0.1)
  values = profile.excess(np.log(a), reverse) + np.maximum(1.0 - a, 0.0)
  slopes = np.diff(values) / np.diff(a)
  assert np.all(slopes <= 1e-12)
  assert np.all(slopes >= -1.0 - 1e-9)
  assert np.all(np.diff(slopes) >= -1e-9)


_POINTS = [(0.0, 0.0)] + [
  (r * math.cos(t), r * math.sin(t))
  for r in (0.5, 1.0)
  for t in (0.0, math.pi / 4, math.pi / 2, 3 * math.pi / 4, math.pi)
]


@pytest.mark.parametrize('q', [0.03, 0.3, 0.8])
@pytest.mark.parametrize('z', [0.7, 2.0])
@pytest.mark.parametrize('length', [0.0, 0.5, 1.0])
def test_theorem_holds_for_all_x_and_y_in_the_plane(
  q: float, z: float, length: float
) -> None:
  """X the client, y whoever has its slot otherwise, norms at most 1."""
  profile = profiles.Profile('fixed', 1.0 / z, q)
  levels = np.array([-1.0, -0.3, 0.0, 0.3, 1.0, 2.0])
  a = np.exp(levels)
  base = np.maximum(1.0 - a, 0.0)
  bounds = profile.excess(levels, False) + base
  converse = profile.excess(levels, True) + base
  y = (length, 0.0)
  worst, worst_back = np.zeros_like(bounds), np.zeros_like(bounds)
  for x in _POINTS:
    u = ((x[0] - y[0]) / z, (x[1] - y[1]) / z)
    v = (-y[0] / z, -y[1] / z)
    found, back = oracle.plane_divergences(u, v, q, list(a))
    worst = np.maximum(worst, found)
    worst_back = np.maximum(worst_back, back)
  assert np.all(worst <= bounds + 2e-4)
  assert np.all(worst_back <= converse + 2e-4)
  if length == 1.0:
    # Tight: reached by x = -y for one half of the levels, by x = y for the
    # other.
    assert worst == pytest.approx(bounds, abs=2e-4)
    assert worst_back == pytest.approx(converse, abs=2e-4)


@pytest.mark.parametrize('q', [0.03, 0.5])
@pytest.mark.parametrize('z', [0.7, 2.0])
def test_substitution_bound_holds_in_the_plane(q: float, z: float) -> None:
  """X and its substitute any two points, y at the end of its range."""
  profile = profiles.Profile('substituted', 2.0 / z, q)
  levels = np.array([-1.0, -0.3, 0.0, 0.3, 1.0, 2.0])
  a = np.exp(levels)
  bounds = profile.excess(levels, False) + np.maximum(1.0 - a, 0.0)
  worst = np.zeros_like(bounds)
  points = [_POINTS[i] for i in (0, 3, 5, 6, 8, 10)]
  for x in points:
    for other in points:
      u = ((x[0] - 1.0) / z, x[1] / z)
      v = ((other[0] - 1.0) / z, other[1] / z)
      found, back = oracle.plane_divergences(u, v, q, list(a))
      worst = np.maximum(worst, np.maximum(found, back))
  assert np.all(worst <= bounds + 2e-4)
  assert worst == pytest.approx(bounds, abs=2e-4)


def test_the_often_quoted_pair_bounds_neither() -> None:
  """(1-q) phi_0 + q phi_-1 against (1-q) phi_0 + q phi_1."""
  q, a = 0.03, math.exp(1.0)
  quoted = oracle.mixture_divergence(
    [(1 - q, 0.0), (q, -1.0)], [(1 - q, 0.0), (q, 1.0)], a
  )
  fixed = profiles.Profile('fixed', 1.0, q).excess(np.array([1.0]), False)[0]
  both = profiles.Profile('poisson', 2.0, q).excess(np.array([1.0]), False)[0]
  assert quoted < fixed < both


@pytest.mark.parametrize('kind', ['poisson', 'fixed', 'substituted'])
@pytest.mark.parametrize('m', [1e-4, 0.3, 15.0])
@pytest.mark.parametrize('q', [1e-4, 0.5, 1.0])
@pytest.mark.parametrize('reverse', [False, True])
def test_losses_cover_the_pair(
  kind: str, m: float, q: float, reverse: bool
) -> None:
  profile = profiles.Profile(kind, m, q)
  losses = profile.losses(reverse)
  assert np.all(np.diff(losses) > 0.0)
  assert 0.0 in losses
  ends = profile.excess(losses[[0, -1]], reverse)
  assert np.all(ends <= 1e-22)
