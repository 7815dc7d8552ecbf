# SPDX-License-Identifier: Apache-2.0
"""A browser for tests of pages: Chromium, driven by Playwright.

`tests/conftest.py` gives the fixture `browser` to all tests. A test opens its
own context in it, so that nothing of one test is seen by another.
"""

from __future__ import annotations

from collections.abc import Iterator
import importlib.util
import os
import pathlib
import shutil
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
  from playwright.sync_api import Browser, Page

# Where it is set, a browser that is absent is a failure.
REQUIRED = 'TFF_SECAGG_REQUIRE_BROWSER'
CHROMIUM = ('chromium', 'chromium-browser')
# A browser that asks nothing of any other place, and needs no screen.
OPTIONS = (
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
)
MILLISECONDS = 30_000
PHONE = {'width': 390, 'height': 844}


def _absent(what: str) -> NoReturn:
  if os.environ.get(REQUIRED):
    pytest.fail(f'{what}, and {REQUIRED} is set')
  pytest.skip(what)


@pytest.fixture(scope='module')
def browser() -> Iterator[Browser]:
  """A Chromium without a window.

  It lives no longer than the tests of a module do: while Playwright runs, its
  thread has a running event loop, in which TFF could not run its own.
  """
  chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
  if chromium is None:
    _absent('there is no Chromium: apt-get install chromium')
  for name in ('playwright', 'axe_playwright_python'):
    if importlib.util.find_spec(name) is None:
      _absent(f'{name} is absent: install the extra `browser`')
  from playwright.sync_api import sync_playwright

  with sync_playwright() as playwright:
    started = playwright.chromium.launch(
      executable_path=chromium, args=list(OPTIONS)
    )
    yield started
    started.close()


def violations(page: Page) -> list[str]:
  """Returns what axe finds wrong with a page; empty if it finds nothing.

  The page must be of a context with `bypass_csp=True`: its own policy lets no
  foreign script in.

  Args:
    page: It is scrolled nowhere, and left as it is but for axe's script.

  Returns:
    One line for each rule that is broken, with the first elements that do.
  """
  import axe_playwright_python

  folder = pathlib.Path(axe_playwright_python.__file__).parent
  page.add_script_tag(path=folder / 'axe.min.js')
  found = page.evaluate('axe.run({resultTypes: ["violations"]})')
  return [
    f'{broken["id"]}: {broken["help"]}: '
    + '; '.join(node['html'][:200] for node in broken['nodes'][:3])
    for broken in found['violations']
  ]


def scrolls_sideways(page: Page) -> bool:
  """Whether a page is wider than its window."""
  wider = '({scrollWidth, clientWidth}) => scrollWidth > clientWidth'
  return bool(page.evaluate(f'({wider})(document.documentElement)'))
