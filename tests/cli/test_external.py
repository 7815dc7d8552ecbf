# SPDX-License-Identifier: Apache-2.0
"""The ledger's commands for external events and populations."""

from __future__ import annotations

import json
import pathlib

from dp_accounting import dp_event
import pytest

from tests.cli.test_ledger import invoke
from tests.ledger import test_external as shared
from tff_secagg_ext import accounting
from tff_secagg_ext.ledger import Ledger, compose_population


@pytest.fixture
def ledger(tmp_path: pathlib.Path) -> str:
  """The option that names a ledger with a federated run."""
  location = f'sqlite:///{tmp_path / "runs.db"}'
  with Ledger.open(location) as opened:
    shared.federated(opened)
  return f'--ledger={location}'


def imported(file: object, ledger: str, *args: str, **kwargs: object):
  return invoke(
    'import-external',
    file,
    ledger,
    '--run=silo',
    '--population=patients',
    '--delta=1e-5',
    '--vouched-by=the lab',
    '--source=opacus 1.6.0',
    *args,
    **kwargs,
  )


def test_a_history_is_imported_and_composed(
  ledger: str, tmp_path: pathlib.Path
) -> None:
  file = tmp_path / 'history.json'
  state = {'history': shared.HISTORY, 'mechanism': 'prv'}
  file.write_text(json.dumps(state, indent=2))
  first = imported(file, ledger)
  assert first.exit_code == 0, first.output
  assert first.output.startswith('silo: 4 entries of 1 sessions are as they')
  again = imported('-', ledger, input=json.dumps(shared.HISTORY))
  assert again.output.startswith('silo: 4 entries of 2 sessions are as they')
  shown = invoke('show', 'silo', ledger)
  assert 'external: opacus 1.6.0 (central), vouched for by the lab' in ' '.join(
    shown.output.split()
  )
  told = invoke('epsilon', '--population=patients', ledger, '--json')
  assert told.exit_code == 0
  location = ledger.partition('=')[2]
  with Ledger.open(location) as opened:
    account = compose_population(opened, 'patients')
  assert json.loads(told.output) == account.to_json()
  table = invoke('epsilon', '--population=patients', ledger)
  words = ' '.join(table.output.split())
  assert f'{account.release.value:.4g}' in words
  assert f'{account.server.value:.4g}' in words
  assert 'δ = 1e-05, of which 0 pays for claims that may fail' in words
  assert '0 attempts are open' in words
  assert 'recorded' in words


def test_an_event_of_dp_accounting_is_imported(
  ledger: str, tmp_path: pathlib.Path
) -> None:
  event = accounting.ExternalEvent.of(
    dp_event.NonPrivateDpEvent(),
    trust_domain='enclave',
    vouched_by='x',
    source='y',
  )
  file = tmp_path / 'event.json'
  file.write_text(event.event)
  result = imported(file, ledger, '--trust-domain=enclave', '--by-coordinator')
  assert result.exit_code == 0, result.output
  table = invoke('epsilon', '--population=patients', ledger)
  assert 'patients: ε is infinite: opacus 1.6.0: NonPrivateDpEvent has' in (
    ' '.join(table.output.split())
  )
  assert '∞' in table.output


@pytest.mark.parametrize(
  ('text', 'args', 'message'),
  [
    ('{', (), 'The file must be JSON. Found'),
    ('3', (), '`history` must be a list of'),
    ('[]', (), '`events` must hold an event'),
    ('[[1.0, 0.1, 2.5]]', (), '`history[0].num_steps` must be an integer'),
    ('[[1.0, 1.5, 2]]', (), '`history[0].sample_rate` must be in [0, 1]'),
    ('{"class":"GaussianDpEvent"}', (), 'A GaussianDpEvent must have the'),
    ('[[1.0, 0.1, 2]]', ('--trust-domain=x',), '`trust_domain` must be'),
    ('[[1.0, 0.1, 2]]', ('--delta=1.5',), '`delta` must be in (0, 1)'),
    ('[[1.0, 0.1, 2]]', ('--size=0',), '`population` must be at least 1'),
  ],
)
def test_bad_files_are_one_line(
  ledger: str,
  tmp_path: pathlib.Path,
  text: str,
  args: tuple[str, ...],
  message: str,
) -> None:
  file = tmp_path / 'bad.json'
  file.write_text(text)
  result = imported(file, ledger, *args)
  assert result.exit_code == 2
  assert message in result.stderr
  assert len(result.stderr.strip().splitlines()) == 1
  assert imported(tmp_path / 'none', ledger).exit_code == 2


def test_populations_that_cannot_be_composed_are_one_line(ledger: str) -> None:
  unknown = invoke('epsilon', '--population=nobody', ledger)
  assert unknown.exit_code == 2
  assert "must be one that runs declare: 'patients'" in unknown.stderr
  imported('-', ledger, '--unit=example', input='[[1.0, 0.1, 2]]')
  mixed = invoke('epsilon', '--population=patients', ledger)
  assert mixed.exit_code == 2
  assert 'must have the same unit_of_privacy' in mixed.stderr
  shared.test_chain.forge(
    ledger.partition('=')[2], 'DELETE FROM entries WHERE sequence = 2'
  )
  broken = invoke('epsilon', '--population=patients', ledger)
  assert broken.exit_code == 1
  assert 'entry 2 is missing' in broken.stderr
