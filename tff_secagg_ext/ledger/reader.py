# SPDX-License-Identifier: Apache-2.0
"""Opens the database of a ledger for reading alone.

Guarantees:

* The database refuses what would write: a file of SQLite is opened with
  `mode=ro`, and every transaction of PostgreSQL is read-only.
* Nothing is migrated, and no byte of the ledger changes. SQLite's own files
  beside it (`-wal`, `-shm`) are there while it is read.
* A file that takes the place of another is read from then on.
"""

from __future__ import annotations

from collections.abc import Callable
import os
import pathlib
from typing import Any, TypeAlias
import urllib.parse

from alembic.script import ScriptDirectory
import sqlalchemy as sa

from tff_secagg_ext.ledger import database, errors

_Listener: TypeAlias = Callable[..., None]


def open_engine(location: str | os.PathLike[str]) -> sa.Engine:
  """Returns an engine that reads a ledger, and cannot write it.

  Args:
    location: A path, or an SQLAlchemy URL of SQLite or PostgreSQL.

  Raises:
    TypeError: If the location is no path or string.
    ValueError: If the URL is malformed or names another kind of database.
    ForeignDatabaseError: If the location is a folder or holds something else.
    NewerLedgerError: If a later version of this package has written it.
    OlderLedgerError: If an earlier one has, and it was not migrated since.
    LedgerError: If it cannot be opened.
  """
  url = database.resolve(location)
  if url.get_backend_name() == 'sqlite':
    engine = _open_file(url, pathlib.Path(str(url.database)))
  else:
    options = {
      'options': '-c default_transaction_read_only=on',
      'application_name': 'tff-secagg reader',
    }
    engine = database.create_engine(url, options, pool_pre_ping=True)
  try:
    with database.translated(url):
      _check_version(engine, url)
  except BaseException:
    engine.dispose()
    raise
  return engine


def _open_file(url: sa.URL, path: pathlib.Path) -> sa.Engine:
  database.check_file(path, create=False)
  place = str(path.absolute())
  file = f'file:{urllib.parse.quote(place)}'
  only = url.set(database=file, query={'mode': 'ro', 'uri': 'true'})
  engine = database.create_engine(only, {'timeout': database.LOCK_SECONDS})
  sa.event.listen(engine, 'connect', _configure(place))
  sa.event.listen(engine, 'checkout', _check_place(place))
  sa.event.listen(engine, 'begin', database.begin_sqlite)
  return engine


def _configure(path: str) -> _Listener:
  def configure(connection: Any, record: Any) -> None:
    connection.isolation_level = None
    connection.execute('PRAGMA query_only=ON')
    record.info['identity'] = database.identity(path)

  return configure


def _check_place(path: str) -> _Listener:
  def check(connection: Any, record: Any, proxy: Any) -> None:
    del connection, proxy
    there = os.path.exists(path)
    if not there or database.identity(path) != record.info['identity']:
      # The pool opens the file anew.
      raise sa.exc.DisconnectionError

  return check


def _check_version(engine: sa.Engine, url: sa.URL) -> None:
  """Checks that a ledger is as this package writes it."""
  scripts = ScriptDirectory.from_config(database.config())
  newest = scripts.get_current_head()
  with engine.execution_options(reading=True).connect() as connection:
    found = database.current_version(connection, scripts)
  if found == newest:
    return
  where = url.render_as_string(hide_password=True)
  if found is None:
    raise errors.LedgerError(
      f'There is no ledger at {where}: the database is empty. Check the name,'
      ' or record a run first.'
    )
  raise errors.OlderLedgerError(
    f'The ledger at {where} has version {found!r}, and is read at version'
    f' {newest!r}. It is opened for reading alone, and so is not migrated:'
    f' `tff-secagg ledger list --ledger {where}` does that.'
  )
