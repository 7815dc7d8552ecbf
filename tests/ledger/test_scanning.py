# SPDX-License-Identifier: Apache-2.0
"""A run that is read in batches is the run that is read whole."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest

from tests.ledger import test_chain
from tests.ledger import test_ledger as shared
from tff_secagg_ext import accounting
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.ledger import chain, rows, scanning, schema
from tff_secagg_ext.ledger.ledger import Ledger

SCALARS = st.one_of(
  st.none(),
  st.booleans(),
  st.integers(),
  st.floats(allow_nan=False, allow_infinity=False),
  st.text(),
)


def taken(ledger: Ledger) -> tuple[chain.Head, list[Any], list[Any]]:
  """Returns the head of a run, its rows, and its records."""
  found: list[tuple[rows.Row, chain.Record]] = []
  with ledger.scan('mine') as scan:
    head = scan.read(lambda row, record: found.append((row, record)))
  return head, [row for row, _ in found], [record for _, record in found]


def test_batches_are_the_run(
  location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(scanning, '_BATCH', 4)
  with Ledger.open(location) as ledger:
    shared.open_run(ledger)
    assert taken(ledger) == (ledger.verify('mine'), [], [])
    test_chain.write(ledger)
    ledger.record_audit('mine', 'utility', {'accuracy': 0.5})
    head, found, parsed = taken(ledger)
    whole = ledger.snapshot('mine')
  assert head == whole.chain.head()
  assert len(found) == test_chain.ENTRIES
  assert found == list(whole.entries)
  assert parsed == list(whole.chain.entries)


def test_a_run_is_read_as_it_was_at_one_moment(location: str) -> None:
  with Ledger.open(location) as ledger:
    test_chain.write(ledger)
    counted = []
    with ledger.scan('mine') as scan:
      run = shared.open_run(ledger)
      run.commit(run.reserve(shared.ROUND), shared.ROUND, {})
      scan.read(lambda row, record: counted.append(row['sequence']))
    assert counted == list(range(1, test_chain.ENTRIES + 1))
    assert taken(ledger)[0].entries == test_chain.ENTRIES + 2


@pytest.mark.parametrize(
  ('statement', 'expected'),
  [
    ("UPDATE audits SET figures = '{}'", 'audit 1 was altered'),
    ('DELETE FROM entries WHERE sequence > 7', 'entry 8 is missing'),
    ('DELETE FROM audits WHERE number = 1', 'audit 1 is missing'),
  ],
)
def test_audits_must_fit_what_was_read(
  location: str, statement: str, expected: str
) -> None:
  with Ledger.open(location) as ledger:
    test_chain.write(ledger)
    for accuracy in (0.5, 0.6):
      ledger.record_audit('mine', 'utility', {'accuracy': accuracy})
  test_chain.forge(location, statement)
  with (
    Ledger.open(location) as ledger,
    pytest.raises(ledger_lib.BrokenChainError, match=expected),
  ):
    taken(ledger)


@given(
  charge=st.sampled_from([shared.ROUND, shared.WEAKER, shared.EXACT]),
  measurements=st.dictionaries(st.text(), SCALARS, max_size=4),
  note=st.text(max_size=20),
  epsilons=st.tuples(*2 * [st.floats(0.0) | st.just(math.inf)]),
  protocol=st.none()
  | st.fixed_dictionaries(
    {'threat': st.text()},
    optional={'verified': st.booleans(), 'clients': st.integers()},
  ),
)
def test_the_hash_of_texts_is_the_hash_of_the_record(
  charge: accounting.Round,
  measurements: dict[str, Any],
  note: str,
  epsilons: tuple[float, float],
  protocol: dict[str, Any] | None,
) -> None:
  release, server = map(accounting.Epsilon, epsilons)
  entry = ledger_lib.Entry(
    3,
    7,
    ledger_lib.Attempt(2, 1),
    'committed',
    charge,
    measurements,
    note,
    release,
    server,
    '2026-01-01',
    protocol,
  )
  row = {
    **rows.to_row(entry, run_id=1),
    'salt': chain.new_salt(),
    'previous': 64 * '0',
    'hash': '',
  }
  record = rows.entry_record(row, 64 * '1')
  expected = chain.hash_of(record)
  assert scanning.hash_of_texts(row, record) == expected
  for name in rows.ENTRY_JSON:
    # Says the same by another text: slower to be checked, and as written.
    other = {**row, name: f' {row[name]}' if row[name] else None}
    again = rows.entry_record(other, 64 * '1')
    assert chain.hash_of(again) == expected
    assert row[name] is None or (
      scanning.hash_of_texts(other, again) != expected
    )
    broken = {**row, name: '{'}
    assert (
      scanning.hash_of_texts(broken, rows.entry_record(broken, 64 * '1'))
      is None
    )


def test_texts_that_are_not_canonical_are_as_written(location: str) -> None:
  """As in ledgers that other versions have written."""
  with Ledger.open(location) as ledger:
    test_chain.write(ledger)
    head = ledger.verify('mine')
  test_chain.forge(
    location,
    "UPDATE entries SET measurements = REPLACE(measurements, ':', ' : ')",
    "UPDATE entries SET protocol = REPLACE(protocol, ',', ' , ')",
  )
  with Ledger.open(location) as ledger:
    assert taken(ledger)[0] == ledger.verify('mine') == head


def test_columns_cannot_trade_what_they_say() -> None:
  """A string that ends its column's value in the text is another text."""
  parts = {'kind': 'lost","x":"', 'note': '"é\ud800'}
  row = {
    **dict.fromkeys(schema.entries.columns.keys(), 'a'),
    **dict.fromkeys(rows.ENTRY_JSON, '{}'),
    'round': 1,
    'attempt': 1,
    'sequence': 1,
    **parts,
  }
  record = rows.entry_record(row, 64 * '1')
  assert scanning.hash_of_texts(row, record) == chain.hash_of(record)


def test_a_run_that_is_not_there_is_not_scanned(location: str) -> None:
  with Ledger.open(location) as ledger:
    shared.open_run(ledger)
    with (
      pytest.raises(ledger_lib.UnknownRunError, match="nearest is 'mine'"),
      ledger.scan('mien'),
    ):
      raise AssertionError('It is scanned.')
