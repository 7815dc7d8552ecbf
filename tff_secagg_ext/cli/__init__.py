# SPDX-License-Identifier: Apache-2.0
"""The command line: reads what a ledger has on record."""

from __future__ import annotations

import json

import typer

from tff_secagg_ext import ledger as ledger_lib

app = typer.Typer(no_args_is_help=True)
ledger_app = typer.Typer(no_args_is_help=True, help='Read a ledger.')
app.add_typer(ledger_app, name='ledger')

_LEDGER = typer.Option('sqlite:///runs.db', '--ledger', help='SQLAlchemy URL.')


@app.callback()
def _root() -> None:
  """Distributed differential privacy for TensorFlow Federated."""


@ledger_app.command('list')
def list_runs(ledger: str = _LEDGER) -> None:
  """Prints the names of the runs."""
  with ledger_lib.Ledger.open(ledger) as opened:
    for name in opened.names():
      typer.echo(name)


@ledger_app.command('show')
def show(run: str, ledger: str = _LEDGER) -> None:
  """Prints a run as JSON, with its rounds and the epsilon of both views."""
  with ledger_lib.Ledger.open(ledger) as opened:
    typer.echo(json.dumps(opened.show(run), indent=2))


def main() -> None:
  """Runs the command line."""
  app()
