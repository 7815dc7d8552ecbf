# SPDX-License-Identifier: Apache-2.0
"""`tff-secagg secagg`: what it prints, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tff_secagg_ext.cli.app import app
from tff_secagg_ext.secagg import costs
from tff_secagg_ext.secagg.setup import Security, Setup, VectorSpec

ASKED = ['--clients=10000', '--corrupt=0.05', '--dropout=0.05', '--dim=1000000']


def params(*args: str):
  return CliRunner().invoke(
    app, ['secagg', 'params', *args], catch_exceptions=False
  )


def plan(*args: str):
  result = params(*args, '--json')
  assert result.exit_code == 0, result.stderr
  return json.loads(result.stdout)


def test_params_imports_no_tensorflow():
  code = (
    'import sys; from tff_secagg_ext.cli.app import app\n'
    'try: app(["secagg", "params", "--clients=100", "--dim=1000"])\n'
    'except SystemExit as end: assert not end.code\n'
    'heavy = {"tensorflow", "tensorflow_federated", "sqlalchemy", "scipy"}\n'
    'assert not heavy & set(sys.modules)'
  )
  ran = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False
  )
  assert ran.returncode == 0, ran.stderr
  assert 'threshold t' in ran.stdout


@pytest.mark.parametrize(
  ['threat', 'expected'],
  [
    ('curious', (34, 20)),
    ('semi-malicious', (62, 44)),
    ('malicious', (62, 44)),
  ],
)
def test_params_gives_published_neighbors_and_threshold(threat, expected):
  found = plan(*ASKED, f'--threat={threat}')
  assert (found['neighbors'], found['threshold']) == expected
  assert found['verify'] == (threat == 'malicious')
  assert found['dropouts'] == 500
  assert found['server_seconds_with_dropouts'] > found['server_seconds'] > 1


def test_params_gives_the_bytes_of_a_session():
  found = plan(*ASKED, '--bits=18', '--no-verify')
  setup = Setup(
    session=bytes(32),
    round=0,
    security=Security('malicious', 0.05, 0.05),
    verify=False,
    min_survivors=1,
    vectors=(VectorSpec('update', 1_000_000, 1 << 18),),
  )
  cost = costs.predict(10_000, setup)
  assert found['upload_bytes'] == cost.client.upload
  assert found['download_bytes'] == cost.client.download
  assert found['server_bytes'] == cost.server_bytes
  assert found['vector_bytes'] == 1_000_000 * 18 // 8
  assert found['expansion'] == cost.expansion
  assert found['client_seconds'] == cost.client_seconds


def test_params_shows_the_published_figures_beside_ours():
  verified, unverified = plan(*ASKED), plan(*ASKED, '--no-verify')
  for row, formula in zip(verified['published'], ('1.73', '1.98'), strict=True):
    assert f'{row["formula"]:.2f}' == formula
    assert row['here_unverified'] < row['formula'] < row['here']
  for row in unverified['published']:
    assert row['here'] == row['here_unverified']


@pytest.mark.parametrize('threat', ['curious', 'malicious'])
def test_params_tells_what_layers_cost(threat):
  asked = ['--clients=100', '--dim=1000', f'--threat={threat}', '--no-verify']
  plain, layered = plan(*asked), plan(*asked, '--layers=30')
  assert (plain['layers'], layered['layers']) == (0, 30)
  if threat == 'malicious':
    assert (layered['neighbors'], layered['threshold']) == (99, 53)
  k = layered['neighbors']
  assert layered['upload_bytes'] >= plain['upload_bytes'] + k * 31 * 32
  assert layered['server_seconds'] > plain['server_seconds']
  printed = ' '.join(params(*asked, '--layers=30').stdout.split())
  assert 'not verified. Layers of noise: 30.' in printed


def test_tables_show_what_json_gives():
  found, printed = plan(*ASKED), params(*ASKED).stdout
  for shown in (
    'Clients: 10,000. Coordinates: 1,000,000 of 20 bits. Class: malicious',
    f' {found["neighbors"]} ',
    f' {found["threshold"]} ',
    f'{found["upload_bytes"] / 1e6:.4g} MB',
    f'{found["server_bytes"] / 1e9:.4g} GB',
    f' {found["expansion"]:.2f} ',
    f'{found["client_seconds"] * 1e3:.3g} ms',
    f'{found["server_seconds"]:.3g} s',
    'with 500 dropouts',
    ' 1.73 ',
    ' 1.98 ',
  ):
    assert shown in printed
  unverified = ' '.join(params(*ASKED, '--no-verify').stdout.split())
  assert 'Class: malicious, not verified.' in unverified
  assert max(map(len, printed.splitlines())) <= 80


def test_sizes_are_in_units_that_people_read():
  assert '824 B' in params('--clients=1', '--dim=100').stdout
  assert ' TB' in params('--clients=1000000', '--dim=1000000000').stdout


@pytest.mark.parametrize(
  ['args', 'message'],
  [
    (
      ['--corrupt=0.33', '--dropout=0.33'],
      '`corrupt` up to 0.24; `dropout` up to 0.285; `threat`',
    ),
    (['--threat=evil'], "'curious' or 'semi-malicious' or 'malicious'"),
    (['--threat=curious', '--verify'], '`verify` must be False in the class'),
    (['--clients=0'], '`clients` must be at least 1'),
    (['--dim=0'], '`dim` must be at least 1'),
    (['--bits=63'], '`bits` must be at most 62'),
    (['--corrupt=1'], '`corrupt` must be below 1'),
    (['--dropout=-0.1'], '`dropout` must be in'),
  ],
)
def test_bad_options_are_one_line_and_exit_code_2(args, message):
  result = params('--clients=1000', '--dim=1000', *args)
  assert result.exit_code == 2
  assert message in result.stderr
  assert len(result.stderr.strip().splitlines()) == 1
