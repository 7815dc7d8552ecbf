# SPDX-License-Identifier: Apache-2.0
"""Random allocation: exact integrals, Monte Carlo, and epochs that run."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from tests.oracles import accounting as oracle
from tff_secagg_ext import accounting
from tff_secagg_ext.accounting import allocation, pld, profiles

_LEVELS = (0.0, 0.05, 0.3, 1.0, 2.5, 5.0)


def _divergences(m: float, rounds: int, level: float) -> tuple[float, float]:
  profile = allocation.profile(m, rounds)
  levels = np.array([level])
  forward, backward = (profile.excess(levels, r)[0] for r in (False, True))
  return float(forward), float(backward)


@pytest.mark.parametrize('rounds', [2, 3])
@pytest.mark.parametrize('m', [0.2, 1.0, 2.0])
def test_profiles_are_those_of_exact_integrals(m: float, rounds: int) -> None:
  """Never below, in either direction, and above by at most 1 %."""
  for level in _LEVELS:
    found = _divergences(m, rounds, level)
    exact = oracle.allocated_divergences(m, 1, rounds, level)
    for one, other in zip(found, exact, strict=True):
      assert one >= other - 1e-12
      assert one <= other * 1.01 + 1e-9


def test_one_round_is_the_round_itself() -> None:
  assert allocation.profile(1.0, 1) == profiles.Profile('poisson', 1.0, 1.0)
  levels = np.array(_LEVELS)
  law = allocation.law(1.0, 1)
  exact = profiles.gaussian(1.0, levels)
  found = np.interp(np.exp(levels), law.values, law.above)
  assert found == pytest.approx(exact, rel=1e-2)
  assert np.all(found >= exact * (1.0 - 1e-12))


def test_too_little_noise_claims_no_amplification() -> None:
  m = 1.01 * allocation.LARGEST_RATIO
  assert allocation.profile(m, 34) == profiles.Profile('poisson', m, 1.0)


@pytest.mark.parametrize('m', [0.5, 1.0])
def test_long_epochs_by_monte_carlo(m: float) -> None:
  """34 rounds, 400,000 epochs; five standard errors: false alarm below 1e-5."""
  generator = np.random.default_rng(7)
  g = generator.normal(size=(400_000, 34))
  ratios = np.exp(m * g - m * m / 2.0).mean(axis=1)
  for level in (0.0, 0.1, 0.3):
    a = math.exp(level)
    samples = (np.maximum(ratios - a, 0.0), np.maximum(1.0 - a * ratios, 0.0))
    for found, sample in zip(_divergences(m, 34, level), samples, strict=True):
      error = 5.0 * sample.std() / math.sqrt(sample.size)
      assert abs(found - sample.mean()) <= error


@given(
  m=st.floats(0.1, 2.0),
  ends=st.tuples(st.floats(0.05, 1.0), st.floats(0.05, 1.0)),
  threshold=st.floats(-2.0, 2.0),
  level=st.sampled_from(_LEVELS),
)
@settings(max_examples=60, deadline=None)
def test_no_adaptive_run_is_worse(
  m: float, ends: tuple[float, float], threshold: float, level: float
) -> None:
  """Vectors that are chosen by what the first round has released."""

  def second(g: oracle.FloatArray) -> oracle.FloatArray:
    return m * np.where(g < threshold, *ends)

  found = _divergences(m, 2, level)
  exact = oracle.adaptive_pair_divergences(m, second, level)
  assert found[0] >= exact[0] - 1e-9
  assert found[1] >= exact[1] - 1e-9


@pytest.mark.parametrize(('participations', 'rounds'), [(2, 4), (3, 4), (2, 3)])
@pytest.mark.parametrize('m', [0.4, 1.0])
def test_several_participations_are_at_most_as_many_blocks(
  participations: int, rounds: int, m: float
) -> None:
  """At the epsilon that is told, the exact divergences are at most delta."""
  profile = allocation.profile(m, rounds // participations)
  composed = pld.Composition().then(profile, participations)
  for delta in (1e-2, 1e-4, 1e-6):
    epsilon = composed.epsilon(delta)
    exact = oracle.allocated_divergences(m, participations, rounds, epsilon)
    assert max(exact) <= delta * (1.0 + 1e-9)
    # A client that is in as many rounds for sure has more.
    assert epsilon <= pld.Composition().then(
      profiles.Profile('poisson', m, 1.0), participations
    ).epsilon(delta) * (1.0 + 1e-3)


@pytest.mark.parametrize('m', [1e-3, 0.1, 1.0, 8.0])
@pytest.mark.parametrize('rounds', [2, 34, 1000])
def test_both_directions_are_one_pair(m: float, rounds: int) -> None:
  """H_a(P, Q) = 1 - a + a H_{1/a}(Q, P), and the mean of L is 1."""
  law = allocation.law(m, rounds)
  mean = (law.values * law.masses).sum() + law.infinite
  assert mean == pytest.approx(1.0, rel=1e-9)
  assert law.masses.sum() == pytest.approx(1.0, rel=1e-9)
  assert law.infinite < 1e-15 and law.masses[0] < 1e-15
  assert law.above - law.below == pytest.approx(1.0 - law.values, rel=1e-6)
  profile = allocation.profile(m, rounds)
  levels = np.linspace(-2.0, 2.0, 81) * m
  forward = profile.excess(levels, False)
  backward = profile.excess(-levels, True)
  assert forward == pytest.approx(np.exp(levels) * backward, rel=1e-9)


@pytest.mark.parametrize(
  ('m', 'rounds', 'delta', 'low', 'high'),
  [
    (1.0, 34, 1e-5, 1.1978588935451835, 1.705087211139153),
    (1.0, 34, 1e-3, 0.4988849490863258, 0.9375588468078044),
    (0.5, 100, 1e-6, 0.08182051353290622, 0.3159610362411909),
  ],
)
def test_it_is_between_the_bounds_of_the_authors(
  m: float, rounds: int, delta: float, low: float, high: float
) -> None:
  """'lower_bound' and 'combined' of random-allocation 1.0.5 [FS25]."""
  profile = allocation.profile(m, rounds)
  assert low < pld.Composition().then(profile, 1).epsilon(delta) < high


@pytest.mark.parametrize('rounds', [10, 34, 100])
@pytest.mark.parametrize('m', [0.5, 1.0, 2.0])
def test_it_amplifies_at_least_as_poisson_cohorts_do(
  m: float, rounds: int
) -> None:
  """As [FS26, arXiv 2602.17284] finds for Gaussian noise."""
  delta = 1e-5
  for epochs in (1, 10):
    allocated = pld.Composition().then(allocation.profile(m, rounds), epochs)
    poisson = pld.Composition().then(
      profiles.Profile('poisson', m, 1.0 / rounds), epochs * rounds
    )
    assert allocated.epsilon(delta) <= poisson.epsilon(delta) * (1.0 + 1e-3)


def _round(
  claim: accounting.Sampling, shares: int = 100, **kwargs: int
) -> accounting.Round:
  event = accounting.NoisedSumEvent(
    'distributed_dgauss', 30_005.0, 3000.5, shares, 2**20, **kwargs
  )
  return accounting.Round((event,), claim)


_DELTA = 1 / 3400


def test_emnist_like_epochs() -> None:
  """5.80 for 45 epochs of 34 rounds, where Poisson cohorts have 6.04."""
  allocated = [_round(accounting.RandomAllocation(1, 34))] * 1530
  poisson = [_round(accounting.PoissonSampling(1 / 34))] * 1530
  found = accounting.release_epsilon(allocated, _DELTA)
  assert found.accountant == 'pld'
  assert found.value == pytest.approx(5.801, abs=2e-3)
  other = accounting.release_epsilon(poisson, _DELTA).value
  assert other == pytest.approx(6.0396, abs=2e-3)


def test_the_server_sees_as_many_rounds_as_a_client_takes_part_in() -> None:
  claim = accounting.RandomAllocation(2, 20)
  allocated = accounting.server_epsilon([_round(claim)] * 100, _DELTA)
  plain = [_round(accounting.NoSampling())] * 100
  capped = accounting.server_epsilon(plain, _DELTA, max_participations=10)
  assert allocated.value == pytest.approx(capped.value, rel=1e-12)
  assert allocated.value < accounting.server_epsilon(plain, _DELTA).value


def test_of_each_epoch_the_worst_rounds_count_for_the_server() -> None:
  names = ('one', 'two')
  claims = [accounting.RandomAllocation(2, 5, name) for name in names]
  shares = ((100, 50, 80, 40, 100), (90, 30, 95, 95, 95))
  rounds = [
    _round(claim, n)
    for claim, each in zip(claims, shares, strict=True)
    for n in each
  ]
  worst = [_round(accounting.NoSampling(), n) for n in (40, 50, 30, 90)]
  found = accounting.server_epsilon(rounds, _DELTA).value
  expected = accounting.server_epsilon(worst, _DELTA).value
  assert found == pytest.approx(expected, rel=1e-12)
  # A cap below that leaves the worst of these.
  found = accounting.server_epsilon(rounds, _DELTA, 3).value
  expected = accounting.server_epsilon(worst, _DELTA, 3).value
  assert found == pytest.approx(expected, rel=1e-12)


@given(
  st.lists(
    st.tuples(st.sampled_from([60, 80, 100]), st.booleans()),
    min_size=1,
    max_size=24,
  )
)
@settings(max_examples=20, deadline=None)
def test_epsilon_never_falls_while_epochs_run(
  rounds: list[tuple[int, bool]],
) -> None:
  """Of any rounds, in both views, and the same however they are grouped."""
  account, before = accounting.Accountant(_DELTA), (0.0, 0.0)
  told = []
  for i, (shares, hidden) in enumerate(rounds):
    claim = accounting.RandomAllocation(2, 8, f'run/{i // 8}', hidden)
    told.append(_round(claim, shares))
    account = account.with_round(told[-1])
    after = (account.release().value, account.server().value)
    assert after[0] >= before[0] * (1.0 - 1e-3) and after[1] >= before[1]
    before = after
  assert account.release() == accounting.release_epsilon(told, _DELTA)
  assert account.server() == accounting.server_epsilon(told, _DELTA)


def test_an_epoch_is_charged_whole_from_its_first_round_on() -> None:
  claim = accounting.RandomAllocation(1, 34)
  values = [
    accounting.release_epsilon([_round(claim)] * rounds, _DELTA).value
    for rounds in (1, 34, 35, 68)
  ]
  assert values[0] == values[1] < values[2] == values[3]


def test_rounds_that_release_nothing_cost_nothing_but_their_place() -> None:
  claim = accounting.RandomAllocation(1, 4)
  nothing = accounting.Round((), claim)
  assert accounting.release_epsilon([nothing] * 9, _DELTA).value == 0.0
  rounds = [nothing, _round(claim), nothing, nothing, _round(claim)]
  assert accounting.release_epsilon(rounds, _DELTA).value == (
    accounting.release_epsilon([_round(claim)] * 8, _DELTA).value
  )


def test_an_epoch_that_was_not_hidden_is_not_amplified() -> None:
  hidden = accounting.RandomAllocation(2, 10, 'an epoch')
  shown = accounting.unclaimed(hidden)
  assert shown == accounting.RandomAllocation(2, 10, 'an epoch', False)
  rounds = [_round(hidden), _round(shown), _round(hidden)]
  found = accounting.release_epsilon(rounds, _DELTA).value
  certain = accounting.release_epsilon(
    [_round(accounting.NoSampling())] * 2, _DELTA
  ).value
  assert found == pytest.approx(certain, rel=1e-3)
  assert accounting.release_epsilon(rounds[:1], _DELTA).value < found


def test_the_least_noise_of_an_epoch_counts_for_all_of_it() -> None:
  claim = accounting.RandomAllocation(1, 10, 'an epoch')
  rounds = [_round(claim, 100), _round(claim, 60), _round(claim, 80)]
  found = accounting.release_epsilon(rounds, _DELTA).value
  least = accounting.release_epsilon([_round(claim, 60)], _DELTA).value
  assert found == pytest.approx(least, rel=1e-9)


def test_epochs_of_several_runs_do_not_mix() -> None:
  """Two runs in turn: each has its own epochs, both begun."""
  claims = [accounting.RandomAllocation(1, 4, name) for name in ('a', 'b')]
  mixed = [_round(claims[i % 2]) for i in range(4)]
  assert accounting.release_epsilon(mixed, _DELTA) == (
    accounting.release_epsilon(
      [_round(accounting.RandomAllocation(1, 4))] * 8, _DELTA
    )
  )


def test_skellam_noise_is_amplified_as_well() -> None:
  event = accounting.NoisedSumEvent(
    'distributed_skellam', 30_005.0, 3000.5, 100, 2**20
  )
  a_round = accounting.Round((event,), accounting.RandomAllocation(1, 34))
  found = accounting.release_epsilon([a_round] * 1530, _DELTA)
  assert 5.80 < found.value < 5.82


def test_noise_too_small_for_domination_counts_as_certain() -> None:
  def rounds(claim: accounting.Sampling) -> list[accounting.Round]:
    event = accounting.NoisedSumEvent('distributed_dgauss', 4.0, 0.5, 100, 1024)
    return [accounting.Round((event,), claim)]

  allocated = rounds(accounting.RandomAllocation(2, 10)) * 10
  certain = rounds(accounting.NoSampling()) * 2
  assert accounting.release_epsilon(allocated, 1e-5) == (
    accounting.release_epsilon(certain, 1e-5)
  )


def test_what_is_not_noised_stays_infinite() -> None:
  claim = accounting.RandomAllocation(1, 4)
  leak = accounting.UnaccountedEvent(('loss is exact',))
  rounds = [_round(claim), accounting.Round((leak,), claim)]
  for view in ('release', 'server'):
    found = accounting.epsilon(rounds, _DELTA, view)
    assert found.value == math.inf and found.reasons == ('loss is exact',)


def test_an_epoch_has_no_more_rounds_than_it_says() -> None:
  claim = accounting.RandomAllocation(1, 4, 'run/1')
  account = accounting.Accountant(_DELTA).with_round(_round(claim), 3)
  message = (
    "Epoch 'run/1' must have at most 4 rounds. Found 2 more, where 1 are"
  )
  with pytest.raises(ValueError, match=message):
    account.with_round(_round(claim), 2)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((0, 4), '`participations` must be'),
    ((5, 4), '`participations` must be at most 4'),
    ((1, 0), '`rounds` must be at least 1'),
  ],
)
def test_bad_allocations(arguments: tuple[int, int], message: str) -> None:
  with pytest.raises(ValueError, match=message):
    accounting.RandomAllocation(*arguments)


def test_bad_kinds() -> None:
  with pytest.raises(TypeError, match='`epoch` must be a string'):
    accounting.RandomAllocation(1, 4, 7)  # type: ignore[arg-type]
  with pytest.raises(TypeError, match='`hidden` must be True or False'):
    accounting.RandomAllocation(1, 4, 'a', 1)  # type: ignore[arg-type]
