# SPDX-License-Identifier: Apache-2.0
"""Caps on participations: refused, not believed; counted whatever is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
import itertools
import json
import multiprocessing
import os
import pathlib
import random
import stat
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest

from tests.program import conftest
from tests.program.test_recorder import _dataset
from tff_secagg_ext import accounting, ledger, program
from tff_secagg_ext._compat import tff
from tff_secagg_ext.program.participants import Participants

CLIENTS = conftest.CLIENTS
NAMES = [f'user-{i}@example.org' for i in range(4 * CLIENTS)]
EVENT = accounting.NoisedSumEvent('distributed_dgauss', 100.0, 20.0, 25, 64)
ROUND = accounting.Round((EVENT,), accounting.NoSampling())
NOTHING = accounting.Round((), accounting.NoSampling())


class Book:
  """A run with a cap, whose rounds are entries alone."""

  def __init__(self, folder: pathlib.Path, most: int = 2, separation: int = 3):
    cap = accounting.ParticipationCap(most, separation)
    self.participation = program.Participation(cap, folder / 'participants')
    opened = ledger.Ledger.open(folder / 'runs.db')
    self.run = opened.open_run('a', {}, delta=1e-5, participation=cap)
    self.participants = Participants(self.run, self.participation)

  def attempt(self, *members: object, charge: accounting.Round = ROUND) -> None:
    self.participants.admit(members)
    attempt = self.run.reserve(ROUND)
    if charge is ROUND:
      self.run.commit(attempt, charge, {})
    else:
      self.run.lose(attempt, charge, 'lost')

  @property
  def file(self) -> pathlib.Path:
    return pathlib.Path(self.participation.folder) / 'participants.jsonl'


def test_clients_too_often_or_too_soon_are_refused(
  tmp_path: pathlib.Path,
) -> None:
  book = Book(tmp_path)
  book.attempt('a', 'b')
  book.attempt('c')
  with pytest.raises(
    program.ParticipationError,
    match=r'at most 2 rounds, 3 or more apart\..* too soon for 2 of 3 clients',
  ) as caught:
    book.attempt('a', 'b', 'd')
  assert "'a'" not in str(caught.value)
  assert book.run.attempts == 2
  book.attempt('d')
  book.attempt('a')
  book.attempt('e')
  book.attempt('f')
  book.attempt('b')
  # Three rounds would be too many, at any distance.
  for i in range(9):
    book.attempt(f'other {i}')
  assert book.participants.may_take_part(['a', 'b', 'c', 'd']) == [
    False,
    False,
    True,
    True,
  ]
  with pytest.raises(program.ParticipationError, match='too soon for 1 of 1'):
    book.attempt('a')


@given(
  st.integers(1, 3),
  st.integers(1, 4),
  st.lists(st.tuples(st.sets(st.integers(0, 3)), st.integers(0, 2))),
)
def test_what_is_admitted_keeps_the_cap_however_it_was_opened(
  tmp_path_factory: pytest.TempPathFactory,
  most: int,
  separation: int,
  rounds: list[tuple[set[int], int]],
) -> None:
  """By a naive count; every third round the files are opened anew."""
  folder = tmp_path_factory.mktemp('book')
  book = Book(folder, most, separation)
  taken: dict[int, list[int]] = {}
  for members, fate in rounds:
    number = book.run.attempts
    expected = [
      len(taken.get(m, [])) < most
      and all(number - n >= separation for n in taken.get(m, []))
      for m in sorted(members)
    ]
    assert book.participants.may_take_part(sorted(members)) == expected
    if all(expected):
      charge = NOTHING if fate == 1 else ROUND
      book.attempt(*members, charge=charge)
      if charge is ROUND:
        for m in members:
          taken.setdefault(m, []).append(number)
    if fate == 2:
      book = Book(folder, most, separation)


def test_lost_attempts_count_unless_they_cost_nothing(
  tmp_path: pathlib.Path,
) -> None:
  book = Book(tmp_path, most=1)
  lost = accounting.Round((EVENT,), accounting.NoSampling())
  book.attempt('a', charge=lost)
  book.attempt('b', charge=NOTHING)
  for opened in (book, Book(tmp_path, most=1)):
    assert opened.participants.may_take_part(['a', 'b']) == [False, True]


def test_an_attempt_that_is_open_counts(tmp_path: pathlib.Path) -> None:
  book = Book(tmp_path, most=1)
  book.participants.admit(['a'])
  book.run.reserve(ROUND)
  for opened in (book, Book(tmp_path, most=1)):
    assert opened.participants.may_take_part(['a']) == [False]


def test_a_kill_before_the_reservation_leaves_both_cohorts_counted(
  tmp_path: pathlib.Path,
) -> None:
  Book(tmp_path, most=1).participants.admit(['a', 'b'])
  book = Book(tmp_path, most=1)
  # Nobody knows whether they were asked; they may be asked again at once.
  book.attempt('a')
  assert book.participants.may_take_part(['a', 'b', 'c']) == [
    False,
    False,
    True,
  ]


@pytest.mark.parametrize('cut', [1, 10, 40])
def test_half_a_line_is_cut_off(tmp_path: pathlib.Path, cut: int) -> None:
  book = Book(tmp_path, most=1)
  book.attempt('a')
  book.participants.admit(['b'])
  os.truncate(book.file, book.file.stat().st_size - cut)
  book = Book(tmp_path, most=1)
  book.attempt('c')
  assert book.participants.may_take_part(['a', 'b', 'c']) == [
    False,
    True,
    False,
  ]
  assert Book(tmp_path, most=1).run.attempts == 2


def _live(folder: pathlib.Path, seed: int) -> None:
  """Takes clients at random for as long as it lives; journals who was in."""
  book, draw = Book(folder, most=4, separation=3), random.Random(seed)
  while True:
    names = draw.sample(NAMES, 6)
    allowed = book.participants.may_take_part(names)
    members = [n for n, may in zip(names, allowed, strict=True) if may]
    book.participants.admit(members)
    attempt = book.run.reserve(ROUND)
    line = json.dumps([book.run.attempts - 1, members]) + '\n'
    with open(folder / 'journal', 'a', encoding='utf-8') as file:
      file.write(line)
      file.flush()
      os.fsync(file.fileno())
    book.run.commit(attempt, ROUND, {})


def test_nobody_takes_part_too_often_whenever_it_is_killed(
  tmp_path: pathlib.Path,
) -> None:
  """Kill -9 at ten random moments; the journal knows nothing of the files."""
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(['tff_secagg_ext.program'])
  moments = random.Random(5)
  for seed in range(10):
    life = context.Process(target=_live, args=(tmp_path, seed))
    life.start()
    begun, deadline = _lines(tmp_path), time.monotonic() + 60
    while _lines(tmp_path) < begun + 2 and time.monotonic() < deadline:
      assert life.is_alive()
      time.sleep(0.002)
    time.sleep(moments.uniform(0.0, 0.05))
    life.kill()
    life.join()
  taken: dict[str, list[int]] = {}
  for line in (tmp_path / 'journal').read_text().splitlines():
    number, members = json.loads(line)
    for each in members:
      taken.setdefault(each, []).append(number)
  assert max(len(numbers) for numbers in taken.values()) > 1
  for numbers in taken.values():
    assert len(numbers) <= 4
    assert all(b - a >= 3 for a, b in itertools.pairwise(numbers))
  book = Book(tmp_path, most=4, separation=3)
  assert book.run.attempts >= 20


def _lines(folder: pathlib.Path) -> int:
  path = folder / 'journal'
  return path.read_text().count('\n') if path.exists() else 0


def _remove(book: Book) -> None:
  book.file.unlink()


def _shorten(book: Book) -> None:
  lines = book.file.read_text().splitlines(keepends=True)
  book.file.write_text(''.join(lines[:-1]))


def _garble(book: Book) -> None:
  book.file.write_text(book.file.read_text().replace('members', 'member'))


def _rename(book: Book) -> None:
  lines = book.file.read_text().splitlines(keepends=True)
  book.file.write_text(''.join(['{}\n', *lines[1:]]))


def _rekey(book: Book) -> None:
  key = book.file.with_name('participants.key')
  key.write_bytes(bytes(32))


@pytest.mark.parametrize(
  ('spoil', 'message'),
  [
    (_remove, 'Found no such file'),
    (_shorten, 'Found none of 1 of its attempts'),
    (_garble, 'Found a line that cannot be read'),
    (_rename, 'those of another run, or under another key'),
    (_rekey, 'those of another run, or under another key'),
  ],
)
def test_without_all_participants_a_run_is_not_continued(
  tmp_path: pathlib.Path, spoil: Callable[[Book], None], message: str
) -> None:
  book = Book(tmp_path)
  book.attempt('a')
  book.attempt('b')
  spoil(book)
  with pytest.raises(program.ParticipationError, match=message):
    Book(tmp_path)


def test_without_its_key_a_run_is_not_continued(
  tmp_path: pathlib.Path,
) -> None:
  book = Book(tmp_path)
  book.attempt('a')
  book.file.with_name('participants.key').unlink()
  with pytest.raises(program.RunKeyError, match='must be kept as long as'):
    Book(tmp_path)


def test_hashes_are_keyed_and_files_are_the_owners(
  tmp_path: pathlib.Path,
) -> None:
  texts = []
  for name in ('one', 'two'):
    (tmp_path / name).mkdir()
    book = Book(tmp_path / name)
    book.attempt(*NAMES)
    text = book.file.read_text()
    assert not any(each in text for each in NAMES)
    assert 'example' not in (tmp_path / name / 'runs.db').read_text('latin-1')
    for path in book.file.parent.iterdir():
      assert stat.S_IMODE(path.stat().st_mode) == 0o600
    texts.append(json.loads(text.splitlines()[1])['members'])
  assert not set(texts[0]) & set(texts[1])
  assert all(len(each) == 32 for each in texts[0])


def test_names_that_read_the_same_are_one_client(
  tmp_path: pathlib.Path,
) -> None:
  book = Book(tmp_path, most=1)
  book.attempt('7')
  assert book.participants.may_take_part([7, b'7', '7', 8]) == [
    False,
    False,
    False,
    True,
  ]
  with pytest.raises(program.ParticipationError, match=r'once\. Found 2 names'):
    book.attempt('8', 8)
  for name in (True, 1.5, None):
    with pytest.raises(TypeError, match='The name of a client must be'):
      book.attempt(name)


def test_the_ledger_tells_the_cap_and_counts_the_worst_within_it(
  tmp_path: pathlib.Path,
) -> None:
  """In the order of reservation, whenever attempts are settled."""
  book = Book(tmp_path, most=2, separation=3)
  weak = accounting.NoisedSumEvent('distributed_dgauss', 100.0, 20.0, 9, 64)
  charges = [
    accounting.Round((weak,), accounting.NoSampling()),
    ROUND,
    accounting.Round((weak,), accounting.NoSampling()),
    ROUND,
  ]
  attempts = [book.run.reserve(ROUND) for _ in charges]
  cap = book.participation.cap
  for settled in (2, 0, 3, 1):
    book.run.lose(attempts[settled], charges[settled], 'out of order')
  expected = accounting.server_epsilon(charges, 1e-5, cap)
  assert book.run.entries[-1].server == expected
  assert expected.value == pytest.approx(
    accounting.server_epsilon([charges[0], ROUND], 1e-5).value
  )
  opened = ledger.Ledger.open(tmp_path / 'runs.db')
  shown = opened.show('a')
  assert shown['settings']['participation'] == {'most': 2, 'separation': 3}
  assert shown['server_epsilon'] == expected.value
  with pytest.raises(ledger.RunSettingsError, match='participation'):
    opened.open_run('a', {}, delta=1e-5)


class Setting:
  """A learning process with a cap on participations."""

  def __init__(
    self, process: Any, aggregator: Any, data: list[Any], folder: pathlib.Path
  ):
    self.process, self.aggregator, self.data = process, aggregator, data
    self.folder = folder

  def recorder(self, process: Any = None, **cap: int) -> Any:
    return program.PrivacyRecorder(
      process or self.process,
      self.aggregator,
      ledger=self.folder / 'runs.db',
      run='a',
      sampling=accounting.NoSampling(),
      delta=1e-5,
      participation=program.Participation(
        accounting.ParticipationCap(**{'most': 1, **cap}),
        self.folder / 'participants',
      ),
    )


@pytest.fixture
def setting(
  process: Any, aggregator: Any, data: list[Any], tmp_path: pathlib.Path
) -> Setting:
  return Setting(process, aggregator, data, tmp_path)


def test_a_recorder_has_to_know_who_takes_part(setting: Setting) -> None:
  recorder = setting.recorder()
  state = recorder.initialize()
  message = 'must know who takes part in each round. Found none of the names'
  with pytest.raises(program.ParticipationError, match=message):
    recorder.next(state, setting.data[:2])
  with (
    recorder.of_clients(['a']),
    pytest.raises(program.ParticipationError, match='Found 1 of the names'),
  ):
    recorder.next(state, setting.data[:2])
  assert recorder.account.run.attempts == 0
  with recorder.of_clients(['a', 'b']):
    state = recorder.next(state, setting.data[:2]).state
    with pytest.raises(program.ParticipationError, match='2 of 2 clients'):
      recorder.next(state, setting.data[:2])
  (entry,) = recorder.account.run.entries[1:]
  assert entry.kind == 'committed'
  participants = recorder.account.participants
  assert participants.may_take_part(['a', 'c']) == [False, True]


def test_a_cap_alone_is_refused(setting: Setting) -> None:
  with pytest.raises(TypeError, match='`participation` must be a Particip'):
    program.PrivacyRecorder(
      setting.process,
      setting.aggregator,
      ledger=setting.folder / 'runs.db',
      run='a',
      sampling=accounting.NoSampling(),
      delta=1e-5,
      participation=accounting.ParticipationCap(1),  # type: ignore[arg-type]
    )


def test_client_ids_are_known_by_themselves(setting: Setting) -> None:
  composed = tff.simulation.compose_dataset_computation_with_learning_process(
    _dataset, setting.process
  )
  recorder = setting.recorder(composed)
  state = recorder.initialize()
  recorder.next(state, NAMES[:3])
  with pytest.raises(program.ParticipationError, match='1 of 2 clients'):
    recorder.next(state, NAMES[2:4])


def test_train_model_is_refused_as_well(setting: Setting) -> None:
  composed = tff.simulation.compose_dataset_computation_with_learning_process(
    _dataset, setting.process
  )
  recorder = setting.recorder(composed)

  async def train() -> None:
    context = tff.program.NativeFederatedContext(
      tff.backends.native.create_async_local_cpp_execution_context()
    )
    with tff.framework.get_context_stack().install(context):
      await tff.learning.programs.train_model(
        train_process=recorder,
        train_data_source=tff.program.ClientIdDataSource(NAMES[:CLIENTS]),
        train_per_round_clients=CLIENTS,
        train_total_rounds=2,
        should_discard_round=lambda output: False,
        program_state_manager=tff.program.FileProgramStateManager(
          setting.folder / 'states'
        ),
        model_output_manager=tff.program.MemoryReleaseManager(),
        evaluation_manager=None,
        evaluation_periodicity=1,
      )

  with pytest.raises(program.ParticipationError, match='5 of 5 clients'):
    asyncio.run(train())


def test_the_loop_tells_who_takes_part(setting: Setting) -> None:
  recorder = setting.recorder(most=2)

  class Everybody(program.FixedCohorts):
    @property
    def sampling(self) -> Any:
      return accounting.NoSampling()

    def draw(self, turn: Any = None) -> program.Cohort:
      del turn
      return program.Cohort((0, 1, 2), accounting.NoSampling())

  def client_data(members: Sequence[int]) -> list[Any]:
    return [setting.data[i] for i in members]

  plan = program.TrainingPlan(9, Everybody(3, 3), setting.folder / 'states')
  with pytest.raises(program.ParticipationError, match='3 of 3 clients'):
    program.train(recorder, client_data, plan)
  assert recorder.account.run.rounds_committed == 2
