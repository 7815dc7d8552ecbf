# SPDX-License-Identifier: Apache-2.0
"""The user's choices: what is refused, and what follows from the rest."""

import dataclasses
import math

import pytest
from scipy import stats

from tff_secagg_ext.mechanism import spec as spec_lib

DEFAULTS = {
  'noise_multiplier': 1.0,
  'expected_clients_per_round': 100,
  'bits': 20,
  'zeroing': True,
  'rotation_type': 'hd',
  'mechanism': 'distributed_dgauss',
  'clipping': spec_lib.AdaptiveClipping(),
  'cohorts': 'fixed',
  'max_contributors': None,
  'min_contributors': None,
  'max_colluders': 0,
  'beta': math.exp(-0.5),
  'modclip_prob': 1e-4,
}


def make(**changes):
  return spec_lib.MechanismSpec(**{**DEFAULTS, **changes})


@pytest.mark.parametrize(
  ['change', 'error', 'message'],
  [
    ({'noise_multiplier': -1.0}, ValueError, 'noise_multiplier.*-1'),
    ({'noise_multiplier': math.nan}, ValueError, 'must be finite'),
    ({'noise_multiplier': '1'}, TypeError, 'a real number'),
    ({'expected_clients_per_round': 0}, ValueError, 'at least 1. Found 0'),
    ({'expected_clients_per_round': -3}, ValueError, 'at least 1'),
    ({'expected_clients_per_round': 1.5}, TypeError, 'an integer'),
    ({'expected_clients_per_round': True}, TypeError, 'an integer'),
    ({'bits': 1}, ValueError, '`bits` must be at least 2. Found 1'),
    ({'bits': 31}, ValueError, '`bits` must be at most 30. Found 31'),
    ({'bits': 20.0}, TypeError, '`bits` must be an integer'),
    ({'zeroing': 1}, TypeError, '`zeroing` must be True or False'),
    ({'rotation_type': 'fft'}, ValueError, "'hd' or 'dft'. Found 'fft'"),
    ({'mechanism': 'gauss'}, ValueError, "'distributed_skellam'. Found"),
    ({'cohorts': 'some'}, ValueError, "'fixed' or 'poisson'. Found"),
    ({'clipping': 0.0}, ValueError, 'clipping.*AdaptiveClipping'),
    ({'clipping': 'adaptive'}, TypeError, 'clipping.*AdaptiveClipping'),
    ({'min_contributors': 101}, ValueError, 'at most 100. Found 101.*ab'),
    ({'min_contributors': 0}, ValueError, 'at least 1. Found 0'),
    ({'max_contributors': 99}, ValueError, 'at least 100. Found 99'),
    ({'max_colluders': 100}, ValueError, 'below the 100 contributors'),
    (
      {'max_colluders': 50, 'min_contributors': 50},
      ValueError,
      'below the 50 contributors.*Raise `min_contributors`',
    ),
    ({'max_colluders': -1}, ValueError, 'max_colluders.*at least 0'),
    ({'beta': 1.0}, ValueError, '`beta` must be below 1'),
    ({'beta': -0.1}, ValueError, '`beta` must be in'),
    ({'modclip_prob': 0.0}, ValueError, '`modclip_prob` must be in'),
  ],
)
def test_bad_choices_are_refused_by_name(change, error, message):
  with pytest.raises(error, match=message):
    make(**change)


@pytest.mark.parametrize(
  ['change', 'message'],
  [
    ({'initial_norm': 0.0}, 'initial_norm'),
    ({'target_quantile': 1.1}, 'target_quantile'),
    ({'learning_rate': -1.0}, 'learning_rate'),
  ],
)
def test_bad_adaptive_clipping_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    spec_lib.AdaptiveClipping(**change)


def test_noise_is_sized_for_the_honest_among_the_guaranteed_contributors():
  assert make().noise_shares == 100
  assert make(min_contributors=80).noise_shares == 80
  assert make(min_contributors=80, max_colluders=5).noise_shares == 75


def test_the_sum_has_room_for_the_contributors_that_may_come():
  assert make().max_shares == 100
  assert make(max_contributors=150).max_shares == 150


def test_poisson_cohorts_get_bounds_that_they_keep():
  spec = make(cohorts='poisson')
  cohort = stats.poisson(100)
  assert cohort.cdf(spec.min_contributors - 1) < 1e-9
  assert cohort.sf(spec.max_contributors) < 1e-9
  assert spec.min_contributors < 100 < spec.max_contributors


def test_given_poisson_bounds_are_kept():
  spec = make(cohorts='poisson', min_contributors=60, max_contributors=140)
  assert (spec.noise_shares, spec.max_shares) == (60, 140)


def test_small_poisson_cohorts_have_an_honest_contributor():
  spec = make(cohorts='poisson', expected_clients_per_round=5, max_colluders=2)
  assert spec.min_contributors == 3
  assert spec.noise_shares == 1


def test_choices_are_frozen():
  with pytest.raises(dataclasses.FrozenInstanceError):
    make().bits = 3
