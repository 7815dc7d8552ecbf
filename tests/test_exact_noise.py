# SPDX-License-Identifier: Apache-2.0
"""The aggregator whose noise is exact after dropouts: its numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest

import tff_secagg_ext
from tff_secagg_ext._dropout_noise import DropoutNoise
from tff_secagg_ext.aggregators import DdpSecureAggregationFactory

DIMENSION = 1 << 10


def make(z: float = 1.0, **changes: Any) -> DdpSecureAggregationFactory:
  options = {'min_contributors': 70, 'exact_noise': True, **changes}
  return tff_secagg_ext.ddp_secure_aggregator(z, 100, **options)


@pytest.mark.parametrize(
  'mechanism',
  ['distributed_dgauss', 'distributed_skellam'],
)
@pytest.mark.parametrize('colluders', [0, 10])
@pytest.mark.parametrize('lost', [0, 1, 30])
def test_the_noise_is_that_of_the_noise_multiplier(
  mechanism: str, colluders: int, lost: int
) -> None:
  aggregator = make(1.5, mechanism=mechanism, max_colluders=colluders)
  event = aggregator.event(DIMENSION, 100 - lost)
  assert (event.client_shares, len(event.layer_stddevs)) == (100 - lost, lost)
  share = event.share_stddev**2 + sum(s**2 for s in event.layer_stddevs)
  honest = event.client_shares - event.colluders
  stddev = math.sqrt(honest * share)
  assert stddev == pytest.approx(1.5 * event.l2_sensitivity, rel=1e-9)


def test_sized_for_the_worst_case_the_variance_is_larger() -> None:
  sized = make(exact_noise=False)
  events = [aggregator.event(DIMENSION) for aggregator in (sized, make())]
  worst, exact = (
    e.client_shares * (e.share_stddev / e.l2_sensitivity) ** 2 for e in events
  )
  assert exact == pytest.approx(1.0)
  assert worst == pytest.approx(100 / 70)


def test_what_a_context_is_told() -> None:
  aggregator = make(max_colluders=5)
  constants = aggregator.constants(DIMENSION)
  assert aggregator.dropout_noise(DIMENSION) == DropoutNoise(
    mechanism='distributed_dgauss',
    share_stddev=constants.share_stddev,
    dimension=DIMENSION,
    modulus=1 << 20,
    clients=100,
    dropouts=30,
    colluders=5,
  )


def test_more_contributors_have_their_shares_alone() -> None:
  event = make(max_contributors=120).event(DIMENSION, 110)
  assert (event.client_shares, event.layer_stddevs) == (110, ())


def test_too_few_have_the_layers_that_there_are() -> None:
  event = make().event(DIMENSION, 50)
  assert (event.client_shares, len(event.layer_stddevs)) == (50, 30)


def test_bits_leave_room_for_what_colluders_add() -> None:
  """With c colluders the sum of n - D has (n - D)/(n - c - D) of S."""
  spec = make(max_colluders=30, bits=20).spec
  assert spec.most_noise == pytest.approx(70 * 70 / 40)
  assert make().spec.most_noise == pytest.approx(100)
  constants = make(max_colluders=30).constants(DIMENSION)
  without = make(max_colluders=30, exact_noise=False, min_contributors=None)
  assert constants.scale <= without.constants(DIMENSION).scale


@pytest.mark.parametrize(
  ('changes', 'match'),
  [
    ({'min_contributors': None}, '`min_contributors` must be above'),
    ({'min_contributors': 100}, '`min_contributors` must be above'),
    ({'max_colluders': 70}, 'below the 100 expected clients.*Found 70'),
    ({'cohorts': 'poisson'}, "must be False for cohorts='poisson'"),
  ],
)
def test_aggregators_that_cannot_be_exact(
  changes: dict[str, Any], match: str
) -> None:
  with pytest.raises(ValueError, match=match):
    make(**changes)
  with pytest.raises(TypeError, match='`exact_noise` must be True or False'):
    make(exact_noise=1)


def test_an_aggregator_without_has_nothing_to_tell() -> None:
  with pytest.raises(ValueError, match='`exact_noise` must be True for noise'):
    make(exact_noise=False).dropout_noise(DIMENSION)
  assert 'exact_noise' not in make(exact_noise=False).settings
  assert make().settings['exact_noise'] is True


def test_gaussian_layers_that_are_too_narrow_are_refused() -> None:
  narrow = {'bits': 11, 'modclip_prob': 0.01}
  with pytest.raises(ValueError, match=r'within 1e-09 nats.*Found .*more bits'):
    make(**narrow).dropout_noise(DIMENSION)
  skellam = make(**narrow, mechanism='distributed_skellam')
  assert skellam.dropout_noise(DIMENSION).dropouts == 30
