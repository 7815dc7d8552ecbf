# SPDX-License-Identifier: Apache-2.0
"""Nothing that a run writes tells a client's data, its id, or a secret."""

from __future__ import annotations

import base64
from collections.abc import Callable
import json
import logging
import os
import pathlib
import subprocess
import sys
import traceback
from typing import Any

import numpy as np
import pytest

from tests.program import markers
from tff_secagg_ext import accounting, ledger
from tff_secagg_ext.program import checkpoints
from tff_secagg_ext.program.account import Settlement

_ROUND = accounting.Round((), accounting.NoSampling())
_FLOATS = np.array(markers.DATA, np.float32)
_ID = f'{markers.CLIENT}7'


@pytest.fixture(scope='module')
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
  """The folder of a run with all its output, what it told, and the secrets."""
  folder = tmp_path_factory.mktemp('planted')
  secrets = tmp_path_factory.mktemp('secrets') / 'secrets.json'
  command = [sys.executable, '-m', 'tests.program.planted_run']
  environment = {**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '0'}
  with (
    open(folder / 'stdout', 'wb') as stdout,
    open(folder / 'stderr', 'wb') as stderr,
  ):
    ran = subprocess.run(
      [*command, str(folder), str(secrets)],
      stdout=stdout,
      stderr=stderr,
      env=environment,
      timeout=300,
      check=False,
    )
  assert ran.returncode == 0, (folder / 'stderr').read_text()[-2000:]
  told = json.loads((folder / 'stdout').read_text().splitlines()[-1])
  known = json.loads(secrets.read_text())
  named = {
    f'{kind} {number}': bytes.fromhex(secret)
    for kind, found in known.items()
    for number, secret in enumerate(found)
  }
  return folder, told, named


def test_no_file_log_error_or_output_tells_of_a_client(written: Any) -> None:
  folder, _, secrets = written
  found = markers.found_in(folder, secrets)
  # What hides the coordinator's view stays in the database, as documented.
  kept = {
    name: {what for what in found.pop(name, ()) if what.startswith('salt')}
    for name in ('runs.db', 'runs.db-wal')
  }
  assert found == {}
  assert any(kept.values())
  rest = markers.found_in(
    folder, {n: s for n, s in secrets.items() if not n.startswith('salt')}
  )
  assert rest == {}


def test_the_run_writes_to_every_channel_and_fails_everywhere(
  written: Any,
) -> None:
  folder, told, secrets = written
  ended = told['ended']
  assert told['codes'] == [0] * 7
  assert ended['a client that cannot be read'] == 'WithheldError'
  assert ended['clients that are an array, summed by TFF'] == 'WithheldError'
  assert ended['a federated program'] == 'WithheldError'
  assert ended['a ledger that breaks'] == 'LedgerWriteError'
  assert ended['a session that is aborted'] == 'RoundAborted'
  assert sum(kind == '' for kind in ended.values()) == 2  # Zeroed: no number.
  for name in ('log', 'exceptions', 'commands', 'reprs', 'released', 'stderr'):
    assert (folder / name).stat().st_size > 100, name
  for name in ('checkpoints', 'cli', 'transcripts'):
    assert any((folder / name).rglob('*')), name
  log = (folder / 'log').read_text()
  assert all(level in log for level in ('DEBUG:', 'WARNING:', 'ERROR:'))
  assert sum(name.startswith('key') for name in secrets) > 100


def _ledger(folder: pathlib.Path, leak: Callable[[Any], object]) -> None:
  with ledger.Ledger.open(folder / 'runs.db') as opened:
    leak(opened.open_run('a', {}, delta=1e-5))


def _checkpoint(folder: pathlib.Path) -> None:
  settled = Settlement(_ROUND, {})
  number = ledger.Attempt(1, 1)
  checkpoints.Checkpoints(folder / 'checkpoints').save(
    checkpoints.at_end_of(number, settled, _FLOATS, np.zeros(2, np.int32))
  )


def _summary(folder: pathlib.Path, value: object) -> None:
  import tensorflow as tf

  pytest.importorskip('tensorboard', reason='TensorFlow came without it')
  with tf.summary.create_file_writer(str(folder)).as_default():
    if isinstance(value, str):
      tf.summary.text('client', value, step=1)
    else:
      tf.summary.scalar('loss', value, step=1)


def _logged(folder: pathlib.Path) -> None:
  handler = logging.FileHandler(folder / 'log')
  logger = logging.getLogger('tff_secagg_ext.leaky')
  logger.addHandler(handler)
  logger.setLevel(logging.DEBUG)
  logger.debug('update %s', _FLOATS)
  logger.removeHandler(handler)
  handler.close()


def _raised(folder: pathlib.Path) -> None:
  try:
    try:
      raise KeyError(_ID)
    except KeyError as cause:
      raise ValueError('A round failed.') from cause
  except ValueError as error:
    text = ''.join(traceback.format_exception(error))
    (folder / 'exceptions').write_text(text)


def _printed(folder: pathlib.Path) -> None:
  code = f'import sys; print({markers.UPDATE}); print("{_ID}", file=sys.stderr)'
  with open(folder / 'stdout', 'wb') as out, open(folder / 'err', 'wb') as err:
    subprocess.run([sys.executable, '-c', code], stdout=out, stderr=err)


def _transcribed(folder: pathlib.Path) -> None:
  line = {'event': 'stage', 'vector': _FLOATS.tobytes().hex()}
  (folder / 'transcript').write_text(json.dumps(line))


# One leak for each channel, written as the channel is.
_LEAKS: dict[str, Callable[[pathlib.Path], object]] = {
  'ledger, measurement': lambda folder: _ledger(
    folder,
    lambda run: run.commit(
      run.reserve(_ROUND), _ROUND, {'scale': markers.DATA[0]}
    ),
  ),
  'ledger, note': lambda folder: _ledger(
    folder, lambda run: run.lose(run.reserve(_ROUND), _ROUND, _ID)
  ),
  'ledger, protocol': lambda folder: _ledger(
    folder,
    lambda run: run.commit(
      run.reserve(_ROUND),
      _ROUND,
      {},
      {'sum': base64.b64encode(_FLOATS.tobytes()).decode()},
    ),
  ),
  'checkpoint': _checkpoint,
  'file name': lambda folder: (folder / f'checkpoint-{_ID}').touch(),
  'TensorBoard, scalar': lambda folder: _summary(folder, _FLOATS[1]),
  'TensorBoard, text': lambda folder: _summary(folder, _ID),
  'log at DEBUG': _logged,
  'cause of an exception': _raised,
  'output': _printed,
  'transcript': _transcribed,
}


@pytest.mark.parametrize('channel', _LEAKS)
def test_a_leak_in_a_channel_is_found(
  channel: str, tmp_path: pathlib.Path
) -> None:
  assert markers.found_in(tmp_path) == {}
  _LEAKS[channel](tmp_path)
  assert markers.found_in(tmp_path) != {}


@pytest.mark.parametrize(
  'text',
  [
    repr(_FLOATS),
    str(_FLOATS[0]),
    f'{markers.DATA[1]:g}',
    f'{markers.UPDATE[2]:e}',
    json.dumps(markers.UPDATE[-1:]),
    f'x{markers.CLIENT}x'.encode().hex(),
    f'{markers.CLIENT}'.encode().hex().upper(),
    base64.b64encode(b'x' + _ID.encode()).decode(),
    base64.b64encode(b'xx' + _FLOATS.tobytes() + b'x').decode(),
    np.float32(markers.UPDATE[3]).tobytes().hex(),
    np.array(markers.DATA).tobytes().hex(),
  ],
)
def test_a_form_is_found(text: str, tmp_path: pathlib.Path) -> None:
  (tmp_path / 'file').write_text(f'before {text} after')
  assert set(markers.found_in(tmp_path)) == {'file'}


@pytest.mark.parametrize('dtype', ['<f4', '>f4', '<f8', '>f8'])
def test_bytes_of_a_number_are_found(
  dtype: str, tmp_path: pathlib.Path
) -> None:
  (tmp_path / 'file').write_bytes(np.array(markers.UPDATE[0], dtype).tobytes())
  assert set(markers.found_in(tmp_path)) == {'file'}


def test_a_secret_is_found_raw_and_as_text(tmp_path: pathlib.Path) -> None:
  secret = os.urandom(32)
  (tmp_path / 'raw').write_bytes(b'x' + secret)
  (tmp_path / 'hex').write_text(secret.hex())
  (tmp_path / 'base64').write_bytes(base64.b64encode(b'xx' + secret))
  found = markers.found_in(tmp_path, {'key': secret})
  assert set(found) == {'raw', 'hex', 'base64'}
