# SPDX-License-Identifier: Apache-2.0
"""The commands: what they print, refuse, record and go on with."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tff_secagg_ext.cli.app import app


def invoke(*args: str):
  return CliRunner().invoke(app, list(args), catch_exceptions=False)


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory):
  """A run of three rounds, with what it printed and where it is."""
  folder = tmp_path_factory.mktemp('cli')
  args = [
    'train',
    '--rounds=3',
    '--clients-per-round=20',
    '--run=mine',
    f'--ledger=sqlite:///{folder}/runs.db',
    f'--checkpoints={folder}/checkpoints',
    f'--transcripts={folder}/transcripts',
  ]
  return args, invoke(*args)


def test_help_imports_no_tensorflow():
  code = (
    'import sys; from tff_secagg_ext.cli.app import app\n'
    'try: app(["--help"])\n'
    'except SystemExit: pass\n'
    'assert not {"tensorflow", "sqlalchemy"} & set(sys.modules)'
  )
  ran = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False
  )
  assert ran.returncode == 0, ran.stderr
  assert 'train' in ran.stdout
  assert 'ledger' in ran.stdout


def test_train_prints_every_round_and_both_views(trained):
  _, result = trained
  assert result.exit_code == 0, result.output
  assert 'mine: round 3/3' in result.output
  assert 'ε release' in result.output
  assert 'ε server' in result.output
  output = ' '.join(result.output.split())
  assert 'times the bytes, verified' in output
  assert 'SecAgg+ against a malicious server' in output
  assert '3 of 3 sums verified' in output
  assert 'tff-secagg ledger show mine' in result.output


def test_ledger_show_gives_the_epsilons_that_train_printed(trained):
  args, result = trained
  shown = invoke('ledger', 'show', 'mine', args[4], '--json')
  run = json.loads(shown.output)
  assert [item['round'] for item in run['rounds']] == [1, 2, 3]
  assert all(item['status'] == 'committed' for item in run['rounds'])
  for view in ('release_epsilon', 'server_epsilon'):
    assert run['rounds'][-1][view] == run[view] > 0
    assert f'{run[view]:.4g}' in result.output
  table = invoke('ledger', 'show', 'mine', args[4]).output
  assert f'{run["release_epsilon"]:.4g}' in table
  (audit,) = run['audits']
  assert audit['kind'] == 'utility'
  assert audit['entries'] == 6
  assert 0 < audit['figures']['accuracy'] < 1
  assert audit['figures']['rounds'] == 3
  listed = json.loads(invoke('ledger', 'list', args[4], '--json').output)
  assert [item['run'] for item in listed] == ['mine']
  assert 'mine' in invoke('ledger', 'list', args[4]).output


def test_sessions_are_shown_to_the_coordinator_alone(trained):
  args, _ = trained
  for options, is_server in (([], False), (['--server-view'], True)):
    table = invoke('ledger', 'show', 'mine', args[4], *options).output
    assert ('survivors' in table) == is_server
    shown = invoke('ledger', 'show', 'mine', args[4], '--json', *options)
    protocol = json.loads(shown.output)['rounds'][0]['attempts'][0]['protocol']
    assert protocol['threat'] == 'malicious'
    assert protocol['verified'] is True
    assert ('survivors' in protocol) == is_server


def test_transcripts_of_train_can_be_verified(trained):
  args, _ = trained
  folder = pathlib.Path(args[-1].partition('=')[2])
  found = sorted(folder.iterdir())
  assert len(found) == 3
  verified = invoke('secagg', 'verify', str(found[0]))
  assert verified.exit_code == 0, verified.output


def test_a_plain_run_calls_itself_insecure(tmp_path):
  ledger = f'--ledger=sqlite:///{tmp_path}/runs.db'
  result = invoke(
    'train',
    '--rounds=2',
    '--clients-per-round=20',
    '--protocol=plain',
    '--simulate-dropouts=0.1',
    '--run=plain',
    ledger,
    f'--checkpoints={tmp_path}/checkpoints',
  )
  assert result.exit_code == 0, result.output
  assert 'in the clear' in result.output
  run = json.loads(invoke('ledger', 'show', 'plain', ledger, '--json').output)
  assert 'insecure' in run['settings']['secure_sums']['secrecy']
  assert run['rounds'][0]['attempts'][-1]['protocol']['threat'] == 'plain'


def test_canaries_ride_in_a_run(tmp_path):
  ledger = f'--ledger=sqlite:///{tmp_path}/runs.db'
  result = invoke(
    'train',
    '--rounds=2',
    '--clients-per-round=60',
    '--canaries=16',
    '--coin-canaries=8',
    '--protocol=plain',
    '--run=ridden',
    ledger,
    f'--checkpoints={tmp_path}/checkpoints',
  )
  assert result.exit_code == 0, result.output
  said = ' '.join(result.output.split())
  assert 'audit one_shot: ε ≥' in said
  assert 'audit one_run: ε ≥' in said
  assert 'its 2 rounds without sampling' in said
  assert 'canaries take 24 places of each cohort' in said
  args = ('ledger', 'show', 'ridden', ledger, '--json', '--server-view')
  run = json.loads(invoke(*args).output)
  assert run['settings']['canaries'] == 24
  assert {'one_shot', 'one_run'} <= {audit['kind'] for audit in run['audits']}
  # Clients are drawn as if there were 24 places fewer.
  assert run['settings']['sampling']['probability'] == 36 / 360


def test_a_finished_run_goes_on_without_another_round(trained):
  args, _ = trained
  again = invoke(*args)
  assert again.exit_code == 0
  shown = invoke('ledger', 'show', 'mine', args[4], '--json')
  run = json.loads(shown.output)
  assert len(run['rounds']) == 3
  assert len(run['audits']) == 1


def test_a_run_with_other_settings_is_refused_by_name(trained):
  args, _ = trained
  other = invoke(*args, '--noise-multiplier=2')
  assert other.exit_code == 2
  assert 'noise_multiplier' in other.stderr
  assert len(other.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
  ['args', 'message'],
  [
    (['--task=other'], "'digits' or 'shakespeare' or 'fashion-mnist'"),
    (['--noise-multiplier=-1'], 'noise_multiplier'),
    (['--bits=31'], '`bits` must be at most 30'),
    (['--cohorts=some'], "'poisson' or 'allocated' or 'fixed'"),
    (['--mechanism=gauss'], 'mechanism'),
    (['--rounds=0'], 'rounds'),
    (['--clients-per-round=1000'], '1000'),
    (['--delta=2'], 'delta'),
    (['--ledger=/'], 'folder'),
    (['--protocol=none'], "'secagg' or 'plain'"),
    (['--threat=lazy'], "'curious' or 'semi-malicious' or 'malicious'"),
    (['--corrupt=1'], '`corrupt` must be below 1'),
    (['--dropout=-1'], 'dropout'),
    (['--simulate-dropouts=2'], 'simulate_dropouts'),
    (['--canaries=100'], '`canaries` must be at most 99'),
    (['--canaries=-1'], '`canaries` must be at least 0'),
    (['--canaries=-1', '--coin-canaries=2'], '`always` must be at least 0'),
  ],
)
def test_bad_options_are_one_line_and_exit_code_2(
  args: list[str], message: str, tmp_path, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.chdir(tmp_path)
  result = invoke('train', *args)
  assert result.exit_code == 2
  assert message in result.stderr
  assert len(result.stderr.strip().splitlines()) == 1


def test_ledgers_and_runs_that_are_not_there_are_refused(tmp_path):
  ledger = f'--ledger=sqlite:///{tmp_path}/none.db'
  missing = invoke('ledger', 'list', ledger)
  assert missing.exit_code == 2
  assert not list(tmp_path.iterdir())
