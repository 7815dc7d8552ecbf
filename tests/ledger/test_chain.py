# SPDX-License-Identifier: Apache-2.0
"""Each way to alter a run is named; the format of its hashes is fixed."""

from __future__ import annotations

from collections.abc import Callable
import hashlib
import json
import random
import re

import pytest
import sqlalchemy as sa

from tests.ledger import test_ledger as shared
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.ledger import chain as chain_lib
from tff_secagg_ext.ledger import rows
from tff_secagg_ext.ledger.chain import Chain, Head
from tff_secagg_ext.ledger.ledger import Ledger

PROTOCOL = {'threat': 'curious', 'verified': True, 'survivors': 17}
SESSIONS, ENTRIES = 3, 9


def write(ledger: Ledger) -> None:
  """Writes three sessions and nine entries, of each kind."""
  for _ in range(SESSIONS - 1):
    run = shared.open_run(ledger)
    run.lose(run.reserve(shared.EXACT), shared.EXACT, 'lost', PROTOCOL)
    run.commit(run.reserve(shared.ROUND), shared.WEAKER, {'a': 1.5}, PROTOCOL)
  shared.open_run(ledger).reserve(shared.ROUND)


def forge(location: str, *statements: str) -> None:
  """Runs statements as somebody who may drop triggers."""
  engine = sa.create_engine(location)
  with engine.begin() as connection:
    if engine.dialect.name == 'sqlite':
      triggers = connection.exec_driver_sql(
        "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
      ).all()
      for name, _ in triggers:
        connection.exec_driver_sql(f'DROP TRIGGER {name}')
    else:
      connection.exec_driver_sql("SET session_replication_role = 'replica'")
    for statement in statements:
      connection.exec_driver_sql(statement)
    if engine.dialect.name == 'sqlite':
      for _, sql in triggers:
        connection.exec_driver_sql(sql)
  engine.dispose()


def _insertion(after: int, sequence: str) -> list[str]:
  """Statements that insert a copy of an entry after itself, renumbered."""
  names = [c.name for c in ledger_lib.ledger.schema.entries.columns]
  listed = ', '.join(names)
  copied = ', '.join(sequence if n == 'sequence' else n for n in names)
  copied = copied.replace('round,', '77,')
  return [
    f'UPDATE entries SET sequence = -sequence WHERE sequence > {after}',
    'UPDATE entries SET sequence = 1 - sequence WHERE sequence < 0',
    f'INSERT INTO entries ({listed}) SELECT {copied} FROM entries'
    f' WHERE sequence = {after}',
  ]


_TAMPERINGS = {
  'a settings value': (
    ["UPDATE runs SET settings = '{}'"],
    'the run was altered: its first session was written for another',
  ),
  'delta': (['UPDATE runs SET delta = 0.5'], 'the run was altered'),
  'the time of a run': (
    ["UPDATE runs SET created_at = '2020'"],
    'the run was altered',
  ),
  'the mark of a migration': (
    ["UPDATE runs SET inherited = '{}'"],
    'the run was altered',
  ),
  'a writer': (
    ["UPDATE sessions SET writer = 'x:1:1' WHERE id = 2"],
    'session 2 was altered',
  ),
  'versions': (
    ["UPDATE sessions SET versions = '{}' WHERE id = 1"],
    'session 1 was altered',
  ),
  'a missing session': (
    [
      'UPDATE entries SET session_id = 1 WHERE session_id = 2',
      'DELETE FROM sessions WHERE id = 2',
    ],
    'session 2 is missing: session 3 is in its place',
  ),
  'a session that none follows': (
    [
      'UPDATE entries SET session_id = 2 WHERE session_id = 3',
      'DELETE FROM sessions WHERE id = 3',
    ],
    'entry 9, or the session that wrote it, was altered',
  ),
  'an epsilon': (
    ['UPDATE entries SET release_epsilon = 0.1 WHERE sequence = 4'],
    'entry 4, or the session that wrote it, was altered',
  ),
  'a charge that is not JSON': (
    ["UPDATE entries SET charge = '{' WHERE sequence = 3"],
    'entry 3, or the session that wrote it, was altered',
  ),
  'a hidden value': (
    [
      "UPDATE entries SET protocol = REPLACE(protocol, '17', '18')"
      ' WHERE sequence = 6'
    ],
    'entry 6, or the session that wrote it, was altered',
  ),
  'a time': (
    ["UPDATE entries SET recorded_at = 'now' WHERE sequence = 9"],
    'entry 9, or the session that wrote it, was altered',
  ),
  'the session of an entry': (
    ['UPDATE entries SET session_id = 1 WHERE sequence = 5'],
    'entry 5, or the session that wrote it, was altered',
  ),
  'a missing entry': (
    ['DELETE FROM entries WHERE sequence = 4'],
    'entry 4 is missing',
  ),
  'missing entries, the others renumbered': (
    [
      'DELETE FROM entries WHERE sequence IN (4, 5)',
      'UPDATE entries SET sequence = -sequence WHERE sequence > 5',
      'UPDATE entries SET sequence = -sequence - 2 WHERE sequence < 0',
    ],
    'entry 4 is missing: entry 6 is in its place',
  ),
  'an inserted entry': (
    [*_insertion(4, '5'), 'UPDATE entries SET note = 1 WHERE sequence = 5'],
    'entry 5 was inserted',
  ),
  'an inserted copy': (
    [
      *_insertion(3, '4'),
      'UPDATE entries SET round = (SELECT round FROM entries WHERE sequence'
      ' = 3) WHERE sequence = 4',
    ],
    'entry 4 was inserted: it is a copy of entry 3',
  ),
  'reordered entries': (
    [
      'UPDATE entries SET sequence = 99 WHERE sequence = 2',
      'UPDATE entries SET sequence = 2 WHERE sequence = 6',
      'UPDATE entries SET sequence = 6 WHERE sequence = 99',
    ],
    'entry 2 was reordered: it is at 6',
  ),
}


@pytest.mark.parametrize('what', _TAMPERINGS)
def test_the_first_row_that_was_altered_is_named(
  location: str, what: str
) -> None:
  statements, expected = _TAMPERINGS[what]
  with Ledger.open(location) as ledger:
    write(ledger)
    assert ledger.verify('mine').entries == ENTRIES
  if what.startswith('an inserted'):
    statements = [
      'DROP INDEX entries_reserved_once',
      'DROP INDEX entries_settled_once',
      'DROP INDEX entries_committed_once',
      *statements,
    ]
  forge(location, *statements)
  with Ledger.open(location) as ledger:
    with pytest.raises(ledger_lib.BrokenChainError) as info:
      ledger.verify('mine')
    assert f"run 'mine' is broken: {expected}" in str(info.value)
    with (
      ledger.scan('mine') as scan,
      pytest.raises(
        ledger_lib.BrokenChainError, match=re.escape(str(info.value))
      ),
    ):
      scan.read(lambda row, record: None)
    assert 'Restore the ledger from a copy that verifies' in str(info.value)


def test_a_row_with_a_new_hash_is_named_by_the_next(location: str) -> None:
  with Ledger.open(location) as ledger:
    write(ledger)
    found = ledger._read('mine')
    session, entry = dict(found.sessions[1]), dict(found.entries[3])
    session_end, entry_end = (
      found.chain.sessions[0]['hash'],
      found.chain.entries[3]['session'],
    )
  session['writer'] = 'other:1:1'
  entry['release_epsilon'] = 0.25
  hashes = {
    'sessions': chain_lib.hash_of(rows.session_record(session, 2)),
    'entries': chain_lib.hash_of(rows.entry_record(entry, entry_end)),
  }
  assert session['previous'] == session_end
  forge(
    location,
    f"UPDATE entries SET release_epsilon = 0.25, hash = '{hashes['entries']}'"
    ' WHERE sequence = 4',
  )
  with (
    Ledger.open(location) as ledger,
    pytest.raises(
      ledger_lib.BrokenChainError,
      match='entry 4 was altered: entry 5 followed another',
    ),
  ):
    ledger.verify('mine')
  forge(
    location,
    "UPDATE sessions SET writer = 'other:1:1',"
    f" hash = '{hashes['sessions']}' WHERE id = 2",
  )
  with (
    Ledger.open(location) as ledger,
    pytest.raises(
      ledger_lib.BrokenChainError,
      match='session 2 was altered: session 3 followed another',
    ),
  ):
    ledger.verify('mine')


def test_all_that_show_tells_is_bound(location: str) -> None:
  """Whatever single column is altered, the chain breaks."""
  with Ledger.open(location) as ledger:
    write(ledger)
    found = ledger._read('mine')
  assert found.chain.fault() is None
  local = {'id', 'run_id', 'name'}
  for table, row in (
    ('run', found.run),
    ('sessions', found.sessions[1]),
    ('entries', found.entries[3]),
  ):
    for column, value in row.items():
      if column in local:
        continue
      changed = {**row, column: 'x' if value is None else _other(value)}
      if table == 'run':
        forged = rows.RunRows(changed, found.sessions, found.entries)
      else:
        others = list(getattr(found, table))
        others[others.index(row)] = changed
        parts = {'sessions': found.sessions, 'entries': found.entries}
        forged = rows.RunRows(found.run, **{**parts, table: others})
      assert forged.chain.fault(), (table, column)


def _other(value: object) -> object:
  return f'{value} ' * 2 if isinstance(value, str) else value + 1  # type: ignore[operator]


def test_a_kept_head_shows_what_is_cut_off_or_written_anew(
  location: str,
) -> None:
  with Ledger.open(location) as ledger:
    write(ledger)
    head = ledger.verify('mine')
    run = shared.open_run(ledger)
    run.lose(next(iter(run.open_attempts)), shared.ROUND, 'gone')
    assert ledger.verify('mine', head) != head
    assert ledger.verify('mine', f' {head}\n').entries == ENTRIES + 1
    later = ledger.verify('mine')
  forge(location, f'DELETE FROM entries WHERE sequence > {ENTRIES}')
  with Ledger.open(location) as ledger:
    assert ledger.verify('mine', head).entries == ENTRIES
    with pytest.raises(
      ledger_lib.BrokenChainError,
      match='entry 10 is missing, and all after it up to 10, which the head',
    ):
      ledger.verify('mine', later)
    # All hashes anew: without a head nobody can tell.
    found = ledger._read('mine')
    entries = [{**e, 'release_epsilon': 0.0} for e in found.entries]
    forged = rows.chained_anew(
      rows.RunRows(found.run, found.sessions, entries), {'x': 1}
    )
    assert forged.chain.fault() is None
    fault = forged.chain.fault(head)
    assert fault is not None
    assert 'the whole chain was written anew' in fault


def test_sessions_that_are_cut_off_are_missed(location: str) -> None:
  with Ledger.open(location) as ledger:
    write(ledger)
    shared.open_run(ledger)
    head = ledger.verify('mine')
    assert head.sessions == SESSIONS + 1
  forge(location, f'DELETE FROM sessions WHERE id > {SESSIONS}')
  with (
    Ledger.open(location) as ledger,
    pytest.raises(
      ledger_lib.BrokenChainError, match='session 4 is missing, and all after'
    ),
  ):
    ledger.verify('mine', head)


def test_nothing_is_added_to_a_broken_chain(location: str) -> None:
  with Ledger.open(location) as ledger:
    write(ledger)
    run = shared.open_run(ledger)
    before = ledger.verify('mine')
    forge(location, 'UPDATE entries SET round = 5 WHERE sequence = 3')
    with pytest.raises(ledger_lib.BrokenChainError, match='entry 3, or'):
      shared.open_run(ledger)
    run._fresh = False
    with pytest.raises(ledger_lib.BrokenChainError, match='nothing is added'):
      run.reserve(shared.ROUND)
    found = ledger._read('mine')
  assert len(found.sessions) == before.sessions
  assert len(found.entries) == before.entries


@pytest.mark.parametrize(
  'text',
  ['', '1.2', '1.2.ab', f'x.2.{"a" * 64}', f'1.2.{"g" * 64}', f'²..{"a" * 64}'],
)
def test_what_is_no_head_is_refused(location: str, text: str) -> None:
  with Ledger.open(location) as ledger:
    write(ledger)
    with pytest.raises(
      ValueError, match='two numbers and 64 hexadecimal digits'
    ):
      ledger.verify('mine', text)


def test_hashes_have_a_fixed_form() -> None:
  """Recomputed by hand, as docs/ledger.md says; the digest is a constant."""
  entry = {
    'what': 'entry',
    'number': 1,
    'previous': '0' * 64,
    'protocol': {'threat': 'curious', 'survivors': 17},
    'recorded_at': 'then',
    'salt': 'ab' * 32,
  }

  def sha256(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()

  hidden = {name: entry[name] for name in ('protocol', 'recorded_at', 'salt')}
  open_ = {name: entry[name] for name in ('what', 'number', 'previous')}
  open_ |= {'hidden': sha256(hidden), 'protocol': {'threat': 'curious'}}
  assert chain_lib.hash_of(entry) == sha256(open_)
  assert chain_lib.hash_of({**open_, 'hash': 'x'}) == sha256(open_)
  assert chain_lib.hash_of(entry) == DIGEST


DIGEST = '8ff1884f5e6edb1cd5f224f5d9f5d93511c48da57010fc1ed7206bed45696b32'


def test_random_alterations_of_a_long_chain_are_found_where_they_are() -> None:
  draws = random.Random(0)
  entries, run = [], {'what': 'run', 'name': 'a'}
  previous = chain_lib.hash_of(run)
  session = {'what': 'session', 'number': 1, 'previous': previous}
  session['hash'] = chain_lib.hash_of(session)
  sessions = [session]
  for number in range(1, 41):
    record = {'what': 'entry', 'number': number, 'previous': previous}
    record['session'] = session['hash']
    record['value'] = draws.random()
    previous = record['hash'] = chain_lib.hash_of(record)
    entries.append(record)
  assert Chain(run, sessions, entries).fault() is None
  for _ in range(100):
    forged, place = [dict(e) for e in entries], draws.randrange(1, 40)
    alter, expected = draws.choice(_ALTERATIONS)
    alter(forged, place)
    fault = Chain(run, sessions, forged).fault()
    assert fault is not None
    assert re.match(rf'entry {place}\b.* {expected}', fault), fault


def _alter(forged: list[dict[str, object]], place: int) -> None:
  forged[place - 1]['value'] = 2.0


def _remove(forged: list[dict[str, object]], place: int) -> None:
  del forged[place - 1]


def _remove_and_renumber(forged: list[dict[str, object]], place: int) -> None:
  _remove(forged, place)
  _renumber(forged)


def _insert(forged: list[dict[str, object]], place: int) -> None:
  forged.insert(place - 1, {**forged[place], 'value': 3.0})
  _renumber(forged)


def _swap(forged: list[dict[str, object]], place: int) -> None:
  forged[place - 1], forged[-1] = forged[-1], forged[place - 1]
  _renumber(forged)


def _renumber(forged: list[dict[str, object]]) -> None:
  for number, record in enumerate(forged, 1):
    record['number'] = number


_ALTERATIONS: list[tuple[Callable[..., None], str]] = [
  (_alter, 'was altered'),
  (_remove, 'is missing'),
  (_remove_and_renumber, 'is missing'),
  (_insert, 'was inserted'),
  (_swap, 'was reordered'),
]


def test_an_entry_of_no_session_is_named() -> None:
  run = {'what': 'run', 'name': 'a'}
  entry = {'what': 'entry', 'number': 1, 'previous': chain_lib.hash_of(run)}
  entry['session'] = 'gone'
  entry['hash'] = chain_lib.hash_of(entry)
  fault = Chain(run, [], [entry]).fault()
  assert fault == 'the session that wrote entry 1 is missing'


def test_heads_read_as_they_are_written() -> None:
  for head in (Head(3, 9, 'a' * 64), Head(3, 9, 'a' * 64, audits=2)):
    assert Head.parse(str(head)) == head
