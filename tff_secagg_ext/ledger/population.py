# SPDX-License-Identifier: Apache-2.0
"""One epsilon over all runs of a population, external ones included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import json
import logging
from typing import Any

from tff_secagg_ext import _validate
from tff_secagg_ext.accounting import (
  Accountant,
  Epsilon,
  Round,
  from_json,
  warn_of_delta,
)
from tff_secagg_ext.ledger import records, schema
from tff_secagg_ext.ledger.ledger import Ledger

_logger = logging.getLogger('tff_secagg_ext')
# Who answers for what was not told from outside: the recorder of the run.
RECORDED = 'recorded here'


@dataclasses.dataclass(frozen=True)
class PopulationItem:
  """One line of a population's account: alike rounds of one run.

  Attributes:
    run: The name of the run.
    source: What ran them.
    trust_domain: 'federated', 'central' or 'enclave'.
    vouched_by: Who answers for them; `RECORDED` for rounds of this package.
    attempts: How many attempts there were, lost ones included.
    open: How many of them are reserved and not settled.
    release: Epsilon of these alone, towards whoever sees releases.
    server: Epsilon of these alone, towards the coordinator.
  """

  run: str
  source: str
  trust_domain: str
  vouched_by: str
  attempts: int
  open: int
  release: Epsilon
  server: Epsilon


@dataclasses.dataclass(frozen=True)
class PopulationAccount:
  """What all runs of a population have spent together.

  Attributes:
    population_name: The name of the population.
    population: The number of units; `None` if no run states it.
    unit_of_privacy: Whose data one unit is.
    delta: At which epsilon is told.
    failure_probability: The part of delta that pays for claims of the runs that
      may fail; epsilon is composed at what is left.
    items: What it is composed of, in the order of the ledger.
    release: Epsilon towards whoever sees everything that was released.
    server: Epsilon towards the coordinator of the federation.
  """

  population_name: str
  population: int | None
  unit_of_privacy: str
  delta: float
  failure_probability: float
  items: tuple[PopulationItem, ...]
  release: Epsilon
  server: Epsilon

  @property
  def open_attempts(self) -> int:
    """How many attempts are reserved and not settled; they are charged."""
    return sum(item.open for item in self.items)

  def to_json(self) -> dict[str, Any]:
    """Returns it as JSON values; an infinite epsilon is `None`."""
    plain = ('population_name', 'population', 'unit_of_privacy', 'delta')
    return {
      **{name: getattr(self, name) for name in plain},
      'failure_probability': self.failure_probability,
      'open_attempts': self.open_attempts,
      **_told(self.release, self.server),
      'items': [
        {
          **{n: getattr(item, n) for n in _PLAIN},
          **_told(item.release, item.server),
        }
        for item in self.items
      ],
    }


_PLAIN = ('run', 'source', 'trust_domain', 'vouched_by', 'attempts', 'open')


def _told(release: Epsilon, server: Epsilon) -> dict[str, Any]:
  waivers = dict.fromkeys((*release.waivers, *server.waivers))
  return {
    'release_epsilon': records.finite(release),
    'server_epsilon': records.finite(server),
    'release_reasons': list(release.reasons),
    'server_reasons': list(server.reasons),
    'waivers': [dataclasses.asdict(waiver) for waiver in waivers],
  }


def charges(shown: Mapping[str, Any]) -> Iterator[tuple[Round, str]]:
  """Yields what each attempt of a run costs, and its status.

  Args:
    shown: A run as `Ledger.show` tells it.
  """
  for item in shown['rounds']:
    for attempt in item['attempts']:
      charge = from_json(json.dumps(attempt['charge']))
      assert isinstance(charge, Round)
      yield charge, attempt['status']


def compose_population(
  ledger: Ledger, population_name: str, delta: float | None = None
) -> PopulationAccount:
  """Composes all runs of a population, in both views.

  Guarantees:
    - every attempt of every run that declares the population counts, lost and
      open ones too, and nothing else;
    - no row of them was altered: the chains of all are verified;
    - the failure probabilities of all runs are taken off delta;
    - runs that cannot be about the same units are refused, not composed.

  Args:
    ledger: Where the runs are.
    population_name: What they declare.
    delta: At which epsilon is told, in (0, 1); `None` for that of the runs, if
      they have one. Above one over the population it is warned of, in the log.

  Raises:
    TypeError: If `population_name` is not a string.
    ValueError: If no run declares it; if the runs differ in their unit of
      privacy, adjacency relation or size of the population; if they differ in
      delta and none is given; or if nothing of delta is left.
    BrokenChainError: If a run is not as it was written.
  """
  runs = _runs_of(ledger, population_name)
  unit = _same(population_name, runs, 'unit_of_privacy')
  population = _same(population_name, runs, 'population')
  _check_adjacency(population_name, runs)
  delta = _delta_of(population_name, runs, delta)
  failures = sum(
    run['settings'].get('failure_probability', 0.0) for run in runs
  )
  if failures >= delta:
    raise ValueError(
      f'`delta` must be above {failures:.2g}, with which the claims of the'
      f' {len(runs)} runs of population {population_name!r} may fail. Found'
      f' {delta!r}. Give a larger one.'
    )
  warning = population and warn_of_delta(delta, population)
  if warning:
    _logger.warning('%s', warning)
  everything, items = [], []
  for run in runs:
    charged = list(charges(run))
    everything += charged
    for told, alike in itertools.groupby(charged, key=_told_by):
      items.append(_item(run['run'], told, list(alike), delta - failures))
  total = _account(everything, delta - failures)
  return PopulationAccount(
    population_name,
    population,
    unit,
    delta,
    failures,
    tuple(items),
    total.release(),
    total.server(),
  )


def _item(
  run: str,
  told: tuple[str, str, str],
  charged: Sequence[tuple[Round, str]],
  delta: float,
) -> PopulationItem:
  account = _account(charged, delta)
  open_ones = sum(status == schema.RESERVED for _, status in charged)
  release, server = account.release(), account.server()
  return PopulationItem(run, *told, len(charged), open_ones, release, server)


def _account(charged: Iterable[tuple[Round, str]], delta: float) -> Accountant:
  account = Accountant(delta)
  for charge, same in itertools.groupby(charge for charge, _ in charged):
    account = account.with_round(charge, sum(1 for _ in same))
  return account


def _told_by(charged: tuple[Round, str]) -> tuple[str, str, str]:
  """Returns source, trust domain and voucher of a charge."""
  event = charged[0].external
  if event is None:
    return 'federated rounds', 'federated', RECORDED
  return event.source, event.trust_domain, event.vouched_by


def _runs_of(ledger: Ledger, name: str) -> list[dict[str, Any]]:
  if not isinstance(name, str):
    raise TypeError(f'`population_name` must be a string. Found {name!r}.')
  declared = {run.name: run.population for run in ledger.standings()}
  runs = [ledger.show(run) for run, of in declared.items() if of == name]
  if not runs:
    known = {repr(of) for of in declared.values() if of}
    listed = ', '.join(sorted(known)) or 'none'
    raise ValueError(
      f'`population_name` must be one that runs declare: {listed}. Found'
      f' {name!r}. Runs that declare none are of no population.'
    )
  for run in runs:
    ledger.verify(run['run'])
  return runs


def _same(name: str, runs: Sequence[Mapping[str, Any]], key: str) -> Any:
  """Returns the setting that all runs have that state it."""
  stated = {
    run['run']: run['settings'][key]
    for run in runs
    if run['settings'].get(key) is not None
  }
  if len(set(stated.values())) > 1:
    _refuse(name, key, stated)
  return next(iter(stated.values()), None)


def _check_adjacency(name: str, runs: Sequence[Mapping[str, Any]]) -> None:
  found = {
    run['run']: ' and '.join(
      sorted({charge.sampling.adjacency for charge, _ in charges(run)})
    )
    for run in runs
  }
  found = {run: relation for run, relation in found.items() if relation}
  if len(set(found.values())) > 1:
    _refuse(name, 'adjacency', found)


def _refuse(name: str, key: str, found: Mapping[str, Any]) -> None:
  listed = ', '.join(
    f'{value!r} of run {run!r}' for run, value in found.items()
  )
  raise ValueError(
    f'All runs of population {name!r} must have the same {key}. Found {listed}.'
    ' They are about other units, and one epsilon would be of neither: record'
    ' one of them under the name of its own population.'
  )


def _delta_of(
  name: str, runs: Sequence[Mapping[str, Any]], delta: float | None
) -> float:
  if delta is not None:
    return _validate.check_float(
      delta, 'delta', minimum=0.0, maximum=1.0, exclusive=True
    )
  found = {run['run']: run['delta'] for run in runs}
  if len(set(found.values())) > 1:
    raise ValueError(
      f'`delta` must be given where the runs of population {name!r} differ in'
      f' theirs. Found {found}. Give the one at which epsilon is to be told.'
    )
  return float(runs[0]['delta'])
