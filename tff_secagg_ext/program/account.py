# SPDX-License-Identifier: Apache-2.0
"""The account of one run: what each round is charged with, and when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import logging
import math
from typing import Any

from tff_secagg_ext import accounting, execution
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.program import terms as terms_lib
from tff_secagg_ext.program.budgets import Guard
from tff_secagg_ext.program.noised_sums import MeasurementError
from tff_secagg_ext.program.participants import Participants, ParticipationError
from tff_secagg_ext.program.terms import Terms

_logger = logging.getLogger('tff_secagg_ext')


@dataclasses.dataclass(frozen=True)
class Reservation:
  """A round that is charged and may run.

  Attributes:
    attempt: Its number in the ledger.
    clients: The number of clients that it runs with; `None` if not known.
    claim: What is claimed of how they were chosen.
    charge: What it was reserved at.
  """

  attempt: ledger_lib.Attempt
  clients: int | None
  claim: accounting.Sampling
  charge: accounting.Round


@dataclasses.dataclass(frozen=True)
class Settlement:
  """What a round that has run really cost.

  Attributes:
    charge: What happened.
    measurements: The aggregator's measurements, public or noised.
    protocol: How the vectors were summed; see `Run.commit`.
  """

  charge: accounting.Round
  measurements: Mapping[str, Any]
  protocol: ledger_lib.Protocol | None = None


class Account:
  """Charges the rounds of a run: reserve, run, assess, commit, release.

  Guarantees:

  * A round is in the ledger before it runs, and its true cost is there before
    it is released.
  * A round that fails is charged all the same, as `lost`; nothing where a
    session ended before anything that it sums had left the clients.
  * A round runs in the context that the run's settings tell of, or not at all.
  * A round that would pass the budget, or in which a client would take part too
    often or too soon, is refused before it is reserved.
  * Attempts that an earlier process left open are settled as `lost` when the
    first round is reserved, unless they were committed before.
  """

  def __init__(
    self,
    run: ledger_lib.Run,
    terms: Terms,
    guard: Guard | None = None,
    participants: Participants | None = None,
  ):
    self._run = run
    self._terms = terms
    self._guard = guard
    self._participants = participants
    self._own: set[ledger_lib.Attempt] = set()

  @property
  def run(self) -> ledger_lib.Run:
    """The run in its ledger."""
    return self._run

  @property
  def terms(self) -> Terms:
    """What rounds are charged by."""
    return self._terms

  @property
  def participants(self) -> Participants | None:
    """Who took part; `None` if the run claims no cap on participations."""
    return self._participants

  def reserve(
    self,
    clients: int | None,
    claim: accounting.Sampling | None = None,
    members: Sequence[object] | None = None,
    state: Any = None,
  ) -> Reservation:
    """Charges a round before it runs.

    Args:
      clients: How many clients it will run with; `None` if that is not known.
      claim: What is claimed of how they were chosen, which is what the run
        claims or less; `None` for what it claims of all its cohorts, which is
        nothing where they are allocated: that a cohort is the one of its place
        in an epoch has to be said.
      members: The names of the clients, which a run needs to know that claims a
        cap on participations; other runs do not look at them.
      state: Of the process before the round; `None` for the initial one.

    Raises:
      ValueError: If `claim` is not what the run claims.
      RuntimeError: If another context is installed than when the run was
        opened.
      accounting.BudgetExceeded: If the round would pass the budget.
      ParticipationError: If a client would take part too often or too soon, or
        nobody says who takes part.
    """
    self._check_context()
    self._settle_abandoned()
    claim = self._checked(claim)
    if not self._terms.affords(self._run.attempts + 1):
      claim = accounting.unclaimed(claim)
    charge = self._terms.planned(clients, claim, state)
    if self._guard is not None:
      self._guard.check(charge)
    if self._participants is not None:
      self._participants.admit(_known(members, clients))
    attempt = self._run.reserve(charge)
    self._own.add(attempt)
    overtaken = None if self._guard is None else self._guard.overtaken()
    if overtaken is not None:
      nothing = accounting.Round((), claim)
      self._lose(attempt, nothing, 'not run: another run was first')
      raise overtaken
    return Reservation(attempt, clients, claim, charge)

  def assess(
    self,
    reservation: Reservation,
    evidence: Any,
    sessions: Sequence[execution.Report],
  ) -> Settlement:
    """Returns what a round cost, from what it returned.

    Args:
      reservation: The round.
      evidence: Of its output; see `Terms.evidence`.
      sessions: Of `running`.

    Raises:
      MeasurementError: If they contradict the aggregator or the run.
    """
    session = self._terms.check_session(sessions)
    measured = self._terms.measured(evidence)
    charge = self._terms.happened(
      reservation.clients, reservation.claim, measured, session
    )
    protocol = None if session is None else _json_values(session)
    return Settlement(charge, measured, protocol)

  def commit(
    self, attempt: ledger_lib.Attempt, settlement: Settlement
  ) -> ledger_lib.Entry:
    """Records what a round cost. It may be released when this returns."""
    return self._run.commit(
      attempt,
      settlement.charge,
      settlement.measurements,
      settlement.protocol,
    )

  @contextlib.contextmanager
  def running(
    self, reservation: Reservation
  ) -> Iterator[Sequence[execution.Report]]:
    """Yields a list that gets the reports of the sessions of the block.

    Settles the round as lost if the block raises, whatever it raises.
    """
    try:
      with execution.collect_reports() as sessions:
        yield sessions
    except BaseException as error:
      self._lose(reservation.attempt, *self._lost(reservation, error))
      raise

  def _lost(
    self, reservation: Reservation, error: BaseException
  ) -> tuple[accounting.Round, str, ledger_lib.Protocol | None]:
    """Returns charge, note and protocol of a round that `error` ended."""
    charge, note = reservation.charge, type(error).__name__
    if isinstance(error, MeasurementError):
      charge = accounting.Round(
        (accounting.UnaccountedEvent((str(error),)),),
        accounting.unclaimed(charge.sampling),
      )
    if not isinstance(error, execution.RoundAborted):
      return charge, note, None
    charge = self._terms.aborted(charge, error)
    protocol = None if error.report is None else _json_values(error.report)
    return charge, f'{note} in step {error.stage!r}', protocol

  def _checked(self, claim: accounting.Sampling | None) -> accounting.Sampling:
    """Returns what is claimed of the next attempt, with its epoch's name."""
    expected = self._terms.sampling
    nothing = accounting.NoSampling(expected.adjacency)
    if not isinstance(expected, accounting.RandomAllocation):
      allowed: tuple[accounting.Sampling, ...] = (expected, nothing)
      claim = expected if claim is None else claim
    else:
      allowed = (expected, accounting.unclaimed(expected), nothing)
      claim = nothing if claim is None else claim
    if claim not in allowed:
      raise ValueError(
        f'`claim` must be what run {self._run.name!r} claims of its cohorts,'
        f' {expected!r}, or less. Found {claim!r}. Open a run for it.'
      )
    if not isinstance(claim, accounting.RandomAllocation):
      return claim
    # Each attempt has its place, whatever becomes of it: names do not recur.
    number = self._run.attempts // claim.rounds + 1
    return dataclasses.replace(claim, epoch=f'{self._run.name}/{number}')

  def _check_context(self) -> None:
    found, expected = execution.installed_options(), self._terms.options
    if found and expected and found.settings == expected.settings:
      return
    if found is not expected:
      raise RuntimeError(
        f'Run {self._run.name!r} was opened in a context whose sums are'
        f' {terms_lib.sums(expected)}. Found one whose sums are'
        f' {terms_lib.sums(found)}. Install the former, or open another run.'
      )

  def _settle_abandoned(self) -> None:
    for attempt, charge in self._run.open_attempts.items():
      if attempt not in self._own:
        self._lose(attempt, charge, 'its process ended')

  def _lose(
    self,
    attempt: ledger_lib.Attempt,
    charge: accounting.Round,
    note: str,
    protocol: ledger_lib.Protocol | None = None,
  ) -> None:
    try:
      self._run.lose(attempt, charge, note, protocol)
    except ledger_lib.LedgerError as error:
      _logger.error(
        'Run %r: %s could not be recorded as lost (%s). It is charged as it'
        ' was reserved.',
        self._run.name,
        attempt,
        error,
      )


def _known(
  members: Sequence[object] | None, clients: int | None
) -> Sequence[object]:
  if members is None or clients not in (None, len(members)):
    found = 'none' if members is None else f'{len(members)}'
    raise ParticipationError(
      'A run that claims a cap on participations must know who takes part in'
      f' each round. Found {found} of the names of its clients. Call next in'
      ' `with recorder.of_clients(names)`, or let the process take client ids.'
    )
  return members


def _json_values(session: execution.Report) -> ledger_lib.Protocol:
  """Returns a report as JSON values, which know no infinity."""
  values = {
    name: None if isinstance(v, float) and not math.isfinite(v) else v
    for name, v in dataclasses.asdict(session).items()
  }
  # A setting of the run already, where there is any.
  del values['noise']
  return values
