# SPDX-License-Identifier: Apache-2.0
"""The package: what it imports, what it names, and what its locks hold."""

from __future__ import annotations

import importlib.metadata
import pathlib
import subprocess
import sys

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
import pytest

import tff_secagg_ext

ROOT = pathlib.Path(__file__).parent.parent
PYTHONS = ('3.10', '3.11', '3.12', '3.13')
# Seconds. The goal is 0.3; a busy machine must not fail the test.
IMPORT_LIMIT = 2.0


def run(code: str) -> str:
  return subprocess.run(
    [sys.executable, '-c', code],
    check=True,
    stdout=subprocess.PIPE,
    stdin=subprocess.DEVNULL,
    text=True,
    cwd=ROOT,
    timeout=120,
  ).stdout


def locked(python: str) -> dict[str, str]:
  lines = (ROOT / f'requirements/python{python}.txt').read_text().splitlines()
  pins = (line.rstrip(' \\') for line in lines if line[0].isalnum())
  return dict(pin.split('==') for pin in pins)


def test_importing_it_imports_no_tensorflow():
  heavy = run(
    'import sys, tff_secagg_ext\n'
    'names = {name.partition(".")[0] for name in sys.modules}\n'
    'print(sorted(names & {"jax", "numpy", "scipy", "sqlalchemy",'
    ' "tensorflow", "tensorflow_federated", "tensorflow_privacy"}))'
  )
  assert heavy.strip() == '[]'


def test_importing_it_is_quick():
  code = (
    'import time; start = time.perf_counter(); import tff_secagg_ext;'
    ' print(time.perf_counter() - start)'
  )
  assert float(run(code)) < IMPORT_LIMIT


@pytest.mark.parametrize('name', tff_secagg_ext.__all__)
def test_every_public_name_loads(name: str):
  assert getattr(tff_secagg_ext, name) is getattr(tff_secagg_ext, name)
  assert name in dir(tff_secagg_ext)


@pytest.mark.parametrize('name', sorted(tff_secagg_ext._SUBMODULES))
def test_every_submodule_loads(name: str):
  module = getattr(tff_secagg_ext, name)
  assert module.__name__ == f'tff_secagg_ext.{name}'
  assert name in dir(tff_secagg_ext)


def test_submodules_are_those_that_exist():
  folder = ROOT / 'tff_secagg_ext'
  modules = {path.stem for path in folder.glob('[!_]*.py')}
  packages = {path.parent.name for path in folder.glob('*/__init__.py')}
  assert modules | packages == tff_secagg_ext._SUBMODULES


def test_unknown_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="no attribute 'epsilon_zero'"):
    getattr(tff_secagg_ext, 'epsilon_zero')  # noqa: B009


def test_star_import_gives_the_public_names():
  names = run('from tff_secagg_ext import *; print(sorted(vars()))')
  assert set(tff_secagg_ext.__all__) <= set(eval(names))


def test_version_is_that_of_the_distribution():
  version = importlib.metadata.version('tff-secagg-ext')
  assert version == tff_secagg_ext.__version__


def requirements(python: str) -> list[Requirement]:
  """Everything that setup.py and the second step ask for on `python`."""
  lines = (ROOT / 'requirements/tff.txt').read_text().splitlines()
  texts = [line for line in lines if not line.startswith('#')]
  texts += importlib.metadata.requires('tff-secagg-ext') or []
  asked = []
  for requirement in map(Requirement, texts):
    for extra in ('', 'notebook', 'postgres', 'shakespeare', 'test'):
      environment = dict(default_environment())
      environment.update(python_version=python, extra=extra)
      if not requirement.marker or requirement.marker.evaluate(environment):
        asked.append(requirement)
  return asked


@pytest.mark.parametrize('python', PYTHONS)
def test_lock_satisfies_every_requirement(python: str):
  pins = locked(python)
  for requirement in requirements(python):
    name = canonicalize_name(requirement.name)
    assert name in pins, f'{name} is missing; run `make lock`'
    assert pins[name] in requirement.specifier, (
      f'{name} {pins[name]} is not {requirement.specifier}; run `make lock`'
    )


def test_locks_name_the_reference_versions():
  assert locked('3.11')['tensorflow'] == '2.14.1'
  assert locked('3.13')['tensorflow'].startswith('2.21.')
  for python in PYTHONS:
    assert locked(python)['tensorflow-federated'] == '0.87.0'


def test_locks_hold_hashes_and_no_addresses():
  for python in PYTHONS:
    text = (ROOT / f'requirements/python{python}.txt').read_text()
    assert text.count('--hash=sha256:') >= len(locked(python))
    assert '://' not in text


def test_installed_packages_are_the_locked_ones():
  """Whoever runs the tests in another environment sees what differs."""
  python = '{}.{}'.format(*sys.version_info[:2])
  found = {
    name: importlib.metadata.version(name)
    for name in ('numpy', 'tensorflow', 'tensorflow-federated', 'wrapt')
  }
  assert found == {name: locked(python)[name] for name in found}
