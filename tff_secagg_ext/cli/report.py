# SPDX-License-Identifier: Apache-2.0
"""`tff-secagg report`: a run as a page, as a document, as JSON."""

from __future__ import annotations

import dataclasses
import pathlib

import typer

from tff_secagg_ext.cli import errors, files

FORMATS = ('html', 'md', 'json', 'pdf-ready')
_BY_SUFFIX = {'.html': 'html', '.htm': 'html', '.md': 'md', '.json': 'json'}


@dataclasses.dataclass(frozen=True)
class Asked:
  """What is asked for.

  Attributes:
    run: The name of the run.
    ledger: SQLAlchemy URL.
    out: A file; `None` for standard output.
    kind: One of `FORMATS`; `None`: by the suffix of `out`.
    statement: Whether the statement is asked for, not the report.
    server_view: Whether to tell what is the coordinator's alone.
    transcripts: A folder with transcripts of the run's sessions.
    baseline: The name of a run that utility is compared with.
  """

  run: str
  ledger: str
  out: pathlib.Path | None
  kind: str | None
  statement: bool
  server_view: bool
  transcripts: pathlib.Path | None
  baseline: str | None

  @property
  def format(self) -> str:
    """The format, which the suffix of the file decides if nothing else does.

    Raises:
      typer.BadParameter: If it is none, or there is no statement in it.
    """
    suffix = '' if self.out is None else self.out.suffix.lower()
    usual = 'md' if self.statement else 'html'
    found = self.kind or _BY_SUFFIX.get(suffix, usual)
    if found not in FORMATS:
      raise typer.BadParameter(
        f'the format must be one of {", ".join(FORMATS)}. Found {found!r}.'
      )
    if self.statement and found == 'json':
      raise typer.BadParameter(
        'a statement must be html, md or pdf-ready: it is for people. Found'
        " 'json'. The report as JSON has its figures."
      )
    return found


def write(asked: Asked) -> None:
  """Writes what is asked for; a file that is there is replaced at once."""
  kind = asked.format
  text = _text(asked, kind)
  if asked.out is None:
    typer.echo(text, nl=False)
    return
  files.replace(asked.out, text.encode())
  typer.echo(f'{asked.out}: {_named(asked, kind)} of run {asked.run}.')


def _text(asked: Asked, kind: str) -> str:
  from tff_secagg_ext import report
  from tff_secagg_ext.ledger import Ledger, LedgerError

  with (
    errors.one_line(LedgerError, ValueError, OSError),
    Ledger.open(asked.ledger, create=False) as opened,
  ):
    facts = report.read(
      opened,
      asked.run,
      asked.server_view,
      transcripts=asked.transcripts,
      baseline=asked.baseline,
    )
  if kind == 'json':
    return report.to_json(facts)
  make = report.statement if asked.statement else report.report
  if kind == 'md':
    return report.to_markdown(make(facts))
  return report.to_html(make(facts), for_paper=kind == 'pdf-ready')


def _named(asked: Asked, kind: str) -> str:
  what = 'the statement' if asked.statement else 'the report'
  return f'{what} ({kind})' if kind != 'pdf-ready' else f'{what}, to be printed'
