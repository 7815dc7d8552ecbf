# SPDX-License-Identifier: Apache-2.0
"""The Python of tutorials, how-to guides and the migration guide runs.

Pages go on where the tutorial ends: each, and each section of the migration
guide, has a copy of its names, and all have its folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import math
import os
import pathlib
import re
from typing import Any
import warnings

import pytest

from tests.docs import pages
import tff_secagg_ext
from tff_secagg_ext import accounting, execution, program
from tff_secagg_ext._compat import tff

_TUTORIAL = 'tutorials/drop_in.md'
_GOING_ON = [
  page
  for page in pages.PAGES
  if page.startswith(('howto/', 'tutorials/'))
  if page != _TUTORIAL and pages.python(page)
]
_MIGRATION = 'migrate.md'
# What other frameworks run, by the title of its block, in their environments.
_ELSEWHERE = {
  'Before: Flower': 'flwr',
  'Before: Opacus': 'opacus',
  'Opacus': 'opacus',
}


def run(blocks: Iterable[pages.Block], names: dict[str, Any]) -> None:
  for block in blocks:
    if block.title not in _ELSEWHERE:
      exec(compile(block.text, block.section, 'exec'), names)


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
    run(pages.python(_TUTORIAL), names)
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


@pytest.fixture
def going_on(tutorial: dict[str, Any]) -> Iterator[dict[str, Any]]:
  """A copy of the tutorial's names; its context is put back."""
  context = tff.framework.get_context_stack().current
  yield dict(tutorial)
  tff.framework.set_default_context(context)


@pytest.mark.parametrize('page', _GOING_ON)
def test_pages_that_go_on_from_it(page: str, going_on: dict[str, Any]) -> None:
  run(pages.python(page), going_on)


@pytest.mark.parametrize(
  ('section', 'run_name'),
  [
    ('From tff.learning.ddp_secure_aggregator', 'from-ddp'),
    ('From tff.learning.dp_aggregator', 'central'),
    ('From Opacus', 'from-opacus'),
    ('From Flower', 'from-flower'),
  ],
)
def test_migrated_programs_are_on_record(
  section: str, run_name: str, going_on: dict[str, Any]
) -> None:
  blocks = [b for b in pages.python(_MIGRATION) if b.section == section]
  assert [b.title.partition(':')[0] for b in blocks] == ['Before', 'After']
  run(blocks, going_on)
  with tff_secagg_ext.Ledger.open('runs.db', create=False) as ledger:
    shown = ledger.show(run_name)
  assert shown['release_reasons'] == []
  rounds = {'From Opacus': 3, 'From Flower': 1}.get(section, 0)
  assert len(shown['rounds']) == rounds
  assert (shown['release_epsilon'] > 0) == (rounds > 0)
  assert shown['release_epsilon'] <= 8


def test_the_epsilons_of_the_first_run() -> None:
  """What `train` charges for `digits`: 360 clients, of which 100 are expected.

  The model has 650 numbers, and the page says what 5 rounds at delta 1e-3 cost.
  """
  text = pages.read('tutorials/first_run.md')
  rows = re.findall(r'^\| \d \| (\S+) \| (\S+) \|$', text, re.MULTILINE)
  assert len(rows) == 5
  security = execution.Security('malicious', corrupt=0.05, dropout=0.2)
  plan = program.RunPlan(
    population=360,
    clients_per_round=100,
    rounds=5,
    delta=1e-3,
    security=execution.SecureOptions(security=security),
  )
  # A hundredth of delta pays for cohorts out of their bounds.
  account = accounting.Accountant(0.99e-3)
  for release, server in rows:
    account = account.with_round(plan.charge(1.0, 650))
    assert f'{account.release().value:.4g}' == release
    assert f'{account.server().value:.4g}' == server
  assert f'{math.exp(account.release().value):.3g}' in text


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
    # What they warn of is theirs.
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      exec(code, {})
