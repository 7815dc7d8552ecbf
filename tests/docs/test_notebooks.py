# SPDX-License-Identifier: Apache-2.0
"""The notebooks of colabs/, but for running them, which `.ci/run` does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
import importlib.machinery
import importlib.util
import pathlib
import re
import subprocess
import sys
import types
from typing import Any

import nbformat
import pytest

from tests.docs import pages

_COLABS = pages.ROOT / 'colabs'
# In the order in which they are told of.
NAMES = ('dropin', 'epsilon', 'secagg', 'hybrid', 'memorization')
_PAGE = 'tutorials/notebooks.md'
# What is asked for where it is, in a function, and not needed.
_OPTIONAL = {'opacus', 'torch'}
_LARGEST = 500_000  # Bytes, with outputs.
# Where something is on the machine that wrote outputs, or in its memory.
_OF_A_MACHINE = re.compile(r'/(?:home|root|tmp|usr|work)/|0x[0-9a-f]{8}')


def _read(name: str) -> Any:
  return nbformat.read(_COLABS / f'{name}.ipynb', as_version=4)


def _cells(name: str, kind: str) -> list[Any]:
  return [cell for cell in _read(name).cells if cell.cell_type == kind]


def _code(name: str) -> list[str]:
  return [cell.source for cell in _cells(name, 'code')]


def _executor() -> types.ModuleType:
  """The script that `.ci/run` and `make notebooks` execute them with."""
  path = pages.ROOT / '.ci/notebooks.py'
  spec = importlib.util.spec_from_file_location('notebooks', path)
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope='module')
def executor() -> types.ModuleType:
  return _executor()


def test_they_are_those_that_exist() -> None:
  assert {path.stem for path in _COLABS.glob('*.ipynb')} == set(NAMES)


def test_they_are_listed() -> None:
  readme = (pages.ROOT / 'README.md').read_text()
  listed = re.findall(r'`colabs/(\w+)\.ipynb`', pages.read(_PAGE))
  assert tuple(listed) == NAMES
  linked = re.findall(r'\]\(colabs/(\w+)\.ipynb\)', readme)
  assert tuple(linked) == NAMES


def test_they_are_run_by_ci() -> None:
  ci = (pages.ROOT / '.ci/run').read_text()
  assert ci.count('/bin/python" .ci/notebooks.py') == 1
  assert ci.count('.venv/bin/python .ci/notebooks.py') == 1


@pytest.mark.parametrize('name', NAMES)
def test_they_are_valid(name: str) -> None:
  notebook = _read(name)
  nbformat.validate(notebook)
  ids = [cell.id for cell in notebook.cells]
  assert len(set(ids)) == len(ids)
  assert (_COLABS / f'{name}.ipynb').stat().st_size < _LARGEST


@pytest.mark.parametrize('name', NAMES)
def test_they_begin_with_what_colab_needs(name: str) -> None:
  title, colab, *_ = _cells(name, 'markdown')
  assert title.source.startswith('# ')
  assert 'Google Colab' in colab.source
  assert 'Colab itself is not' in colab.source
  assert _code(name)[0] == _code(NAMES[0])[0]


def _run_first_cell(
  monkeypatch: pytest.MonkeyPatch, present: bool
) -> list[list[str]]:
  """Runs the first cell where the package is present or not."""
  done: list[list[str]] = []
  monkeypatch.setattr(
    importlib.util, 'find_spec', lambda name: object() if present else None
  )
  monkeypatch.setattr(
    subprocess, 'run', lambda command, check: done.append(command)
  )
  exec(compile(_code(NAMES[0])[0], 'first cell', 'exec'), {})
  return done


def test_the_first_cell_installs_as_the_readme_says(
  monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
  clone = tmp_path / 'tff-secagg-ext'
  (clone / 'requirements').mkdir(parents=True)
  (clone / 'requirements/tff.txt').touch()
  monkeypatch.chdir(tmp_path)
  first, second = _run_first_cell(monkeypatch, present=False)
  pip = [sys.executable, '-m', 'pip', 'install', '--quiet']
  # A path: a name would be looked for in a registry.
  assert first == [*pip, f'{clone}[notebook]']
  step = '--no-deps --ignore-requires-python -r requirements/tff.txt'
  assert step in (pages.ROOT / 'README.md').read_text()
  assert second[:5] == pip
  assert ' '.join(second[5:]).replace(f'{clone}/', '') == step


def test_the_first_cell_says_what_to_do(
  monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit, match='upload the repository into a folder'):
    _run_first_cell(monkeypatch, present=False)


def test_the_first_cell_does_nothing_where_the_package_is(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  assert _run_first_cell(monkeypatch, present=True) == []


def _imported(source: str) -> Iterator[str]:
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from (alias.name.partition('.')[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.module is not None
      yield node.module.partition('.')[0]


@pytest.mark.parametrize('name', NAMES)
def test_they_import_what_is_there(name: str) -> None:
  imported = {module for cell in _code(name) for module in _imported(cell)}
  assert 'tff_secagg_ext' in imported
  # By paths alone: other finders may begin to import what they find.
  for module in imported - _OPTIONAL - sys.stdlib_module_names:
    assert importlib.machinery.PathFinder.find_spec(module), module
  top = {
    module
    for cell in _code(name)
    for node in ast.parse(cell).body
    if isinstance(node, (ast.Import, ast.ImportFrom))
    for module in _imported(ast.unparse(node))
  }
  assert not top & _OPTIONAL


@pytest.mark.parametrize('name', NAMES)
def test_they_are_tests_of_what_they_claim(name: str) -> None:
  checked = [
    cell
    for cell in _code(name)
    if any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(cell)))
  ]
  assert len(checked) >= 4


@pytest.mark.parametrize('name', NAMES)
def test_a_cell_fits_on_a_screen(name: str) -> None:
  for cell in _read(name).cells:
    assert len(cell.source.splitlines()) <= 45
    assert all(len(line) <= 80 for line in cell.source.splitlines())


def test_ruff_finds_nothing() -> None:
  for command in (('format', '--check'), ('check',)):
    ruff = [pathlib.Path(sys.executable).parent / 'ruff', *command]
    subprocess.run(
      [*ruff, '--no-cache', _COLABS],
      check=True,
      cwd=pages.ROOT,
      stdout=subprocess.DEVNULL,
      timeout=60,
    )


@pytest.mark.parametrize('name', NAMES)
def test_links_lead_to_files(name: str) -> None:
  prose = '\n'.join(cell.source for cell in _cells(name, 'markdown'))
  for target in re.findall(r'\]\(([^)]+)\)', prose):
    assert (_COLABS / target).is_file(), target
  for target in re.findall(
    r'docs/[a-z_/]+\.md', '\n'.join(_code(name)) + prose
  ):
    assert (pages.ROOT / target).is_file(), target


@pytest.mark.parametrize('name', NAMES)
def test_outputs_are_of_this_code(
  name: str, executor: types.ModuleType
) -> None:
  notebook = _read(name)
  found = dict(notebook.metadata.get('executed', {}))
  assert found == {'code': executor.digest(notebook), 'python': '3.11'}, (
    'Make the outputs anew: make notebooks'
  )
  cells = _cells(name, 'code')
  counts = [cell.execution_count for cell in cells]
  assert counts == list(range(1, len(cells) + 1))


@pytest.mark.parametrize('name', NAMES)
def test_outputs_are_of_no_machine(name: str) -> None:
  for cell in _cells(name, 'code'):
    for output in cell.outputs:
      assert output.output_type in ('display_data', 'execute_result', 'stream')
      data = output.get('data', {})
      texts = [output.get('text', '')]
      texts += [str(d) for kind, d in data.items() if kind != 'image/png']
      for text in texts:
        assert not _OF_A_MACHINE.search(text), text[:200]
