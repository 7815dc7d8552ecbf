# SPDX-License-Identifier: Apache-2.0
"""What the canaries of a run found, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

_FOOTNOTE = (
  'Canaries are compared with the ε of the same rounds without sampling: they'
  ' are in all of them. A bound below it proves nothing good; above it, the'
  ' accountant or the code under it is wrong, or one of the 5 % that miss has'
  ' been met.'
)


def print_audits(
  audits: Mapping[str, Mapping[str, Any]], console: Console | None = None
) -> None:
  """Prints a line for each audit, and what they cost; nothing without any."""
  console = console or Console()
  for line in _lines(audits):
    console.print(line, highlight=False, markup=False)


def _lines(audits: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
  for kind, found in audits.items():
    verdict = 'ALARM: above' if found['alarm'] else 'not above'
    limit = found['ledger_epsilon']
    said = '∞' if limit is None else f'{limit:.3g}'
    yield (
      f'audit {kind}: ε ≥ {found["lower_bound"]:.3g} at'
      f' {found["confidence"]:.0%}{_more(found)}; {verdict} the ε = {said} of'
      f' its {found["rounds"]} rounds without sampling'
    )
  for found in list(audits.values())[:1]:
    share = found['beside_noise']
    norm = 'there is none' if share is None else f'{share:.1%}'
    yield (
      f'canaries take {found["places"]} places of each cohort, and add a vector'
      f' to the update, beside the norm of its noise: {norm}'
    )
    yield _FOOTNOTE


def _more(found: Mapping[str, Any]) -> str:
  if 'estimate' in found:
    return f', estimate {found["estimate"]:.3g}, {found["canaries"]} canaries'
  return f', {found["correct"]} of {found["guessed"]} coins guessed rightly'
