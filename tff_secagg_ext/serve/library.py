# SPDX-License-Identifier: Apache-2.0
"""What is known of the runs of a ledger, kept for as long as it is true.

Reading a long run and pricing what comes takes seconds. It is done once for a
state of a run, by workers, and pages take what there is. A run is read anew,
and its whole chain is checked, when it is seen first and every `PERIOD` after
that; in between its new rows alone are, which must follow those that were
checked.
"""

from __future__ import annotations

from concurrent import futures
import dataclasses
import hashlib
import threading
import time
from typing import TypeAlias

from tff_secagg_ext import report
from tff_secagg_ext.ledger import (
  Ledger,
  PopulationAccount,
  Standing,
  UnknownRunError,
  compose_population,
)
from tff_secagg_ext.report.document import Document
from tff_secagg_ext.report.facts import RunFacts
from tff_secagg_ext.report.forecasting import Forecast

PERIOD = 600.0
# Pages of runs that are kept, the newest that were asked for.
KEPT = 256
# A run that is judged again and again takes at most a fifth of a core.
_SHARE = 4.0
_RECENT = 0.1
_WORKERS = 2

_Tips: TypeAlias = tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class Summary:
  """What is said of a run in a line.

  Attributes:
    version: Of the state that it is about.
    level: Of the verdict.
    headline: The verdict in two or three words.
    release: Epsilon towards whoever sees what was released.
    server: Epsilon towards the coordinator.
    waived: Whether both leave something out.
    rounds: How many were committed.
  """

  version: str
  level: str
  headline: str
  release: float
  server: float
  waived: bool
  rounds: int


@dataclasses.dataclass(frozen=True)
class Judged:
  """What is said of a run on its page.

  Attributes:
    summary: In a line.
    facts: What it is made of.
    ahead: What its budget still affords.
    document: The page.
  """

  summary: Summary
  facts: RunFacts
  ahead: Forecast
  document: Document


class Library:
  """The runs of a ledger, read and judged, for any number of threads.

  Guarantees:

  * A run that nobody has added to is not read again within `PERIOD`: that it
    has not changed is seen in the one query that is made for all runs.
  * A verdict is always that of a run whose chain was checked.
  """

  def __init__(self, ledger: Ledger, *, server_view: bool = False):
    """Takes a ledger that is open.

    Args:
      ledger: Where the runs are.
      server_view: Whether to tell what is the coordinator's alone.
    """
    self.ledger = ledger
    self.server_view = server_view
    self._pool = futures.ThreadPoolExecutor(_WORKERS, 'judge')
    self._lock = threading.Lock()
    self._standings: tuple[float, tuple[Standing, ...]] = (0.0, ())
    self._facts: dict[str, tuple[_Tips, RunFacts]] = {}
    self._checked: dict[str, int] = {}
    self._summaries: dict[str, Summary] = {}
    self._judged: dict[str, Judged] = {}
    self._jobs: dict[str, futures.Future[Judged]] = {}
    self._populations: dict[str, tuple[str, PopulationAccount]] = {}
    self._rest: dict[str, float] = {}

  def close(self) -> None:
    """Ends the workers, when they have done what they are doing."""
    self._pool.shutdown(cancel_futures=True)

  def standings(self) -> tuple[Standing, ...]:
    """Returns all runs, oldest first, as they were a moment ago.

    Raises:
      LedgerError: If the ledger cannot be read.
    """
    at, found = self._standings
    if time.monotonic() - at > _RECENT:
      # Taken before the query: what is kept is never older than it says.
      at = time.monotonic()
      found = self.ledger.standings()
      self._standings = at, found
    return found

  def standing(self, name: str) -> Standing:
    """Returns how far a run is.

    Raises:
      UnknownRunError: If there is no run of that name.
      LedgerError: If the ledger cannot be read.
    """
    for found in self.standings():
      if found.name == name:
        return found
    raise UnknownRunError(f'The ledger has no run {name!r}.')

  def facts(self, standing: Standing) -> RunFacts | None:
    """Returns the facts of a run, read up to what is new; it is cheap.

    `None` if the run was not read yet, or its new rows do not follow.

    Raises:
      LedgerError: If the ledger cannot be read.
    """
    known = self._facts.get(standing.name)
    if known is None or known[0] == standing.tips:
      return known and known[1]
    if known[1].fault is not None:
      return None
    growth = self.ledger.growth(standing.name, known[1].head)
    if growth is None:
      return None
    grown = report.grown(known[1], growth)
    self._facts[standing.name] = standing.tips, grown
    return grown

  def summary(self, standing: Standing) -> Summary | None:
    """Returns what is known of a run at once; has the rest found out."""
    found = self._summaries.get(standing.name)
    if found is None or found.version != self.version(standing):
      self._start(standing)
    return found

  def judged(self, standing: Standing, wait: float = 0.0) -> Judged | None:
    """Returns what is said of a run, if it is known within some seconds.

    Returns:
      What is known by then, which may be of an earlier state of the run; `None`
      if nothing is.

    Raises:
      LedgerError: If the ledger cannot be read.
    """
    found = self._judged.get(standing.name)
    if found and found.summary.version == self.version(standing):
      return found
    job = self._start(standing)
    if job is None:
      return found
    try:
      return job.result(timeout=0.0 if found else wait)
    except futures.TimeoutError:
      return found

  def population(self, name: str) -> PopulationAccount:
    """Returns what all runs of a population have spent together.

    Raises:
      ValueError: If they cannot be about the same units.
      BrokenChainError: If rows of one of them were altered.
      LedgerError: If the ledger cannot be read.
    """
    runs = [run for run in self.standings() if run.population == name]
    version = self.version(runs[0]) if runs else ''
    kept = self._populations.get(name)
    if kept is None or kept[0] != version:
      kept = version, compose_population(self.ledger, name)
      self._populations[name] = kept
    return kept[1]

  def version(self, standing: Standing) -> str:
    """Returns a name of the state of a run and of all that share its budget."""
    shared = standing.population
    tips = [
      other.tips
      for other in (self._standings[1] if shared is not None else ())
      if other.population == shared
    ]
    told = repr((standing.name, standing.tips, tips, _period()))
    return hashlib.sha256(told.encode()).hexdigest()[:16]

  def version_of_all(self) -> str:
    """Returns a name of what is known of all runs, which changes with it."""
    told = [
      (standing.name, standing.tips, standing.progress.writing, found)
      for standing in self.standings()
      for found in [self.summary(standing)]
    ]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]

  def _start(self, standing: Standing) -> futures.Future[Judged] | None:
    """Has a run judged, unless it is, or was just now."""
    name = standing.name
    with self._lock:
      job = self._jobs.get(name)
      if job is not None and not job.done():
        return job
      if job is not None and job.exception() is not None:
        del self._jobs[name]
        return job
      if time.monotonic() < self._rest.get(name, 0.0):
        return None
      job = self._pool.submit(self._judge, standing)
      self._jobs[name] = job
      return job

  def _judge(self, standing: Standing) -> Judged:
    start = time.monotonic()
    version = self.version(standing)
    facts = self._with_others(standing, self._read(standing))
    ahead = report.forecast(facts)
    document = report.report(facts, ahead)
    summary = Summary(
      version,
      document.level,
      document.headline,
      facts.release.value,
      facts.server.value,
      bool(facts.waivers),
      facts.rounds,
    )
    judged = Judged(summary, facts, ahead, document)
    with self._lock:
      self._summaries[standing.name] = summary
      self._judged.pop(standing.name, None)
      self._judged[standing.name] = judged
      for name in [*self._judged][:-KEPT]:
        del self._judged[name]
        self._facts.pop(name, None)
    now = time.monotonic()
    self._rest[standing.name] = now + _SHARE * (now - start)
    return judged

  def _read(self, standing: Standing) -> RunFacts:
    """Returns the facts of a run whose whole chain was checked lately."""
    period = _period()
    if self._checked.get(standing.name) == period:
      facts = self.facts(standing)
      if facts is not None:
        return facts
    facts = report.read(
      self.ledger, standing.name, self.server_view, alone=True
    )
    self._facts[standing.name] = standing.tips, facts
    self._checked[standing.name] = period
    return facts

  def _with_others(self, standing: Standing, facts: RunFacts) -> RunFacts:
    """Adds what other runs have spent of the budget that a run shares."""
    if facts.budget is None or facts.budget.population is None:
      return facts
    others = [
      self._read(other)
      for other in self.standings()
      if other.population == standing.population and other.name != standing.name
    ]
    if any(other.fault is not None for other in others):
      # What its rows say still counts against the budget.
      return report.read(self.ledger, standing.name, self.server_view)
    return report.sharing(facts, others)


def _period() -> int:
  return int(time.monotonic() / PERIOD)
