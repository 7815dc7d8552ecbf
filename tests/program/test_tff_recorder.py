# SPDX-License-Identifier: Apache-2.0
"""TFF's own factories: each round costs what was really in it.

The oracle is TFF itself: its formulas, and the state that its rounds return.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import pathlib
from typing import Any

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_federated.python.aggregators import (
  discretization,
  distributed_dp,
)

from tests.program import conftest
from tff_secagg_ext import accounting, ledger, program, recorded
from tff_secagg_ext._compat import tff
from tff_secagg_ext.program import tff_factories, tff_terms
from tff_secagg_ext.program.tff_factories import Distributed

CLIENTS = 10
Z = 0.5
BIT_STDDEV = 0.05 * CLIENTS
DELTA = 1e-3
ELEMENTS, PADDED = 5, 8
NONE = accounting.NoSampling()
SEEDS = 'noise seeds are time stamps'
UNUSED = 'a secure sum without noise: int32'
BIT = 'clip quantile bit is noised by the server'
WAIVED = [accounting.Waiver(SEEDS, 'A. Reviewer', 'what would the law give?')]
Dp = tff.aggregators.DifferentiallyPrivateFactory

FACTORIES: dict[str, Any] = {
  'ddp': lambda: tff.learning.ddp_secure_aggregator(
    Z, CLIENTS, bits=16, zeroing=False
  ),
  'ddp, zeroing': lambda: tff.learning.ddp_secure_aggregator(Z, CLIENTS),
  'dgauss': lambda: distributed_dp.DistributedDpSumFactory(
    Z,
    CLIENTS,
    12,
    0.1,
    mechanism='distributed_dgauss',
    rotation_type='hd',
  ),
  'fixed': lambda: Dp.gaussian_fixed(Z, CLIENTS, 0.1),
  'adaptive': lambda: Dp.gaussian_adaptive(Z, CLIENTS),
  'dp': lambda: tff.learning.dp_aggregator(Z, float(CLIENTS)),
}


@functools.cache
def built(name: str) -> tuple[Any, Any]:
  """A factory and a process that was built with it."""
  factory = FACTORIES[name]()
  return conftest.build(factory), factory


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
  return tmp_path / 'runs.db'


def record(name: str, path: Any, **kwargs: Any) -> Any:
  process, factory = built(name)
  kwargs = {'run': 'a', 'sampling': NONE, 'delta': DELTA, **kwargs}
  return recorded(process, factory, ledger=path, **kwargs)


def show(path: pathlib.Path) -> dict[str, Any]:
  with ledger.Ledger.open(path) as opened:
    return opened.show('a')


def charges(path: pathlib.Path) -> list[Any]:
  """What each round was charged with in the end."""
  texts = [
    json.dumps(r['attempts'][-1]['charge']) for r in show(path)['rounds']
  ]
  return [accounting.from_json(text) for text in texts]


def run(
  recorder: Any, data: list[Any], rounds: int, state: Any = None
) -> list[Any]:
  """Runs rounds, and returns the states that each began in, and the last."""
  states = [recorder.initialize() if state is None else state]
  for _ in range(rounds):
    states.append(recorder.next(states[-1], data).state)
  return states


def query_state(aggregator: Any) -> Any:
  """The state of the distributed query, wherever it is."""
  if hasattr(aggregator, 'query_state'):
    return aggregator.query_state
  children = aggregator
  if isinstance(aggregator, dict):
    children = aggregator.values()
  if not isinstance(children, (tuple, list)) and children is aggregator:
    return None
  found = (query_state(child) for child in children)
  return next((each for each in found if each is not None), None)


# What a round costs.


@pytest.mark.parametrize('name', ['ddp', 'ddp, zeroing', 'dgauss'])
def test_a_round_is_charged_with_the_noise_of_the_state_it_began_in(
  name: str, path: pathlib.Path, data: list[Any]
) -> None:
  states = run(record(name, path), data[:CLIENTS], 3)
  found = [charge.events[0] for charge in charges(path)]
  for event, state in zip(found, states, strict=False):
    query = query_state(state.aggregator)
    stddev = float(query.local_stddev)
    if name == 'dgauss':
      stddev = math.ceil(stddev)
    assert event.l2_sensitivity == pytest.approx(float(query.l2_norm_bound))
    assert event.share_stddev == pytest.approx(stddev)
    assert (event.client_shares, event.dimension) == (CLIENTS, PADDED)
  multipliers = {e.share_stddev / e.l2_sensitivity for e in found}
  assert len(multipliers) == (1 if name == 'dgauss' else 3)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
  clip=st.floats(1e-4, 1e3),
  bits=st.integers(8, 22),
  clients=st.integers(1, 60),
  elements=st.integers(1, 2**20),
  z=st.floats(0.0, 10.0),
  beta=st.sampled_from([0.0, math.exp(-0.5)]),
)
def test_the_numbers_of_a_round_are_those_of_tff(
  clip: float, bits: int, clients: int, elements: int, z: float, beta: float
) -> None:
  num_stddevs = 3.8905921
  found = Distributed(
    z, clients, bits, 0.1, num_stddevs, beta, 'distributed_skellam', 'hd', None
  ).numbers(elements, clip)
  padded = 2 ** math.ceil(math.log2(elements))
  local_stddev = z * clip / math.sqrt(clients)
  scale = min(
    float(
      distributed_dp._heuristic_scale_factor(
        local_stddev, clip, bits, clients, padded, num_stddevs
      )
    ),
    distributed_dp.MAX_SCALE_FACTOR,
  )
  inflated = float(
    discretization.inflated_l2_norm_bound(clip, 1.0 / scale, beta, padded)
  )
  assert found == pytest.approx(
    {
      'l2_clip': clip,
      'scale_factor': scale,
      'scaled_inflated_l2': (inflated + 1e-5) * scale,
      'scaled_local_stddev': local_stddev * scale,
      'padded_dim': padded,
    },
    rel=1e-5,
  )


def test_rounding_to_few_bits_takes_half_of_the_noise_multiplier() -> None:
  noise = tff_factories.read(FACTORIES['dgauss']()).noise
  assert isinstance(noise, Distributed)

  def multiplier(elements: int) -> float:
    numbers = noise.numbers(elements, noise.l2_clip)
    central = numbers['scaled_local_stddev'] * math.sqrt(CLIENTS)
    return central / numbers['scaled_inflated_l2']

  assert 0.95 * Z < multiplier(PADDED) < Z
  assert multiplier(2**20) < 0.55 * Z


def test_the_cap_of_the_scale_takes_noise_as_the_clip_norm_falls() -> None:
  noise = tff_factories.read(FACTORIES['ddp, zeroing']()).noise
  assert isinstance(noise, Distributed)
  numbers = [noise.numbers(PADDED, clip) for clip in (0.1, 1e-4)]
  assert numbers[0]['scale_factor'] < tff_factories.MAX_SCALE
  assert numbers[1]['scale_factor'] == tff_factories.MAX_SCALE
  found = [n['scaled_local_stddev'] / n['scaled_inflated_l2'] for n in numbers]
  assert found[1] < 0.9 * found[0]


def test_dropouts_take_their_noise_with_them(
  path: pathlib.Path, data: list[Any]
) -> None:
  recorder = record('dgauss', path)
  state = run(recorder, data[:CLIENTS], 1)[-1]
  run(recorder, data[: CLIENTS // 2], 1, state)
  full, half = charges(path)
  assert full.events[0].client_shares == CLIENTS
  assert half.events[0].client_shares == CLIENTS // 2
  epsilons = [
    accounting.release_epsilon([charge], DELTA).value for charge in (full, half)
  ]
  assert 1.3 * epsilons[0] < epsilons[1] < math.inf


@pytest.mark.parametrize('name', ['fixed', 'adaptive'])
def test_noise_of_the_server_is_all_there_whoever_drops_out(
  name: str, path: pathlib.Path, data: list[Any]
) -> None:
  run(record(name, path), data[:3], 2)
  found = charges(path)
  assert found[0] == found[1]
  # [ATMR21, Thm 1]: sum and bits together are the stated noise multiplier.
  expected = accounting.Round(
    (accounting.CentralGaussianEvent(1.0, Z, 'all'),), NONE
  )
  epsilons = [
    accounting.release_epsilon([charge, charge], DELTA).value
    for charge in (found[0], expected)
  ]
  assert epsilons[0] == pytest.approx(epsilons[1], rel=1e-5)


# What else leaves a round.


REASONS: dict[str, tuple[set[str], set[str]]] = {
  'ddp': ({SEEDS}, {BIT, UNUSED}),
  'ddp, zeroing': (
    {SEEDS, 'zeroing quantile is exact', 'aggregator.zeroed_count is exact'},
    {BIT, UNUSED},
  ),
  'dgauss': (set(), {UNUSED}),
  'fixed': (set(), {'sum of clipped updates is noised by the server'}),
  'adaptive': (set(), {'sum of clipped updates is noised by the server', BIT}),
  'dp': (
    {'zeroing quantile is exact', 'aggregator.zeroed_count is exact'},
    {'sum of clipped updates is noised by the server', BIT},
  ),
}


@pytest.mark.parametrize('name', REASONS)
def test_each_reason_is_named_in_the_view_that_it_is_for(
  name: str, path: pathlib.Path, data: list[Any]
) -> None:
  run(record(name, path), data[:CLIENTS], 1)
  shown = show(path)
  in_both, in_server = REASONS[name]
  assert set(shown['release_reasons']) == in_both
  assert set(shown['server_reasons']) == in_both | in_server
  assert (shown['release_epsilon'] is None) == bool(in_both)
  assert shown['server_epsilon'] is None
  seen = shown['settings'].get('seen_by_server', [])
  assert seen == [UNUSED] * (UNUSED in in_server)


def test_metrics_of_clients_are_named(path: pathlib.Path) -> None:
  factory = FACTORIES['fixed']()
  process = conftest.build(factory, metrics_aggregator=None)
  recorder = recorded(
    process, factory, ledger=path, run='a', sampling=NONE, delta=DELTA
  )
  assert set(recorder.account.terms.releases.unaccounted) == {
    f'client_work.train.{name} is exact' for name in conftest.METRICS
  }


def test_what_is_zeroed_by_a_constant_is_counted_exactly(
  path: pathlib.Path,
) -> None:
  factory = tff.aggregators.zeroing_factory(1.0, FACTORIES['fixed']())
  recorder = recorded(
    conftest.build(factory),
    factory,
    ledger=path,
    run='a',
    sampling=NONE,
    delta=DELTA,
  )
  found = recorder.account.terms.releases
  assert found.unaccounted == ('aggregator.zeroed_count is exact',)
  assert found.dimension == ELEMENTS


def test_tree_aggregation_is_infinite_by_name(
  path: pathlib.Path, data: list[Any]
) -> None:
  shapes = [tf.TensorSpec([4, 1]), tf.TensorSpec([1])]
  factory = Dp.tree_aggregation(Z, CLIENTS, 0.1, shapes)
  recorder = recorded(
    conftest.build(factory),
    factory,
    ledger=path,
    run='a',
    sampling=NONE,
    delta=DELTA,
  )
  run(recorder, data[:CLIENTS], 1)
  reason = 'TreeResidualSumQuery is not accounted'
  assert show(path)['release_reasons'] == [reason]
  assert show(path)['server_reasons'] == [reason]


def test_another_sum_of_the_records_is_infinite_by_name() -> None:
  factory = Dp(
    FACTORIES['fixed']()._query,
    tff.aggregators.SecureSumFactory(1.0),
  )
  noise = tff_factories.read(factory).noise
  assert noise == tff_factories.Unknown(
    'DifferentiallyPrivateFactory over SecureSumFactory'
  )


def test_waivers_show_what_the_law_of_the_noise_would_give(
  path: pathlib.Path, data: list[Any]
) -> None:
  run(record('ddp', path, allow_unaccounted=WAIVED), data[:CLIENTS], 2)
  shown = show(path)
  expected = accounting.release_epsilon(charges(path), DELTA)
  assert expected.reasons == ()
  assert shown['release_epsilon'] == pytest.approx(expected.value)
  assert [waiver['name'] for waiver in shown['waivers']] == [SEEDS]
  assert set(shown['server_reasons']) == {BIT, UNUSED}


def test_what_only_the_server_sees_can_be_waived(
  path: pathlib.Path, data: list[Any]
) -> None:
  waiver = accounting.Waiver(UNUSED, 'A. Reviewer', 'the sums are secret')
  run(record('dgauss', path, allow_unaccounted=[waiver]), data[:CLIENTS], 1)
  shown = show(path)
  assert shown['server_epsilon'] == shown['release_epsilon']
  assert [each['name'] for each in shown['settings']['waived']] == [UNUSED]


def test_seeds_are_found_in_a_sum_one_by_one() -> None:
  """Why a waiver is needed: docs/accounting.md, section 8."""
  elements, stddev, now = 4096, 50.0, 1_700_000_000_000_000
  seeds = [now + 17, now + 230, now + 404, now + 977]

  def noise(seed: int) -> Any:
    # As `DistributedSkellamSumQuery` draws it, for a time stamp.
    rate = np.float64(0.5 * stddev**2)
    draws = tf.random.stateless_poisson(
      [elements, 2], seed=[seed, 0], lam=[rate, rate], dtype=tf.int64
    )
    return (draws[:, 0] - draws[:, 1]).numpy().astype(np.float64)

  updates = np.random.default_rng(0).integers(-20, 21, [4, elements])
  total = updates.sum(axis=0) + sum(noise(seed) for seed in seeds)
  unit = np.linalg.norm(total) * stddev
  scores = [total @ noise(now + tried) / unit for tried in range(1000)]
  assert sorted(np.argsort(scores)[-4:] + now) == seeds
  # They stand out by sqrt(d / n) standard deviations, less for the updates.
  others = np.sort(scores)[:-4]
  assert min(scores[seed - now] for seed in seeds) > 25.0 * others.std()


# Sampling.


def test_the_servers_noise_is_amplified_by_poisson_sampling(
  path: pathlib.Path, data: list[Any]
) -> None:
  sampling = accounting.PoissonSampling(0.1)
  run(record('adaptive', path, sampling=sampling), data[:3], 2)
  assert [charge.sampling for charge in charges(path)] == [sampling] * 2
  assert show(path)['release_epsilon'] == pytest.approx(
    accounting.release_epsilon(charges(path), DELTA).value
  )


def test_allocated_cohorts_are_refused(path: pathlib.Path) -> None:
  with pytest.raises(ValueError, match='must not be RandomAllocation'):
    record('adaptive', path, sampling=accounting.RandomAllocation(1, 10))


@pytest.mark.parametrize('name', ['ddp', 'dgauss', 'dp'])
def test_released_counts_refuse_poisson_sampling(
  name: str, path: pathlib.Path
) -> None:
  with pytest.raises(
    ValueError, match='must not be PoissonSampling where the number of clients'
  ):
    record(name, path, sampling=accounting.PoissonSampling(0.1))


def test_cohorts_of_another_size_than_claimed_are_not_amplified(
  path: pathlib.Path, data: list[Any]
) -> None:
  claim = accounting.FixedSizeSampling(CLIENTS, 100)
  recorder = record('dgauss', path, sampling=claim)
  run(recorder, data[:CLIENTS], 1)
  run(recorder, data[: CLIENTS - 1], 1)
  assert [charge.sampling for charge in charges(path)] == [claim, NONE]


# The guarantees of the recorder hold.


def broken(data: list[Any]) -> list[Any]:
  """Data of which one client's cannot be read."""

  def fail(batch: Any) -> Any:
    with tf.control_dependencies([tf.debugging.Assert(False, ['unreadable'])]):
      return {name: tf.identity(value) for name, value in batch.items()}

  ordered = data[0].map(lambda batch: type(batch)(fail(batch)))
  return [ordered, *data[1:]]


def test_a_lost_round_is_charged_with_the_clip_norm_that_it_began_with(
  path: pathlib.Path, data: list[Any]
) -> None:
  recorder = record('ddp', path)
  *_, state = run(recorder, data[:CLIENTS], 2)
  with pytest.raises(program.WithheldError):
    recorder.next(state, broken(data[:CLIENTS]))
  shown = show(path)
  assert [a['status'] for r in shown['rounds'] for a in r['attempts']] == [
    'committed',
    'committed',
    'lost',
  ]
  event = charges(path)[-1].events[0]
  query = query_state(state.aggregator)
  assert event.l2_sensitivity == pytest.approx(float(query.l2_norm_bound))


def test_a_round_whose_state_cannot_be_read_is_reserved_at_infinity(
  path: pathlib.Path, data: list[Any]
) -> None:
  recorder = record('ddp', path, allow_unaccounted=WAIVED)
  charge = recorder.account.reserve(CLIENTS, state=object()).charge
  assert charge.events[0].reasons == (tff_terms.CLIP_IS_UNKNOWN,)
  assert math.isinf(accounting.release_epsilon([charge], DELTA).value)


def test_references_wait_until_the_round_is_committed(
  path: pathlib.Path, data: list[Any]
) -> None:
  recorder = record('ddp', path, allow_unaccounted=WAIVED)

  async def rounds() -> None:
    context = tff.program.NativeFederatedContext(
      tff.backends.test.create_async_test_cpp_execution_context()
    )
    with tff.framework.get_context_stack().install(context):
      state = recorder.initialize()
      for _ in range(2):
        state = recorder.next(state, data[:CLIENTS]).state
        await tff.program.materialize_value(state)

  asyncio.run(rounds())
  found = show(path)['rounds']
  assert [r['attempts'][0]['status'] for r in found] == ['committed'] * 2
  assert show(path)['release_epsilon'] is not None


def test_a_budget_refuses_the_round_that_would_pass_it(
  path: pathlib.Path, data: list[Any]
) -> None:
  one = accounting.Round((accounting.CentralGaussianEvent(1.0, Z, 'x'),), NONE)
  spent = accounting.release_epsilon([one, one], DELTA).value
  budget = accounting.Budget(spent * 1.05, DELTA)
  recorder = record('fixed', path, budget=budget)
  state = run(recorder, data[:CLIENTS], 2)[-1]
  with pytest.raises(accounting.BudgetExceeded):
    recorder.next(state, data[:CLIENTS])
  assert len(show(path)['rounds']) == 2


def test_the_ledger_has_the_numbers_and_what_is_taken_for_granted(
  path: pathlib.Path, data: list[Any]
) -> None:
  run(record('ddp', path), data[:CLIENTS], 1)
  shown = show(path)
  settings = shown['settings']['aggregator']
  assert settings['tff'] == 'distributed'
  assert settings['mechanism'] == 'distributed_skellam'
  assert settings['bit_stddev'] == pytest.approx(BIT_STDDEV)
  assert any('norms are as float32' in each for each in settings['assumed'])
  measured = shown['rounds'][0]['measurements']
  assert measured['actual_num_clients'] == CLIENTS
  assert measured['l2_clip'] == pytest.approx(0.1)


# Bad input.


def test_other_factories_are_refused(path: pathlib.Path) -> None:
  process, _ = built('fixed')
  for factory in (
    tff.aggregators.SumFactory(),
    tff.learning.add_debug_measurements(FACTORIES['fixed']()),
    'factory',
  ):
    with pytest.raises(TypeError, match='`factory` must be what'):
      recorded(
        process, factory, ledger=path, run='a', sampling=NONE, delta=DELTA
      )


@pytest.mark.parametrize('name', ['adaptive', 'dp', 'dgauss'])
def test_a_process_of_another_factory_is_refused(
  name: str, path: pathlib.Path
) -> None:
  process, _ = built('fixed')
  with pytest.raises(ValueError, match='aggregator must be those of `factory`'):
    recorded(
      process,
      FACTORIES[name](),
      ledger=path,
      run='a',
      sampling=NONE,
      delta=DELTA,
    )


@pytest.mark.parametrize(
  ('name', 'other'),
  [
    ('fixed', lambda: Dp.gaussian_fixed(2.0 * Z, CLIENTS, 0.1)),
    ('adaptive', lambda: Dp.gaussian_adaptive(0.9 * Z, CLIENTS)),
    (
      'ddp',
      lambda: tff.learning.ddp_secure_aggregator(
        0.9 * Z, CLIENTS, bits=16, zeroing=False
      ),
    ),
    (
      'dgauss',
      lambda: distributed_dp.DistributedDpSumFactory(
        Z,
        CLIENTS,
        12,
        0.2,
        mechanism='distributed_dgauss',
        rotation_type='hd',
      ),
    ),
  ],
)
def test_a_factory_of_other_numbers_is_found_out_and_nothing_is_returned(
  name: str, other: Any, path: pathlib.Path, data: list[Any]
) -> None:
  process, _ = built(name)
  recorder = recorded(
    process, other(), ledger=path, run='a', sampling=NONE, delta=DELTA
  )
  with pytest.raises(
    program.MeasurementError, match=r'measured \w+ must be .*built with'
  ):
    recorder.next(recorder.initialize(), data[:CLIENTS])
  assert 'The measured' in show(path)['release_reasons'][0]


def test_numbers_that_cannot_be_are_refused(path: pathlib.Path) -> None:
  terms = record('ddp', path).account.terms
  sound = {
    **terms.aggregator.noise.numbers(PADDED, 0.1),
    'actual_num_clients': 9,
  }
  for changes, match in (
    ({'l2_clip': math.nan}, 'clip norm must be above 0 and finite'),
    ({'actual_num_clients': 11}, 'At most 10 clients can have contributed'),
    ({'actual_num_clients': math.nan}, 'At most 10 clients can have'),
    ({'bit_stddev': math.nan}, 'measured bit_stddev must be'),
  ):
    with pytest.raises(program.MeasurementError, match=match):
      terms.happened(CLIENTS, NONE, {**sound, **changes})


def test_noised_metrics_are_refused(
  path: pathlib.Path, aggregator: Any
) -> None:
  process, factory = built('fixed')
  with pytest.raises(ValueError, match='`metrics` must be None'):
    program.PrivacyRecorder(
      process,
      tff_terms.TffAggregation(factory),
      metrics=conftest.noised_metrics(aggregator),
      ledger=path,
      run='a',
      sampling=NONE,
      delta=DELTA,
    )


def test_a_round_without_contributors_releases_nothing(
  path: pathlib.Path,
) -> None:
  terms = record('dgauss', path).account.terms
  measured = {
    **terms.aggregator.noise.numbers(PADDED, 0.1),
    'actual_num_clients': np.int32(0),
  }
  charge = terms.happened(0, NONE, measured)
  assert charge == accounting.Round((), NONE)
