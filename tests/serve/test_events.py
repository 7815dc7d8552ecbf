# SPDX-License-Identifier: Apache-2.0
"""Pages follow runs that another process writes."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import http.client
import json
import time
from typing import Any
import urllib.parse

import pytest

from tests.ledger.conftest import (
  PARAMS,
  NewLocation,
  new_location,
  postgresql,
)
from tests.report import ledgers
from tests.serve.site import Site, served
from tff_secagg_ext.ledger import Ledger
from tff_secagg_ext.serve import events

__all__ = ['new_location', 'postgresql']

RECIPE = ledgers.with_(ledgers.GOOD, name='mine', epsilon=None)


@pytest.fixture(params=PARAMS)
def written(request: pytest.FixtureRequest, new_location: NewLocation) -> str:
  """Where a ledger is that is written while it is shown."""
  return new_location(request.param)


@contextlib.contextmanager
def stream(site: Site, name: str = '') -> Iterator[Iterator[dict[str, Any]]]:
  """Yields what a page is told."""
  connection = http.client.HTTPConnection('127.0.0.1', site.port, timeout=60)
  connection.request('GET', f'/events?{urllib.parse.urlencode({"name": name})}')
  answer = connection.getresponse()
  assert answer.status == 200

  def told() -> Iterator[dict[str, Any]]:
    for line in answer:
      if line.startswith(b'data: '):
        yield json.loads(line[6:])

  try:
    yield told()
  finally:
    connection.close()
    answer.close()


def test_a_run_is_followed(written: str) -> None:
  """On both databases, while it is written."""
  with Ledger.open(written) as ledger:
    run = ledger.open_run('mine', RECIPE.settings, delta=ledgers.DELTA)
    charge = RECIPE.charge(200)
    with served(written) as site, stream(site, 'mine') as told:
      # The first time its whole chain is checked.
      assert any('Between rounds' in event['now'] for event in told)
      for number in range(1, 4):
        attempt = run.reserve(charge)
        assert any('A round is running' in event['now'] for event in told)
        run.commit(attempt, charge, RECIPE.measurements(number, 200))
        row = f'<th scope="row">{number}</th><td>committed</td>'
        assert any(row in event['now'] for event in told)


def test_the_list_is_told_of_new_runs(written: str) -> None:
  with Ledger.open(written) as ledger:
    ledger.open_run('first', RECIPE.settings, delta=ledgers.DELTA)
    with served(written) as site, stream(site) as told:
      versions = {next(told)['version']}
      ledger.open_run('second', RECIPE.settings, delta=ledgers.DELTA)
      while len(versions) < 3:
        versions.add(next(told)['version'])


def test_pages_that_are_followed_are_limited_and_given_back(
  site: Site,
) -> None:
  with contextlib.ExitStack() as stack:
    for _ in range(events.MOST):
      next(stack.enter_context(stream(site)))
    answer = site.ask('/events')
    assert answer.status == 503
    assert answer.headers['retry-after'] == '5'
    assert 'Close one' in answer.text
    assert site.ask('/').status == 200
  end = time.monotonic() + 10
  while site.server.site.streams._free < events.MOST:
    assert time.monotonic() < end
    time.sleep(0.05)


def test_a_run_that_is_not_there_is_not_followed(site: Site) -> None:
  answer = site.ask('/events?name=nobody')
  assert answer.status == 404
