# SPDX-License-Identifier: Apache-2.0
"""Forecasts: what they say was priced, by the accountant that charges."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from tests.report import ledgers
from tff_secagg_ext import accounting, report
from tff_secagg_ext.ledger import Ledger
from tff_secagg_ext.report import words


def test_so_many_rounds_are_within_the_budget_and_one_more_is_not(
  ledger: Ledger,
) -> None:
  facts = report.read(ledger, ledgers.GOOD.name)
  ahead = report.forecast(facts)
  budget = facts.budget
  assert budget is not None and ahead.left is not None
  charges = [c for c, count in facts.charges for _ in range(count)]
  plan = ledgers.GOOD.charge(ledgers.COHORT)

  def priced(more: int) -> float:
    return accounting.release_epsilon(
      charges + [plan] * more, facts.spendable_delta
    ).value

  assert 0 < ahead.left < ahead.limit
  assert priced(ahead.left) <= budget.budget.epsilon
  assert priced(ahead.left + 1) > budget.budget.epsilon
  for more, release in zip(ahead.rounds, ahead.release, strict=True):
    assert release == pytest.approx(priced(int(more)), rel=1e-9)


def test_epsilon_composed_anew_is_that_of_the_ledger(ledger: Ledger) -> None:
  for name in (ledgers.GOOD.name, ledgers.DROPOUTS.name):
    facts = report.read(ledger, name)
    anew = report.forecast(facts).anew
    assert anew['release'].value == pytest.approx(facts.release.value, rel=1e-6)
    assert anew['server'].value == pytest.approx(facts.server.value, rel=1e-6)


def test_a_passed_budget_admits_nothing(ledger: Ledger) -> None:
  facts = report.read(ledger, ledgers.OVER.name)
  ahead = report.forecast(facts)
  assert ahead.left == 0
  assert ahead.spent is not None
  assert ahead.spent.value > ledgers.OVER.epsilon


def test_dropouts_of_public_cohorts_cost_noise(ledger: Ledger) -> None:
  facts = report.read(ledger, ledgers.DROPOUTS.name)
  found = report.dropouts(facts, 0.4)
  assert found is not None
  assert (found.invited, found.remaining) == (200, 120)
  assert not found.aborts
  charge = ledgers.DROPOUTS.charge(120)
  expected = accounting.release_epsilon(
    [charge] * len(facts.series), facts.spendable_delta
  )
  assert found.release == pytest.approx(expected.value)
  assert found.release > facts.release.value
  gone = report.dropouts(facts, 0.5)
  assert gone is not None and gone.aborts


def test_dropouts_of_secret_cohorts_are_charged_already(ledger: Ledger) -> None:
  facts = report.read(ledger, ledgers.GOOD.name)
  found = report.dropouts(facts, 0.4)
  assert found is not None
  assert found.release == pytest.approx(facts.release.value)


def test_epochs_of_allocated_cohorts_are_forecast(ledger: Ledger) -> None:
  facts = report.read(ledger, ledgers.GOOD.name)
  assert facts.plan is not None
  sampling = accounting.RandomAllocation(1, 10, 'digits-good/1')
  plan = dataclasses.replace(facts.plan, sampling=sampling)
  changed = dataclasses.replace(
    facts, plan=plan, charges=((plan, 3),), budget=None
  )
  ahead = report.forecast(changed)
  assert ahead.left is None
  assert ahead.release[-1] > ahead.release[0] > 0


@settings(max_examples=20, deadline=None)
@given(
  st.floats(0.5, 6.0), st.integers(0, 30), st.integers(1, 60), st.booleans()
)
def test_rounds_left_is_what_counting_finds(
  target: float, spent: int, limit: int, headroom: bool
) -> None:
  event = accounting.NoisedSumEvent('distributed_dgauss', 100.0, 60.0, 25, 8)
  a_round = accounting.Round((event,), accounting.NoSampling())
  budget = accounting.Budget(target, 1e-5, headroom=headroom)
  before = budget.filter(a_round)
  if spent:
    before = before.with_round(a_round, spent)
  found = accounting.rounds_left(budget, before, a_round, limit=limit)
  counted, after = 0, before
  while counted < limit and budget.admits(after := after.with_round(a_round)):
    counted += 1
  assert found.value == counted
  assert found.epsilon.value <= target or not counted


def test_rounds_left_refuses_a_limit_of_none() -> None:
  event = accounting.NoisedSumEvent('distributed_dgauss', 100.0, 60.0, 25, 8)
  a_round = accounting.Round((event,), accounting.NoSampling())
  budget = accounting.Budget(1.0, 1e-5)
  with pytest.raises(ValueError, match=r'`limit` must be'):
    accounting.rounds_left(budget, budget.filter(a_round), a_round, limit=0)


@given(st.floats(0.0, 50.0), st.floats(1e-12, 0.5))
def test_a_guess_is_bounded(epsilon: float, delta: float) -> None:
  share = words.odds(epsilon, delta)
  assert 0.5 <= share <= 1.0
  # The sum of both errors, by the two lines that bound their region.
  errors = 2 * (1 - share)
  expected = 2 * (1 - delta) / (1 + 2.718281828459045**epsilon)
  assert errors == pytest.approx(expected, rel=1e-6, abs=1e-12)
