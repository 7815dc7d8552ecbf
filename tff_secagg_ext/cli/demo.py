# SPDX-License-Identifier: Apache-2.0
"""The demonstration: the same training with little, no and much noise."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
import contextlib
import multiprocessing
import re
import signal
import tempfile

from rich.console import Console

from tff_secagg_ext.cli import tables, training
from tff_secagg_ext.ledger import Ledger

_NOISE_MULTIPLIERS = (1.0, 0.0, 4.0)
_DROPOUTS = 0.1


def run(ledger: str, rounds: int | None = None) -> bool:
  """Trains digits at each noise multiplier, and prints one table of all.

  The runs go on side by side, each in a process of its own, and are recorded
  in one ledger. Secure sums go through the protocol; a tenth of the clients
  drops out of it.

  Args:
    ledger: Where the rounds are recorded, under new names.
    rounds: Of each run; `None`: as many as the task has.

  Returns:
    Whether all of it ran; not after Ctrl-C.
  """
  number = _next_number(ledger)
  with tempfile.TemporaryDirectory() as checkpoints:
    options = [
      training.Options(
        task='digits',
        noise_multiplier=noise_multiplier,
        run=f'demo{number}-z{noise_multiplier:g}',
        ledger=ledger,
        checkpoints=checkpoints,
        rounds=rounds,
        sums=training.Sums(simulate_dropouts=_DROPOUTS),
      )
      for noise_multiplier in _NOISE_MULTIPLIERS
    ]
    # TensorFlow does not survive a fork.
    processes = futures.ProcessPoolExecutor(
      len(options), multiprocessing.get_context('spawn')
    )
    with _interrupts_left_to_children(), processes:
      outcomes = list(processes.map(_train, options))
  tables.print_outcomes(outcomes, ledger)
  return not any(outcome.interrupted for outcome in outcomes)


def _train(options: training.Options) -> training.Outcome:
  from tff_secagg_ext import execution

  try:
    # A bar for each process would write over those of the others.
    return training.train(options, Console(force_terminal=False))
  finally:
    execution.end_worker()


@contextlib.contextmanager
def _interrupts_left_to_children() -> Iterator[None]:
  """Waits for the children where Ctrl-C, which they get too, ends them."""
  previous = signal.signal(signal.SIGINT, lambda number, frame: None)
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, previous)


def _next_number(ledger: str) -> int:
  """One more than the number of any demonstration that is on record."""
  with Ledger.open(ledger) as opened:
    names = opened.names()
  numbers = [re.match(r'demo(\d+)-', name) for name in names]
  return 1 + max((int(n.group(1)) for n in numbers if n), default=0)
