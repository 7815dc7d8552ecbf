# SPDX-License-Identifier: Apache-2.0
"""The ledger: which runs there are, and what each has spent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import os
from typing import Any
import weakref

import sqlalchemy as sa

from tff_secagg_ext import _validate
from tff_secagg_ext.accounting import ParticipationCap
from tff_secagg_ext.ledger import (
  audits,
  database,
  errors,
  exchange,
  following,
  opening,
  reader,
  records,
  rows,
  scanning,
  schema,
  view,
)
from tff_secagg_ext.ledger.audits import AuditRecord, JsonValue
from tff_secagg_ext.ledger.chain import Head
from tff_secagg_ext.ledger.records import Entry
from tff_secagg_ext.ledger.run import Run, RunKey


class Ledger:
  """An append-only record of runs and of what each round of them spent.

  Guarantees:

  * Rows are added, never changed or removed; the database itself refuses.
  * A round is charged when it is reserved, before it runs. An attempt that
    was never committed stays charged.
  * A run keeps the settings that it was begun with.
  * Rows are chained by hashes: `verify` names the first that is not as it was
    written, and a run of which one is not cannot be continued.
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

  @classmethod
  def open_for_reading(cls, location: str | os.PathLike[str]) -> Ledger:
    """Opens a ledger that is there, and neither migrates nor writes it.

    Raises:
      OlderLedgerError: If it is to be migrated first; else as `open`.
    """
    return cls(reader.open_engine(location))

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
    with database.reading(self._engine) as connection:
      return tuple(connection.execute(query).scalars())

  def open_run(
    self,
    name: str,
    settings: Mapping[str, Any],
    *,
    delta: float,
    failure_probability: float = 0.0,
    participation: ParticipationCap | None = None,
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
      participation: How often any client takes part in the run, which whoever
        opens it sees to. It is one of the settings, and the server's epsilon
        counts the worst rounds within it.

    Raises:
      RunSettingsError: If the run exists with other settings; names them.
      ConcurrentWriterError: If a living process has an attempt of the run
        open; names it. Of other hosts PostgreSQL knows, as long as they are
        connected; SQLite does not.
      BrokenChainError: If rows of the run were altered or are missing.
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
    if participation is not None:
      cap = dataclasses.asdict(participation)
      settings = {**settings, 'participation': cap}
    text = records.to_text({**settings, 'failure_probability': failures})
    try:
      with self._engine.begin() as connection:
        database.alone(connection)
        found, session = opening.open_rows(connection, name, text, delta)
    except sa.exc.DBAPIError as error:
      raise errors.LedgerWriteError(
        f'Run {name!r} could not be opened ({str(error.orig).strip()}).'
        ' Check that the ledger can be written and that the disk has room.'
      ) from error
    key = RunKey(
      name,
      found.run['id'],
      session['id'],
      session['hash'],
      delta,
      delta - failures,
      participation,
    )
    return Run(self, self._engine, key, found)

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
    found = self._read(name)
    return view.describe(
      found.run,
      found.sessions,
      found.parsed(),
      [audits.to_audit(row) for row in found.audits],
      server_view=server_view,
    )

  def record_audit(
    self, name: str, kind: str, figures: Mapping[str, JsonValue]
  ) -> AuditRecord:
    """Records what an audit of a run has found.

    Guarantees:
      - it does not take the run from its writer: audits may be recorded by any
        process, while the run goes on or afterwards, and by several at once;
      - it is bound to the entries that there are: an audit says nothing of
        later ones;
      - figures that the release view must not see are the coordinator's: those
        of `membership`, which are computed from clients' data without noise,
        of `gate`, and those whose `view` is 'server'.

    Args:
      name: The name of the run.
      kind: One of `audits.KINDS`.
      figures: JSON values by name; numpy's scalars are taken as Python's.

    Raises:
      UnknownRunError: If there is no run of that name; names the nearest.
      TypeError: If the figures hold what JSON cannot.
      ValueError: If a figure is not finite, or no audit is of that kind.
      BrokenChainError: If rows of the run were altered or are missing.
      LedgerWriteError: If the audit could not be written.
    """
    kind, plain = audits.check_kind(kind), audits.check_figures(figures)
    run_id = self._read(name).run['id']
    try:
      with self._engine.begin() as connection:
        database.alone(connection)
        found = rows.read(connection, run_id)
        found.chain.check()
        row = audits.new_row(found, kind, plain)
        connection.execute(sa.insert(schema.audits), row)
      database.check_in_place(self._engine)
    except (sa.exc.DBAPIError, OSError) as error:
      cause = str(getattr(error, 'orig', error)).strip()
      raise errors.LedgerWriteError(
        f'The audit {kind!r} of run {name!r} could not be written ({cause}).'
        ' Check that the ledger can be written and that the disk has room.'
      ) from error
    return audits.to_audit(row)

  def entries(self, name: str) -> tuple[Entry, ...]:
    """Returns the entries of a run, oldest first, as the coordinator sees them.

    Raises:
      UnknownRunError: If there is no run of that name; names the nearest.
    """
    return tuple(self._read(name).parsed())

  def audits(self, name: str) -> tuple[AuditRecord, ...]:
    """Returns the audits of a run, oldest first, as the coordinator sees them.

    Raises:
      UnknownRunError: If there is no run of that name; names the nearest.
    """
    return tuple(audits.to_audit(row) for row in self._read(name).audits)

  def snapshot(self, name: str) -> rows.RunRows:
    """Returns all rows of a run as they were at one moment, unchecked.

    Raises:
      UnknownRunError: If there is no run of that name; names the nearest.
    """
    return self._read(name)

  @contextlib.contextmanager
  def scan(self, name: str) -> Iterator[scanning.Scan]:
    """Yields a run as it was at one moment, to be read in batches.

    Raises:
      UnknownRunError: If there is no run of that name; names the nearest.
      LedgerError: If the ledger cannot be read.
    """
    with self._at(name) as (connection, run_id):
      yield scanning.Scan(connection, run_id)

  def progress(self, name: str) -> following.Progress:
    """Returns how far a run is; cheap, to be asked again and again.

    Raises:
      UnknownRunError: If there is no run of that name; names the nearest.
      LedgerError: If the ledger cannot be read.
    """
    with self._at(name) as (connection, run_id):
      return following.progress(connection, run_id)

  def standings(self) -> tuple[following.Standing, ...]:
    """Returns all runs, oldest first, in one query; see `Standing`.

    Raises:
      LedgerError: If the ledger cannot be read.
    """
    with database.reading(self._engine) as connection:
      return following.standings(connection)

  def growth(self, name: str, head: Head | str) -> following.Growth | None:
    """Returns what a run has got since `verify` returned a head; cheap.

    `None` if the run is not there, or its new rows do not follow: `verify`
    tells why.
    """
    if isinstance(head, str):
      head = Head.parse(head)
    with database.reading(self._engine) as connection:
      return following.growth(connection, name, head)

  def verify(self, name: str, head: Head | str | None = None) -> Head:
    """Checks that a run is as it was written, and returns its head.

    Args:
      name: The name of the run.
      head: What an earlier call returned and somebody has kept elsewhere.
        Without it, rows that are missing at the end, and a chain that was
        written anew, cannot be told.

    Raises:
      BrokenChainError: If not; names the first row that was altered, is
        missing, was inserted or reordered.
      UnknownRunError: If there is no run of that name.
      ValueError: If `head` is no head.
    """
    if isinstance(head, str):
      head = Head.parse(head)
    return self._read(name).chain.check(head)

  def export(self, name: str, *, redacted: bool = False) -> Sequence[str]:
    """Returns a run as lines of JSON; see `exchange`.

    Args:
      name: The name of the run.
      redacted: Whether to leave out what the release view may not see. What
        is left can be verified, and not be imported.

    Raises:
      BrokenChainError: If the run does not verify.
      UnknownRunError: If there is no run of that name.
    """
    return exchange.dump(self._read(name).chain, redacted=redacted)

  def import_run(self, lines: Iterable[str]) -> str:
    """Adds a run that `export` gave, whole or not at all; returns its name.

    A run that is there already, the same to the last entry, is left as it is.

    Raises:
      ExportError: If a line is not one of an export, names its number; if the
        export is redacted; or if another run of that name is there.
      BrokenChainError: If the lines are not as they were written.
      LedgerWriteError: If it could not be written.
    """
    chain = exchange.load(lines).importable()
    exchange.add(self._engine, chain)
    return str(chain.run['name'])

  def _read(self, name: str) -> rows.RunRows:
    with self._at(name) as (connection, run_id):
      return rows.read(connection, run_id)

  @contextlib.contextmanager
  def _at(self, name: str) -> Iterator[tuple[sa.Connection, int]]:
    """Yields the ledger as it is at one moment, with the number of a run."""
    with database.reading(self._engine) as connection:
      run_id = _id_of(connection, name)
      if run_id is not None:
        yield connection, run_id
        return
    raise self._unknown(name)

  def _unknown(self, name: str) -> errors.UnknownRunError:
    names = self.names()
    listed = ', '.join(map(repr, names)) or 'none yet'
    return errors.UnknownRunError(
      f'The ledger has no run {name!r}. It has: {listed}.'
      f'{_validate.nearest(name, names)}'
    )


def _id_of(connection: sa.Connection, name: str) -> int | None:
  query = sa.select(schema.runs.c.id).where(schema.runs.c.name == name)
  return connection.execute(query).scalar()


def _check_name(name: object) -> str:
  if not isinstance(name, str):
    raise TypeError(f'`name` must be a string. Found {name!r}.')
  if not 1 <= len(name) <= 200:
    raise ValueError(
      f'`name` must have 1 to 200 characters. Found {len(name)}.'
    )
  return name
