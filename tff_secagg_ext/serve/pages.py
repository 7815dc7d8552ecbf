# SPDX-License-Identifier: Apache-2.0
"""The pages, as HTML by templates: those of the report, in a frame."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import difflib
import importlib.resources
from typing import Any
import urllib.parse

from tff_secagg_ext.ledger import Standing
from tff_secagg_ext.report import panels, plots, render, verdicts, words
from tff_secagg_ext.report.card import figures
from tff_secagg_ext.report.document import Block, Figure, Figures, Section
from tff_secagg_ext.report.facts import RunFacts
from tff_secagg_ext.serve import whatif
from tff_secagg_ext.serve.library import Judged, Library, Summary

# The newest attempts that a page shows.
_SHOWN = 8
_NEAR = 5
# All files that are served: what a browser asks for names none on the disk.
FILES = {
  'report.css': ('tff_secagg_ext.report', 'templates/style.css', 'text/css'),
  'serve.css': ('tff_secagg_ext.serve', 'static/serve.css', 'text/css'),
  'serve.js': ('tff_secagg_ext.serve', 'static/serve.js', 'text/javascript'),
}


@dataclasses.dataclass(frozen=True)
class Row:
  """A run in the list of all.

  Attributes:
    standing: How far it is.
    summary: What is said of it; `None` if it is still being read.
    current: Whether the summary is of its newest state.
  """

  standing: Standing
  summary: Summary | None
  current: bool


def file(name: str) -> tuple[bytes, str] | None:
  """Returns a file that comes with the package, and its type."""
  found = FILES.get(name)
  if found is None:
    return None
  package, path, kind = found
  resource = importlib.resources.files(package).joinpath(path)
  return resource.read_bytes(), kind


class Pages:
  """Makes the pages of a library."""

  def __init__(self, library: Library):
    """Takes the library whose view the pages are of."""
    self._library = library

  def runs(self) -> str:
    """Returns the list of all runs, newest first."""
    library = self._library
    # Of before the rows: they are never older than it says.
    version = library.version_of_all()
    rows = []
    for standing in reversed(library.standings()):
      summary = library.summary(standing)
      current = summary is not None and (
        summary.version == library.version(standing)
      )
      rows.append(Row(standing, summary, current))
    return self._page(
      'runs.html.j2',
      rows=rows,
      version=version,
      explained=verdicts.EXPLAINED,
      events='/events',
    )

  def run(self, standing: Standing, judged: Judged | None) -> str:
    """Returns the page of a run; of one that is being read, its beginning."""
    others = [
      other.name
      for other in reversed(self._library.standings())
      if other.name != standing.name
    ]
    return self._page(
      'run.html.j2',
      name=standing.name,
      judged=judged,
      writing=standing.progress.writing,
      now=None if judged is None else self.now(standing, judged.facts),
      others=others[:_SHOWN],
      events=f'/events?{query(name=standing.name)}',
    )

  def now(self, standing: Standing, facts: RunFacts) -> str:
    """Returns what changes with every attempt: figures, a chart, attempts."""
    blocks: list[Block] = [
      Figures(
        [
          Figure(name, value, tone='red' if value.startswith('∞') else '')
          for name, value in figures(facts)
        ]
      )
    ]
    if facts.fault is None and len(facts.series):
      blocks.append(plots.with_table(panels.epsilon(facts)))
      blocks.append(panels.newest(facts, _SHOWN))
    return self._render(
      'now.html.j2',
      activity=verdicts.activity(facts, standing.progress.writing),
      writing=standing.progress.writing,
      shown=blocks if facts.fault is None else [],
    )

  def comparison(
    self, names: Sequence[str], sections: Sequence[Section] | None
  ) -> str:
    """Returns runs beside one another; `None` while they are being read."""
    return self._page('compare.html.j2', names=names, sections=sections)

  def budgets(self, sections: Sequence[Section], pending: int) -> str:
    """Returns what is left of budgets."""
    return self._page('budgets.html.j2', sections=sections, pending=pending)

  def what_if(self, asked: whatif.Asked, answer: whatif.Answer | None) -> str:
    """Returns sliders, and what they stand for; `None` while that is found."""
    return self._page(
      'whatif.html.j2',
      asked=asked,
      sliders=whatif.sliders(asked),
      answer=None if answer is None else self.answer(answer),
    )

  def answer(self, answer: whatif.Answer) -> str:
    """Returns what a run would cost."""
    return self._render('answer.html.j2', answer=answer)

  def error(
    self,
    title: str,
    text: str,
    near: Sequence[str] = (),
    *,
    plain: bool = False,
  ) -> str:
    """Returns why there is no page.

    Args:
      title: A few words.
      text: Found, expected, remedy.
      near: Runs that may have been meant.
      plain: Whether to leave out the links to other pages.
    """
    return self._page(
      'error.html.j2', heading=title, text=text, near=near, plain=plain
    )

  def unknown(self, name: str) -> str:
    """Returns that there is no run of a name, and those of nearly that name."""
    names = [standing.name for standing in self._library.standings()]
    near = difflib.get_close_matches(name, names, _NEAR, 0.3)
    return self.error(
      'No such run',
      f'The ledger has no run {words.shown(name)!r}.',
      near or names[: -_NEAR - 1 : -1],
    )

  def _page(self, template: str, **values: Any) -> str:
    view = 'server' if self._library.server_view else 'release'
    return self._render(template, **{'events': '', **values}, view=view)

  def _render(self, template: str, **values: Any) -> str:
    environment = render.environment('tff_secagg_ext.serve')
    return environment.get_template(template).render(
      for_paper=False, minute=minute, query=query, words=words, **values
    )


def minute(when: str) -> str:
  """Returns a time of the ledger, UTC, to the minute."""
  return f'{words.shown(when)[:16].replace("T", " ")} UTC'


def query(**values: str) -> str:
  """Returns a query of a URL."""
  return urllib.parse.urlencode(values)
