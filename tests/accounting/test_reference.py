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

from tests.reference import accounting as reference
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


def _allowed(case: dict[str, Any]) -> float:
  absolute = case.get('tolerance_abs', 0.0)
  return case['tolerance_rel'] * case['epsilon'] + absolute


def _event(case: dict[str, Any]) -> accounting.NoisedSumEvent:
  skellam = 'skellam' in case['mechanism']
  return accounting.NoisedSumEvent(
    mechanism='distributed_skellam' if skellam else 'distributed_dgauss',
    l2_sensitivity=reference.integer_sensitivity(case),
    share_stddev=reference.integer_stddev(case),
    client_shares=case['num_clients'],
    dimension=case['dim'],
  )


def _rounds(case: dict[str, Any]) -> list[accounting.Round]:
  q = reference.rate(case)
  sampling = (
    accounting.NoSampling() if q == 1.0 else accounting.PoissonSampling(q)
  )
  return [accounting.Round((_event(case),), sampling)] * case['rounds']


@pytest.mark.parametrize('case', _family('', without=_COARSE))
def test_each_case_by_the_accountant_that_it_names(
  case: dict[str, Any],
) -> None:
  found = reference.epsilon(case)
  assert abs(found - case['epsilon']) <= _allowed(case)


@pytest.mark.parametrize('case', _family('PLD, zero-out'))
def test_fixed_size_zero_out_is_above_what_data_reach(
  case: dict[str, Any],
) -> None:
  found = reference.epsilon(case)
  assert found >= case['realised_lower_bound']
  assert found >= case['reverse_direction_epsilon']


@pytest.mark.parametrize('case', _family('PLD via Gaussian', without=_COARSE))
def test_rounds_of_such_events_cost_the_same(case: dict[str, Any]) -> None:
  found = accounting.epsilon(_rounds(case), case['delta'])
  assert abs(found.value - case['epsilon']) <= _allowed(case)


@pytest.mark.parametrize('case', _family('RDP google'))
def test_never_above_the_accountant_of_google_research_federated(
  case: dict[str, Any],
) -> None:
  found = accounting.epsilon(_rounds(case), case['delta'])
  # Where that is the same bound, up to the rounding errors of double precision.
  assert found.value <= case['epsilon'] * (1.0 + 1e-12)


_WIDE = [
  param
  for param in _family('RDP google')
  if 'l2_clip' in param.values[0]
  and param.values[0]['num_clients_total'] == 3400
  and param.values[0]['noise_multiplier'] in (1.0, 2.0)
  and param.values[0]['bits'] >= 16
]


@pytest.mark.parametrize('case', _WIDE)
def test_a_fifth_below_it_on_emnist_like_cases(case: dict[str, Any]) -> None:
  found = accounting.epsilon(_rounds(case), case['delta'])
  assert found.value <= 0.8 * case['epsilon']


@pytest.mark.parametrize(
  'left_out',
  ['scale', 'local_stddev', 'local_stddev_scaled', 'inflated_l2_scaled'],
)
def test_intermediate_values_follow_from_the_others(left_out: str) -> None:
  dropped = {left_out, 'sampling_rate', 'epsilon', 'second_source', 'tau'}
  for case in _CASES:
    if 'l2_clip' in case:
      bare = {k: v for k, v in case.items() if k not in dropped}
      assert reference.epsilon(bare) == pytest.approx(
        reference.epsilon(case), rel=1e-7
      )


def test_every_case_is_printed(
  capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
  path = tmp_path / 'cases.json'
  bare = [{k: v for k, v in c.items() if k != 'epsilon'} for c in _CASES]
  path.write_text(json.dumps(bare))
  reference.main([str(path)])
  printed = json.loads(capsys.readouterr().out)
  assert list(printed) == [case['id'] for case in _CASES]
  assert all(0.0 < value < math.inf for value in printed.values())


def test_an_unknown_accountant_is_named() -> None:
  case = {'id': 'X1', 'accountant': 'GDP'}
  with pytest.raises(ValueError, match=r"'X1' must start with .* Found 'GDP'"):
    reference.epsilon(case)


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
