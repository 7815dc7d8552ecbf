# SPDX-License-Identifier: Apache-2.0
"""`tff-secagg budget plan`, and `train --target-epsilon`, which runs it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from tff_secagg_ext import accounting, program
from tff_secagg_ext.cli.app import app

DELTA = '--delta=0.001'
PLAN = ['budget', 'plan', DELTA, '--population=360', '--dim=650']
SIZES = ['--clients-per-round=20', '--rounds=3']


def invoke(*args: str) -> Any:
  return CliRunner().invoke(app, list(args), catch_exceptions=False)


def planned(*args: str) -> list[dict[str, Any]]:
  result = invoke(*PLAN, *args, '--json')
  assert result.exit_code == 0, result.output
  found = json.loads(result.stdout)
  assert isinstance(found, list)
  return found


def train(folder: Any, *args: str) -> Any:
  return invoke(
    'train',
    DELTA,
    '--protocol=plain',
    '--run=mine',
    f'--ledger=sqlite:///{folder}/runs.db',
    f'--checkpoints={folder}/checkpoints',
    *args,
  )


def recorded(folder: Any) -> dict[str, Any]:
  ledger = f'--ledger=sqlite:///{folder}/runs.db'
  found = json.loads(invoke('ledger', 'show', 'mine', ledger, '--json').stdout)
  assert isinstance(found, dict)
  return found


@pytest.mark.parametrize('view', ['release', 'server'])
def test_a_plan_meets_the_target_and_training_agrees_to_the_last_bit(
  tmp_path: Any, view: str
) -> None:
  target = ['--target-epsilon=4', f'--target-view={view}', *SIZES]
  (choice,) = planned(*target)
  assert 3.98 < choice[f'{view}_epsilon'] <= 4.0
  result = train(tmp_path, *target)
  assert result.exit_code == 0, result.output
  assert f'({view} view) after 3 rounds' in ' '.join(result.output.split())
  run = recorded(tmp_path)
  assert len(run['rounds']) == 3
  noise = run['settings']['aggregator']['noise_multiplier']
  assert noise == choice['noise_multiplier']
  for name in ('release_epsilon', 'server_epsilon'):
    assert run[name] == choice[name]
  assert run['settings']['budget']['epsilon'] == 4.0
  assert run['settings']['budget']['view'] == view
  if view == 'release':
    # The same command goes on, where nothing is left to do.
    assert train(tmp_path, *target).exit_code == 0


def test_training_stops_before_the_round_that_would_pass(
  tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
  calibrated = program.RunPlan.calibrated

  def less(*args: Any, **kwargs: Any) -> accounting.Calibrated[float]:
    found = calibrated(*args, **kwargs)
    return dataclasses.replace(found, value=0.9 * found.value)

  monkeypatch.setattr(program.RunPlan, 'calibrated', less)
  result = train(tmp_path, '--target-epsilon=4', '--target-view=server', *SIZES)
  assert result.exit_code == 3, result.output
  assert 'Stopped after round 2' in result.output
  assert "Run 'mine' must stay within epsilon 4" in result.output
  run = recorded(tmp_path)
  assert [item['status'] for item in run['rounds']] == ['committed'] * 2
  assert run['server_epsilon'] <= 4.0


def test_a_plan_is_a_table_of_choices() -> None:
  args = ['--target-epsilon=4', '--rounds=3', '--rounds=30']
  choices = planned(*args, '--clients-per-round=60', '--clients-per-round=120')
  assert [(c['clients_per_round'], c['rounds']) for c in choices] == [
    (60, 3), (60, 30), (120, 3), (120, 30)
  ]  # fmt: skip
  for choice in choices:
    assert choice['release_epsilon'] <= 4.0 < choice['server_epsilon']
    assert choice['upload_bytes'] > 1024 * 20 / 8
    assert 0 < choice['mean_error'] < 1
    assert (choice['warning'] is None) == (choice['noise_multiplier'] >= 1)
  noise = [c['noise_multiplier'] for c in choices]
  assert noise[0] < noise[1]
  assert noise[2] < noise[3]
  table = invoke(*PLAN, *args, '--clients-per-round=60').stdout
  assert f'{noise[0]:.3g} !' in table
  assert '! a noise multiplier below 1' in ' '.join(table.split())
  assert 'ε = 4 at δ = 0.001, release view' in table


def test_by_default_parts_of_the_population_are_planned() -> None:
  choices = planned('--target-epsilon=8', '--cohorts=fixed', '--rounds=10')
  assert [c['clients_per_round'] for c in choices] == [10, 12, 36]


def test_choices_that_there_are_not_say_why() -> None:
  args = ['--target-epsilon=4', '--rounds=3', '--clients-per-round=60']
  choices = planned(*args, '--clients-per-round=5')
  assert choices[0]['refused'] is None
  assert '`minimum` must be at least 1' in choices[1]['refused']
  assert choices[1]['noise_multiplier'] is None
  table = invoke(*PLAN, *args, '--clients-per-round=5').stdout
  assert '5 clients, 3 rounds: `minimum` must be' in table


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (
      ['--target-epsilon=0.001', '--bits=12', '--target-view=server'],
      'The nearest that can be met is epsilon',
    ),
    (['--target-epsilon=0'], '`epsilon` must be in (0, inf)'),
    (['--target-epsilon=1', '--delta=1'], '`delta` must be in (0, 1)'),
    (['--target-epsilon=1', '--delta=0'], '`delta` must be in (0, 1)'),
    (['--target-epsilon=1', '--rounds=-3'], '`rounds` must be at least 1'),
    (
      ['--target-epsilon=1', '--clients-per-round=361'],
      'the chance to take part would be above 1',
    ),
    (['--target-epsilon=1', '--dim=0'], '`dim` must be at least 1'),
    (['--target-epsilon=1', '--target-view=all'], "`view` must be 'release'"),
    (['--target-epsilon=1', '--bits=4'], '`bits` must be enough'),
  ],
)
def test_plans_that_cannot_be_are_refused_in_one_line(
  args: list[str], message: str
) -> None:
  result = invoke(*PLAN, *SIZES[:1], '--rounds=3', *args)
  assert result.exit_code == 2
  assert message in result.stderr
  assert result.stderr.count('\n') == 1


def test_a_large_delta_is_warned_of() -> None:
  result = invoke(*PLAN, '--target-epsilon=4', '--delta=0.01', *SIZES)
  assert result.exit_code == 0
  assert 'Warning: delta 0.01 is above 1/360' in result.stderr


def test_training_refuses_a_target_it_cannot_meet(tmp_path: Any) -> None:
  target = ['--target-epsilon=0.001', '--target-view=server', '--bits=12']
  result = train(tmp_path, *target, *SIZES)
  assert result.exit_code == 2
  assert 'The nearest that can be met is epsilon' in result.output
  both = train(tmp_path, '--target-epsilon=4', '--noise-multiplier=1')
  assert both.exit_code == 2
  assert 'not both' in both.output
