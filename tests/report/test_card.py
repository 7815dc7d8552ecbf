# SPDX-License-Identifier: Apache-2.0
"""What notebooks show of a run."""

from __future__ import annotations

import dataclasses
import html
from html.parser import HTMLParser
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from tests.report import ledgers
from tff_secagg_ext import report
from tff_secagg_ext.ledger import Ledger

VOID = {'path', 'circle'}


class _Elements(HTMLParser):
  """Checks that elements are closed in order, and keeps their names."""

  def __init__(self) -> None:
    super().__init__()
    self.open: list[str] = []
    self.seen: set[str] = set()

  def handle_starttag(self, tag: str, attrs: Any) -> None:
    self.seen.add(tag)
    self.open.append(tag)

  def handle_startendtag(self, tag: str, attrs: Any) -> None:
    assert tag in VOID

  def handle_endtag(self, tag: str) -> None:
    assert self.open.pop() == tag


@pytest.mark.parametrize('name', [recipe.name for recipe in ledgers.ALL])
def test_a_card_has_the_verdict_and_is_escaped(
  ledger: Ledger, name: str
) -> None:
  facts = report.read(ledger, name)
  text = report.card(facts)
  elements = _Elements()
  elements.feed(text)
  assert not elements.open
  assert not elements.seen & {'script', 'link', 'img', 'iframe'}
  assert text.count('<b>') == 1
  assert html.unescape(text).count(name) >= 1
  found = report.verdict(facts)
  assert ('class="bad"' in text) == (not found.holds)
  said = html.unescape(text).replace('\u00a0', ' ')
  assert found.sentence in said
  assert report.words.figure(facts.release.value) in said


def test_without_rounds_and_of_an_altered_run_there_is_no_chart(
  ledger: Ledger, tmp_path: pathlib.Path
) -> None:
  empty = dataclasses.replace(
    report.read(ledger, ledgers.PLAIN.name), fault='entry <2>'
  )
  nothing = dataclasses.replace(
    empty.series,
    **{
      field.name: getattr(empty.series, field.name)[:0]
      for field in dataclasses.fields(empty.series)
      if field.name != 'dropouts'
    },
  )
  altered = report.card(dataclasses.replace(empty, series=nothing))
  assert 'entry &lt;2&gt;' in altered
  assert '<svg' not in altered and '<table' not in altered
  recipe = ledgers.with_(ledgers.GOOD, name='new', rounds=0, audited=False)
  ledgers.write(f'sqlite:///{tmp_path}/new.db', recipe)
  with Ledger.open(tmp_path / 'new.db', create=False) as new:
    begun = report.card(report.read(new, 'new'))
  assert 'No round was released' in begun and '<svg' not in begun


def test_a_card_takes_no_tensorflow() -> None:
  code = (
    'import sys; from tff_secagg_ext import report; report.card;'
    ' report.Drawing; print("tensorflow" in sys.modules,'
    ' "matplotlib" in sys.modules)'
  )
  found = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert found.stdout.split() == ['False', 'False']
