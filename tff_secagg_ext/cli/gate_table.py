# SPDX-License-Identifier: Apache-2.0
"""The verdict of a gate, as a table for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tff_secagg_ext import gate


def print_verdict(verdict: gate.Verdict, console: Console) -> None:
  """Prints one row a check, then why those fail that do."""
  table = Table('check', 'holds', 'found', 'limit')
  for finding in verdict.findings:
    table.add_row(
      finding.check,
      'yes' if finding.holds else 'NO',
      Text(_figure(finding.found)),
      Text(_figure(finding.limit)),
    )
  console.print(table)
  for finding in verdict.findings:
    if finding.why:
      _say(console, f'{finding.check}: {finding.why}')
  failed = len(verdict.failed)
  what = 'passes' if verdict.holds else f'fails {failed} checks of'
  _say(
    console,
    f'Run {verdict.run} {what} the policy {verdict.policy[:12]}..., at entry'
    f' {verdict.entries} of the ledger.',
  )


def _say(console: Console, text: str) -> None:
  console.print(text, highlight=False, markup=False)


def _figure(value: float | str | None) -> str:
  if value is None:
    return ''
  if isinstance(value, str):
    return value
  return '∞' if value == float('inf') else f'{value:.4g}'
