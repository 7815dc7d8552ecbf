# SPDX-License-Identifier: Apache-2.0
"""The writer's end of one run: reserve, then commit or lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses

import sqlalchemy as sa

from tff_secagg_ext.accounting import Accountant, ParticipationCap, Round
from tff_secagg_ext.ledger import (
  chain,
  database,
  errors,
  records,
  rows,
  schema,
)
from tff_secagg_ext.ledger.composition import Composition, compose
from tff_secagg_ext.ledger.records import Attempt, Entry, Protocol, Scalar


@dataclasses.dataclass(frozen=True)
class RunKey:
  """Which run is open, in which session, and at which deltas.

  Attributes:
    name: The name of the run.
    run: Its number in the database.
    session: The number of this opening of it.
    session_hash: The hash of its row.
    delta: The delta of the run, in (0, 1).
    spendable_delta: What is left of it for epsilon, once the probability that
      the run's claims fail is taken off.
    participation: How often a client takes part; `None` if nothing limits it.
  """

  name: str
  run: int
  session: int
  session_hash: str
  delta: float
  spendable_delta: float
  participation: ParticipationCap | None = None

  @property
  def account(self) -> Accountant:
    """The account before the first round."""
    return Accountant(self.spendable_delta, self.participation)


@dataclasses.dataclass(frozen=True)
class _Details:
  """What an entry says besides the charge; see `Entry`."""

  measurements: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)
  note: str = ''
  protocol: Protocol | None = None


_NO_DETAILS = _Details()
# Made once: to make it takes longer than to run it.
_INSERT = sa.insert(schema.entries)


class Run:
  """A run, open for writing; made by `Ledger.open_run`.

  Guarantees:

  * When a method returns, its entry is on the disk. When it raises, the entry
    is there whole or not at all, and the next call looks which it was.
  * Epsilon counts an attempt from its reservation on, whatever becomes of it.
  * Of two writers of the same run at most one can append; the other gets a
    `ConcurrentWriterError` and must not release its round.
  * Nothing is added to a chain of hashes that is broken.
  """

  def __init__(
    self, ledger: object, engine: sa.Engine, key: RunKey, found: rows.RunRows
  ):
    """Use `Ledger.open_run`, which has checked the chain of `found`."""
    self._ledger = ledger
    self._engine = engine
    self._key = key
    self._entries: list[Entry] = []
    self._status: dict[Attempt, str] = {}
    self._open: dict[Attempt, Round] = {}
    self._newest: Attempt | None = None
    self._composition = Composition(key.account)
    self._end = ''
    self._load(found)

  @property
  def name(self) -> str:
    """The name of the run in its ledger."""
    return self._key.name

  @property
  def delta(self) -> float:
    """The delta at which epsilon is told, in (0, 1)."""
    return self._key.delta

  @property
  def entries(self) -> Sequence[Entry]:
    """All entries of the run, oldest first."""
    self._refresh()
    return tuple(self._entries)

  @property
  def attempts(self) -> int:
    """How many attempts were reserved, whatever became of them."""
    self._refresh()
    return len(self._status)

  @property
  def rounds_committed(self) -> int:
    """How many rounds were committed."""
    self._refresh()
    return sum(s == schema.COMMITTED for s in self._status.values())

  @property
  def open_attempts(self) -> Mapping[Attempt, Round]:
    """The attempts that are reserved and not settled, with their charges."""
    self._refresh()
    return dict(self._open)

  def status(self, attempt: Attempt) -> str | None:
    """Returns `reserved`, `committed` or `lost`; `None` if it is unknown."""
    self._refresh()
    return self._status.get(attempt)

  def reserve(self, charge: Round) -> Attempt:
    """Charges the next attempt before it runs, and returns its number.

    The round after the newest is reserved, or the newest again if all its
    attempts were lost.

    Args:
      charge: What the attempt will cost if nothing goes wrong.

    Raises:
      ConcurrentWriterError: If somebody else has written the run meanwhile.
      LedgerWriteError: If the entry could not be written. Do not run.
    """
    attempt = self._next_attempt()
    self._append(schema.RESERVED, attempt, charge)
    return attempt

  def commit(
    self,
    attempt: Attempt,
    charge: Round,
    measurements: Mapping[str, object],
    protocol: Protocol | None = None,
  ) -> Entry:
    """Settles `attempt` with what it really cost; release it afterwards.

    Args:
      attempt: A reserved attempt.
      charge: What happened; it may differ from what was reserved.
      measurements: What the round measured: scalars, public or noised.
      protocol: JSON values: how the vectors were summed, and at what cost. It
        is the coordinator's, and may tell the size of the cohort.

    Raises:
      NotReservedError: If `attempt` is not open.
      ConcurrentWriterError: If somebody else has written the run meanwhile.
      LedgerWriteError: If the entry could not be written. Do not release.
    """
    self._check_open(attempt)
    details = _Details(records.measured(measurements), protocol=protocol)
    return self._append(schema.COMMITTED, attempt, charge, details)

  def lose(
    self,
    attempt: Attempt,
    charge: Round,
    note: str,
    protocol: Protocol | None = None,
  ) -> Entry:
    """Settles `attempt` as lost: it is charged and never released.

    Args:
      attempt: A reserved attempt.
      charge: What it is charged with, usually what was reserved.
      note: Why it was lost, without anything about clients.
      protocol: See `commit`.

    Raises:
      NotReservedError: If `attempt` is not open.
      ConcurrentWriterError: If somebody else has written the run meanwhile.
      LedgerWriteError: If the entry could not be written. It stays reserved
        and is charged all the same.
    """
    self._check_open(attempt)
    details = _Details(note=note, protocol=protocol)
    return self._append(schema.LOST, attempt, charge, details)

  def _check_open(self, attempt: Attempt) -> None:
    status = self.status(attempt)
    if status != schema.RESERVED:
      raise errors.NotReservedError(
        f'Run {self.name!r}: {attempt} must be reserved and open. Found'
        f' {status or "nothing of that number"}. Reserve an attempt first,'
        ' and settle it once.'
      )

  def _next_attempt(self) -> Attempt:
    self._refresh()
    if self._newest is None:
      return Attempt(1, 1)
    if self._status[self._newest] == schema.LOST:
      return Attempt(self._newest.round, self._newest.attempt + 1)
    return Attempt(self._newest.round + 1, 1)

  def _append(
    self,
    kind: str,
    attempt: Attempt,
    charge: Round,
    details: _Details = _NO_DETAILS,
  ) -> Entry:
    self._refresh()
    after = self._composition
    if kind == schema.RESERVED:
      after = after.reserve(attempt, charge)
    else:
      after = after.settle(attempt, charge)
    release, server = after.epsilons()
    entry = Entry(
      sequence=len(self._entries) + 1,
      session=self._key.session,
      attempt=attempt,
      kind=kind,
      charge=charge,
      measurements=details.measurements,
      note=details.note,
      release=release,
      server=server,
      recorded_at=records.now(),
      protocol=details.protocol,
    )
    self._fresh = False
    self._end = self._write(entry)
    self._remember(entry)
    self._composition = after
    self._fresh = True
    return entry

  def _write(self, entry: Entry) -> str:
    """Writes an entry, and returns its hash."""
    row = rows.to_row(entry, self._key.run)
    row |= {'previous': self._end, 'salt': chain.new_salt()}
    row['hash'] = chain.hash_of(rows.entry_record(row, self._key.session_hash))
    try:
      with self._engine.begin() as connection:
        connection.execute(_INSERT, row)
      database.check_in_place(self._engine)
    except sa.exc.IntegrityError as error:
      raise errors.ConcurrentWriterError(
        f'Run {self.name!r} was written by somebody else while this process'
        f' was writing {entry.attempt} ({error.orig}). Nothing of it may be'
        ' released. Let one process write a run, or use another run name.'
      ) from error
    except (sa.exc.DBAPIError, OSError) as error:
      cause = str(getattr(error, 'orig', error)).strip()
      raise errors.LedgerWriteError(
        f'Run {self.name!r}: {entry.attempt} could not be written as'
        f' {entry.kind} ({cause}). Nothing of it may be'
        ' released; it stays charged if it was reserved. Make room or repair'
        ' the database, and start again.'
      ) from error
    return str(row['hash'])

  def _refresh(self) -> None:
    """Reads the run anew, if the end of the last write is unknown."""
    if self._fresh:
      return
    with database.reading(self._engine) as connection:
      found = rows.read(connection, self._key.run)
    found.chain.check()
    for entry in found.parsed()[len(self._entries) :]:
      if entry.session != self._key.session:
        raise errors.ConcurrentWriterError(
          f'Run {self.name!r} was written by somebody else: {entry.attempt}'
          f' is {entry.kind}. Let one process write a run, or use another'
          ' run name.'
        )
    self._load(found)

  def _load(self, found: rows.RunRows) -> None:
    entries = found.parsed()
    self._end = found.chain.end(found.chain.entries)
    self._entries, self._status, self._open = [], {}, {}
    for entry in entries:
      self._remember(entry)
    self._composition = compose(self._key.account, entries)
    self._fresh = True

  def _remember(self, entry: Entry) -> None:
    self._entries.append(entry)
    self._status[entry.attempt] = entry.kind
    if entry.kind == schema.RESERVED:
      self._open[entry.attempt] = entry.charge
      self._newest = entry.attempt
    else:
      del self._open[entry.attempt]
