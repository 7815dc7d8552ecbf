# SPDX-License-Identifier: Apache-2.0
"""The demonstration: the same training with little, no and much noise."""

from __future__ import annotations

import re
import tempfile

from rich.console import Console

from tff_secagg_ext.cli import tables, training
from tff_secagg_ext.ledger import Ledger

_NOISE_MULTIPLIERS = (1.0, 0.0, 4.0)
_DROPOUTS = 0.1


def run(ledger: str) -> bool:
  """Trains digits at each noise multiplier, and prints one table of all.

  Secure sums go through the protocol; a tenth of the clients drops out of it.

  Args:
    ledger: Where the rounds are recorded, under new names.

  Returns:
    Whether all of it ran; not after Ctrl-C.
  """
  console = Console()
  number = _next_number(ledger)
  outcomes = []
  with tempfile.TemporaryDirectory() as checkpoints:
    for noise_multiplier in _NOISE_MULTIPLIERS:
      outcome = training.train(
        training.Options(
          task='digits',
          noise_multiplier=noise_multiplier,
          run=f'demo{number}-z{noise_multiplier:g}',
          ledger=ledger,
          checkpoints=checkpoints,
          sums=training.Sums(simulate_dropouts=_DROPOUTS),
        ),
        console,
      )
      outcomes.append(outcome)
      if outcome.interrupted:
        break
  tables.print_outcomes(outcomes, ledger, console)
  return not outcomes[-1].interrupted


def _next_number(ledger: str) -> int:
  """One more than the number of any demonstration that is on record."""
  with Ledger.open(ledger) as opened:
    names = opened.names()
  numbers = [re.match(r'demo(\d+)-', name) for name in names]
  return 1 + max((int(n.group(1)) for n in numbers if n), default=0)
