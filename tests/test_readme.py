# SPDX-License-Identifier: Apache-2.0
"""Every fenced block of the README is run, or is run by `.ci/run`."""

from __future__ import annotations

import json
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from tff_secagg_ext._compat import tff

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()
BLOCKS = re.findall(r'^```(\w*)\n(.*?)^```', README, re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
  return [text for name, text in BLOCKS if name == language]


def commands() -> list[str]:
  return [line for text in blocks('bash') for line in text.splitlines()]


def test_every_block_is_of_a_kind_that_is_checked():
  assert {name for name, _ in BLOCKS} == {'bash', 'python'}


def test_python_blocks_run_one_after_the_other(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
):
  monkeypatch.chdir(tmp_path)
  names: dict[str, object] = {'__name__': 'readme'}
  before = tff.framework.get_context_stack().current
  try:
    for text in blocks('python'):
      exec(compile(text, 'README.md', 'exec'), names)
  finally:
    tff.framework.set_default_context(before)
  lines = [line.split() for line in capsys.readouterr().out.splitlines()]
  rows = [row for row in lines if row and row[0].isdecimal()]
  assert len(rows) == 5
  epsilons = [(float(release), float(server)) for _, release, server in rows]
  assert epsilons == sorted(epsilons)
  assert 0 < epsilons[0][0] < epsilons[-1][0] < 100


def test_bash_blocks_hold_commands_of_three_kinds():
  for command in commands():
    assert command.startswith(('make ', 'pip install ', 'tff-secagg ')), command


def test_commands_run(tmp_path: pathlib.Path):
  printed = []
  # What Opacus has written elsewhere.
  (tmp_path / 'history.json').write_text('[[1.1, 0.01, 100]]')
  for command in commands():
    if command.startswith('tff-secagg '):
      program, *arguments = shlex.split(command)
      done = subprocess.run(
        [pathlib.Path(sys.executable).parent / program, *arguments],
        check=True,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
      )
      printed.append(done.stdout)
  _, listed, shown, verified, _, imported, composed, *printed = printed
  planned, parameters = printed
  assert imported.startswith('silo: 2 entries')
  assert 'hospital' in composed
  assert 'mine' in verified
  assert (tmp_path / 'mine.jsonl').is_file()
  assert 'ε = 4 at δ = 0.001' in planned
  assert 'neighbors' in parameters
  assert 'mine' in listed
  rounds = json.loads(shown)['rounds']
  assert [entry['status'] for entry in rounds] == ['committed'] * 5


def test_make_targets_exist_and_are_run_by_ci():
  makefile = (ROOT / 'Makefile').read_text()
  ci = (ROOT / '.ci/run').read_text()
  for command in commands():
    if command.startswith('make '):
      target = command.split()[1]
      assert re.search(rf'^{target}:', makefile, re.MULTILINE), command
      assert command in ci


def test_files_that_are_named_exist():
  for command in commands():
    for name in re.findall(r'-r (\S+)', command):
      assert (ROOT / name).is_file(), command
  for name in re.findall(r'\]\(([^)]+)\)', README):
    assert (ROOT / name).exists(), name


def test_second_step_of_plain_pip_is_run_by_ci():
  ci = ' '.join((ROOT / '.ci/run').read_text().replace('\\', '').split())
  step = '--no-deps --ignore-requires-python -r requirements/tff.txt'
  assert step in README
  assert step in ci
