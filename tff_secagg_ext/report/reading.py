# SPDX-License-Identifier: Apache-2.0
"""From a ledger to the facts of a run: in one read, without its writer."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
import json
import math
import pathlib
from typing import Any

import numpy as np

from tff_secagg_ext import accounting
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.ledger import records
from tff_secagg_ext.ledger import rows as rows_lib
from tff_secagg_ext.ledger.audits import to_audit
from tff_secagg_ext.report import facts as facts_lib
from tff_secagg_ext.report.facts import Charges, RunFacts, Series

_NOTHING = accounting.Epsilon(0.0)
_MEASURED = ('clip_norm', 'zeroing_threshold', 'wrap_probability')
# TFF's own factories measure it under another name.
_ALSO = {'clip_norm': 'l2_clip'}
_SESSION = (
  'upload_bytes',
  'download_bytes',
  'expansion',
  'client_seconds',
  'server_seconds',
  'seconds',
)


def read(
  ledger: ledger_lib.Ledger,
  run: str,
  server_view: bool = False,
  transcripts: pathlib.Path | None = None,
  baseline: str | None = None,
  alone: bool = False,
) -> RunFacts:
  """Returns the facts of a run, as they are at one moment.

  Guarantees:
    - the run may be written meanwhile, and its writer never waits;
    - without `server_view` there is nothing in them that tells the size of a
      secret cohort: they are what `Ledger.show` tells by default;
    - of a run whose rows were altered they tell that alone.

  Args:
    ledger: Where the run is.
    run: Its name.
    server_view: Whether to tell what is the coordinator's alone.
    transcripts: A folder with the transcripts of its sessions.
    baseline: The name of a run that utility is compared with.
    alone: Whether other runs that share its budget are left out, for `sharing`
      to add.

  Raises:
    UnknownRunError: If there is no run of that name; names the nearest.
    LedgerError: If the ledger cannot be read.
    OSError: If the folder cannot be read.
  """
  found = ledger.snapshot(run)
  other = None if baseline is None else read(ledger, baseline, server_view)
  try:
    head = str(found.chain.check())
  except ledger_lib.BrokenChainError as error:
    return _altered(run, str(error), server_view)
  entries = newest_of_attempts(found)
  settings = json.loads(found.run['settings'])
  newest = max(entries, key=lambda e: e.sequence, default=None)
  wrong = None
  if transcripts is not None:
    wrong = _transcript_faults(entries, transcripts)
  return RunFacts(
    name=run,
    view='server' if server_view else 'release',
    fault=None,
    head=head,
    created_at=found.run['created_at'],
    delta=found.run['delta'],
    settings=settings,
    versions=versions(found),
    entries=len(found.entries),
    series=to_series(entries, settings, server_view),
    charges=grouped(e.charge for e in entries),
    plan=plan(found),
    release=_NOTHING if newest is None else newest.release,
    server=_NOTHING if newest is None else newest.server,
    notes=collections.Counter(e.note for e in entries if e.note),
    budget=_budget(None if alone else ledger, run, settings),
    audits=[audit(row, server_view) for row in found.audits],
    transcripts=wrong,
    baseline=other,
  )


def grouped(charges: Iterator[accounting.Round]) -> Charges:
  """Returns charges with alike ones that follow one another put together."""
  return tuple(
    (charge, sum(1 for _ in same))
    for charge, same in itertools.groupby(charges)
  )


def _altered(run: str, fault: str, server_view: bool) -> RunFacts:
  return RunFacts(
    name=run,
    view='server' if server_view else 'release',
    fault=fault,
    head='',
    created_at='',
    delta=math.nan,
    settings={},
    versions=(),
    entries=0,
    series=to_series((), {}, server_view),
    charges=(),
    plan=None,
    release=accounting.Epsilon(math.inf, (fault,)),
    server=accounting.Epsilon(math.inf, (fault,)),
    notes={},
  )


def newest_of_attempts(found: rows_lib.RunRows) -> list[ledger_lib.Entry]:
  """Returns what is known last of each attempt, in order of reservation."""
  newest = {(row['round'], row['attempt']): row for row in found.entries}
  return [rows_lib.to_entry(row) for row in newest.values()]


def plan(found: rows_lib.RunRows) -> accounting.Round | None:
  """Returns what the newest attempt was reserved at."""
  reserved = [row for row in found.entries[-4:] if row['kind'] == 'reserved']
  if not reserved:
    reserved = [row for row in found.entries if row['kind'] == 'reserved']
  return rows_lib.to_entry(reserved[-1]).charge if reserved else None


def _transcript_faults(
  entries: Sequence[ledger_lib.Entry], folder: pathlib.Path
) -> tuple[str, ...]:
  # Cryptography is needed for this alone.
  from tff_secagg_ext.gate import transcripts

  return transcripts.faults(entries, folder)


def audit(row: rows_lib.Row, server_view: bool) -> facts_lib.AuditFacts:
  """Returns what a view may know of an audit."""
  found = to_audit(row)
  public = server_view or records.is_public(found.kind, found.figures)
  return facts_lib.AuditFacts(
    number=found.number,
    kind=found.kind,
    entries=found.entries,
    figures=found.figures if public else None,
    versions=found.versions,
  )


def versions(found: rows_lib.RunRows) -> list[Mapping[str, str]]:
  """Returns the versions of each session, oldest first."""
  return [json.loads(row['versions']) for row in found.sessions]


def _budget(
  ledger: ledger_lib.Ledger | None, run: str, settings: Mapping[str, Any]
) -> facts_lib.BudgetFacts | None:
  stated = settings.get('budget')
  if stated is None:
    return None
  names = {field.name for field in dataclasses.fields(accounting.Budget)}
  budget = accounting.Budget(**{n: v for n, v in stated.items() if n in names})
  population = settings.get('population_name')
  found = facts_lib.BudgetFacts(budget, stated, population)
  if ledger is None or population is None:
    return found
  others = [
    other.name
    for other in ledger.standings()
    if other.population == population and other.name != run
  ]
  return with_others(
    found, {name: ledger_lib.charges(ledger.show(name)) for name in others}
  )


def with_others(
  found: facts_lib.BudgetFacts,
  others: Mapping[str, Iterable[tuple[accounting.Round, str]]],
) -> facts_lib.BudgetFacts:
  """Returns a budget with the charges of others, open ones at their most."""
  charged = (
    found.budget.at_most(charge) if status == 'reserved' else charge
    for charges in others.values()
    for charge, status in charges
  )
  return dataclasses.replace(
    found, others=tuple(others), charges=grouped(charged)
  )


def to_series(
  entries: Sequence[ledger_lib.Entry],
  settings: Mapping[str, Any],
  server_view: bool,
) -> Series:
  """Returns the figures of attempts, in the order of their reservation."""
  measured = [e.measurements for e in entries]
  sessions = [(e.protocol or {}) if server_view else {} for e in entries]
  stages = dict.fromkeys(
    stage for session in sessions for stage in session.get('dropouts', {})
  )
  noise = [_noise(e.charge) for e in entries]
  return Series(
    round=np.array([e.attempt.round for e in entries], np.int64),
    attempt=np.array([e.attempt.attempt for e in entries], np.int64),
    status=np.array([e.kind for e in entries], '<U9'),
    aborted=np.array([_aborted(e) for e in entries], np.bool_),
    release_epsilon=np.array([e.release.value for e in entries], np.float64),
    server_epsilon=np.array([e.server.value for e in entries], np.float64),
    release_noise=_floats([release for release, _ in noise]),
    server_noise=_floats([server for _, server in noise]),
    **{n: _floats([_measurement(m, n) for m in measured]) for n in _MEASURED},
    contributors=_floats(list(map(_contributors, entries, sessions))),
    invited=_floats([session.get('clients') for session in sessions]),
    dropouts={
      stage: _floats(
        [s['dropouts'].get(stage, 0) if s else None for s in sessions]
      )
      for stage in stages
    },
    **{n: _floats([s.get(n) for s in sessions]) for n in _SESSION},
    verified=_floats([(e.protocol or {}).get('verified') for e in entries]),
  )


def _floats(values: Sequence[Any]) -> facts_lib.Floats:
  """Returns numbers as an array, NaN for what is none."""
  numbers = [
    value if isinstance(value, (int, float)) else math.nan for value in values
  ]
  return np.array(numbers, np.float64)


def _aborted(entry: ledger_lib.Entry) -> bool:
  return entry.kind == 'lost' or entry.measurements.get('aborted') is True


def _measurement(measured: Mapping[str, Any], name: str) -> Any:
  return measured.get(name, measured.get(_ALSO.get(name, '')))


def _contributors(entry: ledger_lib.Entry, session: Mapping[str, Any]) -> Any:
  """Returns how many are in a sum: the protocol's count, else the sum's own."""
  if entry.kind != 'committed':
    return None
  return session.get('survivors', entry.measurements.get('contributors'))


@functools.lru_cache(maxsize=1024)
def _noise(charge: accounting.Round) -> tuple[float | None, float | None]:
  """Returns the noise multipliers of the model's sum in both views."""
  for event in charge.events:
    if isinstance(event, accounting.NoisedSumEvent):
      share = math.hypot(event.share_stddev, *event.layer_stddevs)
      own = event.client_shares * share**2
      added = event.server_shares * event.share_stddev**2
      told = min(event.colluders, event.client_shares) * share**2
      return (
        math.sqrt(own + added) / event.l2_sensitivity,
        math.sqrt(own - told) / event.l2_sensitivity,
      )
  central = [
    e for e in charge.events if isinstance(e, accounting.CentralGaussianEvent)
  ]
  if not central:
    return None, None
  ratios = [
    e.l2_sensitivity / e.stddev if e.stddev else math.inf for e in central
  ]
  return 1.0 / math.hypot(*ratios), 0.0
