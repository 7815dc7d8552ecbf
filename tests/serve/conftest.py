# SPDX-License-Identifier: Apache-2.0
"""Ledgers with all there is to look at, and their pages."""

from __future__ import annotations

from collections.abc import Iterator
import pathlib

import pytest

from tests.report import ledgers
from tests.serve import site as site_lib
from tff_secagg_ext.serve.server import Options

# What others chose, which must be shown and never obeyed.
MARKUP = '</script><img src=x onerror=alert(1)>"\'🦉'


@pytest.fixture(scope='session')
def location(tmp_path_factory: pytest.TempPathFactory) -> str:
  """Where the ledger is."""
  path: pathlib.Path = tmp_path_factory.mktemp('serve') / 'runs.db'
  ledgers.write(f'sqlite:///{path}')
  return f'sqlite:///{path}'


@pytest.fixture(scope='module')
def site(location: str) -> Iterator[site_lib.Site]:
  """Its page, on loopback, of the release view."""
  with site_lib.served(location) as served:
    yield served


@pytest.fixture(scope='module')
def guarded(location: str) -> Iterator[site_lib.Site]:
  """Its page with a token, of the server view."""
  options = Options(port=0, token=True, server_view=True)
  with site_lib.served(location, options) as served:
    yield served
