# SPDX-License-Identifier: Apache-2.0
"""External events as ordinary runs of a ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import json
import types
from typing import Any

from tff_secagg_ext import _validate
from tff_secagg_ext.accounting import (
  ExternalEvent,
  NoSampling,
  Round,
  dp_events,
  to_json,
)
from tff_secagg_ext.ledger.ledger import Ledger
from tff_secagg_ext.ledger.run import Run

_REPEATED = 'SelfComposedDpEvent'


@dataclasses.dataclass(frozen=True)
class ExternalRun:
  """What a ledger is told about a run of external events.

  Attributes:
    name: The name of the run in the ledger.
    population_name: The name of the population that the events are about: that
      of the federated runs that they are composed with.
    population: The number of units in it; `None` if it is not known.
    unit_of_privacy: Whose data the events protect, as the federated runs have
      it. An example of DP-SGD is not a client, unless each client has one.
    notes: Other JSON values to be recorded.
  """

  name: str
  population_name: str
  population: int | None = None
  unit_of_privacy: str = 'client'
  notes: Mapping[str, Any] = dataclasses.field(
    default_factory=lambda: types.MappingProxyType({})
  )

  def __post_init__(self) -> None:
    for field in ('name', 'population_name', 'unit_of_privacy'):
      value: object = getattr(self, field)
      if not isinstance(value, str):
        raise TypeError(f'`{field}` must be a string. Found {value!r}.')
      if not value.strip():
        raise ValueError(
          f'`{field}` must not be empty. Found {value!r}. Give that of the runs'
          ' that it is composed with.'
        )
    if self.population is not None:
      _validate.check_int(self.population, 'population', minimum=1)


def record_external(
  ledger: Ledger,
  run: ExternalRun,
  events: Iterable[ExternalEvent],
  *,
  delta: float,
) -> Run:
  """Records external events as a run, each as one committed round.

  Guarantees:
    - the run is as any other: chained, verified, exported, and counted against
      the budget of its population. A budget does not refuse it, since it has
      happened; what passes the budget is refused afterwards;
    - the same events again change nothing; more of them, after those that are
      on record, are added, also where a repeated event was repeated further;
      others are refused.

  Args:
    ledger: Where to.
    run: What is said of them.
    events: In the order in which they happened.
    delta: At which epsilon of this run is told, in (0, 1).

  Returns:
    The run, open for writing.

  Raises:
    TypeError: If `events` holds anything else.
    ValueError: If there are none, or the run has others on record.
    LedgerError: If the run cannot be opened or written; see
      `Ledger.open_run`.
  """
  given = [_run_of(event) for event in events]
  if not given:
    raise ValueError(
      '`events` must hold an event. Found none. A run of nothing says nothing.'
    )
  settings = _settings(run, [event for event, _ in given])
  opened = ledger.open_run(run.name, settings, delta=delta)
  known = [
    _run_of(entry.charge.external)
    for entry in opened.entries
    if entry.kind == 'reserved'
  ]
  left = _after(known, given)
  if left is None:
    raise ValueError(
      f'Run {run.name!r} must begin with the {len(known)} events that it has on'
      f' record. Found {len(given)} that differ. Give the whole history in its'
      ' order, or use another run name.'
    )
  # A process that ended in between has left one open.
  for attempt, charge in opened.open_attempts.items():
    opened.commit(attempt, charge, {})
  for event, count in left:
    charge = Round((_repeated(event, count),), NoSampling())
    opened.commit(opened.reserve(charge), charge, {})
  return opened


def _run_of(event: object) -> tuple[ExternalEvent, int]:
  """Returns an event as another one, and how often it happened."""
  if not isinstance(event, ExternalEvent):
    raise TypeError(
      f'`events` must hold ExternalEvents. Found {event!r}. Use'
      ' ExternalEvent.of for an event of dp_accounting.'
    )
  tree = dp_events.parse(event.event)
  if tree[dp_events.CLASS] != _REPEATED:
    return event, 1
  once = json.dumps(tree['event'])
  return dataclasses.replace(event, event=once), tree['count']


def _repeated(event: ExternalEvent, count: int) -> ExternalEvent:
  """Returns the event of `count` applications."""
  if count == 1:
    return event
  tree = {
    dp_events.CLASS: _REPEATED,
    'event': dp_events.parse(event.event),
    'count': count,
  }
  return dataclasses.replace(event, event=json.dumps(tree))


def _after(
  known: Iterable[tuple[ExternalEvent, int]],
  given: Iterable[tuple[ExternalEvent, int]],
) -> list[tuple[ExternalEvent, int]] | None:
  """Returns what is given after what is known; None if it does not begin so.

  The last item of a history of Opacus grows while noise and rate stay: what was
  recorded as n steps is n of the steps that it has now.
  """
  left = [(event, count) for event, count in given if count]
  for event, count in known:
    while count:
      if not left or left[0][0] != event:
        return None
      first = left.pop(0)[1]
      taken = min(first, count)
      count -= taken
      if first > taken:
        left.insert(0, (event, first - taken))
  return left


def _settings(
  run: ExternalRun, events: Iterable[ExternalEvent]
) -> dict[str, Any]:
  # Who vouches for what; the events themselves are the charges.
  told = [
    {
      'source': event.source,
      'trust_domain': event.trust_domain,
      'vouched_by': event.vouched_by,
      'by_coordinator': event.by_coordinator,
    }
    for event in events
  ]
  distinct = {json.dumps(each, sort_keys=True): each for each in told}
  external = [each for _, each in sorted(distinct.items())]
  summed = '; '.join(
    f'{e["source"]} ({e["trust_domain"]}), vouched for by {e["vouched_by"]}'
    for e in external
  )
  return {
    'external': external,
    'population_name': run.population_name,
    'population': run.population,
    'unit_of_privacy': run.unit_of_privacy,
    'sampling': json.loads(to_json(NoSampling())),
    'secure_sums': f'external: {summed}',
    'notes': dict(run.notes),
  }
