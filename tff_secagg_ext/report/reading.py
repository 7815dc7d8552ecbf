# SPDX-License-Identifier: Apache-2.0
"""From a ledger to the facts of a run: in one read, without its writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
import pathlib
from typing import Any

from tff_secagg_ext import accounting
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.ledger import records, schema
from tff_secagg_ext.ledger import rows as rows_lib
from tff_secagg_ext.ledger.audits import to_audit
from tff_secagg_ext.report import collecting
from tff_secagg_ext.report import facts as facts_lib
from tff_secagg_ext.report.collecting import Collector
from tff_secagg_ext.report.facts import Charges, RunFacts


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
    BrokenChainError: If rows of another run were altered that spends of the
      same budget.
    LedgerError: If the ledger cannot be read.
    OSError: If the folder cannot be read.
  """
  other = None if baseline is None else read(ledger, baseline, server_view)
  collector = Collector(server_view)
  settled: list[ledger_lib.Entry] = []

  def take(row: rows_lib.Row, record: Mapping[str, Any]) -> None:
    collector.take(row, record)
    if transcripts is not None and record['kind'] != schema.RESERVED:
      settled.append(rows_lib.to_entry(row))

  with ledger.scan(run) as scan:
    try:
      head = scan.read(take)
    except ledger_lib.BrokenChainError as error:
      return _altered(run, str(error), server_view)
    found = scan.found
  settings = json.loads(found.run['settings'])
  return RunFacts(
    name=run,
    view='server' if server_view else 'release',
    fault=None,
    head=str(head),
    created_at=found.run['created_at'],
    delta=found.run['delta'],
    settings=settings,
    versions=versions(found),
    entries=collector.entries,
    series=collector.series(),
    charges=collector.charges(),
    plan=collector.plan,
    release=collector.epsilons[0],
    server=collector.epsilons[1],
    notes=collector.notes,
    budget=_budget(None if alone else ledger, run, settings),
    audits=[audit(row, server_view) for row in found.audits],
    transcripts=_transcript_faults(settled, transcripts),
    baseline=other,
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
    series=Collector(server_view).series(),
    charges=(),
    plan=None,
    release=accounting.Epsilon(math.inf, (fault,)),
    server=accounting.Epsilon(math.inf, (fault,)),
    notes={},
  )


def _transcript_faults(
  entries: Sequence[ledger_lib.Entry], folder: pathlib.Path | None
) -> tuple[str, ...] | None:
  if folder is None:
    return None
  # Cryptography is needed for this alone.
  from tff_secagg_ext.gate import transcripts

  return transcripts.faults(entries, folder)


def audit(row: rows_lib.Row, server_view: bool) -> facts_lib.AuditFacts:
  """Returns what is told of an audit."""
  audit = to_audit(row)
  public = server_view or records.is_public(audit.kind, audit.figures)
  return facts_lib.AuditFacts(
    number=audit.number,
    kind=audit.kind,
    entries=audit.entries,
    figures=audit.figures if public else None,
    versions=audit.versions,
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
  others: dict[str, Charges] = {}
  for other in ledger.standings():
    if other.population == population and other.name != run:
      collector = Collector(server_view=False)
      with ledger.scan(other.name) as scan:
        scan.read(collector.take)
      others[other.name] = collector.charges_of_budget(budget)
  return with_others(found, others)


def with_others(
  found: facts_lib.BudgetFacts, others: Mapping[str, Charges]
) -> facts_lib.BudgetFacts:
  """Returns a budget with the charges of others, open ones at their most."""
  return dataclasses.replace(
    found, others=tuple(others), charges=collecting.together(others.values())
  )
