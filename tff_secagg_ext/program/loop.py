# SPDX-License-Identifier: Apache-2.0
"""A training loop that can be killed at any moment and resumed.

Each round goes through five steps, and a kill between any two of them leaves
one of the states that `train` knows how to go on from:

| killed after | ledger | checkpoint | on resume |
| --- | --- | --- | --- |
| (nothing) | | | the round is run |
| reserve | reserved | | lost and charged; run anew, with another cohort |
| run | reserved | | the same |
| save | reserved | there | committed from the checkpoint, then released |
| commit | committed | there | released, then goes on with the next round |

The release is the call of `on_round`: it may come twice for the newest round
of a killed run, and never before the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import logging
import os
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt

from tff_secagg_ext import _validate, accounting, execution
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.program import checkpoints as checkpoints_lib
from tff_secagg_ext.program import interrupts, keys, withheld
from tff_secagg_ext.program.cohorts import Cohort, Cohorts, Turn
from tff_secagg_ext.program.recorder import PrivacyRecorder

_logger = logging.getLogger('tff_secagg_ext')
# The key of the run, in the folder of its checkpoints.
_KEY = 'cohorts.key'


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
  """What to train.

  Attributes:
    rounds: How many rounds to commit, those of earlier sessions included.
    cohorts: How cohorts are formed; the recorder must claim their sampling.
    checkpoints: A folder for the checkpoints of this run alone. Cohorts that
      depend on earlier ones have their secret key there.
    keep: How many checkpoints to keep, at least 2.
    attempts: How many attempts at a round may end without a sum, one after the
      other, before training gives up.
  """

  rounds: int
  cohorts: Cohorts
  checkpoints: str | os.PathLike[str]
  keep: int = 3
  attempts: int = 10

  def __post_init__(self) -> None:
    _validate.check_int(self.rounds, 'rounds', minimum=1)
    _validate.check_int(self.keep, 'keep', minimum=2)
    _validate.check_int(self.attempts, 'attempts', minimum=1)


@dataclasses.dataclass(frozen=True)
class RoundRecord:
  """A round that was committed, and may be released.

  Attributes:
    entry: Its entry in the ledger: number, measurements, epsilon so far, and
      how its vectors were summed.
    state: The state of the process after it.
  """

  entry: ledger_lib.Entry
  state: Any


@dataclasses.dataclass(frozen=True)
class TrainingResult:
  """How a call of `train` ended.

  Attributes:
    state: The state of the process.
    rounds: The number of committed rounds of the run.
    interrupted: Whether Ctrl-C ended it before the last round. Calling `train`
      again goes on.
    stopped: Why the budget ended it before the last round; `None` if it did
      not.
    participations: int32[population], how many rounds each client took part
      in. It tells of the sampling, on whose secrecy amplification rests: it is
      the coordinator's, and in no ledger.
  """

  state: Any
  rounds: int
  interrupted: bool
  stopped: accounting.BudgetExceeded | None
  participations: npt.NDArray[np.int32]


def train(
  recorder: PrivacyRecorder,
  client_data: Callable[[Sequence[int]], Sequence[Any]],
  plan: TrainingPlan,
  *,
  on_round: Callable[[RoundRecord], None] | None = None,
) -> TrainingResult:
  """Trains until `plan.rounds` rounds are committed; goes on where it was.

  Guarantees:

  * Killed at any moment and called again, it loses no round that was spent
    and commits none twice; cohorts, noise and everything random are fresh
    where a round is run again.
  * `on_round` is called after the commit of each round, in order; twice only if
    the run was killed between its call and the end of the round.
  * A round whose secure sums are aborted is recorded as lost, and run again
    with a new cohort.
  * A round that would pass the recorder's budget is not begun, and ends
    training: `stopped` says why.
  * The first Ctrl-C ends training after the round that runs; a second one
    ends it at once, with the round recorded as lost.

  Args:
    recorder: The process, with its ledger.
    client_data: Gives the data of the clients of these indices, as the process
      takes them.
    plan: What to train.
    on_round: Called with each committed round, for progress and releases.

  Raises:
    ValueError: If `recorder` does not claim the sampling of `plan.cohorts`.
    CheckpointError: If checkpoints and ledger are not of the same run.
    RunKeyError: If the cohorts' key is lost.
    CanaryError: If the recorder's canaries could not ride in a round, or it
      could not be audited; it was not released.
    ParticipationError: If a round would break the recorder's cap on
      participations, in which clients go by their indices; it was not run.
    execution.RoundAborted: If `plan.attempts` attempts at a round were.
    WithheldError: If TensorFlow's runtime failed; what it says is not told,
      since it may quote data of a client.
    ledger.LedgerError: If a round could not be recorded; it was not released.
  """
  if recorder.account.terms.sampling != plan.cohorts.sampling:
    raise ValueError(
      '`plan.cohorts` must be sampled as the recorder claims,'
      f' {recorder.account.terms.sampling!r}. Found {plan.cohorts.sampling!r}.'
      ' Make the recorder with sampling=cohorts.sampling.'
    )
  loop = _Loop(recorder, client_data, plan, on_round or (lambda record: None))
  left = plan.attempts
  with interrupts.deferred() as stop:
    loop.resume()
    while loop.unfinished and not stop.is_set():
      try:
        loop.run_round()
        left = plan.attempts
      except accounting.BudgetExceeded as error:
        return loop.result(error)
      except ledger_lib.LedgerError:
        raise
      except execution.RoundAborted as error:
        left -= 1
        _logger.warning('%s. Attempts left: %d.', error, left)
        if not left:
          raise
      except Exception:
        # Ctrl-C reaches the workers of TFF as well, and fails the round.
        if not stop.is_set():
          raise
    return loop.result()


class _Loop:
  """The state of one call of `train`."""

  def __init__(
    self,
    recorder: PrivacyRecorder,
    client_data: Callable[[Sequence[int]], Sequence[Any]],
    plan: TrainingPlan,
    on_round: Callable[[RoundRecord], None],
  ):
    self._account = recorder.account
    self._process = recorder.process
    self._riders = recorder.canaries
    self._client_data = client_data
    self._plan = plan
    self._on_round = on_round
    self._checkpoints = checkpoints_lib.Checkpoints(plan.checkpoints, plan.keep)
    self._state = recorder.process.initialize()
    self._participations = np.zeros(plan.cohorts.population, np.int32)

  @property
  def unfinished(self) -> bool:
    """Whether rounds remain."""
    return self._account.run.rounds_committed < self._plan.rounds

  def result(
    self, stopped: accounting.BudgetExceeded | None = None
  ) -> TrainingResult:
    """Returns how it ended."""
    return TrainingResult(
      self._state,
      self._account.run.rounds_committed,
      self.unfinished and stopped is None,
      stopped,
      self._participations,
    )

  def resume(self) -> None:
    """Goes to the newest checkpoint, and commits its round if need be."""
    found = self._checkpoints.newest(
      self._state, self._plan.cohorts.population, self._is_usable
    )
    if found is None:
      self._check_nothing_committed()
      return
    self._state = found.state
    self._participations = np.asarray(found.participations, np.int32)
    run = self._account.run
    if run.status(found.number) == 'reserved':
      self._release(self._account.commit(found.number, found.settlement))
    elif found.number.round == run.rounds_committed:
      if self._checkpoints.released < found.number.round:
        committed = (e for e in run.entries if e.kind == 'committed')
        self._release(next(e for e in committed if e.attempt == found.number))
    else:
      _logger.warning(
        'The checkpoint of round %d is the newest that can be read, of %d'
        ' committed: what the rounds after it trained is gone, not what they'
        ' spent.',
        found.number.round,
        run.rounds_committed,
      )

  def run_round(self) -> None:
    """Reserves, runs, saves, commits and releases one round."""
    cohort = self._draw()
    members = cohort.members
    reservation = self._account.reserve(
      len(members), cohort.claim, members, self._state
    )
    with self._account.running(reservation) as sessions:
      data = self._client_data(members)
      if self._riders is not None:
        data = self._riders.among(data, reservation.attempt, self._state)
      output = withheld.run(self._process.next, self._state, data)
      evidence = self._account.terms.evidence(output)
      settlement = self._account.assess(reservation, evidence, sessions)
      if self._riders is not None:
        self._riders.observe(
          reservation.attempt,
          self._state,
          output.state,
          settlement.measurements,
        )
      participations = self._participations.copy()
      participations[list(members)] += 1
      self._checkpoints.save(
        checkpoints_lib.at_end_of(
          reservation.attempt, settlement, output.state, participations
        )
      )
    entry = self._account.commit(reservation.attempt, settlement)
    self._state, self._participations = output.state, participations
    self._release(entry)

  def _release(self, entry: ledger_lib.Entry) -> None:
    self._on_round(RoundRecord(entry, self._state))
    self._checkpoints.mark_released(entry.attempt.round)

  def _draw(self) -> Cohort:
    """Returns the cohort of the next attempt."""
    attempts = self._account.run.attempts
    path = pathlib.Path(self._plan.checkpoints) / _KEY

    def key() -> bytes:
      return keys.kept(path, new=attempts == 0)

    return self._plan.cohorts.draw(Turn(attempts, key))

  def _is_usable(self, found: checkpoints_lib.Checkpoint) -> bool:
    """Whether the round of a checkpoint was not given up since."""
    status = self._account.run.status(found.number)
    if status is None:
      raise checkpoints_lib.CheckpointError(
        f'A checkpoint is of {found.number}, which run'
        f' {self._account.run.name!r} has never had. Use the ledger that the'
        ' checkpoints were made with, or an empty folder.'
      )
    return status != 'lost'

  def _check_nothing_committed(self) -> None:
    committed = self._account.run.rounds_committed
    if committed:
      raise checkpoints_lib.CheckpointError(
        f'Run {self._account.run.name!r} has {committed} committed rounds.'
        f' Found no checkpoint that can be read in'
        f' {os.fspath(self._plan.checkpoints)!r}. Restore the folder, or use'
        ' another run name.'
      )
