# SPDX-License-Identifier: Apache-2.0
"""The page's examples run, and its reference values are those of the tests."""

from __future__ import annotations

import pathlib
import re

import pytest

from tff_secagg_ext.audit import one_run

_PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'audit.md'
_ROW = re.compile(
  r'\| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| (\S+) \| ([\d.]+) \|'
)


def test_examples_of_the_page() -> None:
  blocks = re.findall(r'```python\n(.*?)```', _PAGE.read_text(), re.DOTALL)
  assert blocks
  for block in blocks:
    exec(compile(block, str(_PAGE), 'exec'), {})


def test_table_of_one_run() -> None:
  rows = _ROW.findall(_PAGE.read_text())
  assert len(rows) == 5
  for *counts, delta, epsilon in rows:
    guesses = one_run.Guesses(*(int(n.replace(',', '')) for n in counts))
    found = one_run.epsilon_lower_bound(
      guesses, float(delta.replace('10^', '1e'))
    )
    assert found == pytest.approx(float(epsilon), abs=6e-5)
