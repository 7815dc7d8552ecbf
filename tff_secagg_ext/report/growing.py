# SPDX-License-Identifier: Apache-2.0
"""Facts that grow with their run, without all of it being read anew."""

from __future__ import annotations

import collections
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from tff_secagg_ext import accounting
from tff_secagg_ext.ledger import Growth
from tff_secagg_ext.report import reading
from tff_secagg_ext.report.collecting import Collector, together
from tff_secagg_ext.report.facts import Charges, Floats, RunFacts, Series


def grown(facts: RunFacts, growth: Growth) -> RunFacts:
  """Returns facts of a run with what it has got since.

  Guarantees:
    - they are what `read` of the whole run returns, but for what the other runs
      have spent that share its budget: see `sharing`.

  Args:
    facts: Of the run, without a fault, and without transcripts.
    growth: What came after `facts.head`.
  """
  server_view = facts.view == 'server'
  collector = Collector(server_view)
  for row, record in zip(
    growth.rows.entries, growth.rows.chain.entries, strict=True
  ):
    collector.take(row, record)
  new = collector.series()
  opened = np.flatnonzero(facts.series.status == 'reserved').tolist()
  known = {
    (int(facts.series.round[n]), int(facts.series.attempt[n])): n
    for n in opened
  }
  end, places = len(facts.series), []
  for attempt in zip(new.round.tolist(), new.attempt.tolist(), strict=True):
    place = known.get(attempt)
    places.append(end if place is None else place)
    end += place is None
  epsilons = facts.release, facts.server
  release, server = collector.epsilons if collector.entries else epsilons
  return dataclasses.replace(
    facts,
    head=str(growth.head),
    versions=[*facts.versions, *reading.versions(growth.rows)],
    entries=growth.head.entries,
    series=_placed(facts.series, new, places, end),
    charges=_charged(facts, collector.charges(), places),
    plan=collector.plan or facts.plan,
    release=release,
    server=server,
    notes=collections.Counter(facts.notes) + collector.notes,
    audits=[
      *facts.audits,
      *(reading.audit(row, server_view) for row in growth.rows.audits),
    ],
  )


def sharing(facts: RunFacts, others: Sequence[RunFacts]) -> RunFacts:
  """Returns facts of a run with what others have spent of its budget.

  Args:
    facts: Of a run that was read `alone`.
    others: The facts of all other runs of its population, none with a fault.
  """
  if facts.budget is None or facts.budget.population is None:
    return facts
  at_most = facts.budget.budget.at_most
  charged = {
    other.name: together(
      ((at_most(charge) if status == 'reserved' else charge, 1),)
      for charge, status in zip(
        _flat(other.charges), other.series.status.tolist(), strict=True
      )
    )
    for other in others
  }
  return dataclasses.replace(
    facts, budget=reading.with_others(facts.budget, charged)
  )


def _flat(charges: Charges) -> list[accounting.Round]:
  return [charge for charge, count in charges for _ in range(count)]


def _charged(
  facts: RunFacts, charges: Charges, places: Sequence[int]
) -> Charges:
  whole = _flat(facts.charges)
  for charge, place in zip(_flat(charges), places, strict=True):
    whole[place : place + 1] = [charge]
  return together(((charge, 1),) for charge in whole)


def _placed(
  old: Series, new: Series, places: Sequence[int], end: int
) -> Series:
  """Returns the figures of `old` with those of `new` in their places."""

  def placed(before: Any, after: Any) -> Any:
    room = np.empty(end - len(before), np.result_type(before, after))
    whole = np.concatenate([before, room])
    whole[list(places)] = after
    return whole

  values = {
    field.name: placed(getattr(old, field.name), getattr(new, field.name))
    for field in dataclasses.fields(Series)
    if field.name != 'dropouts'
  }
  stages = dict.fromkeys((*old.dropouts, *new.dropouts))
  dropouts = {
    stage: placed(_lost(old, stage), _lost(new, stage)) for stage in stages
  }
  return Series(**values, dropouts=dropouts)


def _lost(series: Series, stage: str) -> Floats:
  """Returns dropouts of a step: none where the session has not named it."""
  if stage in series.dropouts:
    return series.dropouts[stage]
  return np.where(np.isnan(series.invited), np.nan, 0.0)
