# SPDX-License-Identifier: Apache-2.0
"""The page's examples run."""

from __future__ import annotations

import pathlib
import re

_PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'accounting.md'


def test_examples_of_the_page() -> None:
  blocks = re.findall(r'```python\n(.*?)```', _PAGE.read_text(), re.DOTALL)
  assert blocks
  for block in blocks:
    exec(compile(block, str(_PAGE), 'exec'), {})
