# SPDX-License-Identifier: Apache-2.0
"""`tff-secagg audit membership`: power, what is recorded, what is refused.

The audited models of most tests are trained by the plain loop, which
tests/tasks/test_plain.py compares with the process; one is by the process.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import math
import pathlib
import re
import types
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tff_secagg_ext import accounting, program, tasks
from tff_secagg_ext.audit import inference
from tff_secagg_ext.cli import membership, training
from tff_secagg_ext.cli import membership_report as report
from tff_secagg_ext.cli.app import app
from tff_secagg_ext.ledger import Ledger
from tff_secagg_ext.program import opening, releases, terms
from tff_secagg_ext.tasks import plain

Game = membership.Game
COMMAND = ['audit', 'membership']


class Quick(Game):
  """All models by the plain loop, and an epsilon that is made up."""

  claimed = 5.0

  def process(self, name: str) -> inference.Train:
    self.epsilon = accounting.Epsilon(self.claimed, ())
    return self.loop(name)


@pytest.fixture(scope='module')
def clients() -> plain.Clients:
  return plain.Clients.of(tasks.load('digits'))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, clients: plain.Clients) -> None:
  """Clients' data, which take a second, are read once; no process is built."""
  monkeypatch.setattr(plain.Clients, 'of', lambda task: clients)
  monkeypatch.setattr(membership, 'Game', Quick)


def invoke(*args: str) -> Any:
  return CliRunner().invoke(app, [*COMMAND, *args], catch_exceptions=False)


@pytest.fixture(scope='module')
def settings() -> Mapping[str, Any]:
  """What the ledger has of a run of `train` with two rounds."""
  task = tasks.load('digits')
  run = membership.planned(task, membership.Options(rounds=2))
  aggregator = run.aggregator(1.0)
  dimension = aggregator.padded_dimension(task.num_parameters)
  agreed = terms.Terms(
    aggregator,
    releases.Releases(dimension, ()),
    run.former.sampling,
    run.population,
    1e-5,
    run.secure,
  )
  notes = {'task': 'digits', 'training': dataclasses.asdict(task.training)}
  notes['training']['rounds'] = 2
  described = program.RunDescription('mine', population=360, notes=notes)
  return opening.settings_of(agreed, described, None, None)


@pytest.fixture
def ledger(tmp_path: pathlib.Path, settings: Mapping[str, Any]) -> str:
  """Where a ledger is with the run 'mine', whose rounds cost nothing."""
  location = str(tmp_path / 'runs.db')
  record(location, 'mine', settings)
  return location


def record(
  location: str, name: str, settings: Mapping[str, Any], rounds: int = 2
) -> None:
  nothing = accounting.Round((), accounting.NoSampling())
  with Ledger.open(location) as opened:
    run = opened.open_run(name, settings, delta=1e-3)
    for _ in range(rounds):
      run.commit(run.reserve(nothing), nothing, {})


def test_models_without_privacy_are_told_by_their_members() -> None:
  game = Quick(membership.Options(rounds=20, shadows=16))
  told: list[str] = []
  found = membership.audit(game, told.append)
  assert len(told) == 6
  assert [row.training for row in found.rows[::4]] == list(report.TRAININGS)
  best = {
    (row.training, row.trained_by): row.finding.attack
    for row in found.rows
    if row.attack == 'likelihood ratio'
  }
  assert best[report.PLAIN, 'loop'].auc.low > 0.55
  # Of 16 models: the other clients' number limits the false positive rate.
  others = {row.others for row in found.rows if row.trained_by == 'loop'}
  assert all(2400 < n < 3400 for n in others)
  assert not found.alarm


def test_untrained_models_are_not() -> None:
  """One round, and noise that hides what it learnt."""
  untrained = Quick(membership.Options(20.0, rounds=1, shadows=16))
  found = membership.audit(untrained, lambda text: None)
  for row in found.rows:
    if row.training == report.PRIVATE:
      assert row.finding.attack.auc.low < 0.5 < row.finding.attack.auc.high
      assert not inference.contradicts(row.finding, 0.0, found.delta)


def test_an_epsilon_that_is_too_small_is_an_alarm(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """The account says 0, of models with hardly any noise."""
  monkeypatch.setattr(Quick, 'claimed', 0.0)
  result = invoke(
    '--rounds=20', '--shadows=16', '--repeats=8', '--noise-multiplier=0.05'
  )
  assert result.exit_code == 1, result.output
  assert 'Alarm: an attack on the private process is above' in result.output
  assert 'an AUC of 0.501' in ' '.join(result.output.split())
  assert 'ratio' in result.output


def test_what_is_found_is_recorded(ledger: str) -> None:
  result = invoke('--run=mine', '--ledger', ledger, '--shadows=8', '--json')
  assert result.exit_code == 0, result.output
  figures = json.loads(result.stdout)
  with Ledger.open(ledger) as opened:
    (audit,) = opened.audits('mine')
  assert audit.kind == 'membership'
  assert audit.figures == figures
  assert figures['ledger_epsilon'] == 5.0
  assert figures['view'] == 'release'
  assert figures['false_positive_rate'] == 0.001
  assert figures['rounds'] == 2
  assert figures['shadows'] == 8
  low, high = figures['auc_interval']
  assert low <= figures['auc'] <= high <= 1.0
  assert figures['allowed_auc'] == inference.allowed_auc(5.0, 1e-3)
  assert not figures['alarm']
  assert len(figures['attacks']) == 12
  process = [a for a in figures['attacks'] if a['trained_by'] == 'process']
  assert {a['models'] for a in process} == {1}


@pytest.mark.parametrize('name', [report.CLIPPED, report.PRIVATE])
def test_the_process_is_that_of_train_and_others_have_no_data(
  name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  """What is set up, and which data it is given; the rounds are not run.

  That clients without data send zero: tests/tasks/test_plain.py.
  """
  game = Game(membership.Options(2.0, rounds=7))
  members = np.arange(360) < 5
  asked: list[training.Options] = []

  def set_up(options: training.Options) -> Any:
    asked.append(options)
    released = accounting.Epsilon(1.5, ())
    entries = [types.SimpleNamespace(release=released)]
    run = types.SimpleNamespace(entries=entries)
    return types.SimpleNamespace(
      recorder=types.SimpleNamespace(
        account=types.SimpleNamespace(run=run),
        get_model_weights=lambda state: state,
      )
    )

  def run_rounds(setup: Any, client_data: Any) -> Any:
    del setup
    sizes = [len(list(each)) for each in client_data([3, 4, 5, 359])]
    assert sizes == [5, 5, 0, 0]
    weights = game.task.model.initial_weights[0]
    return types.SimpleNamespace(state=types.SimpleNamespace(trainable=weights))

  monkeypatch.setattr(training, 'set_up', set_up)
  monkeypatch.setattr(training, 'run_rounds', run_rounds)
  losses = game.process(name)(members)
  np.testing.assert_allclose(losses, math.log(10.0))
  (options,) = asked
  noise = 2.0 if name == report.PRIVATE else 0.0
  assert (options.task, options.rounds) == ('digits', 7)
  assert options.noise_multiplier == noise
  assert options.sums == training.Sums()
  assert game.epsilon.value == (1.5 if noise else 0.0)


def test_the_loop_has_the_noise_of_the_process() -> None:
  """Nobody's data: the model is noise, of the deviation that `RunPlan` has."""
  game = Game(membership.Options(rounds=1))
  nobody = np.zeros(360, bool)
  losses = game.loop(report.CLIPPED)(nobody)
  np.testing.assert_allclose(losses, math.log(10.0), atol=1e-4)
  noised = [game.loop(report.PRIVATE)(nobody) for _ in range(50)]
  # For small weights w a loss moves by w.g, g its gradient at 0.
  rate = game.task.training.server_rate(1.0)
  deviation = rate * 0.1 * game.run.mean_error(1.0, game.task.num_parameters)
  first = game.clients.x[0, game.clients.share[0, :, 0] > 0]
  labels = game.clients.y[0, game.clients.share[0, :, 0] > 0]
  error = (0.1 - labels) / len(first)
  length = math.hypot(np.linalg.norm(first.T @ error), *error.sum(axis=0))
  moves = np.asarray(noised)[:, 0] - math.log(10.0)
  # 50 draws: six deviations of the estimate are 0.6 of it.
  assert moves.std() == pytest.approx(deviation * length, rel=0.6)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--task=shakespeare'], r"`task` must be 'digits'. Found 'shakespeare'"),
    (
      ['--noise-multiplier=0'],
      r'must be above 0. Found 0.0. The training with',
    ),
    (['--noise-multiplier=-1'], r'`noise_multiplier` must be in \[0, inf\]'),
    (['--noise-multiplier=nan'], r'`noise_multiplier` must be finite'),
    (['--rounds=0'], r'`rounds` must be at least 1. Found 0'),
    (['--shadows=3'], r'`shadows` must be at least 4. Found 3. Each client is'),
    (['--repeats=0'], r'`repeats` must be at least 1. Found 0'),
    (['--run=a', '--rounds=2'], r'Give --run, or --noise-multiplier and --rou'),
    (['--run=a', '--ledger=/nowhere/a.db'], r'/nowhere/a.db'),
  ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str) -> None:
  result = invoke(*arguments)
  assert result.exit_code == 2
  assert re.search(message, result.stderr), result.stderr
  assert result.stderr.count('\n') == 1


def test_runs_that_are_refused(
  ledger: str, settings: Mapping[str, Any]
) -> None:
  finer = {**settings, 'aggregator': {**settings['aggregator'], 'bits': 21}}
  record(ledger, 'short', settings, rounds=1)
  record(ledger, 'finer', finer)
  record(ledger, 'bare', {})
  for name, message in (
    ('theirs', r"no run 'theirs'"),
    ('short', r'must have all of its 2 rounds. Found 1. Finish it'),
    ('finer', r'aggregator.bits is 21 in the ledger and 20 now'),
    ('bare', r'says nothing of its training. Audit without --run'),
  ):
    result = invoke(f'--run={name}', '--ledger', ledger)
    assert result.exit_code == 2
    assert re.search(message, result.stderr), result.stderr
    assert result.stderr.count('\n') == 1


def test_a_model_that_gives_nan_is_refused(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  class Diverging(Quick):
    def loop(self, name: str) -> inference.Train:
      return lambda members: np.full(members.size, np.nan)

  monkeypatch.setattr(membership, 'Game', Diverging)
  result = invoke('--rounds=1')
  assert result.exit_code == 2
  assert 'must be finite. Found 360 of 360 values' in result.stderr
