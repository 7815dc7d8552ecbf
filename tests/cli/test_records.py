# SPDX-License-Identifier: Apache-2.0
"""Figures of commands become audits, once each."""

from __future__ import annotations

import math
import pathlib

import pytest

from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.cli import records
from tff_secagg_ext.ledger import Ledger


def test_utility_is_recorded_when_it_is_new(tmp_path: pathlib.Path) -> None:
  location = str(tmp_path / 'runs.db')
  with Ledger.open(location) as ledger:
    ledger.open_run('mine', {}, delta=0.1)
  for rounds, accuracy in ((0, 0.1), (1, 0.5), (1, 0.5), (2, 0.5), (1, 0.5)):
    figures = {'accuracy': accuracy, 'loss': math.nan}
    records.utility(location, 'mine', rounds, figures)
  with Ledger.open(location) as ledger:
    found = [audit.figures for audit in ledger.audits('mine')]
  assert found == [
    {'accuracy': 0.5, 'loss': None, 'rounds': rounds} for rounds in (1, 2, 1)
  ]
  with pytest.raises(ledger_lib.UnknownRunError, match="no run 'other'"):
    records.utility(location, 'other', 1, {})
