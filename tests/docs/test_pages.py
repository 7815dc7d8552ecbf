# SPDX-License-Identifier: Apache-2.0
"""Commands of the pages exist, and what is made by a tool is up to date."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import typer.main

from tests.docs import pages
from tff_secagg_ext.audit import inference
from tff_secagg_ext.cli.app import app

_COMMANDS = [
  (page, command)
  for page in pages.PAGES
  if not page.startswith('reference/')
  for command in pages.commands(page)
]


def parse(command: str) -> None:
  """Parses a command as the program does, and runs nothing of it."""
  _, *arguments = shlex.split(command)
  group: object = typer.main.get_command(app)
  context = None
  while hasattr(group, 'commands'):
    name, *arguments = arguments
    assert name in group.commands, f'{command!r} names no command.'
    group = group.commands[name]
  assert hasattr(group, 'make_context')
  context = group.make_context(name, arguments)
  context.close()


@pytest.mark.parametrize(('page', 'command'), _COMMANDS)
def test_commands_parse(page: str, command: str) -> None:
  parse(command)


def test_what_does_not_exist_is_not_parsed() -> None:
  with pytest.raises(Exception, match='--epsilon'):
    parse('tff-secagg budget plan --epsilon 3')
  with pytest.raises(AssertionError, match='names no command'):
    parse('tff-secagg ledger erase')


def test_the_reference_of_the_command_line_is_that_of_the_program(
  tmp_path: pathlib.Path,
) -> None:
  make = 'typer tff_secagg_ext.cli.app utils docs --name tff-secagg'
  make = f"{make} --title 'Command line' --output"
  typer_command, *arguments = shlex.split(make)
  subprocess.run(
    [
      pathlib.Path(sys.executable).parent / typer_command,
      *arguments,
      tmp_path / 'cli.md',
    ],
    check=True,
    env={**os.environ, 'PYTHONPATH': str(pages.ROOT)},
    stdout=subprocess.DEVNULL,
    timeout=60,
  )
  found = pages.read('reference/cli.md')
  assert (tmp_path / 'cli.md').read_text() == found, (
    f'Make it anew: {make} docs/reference/cli.md'
  )


def test_what_an_epsilon_allows() -> None:
  """The figures of the page on choosing one."""
  rows = re.findall(
    r'^\| ([\d.]+) \| ([\d.]+) % \|$',
    pages.read('howto/choose_epsilon.md'),
    re.MULTILINE,
  )
  assert len(rows) == 6
  for epsilon, percent in rows:
    allowed = inference.allowed_true_positive_rate(float(epsilon), 1e-3, 0.01)
    assert f'{100 * allowed:.2g}' == f'{float(percent):.2g}'


def test_pages_that_are_named_exist() -> None:
  for page in pages.PAGES:
    for name in re.findall(r'docs/([a-z_/]+\.md)', pages.read(page)):
      assert name in pages.PAGES, f'{page} names docs/{name}.'


@pytest.mark.parametrize('page', pages.PAGES)
def test_links_lead_to_files(page: str) -> None:
  folder = (pages.DOCS / page).parent
  for target in re.findall(r'\]\(([^)#]+)(?:#[^)]*)?\)', pages.read(page)):
    assert (folder / target).is_file(), f'{page} links to {target}.'


def _terms() -> list[list[str]]:
  """Rows of the glossary: term, symbol, sentence, source."""
  lines = pages.read('glossary.md').splitlines()
  rows = [line[1:-1].split('|') for line in lines if line.startswith('| ')]
  cells = [[cell.strip() for cell in row] for row in rows]
  return [row for row in cells if row[0] not in ('term', '---')]


def test_the_glossary_has_one_sentence_for_each_term() -> None:
  terms = _terms()
  names = [name for term, *_ in terms for name in term.split(', ')]
  assert len(set(names)) == len(names)
  for term, _, sentence, _ in terms:
    assert sentence, term
    assert '. ' not in sentence.replace('Prop. ', ''), term
    assert not sentence.endswith('.'), term


def _plain(text: str) -> str:
  return ' '.join(text.lower().replace('-', ' ').split())


def test_the_glossary_has_no_term_that_no_page_uses() -> None:
  """Pages, and the docstrings that the reference is made of."""
  sources = [pages.DOCS / page for page in pages.PAGES if page != 'glossary.md']
  sources += (pages.ROOT / 'tff_secagg_ext').rglob('*.py')
  used = _plain(' '.join(path.read_text() for path in sources))
  for term, *_ in _terms():
    names = _plain(term).split(', ')
    assert any(name in used for name in names), term
