# SPDX-License-Identifier: Apache-2.0
"""The ledger: which runs there are, and what each has spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import os
from typing import Any
import weakref

import sqlalchemy as sa

from tff_secagg_ext import _validate
from tff_secagg_ext.ledger import (
  database,
  errors,
  records,
  rows,
  schema,
  view,
  writers,
)
from tff_secagg_ext.ledger.run import Run, RunKey


class Ledger:
  """An append-only record of runs and of what each round of them spent.

  Guarantees:

  * Rows are added, never changed or removed; the database itself refuses.
  * A round is charged when it is reserved, before it runs. An attempt that
    was never committed stays charged.
  * A run keeps the settings that it was begun with.
  * No data and no names of clients are recorded. What may be published is
    what `show` returns by default: public or noised values, and no cohort
    size. The database itself is the coordinator's: it tells what each session
    of the protocol cost, and so the size of its cohort.

  ```python
  with Ledger.open('runs.db') as ledger:
    run = ledger.open_run('digits', settings, delta=1e-3)
    attempt = run.reserve(charge)
    ...  # run the round
    run.commit(attempt, charge, measurements)
    ...  # release it
  ```
  """

  def __init__(self, engine: sa.Engine):
    """Use `Ledger.open`."""
    self._engine = engine
    # Runs keep their ledger, so that nothing is closed that is still in use.
    weakref.finalize(self, engine.dispose)

  @classmethod
  def open(
    cls, location: str | os.PathLike[str], *, create: bool = True
  ) -> Ledger:
    """Opens a ledger, makes it if it is missing, and migrates it.

    Args:
      location: A path, or an SQLAlchemy URL of SQLite or PostgreSQL.
      create: Whether a missing SQLite file is made.

    Raises:
      TypeError: If the location is no path or string.
      ValueError: If the URL is malformed or names another kind of database.
      ForeignDatabaseError: If the location is a folder or holds something
        else.
      NewerLedgerError: If a later version of this package has written it.
      LedgerError: If it cannot be opened, or be written.
    """
    return cls(database.open_engine(location, create=create))

  def close(self) -> None:
    """Closes the database. What was recorded is on the disk already."""
    self._engine.dispose()

  def __enter__(self) -> Ledger:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def names(self) -> Sequence[str]:
    """Returns the names of all runs, oldest first."""
    query = sa.select(schema.runs.c.name).order_by(schema.runs.c.id)
    with database.reading(self._engine).connect() as connection:
      return tuple(connection.execute(query).scalars())

  def open_run(
    self,
    name: str,
    settings: Mapping[str, Any],
    *,
    delta: float,
    failure_probability: float = 0.0,
  ) -> Run:
    """Opens a run for writing: a new one, or one with the same settings.

    Args:
      name: The name of the run, 1 to 200 characters.
      settings: JSON values that the guarantee rests on, and that stay as they
        are for as long as the run lasts.
      delta: At which delta epsilon is told, in (0, 1).
      failure_probability: The part of delta, below it, that pays for claims
        of the run that may fail, such as cohorts that stay in their bounds.
        Epsilon is composed at what is left, and told at `delta`.

    Raises:
      RunSettingsError: If the run exists with other settings; names them.
      ConcurrentWriterError: If a living process of this host has an attempt
        of the run open.
      LedgerWriteError: If the run could not be written.
    """
    name = _check_name(name)
    delta = _validate.check_float(
      delta, 'delta', minimum=0.0, maximum=1.0, exclusive=True
    )
    failures = _validate.check_float(
      failure_probability, 'failure_probability', minimum=0.0
    )
    if failures >= delta:
      raise ValueError(
        f'`failure_probability` must be below delta, {delta!r}. Found'
        f' {failure_probability!r}. Widen the bounds of the cohorts.'
      )
    text = records.to_text({**settings, 'failure_probability': failures})
    try:
      with self._engine.begin() as connection:
        database.alone(connection)
        run_id = _find_or_insert(connection, name, text, delta)
        _check_writer(connection, name, run_id)
        session = connection.execute(
          sa.insert(schema.sessions).values(
            run_id=run_id,
            writer=writers.this_process(),
            versions=records.to_text(dict(writers.versions())),
            opened_at=records.now(),
          )
        ).inserted_primary_key
    except sa.exc.DBAPIError as error:
      raise errors.LedgerWriteError(
        f'Run {name!r} could not be opened ({str(error.orig).strip()}).'
        ' Check that the ledger can be written and that the disk has room.'
      ) from error
    assert session is not None
    key = RunKey(name, run_id, session[0], delta, delta - failures)
    return Run(self, self._engine, key)

  def show(self, name: str, *, server_view: bool = False) -> dict[str, Any]:
    """Returns what is recorded of a run, as JSON values.

    See `view.describe` for the keys.

    Args:
      name: The name of the run.
      server_view: Whether to tell what is the coordinator's alone: who was
        lost in the protocol, and what it cost. It tells the size of cohorts.

    Raises:
      UnknownRunError: If there is no run of that name; lists those there are.
    """
    with database.reading(self._engine).connect() as connection:
      run = (
        connection.execute(
          sa.select(schema.runs).where(schema.runs.c.name == name)
        )
        .mappings()
        .one_or_none()
      )
      sessions = connection.execute(sa.select(schema.sessions)).mappings().all()
    if run is None:
      listed = ', '.join(repr(n) for n in self.names()) or 'none yet'
      raise errors.UnknownRunError(
        f'The ledger has no run {name!r}. It has: {listed}.'
      )
    return view.describe(
      dict(run),
      [dict(s) for s in sessions if s['run_id'] == run['id']],
      rows.read_entries(self._engine, run['id']),
      server_view=server_view,
    )


def _check_name(name: object) -> str:
  if not isinstance(name, str):
    raise TypeError(f'`name` must be a string. Found {name!r}.')
  if not 1 <= len(name) <= 200:
    raise ValueError(
      f'`name` must have 1 to 200 characters. Found {len(name)}.'
    )
  return name


def _find_or_insert(
  connection: sa.Connection, name: str, settings: str, delta: float
) -> int:
  row = (
    connection.execute(sa.select(schema.runs).where(schema.runs.c.name == name))
    .mappings()
    .one_or_none()
  )
  if row is None:
    inserted = connection.execute(
      sa.insert(schema.runs).values(
        name=name, settings=settings, delta=delta, created_at=records.now()
      )
    ).inserted_primary_key
    assert inserted is not None
    return int(inserted[0])
  found = {'delta': row['delta'], **json.loads(row['settings'])}
  wanted = {'delta': delta, **json.loads(settings)}
  differing = view.differences(found, wanted)
  if differing:
    raise errors.RunSettingsError(
      f'Run {name!r} exists with other settings: {"; ".join(differing)}.'
      ' Use another run name, or the settings that it was begun with.'
    )
  return int(row['id'])


def _check_writer(connection: sa.Connection, name: str, run_id: int) -> None:
  """Refuses a run of which another living process has an attempt open."""
  reserved, settled = schema.entries, schema.entries.alias()
  query = (
    sa.select(reserved.c.round, reserved.c.attempt, schema.sessions.c.writer)
    .join(schema.sessions, reserved.c.session_id == schema.sessions.c.id)
    .where(reserved.c.run_id == run_id, reserved.c.kind == schema.RESERVED)
    .where(
      ~sa.exists().where(
        settled.c.run_id == run_id,
        settled.c.round == reserved.c.round,
        settled.c.attempt == reserved.c.attempt,
        settled.c.kind != schema.RESERVED,
      )
    )
  )
  for number, attempt, writer in connection.execute(query):
    if writers.lives_elsewhere(writer):
      raise errors.ConcurrentWriterError(
        f'Run {name!r} is being written by the process {writer}:'
        f' {records.Attempt(number, attempt)} is open. Wait for it or end it,'
        ' or use another run name.'
      )
