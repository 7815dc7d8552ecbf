# SPDX-License-Identifier: Apache-2.0
"""Reports in a browser: for everybody, on any screen, on paper, by keyboard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import pathlib
from typing import TYPE_CHECKING, Any

import pytest

from tests import browser as browser_lib
from tests.report import ledgers
from tff_secagg_ext import report
from tff_secagg_ext.ledger import Ledger

if TYPE_CHECKING:
  from playwright.sync_api import Browser, Page

RUNS = (
  ledgers.GOOD,
  ledgers.OVER,
  ledgers.EXACT_METRICS,
  ledgers.DROPOUTS,
)
BY_NAME = pytest.mark.parametrize('name', [recipe.name for recipe in RUNS])
OPEN_SOME = """
  document.querySelectorAll('details.why, section > details.data').forEach(
    folded => folded.open = true)
  document.querySelector('figure > details')?.setAttribute('open', '')
"""
OPEN_ALL = 'document.querySelectorAll("details").forEach(d => d.open = true)'
NARROW = {'width': 375, 'height': 800}
WINDOW = {'width': 1000, 'height': 800}

Opened = Callable[..., contextlib.AbstractContextManager['Page']]


@pytest.fixture(scope='module')
def files(
  ledger: Ledger, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, pathlib.Path]:
  """The reports, and the statement of the good run, by name."""
  folder = tmp_path_factory.mktemp('pages')
  documents = {}
  for recipe in RUNS:
    facts = report.read(ledger, recipe.name, server_view=True)
    documents[recipe.name] = report.report(facts)
    if recipe is ledgers.GOOD:
      documents['statement'] = report.statement(facts)
  made = {name: folder / f'{name}.html' for name in documents}
  for name, path in made.items():
    path.write_text(report.to_html(documents[name]))
  return made


@pytest.fixture
def opened(browser: Browser, files: dict[str, pathlib.Path]) -> Opened:
  """Opens the report of a run, in a context of its own."""

  @contextlib.contextmanager
  def open_(name: str, **options: Any) -> Iterator[Page]:
    with contextlib.closing(
      browser.new_context(bypass_csp=True, reduced_motion='reduce', **options)
    ) as context:
      page = context.new_page()
      page.set_default_timeout(browser_lib.MILLISECONDS)
      page.goto(files[name].as_uri())
      yield page

  return open_


@pytest.mark.parametrize('name', [*(r.name for r in RUNS), 'statement'])
def test_axe_finds_nothing_wrong(opened: Opened, name: str) -> None:
  """In light and dark, with all open but the tables of charts after the first.

  Those are made alike, and axe looks at each cell.
  """
  with opened(name, color_scheme='light') as page:
    page.evaluate(OPEN_SOME)
    found = browser_lib.violations(page)
    page.emulate_media(color_scheme='dark')
    found += browser_lib.violations(page)
  assert found == []


@BY_NAME
def test_a_phone_is_never_scrolled_sideways(opened: Opened, name: str) -> None:
  with opened(name, viewport=NARROW) as page:
    assert not browser_lib.scrolls_sideways(page)
    page.evaluate(OPEN_ALL)
    assert not browser_lib.scrolls_sideways(page)


def test_everything_is_reached_and_opened_by_keyboard(opened: Opened) -> None:
  with opened(ledgers.DROPOUTS.name) as page:
    focused = 'document.activeElement.'
    opens = page.locator('summary').count()
    links = page.locator('a').count()
    reached = {'SUMMARY': 0, 'A': 0}
    assert opens > 30
    page.keyboard.press('Tab')
    assert page.evaluate(f'{focused}textContent') == 'To the verdict'
    while (tag := page.evaluate(f'{focused}tagName')) != 'BODY':
      if tag in reached:
        reached[tag] += 1
      if tag == 'SUMMARY':
        page.keyboard.press('Enter')
        assert page.evaluate(f'{focused}parentElement.open')
        shown = f'{focused}nextElementSibling.getBoundingClientRect().height'
        assert page.evaluate(shown) > 0
      page.keyboard.press('Tab')
    assert reached == {'SUMMARY': opens, 'A': links}


@BY_NAME
def test_paper_has_what_is_folded_on_the_screen(
  opened: Opened, name: str
) -> None:
  """Tables of charts are left out, and it says where they are."""
  with opened(name) as page:
    page.emulate_media(media='print')
    for folded in page.locator('main details').all():
      content = folded.locator(':scope > :not(summary)').first
      of_chart = folded.evaluate('e => e.parentElement.tagName === "FIGURE"')
      assert content.is_visible() != of_chart
    left_out = page.get_by_text('The tables of the charts are left out here')
    assert left_out.is_visible()
    page.emulate_media(media='screen')
    assert left_out.is_hidden()


# The question; what is read beside it; and what is in view after a click on it,
# or after one more on the disclosure of this name.
ANSWERS = (
  ('Is it private?', 'Private', 'tells little about any one client', ''),
  (
    'Against whom?',
    'readers of the models',
    'whoever sees the models, and took no part',
    '',
  ),
  (
    'What did it spend, and what does ε mean?',
    'ε 0.6243',
    'guesses right at most',
    'What does ε mean?',
  ),
  (
    'How many more rounds can I afford?',
    '86',
    'so many rounds like the newest',
    'more rounds it admits',
  ),
  (
    'Who saw un-noised numbers?',
    'nobody',
    'All that leaves the clients is in a noised sum',
    '',
  ),
  (
    'What happens if 40 % drop out?',
    'ε 0.6243',
    'Then 120 of 200 clients are left',
    '',
  ),
  (
    'What does it cost in bytes and time?',
    'times',
    'published, 2¹⁰ clients',
    '',
  ),
  (
    'What did privacy cost in accuracy?',
    'accuracy 0.9',
    '0.9',
    '',
  ),
  (
    'Did anybody try to break it?',
    '3 audits',
    'at least (audited)',
    '',
  ),
  (
    'What do the figures rest on?',
    'assumptions',
    'amplification by sampling',
    'how cohorts are chosen',
  ),
  (
    'Was the record altered?',
    'no',
    'Keep it where nobody can write',
    'head of the chain',
  ),
)


@pytest.mark.parametrize(
  ('question', 'answer', 'explained', 'disclosure'), ANSWERS
)
def test_a_question_is_answered_within_two_clicks(
  opened: Opened, question: str, answer: str, explained: str, disclosure: str
) -> None:
  with opened(ledgers.GOOD.name, viewport=WINDOW) as page:
    link = page.get_by_role('link', name=question, exact=True)
    assert answer in link.locator('xpath=..').inner_text()
    link.click()
    anchor = page.url.partition('#')[2]
    section = page.locator(f'section#{anchor}')
    assert section.bounding_box()['y'] < WINDOW['height'] / 2
    if disclosure:
      summary = section.locator('summary').filter(has_text=disclosure)
      assert section.get_by_text(explained).is_hidden()
      summary.click()
    assert section.get_by_text(explained).first.is_visible()


def test_there_are_no_other_questions(opened: Opened) -> None:
  with opened(ledgers.GOOD.name) as page:
    asked = page.locator('.questions a').all_inner_texts()
  assert asked == [question for question, *_ in ANSWERS]
  assert len(asked) >= 10
