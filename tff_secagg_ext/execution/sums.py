# SPDX-License-Identifier: Apache-2.0
"""Sessions: how the vectors of a cohort become their sums, with a report."""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import contextlib
import contextvars
import dataclasses
import itertools
import logging
import threading
import time
from typing import TypeAlias

import numpy as np

from tff_secagg_ext.execution.options import SecureOptions
from tff_secagg_ext.execution.vectors import Int64Array
from tff_secagg_ext.secagg.errors import Aborted
from tff_secagg_ext.secagg.report import Outcome, Report
from tff_secagg_ext.secagg.setup import STAGES, VectorSpec
from tff_secagg_ext.secagg.simulation import (
  Dropouts,
  Simulation,
  Transcripts,
  nobody,
)
from tff_secagg_ext.secagg.transcript import Transcript

_logger = logging.getLogger('tff_secagg_ext')

# Before these, a client has done no work that a round could lose.
_BEFORE_WORK = STAGES[: STAGES.index('mask')]

Vectors: TypeAlias = Mapping[str, Int64Array]
# From a client, and the clients that are known to have dropped out.
Work: TypeAlias = Callable[[int, Collection[int]], Vectors]

_collectors: contextvars.ContextVar[tuple[list[Report], ...]] = (
  contextvars.ContextVar('collectors', default=())
)


class RoundAborted(Exception):
  """A computation that ended without a result, as its secure sums did.

  The cohort is lost; another one may be tried.

  Attributes:
    reason: Why, and in which step.
    stage: The step.
    sum_known: Whether the server had the sums by then.
    report: The session in figures, up to its end; `None` if it never began.
  """

  def __init__(
    self,
    reason: str,
    stage: str,
    sum_known: bool,
    report: Report | None = None,
  ):
    super().__init__(f'The round was aborted: {reason}')
    self.reason = reason
    self.stage = stage
    self.sum_known = sum_known
    self.report = report

  @property
  def nothing_left(self) -> bool:
    """Whether nothing that the clients sum has left them.

    Before the step 'unmask' no client gives shares away: its vector is masked
    by secrets that the server and its colluders cannot rebuild.
    """
    before = STAGES[: STAGES.index('unmask')]
    return self.stage in before and not self.sum_known


@contextlib.contextmanager
def collect_reports() -> Iterator[list[Report]]:
  """Yields a list to which every session that ends with a sum adds its report.

  Those of the sessions that run inside the block, also where they are awaited
  or run in tasks that were started in it.
  """
  reports: list[Report] = []
  token = _collectors.set((*_collectors.get(), reports))
  try:
    yield reports
  finally:
    _collectors.reset(token)


class Sessions:
  """Runs the sessions of a context, one after another, in any thread."""

  def __init__(self, options: SecureOptions):
    self._options = options
    self._lock = threading.Lock()
    self._rounds = itertools.count()
    self._sums: PlainSums | Simulation
    if options.protocol == 'plain':
      _logger.warning(
        "protocol='plain' adds the clients' vectors in the clear: there is no"
        ' secrecy. Use it for quick work only.'
      )
      self._sums = PlainSums(options.min_contributors)
    else:
      self._sums = Simulation(
        options.security,
        verify=options.verified,
        min_survivors=options.min_contributors,
      )

  def check_cohort(self, clients: int) -> None:
    """Refuses, before any work, a cohort that is too small.

    Raises:
      RoundAborted: If fewer than `min_contributors` clients are invited.
    """
    minimum = self._options.min_contributors
    if clients < minimum:
      raise RoundAborted(
        f'{clients} clients are invited, of at least {minimum}',
        'invite',
        sum_known=False,
      )

  def run(
    self, specs: Sequence[VectorSpec], clients: int, work: Work
  ) -> Outcome:
    """Sums the vectors of the clients 0 to `clients` - 1.

    Args:
      specs: What is summed.
      clients: How many are invited.
      work: Returns a client's vectors. Called in ascending order of clients,
        for those that reach the step 'mask'.

    Raises:
      RoundAborted: If the session ends without a sum.
    """
    with self._lock:
      number = next(self._rounds)
      lost: set[int] = set()

      def drops(stage: str, client: int) -> bool:
        model = self._options.dropouts
        gone = model is not None and model(number, stage, client)
        if gone and stage in _BEFORE_WORK:
          lost.add(client)
        return gone

      try:
        outcome = self._sums.run(
          range(clients),
          specs,
          lambda client: work(client, lost),
          round=number,
          dropouts=drops,
          transcripts=self._transcripts,
        )
      except Aborted as error:
        raise RoundAborted(
          str(error), error.stage, error.sum_known, error.report
        ) from error
    for reports in _collectors.get():
      reports.append(outcome.report)
    return outcome

  @property
  def _transcripts(self) -> Transcripts | None:
    folder = self._options.transcripts
    if folder is None:
      return None
    return lambda setup: Transcript.create(folder, setup.session, setup.round)


class PlainSums:
  """Modular sums in the clear, in the place of a `Simulation`.

  Clients drop out in the steps up to 'mask', as they would there.
  """

  def __init__(self, min_survivors: int):
    self._min_survivors = min_survivors

  def run(
    self,
    clients: Sequence[int],
    specs: Sequence[VectorSpec],
    vectors: Callable[[int], Vectors],
    *,
    round: int = 0,
    dropouts: Dropouts = nobody,
    transcripts: Transcripts | None = None,
  ) -> Outcome:
    """Adds vectors; see `Simulation.run`. There is nothing to transcribe."""
    del round, transcripts
    start = time.monotonic()
    lost = collections.Counter[str]()
    left = list(clients)
    for stage in _BEFORE_WORK:
      stay = [client for client in left if not dropouts(stage, client)]
      lost[stage], left = len(left) - len(stay), stay
    self._check_enough(left, _plain_report(len(clients), 0, lost, start))
    sums = {spec.name: np.zeros(spec.length, np.int64) for spec in specs}
    survivors = []
    for client in left:
      values = vectors(client)
      if dropouts('mask', client):
        continue
      survivors.append(client)
      for spec in specs:
        total = sums[spec.name]
        total += values[spec.name]
        total %= spec.modulus
    lost['mask'] = len(left) - len(survivors)
    report = _plain_report(len(clients), len(survivors), lost, start)
    self._check_enough(survivors, dataclasses.replace(report, survivors=0))
    return Outcome(sums=sums, survivors=tuple(survivors), report=report)

  def _check_enough(self, left: Sequence[int], report: Report) -> None:
    if len(left) < self._min_survivors:
      error = Aborted(
        f'{len(left)} clients are left, of at least {self._min_survivors}',
        'mask',
      )
      error.report = report
      raise error


def _plain_report(
  clients: int, survivors: int, lost: collections.Counter[str], start: float
) -> Report:
  """Returns the report of plain sums: no protocol, and no cost of one."""
  return Report(
    threat='plain',
    clients=clients,
    neighbors=0,
    threshold=0,
    colluders=0,
    survivors=survivors,
    dropouts=dict(+lost),
    refusals={},
    verified=None,
    upload_bytes=0.0,
    download_bytes=0.0,
    expansion=0.0,
    client_seconds=0.0,
    server_seconds=0.0,
    seconds=time.monotonic() - start,
    transcript=None,
  )
