# SPDX-License-Identifier: Apache-2.0
"""The ledger's promises, on SQLite and, where it is installed, PostgreSQL."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import textwrap

import pytest
import sqlalchemy as sa

from tff_secagg_ext import accounting
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.ledger import writers
from tff_secagg_ext.ledger.ledger import Ledger

DELTA = 1e-5
EVENT = accounting.NoisedSumEvent('distributed_dgauss', 100.0, 20.0, 25, 64)
ROUND = accounting.Round((EVENT,), accounting.NoSampling())
WEAKER = accounting.Round(
  (accounting.NoisedSumEvent('distributed_dgauss', 100.0, 20.0, 20, 64),),
  accounting.NoSampling(),
)
EXACT = accounting.Round(
  (accounting.UnaccountedEvent(('loss is exact',)),), accounting.NoSampling()
)


def open_run(ledger: Ledger, **kwargs: object) -> ledger_lib.Run:
  settings = {'noise': 1.0, 'cohort': {'size': 5}}
  return ledger.open_run('mine', {**settings, **kwargs}, delta=DELTA)


def release(*rounds: accounting.Round) -> float:
  return accounting.release_epsilon(rounds, DELTA).value


def test_a_round_is_charged_from_its_reservation_on(location: str) -> None:
  with Ledger.open(location) as ledger:
    run = open_run(ledger)
    attempt = run.reserve(ROUND)
    assert attempt == ledger_lib.Attempt(1, 1)
    shown = ledger.show('mine')
    assert shown['rounds'][0]['status'] == 'reserved'
    assert shown['release_epsilon'] == release(ROUND)
    entry = run.commit(attempt, ROUND, {'scale': 2.0})
    assert entry.release.value == release(ROUND)
    assert entry.measurements == {'scale': 2.0}


def test_what_happened_replaces_what_was_planned(location: str) -> None:
  with Ledger.open(location) as ledger:
    run = open_run(ledger)
    for _ in range(2):
      run.commit(run.reserve(ROUND), WEAKER, {})
    assert run.entries[-1].release.value == release(WEAKER, WEAKER)
    assert run.entries[-2].release.value == release(WEAKER, ROUND)


def test_lost_attempts_stay_charged(location: str) -> None:
  with Ledger.open(location) as ledger:
    run = open_run(ledger)
    first = run.reserve(ROUND)
    run.lose(first, ROUND, 'KeyboardInterrupt')
    second = run.reserve(ROUND)
    assert second == ledger_lib.Attempt(1, 2)
    run.commit(second, ROUND, {})
    (shown,) = ledger.show('mine')['rounds']
    assert [a['status'] for a in shown['attempts']] == ['lost', 'committed']
    assert shown['release_epsilon'] == release(ROUND, ROUND)
    assert shown['status'] == 'committed'


def test_open_attempts_stay_charged_when_a_run_is_opened_again(
  location: str,
) -> None:
  with Ledger.open(location) as ledger:
    open_run(ledger).reserve(ROUND)
  with Ledger.open(location) as ledger:
    run = open_run(ledger)
    assert run.open_attempts == {ledger_lib.Attempt(1, 1): ROUND}
    run.reserve(ROUND)
    assert run.entries[-1].release.value == release(ROUND, ROUND)
    assert len(ledger.show('mine')['sessions']) == 2


def test_several_attempts_may_be_open(location: str) -> None:
  with Ledger.open(location) as ledger:
    run = open_run(ledger)
    first, second = run.reserve(ROUND), run.reserve(ROUND)
    run.commit(second, ROUND, {})
    run.commit(first, WEAKER, {})
    assert run.rounds_committed == run.attempts == 2
    assert run.entries[-1].release.value == release(ROUND, WEAKER)


def test_epsilon_is_told_at_what_failures_leave_of_delta(
  tmp_path: pathlib.Path,
) -> None:
  with Ledger.open(tmp_path / 'runs.db') as ledger:
    run = ledger.open_run('a', {}, delta=DELTA, failure_probability=DELTA / 2)
    run.reserve(ROUND)
    expected = accounting.release_epsilon([ROUND], DELTA / 2).value
    assert run.entries[-1].release.value == expected
    with pytest.raises(ValueError, match='must be below delta'):
      ledger.open_run('b', {}, delta=DELTA, failure_probability=DELTA)


def test_infinity_is_null_with_its_reasons(location: str) -> None:
  with Ledger.open(location) as ledger:
    run = open_run(ledger)
    run.commit(run.reserve(EXACT), EXACT, {'norm': float('inf')})
  with Ledger.open(location) as ledger:
    shown = ledger.show('mine')
    json.dumps(shown, allow_nan=False)
    assert shown['release_epsilon'] is None
    assert shown['release_reasons'] == ['loss is exact']
    assert shown['rounds'][0]['measurements'] == {'norm': 'Infinity'}
    run = open_run(ledger)
    run.reserve(ROUND)
    assert run.entries[-1].server.reasons == ('loss is exact',)


def test_the_release_view_tells_no_cohort_size(location: str) -> None:
  protocol = {'threat': 'curious', 'verified': None, 'survivors': 17}
  with Ledger.open(location) as ledger:
    run = open_run(ledger)
    run.lose(run.reserve(ROUND), ROUND, 'RoundAborted', protocol)
    run.commit(run.reserve(ROUND), ROUND, {}, protocol)
    run.commit(run.reserve(ROUND), ROUND, {})

    def shown(**kwargs: bool) -> list[object]:
      rounds = ledger.show('mine', **kwargs)['rounds']
      return [a['protocol'] for r in rounds for a in r['attempts']]

    public = {'threat': 'curious', 'verified': None}
    assert shown() == [public, public, None]
    assert shown(server_view=True) == [protocol, protocol, None]
    assert open_run(ledger).entries[-3].protocol == protocol


def test_a_protocol_that_json_cannot_hold_is_refused(location: str) -> None:
  with Ledger.open(location) as ledger:
    run = open_run(ledger)
    attempt = run.reserve(ROUND)
    with pytest.raises(ValueError, match='JSON'):
      run.commit(attempt, ROUND, {}, {'expansion': float('inf')})
    assert run.status(attempt) == 'reserved'
    run.commit(attempt, ROUND, {})


@pytest.mark.parametrize(
  'statement',
  [
    "UPDATE runs SET name = 'other'",
    'DELETE FROM sessions',
    'UPDATE entries SET release_epsilon = 0',
    'DELETE FROM entries',
  ],
)
def test_rows_are_never_changed_or_removed(
  location: str, statement: str
) -> None:
  with Ledger.open(location) as ledger:
    open_run(ledger).reserve(ROUND)
    with (
      pytest.raises(sa.exc.IntegrityError, match='append-only'),
      ledger._engine.begin() as connection,
    ):
      connection.exec_driver_sql(statement)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'sequence': 4}, 'without gaps'),
    ({'kind': 'committed', 'round': 7}, 'reserved once, and before'),
    ({'kind': 'reserved'}, 'reserved once, and before'),
    ({'kind': 'lost'}, 'settled once'),
    ({'kind': 'committed', 'attempt': 2}, 'committed once'),
  ],
)
def test_the_database_keeps_the_order_of_entries(
  location: str, changes: dict[str, object], message: str
) -> None:
  with Ledger.open(location) as ledger:
    run = open_run(ledger)
    run.commit(run.reserve(ROUND), ROUND, {})
    with ledger._engine.begin() as connection:
      row = dict(
        connection.exec_driver_sql('SELECT * FROM entries').mappings().all()[1]
      )
      columns = sa.table('entries', *map(sa.column, row))
      row['sequence'] = 3
      if 'attempt' in changes:
        second = {**row, 'kind': 'reserved', 'attempt': 2}
        connection.execute(sa.insert(columns).values(second))
        row['sequence'] = 4
    with (
      pytest.raises(sa.exc.IntegrityError, match=message),
      ledger._engine.begin() as connection,
    ):
      connection.execute(sa.insert(columns).values({**row, **changes}))


def test_sqlite_cannot_replace_a_row(tmp_path: pathlib.Path) -> None:
  with Ledger.open(tmp_path / 'runs.db') as ledger:
    open_run(ledger)
    with (
      pytest.raises(sa.exc.IntegrityError, match='written once'),
      ledger._engine.begin() as connection,
    ):
      connection.exec_driver_sql(
        'INSERT OR REPLACE INTO runs SELECT id, name, 0, 0.5, created_at,'
        ' inherited FROM runs'
      )


def test_settings_stay_and_the_error_names_what_differs(location: str) -> None:
  with Ledger.open(location) as ledger:
    open_run(ledger)
    open_run(ledger)
    with pytest.raises(
      ledger_lib.RunSettingsError,
      match=r'cohort.size is 5 in the ledger and 6 now; noise is 1.0 in the'
      r' ledger and 2.0 now\. Use another',
    ):
      open_run(ledger, noise=2.0, cohort={'size': 6})
    with pytest.raises(ledger_lib.RunSettingsError, match='delta is'):
      ledger.open_run('mine', {'noise': 1.0, 'cohort': {'size': 5}}, delta=0.1)


def test_an_attempt_is_settled_once(location: str) -> None:
  with Ledger.open(location) as ledger:
    run = open_run(ledger)
    attempt = run.reserve(ROUND)
    run.commit(attempt, ROUND, {})
    with pytest.raises(ledger_lib.NotReservedError, match='Found committed'):
      run.lose(attempt, ROUND, '')
    with pytest.raises(ledger_lib.NotReservedError, match='Found nothing'):
      run.commit(ledger_lib.Attempt(9, 1), ROUND, {})


def test_of_two_writers_one_fails(location: str) -> None:
  with Ledger.open(location) as one, Ledger.open(location) as other:
    first, second = open_run(one), open_run(other)
    attempt = first.reserve(ROUND)
    for _ in range(2):
      with pytest.raises(
        ledger_lib.ConcurrentWriterError, match='written by somebody else'
      ):
        second.reserve(ROUND)
        second.reserve(ROUND)
    first.commit(attempt, ROUND, {})
    assert [e.kind for e in first.entries] == ['reserved', 'committed']


def test_a_writer_that_was_given_up_cannot_commit(location: str) -> None:
  with Ledger.open(location) as one, Ledger.open(location) as other:
    first = open_run(one)
    attempt = first.reserve(ROUND)
    open_run(other).lose(attempt, ROUND, 'its process ended')
    with pytest.raises(ledger_lib.ConcurrentWriterError, match='may be'):
      first.commit(attempt, ROUND, {})
    assert one.show('mine')['rounds'][0]['status'] == 'lost'


def test_a_run_that_lives_elsewhere_is_refused(
  location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  process = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=-1)
  writer = writers.this_process().rsplit(':', 2)[0]
  start = writers._start_time(process.pid)
  with monkeypatch.context() as patch, Ledger.open(location) as ledger:
    patch.setattr(
      writers, 'this_process', lambda: f'{writer}:{process.pid}:{start}'
    )
    open_run(ledger).reserve(ROUND)
  with Ledger.open(location) as ledger:
    with pytest.raises(
      ledger_lib.ConcurrentWriterError, match=f'the process {writer}'
    ):
      open_run(ledger)
    process.communicate()
    assert len(open_run(ledger).open_attempts) == 1


def test_processes_that_race_commit_each_round_once(location: str) -> None:
  """Two processes reserve as fast as they can; the loser notices."""
  script = textwrap.dedent("""
    import sys
    from tests.ledger import test_ledger as t
    with t.Ledger.open(sys.argv[1]) as ledger:
      try:
        run = t.open_run(ledger)
        for _ in range(10):
          run.commit(run.reserve(t.ROUND), t.ROUND, {})
      except t.ledger_lib.ConcurrentWriterError:
        pass
  """)
  command = [sys.executable, '-c', script, location]
  racers = [subprocess.Popen(command) for _ in range(2)]
  assert [racer.wait() for racer in racers] == [0] * 2
  with Ledger.open(location) as ledger:
    shown = ledger.show('mine')
  numbers = [r['round'] for r in shown['rounds']]
  assert numbers == list(range(1, len(numbers) + 1))
  attempts = [a for r in shown['rounds'] for a in r['attempts']]
  charges = len(attempts)
  assert shown['release_epsilon'] == pytest.approx(release(*[ROUND] * charges))


def test_unknown_runs_and_names(location: str) -> None:
  with Ledger.open(location) as ledger:
    with pytest.raises(
      ledger_lib.UnknownRunError, match=r"no run 'x'\. It has: none yet"
    ):
      ledger.show('x')
    open_run(ledger)
    assert ledger.names() == ('mine',)
    with pytest.raises(ledger_lib.UnknownRunError, match="It has: 'mine'"):
      ledger.show('x')
    with pytest.raises(TypeError, match='`name` must be a string'):
      ledger.open_run(3, {}, delta=DELTA)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r'1 to 200 characters\. Found 201'):
      ledger.open_run('x' * 201, {}, delta=DELTA)
    with pytest.raises(ValueError, match='`delta` must be'):
      ledger.open_run('x', {}, delta=1.0)
    with pytest.raises(TypeError, match='measurement `a` must be'):
      run = open_run(ledger)
      run.commit(run.reserve(ROUND), ROUND, {'a': [1]})


def test_a_new_run_has_spent_nothing(location: str) -> None:
  with Ledger.open(location) as ledger:
    open_run(ledger)
    shown = ledger.show('mine')
  assert shown['rounds'] == []
  assert shown['release_epsilon'] == shown['server_epsilon'] == 0.0
  assert shown['settings']['cohort'] == {'size': 5}
  assert shown['sessions'][0]['versions']['python']
