# SPDX-License-Identifier: Apache-2.0
"""Budgets of runs and populations: the round that would pass one is not run."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import json
import logging
import pathlib
from typing import Any

import numpy as np
import pytest

from tests.program import conftest
import tff_secagg_ext
from tff_secagg_ext import accounting, execution, ledger, program
from tff_secagg_ext.accounting import costs
from tff_secagg_ext.program import account as account_lib
from tff_secagg_ext.program import budgets
from tff_secagg_ext.program import terms as terms_lib
from tff_secagg_ext.program.releases import Releases
from tff_secagg_ext.program.terms import Terms

DELTA = 1e-5
CLIENTS = conftest.CLIENTS
NONE = accounting.NoSampling()


def aggregator(noise: float) -> Any:
  return tff_secagg_ext.ddp_secure_aggregator(
    noise, 100, min_contributors=25, max_contributors=250, cohorts='poisson'
  )


def open_account(
  opened: ledger.Ledger,
  budget: accounting.Budget,
  *,
  run: str = 'a',
  noise: float = 8.0,
  population: str | None = None,
  sampling: accounting.Sampling = NONE,
) -> account_lib.Account:
  """An account, without a process: only charges are looked at."""
  allowed = terms_lib.failures(sampling, budget.delta)
  terms = Terms(aggregator(noise), Releases(64, ()), sampling, 10**4, allowed)
  scope = budgets.Scope(run, population)
  agreement = budgets.agree(opened, scope, budget, terms)
  assert agreement is not None
  settings = {'budget': agreement.settings, 'noise': noise}
  if population is not None:
    settings['population_name'] = population
  opened_run = opened.open_run(
    run, settings, delta=budget.delta, failure_probability=allowed
  )
  guard = budgets.Guard(opened, opened_run, agreement)
  return account_lib.Account(opened_run, terms, guard)


def spend(account: account_lib.Account) -> None:
  """One round, run and committed."""
  reservation = account.reserve(100)
  account.commit(
    reservation.attempt, account_lib.Settlement(reservation.charge, {})
  )


def until_refused(
  turn: Callable[[], None], limit: int = 1000
) -> accounting.BudgetExceeded:
  for _ in range(limit):
    try:
      turn()
    except accounting.BudgetExceeded as error:
      return error
  raise AssertionError('nothing was refused')


def spent(location: pathlib.Path, view: str, delta: float) -> float:
  """The composition of all attempts on record, recomputed from the rows."""
  charges = []
  with ledger.Ledger.open(location, create=False) as opened:
    for name in opened.names():
      for item in opened.show(name)['rounds']:
        charges += [attempt['charge'] for attempt in item['attempts']]
  rounds = [accounting.from_json(json.dumps(charge)) for charge in charges]
  function = getattr(accounting, f'{view}_epsilon')
  return float(function(rounds, delta).value)


@pytest.mark.parametrize('view', ['release', 'server'])
@pytest.mark.parametrize('adaptive', [False, True])
def test_the_run_stops_before_the_round_that_would_pass(
  tmp_path: pathlib.Path, view: str, adaptive: bool
) -> None:
  path = tmp_path / 'runs.db'
  budget = accounting.Budget(2.0, DELTA, view, adaptive)
  with ledger.Ledger.open(path) as opened:
    account = open_account(opened, budget)
    error = until_refused(lambda: spend(account))
    plan = account.terms.usual
    admitted = accounting.most_rounds(budget, plan).value
    assert account.run.rounds_committed == admitted > 3
    # Refused again, and nothing is reserved.
    with pytest.raises(accounting.BudgetExceeded, match="Run 'a' must stay"):
      account.reserve(100)
    assert account.run.attempts == admitted
    assert not account.run.open_attempts
    # What costs nothing goes on.
    assert error.spent.value <= 2.0 < error.after.value
  assert spent(path, view, DELTA) <= 2.0
  ratio = costs.round_cost(plan, view).squared_ratio
  assert ratio > 0.0


def test_the_filter_and_the_ledger_agree_to_the_last_bit(
  tmp_path: pathlib.Path,
) -> None:
  with ledger.Ledger.open(tmp_path / 'runs.db') as opened:
    budget = accounting.Budget(2.0, DELTA)
    account = open_account(
      opened, budget, noise=1.5, sampling=accounting.PoissonSampling(0.01)
    )
    for _ in range(5):
      spend(account)
      guard = account._guard
      assert guard is not None
      newest = account.run.entries[-1]
      left = accounting.Budget(2.0, DELTA, failures=0.01 * DELTA)
      assert guard.agreement.budget == left
      expected = accounting.release_epsilon(
        [newest.charge] * account.run.attempts, left.spendable_delta
      )
      assert guard.spent().epsilon() == expected


def test_lost_open_and_killed_attempts_count(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'runs.db'
  budget = accounting.Budget(2.0, DELTA)
  with ledger.Ledger.open(path) as opened:
    account = open_account(opened, budget)
    admitted = accounting.most_rounds(budget, account.terms.usual).value
    with pytest.raises(RuntimeError, match='broken'):
      lose(account)
    killed = account.reserve(100)
  # The process ends here, with an attempt open.
  with ledger.Ledger.open(path) as opened:
    again = open_account(opened, budget)
    until_refused(lambda: spend(again))
    assert again.run.status(killed.attempt) == 'lost'
    assert again.run.rounds_committed == admitted - 2
    assert again.run.attempts == admitted
  assert spent(path, 'release', DELTA) <= 2.0


def lose(account: account_lib.Account) -> None:
  with account.running(account.reserve(100)):
    raise RuntimeError('broken')


@pytest.mark.parametrize('seed', range(10))
def test_runs_of_a_population_share_the_budget(
  tmp_path: pathlib.Path, seed: int
) -> None:
  """Runs are opened, and left, by a walk; each has noise of its own."""
  rng = np.random.default_rng(seed)
  path = tmp_path / 'runs.db'
  view = ('release', 'server')[seed % 2]
  budget = accounting.Budget(3.0, DELTA, view, adaptive=True)
  sampling: accounting.Sampling = NONE
  if seed % 3 == 0:
    sampling = accounting.PoissonSampling(0.01)
  with ledger.Ledger.open(path) as opened:
    accounts = [
      open_account(
        opened,
        budget,
        run=f'run {number}',
        noise=float(
          rng.uniform(1.5, 20.0) if sampling != NONE else 12 + number
        ),
        population='clients',
        sampling=sampling,
      )
      for number in range(3)
    ]
    for _ in range(40):
      account = accounts[rng.integers(3)]
      try:
        if rng.random() < 0.2:
          with pytest.raises(RuntimeError, match='broken'):
            lose(account)
        else:
          spend(account)
      except accounting.BudgetExceeded as error:
        assert "Population 'clients' must stay" in str(error)
        break
  left = DELTA * (1 - budgets.SHARED_FAILURES)
  assert 0.0 < spent(path, view, left) <= 3.0


def test_other_populations_do_not_count(tmp_path: pathlib.Path) -> None:
  budget = accounting.Budget(2.0, DELTA, 'server', adaptive=True)
  with ledger.Ledger.open(tmp_path / 'runs.db') as opened:
    counts = []
    for number, population in enumerate(['one', 'two', None]):
      account = open_account(
        opened, budget, run=str(number), population=population
      )
      until_refused(lambda account=account: spend(account))
      counts.append(account.run.rounds_committed)
    late = open_account(opened, budget, run='late', population='one')
    with pytest.raises(accounting.BudgetExceeded, match="Population 'one'"):
      spend(late)
  assert counts[0] == counts[1] > 0


def test_of_runs_that_race_for_the_rest_none_passes_it(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """The other run reserves between this one's check and its reservation."""
  path = tmp_path / 'runs.db'
  budget = accounting.Budget(2.0, DELTA, 'server', adaptive=True)
  with ledger.Ledger.open(path) as opened:
    one = open_account(opened, budget, run='one', population='clients')
    two = open_account(opened, budget, run='two', population='clients')
    admitted = accounting.most_rounds(
      dataclasses.replace(budget, failures=budgets.SHARED_FAILURES * DELTA),
      one.terms.usual,
    ).value
    for _ in range(admitted - 1):
      spend(one)
    check = budgets.Guard.check

    def slowly(guard: budgets.Guard, charge: accounting.Round) -> None:
      check(guard, charge)
      if guard is one._guard:
        spend(two)

    monkeypatch.setattr(budgets.Guard, 'check', slowly)
    with pytest.raises(accounting.BudgetExceeded, match='It was not run'):
      one.reserve(100)
    newest = one.run.entries[-1]
    assert (newest.kind, newest.charge.events) == ('lost', ())
    assert 'another run was first' in newest.note
    assert two.run.rounds_committed == 1
  assert spent(path, 'server', DELTA) <= 2.0


def test_a_population_keeps_the_filter_of_its_first_run(
  tmp_path: pathlib.Path,
) -> None:
  budget = accounting.Budget(3.0, DELTA, adaptive=True)
  sampling = accounting.PoissonSampling(0.01)
  with ledger.Ledger.open(tmp_path / 'runs.db') as opened:
    orders = []
    for number, noise in enumerate([0.3, 20.0, 0.3]):
      for _ in range(2):  # Opened again, it is the same.
        account = open_account(
          opened,
          budget,
          run=str(number),
          noise=noise,
          population='clients',
          sampling=sampling,
        )
      assert account._guard is not None
      orders.append(account._guard.agreement.settings['order'])
    alone = open_account(opened, budget, run='x', noise=20.0, sampling=sampling)
    assert alone._guard is not None
    assert orders[0] == orders[1] == orders[2]
    assert alone._guard.agreement.settings['order'] != orders[0]


def test_what_contradicts_the_record_is_refused(tmp_path: pathlib.Path) -> None:
  budget = accounting.Budget(3.0, DELTA, 'server', adaptive=True)
  with ledger.Ledger.open(tmp_path / 'runs.db') as opened:
    open_account(opened, budget, run='a', population='clients')
    more = dataclasses.replace(budget, epsilon=4.0)
    with pytest.raises(ValueError, match='must have the budget of its first'):
      open_account(opened, more, run='b', population='clients')
    terms = Terms(aggregator(8.0), Releases(64, ()), NONE, 10**4, 0.0)
    scope = budgets.Scope('b', 'clients')
    with pytest.raises(ValueError, match=r'Found None\. Use that budget'):
      budgets.agree(opened, scope, None, terms)
    fixed = dataclasses.replace(budget, adaptive=False)
    with pytest.raises(ValueError, match='must be adaptive where it is shared'):
      open_account(opened, fixed, run='b', population='clients')
    with pytest.raises(
      ledger.RunSettingsError, match=r'budget\.epsilon is 3\.0'
    ):
      open_account(opened, more, run='c', population='other')
      open_account(opened, budget, run='d')
      open_account(opened, more, run='d')
    free = budgets.Scope('e', 'nobody')
    assert budgets.agree(opened, free, None, terms) is None


def test_the_cohorts_of_too_many_runs_are_refused(
  tmp_path: pathlib.Path,
) -> None:
  budget = accounting.Budget(3.0, DELTA, adaptive=True)

  def another(number: int) -> None:
    open_account(
      opened,
      budget,
      run=str(number),
      population='clients',
      sampling=accounting.PoissonSampling(0.01),
    )

  with ledger.Ledger.open(tmp_path / 'runs.db') as opened:
    for number in range(10):
      another(number)
    another(3)
    with pytest.raises(ValueError, match='must keep the failures of its'):
      another(10)


def end_late(account: account_lib.Account) -> None:
  """One round whose session ends after masks were taken off."""
  error = execution.RoundAborted('too few shares', 'unmask', sum_known=False)
  with (
    pytest.raises(execution.RoundAborted),
    account.running(account.reserve(100)),
  ):
    raise error


@pytest.mark.parametrize('headroom', [False, True])
def test_a_session_that_ends_late_is_within_a_budget_with_headroom(
  tmp_path: pathlib.Path, headroom: bool
) -> None:
  """The budget is that of three rounds, and of such a one if it has room."""
  path, sampling = tmp_path / 'runs.db', accounting.PoissonSampling(0.01)
  planned = accounting.Round((aggregator(8.0).event(64, 100),), sampling)
  in_full = dataclasses.replace(planned, sampling=NONE)
  delta = DELTA - terms_lib.failures(sampling, DELTA)
  rounds = [planned] * 3 + [in_full if headroom else planned]
  epsilon = accounting.release_epsilon(rounds, delta).value * 1.0001
  budget = accounting.Budget(epsilon, DELTA, headroom=headroom)
  with ledger.Ledger.open(path) as opened:
    account = open_account(opened, budget, sampling=sampling)
    most = accounting.most_rounds(account._guard.agreement.budget, planned)
    assert 4 <= most.value < 20
    assert most.epsilon.value <= epsilon
    for _ in range(most.value - 1):
      spend(account)
    end_late(account)
    with pytest.raises(accounting.BudgetExceeded):
      account.reserve(100)
  assert (spent(path, 'release', delta) <= epsilon) == headroom


@pytest.mark.parametrize('population', [None, 'everybody'])
def test_a_round_that_contradicts_its_aggregator_is_the_last_of_its_scope(
  tmp_path: pathlib.Path, population: str | None
) -> None:
  budget = accounting.Budget(8.0, DELTA, adaptive=True)
  with ledger.Ledger.open(tmp_path / 'runs.db') as opened:
    account = open_account(opened, budget, population=population)
    spend(account)
    with (
      pytest.raises(program.MeasurementError),
      account.running(account.reserve(100)),
    ):
      raise program.MeasurementError('another scale was measured')
    with pytest.raises(accounting.BudgetExceeded, match=r'inf.*another scale'):
      account.reserve(100)
    other = open_account(opened, budget, run='b', population=population)
    if population is None:
      spend(other)
    else:
      with pytest.raises(accounting.BudgetExceeded, match='another scale'):
        other.reserve(100)


def test_headroom_counts_what_other_runs_may_cost(
  tmp_path: pathlib.Path,
) -> None:
  sampling = accounting.PoissonSampling(0.01)
  budget = accounting.Budget(8.0, DELTA, adaptive=True, headroom=True)
  with ledger.Ledger.open(tmp_path / 'runs.db') as opened:
    accounts = [
      open_account(
        opened, budget, run=name, population='everybody', sampling=sampling
      )
      for name in 'ab'
    ]
    accounts[0].reserve(100)
    totals = [account._guard.spent().epsilon().value for account in accounts]
    assert totals[0] == totals[1]
    in_full = budget.at_most(accounts[0].terms.usual)
    assert in_full.sampling == NONE
    empty = accounts[0]._guard.agreement.opening
    assert totals[0] == empty.with_round(in_full).epsilon().value


def record(process: Any, aggregator: Any, path: Any, **kwargs: Any) -> Any:
  return program.PrivacyRecorder(
    process,
    aggregator,
    ledger=path,
    sampling=NONE,
    **{'run': 'mine', 'delta': DELTA, **kwargs},
  )


def test_a_recorder_refuses_and_training_ends(
  process: Any, aggregator: Any, data: list[Any], tmp_path: pathlib.Path
) -> None:
  plan = accounting.Round((aggregator.event(8, CLIENTS),), NONE)
  epsilon = accounting.release_epsilon([plan] * 2, DELTA).value * 1.001
  recorder = record(
    process,
    aggregator,
    tmp_path / 'runs.db',
    budget=accounting.Budget(epsilon, DELTA),
  )
  assert recorder.account.terms.usual == plan
  cohorts = program.FixedCohorts(CLIENTS, CLIENTS)
  plan = program.TrainingPlan(5, cohorts, tmp_path / 'checkpoints')
  object.__setattr__(recorder.account.terms, 'sampling', cohorts.sampling)
  result = program.train(
    recorder, lambda members: [data[i] for i in members], plan
  )
  assert (result.rounds, result.interrupted) == (2, False)
  assert result.stopped is not None
  assert result.state.aggregator['round'] == 2
  with pytest.raises(accounting.BudgetExceeded, match="Run 'mine'"):
    recorder.next(result.state, data[:CLIENTS])
  with ledger.Ledger.open(tmp_path / 'runs.db') as opened:
    shown = opened.show('mine')
  assert len(shown['rounds']) == 2
  assert shown['release_epsilon'] <= epsilon
  assert shown['settings']['budget']['filter'] == 'composition'


def test_deltas_that_do_not_fit(
  process: Any,
  aggregator: Any,
  tmp_path: pathlib.Path,
  caplog: pytest.LogCaptureFixture,
) -> None:
  path = tmp_path / 'runs.db'
  with pytest.raises(ValueError, match='must be at the delta of the run'):
    record(process, aggregator, path, budget=accounting.Budget(1.0, 1e-6))
  with pytest.raises(TypeError, match='`budget` must be a Budget'):
    record(process, aggregator, path, budget=1.0)
  with caplog.at_level(logging.WARNING, 'tff_secagg_ext'):
    record(
      process,
      aggregator,
      path,
      run=program.RunDescription('small', population=100),
      delta=0.1,
    )
  assert 'delta 0.1 is above 1/100' in caplog.text


def test_external_events_count_against_the_budget_of_their_population(
  tmp_path: pathlib.Path,
) -> None:
  """They have no budget of theirs, and are recorded even if they pass it."""
  budget = accounting.Budget(2.0, DELTA, adaptive=True)
  with ledger.Ledger.open(tmp_path / 'runs.db') as opened:

    def external(name: str, steps: int) -> None:
      history = [(8.0, 0.5, steps)]
      ledger.record_external(
        opened,
        ledger.ExternalRun(name, 'people'),
        accounting.opacus_events(history, vouched_by='the lab'),
        delta=DELTA,
      )

    external('before', 10)
    first = open_account(opened, budget, run='a', population='people')
    guard = budgets.Guard(opened, first.run, first._guard.agreement)
    before = guard.spent().epsilon().value
    assert before > 0.0
    spend(first)
    external('between', 1000)
    assert guard.spent().epsilon().value > 2.0
    with pytest.raises(accounting.BudgetExceeded, match="Population 'people'"):
      first.reserve(100)
    second = open_account(opened, budget, run='b', population='people')
    with pytest.raises(accounting.BudgetExceeded, match="Population 'people'"):
      second.reserve(100)
    account = ledger.compose_population(opened, 'people')
    assert [item.attempts for item in account.items] == [1, 1, 1]
