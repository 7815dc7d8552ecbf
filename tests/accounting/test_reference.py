# SPDX-License-Identifier: Apache-2.0
"""Published and independently computed epsilons."""

from __future__ import annotations

import functools
import json
import math
import pathlib
from typing import Any

from dp_accounting.pld import privacy_loss_distribution
import pytest

from tff_secagg_ext import accounting
from tff_secagg_ext.accounting import pld, profiles

_CASES = json.loads(
  (pathlib.Path(__file__).parent / 'data' / 'reference_cases.json').read_text()
)
# Its step, 2e-3, is larger than the loss of a round: see the last test.
_COARSE = 'R092'


def _family(start: str, *, without: str = '') -> list[Any]:
  return [
    pytest.param(case, id=case['id'])
    for case in _CASES
    if case['accountant'].startswith(start) and case['id'] != without
  ]


def _close(found: float, case: dict[str, Any]) -> None:
  absolute = case.get('tolerance_abs', 0.0)
  allowed = case['tolerance_rel'] * case['epsilon'] + absolute
  assert abs(found - case['epsilon']) <= allowed


def _rounds(case: dict[str, Any]) -> list[accounting.Round]:
  event = accounting.NoisedSumEvent(
    'distributed_dgauss',
    case['inflated_l2_scaled'],
    case['local_stddev_scaled'],
    case['num_clients'],
    case['dim'],
  )
  sampling = (
    accounting.NoSampling()
    if case['sampling'] == 'none'
    else accounting.PoissonSampling(case['sampling_rate'])
  )
  return [accounting.Round((event,), sampling)] * case['rounds']


def _composed(kind: str, case: dict[str, Any]) -> float:
  profile = profiles.Profile(
    kind, 1.0 / case['noise_multiplier'], case['sampling_rate']
  )
  composition = pld.Composition().then(profile, case['rounds'])
  return composition.epsilon(case['delta'])


@pytest.mark.parametrize('case', _family('PLD via Gaussian', without=_COARSE))
def test_gaussian_domination(case: dict[str, Any]) -> None:
  found = accounting.release_epsilon(_rounds(case), case['delta'])
  _close(found.value, case)


@pytest.mark.parametrize('case', _family('PLD/PRV'))
def test_gaussian_with_poisson_sampling(case: dict[str, Any]) -> None:
  _close(_composed('poisson', case), case)


@pytest.mark.parametrize('case', _family('PLD, zero-out'))
def test_fixed_size_zero_out(case: dict[str, Any]) -> None:
  found = _composed('fixed', case)
  _close(found, case)
  assert found >= case['realised_lower_bound']
  assert found >= case['reverse_direction_epsilon']


def test_emnist_like_figures_of_the_table_in_the_docs() -> None:
  """Z = 1, 100 of 3400 clients, 1500 rounds, delta 1/3400."""
  event = accounting.NoisedSumEvent('distributed_dgauss', 1e6, 1e5, 100, 2**20)
  figures = {
    accounting.PoissonSampling(1 / 34): 5.97,
    accounting.FixedSizeSampling(100, 3400): 24.67,
    accounting.FixedSizeSampling(100, 3400, 'substitution'): 45.34,
  }
  for sampling, epsilon in figures.items():
    rounds = [accounting.Round((event,), sampling)] * 1500
    found = accounting.release_epsilon(rounds, 1 / 3400).value
    assert found == pytest.approx(epsilon, rel=5e-4, abs=0.005)
  # What real data reach under substitution, without adapting to outcomes.
  one_pair = profiles.Profile('poisson', 2.0, 1 / 34)
  composition = pld.Composition().then(one_pair, 1500)
  assert composition.epsilon(1 / 3400) == pytest.approx(36.71, rel=5e-4)


def test_a_reference_whose_step_was_too_coarse() -> None:
  """At steps of 2e-3 dp_accounting gives the figure; at finer ones, ours."""
  case = next(c for c in _CASES if c['id'] == _COARSE)
  stddev = math.sqrt(
    case['num_clients'] * case['local_stddev_scaled'] ** 2 - case['s2']
  )
  make = functools.partial(
    privacy_loss_distribution.from_gaussian_mechanism,
    stddev / case['inflated_l2_scaled'],
    sampling_prob=case['sampling_rate'],
  )

  def epsilon(step: float, pessimistic: bool) -> float:
    composed = make(
      value_discretization_interval=step,
      pessimistic_estimate=pessimistic,
      use_connect_dots=pessimistic,
    ).self_compose(case['rounds'])
    return float(composed.get_epsilon_for_delta(case['delta']))

  found = accounting.release_epsilon(_rounds(case), case['delta']).value
  assert epsilon(2e-3, True) == pytest.approx(case['epsilon'], rel=1e-6)
  assert found <= epsilon(1e-4, True) * 1.001
  assert found >= epsilon(1e-4, True) * 0.999
  assert found < case['epsilon']
