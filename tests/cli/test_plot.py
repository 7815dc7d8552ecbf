# SPDX-License-Identifier: Apache-2.0
"""`tff-secagg plot`: files, and what the user can mend."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.report import ledgers
from tff_secagg_ext import accounting, report
from tff_secagg_ext.cli.app import app
from tff_secagg_ext.ledger import Ledger
from tff_secagg_ext.report import panels

SHORT = ledgers.with_(ledgers.GOOD, name='short', rounds=4, audited=False)
WAIVER = accounting.Waiver('$\\frac{$ loss', 'the owner', 'public data')


@pytest.fixture(scope='module')
def location(tmp_path_factory: pytest.TempPathFactory) -> str:
  path = tmp_path_factory.mktemp('plot') / 'runs.db'
  ledgers.write(
    f'sqlite:///{path}',
    SHORT,
    ledgers.with_(SHORT, name='plain', noise=0.0, epsilon=None, rounds=1),
    ledgers.with_(SHORT, name='waived', waiver=WAIVER, epsilon=None),
    ledgers.with_(SHORT, name='empty', rounds=0),
  )
  return f'sqlite:///{path}'


def invoke(location: str, out: pathlib.Path, *args: str) -> Any:
  run, *options = args or ('short',)
  return CliRunner().invoke(
    app, ['plot', run, f'--ledger={location}', '--out', str(out), *options]
  )


def facts(location: str, run: str, server_view: bool = False) -> Any:
  with Ledger.open(location, create=False) as ledger:
    return report.read(ledger, run, server_view)


@pytest.mark.parametrize(
  ('kind', 'begins'), [('pdf', b'%PDF'), ('svg', b'<?xml'), ('png', b'\x89PNG')]
)
def test_files_are_the_same_each_time(
  location: str, tmp_path: pathlib.Path, kind: str, begins: bytes
) -> None:
  pytest.importorskip('matplotlib')
  made = []
  for name in 'ab':
    out = tmp_path / f'{name}.{kind.upper()}'
    result = invoke(location, out)
    assert result.exit_code == 0, result.output
    made.append(out.read_bytes())
  assert made[0].startswith(begins)
  assert made[0] == made[1]
  assert sorted(p.name[0] for p in tmp_path.iterdir()) == ['a', 'b']


def test_what_is_drawn_is_in_the_ledger(location: str) -> None:
  pytest.importorskip('matplotlib')
  found = facts(location, 'short', True)
  axes = report.draw(found).figure.axes
  assert [a.get_ylabel() for a in axes] == ['ε', 'clip norm', 'contributors']
  release, server, budget = axes[0].lines
  series = found.series
  np.testing.assert_array_equal(release.get_xdata(), series.round)
  np.testing.assert_array_equal(release.get_ydata(), series.release_epsilon)
  np.testing.assert_array_equal(server.get_ydata(), series.server_epsilon)
  assert set(budget.get_ydata()) == {found.budget.budget.epsilon}
  np.testing.assert_array_equal(
    axes[2].lines[0].get_ydata(), series.contributors
  )


def test_the_release_view_draws_no_cohort(location: str) -> None:
  names = [chart.y_name for chart in panels.panels(facts(location, 'short'))]
  assert names == ['ε', 'clip norm']


def test_what_is_infinite_is_said_to_be(location: str) -> None:
  pytest.importorskip('matplotlib')
  figure = report.draw(facts(location, 'plain')).figure
  assert figure.axes[0].texts[0].get_text().startswith('infinite')
  legend = [text.get_text() for text in figure.axes[0].get_legend().texts]
  assert legend == ['release view: ∞', 'server view: ∞']


def test_what_is_waived_is_marked_and_named(location: str) -> None:
  pytest.importorskip('matplotlib')
  drawn = report.draw(facts(location, 'waived'))
  legend = drawn.figure.axes[0].get_legend()
  assert legend.texts[0].get_text() == 'release view†'
  assert WAIVER.name in drawn.figure.get_supxlabel()
  # A name is no formula, and is drawn as it is.
  assert drawn.to_bytes('png')


@pytest.mark.parametrize(
  ('run', 'out', 'message'),
  [
    ('shrot', 'a.pdf', "The nearest is 'short'"),
    ('empty', 'a.pdf', 'must have a round to be drawn. Found none.'),
    ('short', 'a.gif', "must end with one of .pdf, .svg, .png. Found 'a.gif'."),
    ('short', 'none/a.svg', 'is not written: '),
  ],
)
def test_what_the_user_can_mend_is_one_line(
  location: str, tmp_path: pathlib.Path, run: str, out: str, message: str
) -> None:
  result = invoke(location, tmp_path / out, run)
  assert result.exit_code == 2
  assert message in ' '.join(result.output.replace('│', '').split())
  assert 'Traceback' not in result.output
  assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_extra_is_named(
  location: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setitem(sys.modules, 'matplotlib', None)
  with pytest.raises(ImportError, match=r'tff-secagg-ext\[notebook\]'):
    report.draw(facts(location, 'short'))
  result = invoke(location, tmp_path / 'a.pdf')
  assert result.exit_code == 2
  assert 'tff-secagg-ext[notebook]' in result.output


def test_a_drawing_of_another_kind_is_refused() -> None:
  with pytest.raises(ValueError, match=r"one of pdf, svg, png. Found 'gif'"):
    report.Drawing(None).to_bytes('gif')


def test_of_an_altered_run_nothing_is_drawn(location: str) -> None:
  altered = dataclasses.replace(facts(location, 'short'), fault='entry 2')
  with pytest.raises(ValueError, match='as it was written to be drawn'):
    panels.panels(altered)
