# SPDX-License-Identifier: Apache-2.0
"""The page in a browser: clicks, keys, what is followed, and who can use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import pathlib
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests import browser as browser_lib
from tests.report import ledgers
from tests.serve.conftest import MARKUP
from tests.serve.site import Site, served
from tff_secagg_ext.serve.server import Options

if TYPE_CHECKING:
  from playwright.sync_api import Browser, Page

ROOT = pathlib.Path(__file__).parents[2]
GOOD, DROPOUTS = ledgers.GOOD.name, ledgers.DROPOUTS.name
EVERY_PAGE = (
  '/',
  f'/run?name={GOOD}',
  f'/run?name={ledgers.EXACT_METRICS.name}',
  f'/compare?run={GOOD}&run={DROPOUTS}',
  '/budgets',
  f'/what-if?run={GOOD}',
  '/run?name=nobody',
)

NewPage = Callable[..., 'Page']


@pytest.fixture
def new_page(browser: Browser) -> Iterator[NewPage]:
  """Opens pages, each in a context of its own; nothing may go wrong in them."""
  contexts, wrong = [], []

  def new(**options: Any) -> Page:
    context = browser.new_context(**options)
    context.set_default_timeout(browser_lib.MILLISECONDS)
    contexts.append(context)
    page = context.new_page()
    page.on('pageerror', lambda error: wrong.append(str(error)))
    page.on('console', lambda told: wrong.append(told.text))
    return page

  yield new
  for context in contexts:
    context.close()
  # Chromium tells of each answer that is an error: pages that are not there.
  assert not [told for told in wrong if 'status of 4' not in told]


def opened(page: Page, site: Site, path: str) -> Page:
  """Opens a page, and waits until all of it is there."""
  page.goto(site.url + path)
  page.wait_for_selector('main:not(:has(.pending)):not(:has([data-pending]))')
  return page


def test_from_the_list_to_a_run_to_an_answer(
  site: Site, new_page: NewPage
) -> None:
  page = opened(new_page(), site, '/')
  item = page.locator('.run', has_text=DROPOUTS)
  assert item.locator('.said').inner_text() == 'Private'
  item.get_by_role('link', name=DROPOUTS).click()
  page.wait_for_selector('h1')
  assert page.locator('h1').inner_text() == DROPOUTS
  assert page.locator('#verdict h2').inner_text() == 'Private'
  page.get_by_role('link', name='What happens if 40 % drop out?').click()
  assert page.url.endswith('#clients')
  assert page.locator('#clients').is_visible()
  assert 'clients are left' in page.locator('#clients').inner_text()


@pytest.mark.parametrize(
  ('question', 'answered'),
  [
    ('Is it private?', 'This run is private'),
    ('Against whom?', 'coordinator'),
    ('What did it spend, and what does ε mean?', 'rounds released'),
    ('How many more rounds can I afford?', 'more rounds it admits'),
    ('Who saw un-noised numbers?', 'noise'),
    ('What happens if 40 % drop out?', 'clients are left'),
    ('What does it cost in bytes and time?', 'coordinator’s alone'),
    ('What did privacy cost in accuracy?', 'accuracy'),
    ('Did anybody try to break it?', 'audited'),
    ('What do the figures rest on?', 'unit of privacy'),
    ('Was the record altered?', 'head'),
  ],
)
def test_questions_are_answered_in_one_click(
  site: Site, new_page: NewPage, question: str, answered: str
) -> None:
  page = opened(new_page(), site, f'/run?name={GOOD}')
  page.get_by_role('link', name=question, exact=True).click()
  anchor = page.url.partition('#')[2]
  section = page.locator(f'[id="{anchor}"]')
  assert section.is_visible()
  assert answered in section.inner_text()


def test_an_explanation_opens(site: Site, new_page: NewPage) -> None:
  page = opened(new_page(), site, f'/run?name={GOOD}')
  why = page.locator('#epsilon details', has_text='The release view').first
  assert not why.locator('p').is_visible()
  why.locator('summary').click()
  assert why.locator('p').is_visible()
  why.locator('summary').press('Enter')
  assert not why.locator('p').is_visible()


def test_a_run_is_followed_while_another_process_writes_it(
  tmp_path: pathlib.Path, new_page: NewPage
) -> None:
  """In the list and on its page; what a reader has opened stays open."""
  location = f'sqlite:///{tmp_path / "runs.db"}'
  writer = subprocess.Popen(
    [sys.executable, '-c', ledgers.WRITER, location],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert writer.stdin is not None
  assert writer.stdout is not None
  try:
    assert writer.stdout.readline() == 'open\n'
    with served(location) as site:
      page = opened(new_page(), site, '/')
      page.get_by_text('is running').wait_for()
      page.get_by_role('link', name='mine').click()
      page.get_by_text('Between rounds').wait_for()
      for number in range(1, 4):
        print(file=writer.stdin, flush=True)
        row = page.locator('#now tr', has_text=re.compile(rf'^{number}\D'))
        row.wait_for(timeout=3000)
        if number == 1:
          table = page.locator('#now details.data').first
          table.locator('summary').click()
      assert page.locator('#now details.data').first.evaluate('it => it.open')
      # The rest of the page follows when it was priced.
      page.locator('#verdict', has_text='This run is private').wait_for()
      writer.stdin.close()
      writer.wait(timeout=20)
      page.get_by_text('The process that trained it has ended').wait_for()
  finally:
    writer.kill()
    writer.wait()
    writer.stdin.close()
    writer.stdout.close()


def test_runs_are_chosen_and_compared(site: Site, new_page: NewPage) -> None:
  page = opened(new_page(), site, '/')
  link = page.locator('#compare')
  assert not link.is_visible()
  for name in (GOOD, DROPOUTS):
    page.locator('.run', has_text=name).get_by_label('compare').check()
  assert link.inner_text() == 'Compare these 2 runs'
  link.click()
  page.wait_for_selector('#settings')
  glance = page.locator('#glance').inner_text()
  assert GOOD in glance
  assert DROPOUTS in glance
  assert page.locator('#epsilon figure').count() == 2


def test_sliders_are_moved_by_keys(site: Site, new_page: NewPage) -> None:
  page = opened(new_page(), site, f'/what-if?run={GOOD}')
  slider = page.get_by_role('slider', name='Noise multiplier, slider')
  field = page.get_by_label('Noise multiplier', exact=True)
  lead = page.locator('#answer .lead')
  before, first = float(field.input_value()), lead.inner_text()
  slider.focus()
  for _ in range(5):
    page.keyboard.press('ArrowRight')
  assert float(field.input_value()) > before
  assert slider.get_attribute('aria-valuetext') == field.input_value()
  page.wait_for_function(
    'first => document.querySelector("#answer .lead").innerText !== first',
    arg=first,
  )
  # It is asked for with what is there, which the address tells, too.
  page.wait_for_url(re.compile(f'noise={re.escape(field.input_value())}'))
  field.fill('0.1')
  page.get_by_text('hardly be private').first.wait_for()
  assert int(slider.input_value()) == 0
  for name in ('Clients in a round', 'Rounds', 'Bits of the sum'):
    moved = page.get_by_label(name, exact=True)
    was = int(moved.input_value())
    page.get_by_role('slider', name=f'{name}, slider').press('ArrowLeft')
    assert int(moved.input_value()) < was


def test_a_token_opens_the_page_once(location: str, new_page: NewPage) -> None:
  with served(location, Options(port=0, token=True)) as site:
    page = new_page()
    page.goto(site.url)
    assert page.locator('h1').inner_text() == 'A token is needed'
    page.goto(f'{site.url}/?token={site.token}')
    assert page.url == f'{site.url}/'
    assert page.locator('h1').inner_text() == 'Runs'
    assert page.evaluate('document.cookie') == ''
    page.get_by_role('link', name='Budgets').click()
    assert page.locator('h1').inner_text() == 'What is left of budgets'
    page.locator('#main').wait_for()


def test_names_run_no_script(tmp_path: pathlib.Path, new_page: NewPage) -> None:
  location = f'sqlite:///{tmp_path / "runs.db"}'
  recipe = ledgers.with_(ledgers.GOOD, rounds=1, audited=False)
  ledgers.write(
    location,
    ledgers.with_(recipe, name=MARKUP),
    ledgers.with_(recipe, name='<script>alert(1)</script>'),
  )
  with served(location) as site:
    page = new_page()
    page.on('dialog', lambda _: pytest.fail('A script of a name was run.'))
    opened(page, site, '/')
    for box in page.get_by_label('compare').all():
      box.check()
    page.locator('#compare').click()
    page.wait_for_selector('#settings')
    page.get_by_role('link', name='All of').first.click()
    page.wait_for_selector('#now')
    assert page.locator('main img').count() == 0


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_everybody_can_use_every_page(
  site: Site, new_page: NewPage, scheme: str
) -> None:
  """By axe; on a desktop, and on a phone, where nothing scrolls sideways."""
  sizes = [{'width': 1100, 'height': 900}, browser_lib.PHONE]
  checked, other = sizes if scheme == 'light' else sizes[::-1]
  page = new_page(bypass_csp=True, color_scheme=scheme)
  for path in EVERY_PAGE:
    page.set_viewport_size(checked)
    opened(page, site, path)
    assert browser_lib.violations(page) == [], path
    assert not browser_lib.scrolls_sideways(page), path
    page.set_viewport_size(other)
    assert not browser_lib.scrolls_sideways(page), path


def test_dark_is_dark(site: Site, new_page: NewPage) -> None:
  shades = []
  for scheme in ('light', 'dark'):
    page = opened(new_page(color_scheme=scheme), site, '/')
    color = page.evaluate('getComputedStyle(document.body).backgroundColor')
    shades.append(sum(map(int, re.findall(r'\d+', color))))
  assert shades[0] > 700 > 100 > shades[1]


def test_without_scripts_all_is_there(site: Site, new_page: NewPage) -> None:
  site.run(GOOD)
  page = new_page(java_script_enabled=False)
  page.goto(f'{site.url}/run?name={GOOD}')
  assert page.locator('#verdict h2').inner_text() == 'Private'
  page.goto(site.url)
  assert page.locator('.run').count() == len(ledgers.ALL)
  assert not page.locator('.pick').first.is_visible()


def test_nothing_is_asked_of_other_places(
  site: Site, new_page: NewPage
) -> None:
  asked: list[str] = []
  page = new_page()
  page.on('request', lambda request: asked.append(request.url))
  for path in EVERY_PAGE:
    opened(page, site, path)
  assert asked
  assert [url for url in asked if not url.startswith(site.url)] == []
