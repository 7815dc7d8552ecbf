# SPDX-License-Identifier: Apache-2.0
"""Where ledgers can be: SQLite and, where it is installed, PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import pathlib
import shutil
import tempfile

import pytest

from tests.ledger import postgresql as postgresql_lib

NewLocation = Callable[[str], str]

PARAMS = ['sqlite', 'postgresql']


@pytest.fixture(scope='session')
def postgresql() -> Iterator[postgresql_lib.Server]:
  """A server that all tests share."""
  if not postgresql_lib.is_installed():
    pytest.skip('PostgreSQL is not installed')
  folder = pathlib.Path(tempfile.mkdtemp())
  server = postgresql_lib.Server(folder)
  server.start('-c fsync=off')
  yield server
  server.stop()
  shutil.rmtree(folder)


@pytest.fixture
def own_server() -> Iterator[postgresql_lib.Server]:
  """A server that a test may kill, and starts again."""
  if not postgresql_lib.is_installed():
    pytest.skip('PostgreSQL is not installed')
  folder = pathlib.Path(tempfile.mkdtemp())
  server = postgresql_lib.Server(folder)
  server.start()
  yield server
  server.stop()
  shutil.rmtree(folder)


@pytest.fixture
def new_location(
  request: pytest.FixtureRequest, tmp_path: pathlib.Path
) -> NewLocation:
  """Gives places where a new ledger can be made, of each kind."""
  made: list[str] = []

  def new(kind: str) -> str:
    made.append(kind)
    if kind == 'sqlite':
      return f'sqlite:///{tmp_path / f"runs{len(made)}.db"}'
    server = request.getfixturevalue('postgresql')
    return str(server.make(f'd{abs(hash(request.node.nodeid))}_{len(made)}'))

  return new


@pytest.fixture(params=PARAMS)
def location(request: pytest.FixtureRequest, new_location: NewLocation) -> str:
  """Where a new ledger can be made."""
  return new_location(request.param)
