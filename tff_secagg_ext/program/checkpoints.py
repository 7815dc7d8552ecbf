# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run: the state, and what is needed to commit its round.

A checkpoint is written between running a round and committing it. It holds
the model before it is released, and who took part: it is the coordinator's
own, not part of what the run releases.

What a kill or a power failure leaves behind:

* in the middle of a save: a folder with a temporary name, which is not a
  checkpoint, and is removed by the next save;
* after a save: a whole checkpoint; its files are synced before the round is
  committed;
* a checkpoint that cannot be read is passed over for the one before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
import concurrent.futures
import json
import logging
import os
import pathlib
import re
import shutil
from typing import Any, NamedTuple

import numpy as np

from tff_secagg_ext import accounting
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext._compat import tff
from tff_secagg_ext.program import keys
from tff_secagg_ext.program.account import Settlement

_PREFIX = 'round_state_'
# Holds the number of the newest round that was released.
_RELEASED = 'released'
_UNFINISHED = re.compile(_PREFIX + r'\d+_temp\d+')

_logger = logging.getLogger('tff_secagg_ext')


class CheckpointError(Exception):
  """Checkpoints and ledger cannot be of the same run."""


class Checkpoint(NamedTuple):
  """What a run goes on from, as a structure that TFF can save.

  Attributes:
    state: The state of the process after the round.
    round: The round's number in the ledger.
    attempt: The attempt's.
    charge: JSON of what the round cost.
    measurements: JSON of what it measured.
    protocol: JSON of how its vectors were summed.
    participations: int32[population], how many of the rounds up to this one
      each client took part in.
  """

  state: Any
  round: int
  attempt: int
  charge: str
  measurements: str
  protocol: str
  participations: Any

  @property
  def number(self) -> ledger_lib.Attempt:
    """Which attempt this is the end of."""
    return ledger_lib.Attempt(int(self.round), int(self.attempt))

  @property
  def settlement(self) -> Settlement:
    """What it takes to commit the round."""
    charge = accounting.from_json(_text(self.charge))
    if not isinstance(charge, accounting.Round):
      raise TypeError(f'A charge must be a Round. Found {charge!r}.')
    return Settlement(
      charge,
      json.loads(_text(self.measurements)),
      json.loads(_text(self.protocol)),
    )


def at_end_of(
  number: ledger_lib.Attempt,
  settlement: Settlement,
  state: Any,
  participations: Any,
) -> Checkpoint:
  """Returns the checkpoint of a round that has run."""
  measurements = ledger_lib.measured(settlement.measurements)
  return Checkpoint(
    state=state,
    round=number.round,
    attempt=number.attempt,
    charge=accounting.to_json(settlement.charge),
    measurements=json.dumps(dict(measurements)),
    protocol=json.dumps(settlement.protocol),
    participations=participations,
  )


class Checkpoints:
  """The checkpoints of one run, in a folder of their own."""

  def __init__(self, folder: str | os.PathLike[str], keep: int = 3):
    """Opens a folder, and makes it if it is missing.

    Args:
      folder: Where the checkpoints are.
      keep: How many of the newest are kept, at least 2.
    """
    self._folder = pathlib.Path(folder)
    self._manager = tff.program.FileProgramStateManager(
      os.fspath(folder), prefix=_PREFIX, keep_total=keep, keep_first=False
    )

  def save(self, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint, and syncs it to the disk."""
    self._remove_unfinished()
    version = max(self._versions(), default=0) + 1
    _run(self._manager.save(checkpoint, version))
    _sync(self._folder / f'{_PREFIX}{version}')

  @property
  def released(self) -> int:
    """The newest round that is marked as released; 0 for none."""
    try:
      return int((self._folder / _RELEASED).read_text('ascii'))
    except FileNotFoundError:
      return 0

  def mark_released(self, number: int) -> None:
    """Remembers, at once or not at all, that a round was released."""
    fresh = self._folder / f'{_RELEASED}.new'
    fresh.write_text(str(number), 'ascii')
    fresh.replace(self._folder / _RELEASED)

  def newest(
    self, state: Any, population: int, usable: Callable[[Checkpoint], bool]
  ) -> Checkpoint | None:
    """Returns the newest checkpoint that can be read and is usable.

    Args:
      state: A state of the process, for its structure.
      population: The number of clients.
      usable: Which of those that can be read to take.
    """
    blank = Checkpoint(state, 0, 0, '', '', '', np.zeros(population, np.int32))
    for version in sorted(self._versions(), reverse=True):
      try:
        found: Checkpoint = _run(self._manager.load(version, blank))
      except Exception as error:  # TensorFlow raises what it comes across.
        _logger.warning(
          'Checkpoint %d cannot be read (%s). Trying the one before.',
          version,
          type(error).__name__,
        )
        continue
      if usable(found):
        return found
    return None

  def _versions(self) -> Sequence[int]:
    return _run(self._manager.get_versions()) or ()

  def _remove_unfinished(self) -> None:
    for path in self._folder.iterdir():
      if _UNFINISHED.fullmatch(path.name):
        shutil.rmtree(path, ignore_errors=True)


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
  """Runs a coroutine to its end, also where a notebook has a loop running."""
  with concurrent.futures.ThreadPoolExecutor(1) as executor:
    return executor.submit(asyncio.run, coroutine).result()


def _sync(folder: pathlib.Path) -> None:
  """Makes a folder, all in it, and its own name durable."""
  for path in (*folder.rglob('*'), folder, folder.parent):
    keys.sync(path)


def _text(value: Any) -> str:
  """Returns what TensorFlow makes of a string as a string again."""
  value = value.item() if isinstance(value, np.ndarray) else value
  return value.decode('utf-8') if isinstance(value, bytes) else str(value)
