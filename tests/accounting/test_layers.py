# SPDX-License-Identifier: Apache-2.0
"""Sums whose clients left layers of noise on top of their shares."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import hypothesis
from hypothesis import strategies as st
import mpmath
import numpy as np
import pytest

from tests.oracles import accounting as oracle
from tff_secagg_ext import accounting
from tff_secagg_ext._dropout_noise import DropoutNoise
from tff_secagg_ext.accounting import costs, domination

DELTA = 1e-5
GAUSSIAN, SKELLAM = 'distributed_dgauss', 'distributed_skellam'


def event(mechanism: str = GAUSSIAN, **changes: Any) -> Any:
  fields = {
    'l2_sensitivity': 300.0,
    'share_stddev': 60.0,
    'client_shares': 20,
    'dimension': 1000,
    'layer_stddevs': (13.0, 14.0),
    **changes,
  }
  return accounting.NoisedSumEvent(mechanism=mechanism, **fields)


def cost(of: Any, view: str = 'release') -> costs.Cost:
  return costs.event_cost(of, view, 'zero_out')


# Domination.


@hypothesis.given(
  variance=st.floats(0.3, 9.0),
  count=st.integers(1, 30),
  layers=st.lists(st.floats(0.05, 9.0), max_size=5),
  data=st.data(),
)
def test_the_range_is_no_less_than_that_of_all_noises_one_by_one(
  variance: float, count: int, layers: list[float], data: st.DataObject
) -> None:
  clients = data.draw(st.integers(1, count))
  each = [variance] * count + [v for v in layers for _ in range(clients)]
  bound = domination.layered_sum_range(variance, count, layers, clients)
  # In the order of the proof: shares first, then the layers.
  in_order = math.fsum(
    float(domination.log_factor_range(s * v / (s + v)))
    for s, v in zip(itertools.accumulate(each), each[1:], strict=False)
  )
  assert bound >= in_order * (1 - 1e-12)
  found = domination.dominate_layered(variance, count, layers, clients)
  plain = domination.dominate(each)
  if math.isfinite(found.log_range):
    assert found.variance == pytest.approx(plain.variance)


@hypothesis.given(st.floats(0.3, 9.0), st.integers(1, 5000))
def test_without_layers_it_is_that_of_equal_shares(
  variance: float, count: int
) -> None:
  found = domination.dominate_layered(variance, count, (), 0)
  assert found == domination.dominate_equal(variance, count)


@pytest.mark.parametrize(
  ('share', 'count', 'layers'),
  [(1.0, 3, (0.3,)), (0.6, 2, (0.25, 0.4)), (2.0, 4, (0.2,))],
)
def test_the_range_holds_for_exact_sums(
  share: float, count: int, layers: tuple[float, ...]
) -> None:
  reach = 60
  each = [share] * count + [v for v in layers for _ in range(count)]
  exact = oracle.sum_of_discrete_gaussians(tuple(each), reach)
  total = mpmath.fsum(each)
  logs = [
    mpmath.log(exact[k + reach]) + mpmath.mpf(k * k) / (2 * total)
    for k in range(-12, 13)
  ]
  spread = float(max(logs) - min(logs))
  bound = domination.layered_sum_range(share, count, layers, count)
  assert 0 < spread <= bound


@hypothesis.given(
  clients=st.integers(3, 60),
  stddev=st.floats(0.8, 6.0),
  data=st.data(),
)
def test_one_bound_holds_for_every_number_of_dropouts(
  clients: int, stddev: float, data: st.DataObject
) -> None:
  colluders = data.draw(st.integers(0, clients - 2))
  honest = clients - colluders
  dropouts = data.draw(st.integers(1, honest - 1))
  try:
    noise = DropoutNoise(
      GAUSSIAN, stddev * honest**0.5, 1, 2, clients, dropouts, colluders
    )
  except ValueError:
    hypothesis.reject()
  layers = [s**2 for s in noise.layer_stddevs(dropouts)]
  share = noise.share_stddev**2
  bound = domination.layered_sum_range(
    share, honest - dropouts, layers, clients
  )
  for lost in range(dropouts + 1):
    for left in (clients - lost, honest - lost):
      found = domination.layered_sum_range(share, left, layers[:lost], left)
      assert found <= bound * (1 + 1e-12)


# Costs.


def test_gaussian_layers_count_as_noise_of_unequal_shares() -> None:
  found = cost(event())
  variances = [3600.0] * 20 + [169.0] * 20 + [196.0] * 20
  expected = domination.dominate(variances)
  assert found.squared_ratio == pytest.approx(300.0**2 / expected.variance)
  assert found.slack >= 1000 * expected.log_range
  assert found.slack < 1e-9


def test_narrow_layers_cost_slack() -> None:
  narrow = cost(event(layer_stddevs=(1.0,)))
  assert narrow.slack > 1e-9
  expected = domination.dominate([3600.0] * 20 + [1.0] * 20)
  assert narrow.slack >= 1000 * expected.log_range


def test_skellam_layers_merge_exactly() -> None:
  variance = 20 * (3600.0 + 169.0 + 196.0)
  merged = event(
    SKELLAM,
    client_shares=1,
    share_stddev=math.sqrt(variance),
    layer_stddevs=(),
  )
  layered, alone = cost(event(SKELLAM)), cost(merged)
  assert layered.squared_ratio == pytest.approx(alone.squared_ratio)
  assert layered.slack == pytest.approx(alone.slack)
  np.testing.assert_allclose(layered.divergences, alone.divergences)


@pytest.mark.parametrize('mechanism', [GAUSSIAN, SKELLAM])
def test_colluders_know_their_layers_too(mechanism: str) -> None:
  found = cost(event(mechanism, colluders=5, server_shares=3), 'server')
  expected = cost(event(mechanism, client_shares=15), 'release')
  assert found.squared_ratio == expected.squared_ratio
  np.testing.assert_array_equal(found.divergences, expected.divergences)


@pytest.mark.parametrize('mechanism', [GAUSSIAN, SKELLAM])
def test_the_server_adds_shares_without_layers(mechanism: str) -> None:
  found = cost(event(mechanism, server_shares=10))
  variance = 30 * 3600.0 + 20 * (169.0 + 196.0)
  assert found.squared_ratio == pytest.approx(
    300.0**2 / (variance - domination.SMOOTHING)
  )


@pytest.mark.parametrize('mechanism', [GAUSSIAN, SKELLAM])
@pytest.mark.parametrize('lost', [0, 1, 10, 30])
@pytest.mark.parametrize('colluders', [0, 5])
def test_epsilon_of_the_server_is_that_of_the_target_after_any_dropouts(
  mechanism: str, lost: int, colluders: int
) -> None:
  target = 4000.0
  share = target / math.sqrt(100 - colluders)
  noise = DropoutNoise(mechanism, share, 1, 2, 100, 30, colluders)
  a_round = accounting.Round(
    (
      event(
        mechanism,
        l2_sensitivity=4000.0,
        share_stddev=share,
        client_shares=100 - lost,
        colluders=colluders,
        layer_stddevs=noise.layer_stddevs(lost),
      ),
    ),
    accounting.NoSampling(),
  )
  alone = dataclasses.replace(
    a_round.events[0],
    share_stddev=target,
    client_shares=1,
    colluders=0,
    layer_stddevs=(),
  )
  expected = accounting.server_epsilon(
    [dataclasses.replace(a_round, events=(alone,))], DELTA
  ).value
  found = accounting.server_epsilon([a_round], DELTA).value
  assert found == pytest.approx(expected, rel=1e-6)


def test_without_layers_thirty_dropouts_cost_what_they_did() -> None:
  """What shares for the worst case cost in noise: 1.43 times the variance."""
  for_seventy, for_all = 4000.0**2 / 70, 4000.0**2 / 100
  assert 100 * for_seventy / (100 * for_all) == pytest.approx(1.43, abs=0.002)


# Events.


@pytest.mark.parametrize('layers', [(0.0,), (1.0, -2.0)])
def test_layers_that_are_no_noise(layers: tuple[float, ...]) -> None:
  with pytest.raises(ValueError, match='`layer_stddevs` must be above 0'):
    event(layer_stddevs=layers)
  with pytest.raises(ValueError, match=r'of shares that are\. Found'):
    event(share_stddev=0.0)
  with pytest.raises(TypeError, match='`layer_stddevs` must be a real number'):
    event(layer_stddevs=('1',))


def test_events_with_layers_are_of_version_3() -> None:
  text = (
    '{"client_shares":3,"colluders":1,"dimension":4,"kind":"noised_sum",'
    '"l2_sensitivity":1.5,"layer_stddevs":[0.1,2.0],'
    '"mechanism":"distributed_dgauss","server_shares":5,"share_stddev":2.0,'
    '"version":3}'
  )
  layered = accounting.NoisedSumEvent(
    GAUSSIAN, 1.5, 2.0, 3, 4, 5, 1, layer_stddevs=(0.1, 2.0)
  )
  assert accounting.to_json(layered) == text
  assert accounting.from_json(text) == layered


@pytest.mark.parametrize(
  ('old', 'new', 'match'),
  [
    ('"version":3', '"version":1', "unknown .'layer_stddevs'."),
    ('"version":3', '"version":2', '`version` must be 1 or 3. Found 2'),
    ('[13.0,14.0]', '[]', '`layer_stddevs` must be left out where there is'),
    ('"layer_stddevs":[13.0,14.0],', '', "missing .'layer_stddevs'."),
    ('[13.0,14.0]', '[13.0,0.0]', '`layer_stddevs` must be above 0'),
  ],
)
def test_records_that_nobody_wrote(old: str, new: str, match: str) -> None:
  text = accounting.to_json(event())
  assert old in text
  with pytest.raises(ValueError, match=match):
    accounting.from_json(text.replace(old, new))
