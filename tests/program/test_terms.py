# SPDX-License-Identifier: Apache-2.0
"""What is charged for what happened; in doubt, more."""

from __future__ import annotations

from typing import Any

import pytest

import tff_secagg_ext
from tff_secagg_ext import accounting
from tff_secagg_ext.program import MeasurementError
from tff_secagg_ext.program.releases import Releases
from tff_secagg_ext.program.terms import Terms

DIMENSION = 64
NONE = accounting.NoSampling()
POISSON = accounting.PoissonSampling(0.25)
FIXED = accounting.FixedSizeSampling(25, 100)
PUBLIC = tff_secagg_ext.ddp_secure_aggregator(1.0, 25, min_contributors=20)
HIDDEN = tff_secagg_ext.ddp_secure_aggregator(
  1.0, 25, cohorts='poisson', min_contributors=5, max_contributors=60
)


def terms(aggregator: Any, sampling: Any, **changes: Any) -> Terms:
  arguments = {
    'releases': Releases(DIMENSION, ()),
    'population': 100,
    'allowed_failures': 1e-5,
    **changes,
  }
  return Terms(aggregator, sampling=sampling, **arguments)


def measured(
  aggregator: Any, contributors: int | None = None, **changes: Any
) -> dict[str, Any]:
  event = aggregator.event(DIMENSION, contributors)
  shares = event.client_shares + event.server_shares
  values = {
    'dimension': DIMENSION,
    'scale': aggregator.constants(DIMENSION).scale,
    'effective_noise_multiplier': event.share_stddev
    * shares**0.5
    / event.l2_sensitivity,
    'aborted': False,
  }
  if contributors is not None:
    values['contributors'] = contributors
  return {**values, **changes}


def test_a_sound_fixed_cohort_is_amplified() -> None:
  agreed = terms(PUBLIC, FIXED)
  expected = accounting.Round((PUBLIC.event(DIMENSION, 25),), FIXED)
  assert agreed.planned(25, FIXED) == expected
  assert agreed.happened(25, FIXED, measured(PUBLIC, 25)) == expected


@pytest.mark.parametrize('clients', [24, 26, None])
def test_a_cohort_of_another_or_unknown_size_is_not_amplified(
  clients: int | None,
) -> None:
  assert terms(PUBLIC, FIXED).planned(clients, FIXED).sampling == NONE


def test_dropouts_are_charged_with_the_noise_that_was_there() -> None:
  happened = terms(PUBLIC, FIXED).happened(25, FIXED, measured(PUBLIC, 21))
  assert happened == accounting.Round((PUBLIC.event(DIMENSION, 21),), FIXED)


def test_an_aborted_round_is_charged_as_it_was_and_not_amplified() -> None:
  happened = terms(PUBLIC, FIXED).happened(
    25, FIXED, measured(PUBLIC, 7, aborted=True)
  )
  assert happened == accounting.Round((PUBLIC.event(DIMENSION, 7),), NONE)


def test_nobody_costs_nothing() -> None:
  values = measured(PUBLIC, 1, aborted=True, effective_noise_multiplier=0.0)
  values['contributors'] = 0
  happened = terms(PUBLIC, FIXED).happened(25, FIXED, values)
  assert happened == accounting.Round((), NONE)


def test_a_sound_poisson_cohort_is_amplified_and_its_size_hidden() -> None:
  agreed = terms(HIDDEN, POISSON)
  charges = {agreed.planned(n, POISSON) for n in (5, 25, 60, None)}
  assert charges == {accounting.Round((HIDDEN.event(DIMENSION),), POISSON)}
  happened = agreed.happened(25, POISSON, measured(HIDDEN))
  assert charges == {happened}


@pytest.mark.parametrize('clients', [4, 61])
def test_a_poisson_cohort_out_of_bounds_is_not_amplified(clients: int) -> None:
  agreed = terms(HIDDEN, POISSON)
  planned = agreed.planned(clients, POISSON)
  assert planned.sampling == NONE
  (event,) = planned.events
  assert isinstance(event, accounting.NoisedSumEvent)
  assert event.client_shares == min(clients, 5)
  values = measured(HIDDEN, aborted=True)
  assert agreed.happened(clients, POISSON, values) == planned
  unknown = agreed.happened(None, POISSON, values)
  assert unknown.sampling == NONE


def test_poisson_needs_a_hidden_count() -> None:
  with pytest.raises(ValueError, match="cohorts='poisson'"):
    terms(PUBLIC, POISSON)


def test_poisson_needs_bounds_that_delta_affords() -> None:
  with pytest.raises(ValueError, match='Widen min_contributors'):
    terms(HIDDEN, POISSON, allowed_failures=1e-30)
  agreed = terms(HIDDEN, POISSON)
  most = int(agreed.allowed_failures / agreed.hidden.failures)
  assert agreed.affords(most)
  assert not agreed.affords(most + 1)
  unknown = terms(HIDDEN, POISSON, population=None)
  assert unknown.hidden.failures >= agreed.hidden.failures


def test_what_is_unaccounted_is_in_every_charge() -> None:
  agreed = terms(PUBLIC, NONE, releases=Releases(None, ('loss is exact',)))
  event = accounting.UnaccountedEvent(('loss is exact',))
  for charge in (agreed.planned(25, NONE), agreed.happened(25, NONE, {})):
    assert charge == accounting.Round((event,), NONE)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'scale': 3.0}, 'measured scale must be'),
    ({'dimension': 32}, 'measured dimension must be 64'),
    ({'effective_noise_multiplier': 0.5}, 'effective_noise_multiplier must'),
    ({'effective_noise_multiplier': float('nan')}, 'Found nan'),
  ],
)
def test_contradictions_are_refused(
  changes: dict[str, Any], message: str
) -> None:
  with pytest.raises(MeasurementError, match=message):
    terms(PUBLIC, NONE).happened(25, NONE, measured(PUBLIC, 25, **changes))


def test_more_contributors_than_clients_are_refused() -> None:
  with pytest.raises(MeasurementError, match='At most 20 clients'):
    terms(PUBLIC, NONE).happened(20, NONE, measured(PUBLIC, 25))


def two(**changes: Any) -> Terms:
  metrics = tff_secagg_ext.ddp_secure_aggregator(
    4.0, 25, min_contributors=20, **changes
  )
  releases = Releases(DIMENSION, (), 8)
  return terms(PUBLIC, FIXED, releases=releases, metrics=metrics)


def measured_twice(agreed: Terms, *counts: int) -> dict[str, Any]:
  assert agreed.metrics is not None
  event = agreed.metrics.event(8, counts[1])
  noised = measured(
    agreed.metrics,
    counts[1],
    dimension=8,
    scale=agreed.metrics.constants(8).scale,
    effective_noise_multiplier=event.share_stddev
    * counts[1] ** 0.5
    / event.l2_sensitivity,
  )
  prefixed = {f'noised_sum.{name}': value for name, value in noised.items()}
  return {**measured(PUBLIC, counts[0]), **prefixed}


def test_model_and_metrics_are_two_events_of_one_round() -> None:
  agreed = two()
  assert agreed.metrics is not None
  events = (PUBLIC.event(DIMENSION, 21), agreed.metrics.event(8, 21))
  happened = agreed.happened(25, FIXED, measured_twice(agreed, 21, 21))
  assert happened == accounting.Round(events, FIXED)
  planned = agreed.planned(25, FIXED).events
  assert planned == (
    PUBLIC.event(DIMENSION, 25),
    agreed.metrics.event(8, 25),
  )


def test_model_and_metrics_come_of_the_same_clients() -> None:
  agreed = two()
  with pytest.raises(MeasurementError, match='must have the same contributors'):
    agreed.happened(25, FIXED, measured_twice(agreed, 21, 20))


def test_metrics_that_say_nothing_are_refused() -> None:
  with pytest.raises(MeasurementError, match='dimension must be 8'):
    two().happened(25, FIXED, measured(PUBLIC, 25))


def test_model_and_metrics_have_the_same_cohorts() -> None:
  with pytest.raises(ValueError, match='max_contributors of the noised metric'):
    two(max_contributors=30)


ALLOCATED = accounting.RandomAllocation(1, 4)
NAMED = accounting.RandomAllocation(1, 4, 'a run/1')


def test_a_sound_allocated_cohort_is_amplified_and_its_size_hidden() -> None:
  agreed = terms(HIDDEN, ALLOCATED)
  expected = accounting.Round((HIDDEN.event(DIMENSION, None),), NAMED)
  for clients in (20, 30, None):
    assert agreed.planned(clients, NAMED) == expected
  assert agreed.happened(30, NAMED, measured(HIDDEN)) == expected


@pytest.mark.parametrize('clients', [4, 61])
def test_an_allocated_cohort_out_of_bounds_unhides_its_epoch(
  clients: int,
) -> None:
  found = terms(HIDDEN, ALLOCATED).planned(clients, NAMED).sampling
  assert found == accounting.RandomAllocation(1, 4, 'a run/1', hidden=False)


@pytest.mark.parametrize(
  ('aggregator', 'changes', 'message'),
  [
    (PUBLIC, {}, "must not be RandomAllocation for cohorts='fixed'"),
    (HIDDEN, {'population': None}, '`population` must be known'),
    (HIDDEN, {'population': 220}, 'Cohorts of RandomAllocation.* must stay'),
  ],
)
def test_an_allocation_needs_a_hidden_count_in_bounds_of_a_population(
  aggregator: Any, changes: dict[str, Any], message: str
) -> None:
  with pytest.raises(ValueError, match=message):
    terms(aggregator, ALLOCATED, **changes)


def test_samples_are_from_the_population_of_the_run() -> None:
  message = '`sampling` must be from the 300 clients of the run'
  with pytest.raises(ValueError, match=message):
    terms(PUBLIC, FIXED, population=300)
  assert terms(PUBLIC, FIXED, population=None).sampling == FIXED


def test_nobody_is_in_a_round_twice() -> None:
  with pytest.raises(ValueError, match='at most the 100 clients'):
    terms(PUBLIC, NONE).planned(101, NONE)
