# SPDX-License-Identifier: Apache-2.0
"""What is kept of runs, and for how long it is true."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import pathlib
import time
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from tests.report import ledgers
from tff_secagg_ext import report
from tff_secagg_ext.ledger import Ledger, Run, UnknownRunError
from tff_secagg_ext.report.facts import RunFacts
from tff_secagg_ext.serve.library import Library

RECIPE = ledgers.with_(ledgers.DROPOUTS, name='mine', epsilon=None)
MANY = 20


def begin(ledger: Ledger) -> Run:
  return ledger.open_run('mine', RECIPE.settings, delta=ledgers.DELTA)


@contextlib.contextmanager
def queries(ledger: Ledger) -> Iterator[list[str]]:
  """Counts what the database is asked."""
  asked: list[str] = []

  def count(_: Any, __: Any, statement: str, *___: Any) -> None:
    asked.append(statement)

  sa.event.listen(ledger._engine, 'before_cursor_execute', count)
  yield asked
  sa.event.remove(ledger._engine, 'before_cursor_execute', count)


def judged(library: Library, name: str) -> Any:
  found = library.judged(library.standing(name), wait=30.0)
  assert found is not None
  return found


def assert_same(found: RunFacts, expected: RunFacts) -> None:
  for field in dataclasses.fields(RunFacts):
    left, right = getattr(found, field.name), getattr(expected, field.name)
    if field.name == 'series':
      assert_same_series(left, right)
    elif field.name == 'notes':
      assert dict(left) == dict(right)
    else:
      assert left == right, field.name


def assert_same_series(found: Any, expected: Any) -> None:
  for field in dataclasses.fields(found):
    left, right = getattr(found, field.name), getattr(expected, field.name)
    if field.name != 'dropouts':
      np.testing.assert_array_equal(left, right, field.name)
      continue
    # Of a step that no session has named yet, nothing is known in either.
    for stage in {*left, *right}:
      nothing = np.where(np.isnan(expected.invited), np.nan, 0.0)
      np.testing.assert_array_equal(
        left.get(stage, nothing), right.get(stage, nothing), stage
      )


@pytest.mark.parametrize('server_view', [False, True])
def test_what_grows_is_what_is_read_anew(
  tmp_path: pathlib.Path, server_view: bool
) -> None:
  """After each entry, audit and opening; attempts settled in any order."""
  with Ledger.open(tmp_path / 'runs.db') as ledger:
    facts = None

    def check() -> None:
      nonlocal facts
      expected = report.read(ledger, 'mine', server_view)
      if facts is not None:
        growth = ledger.growth('mine', facts.head)
        assert growth is not None
        assert_same(report.grown(facts, growth), expected)
      facts = expected

    for opening in range(2):
      run = begin(ledger)
      check()
      for number in range(1, 4):
        charge = RECIPE.charge(180 - number)
        one, other = run.reserve(RECIPE.charge(200)), run.reserve(charge)
        check()
        measured = RECIPE.measurements(number, 180)
        for attempt in (other, one)[:: 1 if number % 2 else -1]:
          protocol = RECIPE.protocol(number, lost=False)
          run.commit(attempt, RECIPE.charge(170), measured, protocol)
        check()
        lost = run.reserve(charge)
        check()
        protocol = RECIPE.protocol(number, lost=True)
        run.lose(lost, charge, f'lost in {opening}', protocol)
        ledger.record_audit('mine', 'utility', {'accuracy': 0.5, 'rounds': 1})
        ledger.record_audit('mine', 'membership', {'auc': 0.5})
        check()
    assert facts is not None
    assert len(facts.series) == 18


def test_rows_that_do_not_follow_are_not_taken(tmp_path: pathlib.Path) -> None:
  with Ledger.open(tmp_path / 'runs.db') as ledger:
    run = begin(ledger)
    run.reserve(RECIPE.charge(200))
    head = ledger.verify('mine')
    run.reserve(RECIPE.charge(200))
    assert ledger.growth('mine', head) is not None
    assert ledger.growth('nobody', head) is None
    forged = dataclasses.replace(head, digest='0' * 64)
    assert ledger.growth('mine', forged) is None
    for change in (
      'UPDATE entries SET release_epsilon = 0.1 WHERE sequence = 2',
      'DELETE FROM sessions',
    ):
      with contextlib.suppress(sa.exc.DBAPIError), ledger._engine.begin() as at:
        for table in ('entries', 'sessions'):
          for verb in ('update', 'delete'):
            at.exec_driver_sql(f'DROP TRIGGER {table}_no_{verb}')
        at.exec_driver_sql('PRAGMA foreign_keys=OFF')
        at.exec_driver_sql(change)
      assert ledger.growth('mine', head) is None


def test_a_run_that_has_not_changed_costs_one_query(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  short = ledgers.with_(ledgers.GOOD, rounds=1, audited=False)
  names = [f'run {n}' for n in range(MANY)]
  ledgers.write(
    str(tmp_path / 'runs.db'), *(ledgers.with_(short, name=n) for n in names)
  )
  with Ledger.open_for_reading(tmp_path / 'runs.db') as ledger:
    library = Library(ledger)
    for name in names:
      judged(library, name)
    time.sleep(0.2)

    def read(*_: Any, **__: Any) -> None:
      raise AssertionError('A run was read again.')

    monkeypatch.setattr(report, 'read', read)
    monkeypatch.setattr(report, 'forecast', read)
    with queries(ledger) as asked:
      for standing in library.standings():
        assert library.summary(standing) is not None
        assert library.judged(standing) is not None
    assert len([query for query in asked if 'SELECT' in query]) == 1
    library.close()


def test_new_rounds_are_seen_and_the_old_are_not_read(
  tmp_path: pathlib.Path,
) -> None:
  with Ledger.open(tmp_path / 'runs.db') as writer:
    run = begin(writer)
    for number in range(1, 30):
      attempt = run.reserve(RECIPE.charge(200))
      run.commit(attempt, RECIPE.charge(200), RECIPE.measurements(number, 200))
    with Ledger.open_for_reading(tmp_path / 'runs.db') as ledger:
      library = Library(ledger)
      before = judged(library, 'mine')
      run.reserve(RECIPE.charge(200))
      time.sleep(0.2)
      standing = library.standing('mine')
      sizes: list[int] = []
      growth = ledger.growth('mine', before.facts.head)
      assert growth is not None
      sizes.append(len(growth.rows.entries))
      facts = library.facts(standing)
      assert facts is not None
      assert sizes == [1]
      assert len(facts.series) == len(before.facts.series) + 1
      assert library.version(standing) != before.summary.version
      library.close()


def test_a_run_that_is_not_there(tmp_path: pathlib.Path) -> None:
  Ledger.open(tmp_path / 'runs.db').close()
  with Ledger.open_for_reading(tmp_path / 'runs.db') as ledger:
    library = Library(ledger)
    with pytest.raises(UnknownRunError, match="has no run 'mine'"):
      library.standing('mine')
    library.close()
