# SPDX-License-Identifier: Apache-2.0
"""`tff-secagg ledger`: what runs have spent, and whether anybody altered it."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
import pathlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tff_secagg_ext.cli import errors, options

if TYPE_CHECKING:
  from tff_secagg_ext.ledger import Head, Ledger

app = typer.Typer(
  no_args_is_help=True, help='Read, verify, export and import a ledger.'
)

_Run = Annotated[str, typer.Argument(help='Name of the run.')]
_DEFAULT = 'sqlite:///runs.db'


@contextlib.contextmanager
def _opened(ledger: str, *, create: bool = False) -> Iterator[Ledger]:
  """Yields a ledger; what the user can mend is one line and exit code 2."""
  from tff_secagg_ext.ledger import Ledger, LedgerError

  with (
    errors.one_line(LedgerError, ValueError, OSError),
    Ledger.open(ledger, create=create) as opened,
  ):
    yield opened


@app.command('list')
def list_runs(
  ledger: options.Ledger = _DEFAULT, as_json: options.Json = False
) -> None:
  """Lists the runs of a ledger."""
  from tff_secagg_ext.cli import tables

  with _opened(ledger) as opened:
    runs = [opened.show(name) for name in opened.names()]
  if as_json:
    typer.echo(json.dumps(runs, indent=2, allow_nan=False))
  else:
    tables.print_runs(runs)


@app.command('show')
def show(
  run: _Run,
  ledger: options.Ledger = _DEFAULT,
  as_json: options.Json = False,
  server_view: Annotated[
    bool, typer.Option('--server-view', help='With the sessions, unpublished.')
  ] = False,
) -> None:
  """Shows a run: its rounds, and the epsilon of both views after each."""
  from tff_secagg_ext.cli import tables

  with _opened(ledger) as opened:
    shown = opened.show(run, server_view=server_view)
  if as_json:
    typer.echo(json.dumps(shown, indent=2, allow_nan=False))
  else:
    tables.print_run(shown)


@app.command('verify')
def verify(
  run: Annotated[
    str | None, typer.Argument(help='Name of the run; all by default.')
  ] = None,
  ledger: options.Ledger = _DEFAULT,
  head: Annotated[
    str | None, typer.Option(help='A head that was printed before, and kept.')
  ] = None,
  export: Annotated[
    pathlib.Path | None,
    typer.Option(help='An export to verify, redacted or not, not a ledger.'),
  ] = None,
) -> None:
  """Checks that runs are as they were written, and prints their heads.

  Names the first row that was altered, is missing, was inserted or reordered,
  with exit code 1. Keep the heads where nobody who can write the ledger can
  write: without one, rows that are cut off at the end, and a chain that was
  written anew from its first row, cannot be told.
  """
  from tff_secagg_ext.ledger import BrokenChainError, Head, verify_export

  if head is not None and run is None and export is None:
    raise typer.BadParameter('A head is of one run: name it.')
  if export is not None:
    with errors.one_line(ValueError, OSError):
      kept = None if head is None else Head.parse(head)
      with errors.one_line(BrokenChainError, code=1), _read(export) as lines:
        _print_head(*verify_export(lines, kept))
    return
  with _opened(ledger) as opened:
    for name in opened.names() if run is None else [run]:
      with errors.one_line(BrokenChainError, code=1):
        _print_head(name, opened.verify(name, head))


def _print_head(name: str, head: Head) -> None:
  audits = f' and {head.audits} audits' if head.audits else ''
  typer.echo(
    f'{name}: {head.entries} entries of {head.sessions} sessions{audits} are as'
    f' they were written. Head: {head}'
  )


@app.command('export')
def export(
  run: _Run,
  ledger: options.Ledger = _DEFAULT,
  redacted: Annotated[
    bool,
    typer.Option(
      '--redacted',
      help='Leave out what the release view may not see: the size of cohorts.',
    ),
  ] = False,
  output: Annotated[
    pathlib.Path | None, typer.Option(help='A file; printed by default.')
  ] = None,
) -> None:
  """Writes a run as lines of JSON, for another ledger or for a reviewer."""
  with _opened(ledger) as opened:
    text = '\n'.join(opened.export(run, redacted=redacted))
    if output is None:
      typer.echo(text)
    else:
      output.write_text(text + '\n', encoding='ascii')


@app.command('import')
def import_run(
  file: Annotated[
    pathlib.Path, typer.Argument(help='What `export` wrote; - for stdin.')
  ],
  ledger: options.Ledger = _DEFAULT,
) -> None:
  """Adds an exported run to a ledger, whole or not at all."""
  with _opened(ledger, create=True) as opened, _read(file) as lines:
    name = opened.import_run(lines)
    _print_head(name, opened.verify(name))


@contextlib.contextmanager
def _read(file: pathlib.Path) -> Iterator[Iterator[str]]:
  if str(file) == '-':
    yield iter(sys.stdin)
  else:
    with open(file, encoding='utf-8') as opened:
      yield opened


@app.command('import-external')
def import_external(
  file: Annotated[
    pathlib.Path,
    typer.Argument(
      help="JSON: Opacus' accountant.history or state_dict(), or an event of"
      ' dp_accounting; - for stdin.'
    ),
  ],
  run: Annotated[str, typer.Option(help='Name of the run that it becomes.')],
  population: Annotated[
    str, typer.Option(help='Name of the population that it is about.')
  ],
  delta: Annotated[float, typer.Option(help='At which epsilon is told.')],
  vouched_by: Annotated[str, typer.Option(help='Who answers for it.')],
  source: Annotated[
    str, typer.Option(help='What ran it, such as "opacus 1.6.0".')
  ],
  trust_domain: Annotated[
    str,
    typer.Option(help='Who saw raw data: federated, central or enclave.'),
  ] = 'central',
  by_coordinator: Annotated[
    bool,
    typer.Option(
      '--by-coordinator', help='The coordinator of the federation ran it.'
    ),
  ] = False,
  size: Annotated[
    int | None, typer.Option(help='How many units the population has.')
  ] = None,
  unit: Annotated[
    str, typer.Option(help='The unit of privacy, as the other runs have it.')
  ] = 'client',
  ledger: options.Ledger = _DEFAULT,
) -> None:
  """Adds what was released elsewhere to a ledger, as a run.

  The same file again changes nothing; a longer history adds what is new.
  """
  from tff_secagg_ext import ledger as ledger_lib
  from tff_secagg_ext.cli import external

  with _opened(ledger, create=True) as opened:
    with errors.one_line(TypeError, ValueError), _read(file) as lines:
      events = external.events(
        '\n'.join(lines),
        trust_domain=trust_domain,
        vouched_by=vouched_by,
        source=source,
        by_coordinator=by_coordinator,
      )
      described = ledger_lib.ExternalRun(run, population, size, unit)
      ledger_lib.record_external(opened, described, events, delta=delta)
    _print_head(run, opened.verify(run))


@app.command('epsilon')
def epsilon(
  population: Annotated[
    str, typer.Option(help='Name of the population that runs declare.')
  ],
  delta: Annotated[
    float | None, typer.Option(help='At which it is told; that of the runs.')
  ] = None,
  ledger: options.Ledger = _DEFAULT,
  as_json: options.Json = False,
) -> None:
  """Composes all runs of a population into one epsilon of each view."""
  from tff_secagg_ext.cli import external
  from tff_secagg_ext.ledger import BrokenChainError, compose_population

  with _opened(ledger) as opened, errors.one_line(BrokenChainError, code=1):
    account = compose_population(opened, population, delta)
  if as_json:
    typer.echo(json.dumps(account.to_json(), indent=2, allow_nan=False))
  else:
    external.print_population(account)
