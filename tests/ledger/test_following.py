# SPDX-License-Identifier: Apache-2.0
"""How far a run is: in both databases, while others write it and afterwards."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.ledger import conftest
from tests.ledger import test_ledger as shared
from tests.ledger.test_writers import ELSEWHERE
from tff_secagg_ext.ledger import UnknownRunError
from tff_secagg_ext.ledger.ledger import Ledger


def test_progress_counts_what_is_there(location: str) -> None:
  with Ledger.open(location) as ledger:
    shared.open_run(ledger)
    begun = ledger.progress('mine')
    assert (begun.entries, begun.audits, begun.writing) == (0, 0, True)
    other = ledger.open_run('other', {}, delta=shared.DELTA)
    other.commit(other.reserve(shared.ROUND), shared.ROUND, {})
    assert ledger.progress('mine') == begun
    run = shared.open_run(ledger)
    run.commit(run.reserve(shared.ROUND), shared.ROUND, {})
    run.reserve(shared.ROUND)
    ledger.record_audit('mine', 'utility', {'accuracy': 0.9})
    found = ledger.progress('mine')
    assert (found.entries, found.audits) == (3, 1)
    assert found.sessions > begun.sessions
    assert len(ledger.entries('mine')) == found.entries


def test_progress_of_a_run_that_is_not_there_names_the_nearest(
  location: str,
) -> None:
  with Ledger.open(location) as ledger:
    shared.open_run(ledger)
    with pytest.raises(UnknownRunError, match="The nearest is 'mine'"):
      ledger.progress('mien')


@pytest.mark.parametrize('kind', ['sqlite', 'postgresql'])
def test_progress_knows_whether_a_writer_of_another_host_is_connected(
  kind: str, new_location: conftest.NewLocation
) -> None:
  location = new_location(kind)
  process = subprocess.Popen(
    [sys.executable, '-c', ELSEWHERE, location],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout is not None
  assert process.stdout.readline() == 'reserved\n'
  with Ledger.open(location) as ledger:
    found = ledger.progress('mine')
    assert found.entries == 1
    assert found.writing is (True if kind == 'postgresql' else None)
    process.kill()
    process.communicate()
    end = time.monotonic() + 20.0
    while ledger.progress('mine').writing and time.monotonic() < end:
      time.sleep(0.02)
    # It was of another host, where nobody can look for it.
    assert ledger.progress('mine').writing is None
