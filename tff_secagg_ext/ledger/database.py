# SPDX-License-Identifier: Apache-2.0
"""Opens the database of a ledger: SQLite by default, PostgreSQL by URL.

Guarantees:

* A transaction is on the disk when it returns. SQLite runs with a
  write-ahead log and `synchronous=FULL`, PostgreSQL with
  `synchronous_commit=on`.
* A database that is not a ledger, or that a later version has written, is
  refused and left as it was.
* Migrations run at opening, in one transaction, one process at a time.
* An SQLite file that was removed or replaced while it was open is noticed when
  it is written; the system itself would let a process write on.
* No error and no log line shows a value that is in it.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import errno
import hashlib
import logging
import os
import pathlib
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
import sqlalchemy as sa

from tff_secagg_ext.ledger import errors, writers

VERSION_TABLE = 'tff_secagg_ledger_version'

LOCK_SECONDS = 30
_LOG = 'tff_secagg_ext'
# A commit that grows the write-ahead log costs two writes to the device, one
# that overwrites it costs one. So the log is grown once, at opening, to what
# it may hold between two checkpoints.
_CHECKPOINT_PAGES = 500
_RESERVED_BYTES = 4096 * (_CHECKPOINT_PAGES + 100)
_LOCK = 0x7FF5ECA6


def open_engine(
  location: str | os.PathLike[str], *, create: bool = True
) -> sa.Engine:
  """Returns an engine on an up-to-date ledger.

  Args:
    location: A path, or an SQLAlchemy URL of SQLite or PostgreSQL.
    create: Whether a missing SQLite file is made.

  Raises:
    ValueError: If the URL is malformed or names another kind of database.
    ForeignDatabaseError: If the location is a folder or holds something else.
    NewerLedgerError: If a later version of this package has written it.
    LedgerError: If it cannot be opened.
  """
  url = resolve(location)
  if url.get_backend_name() == 'sqlite':
    check_file(pathlib.Path(str(url.database)), create)
    engine = create_engine(url, {'timeout': LOCK_SECONDS})
    sa.event.listen(engine, 'connect', _configure_sqlite)
    sa.event.listen(engine, 'begin', begin_sqlite)
  else:
    options = {
      'options': '-c synchronous_commit=on',
      'application_name': _application(writers.this_process()),
    }
    # A connection that the server's restart has ended must not cost a round.
    engine = create_engine(url, options, pool_pre_ping=True)
  try:
    with translated(url):
      _migrate(engine)
      _start_log(engine)
    _remember_place(engine)
  except BaseException:
    engine.dispose()
    raise
  return engine


@contextlib.contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
  """Yields a connection for a transaction that only reads: it never waits.

  It reads the database as it was at one moment.

  Raises:
    LedgerError: If the database cannot be read.
  """
  options: dict[str, Any] = {'reading': True}
  if engine.dialect.name == 'postgresql':
    # Else each query sees what was written before it. SQLite's never do.
    options['isolation_level'] = 'REPEATABLE READ'
  try:
    with engine.execution_options(**options).connect() as connection:
      yield connection
  except sa.exc.DBAPIError as error:
    raise errors.LedgerError(
      f'The ledger cannot be read ({str(error.orig).strip()}). Repair the'
      ' database, and start again.'
    ) from error


def check_in_place(engine: sa.Engine) -> None:
  """Checks that what was written last is where the next opening looks.

  Raises:
    FileNotFoundError: If the file of SQLite, or its write-ahead log, is gone
      or is another.
  """
  place = engine.get_execution_options().get('place')
  if place is not None:
    path, written = place
    os.stat(f'{path}-wal')
    if identity(path) != written:
      raise FileNotFoundError(errno.ENOENT, 'another file took its place', path)


def is_connected(connection: sa.Connection, writer: str) -> bool:
  """Whether `writer`, of whatever host, has the database open.

  SQLite does not know. PostgreSQL does: connections tell who made them, and
  are ended when their process is.
  """
  if connection.dialect.name != 'postgresql':
    return False
  query = sa.text(
    'SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname ='
    ' current_database() AND application_name = :name)'
  )
  return bool(
    connection.execute(query, {'name': _application(writer)}).scalar()
  )


def alone(connection: sa.Connection) -> None:
  """Waits until no other transaction that asks for it has the database.

  SQLite's writing transactions always do.
  """
  if connection.dialect.name == 'postgresql':
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))


def _application(writer: str) -> str:
  """Returns the name of a writer's connections; PostgreSQL's have 63 bytes."""
  digest = hashlib.sha256(writer.encode()).hexdigest()
  return f'tff-secagg {digest[:32]}'


def _remember_place(engine: sa.Engine) -> None:
  if engine.dialect.name == 'sqlite':
    path = os.path.abspath(str(engine.url.database))
    engine.update_execution_options(place=(path, identity(path)))


def identity(path: str) -> tuple[int, int]:
  """Returns what tells a file from another of its name."""
  found = os.stat(path)
  return found.st_dev, found.st_ino


def create_engine(
  url: sa.URL, connect_args: dict[str, Any], **kwargs: Any
) -> sa.Engine:
  """Makes an engine of which neither errors nor logs show values.

  Rows hold salts, and the coordinator's view of cohorts. Errors and logs name
  the statements; rows would be logged at DEBUG.
  """
  logging.getLogger(f'sqlalchemy.engine.Engine.{_LOG}').addFilter(_is_no_row)
  return sa.create_engine(
    url,
    connect_args=connect_args,
    hide_parameters=True,
    logging_name=_LOG,
    **kwargs,
  )


def _is_no_row(record: logging.LogRecord) -> bool:
  return record.levelno > logging.DEBUG


def resolve(location: str | os.PathLike[str]) -> sa.URL:
  """Returns the URL of a location.

  Raises:
    TypeError: If the location is no path or string.
    ValueError: If the URL is malformed or names another kind of database.
  """
  if not isinstance(location, (str, os.PathLike)):
    raise TypeError(
      '`location` must be a path or an SQLAlchemy URL. Found'
      f' {location!r}. Try "runs.db" or "sqlite:///runs.db".'
    )
  text = os.fspath(location)
  if '://' not in text:
    return sa.URL.create('sqlite', database=text or None)
  try:
    url = sa.make_url(text)
  except sa.exc.ArgumentError as error:
    raise ValueError(
      'The ledger must be a path or an SQLAlchemy URL. Found one that'
      ' cannot be parsed. Try "sqlite:///runs.db".'
    ) from error
  if url.drivername == 'postgresql':
    url = url.set(drivername='postgresql+psycopg')
  if url.get_backend_name() not in ('sqlite', 'postgresql'):
    raise ValueError(
      'The ledger must be in SQLite or PostgreSQL. Found'
      f' {url.get_backend_name()!r}. Try "sqlite:///runs.db".'
    )
  return url


def check_file(path: pathlib.Path, create: bool) -> None:
  """Checks that there is a file, or that one can be made.

  Raises:
    ValueError: If the path is none.
    ForeignDatabaseError: If it is a folder.
    LedgerError: If there is no file, or no folder for it.
  """
  if str(path) in ('None', '', ':memory:'):
    raise ValueError(
      'The ledger must be a file. Found an SQLite URL without a path: what'
      ' was spent would be forgotten. Try "sqlite:///runs.db".'
    )
  if path.is_dir():
    raise errors.ForeignDatabaseError(
      f'The ledger must be a file. Found the folder {str(path)!r}. Name a'
      ' file in it.'
    )
  if not path.exists():
    if not create:
      raise errors.LedgerError(
        f'There is no ledger at {str(path)!r}. Check the path.'
      )
    if not path.absolute().parent.is_dir():
      raise errors.LedgerError(
        f'The folder of the ledger {str(path)!r} does not exist. Make it first.'
      )


def _configure_sqlite(connection: Any, _: object) -> None:
  # Python's sqlite3 would begin transactions by itself, and too late.
  connection.isolation_level = None
  for pragma in (
    'synchronous=FULL',
    'foreign_keys=ON',
    'recursive_triggers=ON',
    f'wal_autocheckpoint={_CHECKPOINT_PAGES}',
  ):
    connection.execute(f'PRAGMA {pragma}')


def begin_sqlite(connection: sa.Connection) -> None:
  """Begins a transaction: one that reads never waits."""
  reads = connection.get_execution_options().get('reading', False)
  connection.exec_driver_sql('BEGIN' if reads else 'BEGIN IMMEDIATE')


def _start_log(engine: sa.Engine) -> None:
  """Turns on SQLite's write-ahead log, and grows it to its working size.

  Pages that do not fit the cache go to the log before the transaction ends;
  rolled back, they leave its length behind and nothing else.
  """
  if engine.dialect.name != 'sqlite':
    return
  with contextlib.closing(engine.raw_connection()) as connection:
    cursor = connection.cursor()
    cursor.execute('PRAGMA journal_mode=WAL')
    (cache,) = cursor.execute('PRAGMA cache_size').fetchone()
    cursor.execute('PRAGMA cache_size=8')
    cursor.execute('BEGIN IMMEDIATE')
    cursor.execute('CREATE TABLE filler (a BLOB)')
    cursor.execute(f'INSERT INTO filler VALUES (zeroblob({_RESERVED_BYTES}))')
    cursor.execute('ROLLBACK')
    cursor.execute(f'PRAGMA cache_size={cache}')


def config() -> Config:
  """Returns where the migrations are."""
  found = Config()
  folder = os.path.join(os.path.dirname(__file__), 'migrations')
  found.set_main_option('script_location', folder.replace('%', '%%'))
  found.set_main_option('path_separator', 'os')
  return found


def _migrate(engine: sa.Engine, version: str = 'head') -> None:
  settings = config()
  scripts = ScriptDirectory.from_config(settings)
  newest = scripts.get_current_head()
  with engine.execution_options(reading=True).connect() as connection:
    if current_version(connection, scripts) == newest:
      return
  with engine.begin() as connection:
    alone(connection)
    if current_version(connection, scripts) != newest:
      settings.attributes['connection'] = connection
      settings.attributes['version_table'] = VERSION_TABLE
      command.upgrade(settings, version)


def current_version(
  connection: sa.Connection, scripts: ScriptDirectory
) -> str | None:
  """Returns the version of the schema, `None` for an empty database."""
  tables = sa.inspect(connection).get_table_names()
  if not tables:
    return None
  if VERSION_TABLE not in tables:
    raise errors.ForeignDatabaseError(
      f'The database holds something else: found the table {tables[0]!r}'
      f' and no {VERSION_TABLE!r}. Name a new file, or an empty database.'
    )
  context = MigrationContext.configure(
    connection, opts={'version_table': VERSION_TABLE}
  )
  version: str | None = context.get_current_revision()
  known = [script.revision for script in scripts.walk_revisions()]
  if version not in known:
    raise errors.NewerLedgerError(
      f'The ledger has version {version!r}; this package knows'
      f' {known[0]!r} as the newest. Upgrade tff-secagg-ext.'
    )
  return version


@contextlib.contextmanager
def translated(url: sa.URL) -> Iterator[None]:
  """Turns errors of the database at opening into those of a ledger."""
  where = url.render_as_string(hide_password=True)
  try:
    yield
  except sa.exc.DBAPIError as error:
    cause = str(error.orig).strip()
    if 'not a database' in cause or 'malformed' in cause:
      raise errors.ForeignDatabaseError(
        f'The ledger must be a database. Found something else at {where}'
        f' ({cause}). Name a new file.'
      ) from error
    raise errors.LedgerError(
      f'The ledger at {where} cannot be opened: {cause}. Check that it can'
      ' be written and that the disk has room.'
    ) from error
