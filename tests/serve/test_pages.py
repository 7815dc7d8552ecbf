# SPDX-License-Identifier: Apache-2.0
"""What the pages show, of whatever a ledger holds."""

from __future__ import annotations

import dataclasses
import html
import pathlib
import re

import pytest

from tests.report import ledgers
from tests.serve.conftest import MARKUP
from tests.serve.site import Site, served
from tff_secagg_ext import accounting, report
from tff_secagg_ext.ledger import Ledger, compose_population
from tff_secagg_ext.report import verdicts, words
from tff_secagg_ext.serve.server import Options

GOOD, OVER = ledgers.GOOD.name, ledgers.OVER.name


def plain(text: str) -> str:
  """What a page says, without its tags."""
  told = html.unescape(re.sub(r'<[^>]*>', ' ', text))
  return ' '.join(told.replace('\u00a0', ' ').split())


def tag(text: str, start: str, end: str) -> str:
  """The part of a page from one text to another."""
  return text[text.index(start) : text.index(end, text.index(start))]


def in_list(text: str, name: str) -> str:
  """What the list of runs says of one."""
  (item,) = [
    part
    for part in text.split('<li class="run ')[1:]
    if f'<bdi>{html.escape(name)}</bdi>' in part
  ]
  return plain(item)


def test_the_list_says_of_each_run_whether_it_is_private(
  site: Site, location: str
) -> None:
  text = site.page('/', pending='is being read')
  with Ledger.open(location) as ledger:
    for name in (recipe.name for recipe in ledgers.ALL):
      facts = report.read(ledger, name)
      told = in_list(text, name) if '"' not in name else plain(text)
      assert report.report(facts).headline in told
      assert words.figure(facts.release.value) in told
      assert words.figure(facts.server.value) in told
      assert f'rounds {facts.rounds}' in told
  assert 'Over budget' in in_list(text, OVER)
  assert 'Private' in in_list(text, GOOD)


@pytest.mark.parametrize('recipe', ledgers.ALL, ids=lambda recipe: recipe.name)
def test_a_run_has_the_sections_of_the_report(
  site: Site, location: str, recipe: ledgers.Recipe
) -> None:
  text = plain(site.run(recipe.name))
  with Ledger.open(location) as ledger:
    document = report.report(report.read(ledger, recipe.name))
  for section in document.sections:
    assert plain(section.title) in text
  for question in document.questions:
    assert plain(f'{question.question} {question.answer}') in text
  assert document.headline in text


def test_every_question_is_one_click_from_its_answer(site: Site) -> None:
  text = site.run(GOOD)
  anchors = re.findall(r'<li><a href="#([\w-]+)">', text)
  assert len(anchors) >= 10
  for anchor in anchors:
    assert f' id="{anchor}"' in text


def test_what_is_the_coordinators_is_shown_on_demand(location: str) -> None:
  with Ledger.open(location) as ledger:
    entry = ledger.entries(GOOD)[-1]
  assert entry.protocol is not None
  clients = f'{entry.protocol["clients"]}'
  when = entry.recorded_at[:16].replace('T', ' ')
  for server_view in (False, True):
    with served(location, Options(port=0, server_view=server_view)) as site:
      runs, run = site.page('/', pending='is being read'), site.run(GOOD)
      newest = plain(tag(run, 'The newest attempts', '</table>'))
      assert (clients in newest.split()) == server_view
      assert ('invited' in newest) == server_view
      assert (f'last entry {when}' in plain(runs)) == server_view
      assert ('not to be published' in runs) == server_view


def test_nothing_secret_is_shown(location: str) -> None:
  with Ledger.open(location) as ledger:
    rows = ledger.snapshot(GOOD)
  secrets = [row[name] for row in rows.entries for name in ('salt', 'hash')]
  secrets += [row['writer'] for row in rows.sessions]
  for server_view in (False, True):
    with served(location, Options(port=0, server_view=server_view)) as site:
      paths = ('/', f'/run?name={GOOD}', '/budgets', '/run?name=nobody')
      texts = [site.page('/'), site.run(GOOD), site.page('/budgets')]
      texts += [site.ask(path).text for path in paths]
      texts.append(site.page('/compare', ('run', GOOD), ('run', OVER)))
      for text in texts:
        assert not [secret for secret in secrets if secret in text]
        assert 'sqlite' not in text.replace('sqlite:///runs.db', '')
        assert location.removeprefix('sqlite:///') not in text


def test_names_are_shown_and_not_obeyed(tmp_path: pathlib.Path) -> None:
  location = f'sqlite:///{tmp_path / "runs.db"}'
  waiver = accounting.Waiver('loss is exact', MARKUP, MARKUP)
  recipe = ledgers.with_(ledgers.GOOD, name=MARKUP, rounds=2, waiver=waiver)
  settings = {
    **recipe.settings,
    'population_name': MARKUP,
    'unit_of_privacy': MARKUP,
    'notes': {MARKUP: MARKUP},
  }
  with Ledger.open(location) as ledger:
    for name in (MARKUP, f'{MARKUP}2'):
      run = ledger.open_run(
        name,
        settings,
        delta=ledgers.DELTA,
        failure_probability=0.01 * ledgers.DELTA,
      )
      attempt = run.reserve(recipe.charge(200))
      run.lose(attempt, recipe.charge(200), MARKUP)
  with served(location) as site:
    texts = [
      site.page('/', pending='is being read'),
      site.run(MARKUP),
      site.page('/compare', ('run', MARKUP), ('run', f'{MARKUP}2')),
      site.page('/budgets'),
      site.ask('/what-if?run=' + 'x').text,
      site.ask('/run?name=%3Cimg%20src%3Dx%3E').text,
      site.ask('/what-if?noise=%3Cimg%20src%3Dx%3E&%3Cimg%20src=x').text,
    ]
  for text in texts:
    assert '<img' not in text
    assert text.count('</script>') == 1
  for text in texts[:4]:
    assert html.escape(MARKUP, quote=False).split('"')[0] in text
    assert '🦉' in text


def test_a_run_that_is_not_there_has_near_ones(site: Site) -> None:
  answer = site.ask('/run?name=digits-god')
  assert answer.status == 404
  assert "no run 'digits-god'" in plain(answer.text)
  near = re.findall(r'<li><a href="/run\?name=([\w-]+)', answer.text)
  assert near[0] == GOOD
  compared = site.ask(f'/compare?run={GOOD}&run=digits-god')
  assert compared.status == 404
  assert "no run 'digits-god'" in plain(compared.text)
  assert site.ask('/what-if?run=digits-god').status == 404


def test_an_empty_ledger_says_how_to_begin(tmp_path: pathlib.Path) -> None:
  location = f'sqlite:///{tmp_path / "runs.db"}'
  Ledger.open(location).close()
  with served(location) as site:
    text = plain(site.page('/'))
    assert 'No run is recorded yet' in text
    assert 'tff-secagg train --ledger' in text
    assert 'No run has a budget of its own' in plain(site.page('/budgets'))
    assert 'no run' in plain(site.ask('/run?name=x').text)


@pytest.mark.parametrize('rounds', [0, 1])
def test_a_run_that_has_just_begun(tmp_path: pathlib.Path, rounds: int) -> None:
  location = f'sqlite:///{tmp_path / "runs.db"}'
  recipe = ledgers.with_(ledgers.GOOD, name='new', rounds=rounds, audited=False)
  ledgers.write(location, recipe, ledgers.with_(recipe, name='newer'))
  with served(location) as site:
    said = 'Nothing released yet' if rounds == 0 else 'Private'
    assert said in in_list(site.page('/', pending='is being read'), 'new')
    assert said in plain(site.run('new'))
    compared = site.page('/compare', ('run', 'new'), ('run', 'newer'))
    assert 'they were begun with the same settings' in plain(compared)


def test_an_altered_run_tells_that_alone(tmp_path: pathlib.Path) -> None:
  location = f'sqlite:///{tmp_path / "runs.db"}'
  ledgers.write(location, ledgers.with_(ledgers.GOOD, rounds=3))
  with Ledger.open(location) as ledger, ledger._engine.begin() as connection:
    connection.exec_driver_sql('DROP TRIGGER entries_no_update')
    connection.exec_driver_sql('UPDATE entries SET release_epsilon = 0.1')
  with served(location) as site:
    listed = in_list(site.page('/', pending='is being read'), GOOD)
    assert 'The record was altered' in listed
    text = plain(site.run(GOOD))
    assert 'entry 1' in text
    assert 'Private' not in text.split()


def test_runs_are_compared(site: Site) -> None:
  text = site.page(
    '/compare', ('run', GOOD), ('run', ledgers.DROPOUTS.name), ('run', GOOD)
  )
  told = plain(text)
  for row in (
    'aggregator: noise multiplier 3 4',
    'budget: epsilon 1 8',
    f'{GOOD} Private',
  ):
    assert row in told
  assert 'bits' not in told
  assert 'Towards whoever sees the models: ε' in told
  assert 'accuracy' in told
  drawing = tag(text, '<figure>', '</figure>')
  assert len(re.findall(r'<path class="line [^"]*"[^>]* d="M\d', drawing)) >= 2


@pytest.mark.parametrize(
  ('path', 'said'),
  [
    ('/run', 'name'),
    ('/run?name=', 'name'),
    (f'/run?name={"x" * 201}', 'name'),
    ('/compare', 'run'),
    (f'/compare?run={GOOD}', 'run'),
    (f'/compare?run={GOOD}&run={GOOD}', 'Two runs'),
    ('/compare?' + '&'.join(f'run=r{n}' for n in range(5)), 'run'),
    ('/what-if?noise=nan', 'noise'),
    ('/what-if?noise=inf', 'noise'),
    ('/what-if?noise=0', 'noise'),
    ('/what-if?cohort=1e9', 'cohort'),
    ('/what-if?cohort=-1', 'cohort'),
    ('/what-if?rounds=100001', 'rounds'),
    ('/what-if?bits=64', 'bits'),
    ('/what-if?numbers=99999999999', 'numbers'),
    ('/what-if?delta=1', 'delta'),
    ('/what-if?cohorts=allocated', 'cohorts'),
    ('/what-if/answer?seed=1', 'seed'),
    (f'/events?name={"x" * 201}', 'name'),
  ],
)
def test_what_is_out_of_bounds_is_told(
  site: Site, path: str, said: str
) -> None:
  answer = site.ask(path)
  assert answer.status == 400
  assert 'Not understood' in answer.text
  assert said in plain(answer.text)
  assert 'Traceback' not in answer.text
  assert 'pydantic' not in answer.text


def test_budgets_tell_what_is_left_and_who_has_spent(
  tmp_path: pathlib.Path,
) -> None:
  location = f'sqlite:///{tmp_path / "runs.db"}'
  recipe = ledgers.with_(ledgers.GOOD, epsilon=None)
  charge = recipe.charge(200)
  budget = accounting.Budget(
    2.0, ledgers.DELTA, adaptive=True, failures=0.1 * ledgers.DELTA
  )
  settings = {
    **recipe.settings,
    'population_name': 'patients',
    'budget': {**dataclasses.asdict(budget), **budget.filter(charge).settings},
  }
  with Ledger.open(location) as ledger:
    for name, rounds in (('first', 4), ('second', 2)):
      run = ledger.open_run(
        name,
        settings,
        delta=ledgers.DELTA,
        failure_probability=0.01 * ledgers.DELTA,
      )
      for number in range(1, rounds + 1):
        attempt = run.reserve(charge)
        run.commit(attempt, charge, recipe.measurements(number, 200))
    expected = report.forecast(report.read(ledger, 'second'))
    together = compose_population(ledger, 'patients')
  assert expected.spent is not None
  with served(location) as site:
    text = plain(site.page('/budgets'))
    on_page = plain(site.run('second'))
  for part in (
    'Population patients',
    'budget ε 2 at δ 10⁻⁵',
    f'spent of it {words.figure(expected.spent.value)}',
    f'more rounds it admits {plain(verdicts.afforded(expected))}',
    f'towards the coordinator {words.figure(together.server.value)}',
    'first federated rounds 4 ',
    'second federated rounds 2 ',
  ):
    assert part in text, part
  # The page of a run tells the same of the budget that it shares.
  left = plain(verdicts.afforded(expected))
  assert f'How many more rounds can I afford? {left}' in on_page
