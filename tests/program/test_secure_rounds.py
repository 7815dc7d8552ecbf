# SPDX-License-Identifier: Apache-2.0
"""Rounds in a secure context: what is charged, and what is on record."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import contextlib
import json
import pathlib
from typing import Any

import pytest

from tests.program import conftest
import tff_secagg_ext
from tff_secagg_ext import accounting, execution, ledger, program
from tff_secagg_ext._compat import tff
from tff_secagg_ext.program import terms

DELTA = 1e-5
CLIENTS = 10
SECURITY = execution.Security('curious', corrupt=0.2, dropout=0.3)
LOST = execution.Dropouts({'share': [1], 'mask': [4]})


@pytest.fixture(scope='module')
def aggregator() -> Any:
  return tff_secagg_ext.ddp_secure_aggregator(1.0, CLIENTS)


@pytest.fixture(scope='module')
def process(aggregator: Any) -> Any:
  return conftest.build(aggregator)


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
  return tmp_path / 'runs.db'


@contextlib.contextmanager
def installed(**options: Any) -> Iterator[None]:
  options = {
    'security': SECURITY,
    'dropouts': LOST,
    'min_contributors': 6,
    **options,
  }
  context = execution.create_secure_context(execution.SecureOptions(**options))
  with tff.framework.get_context_stack().install(context):
    yield


def record(process: Any, aggregator: Any, path: Any, **kwargs: Any) -> Any:
  kwargs = {'run': 'a', 'sampling': accounting.NoSampling(), **kwargs}
  return program.PrivacyRecorder(
    process, aggregator, ledger=path, delta=DELTA, **kwargs
  )


def show(path: pathlib.Path, **kwargs: Any) -> dict[str, Any]:
  with ledger.Ledger.open(path) as opened:
    return opened.show('a', **kwargs)


def attempts(path: pathlib.Path) -> list[dict[str, Any]]:
  shown = show(path, server_view=True)
  return [attempt for each in shown['rounds'] for attempt in each['attempts']]


def charged(attempt: dict[str, Any]) -> Any:
  return accounting.from_json(json.dumps(attempt['charge']))


def test_survivors_and_colluders_are_charged(
  process: Any, aggregator: Any, path: pathlib.Path, data: list[Any]
) -> None:
  with installed():
    recorder = record(process, aggregator, path)
    output = recorder.next(recorder.initialize(), data[:CLIENTS])
  measured = output.metrics['aggregator']
  assert measured['contributors'] == 8
  (attempt,) = attempts(path)
  (event,) = charged(attempt).events
  assert (event.client_shares, event.colluders) == (8, 2)
  # 8 shares of the 10 that the noise is sized for; 2 of them may be told.
  alone = accounting.Round((event,), accounting.NoSampling())
  shown = show(path)
  assert shown['server_epsilon'] == pytest.approx(
    accounting.server_epsilon([alone], DELTA).value
  )
  assert shown['server_epsilon'] > shown['release_epsilon']


def test_noised_metrics_are_summed_in_the_same_session(
  aggregator: Any, path: pathlib.Path, data: list[Any]
) -> None:
  metrics = conftest.noised_metrics(
    tff_secagg_ext.ddp_secure_aggregator(2.0, CLIENTS, bits=18)
  )
  process = conftest.build(aggregator, metrics_aggregator=metrics)
  with installed():
    recorder = record(process, aggregator, path, metrics=metrics)
    output = recorder.next(recorder.initialize(), data[:CLIENTS])
  assert output.metrics['client_work']['train']['num_batches'] < 100
  (attempt,) = attempts(path)
  model, noised = charged(attempt).events
  for event in (model, noised):
    assert (event.client_shares, event.colluders) == (8, 2)
  assert (model.dimension, noised.dimension) == (8, metrics.dimension)
  assert attempt['protocol']['survivors'] == 8


def test_the_ledger_has_the_session(
  process: Any, aggregator: Any, path: pathlib.Path, data: list[Any]
) -> None:
  with installed():
    recorder = record(process, aggregator, path)
    recorder.next(recorder.initialize(), data[:CLIENTS])
  (attempt,) = attempts(path)
  protocol = attempt['protocol']
  expected = {
    'threat': 'curious',
    'clients': CLIENTS,
    'survivors': 8,
    'dropouts': {'share': 1, 'mask': 1},
    'verified': None,
  }
  assert expected.items() <= protocol.items()
  assert 0 < protocol['threshold'] <= protocol['neighbors'] < CLIENTS
  assert protocol['expansion'] > 1
  assert protocol['upload_bytes'] > 0
  assert show(path)['rounds'][0]['attempts'][0]['protocol'] == {
    'threat': 'curious',
    'verified': None,
  }
  assert show(path)['settings']['secure_sums'] == {
    'protocol': 'secagg',
    'threat': 'curious',
    'corrupt': 0.2,
    'dropout': 0.3,
    'neighbors': None,
    'threshold': None,
    'verify': False,
    'min_contributors': 6,
    'clients': 'simulated in one process',
  }


def test_plain_sums_call_themselves_insecure(
  process: Any, aggregator: Any, path: pathlib.Path, data: list[Any]
) -> None:
  with installed(protocol='plain'):
    recorder = record(process, aggregator, path)
    recorder.next(recorder.initialize(), data[:CLIENTS])
  (attempt,) = attempts(path)
  assert attempt['protocol']['threat'] == 'plain'
  (event,) = charged(attempt).events
  assert (event.client_shares, event.colluders) == (8, 2)
  assert 'insecure' in show(path)['settings']['secure_sums']['secrecy']


def test_a_session_without_a_sum_is_lost_and_costs_nothing(
  process: Any, aggregator: Any, path: pathlib.Path, data: list[Any]
) -> None:
  with installed(min_contributors=9):
    recorder = record(process, aggregator, path)
    with pytest.raises(execution.RoundAborted, match='9'):
      recorder.next(recorder.initialize(), data[:CLIENTS])
  (attempt,) = attempts(path)
  assert attempt['status'] == 'lost'
  assert attempt['note'] == "RoundAborted in step 'mask'"
  assert charged(attempt) == accounting.Round((), accounting.NoSampling())
  assert attempt['protocol']['dropouts'] == {'share': 1, 'mask': 1}
  assert (show(path)['release_epsilon'], show(path)['server_epsilon']) == (0, 0)


@pytest.mark.parametrize(
  'error',
  [
    execution.RoundAborted('too few shares', 'unmask', sum_known=False),
    execution.RoundAborted('refused', 'verify', sum_known=True),
  ],
)
def test_a_session_that_ends_late_is_charged_in_full(
  aggregator: Any, error: execution.RoundAborted
) -> None:
  fixed = accounting.FixedSizeSampling(CLIENTS, 100)
  agreed = terms.Terms(
    aggregator,
    program.releases.Releases(64, ()),
    fixed,
    100,
    0.0,
    execution.SecureOptions(SECURITY, dropouts=LOST, min_contributors=6),
  )
  charge = agreed.aborted(agreed.planned(CLIENTS, fixed), error)
  (event,) = charge.events
  assert charge.sampling == accounting.NoSampling()
  assert (event.client_shares, event.colluders) == (6, 2)


def test_a_killed_round_is_charged_with_the_fewest_shares_it_can_have(
  process: Any, aggregator: Any, path: pathlib.Path
) -> None:
  with installed():
    reservation = record(process, aggregator, path).account.reserve(CLIENTS)
  (event,) = reservation.charge.events
  assert (event.client_shares, event.colluders) == (6, 2)
  with installed(dropouts=None):
    reservation = record(process, aggregator, path, run='b').account.reserve(
      CLIENTS
    )
  (event,) = reservation.charge.events
  assert event.client_shares == CLIENTS


def test_rounds_run_in_the_context_of_their_run_or_not_at_all(
  process: Any, aggregator: Any, path: pathlib.Path, data: list[Any]
) -> None:
  plain = record(process, aggregator, path)
  with installed():
    with pytest.raises(
      RuntimeError, match=r"'a' was opened .*simulated.*Found"
    ):
      plain.next(None, data[:CLIENTS])
    secure = record(process, aggregator, path, run='b')
  with pytest.raises(RuntimeError, match=r'secagg.*Found .*simulated'):
    secure.next(None, data[:CLIENTS])
  with (
    installed(security=execution.Security('malicious')),
    pytest.raises(RuntimeError, match=r'curious.*Found .*malicious'),
  ):
    secure.next(None, data[:CLIENTS])
  with ledger.Ledger.open(path) as opened:
    assert [opened.show(name)['rounds'] for name in 'ab'] == [[], []]


def test_vectors_not_summed_as_the_run_says_are_unaccounted(
  process: Any, aggregator: Any, path: pathlib.Path, data: list[Any]
) -> None:
  native = tff.backends.native.create_sync_local_cpp_execution_context()

  class Escaping(tff.Computation):
    """Runs elsewhere than where it is called."""

    type_signature = process.next.type_signature

    def __call__(self, *args: Any) -> Any:
      return native.invoke(process.next, tff.structure.Struct.unnamed(*args))

    def __hash__(self) -> int:
      return 0

  with installed():
    recorder = record(process, aggregator, path)
    recorder.next._computation = Escaping()
    with pytest.raises(program.MeasurementError, match=r"\['curious'\]. Found"):
      recorder.next(recorder.initialize(), data[:CLIENTS])
  assert show(path)['server_epsilon'] is None


@pytest.mark.parametrize('dropouts', [None, LOST])
def test_a_federated_program_records_its_sessions(
  process: Any,
  aggregator: Any,
  path: pathlib.Path,
  data: list[Any],
  dropouts: Any,
) -> None:
  options = execution.SecureOptions(
    SECURITY, dropouts=dropouts, min_contributors=6
  )

  async def run() -> Any:
    context = tff.program.NativeFederatedContext(
      execution.create_async_secure_context(options)
    )
    with tff.framework.get_context_stack().install(context):
      recorder = record(process, aggregator, path)
      first = recorder.next(recorder.initialize(), data[:CLIENTS])
      second = recorder.next(first.state, data[:CLIENTS])
      return await tff.program.materialize_value(second)

  asyncio.run(run())
  survivors = [a['protocol']['survivors'] for a in attempts(path)]
  assert survivors == [CLIENTS if dropouts is None else 8] * 2


def test_poisson_bounds_must_hold_under_the_stated_dropouts(
  process: Any, path: pathlib.Path
) -> None:
  bounds = accounting.poisson_cohort_bounds(100, 50.0, 10, DELTA)
  sampling = accounting.PoissonSampling(0.5)

  def build(smallest: int) -> terms.Terms:
    return terms.Terms(
      tff_secagg_ext.ddp_secure_aggregator(
        1.0,
        50,
        cohorts='poisson',
        min_contributors=smallest,
        max_contributors=bounds.maximum,
      ),
      program.releases.Releases(64, ()),
      sampling,
      100,
      DELTA / 100,
      execution.SecureOptions(SECURITY, min_contributors=smallest),
    )

  with pytest.raises(ValueError, match='dropouts that the secure context'):
    build(bounds.minimum)
  least = bounds.minimum - int(0.3 * bounds.minimum)
  agreed = build(least)
  charges = {agreed.planned(n, sampling) for n in (bounds.minimum, 60)}
  (charge,) = charges  # The same for all cohorts: it tells none of them.
  assert charge.sampling == sampling
  (event,) = charge.events
  assert (event.client_shares, event.colluders) == (
    least,
    bounds.maximum // 5,
  )
  too_small = agreed.planned(bounds.minimum - 2, sampling)
  assert too_small.sampling == accounting.NoSampling()


def test_training_goes_on_with_a_new_cohort_after_an_abort(
  process: Any, aggregator: Any, path: pathlib.Path, data: list[Any]
) -> None:
  cohorts = program.FixedCohorts(2 * CLIENTS, CLIENTS)

  class OddRounds(execution.Dropouts):
    def __call__(self, round_number: int, stage: str, client: int) -> bool:
      return round_number % 2 == 0 and stage == 'mask' and client < 5

  drawn: list[tuple[int, ...]] = []

  def client_data(members: Any) -> list[Any]:
    drawn.append(tuple(members))
    return [data[i] for i in members]

  plan = program.TrainingPlan(2, cohorts, path.parent / 'checkpoints')
  with installed(dropouts=OddRounds({})):
    recorder = record(process, aggregator, path, sampling=cohorts.sampling)
    result = program.train(recorder, client_data, plan)
  assert result.rounds == 2
  statuses = [(a['status'], a['attempt']) for a in attempts(path)]
  assert statuses == [('lost', 1), ('committed', 2)] * 2
  assert len(set(drawn)) == 4
  assert result.participations.sum() == 2 * CLIENTS


def test_training_gives_up_after_so_many_aborts(
  process: Any, aggregator: Any, path: pathlib.Path, data: list[Any]
) -> None:
  cohorts = program.FixedCohorts(2 * CLIENTS, CLIENTS)
  plan = program.TrainingPlan(
    2, cohorts, path.parent / 'checkpoints', attempts=3
  )
  with installed(min_contributors=9):
    recorder = record(process, aggregator, path, sampling=cohorts.sampling)
    with pytest.raises(execution.RoundAborted):
      program.train(recorder, lambda members: [data[i] for i in members], plan)
  assert [a['status'] for a in attempts(path)] == ['lost'] * 3


def test_a_checkpoint_carries_the_session(
  process: Any,
  aggregator: Any,
  path: pathlib.Path,
  data: list[Any],
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  cohorts = program.FixedCohorts(2 * CLIENTS, CLIENTS)
  plan = program.TrainingPlan(1, cohorts, path.parent / 'checkpoints')

  def train() -> None:
    with installed():
      recorder = record(process, aggregator, path, sampling=cohorts.sampling)
      program.train(recorder, lambda members: [data[i] for i in members], plan)

  def die(*_: Any) -> None:
    raise ledger.LedgerWriteError('killed')

  with monkeypatch.context() as patch:
    patch.setattr(ledger.Run, 'commit', die)
    with pytest.raises(ledger.LedgerWriteError, match='killed'):
      train()
  train()
  (attempt,) = attempts(path)
  assert attempt['status'] == 'committed'
  assert attempt['protocol']['survivors'] == 8
