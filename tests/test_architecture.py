# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, and how large a module or a function may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
import dataclasses
import graphlib
import pathlib
import re
import statistics

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = 'tff_secagg_ext'

# What each part may import of the package, besides itself. The private
# modules stand below all others.
SHARED = {'_dropout_noise', '_identity', '_tables', '_validate'}
BELOW = {'_compat', '_forms', *SHARED}
EVERYTHING = {
  *BELOW,
  'accounting',
  'aggregators',
  'audit',
  'gate',
  'ledger',
  'mechanism',
  'metrics',
  'execution',
  'program',
  'report',
  'secagg',
  'serve',
  'tasks',
}
MAY_IMPORT = {
  '__init__': EVERYTHING,
  '_compat': set(),
  '_dropout_noise': {'_validate'},
  '_forms': {'_compat'},
  '_identity': set(),
  '_tables': set(),
  '_validate': set(),
  'accounting': {'_validate'},
  'aggregators': {*BELOW, 'accounting', 'mechanism'},
  'audit': {'_validate'},
  'cli': EVERYTHING,
  'execution': {*BELOW, 'secagg'},
  'gate': {'_validate', 'accounting', 'audit', 'ledger', 'secagg'},
  'ledger': {'_validate', 'accounting'},
  'mechanism': SHARED,
  'metrics': {*BELOW, 'aggregators', 'mechanism'},
  'program': EVERYTHING - {'gate', 'serve', 'tasks'},
  'report': {'_validate', 'accounting', 'gate', 'ledger'},
  'secagg': SHARED,
  'serve': {
    '_validate',
    'accounting',
    'execution',
    'ledger',
    'program',
    'report',
  },
  'tasks': BELOW,
}
WITHOUT_TENSORFLOW = (
  'accounting',
  'audit',
  'gate',
  'ledger',
  'report',
  'secagg',
  *sorted(SHARED),
)

MODULE_LINES = 400
MEDIAN_MODULE_LINES = 200
FUNCTION_LINES = 40
PARAMETERS = 6
PRAGMAS = 10
# Its first five parameters are those of the function whose place it takes.
DROP_IN = 'ddp_secure_aggregator'
# Draws that keep nothing secret: signs that everybody may know, and the noise
# of others that an attack draws again.
PUBLIC_DRAWS = {
  f'{PACKAGE}.mechanism.rotation': 'stateless_uniform',
  f'{PACKAGE}.program.subjects': 'stateless_poisson',
}


@dataclasses.dataclass(frozen=True)
class Module:
  """A module of the package, parsed."""

  path: pathlib.Path

  @property
  def text(self) -> str:
    return self.path.read_text()

  @property
  def name(self) -> str:
    parts = self.path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts).removesuffix('.__init__')

  @property
  def part(self) -> str:
    names = self.name.split('.')
    return names[1] if len(names) > 1 else '__init__'

  @property
  def tree(self) -> ast.Module:
    return ast.parse(self.text)

  def imports(self) -> Iterator[str]:
    """Yields what is imported, as full names; of typing alone, too."""
    for node in ast.walk(self.tree):
      if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
      elif isinstance(node, ast.ImportFrom):
        assert not node.level, f'{self.name}: relative import'
        yield from (f'{node.module}.{alias.name}' for alias in node.names)

  def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(self.tree):
      if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield node


MODULES = [Module(path) for path in sorted((ROOT / PACKAGE).rglob('*.py'))]
BY_NAME = {module.name: module for module in MODULES}


def module_of(name: str) -> str | None:
  """Returns the module of the package in which the name is, if there is."""
  while name not in BY_NAME:
    name, _, last = name.rpartition('.')
    if not last:
      return None
  return name


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
  body = function.body
  if ast.get_docstring(function) is not None:
    body = body[1:]
  return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
  """Whether it is a command of the command line: parameters are its options."""
  return any(
    isinstance(decorator, ast.Call)
    and isinstance(decorator.func, ast.Attribute)
    and decorator.func.attr == 'command'
    for decorator in function.decorator_list
  )


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
  arguments = function.args
  names = [
    argument.arg
    for argument in [
      *arguments.posonlyargs,
      *arguments.args,
      *arguments.kwonlyargs,
    ]
  ]
  return len([name for name in names if name not in ('self', 'cls')])


def is_dunder(name: str) -> bool:
  return name.startswith('__') and name.endswith('__')


each_module = pytest.mark.parametrize(
  'module', MODULES, ids=[module.name for module in MODULES]
)


@each_module
def test_imports_point_downwards(module: Module):
  assert module.part in MAY_IMPORT, 'a new part: add its rule here'
  allowed = MAY_IMPORT[module.part] | {module.part}
  for name in module.imports():
    if name.startswith(f'{PACKAGE}.'):
      assert name.split('.')[1] in allowed | {'__version__'}, name


@each_module
def test_tensorflow_stays_where_it_belongs(module: Module):
  imported = {name.partition('.')[0] for name in module.imports()}
  if module.part in WITHOUT_TENSORFLOW:
    assert 'tensorflow' not in imported
    assert f'{PACKAGE}._compat.tff' not in set(module.imports())
  if module.part != '_compat':
    assert 'tensorflow_federated' not in imported, 'import it from _compat'
    assert 'tensorflow_federated.python' not in module.text
    assert not imported & {'jax', 'tensorflow_privacy', 'vizier'}


def test_there_are_no_import_cycles():
  graph = {}
  for module in MODULES:
    imported = {module_of(name) for name in module.imports()}
    # The package's own `__init__` names everything, for type checkers.
    graph[module.name] = imported - {None, PACKAGE, module.name}
  del graph[PACKAGE]
  list(graphlib.TopologicalSorter(graph).static_order())


@each_module
def test_no_draw_is_made_beside_kernel_and_keystream(module: Module):
  if module.part in ('tasks', 'cli'):
    pytest.skip('draws public things alone: which data are held out')
  assert not [
    name
    for name in module.imports()
    if name.partition('.')[0] == 'random' or name.startswith('numpy.random')
  ]
  assert not re.search(r'\b(np|numpy)\.random\b', module.text)
  draw = PUBLIC_DRAWS.get(module.name)
  public = rf'(?!\.{draw}\b)' if draw else ''
  assert not re.search(rf'\btf\.random\b{public}', module.text)


@each_module
def test_module_is_small(module: Module):
  assert module.text.count('\n') <= MODULE_LINES
  assert module.text.startswith('# SPDX-License-Identifier: Apache-2.0\n')


def test_most_modules_are_smaller():
  sizes = [module.text.count('\n') for module in MODULES]
  assert statistics.median(sizes) <= MEDIAN_MODULE_LINES


@each_module
def test_functions_are_small(module: Module):
  for function in module.functions():
    where = f'{module.name}:{function.lineno} {function.name}'
    assert code_lines(function) <= FUNCTION_LINES, where
    exempt = function.name == DROP_IN or is_dunder(function.name)
    if not exempt and not is_command(function):
      assert parameters(function) <= PARAMETERS, where


@each_module
def test_public_names_are_documented(module: Module):
  assert ast.get_docstring(module.tree), module.name
  if '.migrations.versions.' in module.name:
    return  # Alembic says what `upgrade` and `downgrade` are.
  for node in module.tree.body:
    if not isinstance(
      node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    ):
      continue
    if not node.name.startswith('_'):
      assert ast.get_docstring(node), f'{module.name}.{node.name}'


def test_pragmas_are_few():
  pragma = re.compile(r'#\s*(noqa|type:\s*ignore|pragma|ruff:|mypy:)')
  found = [
    f'{module.name}: {line.strip()}'
    for module in MODULES
    for line in module.text.splitlines()
    if pragma.search(line)
  ]
  assert len(found) <= PRAGMAS, found


@each_module
def test_nothing_is_left_to_do(module: Module):
  assert not re.search(r'#\s*(TODO|FIXME|XXX)', module.text)
