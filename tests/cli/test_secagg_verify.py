# SPDX-License-Identifier: Apache-2.0
"""`tff-secagg secagg verify`: what it prints of a transcript, and refuses."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from tff_secagg_ext.cli.app import app
from tff_secagg_ext.secagg import errors, inspection, simulation, transcript
from tff_secagg_ext.secagg.setup import Security, VectorSpec


def verify(*args):
  return CliRunner().invoke(
    app, ['secagg', 'verify', *map(str, args)], catch_exceptions=False
  )


def session(folder, *, min_survivors=2):
  """Records a session of 5 clients, of which one is lost, to a file."""
  kept = transcript.Transcript.create(folder, bytes(range(32)), 7)
  security = Security('malicious', 0.0, 0.2)
  simulation.Simulation(security, min_survivors=min_survivors).run(
    range(5),
    [VectorSpec('update', 3, 1 << 20)],
    lambda client: {'update': np.full(3, client)},
    round=7,
    dropouts=lambda stage, client: (stage, client) == ('mask', 3),
    transcripts=lambda _: kept,
  )
  return kept.path


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  return session(tmp_path_factory.mktemp('transcripts'))


def test_it_says_what_was_checked(path):
  result = verify(path)
  assert result.exit_code == 0, result.output
  summary = inspection.verify_file(path)
  for line in (
    f'session:    {summary.session}',
    'round:      7',
    f'cohort:     5 clients, class malicious, k = 4, t = {summary.threshold}',
    'survivors:  4',
    f'sum:        {summary.digest}',
    'clients:    verification accepted',
    'dropouts:   mask 1',
    'refusals:   none',
    'signatures: 9, by the identities in the file',
    f'last line:  {summary.hash}',
  ):
    assert line in result.output.splitlines()
  assert all(len(line) <= 80 for line in result.output.splitlines())


def test_json_has_all_that_python_has(path):
  result = verify(path, '--json')
  assert result.exit_code == 0
  summary = inspection.verify_file(path)
  assert inspection.Summary(**json.loads(result.output)) == summary
  assert summary.survivors == 4


def test_an_aborted_session_is_no_error(tmp_path):
  with pytest.raises(errors.Aborted):
    session(tmp_path, min_survivors=5)
  (path,) = tmp_path.iterdir()
  result = verify(path)
  assert result.exit_code == 0
  assert 'aborted:    At least 5 clients must be left. Found 4' in result.output
  assert 'survivors:' not in result.output
  assert json.loads(verify(path, '--json').output)['seconds'] is None


def test_a_broken_file_is_one_line_with_its_place(path, tmp_path):
  lines = path.read_bytes().splitlines(keepends=True)
  broken = tmp_path / 'broken.jsonl'
  altered = lines[2].replace(b'"seq":2', b'"seq":3')
  broken.write_bytes(b''.join([*lines[:2], altered, *lines[3:]]))
  result = verify(broken)
  assert result.exit_code == 1
  assert result.output == (
    f'Error: {broken}: line 3: is not what was written: its hash differs\n'
  )
  broken.write_bytes(b''.join(lines[:-1]))
  result = verify(broken)
  assert result.exit_code == 1
  assert f'line {len(lines)}: the end is missing' in result.output


def test_what_is_no_file_is_the_users_error(tmp_path):
  result = verify(tmp_path / 'none.jsonl')
  assert result.exit_code == 2
  assert result.output.startswith('Error: ') and 'none.jsonl' in result.output
  assert result.output.count('\n') == 1


def identities_of(path):
  for line in path.read_bytes().splitlines():
    fields = json.loads(line)
    if fields['event'] == 'keys':
      return {str(a[0]): a[1] for a in fields['advertisements']}
  raise AssertionError('no keys')


def test_known_identities_are_compared(path, tmp_path):
  known = tmp_path / 'identities.json'
  keys = identities_of(path)
  known.write_text(json.dumps(keys))
  result = verify(path, '--identities', known)
  assert result.exit_code == 0, result.output
  assert 'signatures: 9, by the identities that were given' in result.output
  known.write_text(json.dumps({**keys, '2': keys['1']}))
  result = verify(path, '--identities', known)
  assert result.exit_code == 1
  assert 'client 2' in result.stderr


@pytest.mark.parametrize(
  'text', ['[]', '{"1": "00"}', '{"1": 2}', 'x', '{"a": ""}']
)
def test_identities_that_are_none_are_refused(path, tmp_path, text):
  known = tmp_path / 'identities.json'
  known.write_text(text)
  result = verify(path, '--identities', known)
  assert result.exit_code == 2
  assert 'must be a JSON object of ids' in result.stderr
  assert len(result.stderr.strip().splitlines()) == 1
