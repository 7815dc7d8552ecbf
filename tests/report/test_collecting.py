# SPDX-License-Identifier: Apache-2.0
"""What is collected of entries, against all of them at hand."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from tests.ledger import test_chain
from tests.oracles import attempts as naive
from tests.report import ledgers
from tff_secagg_ext import accounting, report
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.ledger import BrokenChainError, Ledger, rows
from tff_secagg_ext.report.collecting import Collector, together

CHARGES = [
  ledgers.GOOD.charge(200),
  ledgers.DROPOUTS.charge(180),
  ledgers.EXACT_METRICS.charge(200),
  accounting.Round((), accounting.NoSampling()),
]
FIGURES = st.one_of(
  st.none(), st.booleans(), st.floats(0, 1e6), st.just('Infinity')
)
COUNTS = st.dictionaries(
  st.sampled_from(['invite', 'mask', 'unmask']), st.integers(0, 99)
)
PROTOCOLS = st.none() | st.fixed_dictionaries(
  {'threat': st.just('curious')},
  optional={
    'clients': st.integers(1, 99),
    'survivors': st.integers(0, 99),
    'dropouts': COUNTS,
    'verified': st.none() | st.booleans(),
    'seconds': FIGURES,
    'upload_bytes': FIGURES,
  },
)
MEASUREMENTS = st.fixed_dictionaries(
  {},
  optional=dict.fromkeys(
    ('clip_norm', 'l2_clip', 'zeroing_threshold', 'aborted'), FIGURES
  )
  | {'contributors': st.integers(0, 99)},
)
EPSILONS = st.sampled_from([0.0, 0.5, math.inf])


@st.composite
def histories(draw: st.DrawFn) -> list[ledger_lib.Entry]:
  """Entries of a run: attempts that are reserved, and settled in any order."""
  found: list[ledger_lib.Entry] = []
  still_open: list[ledger_lib.Attempt] = []
  begun: dict[int, int] = {}
  for number in range(1, draw(st.integers(0, 12)) + 1):
    protocol, measured, note = None, {}, ''
    kind = draw(st.sampled_from(['reserved', 'committed', 'lost']))
    if not still_open:
      kind = 'reserved'
    if kind == 'reserved':
      at = draw(st.integers(1, 4))
      begun[at] = begun.get(at, 0) + 1
      attempt = ledger_lib.Attempt(at, begun[at])
      still_open.append(attempt)
    else:
      attempt = still_open.pop(draw(st.integers(0, len(still_open) - 1)))
      protocol = draw(PROTOCOLS)
      note = draw(st.sampled_from(['killed', 'lost'])) if kind == 'lost' else ''
      measured = draw(MEASUREMENTS) if kind == 'committed' else {}
    found.append(
      ledger_lib.Entry(
        number,
        1,
        attempt,
        kind,
        draw(st.sampled_from(CHARGES)),
        measured,
        note,
        accounting.Epsilon(draw(EPSILONS)),
        accounting.Epsilon(draw(EPSILONS)),
        '2026-01-01',
        protocol,
      )
    )
  return found


def collected(entries: list[ledger_lib.Entry], server_view: bool) -> Collector:
  collector = Collector(server_view)
  for entry in entries:
    row = rows.to_row(entry, run_id=1)
    collector.take(row, rows.entry_record(row, None))
  return collector


@given(histories(), st.booleans())
def test_series_are_those_of_the_newest_entries(
  entries: list[ledger_lib.Entry], server_view: bool
) -> None:
  found = collected(entries, server_view)
  series = found.series()
  assert len(series) == len(found)
  told: dict[str, Any] = {
    **{f'dropouts.{step}': v for step, v in series.dropouts.items()},
    **{
      field.name: getattr(series, field.name)
      for field in dataclasses.fields(series)
      if field.name not in ('dropouts', 'release_noise', 'server_noise')
    },
  }
  expected = naive.figures(entries, server_view)
  assert told.keys() == expected.keys()
  for name, values in expected.items():
    np.testing.assert_array_equal(told[name], values, err_msg=name)
  assert list(found.charges()) == naive.charges(entries)
  assert found.entries == len(entries)
  assert found.notes == {
    note: sum(e.note == note for e in entries)
    for note in {e.note for e in entries} - {''}
  }


@given(histories())
def test_what_a_budget_counts_of_open_attempts_is_its_worst(
  entries: list[ledger_lib.Entry],
) -> None:
  budget = accounting.Budget(1.0, 1e-5, headroom=True)
  known = naive.newest(entries)
  counted = collected(entries, False).charges_of_budget(budget)
  assert counted == together(
    [
      [(budget.at_most(e.charge) if e.kind == 'reserved' else e.charge, 1)]
      for e in known
    ]
  )
  assert sum(count for _, count in counted) == len(known)


class Shared(ledgers.Recipe):
  @property
  def settings(self) -> dict[str, Any]:
    return {**super().settings, 'population_name': 'people'}


def test_what_others_spend_of_a_budget_is_read_from_whole_runs_alone(
  tmp_path: pathlib.Path,
) -> None:
  location = f'sqlite:///{tmp_path / "runs.db"}'
  others = [
    Shared('second', rounds=3, audited=False),
    Shared('third', rounds=2, noise=4.0, audited=False),
  ]
  ledgers.write(location, Shared('first', rounds=1, audited=False), *others)
  with Ledger.open(location) as ledger:
    budget = report.read(ledger, 'first').budget
  assert budget is not None
  assert budget.others == ('second', 'third')
  assert [n for _, n in budget.charges] == [3, 2]
  test_chain.forge(location, "UPDATE entries SET note = 'x' WHERE run_id = 3")
  with (
    Ledger.open(location) as ledger,
    pytest.raises(BrokenChainError, match="run 'third' is broken: entry 1"),
  ):
    report.read(ledger, 'first')
