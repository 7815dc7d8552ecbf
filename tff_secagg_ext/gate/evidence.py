# SPDX-License-Identifier: Apache-2.0
"""What there is to judge a run by: ledger, audits, transcripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

from tff_secagg_ext.accounting import Accountant, Epsilon, ParticipationCap
from tff_secagg_ext.gate import transcripts
from tff_secagg_ext.gate.policy import Policy
from tff_secagg_ext.ledger import (
  AuditRecord,
  BrokenChainError,
  Entry,
  Head,
  Ledger,
)
from tff_secagg_ext.ledger.composition import compose

VIEWS = ('release', 'server')


@dataclasses.dataclass(frozen=True)
class Evidence:
  """All that a run is judged by.

  Attributes:
    run: Its name.
    fault: What was done to its rows; `None` if they are as they were written.
      Nothing else is known of a run whose rows were altered.
    delta: At which its epsilons are told.
    settings: What it was begun with.
    entries: Its entries, oldest first.
    audits: Its audits, oldest first.
    transcripts: What is wrong with its transcripts, one phrase each; `None` if
      nobody said where they are.
    baseline: Audits of the run that utility is compared with, oldest first;
      `None` if the policy names no run.
  """

  run: str
  fault: str | None
  delta: float
  settings: Mapping[str, Any]
  entries: Sequence[Entry]
  audits: Sequence[AuditRecord]
  transcripts: Sequence[str] | None = None
  baseline: Sequence[AuditRecord] | None = None

  @property
  def committed(self) -> tuple[Entry, ...]:
    """The entries of rounds that were committed."""
    return tuple(e for e in self.entries if e.kind == 'committed')

  @property
  def sessions(self) -> tuple[Mapping[str, Any], ...]:
    """How committed rounds were summed, of those of which it is known."""
    return tuple(e.protocol for e in self.committed if e.protocol)

  def epsilon(
    self, view: str, delta: float | None = None, entries: int | None = None
  ) -> Epsilon:
    """Returns what the first entries cost.

    Args:
      view: One of `VIEWS`.
      delta: At which it is told; `None`: that of the run.
      entries: How many; `None`: all.

    Raises:
      ValueError: If the claims of the run may fail with a probability that
        leaves nothing of delta.
    """
    counted = self.entries[:entries]
    if delta is None or delta == self.delta:
      if not counted:
        return Epsilon(0.0, ())
      newest = counted[-1]
      return newest.release if view == 'release' else newest.server
    spendable = delta - self.settings.get('failure_probability', 0.0)
    cap = self.settings.get('participation')
    account = Accountant(
      spendable, None if cap is None else ParticipationCap(**cap)
    )
    release, server = compose(account, counted).epsilons()
    return release if view == 'release' else server


def gather(
  ledger: Ledger,
  run: str,
  policy: Policy,
  *,
  folder: pathlib.Path | None = None,
  head: Head | str | None = None,
) -> Evidence:
  """Reads what there is of a run.

  Args:
    ledger: Where the run is.
    run: Its name.
    policy: Says which run is the baseline.
    folder: Where the transcripts of its sessions are.
    head: Of the run, as `Ledger.verify` takes it.

  Raises:
    UnknownRunError: If there is no run, or no baseline, of that name.
    BrokenChainError: If the rows of the baseline were altered.
    ValueError: If `head` is no head.
    OSError: If the folder cannot be read.
  """
  baseline, name = None, policy.utility.baseline
  if isinstance(name, str):
    ledger.verify(name)
    baseline = ledger.audits(name)
  try:
    ledger.verify(run, head)
  except BrokenChainError as error:
    return Evidence(run, str(error), 0.0, {}, (), ())
  shown, entries = ledger.show(run), ledger.entries(run)
  return Evidence(
    run,
    None,
    shown['delta'],
    shown['settings'],
    entries,
    ledger.audits(run),
    None if folder is None else transcripts.faults(entries, folder),
    baseline,
  )
