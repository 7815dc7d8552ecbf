# SPDX-License-Identifier: Apache-2.0
"""External runs are as any other; all runs of a population compose."""

from __future__ import annotations

from collections.abc import Iterator
import json
import math
import pathlib
from typing import Any

from dp_accounting import dp_event
import pytest

from tests.ledger import conftest, test_chain
from tff_secagg_ext import accounting
from tff_secagg_ext import ledger as ledger_lib

DELTA = 1e-5
NONE = accounting.NoSampling()
FEDERATED = accounting.Round(
  (accounting.NoisedSumEvent('distributed_dgauss', 1e3, 100.0, 100, 1024),),
  accounting.PoissonSampling(0.1),
)
HISTORY = [(1.1, 0.01, 200), (0.9, 0.01, 100)]


def opacus(history: Any = HISTORY, **fields: Any) -> tuple[Any, ...]:
  return accounting.opacus_events(
    history, **{'vouched_by': 'the lab', 'source': 'opacus 1.6.0', **fields}
  )


def described(name: str = 'silo', **fields: Any) -> ledger_lib.ExternalRun:
  return ledger_lib.ExternalRun(name, 'patients', **fields)


def record(
  ledger: ledger_lib.Ledger,
  events: Any = None,
  delta: float = DELTA,
  **fields: Any,
) -> ledger_lib.Run:
  events = opacus() if events is None else events
  run = described(**fields)
  return ledger_lib.record_external(ledger, run, events, delta=delta)


def federated(
  ledger: ledger_lib.Ledger,
  name: str = 'phones',
  charge: accounting.Round = FEDERATED,
  rounds: int = 5,
  delta: float = DELTA,
  failures: float = 0.0,
  **settings: Any,
) -> ledger_lib.Run:
  told = {'population_name': 'patients', 'unit_of_privacy': 'client'}
  run = ledger.open_run(
    name, {**told, **settings}, delta=delta, failure_probability=failures
  )
  for _ in range(rounds):
    run.commit(run.reserve(charge), charge, {})
  return run


@pytest.fixture
def ledger(tmp_path: pathlib.Path) -> Iterator[ledger_lib.Ledger]:
  with ledger_lib.Ledger.open(tmp_path / 'runs.db') as opened:
    yield opened


@pytest.mark.parametrize('kind', conftest.PARAMS)
def test_an_external_run_is_chained_shown_and_exported(
  new_location: conftest.NewLocation, kind: str
) -> None:
  with ledger_lib.Ledger.open(new_location(kind)) as ledger:
    run = record(ledger, population=60_000, notes={'model': 'cnn'})
    assert run.rounds_committed == 2
    shown = ledger.show('silo')
    assert shown['settings']['external'] == [
      {
        'source': 'opacus 1.6.0',
        'trust_domain': 'central',
        'vouched_by': 'the lab',
        'by_coordinator': False,
      }
    ]
    assert shown['settings']['population_name'] == 'patients'
    assert shown['settings']['population'] == 60_000
    assert shown['settings']['unit_of_privacy'] == 'client'
    assert shown['settings']['notes'] == {'model': 'cnn'}
    rounds = [accounting.Round((event,), NONE) for event in opacus()]
    expected = accounting.release_epsilon(rounds, DELTA).value
    assert shown['release_epsilon'] == shown['server_epsilon'] == expected
    head = ledger.verify('silo')
    lines = ledger.export('silo', redacted=True)
    assert ledger_lib.verify_export(lines) == ('silo', head)
    with ledger_lib.Ledger.open(new_location('sqlite')) as other:
      assert other.import_run(ledger.export('silo')) == 'silo'
      assert other.verify('silo') == head


def test_the_same_again_changes_nothing_and_more_is_added(
  ledger: ledger_lib.Ledger,
) -> None:
  # A process that ended after it had reserved, and before it had committed.
  begun = record(ledger, opacus(HISTORY[:1]))
  begun.reserve(accounting.Round(opacus()[1:], NONE))
  assert record(ledger).rounds_committed == 2
  entries = ledger.verify('silo').entries
  assert entries == 4
  assert record(ledger).rounds_committed == 2
  assert ledger.verify('silo').entries == entries
  longer = [*HISTORY, (2.0, 0.5, 3)]
  assert record(ledger, opacus(longer)).rounds_committed == 3
  # The last item of a history grows while noise and rate stay.
  grown = [*HISTORY, (2.0, 0.5, 10), (3.0, 0.5, 0), (4.0, 0.5, 1)]
  assert record(ledger, opacus(grown)).rounds_committed == 5
  charges = [c for c, _ in ledger_lib.charges(ledger.show('silo'))]
  once = accounting.ExternalEvent.of(
    dp_event.PoissonSampledDpEvent(0.5, dp_event.GaussianDpEvent(4.0)),
    vouched_by='the lab',
    source='opacus 1.6.0',
    trust_domain='central',
  )
  assert [c.external for c in charges] == [
    *opacus([*longer, (2.0, 0.5, 7)]),
    once,
  ]
  rounds = [accounting.Round((event,), NONE) for event in opacus(grown)]
  assert accounting.release_epsilon(charges, DELTA).value == pytest.approx(
    accounting.release_epsilon(rounds, DELTA).value, rel=1e-3
  )
  assert record(ledger, opacus(grown)).rounds_committed == 5
  changed = [HISTORY[0], (0.9, 0.01, 101), *grown[2:]]
  for history in (changed, HISTORY, [HISTORY[0], (0.9, 0.01, 99), *grown[2:]]):
    with pytest.raises(
      ValueError, match='must begin with the 5 events that it'
    ):
      record(ledger, opacus(history))
  with pytest.raises(ledger_lib.RunSettingsError, match='other settings'):
    record(ledger, opacus(longer, vouched_by='somebody else'))


def test_what_is_no_external_run_is_refused(ledger: ledger_lib.Ledger) -> None:
  with pytest.raises(
    ValueError, match=r'`events` must hold an event. Found no'
  ):
    record(ledger, [])
  with pytest.raises(TypeError, match='`events` must hold ExternalEvents'):
    record(ledger, [FEDERATED])
  with pytest.raises(ValueError, match=r'`delta` must be in \(0, 1\)'):
    record(ledger, delta=1.0)
  with pytest.raises(ValueError, match='`unit_of_privacy` must not be empty'):
    described(unit_of_privacy=' ')
  with pytest.raises(TypeError, match=r'`name` must be a string. Found 3'):
    described(name=3)
  with pytest.raises(ValueError, match='`population` must be at least 1'):
    described(population=0)
  assert ledger.names() == ()


def test_all_runs_of_a_population_are_one_account(
  ledger: ledger_lib.Ledger,
  caplog: pytest.LogCaptureFixture,
) -> None:
  record(ledger, population=1000)
  federated(ledger, failures=1e-7, population=1000)
  federated(ledger, 'strangers', population_name='others')
  ledger.open_run('alone', {}, delta=DELTA).reserve(FEDERATED)
  record(ledger, opacus(HISTORY[:1], trust_domain='enclave'), name='enclave')
  account = ledger_lib.compose_population(ledger, 'patients')
  rounds = [
    *(accounting.Round((event,), NONE) for event in opacus()),
    *[FEDERATED] * 5,
    *(
      accounting.Round((event,), NONE)
      for event in opacus(HISTORY[:1], trust_domain='enclave')
    ),
  ]
  assert account.failure_probability == 1e-7
  left = DELTA - 1e-7
  assert account.release == accounting.release_epsilon(rounds, left)
  assert account.server == accounting.server_epsilon(rounds, left)
  assert (account.population, account.unit_of_privacy) == (1000, 'client')
  assert account.delta == DELTA
  told = [
    (i.run, i.source, i.trust_domain, i.vouched_by, i.attempts)
    for i in account.items
  ]
  assert told == [
    ('silo', 'opacus 1.6.0', 'central', 'the lab', 2),
    ('phones', 'federated rounds', 'federated', 'recorded here', 5),
    ('enclave', 'opacus 1.6.0', 'enclave', 'the lab', 1),
  ]
  assert account.items[1].release == accounting.release_epsilon(
    [FEDERATED] * 5, left
  )
  assert account.open_attempts == 0
  values = account.to_json()
  assert json.loads(json.dumps(values, allow_nan=False)) == values
  assert values['release_epsilon'] == account.release.value
  assert values['items'][2]['trust_domain'] == 'enclave'
  assert not caplog.messages
  looser = ledger_lib.compose_population(ledger, 'patients', 2e-3)
  assert looser.release.value < account.release.value
  assert caplog.messages[0].startswith('delta 0.002 is above 1/1000, one over')


def test_open_and_lost_attempts_waivers_and_reasons_count(
  ledger: ledger_lib.Ledger,
) -> None:
  record(ledger, opacus(by_coordinator=True))
  run = federated(ledger, rounds=1)
  run.lose(run.reserve(FEDERATED), FEDERATED, 'lost')
  waiver = accounting.Waiver('count is exact', 'A. Reviewer', 'it is public')
  waived = accounting.Round((*FEDERATED.events, waiver), FEDERATED.sampling)
  run.reserve(waived)
  account = ledger_lib.compose_population(ledger, 'patients')
  assert account.open_attempts == 1
  assert [item.attempts for item in account.items] == [2, 3]
  assert account.release.waivers == (waiver,)
  assert math.isfinite(account.release.value)
  assert account.server.reasons == (
    'opacus 1.6.0: its curator, the coordinator, saw the data',
  )
  values = account.to_json()
  assert values['server_epsilon'] is None
  assert values['server_reasons'] == list(account.server.reasons)
  assert values['waivers'] == [
    {
      'name': 'count is exact',
      'by': 'A. Reviewer',
      'why': 'it is public',
    }
  ]


def test_two_populations_are_not_composed_by_mistake(
  ledger: ledger_lib.Ledger,
) -> None:
  record(ledger, population=1000)
  with pytest.raises(ValueError, match=r"declare: 'patients'. Found 'patient'"):
    ledger_lib.compose_population(ledger, 'patient')
  with pytest.raises(TypeError, match='`population_name` must be a string'):
    ledger_lib.compose_population(ledger, None)
  federated(ledger, unit_of_privacy='example')
  with pytest.raises(
    ValueError,
    match=r"same unit_of_privacy. Found 'client' of run 'silo', 'example' of",
  ):
    ledger_lib.compose_population(ledger, 'patients')


def test_populations_of_two_sizes_are_not_composed(
  ledger: ledger_lib.Ledger,
) -> None:
  record(ledger, population=1000)
  federated(ledger, 'unknown', population=None)
  ledger_lib.compose_population(ledger, 'patients')
  federated(ledger, population=999)
  with pytest.raises(
    ValueError, match=r"same population. Found 1000 of run 's"
  ):
    ledger_lib.compose_population(ledger, 'patients')


def test_two_relations_are_not_composed(ledger: ledger_lib.Ledger) -> None:
  record(ledger)
  charge = accounting.Round(
    FEDERATED.events, accounting.NoSampling('substitution')
  )
  federated(ledger, charge=charge)
  with pytest.raises(
    ValueError, match=r"same adjacency. Found 'zero_out' of ru"
  ):
    ledger_lib.compose_population(ledger, 'patients')


def test_delta_is_one_and_pays_for_all_failures(
  ledger: ledger_lib.Ledger,
) -> None:
  record(ledger)
  federated(ledger, 'a', delta=1e-3, failures=1e-4)
  with pytest.raises(ValueError, match='`delta` must be given where the runs'):
    ledger_lib.compose_population(ledger, 'patients')
  with pytest.raises(ValueError, match=r'`delta` must be above 0.0001, with'):
    ledger_lib.compose_population(ledger, 'patients', 1e-5)
  with pytest.raises(ValueError, match=r'`delta` must be in \(0, 1\)'):
    ledger_lib.compose_population(ledger, 'patients', 1.0)
  account = ledger_lib.compose_population(ledger, 'patients', 1e-3)
  assert account.failure_probability == 1e-4


def test_no_epsilon_of_rows_that_were_altered(tmp_path: pathlib.Path) -> None:
  location = f'sqlite:///{tmp_path / "runs.db"}'
  with ledger_lib.Ledger.open(location) as ledger:
    record(ledger)
    federated(ledger)
  test_chain.forge(location, 'DELETE FROM entries WHERE sequence = 2')
  with (
    ledger_lib.Ledger.open(location) as ledger,
    pytest.raises(ledger_lib.BrokenChainError, match='entry 2'),
  ):
    ledger_lib.compose_population(ledger, 'patients')


def test_an_event_nobody_can_price_makes_the_population_infinite(
  ledger: ledger_lib.Ledger,
) -> None:
  event = accounting.ExternalEvent.of(
    dp_event.UnsupportedDpEvent(),
    trust_domain='central',
    vouched_by='nobody',
    source='a notebook',
  )
  record(ledger, [event])
  federated(ledger)
  account = ledger_lib.compose_population(ledger, 'patients')
  reason = 'a notebook: UnsupportedDpEvent cannot be priced'
  assert account.release.reasons == account.server.reasons == (reason,)
