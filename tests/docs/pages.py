# SPDX-License-Identifier: Apache-2.0
"""What the pages of docs/ have in fences."""

from __future__ import annotations

import dataclasses
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / 'docs'
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob('*.md'))
_FENCE = re.compile(
  r'^```(?P<language>\w*)(?: title=")?(?P<title>[^"\n]*)"?\n(?P<text>.*?)^```$',
  re.MULTILINE | re.DOTALL,
)
_HEADING = re.compile(r'^## (.*)$', re.MULTILINE)
# What goes on in the next line, and what only shows where it is typed.
_CONTINUED = re.compile(r'\\\n\s*')
_PROGRAM = 'tff-secagg '


@dataclasses.dataclass(frozen=True)
class Block:
  """A fence: its section, its language, its title and what is in it."""

  section: str
  language: str
  title: str
  text: str


def read(page: str) -> str:
  return (DOCS / page).read_text()


def blocks(page: str) -> list[Block]:
  text = read(page)
  found = []
  for match in _FENCE.finditer(text):
    headings = _HEADING.findall(text[: match.start()])
    section = headings[-1] if headings else ''
    found.append(Block(section, *match.group('language', 'title', 'text')))
  # No fence is of a form that the pattern passes over.
  assert 2 * len(found) == len(re.findall(r'^```', text, re.MULTILINE))
  return found


def python(page: str) -> list[Block]:
  return [block for block in blocks(page) if block.language == 'python']


def commands(page: str) -> list[str]:
  """Our own commands, without a prompt."""
  lines = [
    line.removeprefix('$ ')
    for block in blocks(page)
    if block.language in ('', 'bash')
    for line in _CONTINUED.sub('', block.text).splitlines()
  ]
  return [line for line in lines if line.startswith(_PROGRAM)]
