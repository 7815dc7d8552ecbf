# SPDX-License-Identifier: Apache-2.0
"""`tff-secagg watch`: what is seen of a run that another process writes."""

from __future__ import annotations

import io
import math
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from rich.console import Console, RenderableType
from typer.testing import CliRunner

from tests.report import ledgers
from tff_secagg_ext import report
from tff_secagg_ext.cli import watch
from tff_secagg_ext.cli.app import app
from tff_secagg_ext.ledger import Ledger, writers

ROOT = pathlib.Path(__file__).parents[2]
SHORT = ledgers.with_(ledgers.GOOD, name='short', rounds=3, audited=False)


@pytest.fixture(scope='module')
def location(tmp_path_factory: pytest.TempPathFactory) -> str:
  path = tmp_path_factory.mktemp('watch') / 'runs.db'
  ledgers.write(
    f'sqlite:///{path}',
    SHORT,
    ledgers.with_(ledgers.HOSTILE, name='[red]\x1b[2J{{ 7 }}'),
    ledgers.with_(ledgers.PLAIN, name='plain', rounds=1, audited=False),
    ledgers.with_(SHORT, name='empty', rounds=0),
  )
  return f'sqlite:///{path}'


def invoke(location: str, run: str, *args: str) -> Any:
  return CliRunner().invoke(
    app, ['watch', run, f'--ledger={location}', '--once', *args]
  )


def drawn(frame: RenderableType) -> str:
  console = Console(file=io.StringIO(), width=100)
  console.print(frame)
  return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_frame_has_the_figures_of_the_ledger(location: str) -> None:
  result = invoke(location, 'short')
  assert result.exit_code == 0, result.output
  with Ledger.open(location, create=False) as ledger:
    shown = ledger.show('short')
  for view in ('release', 'server'):
    assert f'{shown[f"{view}_epsilon"]:.4g}' in result.output
  assert 'This run is private' in result.output
  for column in ('invited', 'summed', 'seconds'):
    assert column not in result.output
  own = invoke(location, 'short', '--server-view')
  for column in ('invited', 'summed', 'seconds'):
    assert column in own.output


@pytest.mark.parametrize(
  ('run', 'message'),
  [
    ('empty', 'No round was released'),
    ('plain', 'This run is not private'),
  ],
)
def test_runs_that_are_not_as_others(
  location: str, run: str, message: str
) -> None:
  result = invoke(location, run)
  assert result.exit_code == 0
  assert message in ' '.join(result.output.split())


def test_names_are_shown_and_not_obeyed(location: str) -> None:
  result = invoke(location, '[red]\x1b[2J{{ 7 }}')
  assert '[red]\ufffd[2J{{ 7 }}' in result.output
  assert '\x1b[2J' not in result.output


def test_a_run_or_a_ledger_that_is_not_there(
  location: str, tmp_path: pathlib.Path
) -> None:
  result = invoke(location, 'shrot')
  assert result.exit_code == 2
  assert "The nearest is 'short'" in result.output
  assert invoke(f'sqlite:///{tmp_path}/none.db', 'a').exit_code == 2


def test_a_run_is_followed_until_its_process_ends(
  tmp_path: pathlib.Path,
) -> None:
  path = tmp_path / 'runs.db'
  with subprocess.Popen(
    [sys.executable, '-c', ledgers.WRITER, str(path)],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as writer:
    assert writer.stdin is not None and writer.stdout is not None
    assert writer.stdout.readline() == 'open\n'
    with Ledger.open(path, create=False) as ledger:
      frames = watch.follow(ledger, 'mine')
      assert 'No round was released' in ' '.join(drawn(next(frames)).split())
      for number in (1, 2):
        writer.stdin.write('\n')
        writer.stdin.flush()
        while ledger.progress('mine').entries < 2 * number:
          time.sleep(0.01)
        begun = time.monotonic()
        text = drawn(next(frames))
        assert 'Ctrl-C ends this view' in text
        assert f'rounds     {number}' in text
        # Of a second that is promised; the rest is for a busy machine.
        assert time.monotonic() - begun < 5.0
      writer.stdin.close()
      writer.wait(20)
      last = [drawn(frame) for frame in frames]
  assert len(last) == 1
  assert 'The process that trained it has ended.' in last[0]


def test_progress_is_that_of_the_rows(location: str) -> None:
  with Ledger.open(location, create=False) as ledger:
    found = ledger.progress('short')
    assert found.entries == len(ledger.entries('short')) == 6
    assert found.audits == len(ledger.audits('short')) == 0
    # This process has written it, and is still there.
    assert found.writing is True
    ledger.record_audit('short', 'utility', {'accuracy': 0.5})
    assert ledger.progress('short').audits == 1


def test_whether_a_process_lives() -> None:
  host, pid, start = writers.this_process().rsplit(':', 2)
  assert writers.lives(f'{host}:{pid}:{start}') is True
  assert writers.lives(f'{host}:{pid}:{int(start) + 1}') is False
  assert writers.lives(f'elsewhere:{pid}:{start}') is None
  assert writers.lives(f'{host}:altered') is None


def test_a_process_of_another_host_is_not_told_to_have_ended(
  location: str,
) -> None:
  with Ledger.open(location, create=False) as ledger:
    facts = report.read(ledger, 'short')
  assert 'cannot be seen' in ' '.join(drawn(watch.frame(facts, None)).split())


def test_a_budget_is_told_with_what_is_spent(location: str) -> None:
  with Ledger.open(location, create=False) as ledger:
    facts = report.read(ledger, 'short')
  assert facts.budget is not None
  share = facts.release.value / facts.budget.budget.epsilon
  assert f'{100 * share:.3g} % spent' in drawn(watch.frame(facts, True))


@given(st.lists(st.floats(0, 1e6) | st.just(math.inf), max_size=200))
def test_a_sparkline_ends_with_the_newest_value(values: list[float]) -> None:
  line = watch.sparkline(np.array(values, np.float64), 40)
  assert len(line) == min(len(values), 40)
  if values and math.isinf(values[-1]):
    assert line[-1] == '∞'
  elif values and values[-1] == max(v for v in values if math.isfinite(v)):
    assert line[-1] == ('█' if values[-1] else '▁')
