# SPDX-License-Identifier: Apache-2.0
"""Pages: whole, self-contained, escaped, with the figures on record."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import math
import re
from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from tests.report import ledgers
from tff_secagg_ext import report
from tff_secagg_ext.ledger import Ledger
from tff_secagg_ext.report import charts, document, hazards, plots, words
from tff_secagg_ext.report.statement import blanks

NAMES = [recipe.name for recipe in ledgers.ALL]
RUNS = pytest.mark.parametrize('name', NAMES)
VOID = {'meta', 'link', 'img', 'br', 'hr', 'input'}
SVG_VOID = {'path', 'circle'}


class Parsed(html.parser.HTMLParser):
  """Checks that elements are closed in order, and gathers what they name."""

  def __init__(self, text: str):
    super().__init__()
    self.open: list[str] = []
    self.tags: set[str] = set()
    self.ids: list[str] = []
    self.targets: list[str] = []
    self.words: list[str] = []
    self.feed(text)
    self.close()
    assert self.open == []

  def handle_starttag(
    self, tag: str, attrs: list[tuple[str, str | None]]
  ) -> None:
    self.tags.add(tag)
    if tag not in VOID and tag not in SVG_VOID:
      self.open.append(tag)
    for name, value in attrs:
      assert not name.startswith('on'), f'{tag} has {name}'
      assert name not in ('src', 'srcset', 'action', 'style'), f'{tag}: {name}'
      if name == 'id' and value:
        self.ids.append(value)
      if name in ('href', 'aria-labelledby') and value:
        self.targets += value.replace('#', '').split()

  def handle_endtag(self, tag: str) -> None:
    if tag not in VOID | SVG_VOID:
      assert self.open.pop() == tag

  def handle_data(self, data: str) -> None:
    if self.open[-1:] != ['style']:
      self.words.append(data)

  @property
  def text(self) -> str:
    return ' '.join(' '.join(self.words).split())


@RUNS
@pytest.mark.parametrize('make', [report.report, report.statement])
def test_a_page_is_whole_and_asks_for_nothing(
  ledger: Ledger, name: str, make: object
) -> None:
  facts = report.read(ledger, name, True, baseline=ledgers.PLAIN.name)
  assert callable(make)
  text = report.to_html(make(facts))
  parsed = Parsed(text)
  assert not parsed.tags & {'script', 'link', 'img', 'iframe', 'object', 'form'}
  assert len(parsed.ids) == len(set(parsed.ids))
  assert set(parsed.targets) <= set(parsed.ids)
  assert "default-src 'none'" in text
  assert not re.search(r'https?:|url\(|@import|//', text)
  for svg in re.findall(r'<svg.*?</svg>', text, re.DOTALL):
    ElementTree.fromstring(svg)
  assert words.shown(name) in parsed.text


def test_names_with_markup_are_shown_as_they_are(ledger: Ledger) -> None:
  facts = report.read(ledger, ledgers.HOSTILE.name)
  text = report.to_html(report.report(facts))
  assert '<b>"run"' not in text
  assert '49' not in re.findall(r'<h1>.*</h1>', text)[0]
  assert Parsed(text).text.count(ledgers.HOSTILE.name) == 2
  told = report.to_markdown(report.report(facts))
  assert '<b>' not in told.replace('\\<b\\>', '')
  assert '\\|' in told.splitlines()[0]
  hostile = dataclasses.replace(facts, name='a\u202eb\x00\nc')
  for make in (report.to_html, report.to_markdown):
    assert 'a\ufffdb\ufffd\ufffdc' in make(report.report(hostile))


@RUNS
def test_settings_that_others_chose_are_escaped(
  ledger: Ledger, name: str
) -> None:
  facts = report.read(ledger, name)
  evil = '</style><script>alert(1)</script>'
  changed = dataclasses.replace(
    facts,
    settings={**facts.settings, 'unit_of_privacy': evil, evil: evil},
    notes={evil: 1},
    versions=[{evil: evil}],
  )
  for make in (report.report, report.statement):
    assert '<script' not in report.to_html(make(changed))
    assert '<script' not in report.to_markdown(make(changed)).replace('\\<', '')


@RUNS
def test_figures_on_the_page_are_those_of_the_ledger(
  ledger: Ledger, name: str
) -> None:
  facts = report.read(ledger, name)
  shown = ledger.show(name)
  page = report.report(facts)
  found = {
    figure.name: figure.value
    for section in page.sections
    for block in section.blocks
    if isinstance(block, document.Figures)
    for figure in block.figures
  }

  def told(value: float | None) -> str:
    return words.figure(math.inf if value is None else value)

  last = shown['rounds'][-1]
  assert found['ε towards whoever sees the models'] == told(
    shown['release_epsilon']
  )
  assert found['ε towards the coordinator'] == told(shown['server_epsilon'])
  assert found['δ'] == told(shown['delta'])
  assert found['clip norm now'] == told(last['measurements']['clip_norm'])
  assert found['zeroing threshold now'] == told(
    last['measurements']['zeroing_threshold']
  )
  planned = shown['settings']['aggregator']['noise_multiplier']
  assert found['planned'] == told(planned)
  assert found['head of the chain'] == str(ledger.verify(name))
  assert found['rounds released'] == told(
    len([r for r in shown['rounds'] if r['status'] == 'committed'])
  )
  text = Parsed(report.to_html(page)).text
  for value in found.values():
    assert ' '.join(value.split()) in text


@RUNS
def test_json_has_every_point(ledger: Ledger, name: str) -> None:
  facts = report.read(ledger, name)
  told = json.loads(report.to_json(facts))
  assert told['run'] == name
  assert len(told['series']['round']) == len(facts.series)
  stated = facts.release.value
  expected = 'Infinity' if math.isinf(stated) else stated
  assert told['release_epsilon']['value'] == expected
  assert told['series']['release_epsilon'][-1] == expected
  assert told['verdict']['level'] == report.verdict(facts).level


def test_questions_are_answered_in_two_clicks(ledger: Ledger) -> None:
  page = report.report(report.read(ledger, ledgers.DROPOUTS.name))
  anchors = {'verdict', *(section.anchor for section in page.sections)}
  assert len(page.questions) >= 10
  for question in page.questions:
    assert question.anchor in anchors
    assert question.answer
  asked = {question.question: question.answer for question in page.questions}
  assert asked['Is it private?'] == 'Private'
  assert asked['Who saw un-noised numbers?'] == 'nobody'
  # The other click opens what is folded.
  assert report.to_html(page).count('<summary>') > len(page.questions)


@pytest.mark.parametrize(
  'name', [ledgers.EXACT_METRICS.name, ledgers.PLAIN.name]
)
def test_what_is_not_private_is_seen_by_everybody(
  ledger: Ledger, name: str
) -> None:
  page = report.report(report.read(ledger, name))
  answers = {q.question: q.answer for q in page.questions}
  assert answers['Against whom?'] == 'nobody'
  assert answers['Who saw un-noised numbers?'] == 'everybody'


def test_unaccounted_releases_and_waivers_are_in_red(ledger: Ledger) -> None:
  facts = report.read(ledger, ledgers.EXACT_METRICS.name)
  page = report.report(facts)
  section = next(s for s in page.sections if s.anchor == 'unnoised')
  listed = [b for b in section.blocks if isinstance(b, document.Items)]
  assert listed == [document.Items([ledgers.EXACT], 'red')]
  assert page.level == 'not private'
  assert '<ul class="red">' in report.to_html(page)


@RUNS
def test_a_statement_has_no_blank_where_the_ledger_knows(
  ledger: Ledger, name: str
) -> None:
  facts = report.read(ledger, name, baseline=ledgers.PLAIN.name)
  page = report.statement(facts)
  titles = [section.title.split('. ')[1] for section in page.sections]
  assert titles == [
    'Threat model',
    'Unit of privacy',
    'Privacy parameters',
    'Mechanism and sensitivity',
    'Implementation',
    'Data collection and exposure',
    'Utility',
    'Limits, and what audits found',
    'Checklist of hazards',
    'Record and signature',
  ]
  left = set(blanks(page))
  decided = {'Decision', 'Name and date', 'Signature'}
  assert decided < left
  assert 'How many units of privacy are there?' not in left
  undecided = [blank for blank in left if blank.startswith('Which ε')]
  assert bool(undecided) is (facts.budget is None)
  text = report.to_markdown(page)
  if facts.budget is not None:
    assert 'not on record' not in text
  assert facts.head in text.replace('\\', '')


def test_hazards_are_answered_from_evidence(ledger: Ledger) -> None:
  def answers(name: str) -> dict[str, str]:
    facts = report.read(ledger, name)
    found = hazards.hazards(facts, report.forecast(facts))
    return {hazard.name: hazard.answer for hazard in found}

  good = answers(ledgers.GOOD.name)
  assert hazards.PRESENT not in good.values()
  exact = answers(ledgers.EXACT_METRICS.name)
  assert exact['a release that no account covers'] == hazards.PRESENT
  over = answers(ledgers.OVER.name)
  budget = 'a privacy budget that is not kept, or that nobody fixed'
  assert (good[budget], over[budget]) == (hazards.AVOIDED, hazards.PRESENT)
  lost = answers(ledgers.DROPOUTS.name)
  less = 'dropouts that leave less noise than planned'
  assert (good[less], lost[less]) == (hazards.AVOIDED, hazards.PRESENT)


def test_dropouts_change_no_infinite_epsilon(ledger: Ledger) -> None:
  facts = report.read(ledger, ledgers.EXACT_METRICS.name)
  text = report.to_markdown(report.report(facts))
  assert 'ε is infinite with or without dropouts' in text
  assert '∞ rather than' not in text


@pytest.mark.parametrize(
  ('recipe', 'told'),
  [
    (ledgers.GOOD, 'ε would be the same.'),
    (ledgers.DROPOUTS, 'ε would be 1.539 rather than 1.287 towards whoever'),
  ],
)
def test_what_dropouts_would_cost_is_told(
  ledger: Ledger, recipe: ledgers.Recipe, told: str
) -> None:
  facts = report.read(ledger, recipe.name)
  assert told in report.to_markdown(report.report(facts))


def test_a_caption_that_repeats_its_summary_is_unseen(ledger: Ledger) -> None:
  page = report.to_html(report.report(report.read(ledger, ledgers.GOOD.name)))
  assert '<caption class="unseen">Versions</caption>' in page
  assert '<caption>Who sees what</caption>' in page


def test_paper_has_explanations_open(ledger: Ledger) -> None:
  page = report.report(report.read(ledger, ledgers.GOOD.name))
  assert 'class="why" open' not in report.to_html(page)
  for_paper = report.to_html(page, for_paper=True)
  assert 'class="why" open' in for_paper
  assert 'class="data" open><summary>Versions' in for_paper


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5000), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_thinning_keeps_ends_and_extremes(
  count: int, buckets: int, seed: int
) -> None:
  values = np.random.default_rng(seed).normal(size=count)
  values[values > 1.5] = math.nan
  kept = charts.thinned(values, buckets)
  assert len(kept) <= 2 * buckets + 2
  assert (np.diff(kept) > 0).all()
  if count:
    assert kept[0] == 0 and kept[-1] == count - 1
  if np.isfinite(values).any():
    assert np.nanmin(values[kept]) == np.nanmin(values)
    assert np.nanmax(values[kept]) == np.nanmax(values)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_round_and_within(low: float, span: float) -> None:
  high = low + span
  if high <= low or span < abs(low) * 1e-6:
    return
  found = charts.ticks(low, high)
  slack = span * 1e-6
  assert 2 <= len(found) <= 12
  assert all(low - slack <= tick <= high + slack for tick in found)


def test_a_million_points_stay_small() -> None:
  x = np.arange(1e6)
  line = charts.Line('a', x, np.sin(x))
  chart = charts.Chart('many', '', [line])
  assert len(charts.svg(chart, 'c')) < 20_000
  table = plots.with_table(chart).table
  assert len(table.rows) <= charts.TABLE_ROWS
  assert '999\u202f960 others are left out' in table.note


@pytest.mark.parametrize(
  'values',
  [[], [1.0], [math.nan], [math.inf, math.inf], [0.0, 0.0], [1e-300, 1e300]],
)
def test_charts_of_odd_series_are_drawn(values: list[float]) -> None:
  y = np.array(values)
  line = charts.Line('a', np.arange(1.0, 1.0 + len(y)), y)
  drawn = charts.svg(charts.Chart('odd', '', [line]), 'c')
  ElementTree.fromstring(drawn)
  assert 'nan' not in drawn


@pytest.mark.parametrize(
  ('value', 'text'),
  [
    (None, '–'),
    (math.nan, '–'),
    (math.inf, '∞'),
    (1234567.0, '1\u202f234\u202f567'),
    (0.62431, '0.6243'),
    (1e-5, '10⁻⁵'),
    (3.72e-7, '3.72·10⁻⁷'),
  ],
)
def test_figures_are_written_to_four_digits(
  value: float | None, text: str
) -> None:
  assert words.figure(value) == text


@pytest.mark.parametrize(
  ('value', 'text'),
  [
    (0.0, '0'),
    (2e-4, '0.0002'),
    (2.5e-7, '2.5e-7'),
    (0.25, '0.25'),
    (12500.0, '12.5k'),
    (-3e6, '-3M'),
    (1e300, '1e+291G'),
  ],
)
def test_axes_have_short_numbers(value: float, text: str) -> None:
  assert words.short(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_can_be_written(value: float) -> None:
  assert words.short(value)
  assert words.figure(value)
