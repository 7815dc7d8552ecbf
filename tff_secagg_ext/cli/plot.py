# SPDX-License-Identifier: Apache-2.0
"""`tff-secagg plot`: a run as a figure for a paper."""

from __future__ import annotations

import pathlib

import typer

from tff_secagg_ext import report
from tff_secagg_ext.cli import errors, files
from tff_secagg_ext.ledger import Ledger, LedgerError
from tff_secagg_ext.report import drawing


def write(
  run: str, location: str, out: pathlib.Path, *, server_view: bool = False
) -> None:
  """Draws a run into a file; one that is there is replaced at once.

  Args:
    run: The name of the run.
    location: SQLAlchemy URL of the ledger.
    out: The file, whose suffix says of which kind it is.
    server_view: Whether to draw what is the coordinator's alone.
  """
  kind = out.suffix.lower().removeprefix('.')
  if kind not in drawing.FORMATS:
    suffixes = ', '.join(f'.{name}' for name in drawing.FORMATS)
    raise typer.BadParameter(
      f'--out must end with one of {suffixes}. Found {out.name!r}.'
    )
  with (
    errors.one_line(LedgerError, ValueError, OSError, ImportError),
    Ledger.open(location, create=False) as ledger,
  ):
    facts = report.read(ledger, run, server_view)
    drawn = report.draw(facts).to_bytes(kind)
  files.replace(out, drawn)
  typer.echo(f'{out}: run {run}, {facts.view} view.')
