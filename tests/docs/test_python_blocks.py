# SPDX-License-Identifier: Apache-2.0
"""The Python of tutorials, how-to guides and the migration guide runs.

Pages go on where the tutorial ends: each has a copy of its names, and all have
its folder. Blocks of a page run one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
import os
import pathlib
from typing import Any

import pytest

from tests.docs import pages
import tff_secagg_ext
from tff_secagg_ext._compat import tff

_TUTORIAL = 'tutorials/drop_in.md'
_GOING_ON = [
  page
  for page in pages.PAGES
  if page.startswith(('howto/', 'tutorials/')) or page == 'migrate.md'
  if page != _TUTORIAL and pages.python(page)
]
# What other frameworks run, by the title of its block, in their environments.
_ELSEWHERE = {
  'Before: Flower': 'flwr',
  'Before: Opacus': 'opacus',
  'Opacus': 'opacus',
}


def run(page: str, names: dict[str, Any]) -> None:
  for block in pages.python(page):
    if block.title not in _ELSEWHERE:
      exec(compile(block.text, page, 'exec'), names)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  return tmp_path_factory.mktemp('docs')


@pytest.fixture(scope='module')
def tutorial(folder: pathlib.Path) -> Iterator[dict[str, Any]]:
  """The names of the tutorial when it has run, and its context."""
  names: dict[str, Any] = {'__name__': 'docs'}
  before, place = tff.framework.get_context_stack().current, os.getcwd()
  os.chdir(folder)
  try:
    run(_TUTORIAL, names)
    yield names
  finally:
    os.chdir(place)
    tff.framework.set_default_context(before)


def test_the_tutorial_records_its_rounds(
  tutorial: dict[str, Any], folder: pathlib.Path
) -> None:
  shown = tutorial['shown']
  assert [entry['status'] for entry in shown['rounds']] == ['committed'] * 2
  assert 0 < shown['release_epsilon'] <= shown['server_epsilon'] < 10
  assert (folder / 'runs.db').is_file()


@pytest.mark.parametrize('page', _GOING_ON)
def test_pages_that_go_on_from_it(page: str, tutorial: dict[str, Any]) -> None:
  context = tff.framework.get_context_stack().current
  try:
    run(page, dict(tutorial))
  finally:
    tff.framework.set_default_context(context)
  if page == 'migrate.md':
    assert_migrated()


def assert_migrated() -> None:
  """All of its runs are on record, with what the page says of them."""
  with tff_secagg_ext.Ledger.open('runs.db', create=False) as ledger:
    shown = {name: ledger.show(name) for name in ledger.names()}
  assert {'from-ddp', 'central', 'from-opacus', 'from-flower'} <= set(shown)
  assert len(shown['from-opacus']['rounds']) == 3
  assert 0 < shown['from-opacus']['release_epsilon'] <= 8
  assert shown['from-flower']['settings']['secure_sums']['threat'] == 'curious'
  assert not shown['central']['release_reasons']


@pytest.mark.parametrize('title', sorted(_ELSEWHERE))
def test_blocks_of_other_frameworks_are_python(title: str) -> None:
  """They run only where the framework is; no environment has all of them."""
  [block] = [
    block
    for page in pages.PAGES
    for block in pages.python(page)
    if block.title == title
  ]
  code = compile(block.text, title, 'exec')
  if title.startswith('Before'):
    pytest.importorskip(
      _ELSEWHERE[title], reason=f'{_ELSEWHERE[title]} is not installed here.'
    )
    exec(code, {})
