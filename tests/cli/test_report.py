# SPDX-License-Identifier: Apache-2.0
"""`tff-secagg report`: files, formats, and what the user can mend."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.report import ledgers
from tff_secagg_ext.cli.app import app
from tff_secagg_ext.ledger import Ledger

NAME = 'short'


@pytest.fixture(scope='module')
def location(tmp_path_factory: pytest.TempPathFactory) -> str:
  path = tmp_path_factory.mktemp('cli') / 'runs.db'
  ledgers.write(
    f'sqlite:///{path}', ledgers.with_(ledgers.GOOD, name=NAME, rounds=2)
  )
  return f'sqlite:///{path}'


def invoke(location: str, *args: object, run: str = NAME) -> Any:
  return CliRunner().invoke(
    app, ['report', run, f'--ledger={location}', *map(str, args)]
  )


@pytest.mark.parametrize(
  ('suffix', 'begins'),
  [('html', '<!DOCTYPE html>'), ('md', '# Privacy report'), ('json', '{')],
)
def test_the_suffix_decides_the_format(
  location: str, tmp_path: pathlib.Path, suffix: str, begins: str
) -> None:
  out = tmp_path / f'report.{suffix}'
  result = invoke(location, '--out', out)
  assert result.exit_code == 0, result.output
  assert out.read_text().startswith(begins)
  assert f'the report ({suffix}) of run {NAME}' in result.output
  named = invoke(location, '--format', suffix)
  assert named.stdout == out.read_text()


def test_a_file_that_is_there_is_replaced(
  location: str, tmp_path: pathlib.Path
) -> None:
  out = tmp_path / 'report.html'
  out.write_text('before')
  assert invoke(location, '--out', out, '--format=pdf-ready').exit_code == 0
  assert 'class="why" open' in out.read_text()
  assert list(tmp_path.iterdir()) == [out]


def test_a_statement_is_for_people(
  location: str, tmp_path: pathlib.Path
) -> None:
  assert invoke(location, '--statement').stdout.startswith(
    '# Privacy evaluation: short'
  )
  out = tmp_path / 'statement.html'
  assert invoke(location, '--statement', '--out', out).exit_code == 0
  assert '10. Record and signature' in out.read_text()
  refused = invoke(location, '--statement', '--format=json')
  assert refused.exit_code == 2
  assert 'a statement must be html, md or pdf-ready' in ' '.join(
    refused.output.replace('│', '').split()
  )


def test_the_view_is_asked_for(location: str) -> None:
  public = json.loads(invoke(location, '--format=json').stdout)
  own = json.loads(invoke(location, '--format=json', '--server-view').stdout)
  assert set(public['series']['invited']) == {None}
  assert None not in own['series']['invited']


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (['--format=pdf'], 'must be one of html, md, json, pdf-ready'),
    (['--out=/nowhere/report.html'], 'is not written: '),
    (['--transcripts=/nowhere'], 'No such file'),
    (['--baseline=shor'], "The nearest is 'short'"),
  ],
)
def test_what_the_user_can_mend_is_one_line(
  location: str, args: list[str], message: str
) -> None:
  result = invoke(location, *args)
  assert result.exit_code == 2
  assert message in ' '.join(result.output.replace('│', '').split())
  assert 'Traceback' not in result.output


def test_runs_and_ledgers_that_are_not_there(
  location: str, tmp_path: pathlib.Path
) -> None:
  result = invoke(location, run='shrot')
  assert result.exit_code == 2
  assert "The nearest is 'short'" in result.output
  assert invoke(f'sqlite:///{tmp_path}/none.db').exit_code == 2
  with Ledger.open(f'sqlite:///{tmp_path}/empty.db'):
    pass
  result = invoke(f'sqlite:///{tmp_path}/empty.db')
  assert result.exit_code == 2
  assert 'none yet' in result.output


def test_transcripts_are_compared(
  location: str, tmp_path: pathlib.Path
) -> None:
  out = tmp_path / 'report.md'
  folder = tmp_path / 'transcripts'
  folder.mkdir()
  assert (
    invoke(location, '--out', out, f'--transcripts={folder}').exit_code == 0
  )
  assert 'no transcript of attempt 1 of round 1' in out.read_text()
