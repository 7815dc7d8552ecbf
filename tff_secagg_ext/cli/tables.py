# SPDX-License-Identifier: Apache-2.0
"""What runs cost and what came of them, as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import math
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tff_secagg_ext import accounting
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.cli import progress
from tff_secagg_ext.cli.training import Outcome

_UNPUBLISHED = 'unpublished: see --server-view'
_SESSION = ('survivors', 'expansion', 'sum')
_FOOTNOTE = (
  'ε release: for whoever sees the released models; it rests on the sampling'
  ' that is named. ε server: for the coordinator, without any sampling; it'
  ' holds where the server sees the secure sum alone.'
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
      epsilon(finite(outcome.release), outcome.release.waivers),
      epsilon(finite(outcome.server), outcome.server.waivers),
    )
  console.print(table)
  reasons = {
    outcome.run: {*outcome.release.reasons, *outcome.server.reasons}
    for outcome in outcomes
  }
  print_reasons(console, reasons)
  for outcome in outcomes:
    both = dict.fromkeys((*outcome.release.waivers, *outcome.server.waivers))
    print_waivers(console, outcome.run, map(dataclasses.asdict, both))
  console.print(_FOOTNOTE)
  for outcome in outcomes:
    sessions = _sessions(outcome.sessions, outcome.lost)
    console.print(
      f'{outcome.run}: δ = {outcome.delta:g}, {_sampling(outcome.sampling)};'
      f' {_sums(outcome.secure_sums)}; {sessions}',
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
      epsilon(run['release_epsilon'], run['waivers']),
      epsilon(run['server_epsilon'], run['waivers']),
      f'{run["delta"]:g}',
    )
  console.print(table)
  for run in runs:
    print_waivers(console, run['run'], run['waivers'])
  console.print(_FOOTNOTE)


def print_run(run: Mapping[str, Any], console: Console | None = None) -> None:
  """Prints one row a round of a run, as `Ledger.show` gives it.

  With the sessions of the rounds, if these are there to be shown.
  """
  console = console or Console()
  server_view = any('survivors' in _protocol(item) for item in run['rounds'])
  columns = _SESSION if server_view else ('attempts', 'clip norm')
  table = Table('round', 'status', *columns, 'ε release', 'ε server')
  for item in run['rounds']:
    table.add_row(
      str(item['round']),
      item['status'],
      *(_session(item) if server_view else _measured(item)),
      epsilon(item['release_epsilon'], item['waivers']),
      epsilon(item['server_epsilon'], item['waivers']),
    )
  console.print(table)
  console.print(
    f'{run["run"]}: δ = {run["delta"]:g};'
    f' {_sums(run["settings"]["secure_sums"])}',
    highlight=False,
  )
  reasons = {*run['release_reasons'], *run['server_reasons']}
  print_reasons(console, {run['run']: reasons})
  print_waivers(console, run['run'], run['waivers'])
  print_audits(run['audits'], console)
  console.print(_FOOTNOTE)


def print_audits(audits: Sequence[Mapping[str, Any]], console: Console) -> None:
  """Prints one row an audit of a run, if there are any."""
  if not audits:
    return
  table = Table('audit', 'after entry', 'figures')
  for audit in audits:
    figures = audit['figures']
    table.add_row(
      audit['kind'],
      str(audit['entries']),
      Text(_UNPUBLISHED if figures is None else _figures(figures)),
    )
  console.print(table)


def _figures(figures: Mapping[str, Any]) -> str:
  """Returns the figures that are single values, in one line."""
  return ', '.join(
    f'{name.replace("_", " ")} {_figure(value)}'
    for name, value in figures.items()
    if not isinstance(value, (Mapping, list))
  )


def _figure(value: object) -> str:
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def print_reasons(
  console: Console, reasons: Mapping[str, Iterable[str]]
) -> None:
  """Prints why the epsilon of each run is infinite, if it is."""
  for run, why in reasons.items():
    for reason in sorted(why):
      console.print(f'{run}: ε is infinite: {reason}', highlight=False)


def print_waivers(
  console: Console, run: str, waivers: Iterable[Mapping[str, str]]
) -> None:
  """Prints what the epsilon of a run leaves out, by whom and why."""
  for waiver in waivers:
    console.print(
      f'{run}: † ε leaves out what is waived: {waiver["name"]}, by'
      f' {waiver["by"]}: {waiver["why"]}',
      highlight=False,
      markup=False,
    )


def finite(epsilon: accounting.Epsilon) -> float | None:
  """Returns the value of an epsilon, `None` if it is infinite."""
  return epsilon.value if math.isfinite(epsilon.value) else None


def epsilon(value: float | None, waivers: Sequence[object]) -> str:
  """Returns an epsilon as a cell, marked if something is waived."""
  mark = '†' if waivers else ''
  return ('∞' if value is None else f'{value:.4g}') + mark


def _sampling(sampling: accounting.Sampling) -> str:
  if isinstance(sampling, accounting.PoissonSampling):
    return f'Poisson cohorts of probability {sampling.probability:.3g}'
  if isinstance(sampling, accounting.RandomAllocation):
    times = sampling.participations
    return f'each client in {times} random of every {sampling.rounds} rounds'
  if isinstance(sampling, accounting.FixedSizeSampling):
    return f'cohorts of {sampling.cohort} of {sampling.population} clients'
  return 'no sampling claimed'


def _sums(secure_sums: Any) -> str:
  """Returns how vectors are summed, from the settings of a run."""
  if not isinstance(secure_sums, Mapping):
    return f'sums are {secure_sums}'
  if secure_sums['protocol'] == 'plain':
    return 'sums without secrecy: insecure, vectors are added in the clear'
  return (
    f'sums by SecAgg+ against a {secure_sums["threat"]} server, with at most'
    f' {secure_sums["corrupt"]:.0%} of a cohort colluding and'
    f' {secure_sums["dropout"]:.0%} dropping out, clients'
    f' {secure_sums["clients"]}'
  )


def _sessions(summed: Sequence[ledger_lib.Protocol], lost: int) -> str:
  """Returns what came of all sessions of a run."""
  text = f'{lost} attempts lost'
  if not summed:
    return text
  survivors = sum(p['survivors'] for p in summed)
  clients = sum(p['clients'] for p in summed)
  expansion = sum(p['expansion'] for p in summed) / len(summed)
  verified = sum(bool(p['verified']) for p in summed)
  return (
    f'{survivors / clients:.1%} of the clients survived, {expansion:.1f} times'
    f' the bytes, {verified} of {len(summed)} sums verified, {text}'
  )


def _protocol(item: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns how the newest attempt of a round was summed."""
  return item['attempts'][-1]['protocol'] or {}


def _session(item: Mapping[str, Any]) -> tuple[str, ...]:
  """Returns the cells of `_SESSION`."""
  protocol = _protocol(item)
  if 'survivors' not in protocol:
    return ('',) * len(_SESSION)
  return (
    f'{protocol["survivors"]} of {protocol["clients"]}',
    f'{protocol["expansion"]:.1f}',
    progress.checked(protocol['verified']),
  )


def _measured(item: Mapping[str, Any]) -> tuple[str, str]:
  clip_norm = item['measurements'].get('clip_norm')
  attempts = str(len(item['attempts']))
  return attempts, '' if clip_norm is None else f'{clip_norm:.3g}'
