# SPDX-License-Identifier: Apache-2.0
"""Facts are those of the ledger; a verdict never says more than they do."""

from __future__ import annotations

import dataclasses
import math
import sqlite3

import numpy as np
import pytest

from tests.ledger.conftest import NewLocation, new_location, postgresql
from tests.report import ledgers
from tff_secagg_ext import accounting, report
from tff_secagg_ext.ledger import (
  ExternalRun,
  Ledger,
  UnknownRunError,
  record_external,
)
from tff_secagg_ext.report import hazards

# Fixtures, which pytest finds by their names.
__all__ = ['new_location', 'postgresql']

RUNS = pytest.mark.parametrize('name', [recipe.name for recipe in ledgers.ALL])
HIDDEN = ('invited', 'seconds', 'upload_bytes', 'client_seconds', 'expansion')


@RUNS
@pytest.mark.parametrize('server_view', [False, True])
def test_facts_are_those_of_the_ledger(
  ledger: Ledger, name: str, server_view: bool
) -> None:
  facts = report.read(ledger, name, server_view)
  shown = ledger.show(name, server_view=server_view)
  attempts = [(r, a) for r in shown['rounds'] for a in r['attempts']]
  series = facts.series
  assert facts.head == str(ledger.verify(name))
  assert len(series) == len(attempts)
  for place, (round_, attempt) in enumerate(attempts):
    assert series.round[place] == round_['round']
    assert series.attempt[place] == attempt['attempt']
    assert series.status[place] == attempt['status']
    protocol = attempt['protocol']
    for field in HIDDEN:
      found = getattr(series, field)[place]
      stated = protocol.get('clients' if field == 'invited' else field)
      assert found == stated if server_view else math.isnan(found)
    assert series.dropouts.keys() <= (
      {'mask', 'invite'} if server_view else set()
    )
  committed = [r for r in shown['rounds'] if r['status'] == 'committed']
  assert facts.rounds == len(committed)
  kept = series.committed
  for place, round_ in zip(np.flatnonzero(kept), committed, strict=True):
    for view in ('release', 'server'):
      stated = round_[f'{view}_epsilon']
      found = getattr(series, f'{view}_epsilon')[place]
      assert found == (math.inf if stated is None else stated)
    for field in ('clip_norm', 'zeroing_threshold', 'wrap_probability'):
      assert getattr(series, field)[place] == round_['measurements'][field]
  assert list(facts.release.reasons) == shown['release_reasons']


def test_noise_is_that_of_the_charge(ledger: Ledger) -> None:
  facts = report.read(ledger, ledgers.GOOD.name)
  assert facts.planned_noise == ledgers.GOOD.noise
  np.testing.assert_allclose(facts.series.server_noise, ledgers.GOOD.noise)
  top_up = math.sqrt(ledgers.MOST / (ledgers.FEWEST - ledgers.GOOD.colluders))
  np.testing.assert_allclose(
    facts.series.release_noise, ledgers.GOOD.noise * top_up
  )


def test_the_release_view_does_not_tell_how_many_took_part(
  ledger: Ledger,
) -> None:
  facts = report.read(ledger, ledgers.GOOD.name)
  assert np.isnan(facts.series.contributors).all()
  told = report.to_json(facts)
  seen = report.read(ledger, ledgers.GOOD.name, server_view=True)
  assert not np.isnan(seen.series.contributors).any()
  for words in ('survivors', 'membership'):
    figures = [a.figures for a in facts.audits if a.kind == words]
    assert all(found is None for found in figures)
  assert '"true_positive_rate"' not in told
  assert '"true_positive_rate"' in report.to_json(seen)


LEVELS = {
  ledgers.GOOD.name: 'private',
  ledgers.OVER.name: 'over budget',
  ledgers.EXACT_METRICS.name: 'not private',
  ledgers.DROPOUTS.name: 'private',
  ledgers.PLAIN.name: 'not private',
}


@pytest.mark.parametrize('name', LEVELS)
def test_verdicts(ledger: Ledger, name: str) -> None:
  facts = report.read(ledger, name)
  found = report.verdict(facts, report.forecast(facts))
  assert found.level == LEVELS[name]
  assert found.holds is (found.level == 'private')
  assert found.level == report.verdict(facts).level
  for reason in facts.release.reasons:
    assert reason in found.sentence
    assert any(reason in change for change in found.changes)


def test_a_large_epsilon_is_not_called_private(ledger: Ledger) -> None:
  facts = report.read(ledger, ledgers.GOOD.name)
  for value, level in ((10.0, 'private'), (10.1, 'weak')):
    changed = dataclasses.replace(
      facts, release=accounting.Epsilon(value), budget=None
    )
    assert report.verdict(changed).level == level


@pytest.mark.parametrize(
  'figures',
  [
    {'alarm': True},
    {'lower_bound': 99.0, 'ledger_epsilon': None},
    {'lower_bound': 0.6, 'ledger_epsilon': 0.5},
  ],
)
def test_an_audit_that_finds_more_contradicts(
  ledger: Ledger, figures: dict[str, object]
) -> None:
  facts = report.read(ledger, ledgers.GOOD.name)
  audits = [
    dataclasses.replace(audit, figures={**(audit.figures or {}), **figures})
    if audit.kind == 'one_run'
    else audit
    for audit in facts.audits
  ]
  assert report.verdict(facts).level == 'private'
  changed = dataclasses.replace(facts, audits=audits)
  found = report.verdict(changed)
  assert found.level == 'contradicted'
  assert not found.holds


def test_waivers_and_open_attempts_are_told(tmp_path: object) -> None:
  waiver = accounting.Waiver('count is exact', 'A. Reviewer', 'it is public')
  recipe = ledgers.with_(ledgers.GOOD, name='waived', waiver=waiver, rounds=2)
  with Ledger.open(f'sqlite:///{tmp_path}/runs.db') as ledger:
    recipe.write(ledger)
    run = ledger.open_run(
      'waived',
      recipe.settings,
      delta=ledgers.DELTA,
      failure_probability=0.01 * ledgers.DELTA,
    )
    run.reserve(recipe.charge(200))
    # As while a training writes.
    facts = report.read(ledger, 'waived')
  assert facts.waivers == (waiver,)
  caveats = ' '.join(report.verdict(facts).caveats)
  assert 'count is exact (waived by A. Reviewer: it is public)' in caveats
  assert '1 attempt not settled' in caveats
  assert facts.rounds == 2
  assert facts.series.status[-1] == 'reserved'


def test_of_a_run_that_was_altered_nothing_else_is_told(
  tmp_path: object,
) -> None:
  location = f'{tmp_path}/runs.db'
  ledgers.write(f'sqlite:///{location}', ledgers.with_(ledgers.GOOD, rounds=3))
  with sqlite3.connect(location) as connection:
    for (trigger,) in connection.execute(
      "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    ).fetchall():
      connection.execute(f'DROP TRIGGER {trigger}')
    connection.execute(
      'UPDATE entries SET release_epsilon = 0.001 WHERE sequence = 4'
    )
  connection.close()
  with Ledger.open(f'sqlite:///{location}', create=False) as ledger:
    facts = report.read(ledger, ledgers.GOOD.name)
  assert facts.fault is not None
  found = report.verdict(facts, report.forecast(facts))
  assert found.level == 'tampered'
  assert 'entry 4' in found.sentence
  for page in (report.report(facts), report.statement(facts)):
    assert [section.anchor for section in page.sections] == ['record']
    assert '0.001' not in report.to_html(page)
  assert report.dropouts(facts, 0.4) is None


def test_an_empty_run_has_spent_nothing(tmp_path: object) -> None:
  with Ledger.open(f'sqlite:///{tmp_path}/runs.db') as ledger:
    ledgers.with_(ledgers.GOOD, rounds=0, audited=False).write(ledger)
    facts = report.read(ledger, ledgers.GOOD.name)
  assert report.verdict(facts, report.forecast(facts)).level == 'nothing'
  assert 'Nothing released yet' in report.to_html(report.report(facts))
  assert 'Nothing released yet' in report.to_markdown(report.statement(facts))
  assert report.to_json(facts)


def test_a_run_that_is_not_there_is_refused_with_the_nearest(
  ledger: Ledger,
) -> None:
  with pytest.raises(UnknownRunError, match=r"nearest is 'digits-good'"):
    report.read(ledger, 'digits-god')
  with pytest.raises(UnknownRunError, match='no run'):
    report.read(ledger, ledgers.GOOD.name, baseline='nowhere')


@pytest.mark.parametrize('kind', ['sqlite', 'postgresql'])
def test_a_run_is_read_while_it_is_written(
  new_location: NewLocation, kind: str
) -> None:
  location = new_location(kind)
  recipe = ledgers.with_(ledgers.GOOD, rounds=1, audited=False)
  with Ledger.open(location) as writer:
    recipe.write(writer)
    run = writer.open_run(
      recipe.name,
      recipe.settings,
      delta=ledgers.DELTA,
      failure_probability=0.01 * ledgers.DELTA,
    )
    for number in range(2, 5):
      attempt = run.reserve(recipe.charge(200))
      with Ledger.open(location, create=False) as reader:
        facts = report.read(reader, recipe.name)
        assert len(facts.series) == number
        assert report.forecast(facts).left
      run.commit(attempt, recipe.charge(200), {})


def test_what_ran_elsewhere_is_told_as_such(tmp_path: object) -> None:
  events = accounting.opacus_events(
    [(1.0, 0.01, 10)], vouched_by='the hospital'
  )
  with Ledger.open(f'sqlite:///{tmp_path}/runs.db') as ledger:
    described = ExternalRun('silo', 'patients', 5000, 'client')
    record_external(ledger, described, events, delta=ledgers.DELTA)
    facts = report.read(ledger, 'silo')
  text = report.to_html(report.report(facts))
  assert 'This ran elsewhere (opacus)' in text
  assert 'the hospital' in text
  assert 'Nobody. All that leaves' not in text
  statement = report.to_markdown(report.statement(facts))
  assert 'Raw data stay with the clients' not in statement
  assert 'Nobody. All that leaves' not in statement
  assert 'is read off the compiled' not in statement
  # What this package would have done is not said of others.
  for phrase in ('integer vector', 'everybody is taken to be', 'whoever adds'):
    assert phrase not in statement
  assert 'coordinator’s alone: it tells the size' not in text
  assert 'It ran elsewhere: nothing of this is on record.' in text
  answers = {
    hazard.name: hazard.answer
    for hazard in hazards.hazards(facts, report.forecast(facts))
  }
  assert answers['contributions of unbounded influence'] == hazards.DECIDE
  assert answers['an attack that finds more than is claimed'] == hazards.DECIDE


def test_noise_of_the_server_is_not_said_to_be_the_clients(
  tmp_path: object,
) -> None:
  """As a factory of TFF that noises centrally is recorded."""
  event = accounting.CentralGaussianEvent(1.0, 10.0, 'sum of clipped updates')
  charge = accounting.Round((event,), accounting.PoissonSampling(0.01))
  settings = {'aggregator': {'tff': 'central', 'noise_multiplier': 10.0}}
  with Ledger.open(f'sqlite:///{tmp_path}/runs.db') as ledger:
    run = ledger.open_run('central', settings, delta=1e-5)
    run.commit(run.reserve(charge), charge, {})
    facts = report.read(ledger, 'central')
  page = report.to_markdown(report.report(facts))
  statement = report.to_markdown(report.statement(facts))
  for text in (page, statement):
    assert 'share of noise' not in text
    assert 'without any noise' in text
    assert 'ε towards the coordinator is infinite, because of' in text
    assert 'ε is infinite, because of' not in text
    assert 'Gaussian, added by the server (TensorFlow Federated)' in text
  assert 'L2 norm of what a client sends' in statement


def test_sums_in_the_clear_protect_from_nobody_who_adds(
  tmp_path: object,
) -> None:
  class Plain(ledgers.Recipe):
    @property
    def settings(self) -> dict[str, object]:
      secrecy = 'none: insecure, vectors are added in the clear'
      plain = {'protocol': 'plain', 'secrecy': secrecy}
      return {**super().settings, 'secure_sums': plain}

  with Ledger.open(f'sqlite:///{tmp_path}/runs.db') as ledger:
    Plain('clear', rounds=2, audited=False).write(ledger)
    facts = report.read(ledger, 'clear')
  found = report.verdict(facts)
  assert found.level == 'private'
  assert 'Towards whoever adds the vectors it is not private' in found.server
  answers = {q.question: q.answer for q in report.report(facts).questions}
  assert answers['Against whom?'] == 'readers of the models'
  assert answers['Who saw un-noised numbers?'] == 'whoever adds the vectors'
  assert 'sees each of them with its own share' in report.to_html(
    report.report(facts)
  )
