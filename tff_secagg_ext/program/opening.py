# SPDX-License-Identifier: Apache-2.0
"""What a ledger is told when a run is opened."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import logging
import os
from typing import Any

from tff_secagg_ext import _validate, accounting
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.metrics import DpSumThenFinalize
from tff_secagg_ext.program import budgets, terms

_logger = logging.getLogger('tff_secagg_ext')


@dataclasses.dataclass(frozen=True)
class RunDescription:
  """What a ledger is told about a run, besides what the recorder finds out.

  Attributes:
    name: The name of the run in the ledger.
    population: The number of clients that could take part; `None` if it is not
      known.
    unit_of_privacy: Whose data one client holds.
    secure_sums: How the vectors are summed; `None`: as the installed context
      does. The server view's epsilon is true where all but the sum is secret
      to the server.
    population_name: A name for the population. Runs of one ledger that give the
      same name share one budget; `None`: the budget is that of this run.
    notes: Other JSON values that must stay as they are while the run lasts,
      such as the task and the model.
  """

  name: str
  population: int | None = None
  unit_of_privacy: str = 'client'
  secure_sums: str | None = None
  population_name: str | None = None
  notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    if self.population is not None:
      _validate.check_int(self.population, 'population', minimum=1)


def ledger_at(
  ledger: ledger_lib.Ledger | str | os.PathLike[str],
) -> ledger_lib.Ledger:
  """Returns an open ledger, from itself or from where it is."""
  if isinstance(ledger, ledger_lib.Ledger):
    return ledger
  return ledger_lib.Ledger.open(ledger)


def settings_of(
  agreed: terms.Terms,
  run: RunDescription,
  metrics: DpSumThenFinalize | None,
  agreement: budgets.Agreement | None,
) -> dict[str, Any]:
  """Returns what stays as it is while the run lasts, as JSON values."""
  # What few runs have is absent in the others, so that these can be reopened.
  optional = {
    'metrics': None if metrics is None else metrics.settings,
    'waived': [dataclasses.asdict(waiver) for waiver in agreed.waivers],
    'seen_by_server': list(agreed.releases.seen_by_server),
    'population_name': run.population_name,
    # So many places of each cohort are those of clients that nobody is.
    'canaries': agreed.canaries,
    'budget': None if agreement is None else agreement.settings,
  }
  return {
    **{name: value for name, value in optional.items() if value},
    'aggregator': agreed.aggregator.settings,
    'dimension': agreed.releases.dimension,
    'unaccounted': list(agreed.releases.unaccounted),
    'sampling': json.loads(accounting.to_json(agreed.sampling)),
    'population': run.population,
    'unit_of_privacy': run.unit_of_privacy,
    'secure_sums': run.secure_sums or terms.sums(agreed.options),
    'notes': dict(run.notes),
  }


def checked_delta(
  delta: float, population: int | None, budget: accounting.Budget | None
) -> float:
  """Returns delta, which must be that of the budget; warns if it is large."""
  delta = _validate.check_float(
    delta, 'delta', minimum=0.0, maximum=1.0, exclusive=True
  )
  if not isinstance(budget, (accounting.Budget, type(None))):
    raise TypeError(f'`budget` must be a Budget. Found {budget!r}.')
  if budget is not None and budget.delta != delta:
    raise ValueError(
      f'`budget` must be at the delta of the run, {delta!r}. Found'
      f' {budget.delta!r}. Give both the same.'
    )
  warning = population and accounting.warn_of_delta(delta, population)
  if warning:
    _logger.warning('%s', warning)
  return delta
