# SPDX-License-Identifier: Apache-2.0
"""What commands record as audits of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import math
from typing import TYPE_CHECKING, Any

from tff_secagg_ext.ledger import Ledger

if TYPE_CHECKING:
  from tff_secagg_ext.audit import implementation as audit


def utility(
  ledger: str, run: str, rounds: int, figures: Mapping[str, float]
) -> None:
  """Records figures on held-out data, unless they are the newest on record.

  Args:
    ledger: Where the run is.
    run: Its name.
    rounds: How many were committed; of none, nothing is recorded.
    figures: By name; one that is not finite is recorded as `None`.

  Raises:
    LedgerError: If it cannot be recorded.
  """
  found: dict[str, Any] = {
    name: float(value) if math.isfinite(value) else None
    for name, value in figures.items()
  }
  found['rounds'] = rounds
  with Ledger.open(ledger) as opened:
    known = [a.figures for a in opened.audits(run) if a.kind == 'utility']
    if rounds and known[-1:] != [found]:
      opened.record_audit(run, 'utility', found)


def implementation(
  ledger: str,
  run: str,
  rows: Iterable[tuple[str, audit.Check, audit.Finding]],
) -> None:
  """Records what attacks on factories have found.

  Args:
    ledger: Where the run is.
    run: Its name.
    rows: A factory's name, a check, and what it found, each.

  Raises:
    LedgerError: If it cannot be recorded.
  """
  verdicts: dict[str, dict[str, str]] = {}
  for factory, check, finding in rows:
    verdicts.setdefault(factory, {})[check.name] = finding.verdict.value
  broken = [
    f'{factory}: {check}'
    for factory, found in verdicts.items()
    for check, verdict in found.items()
    if verdict == 'broken'
  ]
  with Ledger.open(ledger, create=False) as opened:
    opened.record_audit(
      run, 'implementation', {'verdicts': verdicts, 'broken': broken}
    )
