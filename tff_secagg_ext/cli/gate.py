# SPDX-License-Identifier: Apache-2.0
"""`tff-secagg gate`: whether a run has shown what a policy asks for."""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING

import typer

from tff_secagg_ext.cli import errors

if TYPE_CHECKING:
  from tff_secagg_ext import gate as gate_lib

POLICY = 'policy.toml'


def init(path: pathlib.Path) -> None:
  """Writes the default policy to a new file."""
  from tff_secagg_ext import gate as gate_lib

  place = 'The policy is not written: '
  with (
    errors.one_line(OSError, place=place),
    path.open('x', encoding='utf-8') as file,
  ):
    file.write(gate_lib.default_policy())
  typer.echo(f'{path}: the default policy. Edit it, and keep it with the run.')


def judge(
  run: str,
  policy: pathlib.Path,
  ledger: str,
  transcripts: pathlib.Path | None,
  head: str | None,
) -> tuple[gate_lib.Verdict, str]:
  """Judges a run, and records the verdict in its ledger.

  Returns:
    The verdict, and why it is not on record; empty if it is.
  """
  from tff_secagg_ext import gate as gate_lib
  from tff_secagg_ext.ledger import Ledger, LedgerError

  with errors.one_line(gate_lib.PolicyError, OSError, place=f'{policy}: '):
    parsed = gate_lib.Policy.parse(policy.read_bytes())
  with (
    errors.one_line(LedgerError, ValueError, OSError),
    Ledger.open(ledger, create=False) as opened,
  ):
    evidence = gate_lib.gather(
      opened, run, parsed, folder=transcripts, head=head
    )
    verdict = gate_lib.judge(parsed, evidence)
    if evidence.fault is not None:
      return verdict, 'nothing is added to a chain that is broken'
    opened.record_audit(run, 'gate', verdict.figures())
  return verdict, ''


def report(
  verdict: gate_lib.Verdict, unrecorded: str, *, as_json: bool
) -> None:
  """Prints a verdict."""
  if as_json:
    told = {'run': verdict.run, **verdict.figures(), 'unrecorded': unrecorded}
    typer.echo(json.dumps(told, indent=2, allow_nan=False))
    return
  from rich.console import Console

  from tff_secagg_ext.cli import gate_table

  gate_table.print_verdict(verdict, Console())
  if unrecorded:
    typer.echo(f'The verdict is not recorded: {unrecorded}.')
