# SPDX-License-Identifier: Apache-2.0
"""A page as values: sections of blocks, which templates put into a format."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import TypeAlias

from tff_secagg_ext.report.charts import Chart


@dataclasses.dataclass(frozen=True)
class Text:
  """A paragraph.

  Attributes:
    text: What it says.
    tone: '' for plain; 'red' for what is not private; 'lead' for what is read
      first; 'note' for what is read last.
  """

  text: str
  tone: str = ''
  kind: str = 'text'


@dataclasses.dataclass(frozen=True)
class Items:
  """A list of phrases."""

  items: Sequence[str]
  tone: str = ''
  kind: str = 'items'


@dataclasses.dataclass(frozen=True)
class Figure:
  """One figure with its name, and what it means.

  Attributes:
    name: In plain words.
    value: As it is printed.
    why: One sentence behind a disclosure, with the academic term; may be empty.
    tone: 'red' for what is not private.
  """

  name: str
  value: str
  why: str = ''
  tone: str = ''


@dataclasses.dataclass(frozen=True)
class Figures:
  """Figures, one below the other."""

  figures: Sequence[Figure]
  kind: str = 'figures'


@dataclasses.dataclass(frozen=True)
class Table:
  """A table.

  Attributes:
    caption: What it is of.
    header: Names of the columns.
    rows: Cells.
    folded: Whether it is behind a disclosure.
    note: What is to be known of it, such as that rows are left out.
  """

  caption: str
  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  folded: bool = False
  note: str = ''
  kind: str = 'table'


@dataclasses.dataclass(frozen=True)
class Plot:
  """A chart, with its table."""

  chart: Chart
  table: Table
  kind: str = 'plot'


@dataclasses.dataclass(frozen=True)
class Why:
  """An explanation behind a disclosure."""

  question: str
  answer: str
  kind: str = 'why'


@dataclasses.dataclass(frozen=True)
class Blank:
  """What a person must decide: a line to write on."""

  question: str
  kind: str = 'blank'


Block: TypeAlias = Text | Items | Figures | Table | Plot | Why | Blank


@dataclasses.dataclass(frozen=True)
class Section:
  """Blocks under a title.

  Attributes:
    anchor: What links name.
    title: What is printed.
    blocks: In their order.
  """

  anchor: str
  title: str
  blocks: Sequence[Block]


@dataclasses.dataclass(frozen=True)
class Question:
  """A question of a reader, with a short answer and where the long one is."""

  question: str
  answer: str
  anchor: str


@dataclasses.dataclass(frozen=True)
class Document:
  """A page.

  Attributes:
    title: Of the page.
    audience: For whom it is.
    run: The name of the run, as it is shown.
    level: Of the verdict, by which the banner is coloured.
    headline: The verdict in two or three words.
    banner: What is said below it, the most important first.
    questions: Links to the answers.
    sections: All that follows.
    footer: One line.
  """

  title: str
  audience: str
  run: str
  level: str
  headline: str
  banner: Sequence[Block]
  questions: Sequence[Question]
  sections: Sequence[Section]
  footer: str
