# SPDX-License-Identifier: Apache-2.0
"""The ledger's commands: verify, export and import."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.ledger import test_chain
from tff_secagg_ext.cli.app import app
from tff_secagg_ext.ledger import Ledger


def invoke(*args: object, **kwargs: Any):
  return CliRunner().invoke(
    app, ['ledger', *map(str, args)], catch_exceptions=False, **kwargs
  )


@pytest.fixture
def ledger(tmp_path: pathlib.Path) -> str:
  """The option that names a ledger with the runs 'mine' and 'other'."""
  location = f'sqlite:///{tmp_path / "runs.db"}'
  with Ledger.open(location) as opened:
    test_chain.write(opened)
    opened.open_run('other', {}, delta=0.1)
  return f'--ledger={location}'


def head_of(output: str) -> str:
  return output.split()[-1]


def test_verify_prints_heads_and_checks_one_that_was_kept(ledger: str):
  every = invoke('verify', ledger)
  assert every.exit_code == 0
  mine, other = every.output.splitlines()
  assert mine.startswith('mine: 9 entries of 3 sessions are as they were')
  assert other.startswith('other: 0 entries of 1 sessions')
  kept = f'--head={head_of(mine)}'
  assert invoke('verify', 'mine', ledger, kept).output.strip() == mine
  wrong = invoke('verify', 'other', ledger, kept)
  assert wrong.exit_code == 1
  assert 'session 2 is missing' in wrong.stderr
  assert invoke('verify', 'x', ledger).exit_code == 2
  bad = invoke('verify', 'mine', ledger, '--head=x')
  assert bad.exit_code == 2
  assert 'A head must be two numbers' in bad.stderr
  unnamed = invoke('verify', ledger, kept)
  assert unnamed.exit_code == 2
  assert 'A head is of one run' in unnamed.stderr


def test_verify_names_the_row_with_exit_code_1(ledger: str):
  test_chain.forge(
    ledger.partition('=')[2], 'DELETE FROM entries WHERE sequence = 3'
  )
  result = invoke('verify', 'mine', ledger)
  assert result.exit_code == 1
  assert 'entry 3 is missing' in result.stderr
  assert len(result.stderr.strip().splitlines()) == 1


def test_a_run_is_exported_and_imported(ledger: str, tmp_path: pathlib.Path):
  file, copy = tmp_path / 'mine.jsonl', f'--ledger=sqlite:///{tmp_path}/b.db'
  assert invoke('export', 'mine', ledger, f'--output={file}').exit_code == 0
  printed = invoke('export', 'mine', ledger).output
  assert printed == file.read_text()
  imported = invoke('import', file, copy)
  assert imported.exit_code == 0
  verified = invoke('verify', 'mine', ledger)
  assert imported.output == verified.output
  assert invoke('import', '-', copy, input=printed).output == verified.output
  assert invoke('verify', f'--export={file}').output == verified.output
  missing = invoke('import', tmp_path / 'none', copy)
  assert missing.exit_code == 2
  assert 'No such file' in missing.stderr


def test_a_redacted_export_is_verified_and_not_imported(
  ledger: str, tmp_path: pathlib.Path
):
  file = tmp_path / 'mine.jsonl'
  invoke('export', 'mine', ledger, '--redacted', f'--output={file}')
  assert 'survivors' not in file.read_text()
  verified = invoke('verify', 'mine', ledger).output
  kept = f'--head={head_of(verified)}'
  assert invoke('verify', f'--export={file}', kept).output == verified
  copy = tmp_path / 'b.db'
  refused = invoke('import', file, f'--ledger=sqlite:///{copy}')
  assert refused.exit_code == 2
  assert 'A redacted export cannot be imported' in refused.stderr
  file.write_text(file.read_text().replace('"note":"lost"', '"note":""'))
  altered = invoke('verify', f'--export={file}')
  assert altered.exit_code == 1
  assert 'entry 2' in altered.stderr
