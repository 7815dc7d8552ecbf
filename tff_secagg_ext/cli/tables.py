# SPDX-License-Identifier: Apache-2.0
"""What runs cost and what came of them, as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import math
from typing import Any

from rich.console import Console
from rich.table import Table

from tff_secagg_ext import accounting
from tff_secagg_ext.cli.training import Outcome

_FOOTNOTE = (
  'ε release: for whoever sees the released models; it rests on the sampling'
  ' that is named. ε server: for the coordinator, without any sampling; it'
  ' holds where the server sees the secure sum alone. TFF simulates: here the'
  ' sums are plain sums inside one process.'
)


def print_outcomes(
  outcomes: Sequence[Outcome], ledger: str, console: Console | None = None
) -> None:
  """Prints one row a run: utility, and the epsilon of both views."""
  console = console or Console()
  table = Table('run', 'z', 'rounds')
  names = list(outcomes[0].utility)
  for name in (*names, 'ε release', 'ε server'):
    table.add_column(name, no_wrap=True)
  for outcome in outcomes:
    table.add_row(
      outcome.run,
      f'{outcome.noise_multiplier:g}',
      str(outcome.rounds),
      *(f'{outcome.utility[name]:.3f}' for name in names),
      _epsilon(_finite(outcome.release)),
      _epsilon(_finite(outcome.server)),
    )
  console.print(table)
  reasons = {
    outcome.run: {*outcome.release.reasons, *outcome.server.reasons}
    for outcome in outcomes
  }
  _print_reasons(console, reasons)
  console.print(_FOOTNOTE)
  for outcome in outcomes:
    console.print(
      f'{outcome.run}: δ = {outcome.delta:g}, {_sampling(outcome.sampling)}',
      highlight=False,
    )
  for outcome in outcomes:
    console.print(
      f'tff-secagg ledger show {outcome.run} --ledger {ledger}',
      highlight=False,
      soft_wrap=True,
    )


def print_runs(
  runs: Sequence[Mapping[str, Any]], console: Console | None = None
) -> None:
  """Prints one row a run of a ledger, as `Ledger.show` gives them."""
  console = console or Console()
  table = Table('run', 'created', 'rounds', 'ε release', 'ε server', 'δ')
  for run in runs:
    table.add_row(
      run['run'],
      run['created_at'][:19],
      str(len(run['rounds'])),
      _epsilon(run['release_epsilon']),
      _epsilon(run['server_epsilon']),
      f'{run["delta"]:g}',
    )
  console.print(table)
  console.print(_FOOTNOTE)


def print_run(run: Mapping[str, Any], console: Console | None = None) -> None:
  """Prints one row a round of a run, as `Ledger.show` gives it."""
  console = console or Console()
  table = Table(
    'round', 'status', 'attempts', 'clip norm', 'ε release', 'ε server'
  )
  for item in run['rounds']:
    clip_norm = item['measurements'].get('clip_norm')
    table.add_row(
      str(item['round']),
      item['status'],
      str(len(item['attempts'])),
      '' if clip_norm is None else f'{clip_norm:.3g}',
      _epsilon(item['release_epsilon']),
      _epsilon(item['server_epsilon']),
    )
  console.print(table)
  console.print(f'{run["run"]}: δ = {run["delta"]:g}', highlight=False)
  reasons = {*run['release_reasons'], *run['server_reasons']}
  _print_reasons(console, {run['run']: reasons})
  console.print(_FOOTNOTE)


def _print_reasons(
  console: Console, reasons: Mapping[str, Iterable[str]]
) -> None:
  for run, why in reasons.items():
    for reason in sorted(why):
      console.print(f'{run}: ε is infinite: {reason}', highlight=False)


def _finite(epsilon: accounting.Epsilon) -> float | None:
  return epsilon.value if math.isfinite(epsilon.value) else None


def _epsilon(value: float | None) -> str:
  return '∞' if value is None else f'{value:.4g}'


def _sampling(sampling: accounting.Sampling) -> str:
  if isinstance(sampling, accounting.PoissonSampling):
    return f'Poisson cohorts of probability {sampling.probability:.3g}'
  if isinstance(sampling, accounting.FixedSizeSampling):
    return f'cohorts of {sampling.cohort} of {sampling.population} clients'
  return 'no sampling claimed'
