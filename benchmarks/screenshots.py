# SPDX-License-Identifier: Apache-2.0
"""Pictures of reports, to be looked at: not a figure.

Run it as `python -m benchmarks.screenshots FOLDER [--chromium PATH]`. It writes
the runs of `tests/report/ledgers.py`, their reports and statements, and takes
pictures of each with Chromium: desktop, dark, phone and print (a PDF).
"""

from __future__ import annotations

import argparse
import pathlib
import re
import subprocess
import tempfile

from tests.report import ledgers
from tff_secagg_ext import report
from tff_secagg_ext.ledger import Ledger

# Windows of Chromium are not as narrow as phones: a frame is.
_PHONE = '<iframe src="{}" width="390" height="{}" style="border:0"></iframe>'
_WIDTHS = {'desktop': 1000, 'dark': 1000, 'phone': 420}


def pages(folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes reports, of both views, and statements; returns their files."""
  made = []
  with tempfile.TemporaryDirectory() as place:
    location = f'sqlite:///{pathlib.Path(place) / "runs.db"}'
    ledgers.write(location)
    ledger = Ledger.open(location)
    for name in ledger.names():
      stem = re.sub(r'\W+', '-', name).strip('-')
      for view in ('release', 'server'):
        facts = report.read(
          ledger, name, view == 'server', baseline=ledgers.PLAIN.name
        )
        path = folder / f'{stem}-{view}.html'
        path.write_text(report.to_html(report.report(facts)))
        made.append(path)
      path = folder / f'{stem}-statement.html'
      path.write_text(report.to_html(report.statement(facts)))
      made.append(path)
    ledger.close()
  return made


def take(chromium: str, page: pathlib.Path, height: int) -> None:
  """Takes all pictures of a page."""
  phone = page.with_suffix('.phone.html')
  phone.write_text(_PHONE.format(page.name, height))
  for kind, width in _WIDTHS.items():
    dark = ['--blink-settings=preferredColorScheme=0'] if kind == 'dark' else []
    source = phone if kind == 'phone' else page
    _run(
      chromium,
      *dark,
      f'--window-size={width},{height}',
      f'--screenshot={page.with_suffix(f".{kind}.png")}',
      source.as_uri(),
    )
  phone.unlink()
  _run(
    chromium,
    '--no-pdf-header-footer',
    f'--print-to-pdf={page.with_suffix(".pdf")}',
    page.as_uri(),
  )


def _run(chromium: str, *arguments: str) -> None:
  fixed = ('--headless=new', '--no-sandbox', '--disable-gpu')
  subprocess.run(
    [chromium, *fixed, '--hide-scrollbars', *arguments],
    check=True,
    capture_output=True,
    timeout=120,
  )


def main() -> None:
  """Writes pages and pictures into a folder."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('folder', type=pathlib.Path)
  parser.add_argument('--chromium', default='chromium')
  parser.add_argument('--height', type=int, default=6000)
  parser.add_argument('--only', default='', help='Part of the names of pages.')
  asked = parser.parse_args()
  folder = asked.folder.resolve()
  folder.mkdir(parents=True, exist_ok=True)
  for page in pages(folder):
    if asked.only in page.name:
      take(asked.chromium, page, asked.height)
      print(page.name)


if __name__ == '__main__':
  main()
