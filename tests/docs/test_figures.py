# SPDX-License-Identifier: Apache-2.0
"""The figures of the docs: made by their script, and told in words."""

from __future__ import annotations

import pathlib
import re
from xml.etree import ElementTree

import pytest

from benchmarks import figures

NUMBERS = re.compile(r'-?\d+\.?\d*')
# On another machine a coordinate may be rounded to the next tenth of a pixel.
PIXELS = 0.11


@pytest.fixture(scope='module')
def made() -> dict[str, str]:
  return dict(figures.figures())


def test_figures_are_those_of_the_script(made: dict[str, str]) -> None:
  folder = figures.DOCS / 'figures'
  assert {path.name for path in folder.iterdir()} == set(made)
  for name, text in made.items():
    kept = (folder / name).read_text()
    assert NUMBERS.sub('#', kept) == NUMBERS.sub('#', text), name
    assert list(map(float, NUMBERS.findall(kept))) == pytest.approx(
      list(map(float, NUMBERS.findall(text))), abs=PIXELS
    ), f'Make it anew: python -m benchmarks.figures ({name})'


def test_figures_stand_alone_in_light_and_dark(made: dict[str, str]) -> None:
  for text in made.values():
    root = ElementTree.fromstring(text)
    inside = {element.tag.rpartition('}')[2] for element in root.iter()}
    assert {'title', 'desc', 'style'} <= inside
    assert not inside & {'script', 'image', 'a', 'use'}
    assert 'prefers-color-scheme: dark' in text


def test_every_figure_is_shown_with_words() -> None:
  shown: dict[str, str] = {}
  for page in pathlib.Path(figures.DOCS).rglob('*.md'):
    for words, name in re.findall(
      r'!\[([^\]]*)\]\(figures/([^)]+)\)', page.read_text()
    ):
      shown[name] = words
  assert set(shown) == {
    path.name for path in (figures.DOCS / 'figures').iterdir()
  }
  assert min(map(len, shown.values())) > 40
