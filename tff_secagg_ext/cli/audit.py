# SPDX-License-Identifier: Apache-2.0
"""`tff-secagg audit`: attacks on what was built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tff_secagg_ext.cli import errors, options

if TYPE_CHECKING:
  from tff_secagg_ext.audit import implementation as audit

app = typer.Typer(no_args_is_help=True, help='Attack what was built.')

Row = tuple[str, 'audit.Check', 'audit.Finding']
"""A factory's name, a check, and what it found."""


@app.callback()
def group() -> None:
  """Attack what was built."""


@app.command()
def implementation(
  factory: Annotated[
    list[str] | None,
    typer.Option(
      help='ours, ours-fixed, tff, tfp-skellam, tfp-dgauss or'
      ' module:attribute, a function of (noise_multiplier, clients_per_round,'
      ' bits); may be repeated. ours by default.',
      show_default=False,
    ),
  ] = None,
  check: Annotated[
    list[str] | None,
    typer.Option(help='Name of a check; may be repeated. All by default.'),
  ] = None,
  clip_norm: Annotated[
    float,
    typer.Option(help='L2 norm of one client at most, for module:attribute.'),
  ] = 1.0,
  as_json: Annotated[
    bool, typer.Option('--json', help='Print JSON, with all figures.')
  ] = False,
  run: Annotated[
    str | None, typer.Option(help='Record it as an audit of this run.')
  ] = None,
  ledger: options.Ledger = 'sqlite:///runs.db',
) -> None:
  """Attacks aggregation factories, and exits with 1 if an attack succeeds."""
  with errors.one_line(ValueError, ImportError):
    rows = list(attacks(factory or ['ours'], check or [], clip_norm))
  if run is not None:
    from tff_secagg_ext.cli import records
    from tff_secagg_ext.ledger import LedgerError

    with errors.one_line(LedgerError, ValueError):
      records.implementation(ledger, run, rows)
  if as_json:
    typer.echo(json.dumps([as_dict(row) for row in rows], indent=2))
  else:
    _print(rows)
  if any(row[2].verdict.value == 'broken' for row in rows):
    raise typer.Exit(1)


@app.command()
def membership(
  task: Annotated[
    str, typer.Option(help='digits, whose shadow models are cheap.')
  ] = 'digits',
  noise_multiplier: Annotated[
    float | None,
    typer.Option(help='Of distributed DP, 1 by default.', show_default=False),
  ] = None,
  rounds: Annotated[
    int | None,
    typer.Option(help='Rounds, 30 by default.', show_default=False),
  ] = None,
  shadows: Annotated[
    int, typer.Option(help='Shadow models of each training.')
  ] = 64,
  repeats: Annotated[
    int, typer.Option(help='Models that the process trains, of each training.')
  ] = 1,
  ledger: Annotated[
    str, typer.Option(help='SQLAlchemy URL of the ledger with the run.')
  ] = 'sqlite:///runs.db',
  run: Annotated[
    str | None,
    typer.Option(
      help='Audit the training of this run, at its noise and rounds, and'
      ' record what is found.'
    ),
  ] = None,
  as_json: options.Json = False,
) -> None:
  """Guesses from the final model which clients were in the training.

  Trains it with half of the clients, without privacy, with clipping alone and
  with distributed DP. Exits with 1 if an attack on the last is better than its
  epsilon allows.
  """
  from tff_secagg_ext import ledger as ledger_lib
  from tff_secagg_ext.cli import membership as audit
  from tff_secagg_ext.cli import membership_report, training

  with errors.one_line(ValueError, training.InputError, ledger_lib.LedgerError):
    if run is None:
      noise = 1.0 if noise_multiplier is None else noise_multiplier
      asked = audit.Options(noise, task, 30 if rounds is None else rounds)
    else:
      _check_ungiven(noise_multiplier, rounds)
      asked = audit.of_run(ledger, run)
    asked = dataclasses.replace(asked, shadows=shadows, repeats=repeats)
    found = audit.audit(
      audit.Game(asked), lambda text: typer.echo(text, err=True)
    )
    if as_json:
      typer.echo(json.dumps(found.figures(), indent=2))
    else:
      membership_report.print_report(found)
    if run is not None:
      with ledger_lib.Ledger.open(ledger, create=False) as opened:
        opened.record_audit(run, 'membership', found.figures())
  if found.alarm:
    raise typer.Exit(1)


def _check_ungiven(noise_multiplier: float | None, rounds: int | None) -> None:
  if noise_multiplier is not None or rounds is not None:
    raise ValueError(
      'Give --run, or --noise-multiplier and --rounds, not both. The run has'
      ' its own.'
    )


@app.command()
def memorization(
  task: Annotated[str, typer.Option(help='shakespeare.')] = 'shakespeare',
  canaries: Annotated[
    int, typer.Option(help='Secrets of each number of clients.')
  ] = 6,
  canary_clients: Annotated[
    list[int] | None,
    typer.Option(
      help='Clients that hold each secret; may be repeated. 1, 4 and 16 by'
      ' default.',
      show_default=False,
    ),
  ] = None,
  repetitions: Annotated[
    int, typer.Option(help='Lines of a holder that begin with its secret.')
  ] = 64,
  repeats: Annotated[
    int, typer.Option(help='Trainings of each kind, with new secrets.')
  ] = 2,
  rounds: Annotated[
    int | None, typer.Option(help="Rounds; the task's own by default.")
  ] = None,
  clients_per_round: Annotated[
    int | None, typer.Option(help='Expected size of a cohort.')
  ] = None,
  noise_multiplier: Annotated[
    float, typer.Option(help='Of the private trainings.')
  ] = 1.0,
  protocol: options.Protocol = 'secagg',
  run: Annotated[
    str | None,
    typer.Option(
      help='Run to record the result for; the trainings by default.'
    ),
  ] = None,
  ledger: options.Ledger = 'sqlite:///runs.db',
  as_json: options.Json = False,
) -> None:
  """Plants secrets, trains without and with privacy, and asks for them."""
  from tff_secagg_ext.cli import memorization as work
  from tff_secagg_ext.cli import memorization_tables, training
  from tff_secagg_ext.ledger import LedgerError

  with errors.one_line(ValueError, LedgerError, training.InputError):
    settings = work.Settings(
      task=task,
      canaries=canaries,
      canary_clients=tuple(canary_clients or (1, 4, 16)),
      repetitions=repetitions,
      repeats=repeats,
      rounds=rounds,
      clients_per_round=clients_per_round,
      noise_multiplier=noise_multiplier,
      protocol=protocol,
      ledger=ledger,
      run=run,
    )
    result = work.run(settings)
    figures = memorization_tables.figures(result)
    work.record(result, figures)
  if as_json:
    typer.echo(json.dumps(figures, indent=2))
  else:
    typer.echo('\n'.join(memorization_tables.lines(figures)))


def attacks(
  factories: Iterable[str], checks: Iterable[str] = (), clip_norm: float = 1.0
) -> Iterable[Row]:
  """Runs checks on factories, by name, and yields what each found.

  Raises:
    ValueError: If there is no factory, or no check, of a name.
  """
  from tff_secagg_ext.audit import implementation as audit
  from tff_secagg_ext.program import subjects

  made = {name: subjects.named(name, clip_norm) for name in factories}
  for name, make in made.items():
    for check, finding in audit.run(make, list(checks)):
      yield name, check, finding


def as_dict(row: Row) -> Mapping[str, Any]:
  """A row as JSON values."""
  factory, check, finding = row
  return {
    'factory': factory,
    'check': check.name,
    'attacks': check.attacks,
    'setting': dataclasses.asdict(check.setting),
    'verdict': finding.verdict.value,
    'why': finding.why,
    'figures': dict(finding.figures),
    'false_alarm': finding.false_alarm,
  }


def figures(finding: audit.Finding) -> str:
  """The evidence in one line."""
  return ', '.join(
    f'{name.replace("_", " ")} {_figure(value)}'
    for name, value in finding.figures.items()
  )


def chance(finding: audit.Finding) -> str:
  """The probability at most of a false alarm."""
  return f'{finding.false_alarm:.0e}' if finding.false_alarm else '0'


def _figure(value: float | int | str) -> str:
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def _print(rows: Iterable[Row]) -> None:
  from rich.console import Console
  from rich.table import Table

  console = Console()
  table = Table('factory', 'check', 'verdict', 'why', 'false alarm')
  for name, check, finding in rows:
    table.add_row(
      name,
      check.name,
      finding.verdict.value,
      finding.why,
      chance(finding),
    )
  console.print(table)
  for name, check, finding in rows:
    if finding.figures:
      console.print(
        f'{name}, {check.name}: {figures(finding)}',
        highlight=False,
        markup=False,
      )
