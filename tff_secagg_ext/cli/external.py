# SPDX-License-Identifier: Apache-2.0
"""External events from files, and the account of a population as a table."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from tff_secagg_ext import accounting
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.accounting import dp_events
from tff_secagg_ext.cli import tables

_FOOTNOTE = (
  'ε release: for whoever sees all that was released. ε server: for the'
  ' coordinator, which knows the cohorts of the federation, and not the samples'
  ' of what is external. What is vouched for is as true as who vouches for it.'
)


def events(text: str, **fields: Any) -> tuple[accounting.ExternalEvent, ...]:
  """Returns the events that a file holds.

  Args:
    text: JSON of a history of Opacus, of a state_dict with one, or of an event
      of dp_accounting.
    **fields: The fields of `ExternalEvent` besides the event.

  Raises:
    TypeError: If a field is of the wrong kind.
    ValueError: If it is none of these.
  """
  try:
    value = json.loads(text)
  except (json.JSONDecodeError, RecursionError) as error:
    raise ValueError(
      f'The file must be JSON. Found {text[:40]!r}: {error}. Write'
      " `json.dumps(accountant.history)` of Opacus' accountant."
    ) from error
  if isinstance(value, dict) and dp_events.CLASS in value:
    return (accounting.ExternalEvent(text, **fields),)
  return accounting.opacus_events(value, **fields)


def print_population(
  account: ledger_lib.PopulationAccount, console: Console | None = None
) -> None:
  """Prints what a population has spent, one row for each of its sources."""
  console = console or Console()
  table = Table('run', 'source', 'trust domain', 'vouched for by', 'attempts')
  for name in ('ε release', 'ε server'):
    table.add_column(name, no_wrap=True)
  for item in account.items:
    table.add_row(
      item.run,
      item.source,
      item.trust_domain,
      item.vouched_by,
      str(item.attempts),
      *_cells(item),
    )
  table.add_section()
  attempts = sum(item.attempts for item in account.items)
  table.add_row('all', '', '', '', str(attempts), *_cells(account))
  console.print(table)
  shown = account.to_json()
  size = '' if account.population is None else f' of {account.population}'
  console.print(
    f'{account.population_name}: unit {account.unit_of_privacy}{size}, δ ='
    f' {account.delta:g}, of which {account.failure_probability:.2g} pays for'
    f' claims that may fail; {account.open_attempts} attempts are open, and'
    ' charged.',
    highlight=False,
    markup=False,
  )
  reasons = {*account.release.reasons, *account.server.reasons}
  tables.print_reasons(console, {account.population_name: reasons})
  tables.print_waivers(console, account.population_name, shown['waivers'])
  console.print(_FOOTNOTE)


def _cells(
  spent: ledger_lib.PopulationAccount | ledger_lib.PopulationItem,
) -> tuple[str, ...]:
  both = (spent.release, spent.server)
  return tuple(tables.epsilon(tables.finite(e), e.waivers) for e in both)
