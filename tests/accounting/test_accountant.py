# SPDX-License-Identifier: Apache-2.0
"""Both views of a run."""

from __future__ import annotations

import dataclasses
import math
import time

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from tff_secagg_ext import accounting
from tff_secagg_ext.accounting import (
  conversion,
  costs,
  domination,
  events,
  gaussian,
  renyi,
)

_EVENT = accounting.NoisedSumEvent(
  'distributed_dgauss', 1000.0, 100.0, 100, 1024
)
_SKELLAM = dataclasses.replace(_EVENT, mechanism='distributed_skellam')
_FREE = costs.Cost()
_NONE = accounting.NoSampling()
_POISSON = accounting.PoissonSampling(0.1)
_FIXED = accounting.FixedSizeSampling(100, 1000)
_SUBSTITUTION = accounting.FixedSizeSampling(100, 1000, 'substitution')


def _round(
  *events: accounting.Event, sampling: accounting.Sampling = _POISSON
) -> accounting.Round:
  return accounting.Round(events, sampling)


def _release(*rounds: accounting.Round, delta: float = 1e-5) -> float:
  return accounting.release_epsilon(rounds, delta).value


def _server(*rounds: accounting.Round, delta: float = 1e-5) -> float:
  return accounting.server_epsilon(rounds, delta).value


def test_nothing_released_costs_nothing() -> None:
  zero = accounting.Epsilon(0.0)
  assert accounting.release_epsilon([], 1e-5) == zero
  assert accounting.release_epsilon([_round()], 1e-5) == zero
  assert accounting.server_epsilon([_round()], 1e-5) == zero
  assert accounting.server_epsilon([_round()], 1e-5, 1) == zero


def test_without_sampling_both_views_are_the_gaussian_mechanism() -> None:
  rounds = [_round(_EVENT, sampling=_NONE)] * 4
  exact = gaussian.epsilon(2.0 * 1000 / math.sqrt(100 * 100**2 - 3), 1e-5)
  assert _release(*rounds) == pytest.approx(exact, rel=1e-9)
  assert _server(*rounds) == pytest.approx(exact, rel=1e-9)


def test_order_of_the_samplings() -> None:
  def cost(sampling: accounting.Sampling) -> float:
    return _release(*[_round(_EVENT, sampling=sampling)] * 20)

  whole = accounting.NoSampling('substitution')
  assert cost(_POISSON) < cost(_FIXED) < cost(_SUBSTITUTION) < cost(whole)
  assert cost(_FIXED) < cost(_NONE) < cost(whole)


def test_server_sees_who_took_part() -> None:
  one = _round(_EVENT, sampling=_NONE)
  for sampling in (_POISSON, _FIXED):
    assert _server(_round(_EVENT, sampling=sampling)) == _server(one)


def test_substitution_doubles_the_sensitivity() -> None:
  wide = dataclasses.replace(_EVENT, l2_sensitivity=2000.0)
  assert _server(_round(_EVENT, sampling=_SUBSTITUTION)) == _server(
    _round(wide)
  )
  whole = accounting.NoSampling('substitution')
  assert _release(_round(_EVENT, sampling=whole)) == _release(
    _round(wide, sampling=_NONE)
  )


def test_shares_that_each_view_is_protected_by() -> None:
  def at(shares: int) -> accounting.Round:
    event = dataclasses.replace(_EVENT, client_shares=shares)
    return _round(event)

  mixed = _round(
    dataclasses.replace(
      _EVENT, client_shares=60, server_shares=40, colluders=10
    )
  )
  assert _release(mixed) == _release(at(100))
  assert _server(mixed) == _server(at(50))


def test_events_of_one_round_share_its_cohort() -> None:
  """They are amplified together, not each by itself."""
  both = _round(_EVENT, _EVENT)
  single = _round(
    dataclasses.replace(_EVENT, l2_sensitivity=1000.0 * math.sqrt(2.0))
  )
  assert _release(both) == pytest.approx(_release(single), rel=1e-9)
  assert _release(both) > _release(_round(_EVENT), _round(_EVENT))


def test_truncated_rounds_are_not_amplified() -> None:
  usual = [_round(_EVENT)] * 20
  cut = _round(_EVENT, sampling=_NONE)
  assert _release(*usual, cut) > _release(*usual, _round(_EVENT)) * 1.2
  assert _release(*usual, cut) < _release(cut) + _release(*usual)


def test_unaccounted_makes_both_views_infinite_by_name() -> None:
  hidden = accounting.UnaccountedEvent(('zeroing quantile is exact',))
  rounds = [_round(_EVENT), _round(_EVENT, hidden), _round(hidden)]
  for found in (
    accounting.release_epsilon(rounds, 1e-5),
    accounting.server_epsilon(rounds, 1e-5),
    accounting.server_epsilon(rounds, 1e-5, 0),
  ):
    assert found == accounting.Epsilon(math.inf, hidden.reasons)


@pytest.mark.parametrize(
  ('changes', 'release', 'server'),
  [
    ({'share_stddev': 0.0}, 'no noise', 'no noise'),
    ({'client_shares': 0}, 'no noise: 0 client shares', 'no noise'),
    ({'colluders': 100}, None, '100 client shares less 100 colluders'),
    (
      {'share_stddev': 0.1, 'client_shares': 2000},
      'too small for any accountant: 2000 shares of stddev 0.1',
      'too small',
    ),
    ({'l2_sensitivity': 1e12}, 'noise too small', 'noise too small'),
  ],
)
def test_noise_that_hides_nothing(
  changes: dict[str, float], release: str | None, server: str
) -> None:
  event = dataclasses.replace(_EVENT, **changes)
  found = accounting.server_epsilon([_round(event)], 1e-5)
  assert math.isinf(found.value)
  assert server in found.reasons[0]
  found = accounting.release_epsilon([_round(event)], 1e-5)
  assert math.isinf(found.value) == (release is not None)
  assert (release or '') in ''.join(found.reasons)


def test_merged_shares_have_no_exact_law() -> None:
  """The server may add its part as one; the clients' are what they are."""
  event = dataclasses.replace(
    _EVENT, share_stddev=0.1, l2_sensitivity=2.0, server_shares=50
  )
  found = accounting.release_epsilon([_round(event)], 1e-5)
  assert math.isinf(found.value)
  assert found.reasons == (
    'noise too small for any accountant: 150 shares of stddev 0.1 in integer '
    'units',
  )
  assert math.isfinite(_server(_round(event)))


def test_slack_is_added_and_taken_off_delta() -> None:
  event = dataclasses.replace(
    _EVENT, share_stddev=0.9, l2_sensitivity=5.0, server_shares=1
  )
  wide = dataclasses.replace(event, dimension=1)
  gap = _release(_round(event)) - _release(_round(wide))
  assert 1e-3 < gap < 10.0


def test_best_accountant_is_named() -> None:
  def named(event: accounting.NoisedSumEvent, **arguments: str) -> str:
    return accounting.epsilon(
      [_round(event)] * 10, 1e-5, **arguments
    ).accountant

  small = dataclasses.replace(
    _EVENT, share_stddev=0.9, l2_sensitivity=5.0, dimension=10**6
  )
  assert named(_EVENT) == 'pld'
  assert named(_EVENT, view='server') == 'gaussian'
  few = dataclasses.replace(_SKELLAM, client_shares=1, share_stddev=30.0)
  assert named(few) == named(few, view='server') == 'renyi'
  assert named(small) == named(small, view='server') == 'renyi'
  nothing = dataclasses.replace(_EVENT, client_shares=0)
  assert named(nothing) == ''
  assert accounting.Epsilon(1.0, accountant='pld') == accounting.Epsilon(1.0)


def test_epsilon_is_that_of_its_view() -> None:
  rounds = [_round(_EVENT)] * 3
  for found, expected in (
    (accounting.epsilon(rounds, 1e-5), _release(*rounds)),
    (accounting.epsilon(rounds, 1e-5, 'release'), _release(*rounds)),
    (accounting.epsilon(rounds, 1e-5, 'server'), _server(*rounds)),
    (accounting.epsilon(rounds, 1e-5, 'server', 2), _server(*rounds[:2])),
  ):
    assert found.value == pytest.approx(expected, rel=1e-12)
  with pytest.raises(
    ValueError, match=r"`view` must be 'release' or 'server'\. Found 'client'"
  ):
    accounting.epsilon(rounds, 1e-5, 'client')
  with pytest.raises(
    ValueError, match=r'`max_participations` must be None .* Found 3\. A cap'
  ):
    accounting.epsilon(rounds, 1e-5, max_participations=3)


@pytest.mark.parametrize('mechanism', events.MECHANISMS)
def test_small_noise_costs_no_more_than_the_closed_forms_say(
  mechanism: str,
) -> None:
  for stddev in (0.3, 0.7, 1.0, 1.5, 3.0):
    event = dataclasses.replace(
      _EVENT,
      mechanism=mechanism,
      share_stddev=stddev,
      l2_sensitivity=math.sqrt(20.0),
      dimension=4096,
    )
    closed = (
      renyi.skellam_renyi(math.sqrt(20.0), 100 * stddev**2, 4096)
      if mechanism == 'distributed_skellam'
      else renyi.discrete_gaussian_renyi(
        math.sqrt(20.0),
        100 * stddev**2,
        4096,
        domination.equal_sum_range(stddev**2, 100),
      )
    )
    for view, divergences in (
      ('server', closed),
      ('release', renyi.amplify(closed, 0.1)),
    ):
      found = accounting.epsilon([_round(event)] * 20, 1e-5, view).value
      assert found <= renyi.epsilon_from_renyi(20 * divergences, 1e-5)


@pytest.mark.parametrize('sampling', [_NONE, _POISSON, _FIXED, _SUBSTITUTION])
def test_skellam_costs_little_more_than_a_discrete_gaussian(
  sampling: accounting.Sampling,
) -> None:
  gaussians = [_round(_EVENT, sampling=sampling)] * 10
  skellams = [_round(_SKELLAM, sampling=sampling)] * 10
  for view in ('release', 'server'):
    least = accounting.epsilon(gaussians, 1e-5, view)
    found = accounting.epsilon(skellams, 1e-5, view)
    assert least.value < found.value < least.value * 1.005
    assert found.accountant == least.accountant
  capped = accounting.epsilon(skellams, 1e-5, 'server', 4)
  assert capped.value == pytest.approx(_server(*gaussians[:4]), rel=5e-3)


def test_little_skellam_noise_is_amplified_by_poisson_sampling_alone() -> None:
  event = dataclasses.replace(_SKELLAM, share_stddev=2.0, l2_sensitivity=20.0)
  rounds = [_round(event)] * 10
  plain = renyi.skellam_renyi(20.0, 400.0, 1024)
  # The exact divergences are below the closed form.
  unamplified = renyi.epsilon_from_renyi(10 * plain, 1e-5)
  assert 0.95 * unamplified < _server(*rounds) < unamplified
  fixed = [_round(event, sampling=_FIXED)] * 10
  assert _release(*fixed) == _server(*fixed)
  amplified = renyi.epsilon_from_renyi(10 * renyi.amplify(plain, 0.1), 1e-5)
  assert 0.95 * amplified < _release(*rounds) < amplified
  assert amplified < 0.3 * unamplified


def test_mixed_noises_add_in_renyi_divergence() -> None:
  little = dataclasses.replace(_SKELLAM, share_stddev=2.0, l2_sensitivity=20.0)
  mixed = [_round(little), _round(_EVENT)]
  both = _round(_EVENT), _round(_EVENT)
  assert _server(*mixed) == pytest.approx(_server(*both), rel=0.2)
  assert _release(*mixed) == pytest.approx(_release(*both), rel=0.4)
  assert _server(*mixed) > _server(*both)
  assert _release(*mixed) > _release(*both)
  # Of several samplings, each round has its own.
  cut = [_round(little), _round(_EVENT, sampling=_NONE)]
  assert _release(*mixed) < _release(*cut) < _server(*mixed)
  fixed = [_round(little), _round(_EVENT, sampling=_FIXED)]
  assert _release(*fixed) == pytest.approx(_release(*cut))


def test_skellam_and_gaussian_rounds_compose() -> None:
  mixed = [_round(_SKELLAM), _round(_EVENT, sampling=_FIXED)]
  like = [_round(_EVENT), _round(_EVENT, sampling=_FIXED)]
  assert _release(*mixed) == pytest.approx(_release(*like), rel=5e-3)
  assert _release(*mixed) > _release(*like)
  assert _server(*mixed) == pytest.approx(_server(*like), rel=5e-3)


def test_events_of_both_kinds_in_one_round_are_amplified_together() -> None:
  together = _round(_SKELLAM, _EVENT)
  apart = [_round(_SKELLAM), _round(_EVENT)]
  wide = dataclasses.replace(_EVENT, l2_sensitivity=1000.0 * math.sqrt(2.0))
  assert _release(together) == pytest.approx(_release(_round(wide)), rel=5e-3)
  assert _release(*apart) < _release(together) < _server(together)


def test_worst_participations_count() -> None:
  loud = _round(dataclasses.replace(_EVENT, client_shares=50))
  rounds = [_round(_EVENT), loud, _round(_EVENT), loud, _round(_EVENT)]

  def capped(limit: int | None) -> float:
    return accounting.server_epsilon(rounds, 1e-5, limit).value

  assert capped(0) == 0.0
  assert capped(1) == pytest.approx(_server(loud))
  assert capped(2) == pytest.approx(_server(loud, loud))
  assert capped(3) == pytest.approx(_server(loud, loud, _round(_EVENT)))
  assert capped(5) == capped(99) == pytest.approx(capped(None))


def test_worst_participations_of_skellam_rounds() -> None:
  """All rounds' noise is near a Gaussian's: a little more than three rounds."""
  rounds = [_round(_SKELLAM)] * 7
  found = accounting.server_epsilon(rounds, 1e-5, 3).value
  assert _server(*rounds[:3]) < found < 1.001 * _server(*rounds[:3])
  little = dataclasses.replace(_SKELLAM, share_stddev=2.0, l2_sensitivity=20.0)
  rounds = [_round(little)] * 7
  found = accounting.server_epsilon(rounds, 1e-5, 3).value
  assert found == pytest.approx(_server(*rounds[:3]))


_rounds = st.lists(
  st.builds(
    lambda mechanism, shares, sampling: _round(
      dataclasses.replace(_EVENT, mechanism=mechanism, client_shares=shares),
      sampling=sampling,
    ),
    st.sampled_from(['distributed_dgauss', 'distributed_skellam']),
    st.sampled_from([100, 90]),
    st.sampled_from([_POISSON, _FIXED, _NONE]),
  ),
  min_size=1,
  max_size=8,
)


@hypothesis.given(_rounds)
@hypothesis.settings(max_examples=25)
def test_accountant_gives_the_numbers_of_the_functions(
  rounds: list[accounting.Round],
) -> None:
  account = accounting.Accountant(1e-5)
  before = 0.0
  for number, a_round in enumerate(rounds, 1):
    account = account.with_round(a_round)
    found = account.release()
    assert account.rounds == number
    assert found == accounting.release_epsilon(rounds[:number], 1e-5)
    assert account.server() == accounting.server_epsilon(rounds[:number], 1e-5)
    assert account.server(2) == accounting.server_epsilon(
      rounds[:number], 1e-5, 2
    )
    assert found.value >= before * (1 - 1e-3)
    assert found.value <= account.server().value * 1.001
    before = found.value


def test_accountant_is_left_as_it_was() -> None:
  account = accounting.Accountant(1e-5).with_round(_round(_EVENT), 3)
  before = account.release()
  later = account.with_round(_round(_EVENT))
  assert later.release().value > before.value
  assert account.release() == before
  assert (account.rounds, later.rounds) == (3, 4)


def test_epsilon_falls_with_delta() -> None:
  rounds = [_round(_EVENT)] * 50
  values = [_release(*rounds, delta=10.0**-k) for k in range(1, 12)]
  assert np.all(np.diff(values) > 0.0)


@pytest.mark.parametrize(
  'mechanism', ['distributed_dgauss', 'distributed_skellam']
)
def test_rounds_add_up_however_often_they_are_read(mechanism: str) -> None:
  """The oracle adds the costs of all rounds, one by one."""
  rounds = [
    _round(
      dataclasses.replace(
        _EVENT, mechanism=mechanism, client_shares=90 + 7 * number**2 % 10
      )
    )
    for number in range(40)
  ]
  account = accounting.Accountant(1e-5)
  for number, a_round in enumerate(rounds, 1):
    account = account.with_round(a_round)
    if number % 3 == 0:
      account.server()
    total = sum((costs.round_cost(r, 'server') for r in rounds[:number]), _FREE)
    assert account.server().value == pytest.approx(
      conversion.best(total, 1e-5).value, rel=1e-12
    )


@pytest.mark.parametrize('distinct', [1, 100])
def test_reading_after_each_round_is_quick(distinct: int) -> None:
  """Typically well below 5 ms; the median leaves slow machines a margin."""
  rounds = [
    _round(dataclasses.replace(_EVENT, client_shares=100 + number))
    for number in range(distinct)
  ]
  account, times = accounting.Accountant(1e-5), []
  for a_round in rounds:
    account = account.with_round(a_round, 1900 // distinct)
  for number in range(100):
    start = time.perf_counter()
    account = account.with_round(rounds[number % distinct])
    account.release()
    account.server()
    times.append(time.perf_counter() - start)
  assert np.median(times) < 0.02


@pytest.mark.parametrize('delta', [0.0, 1.0, -0.1, float('nan'), 2.0])
def test_delta_outside_the_unit_interval_is_refused(delta: float) -> None:
  with pytest.raises(ValueError, match=r'`delta` must be (in|finite)'):
    accounting.Accountant(delta)
  with pytest.raises(ValueError, match='below one over the population'):
    accounting.release_epsilon([], delta)


def test_two_relations_do_not_compose() -> None:
  with pytest.raises(ValueError, match='Two relations do not compose'):
    accounting.release_epsilon(
      [_round(_EVENT), _round(_EVENT, sampling=_SUBSTITUTION)], 1e-5
    )


def test_other_arguments_are_refused() -> None:
  account = accounting.Accountant(1e-5)
  with pytest.raises(TypeError, match=r'must be a Round\. Found .*sampling='):
    account.with_round(_EVENT)  # type: ignore[arg-type]
  with pytest.raises(ValueError, match='`count` must be at least 1'):
    account.with_round(_round(_EVENT), 0)
  with pytest.raises(ValueError, match=r'`max_participations`.*at least 0'):
    account.server(-1)
  with pytest.raises(TypeError, match=r'`max_participations`.*an integer'):
    account.server(2.5)  # type: ignore[arg-type]


_WAIVER = accounting.Waiver('count is exact', 'somebody', 'it is public')


@pytest.mark.parametrize(
  'sampling', [accounting.NoSampling(), accounting.PoissonSampling(0.01)]
)
@pytest.mark.parametrize(
  'mechanism', ['distributed_dgauss', 'distributed_skellam']
)
def test_a_waiver_costs_nothing_and_is_told_with_every_epsilon(
  mechanism: str, sampling: accounting.Sampling
) -> None:
  event = accounting.NoisedSumEvent(mechanism, 100.0, 40.0, 20, 64)
  plain = accounting.Round((event,), sampling)
  waived = accounting.Round((event, _WAIVER), sampling)
  for read in (
    lambda account: account.release(),
    lambda account: account.server(),
    lambda account: account.server(1),
  ):
    without = read(accounting.Accountant(1e-5).with_round(plain, 3))
    epsilon = read(
      accounting.Accountant(1e-5).with_round(waived, 2).with_round(plain)
    )
    assert epsilon.value == pytest.approx(without.value)
    assert (without.waivers, epsilon.waivers) == ((), (_WAIVER,))


def test_a_waiver_hides_no_other_reason() -> None:
  unknown = accounting.UnaccountedEvent(('loss is exact',))
  a_round = accounting.Round((_WAIVER, unknown), accounting.NoSampling())
  for read in (accounting.release_epsilon, accounting.server_epsilon):
    found = read([a_round], 1e-5)
    assert found == accounting.Epsilon(math.inf, ('loss is exact',), (_WAIVER,))
