# SPDX-License-Identifier: Apache-2.0
"""Ledgers of every earlier version, opened with this one."""

from __future__ import annotations

import pathlib

from alembic import autogenerate
from alembic.runtime.migration import MigrationContext
import pytest
import sqlalchemy as sa

from tests.ledger import test_ledger as shared
from tff_secagg_ext.ledger import database, schema
from tff_secagg_ext.ledger.ledger import Ledger

# Those before there were chains.
VERSIONS = ['0001', '0002']


def test_the_migrations_make_the_tables_that_queries_see(
  tmp_path: pathlib.Path,
) -> None:
  engine = database.open_engine(tmp_path / 'runs.db')
  with engine.connect() as connection:
    context = MigrationContext.configure(
      connection, opts={'version_table': database.VERSION_TABLE}
    )
    assert autogenerate.compare_metadata(context, schema.metadata) == []
  engine.dispose()


def copy_to_version(source: pathlib.Path, location: str, version: str) -> None:
  """Makes a ledger of an earlier version with the rows of `source`."""
  engine, old = (
    sa.create_engine(location),
    sa.create_engine(f'sqlite:///{source}'),
  )
  database._migrate(engine, version)
  with old.connect() as reader, engine.begin() as writer:
    for name in ('runs', 'sessions', 'entries'):
      table = sa.Table(name, sa.MetaData(), autoload_with=engine)
      for row in reader.exec_driver_sql(f'SELECT * FROM {name}').mappings():
        columns = {c: row[c] for c in table.columns.keys()}  # noqa: SIM118
        writer.execute(sa.insert(table).values(columns))
      if engine.dialect.name == 'postgresql' and 'id' in table.columns:
        writer.exec_driver_sql(
          f"SELECT setval('{name}_id_seq', (SELECT MAX(id) FROM {name}))"
        )
  old.dispose()
  engine.dispose()


@pytest.fixture(params=VERSIONS)
def earlier(
  request: pytest.FixtureRequest, location: str, tmp_path: pathlib.Path
) -> str:
  """A ledger of an earlier version, with two runs and three sessions."""
  copy_to_version(_source(tmp_path), location, request.param)
  return location


def _source(folder: pathlib.Path) -> pathlib.Path:
  source = folder / 'source.db'
  with Ledger.open(source) as ledger:
    run = shared.open_run(ledger)
    run.commit(run.reserve(shared.ROUND), shared.WEAKER, {'scale': 2.0})
    other = ledger.open_run('other', {}, delta=0.1)
    other.reserve(shared.EXACT)
    shared.open_run(ledger).reserve(shared.ROUND)
  return source


def test_rows_of_earlier_versions_stay(
  earlier: str, tmp_path: pathlib.Path
) -> None:
  with (
    Ledger.open(tmp_path / 'source.db') as source,
    Ledger.open(earlier) as now,
  ):
    assert now.names() == source.names() == ('mine', 'other')
    for name in now.names():
      for server_view in (False, True):
        shown = now.show(name, server_view=server_view)
        assert shown == source.show(name, server_view=server_view)
    run = shared.open_run(now)
    (attempt,) = run.open_attempts
    run.commit(attempt, shared.ROUND, {}, {'threat': 'curious'})
    assert run.entries[-1].protocol == {'threat': 'curious'}
    expected = shared.release(shared.WEAKER, shared.ROUND)
    assert run.entries[-1].release.value == expected
    assert now.audits('mine') == ()
    now.record_audit('mine', 'utility', {'accuracy': 0.5})
    assert now.verify('mine').audits == 1


def test_rows_of_earlier_versions_are_chained_and_said_to_be(
  earlier: str,
) -> None:
  with Ledger.open(earlier) as ledger:
    head = ledger.verify('mine')
    assert (head.sessions, head.entries) == (2, 3)
    inherited = ledger._read('mine').chain.run['inherited']
    assert inherited.pop('at').startswith('20')
    assert inherited == {'sessions': 2, 'entries': 3}
    new = ledger.open_run('new', {}, delta=0.1)
    new.reserve(shared.ROUND)
    assert ledger._read('new').chain.run['inherited'] is None
    assert ledger.verify('new').entries == 1


def test_chains_of_the_version_before_audits_stay(
  location: str, tmp_path: pathlib.Path
) -> None:
  source = _source(tmp_path)
  copy_to_version(source, location, '0003')
  with Ledger.open(source) as before, Ledger.open(location) as now:
    for name in now.names():
      assert now.export(name) == before.export(name)
    kept = now.verify('mine')
    now.record_audit('mine', 'utility', {'accuracy': 0.5})
    assert now.verify('mine', kept).audits == 1


def test_a_migrated_ledger_is_append_only_again(earlier: str) -> None:
  with Ledger.open(earlier) as ledger:
    ledger.record_audit('mine', 'utility', {'accuracy': 0.5})
  engine = sa.create_engine(earlier)
  for table, column in (
    ('runs', 'delta'),
    ('sessions', 'writer'),
    ('entries', 'hash'),
    ('audits', 'figures'),
  ):
    for statement in (
      f'UPDATE {table} SET {column} = {column}',
      f'DELETE FROM {table}',
    ):
      with (
        pytest.raises(sa.exc.IntegrityError, match='append-only'),
        engine.begin() as connection,
      ):
        connection.exec_driver_sql(statement)
  engine.dispose()


def test_a_writer_of_an_earlier_version_cannot_go_on(earlier: str) -> None:
  Ledger.open(earlier).close()
  engine = sa.create_engine(earlier)
  with (
    pytest.raises(sa.exc.IntegrityError, match='hash'),
    engine.begin() as connection,
  ):
    connection.exec_driver_sql(
      'INSERT INTO sessions (id, run_id, writer, versions, opened_at)'
      " VALUES (9, 1, 'x', '{}', 'now')"
    )
  engine.dispose()


def test_a_migration_that_fails_leaves_the_ledger_as_it_was(
  earlier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  def tables() -> object:
    engine = sa.create_engine(earlier)
    found = sa.inspect(engine)
    names = {t: found.get_columns(t) for t in found.get_table_names()}
    columns = {t: [c['name'] for c in names[t]] for t in names}
    with engine.connect() as connection:
      version = connection.exec_driver_sql(
        f'SELECT version_num FROM {database.VERSION_TABLE}'
      ).scalar()
    engine.dispose()
    return columns, version

  before = tables()
  with monkeypatch.context() as patch:
    patch.setattr(database.command, 'upgrade', _upgrade_and_fail)
    with pytest.raises(ZeroDivisionError):
      Ledger.open(earlier)
  assert tables() == before
  with Ledger.open(earlier) as ledger:
    assert ledger.verify('mine').entries == 3


_upgrade = database.command.upgrade


def _upgrade_and_fail(*args: object) -> None:
  _upgrade(*args)
  raise ZeroDivisionError
