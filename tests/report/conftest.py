# SPDX-License-Identifier: Apache-2.0
"""One ledger with all the runs that there are to look at."""

from __future__ import annotations

from collections.abc import Iterator
import pathlib

import pytest

from tests.report import ledgers
from tff_secagg_ext.ledger import Ledger


@pytest.fixture(scope='session')
def location(tmp_path_factory: pytest.TempPathFactory) -> str:
  """Where the ledger is."""
  path: pathlib.Path = tmp_path_factory.mktemp('report') / 'runs.db'
  ledgers.write(f'sqlite:///{path}')
  return f'sqlite:///{path}'


@pytest.fixture(scope='session')
def ledger(location: str) -> Iterator[Ledger]:
  """The ledger, open."""
  with Ledger.open(location, create=False) as opened:
    yield opened
