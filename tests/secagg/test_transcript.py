# SPDX-License-Identifier: Apache-2.0
"""Transcripts: what they take, and that no byte of one can change unseen."""

import hashlib
import json
import os

import numpy as np
import pytest

from tff_secagg_ext.secagg import inspection, transcript
from tff_secagg_ext.secagg.setup import Security, Setup, VectorSpec

SETUP = Setup(
  session=bytes(range(32)),
  round=3,
  security=Security('curious', neighbors=2, threshold=1),
  verify=False,
  min_survivors=2,
  vectors=(VectorSpec('ü', 2, 1 << 8),),
)


def record(kept):
  """Writes the shortest session that there is: 3 clients, passive."""
  kept.record('setup', **transcript.setup_fields(SETUP))
  for stage in ('invite', 'share', 'mask', 'unmask'):
    if stage == 'share':
      kept.record(
        'graph', clients=[1, 2, 5], neighbors=2, threshold=1, seed=bytes(32)
      )
    if stage == 'unmask':
      kept.record('survivors', survivors=[1, 2, 5])
    answers = [[client, 10, 20, 0.25] for client in (1, 2, 5)]
    kept.record('stage', stage=stage, answers=answers, dropouts=[], refusals=[])
  kept.record('result', digest=bytes(32), verified=None, seconds=1.5)
  return kept


@pytest.fixture(scope='module')
def lines():
  return record(transcript.Transcript.in_memory()).lines


def refused(changed, line=None):
  """Demands that lines are refused, and returns why."""
  with pytest.raises(transcript.TranscriptError) as caught:
    inspection.check(changed)
  if line is not None:
    assert caught.value.line == line, caught.value
    assert str(caught.value).startswith(f'line {line}: ')
  return str(caught.value)


def test_a_line_is_what_the_page_says(lines):
  """Of the hash and the chain, by their definition alone."""
  previous = '0' * 64
  for number, line in enumerate(lines):
    assert line.endswith(b'\n') and line.count(b'\n') == 1
    fields = json.loads(line)
    hashed = {key: value for key, value in fields.items() if key != 'hash'}
    text = json.dumps(hashed, sort_keys=True, separators=(',', ':'))
    assert fields['hash'] == hashlib.sha256(text.encode()).hexdigest()
    assert (fields['seq'], fields['prev']) == (number, previous)
    assert fields['time'] > 1.7e9
    previous = fields['hash']
  assert json.loads(lines[0])['session'] == bytes(range(32)).hex()
  assert json.loads(lines[0])['vectors'] == [['ü', 2, 256]]


def test_it_is_taken(lines):
  summary = inspection.check(lines)
  assert summary.survivors == summary.clients == 3
  assert (summary.neighbors, summary.threshold) == (2, 1)
  assert (summary.upload_bytes, summary.download_bytes) == (120, 240)
  assert summary.seconds == 1.5
  assert summary.digest == bytes(32).hex()
  assert summary.signatures == 0
  assert summary.hash == json.loads(lines[-1])['hash']


def test_each_flipped_bit_is_found(lines):
  for number, line in enumerate(lines, 1):
    for place in range(len(line)):
      for bit in range(8):
        altered = bytearray(line)
        altered[place] ^= 1 << bit
        changed = [*lines]
        changed[number - 1] = bytes(altered)
        refused(changed, number)


def test_each_byte_of_a_file_is_part_of_it(lines, tmp_path):
  """Read as a file: a flip in a line feed moves the ends of lines, too."""
  path, data = tmp_path / 'file.jsonl', b''.join(lines)
  ends = [i for i, byte in enumerate(data) if byte == ord('\n')]
  for place in [*ends, *range(0, len(data), 41)]:
    for flip in (1, 0x20, 0x80):
      altered = bytearray(data)
      altered[place] ^= flip
      path.write_bytes(altered)
      with pytest.raises(transcript.TranscriptError):
        inspection.verify_file(path)


def test_each_truncation_is_found(lines, tmp_path):
  path, data = tmp_path / 'file.jsonl', b''.join(lines)
  for size in range(len(data)):
    path.write_bytes(data[:size])
    with pytest.raises(transcript.TranscriptError):
      inspection.verify_file(path)
  path.write_bytes(data)
  inspection.verify_file(path)


def test_a_missing_end_is_named(lines):
  end = 'the end is missing: neither a result nor an abort'
  assert end in refused(lines[:-1], len(lines))
  assert end in refused([], 1)


def test_missing_repeated_moved_and_added_lines_are_found(lines):
  count = len(lines)
  for i in range(count):
    if i < count - 1:
      wrong = 'does not follow the line before it'
      assert wrong in refused([*lines[:i], *lines[i + 1 :]], i + 1)
      swapped = [*lines]
      swapped[i : i + 2] = reversed(swapped[i : i + 2])
      refused(swapped, i + 1)
    refused([*lines[: i + 1], *lines[i:]], i + 2)
    for j in range(count):
      refused([*lines[:i], lines[j], *lines[i:]])
    refused([*lines[:i], b'\n', *lines[i:]], i + 1)
  assert "has ended with 'result'" in refused([*lines, lines[-1]], count + 1)


def test_lines_of_two_sessions_are_found(lines):
  others = record(transcript.Transcript.in_memory()).lines
  if lines[0] != others[0]:  # two within a millisecond are one
    refused([lines[0], *others[1:]], 2)
    refused([*lines[:-1], others[-1]], len(lines))


def chained(fields):
  """A line whose hash is right, whatever it says."""
  text = json.dumps(fields, sort_keys=True, separators=(',', ':'))
  fields['hash'] = hashlib.sha256(text.encode()).hexdigest()
  text = json.dumps(fields, sort_keys=True, separators=(',', ':'))
  return text.encode() + b'\n'


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (b'\xff\n', 'is not a line of JSON'),
    (b'{\n', 'is not a line of JSON'),
    (b'{"a":NaN}\n', 'is not a line of JSON'),
    (b'[' * 100_000 + b'\n', 'is not a line of JSON'),
    (b'{"a":' + b'9' * 5000 + b'}\n', 'JSON|has not all of'),
    (b'[]\n', 'has not all of seq, prev, time, event, hash'),
    (b'{"seq":0}\n', 'has not all of seq, prev, time, event, hash'),
  ],
)
def test_what_is_no_line(data, message):
  with pytest.raises(transcript.TranscriptError, match=f'line 1: .*{message}'):
    list(transcript.read([data]))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'seq': 1}, 'does not follow the line before it'),
    ({'prev': '1' * 64}, 'does not follow the line before it'),
    ({'event': 'other'}, "event 'other' is none of setup, stage, keys, graph"),
    ({'event': 7}, 'event 7 is none of'),
    ({'event': ['setup']}, r"event \['setup'\] is none of"),
    ({'secret': ''}, "event 'aborted' has the fields reason, stage, sum_known"),
  ],
)
def test_a_right_hash_is_not_enough(change, message):
  fields = {
    'seq': 0,
    'prev': '0' * 64,
    'time': 0.0,
    'event': 'aborted',
    'reason': '',
    'stage': 'invite',
    'sum_known': False,
  }
  list(transcript.read([chained(dict(fields))]))
  with pytest.raises(transcript.TranscriptError, match=f'line 1: .*{message}'):
    list(transcript.read([chained({**fields, **change})]))


def test_the_form_of_a_line_is_canonical(lines):
  """What JSON takes for the same is not the same."""
  loose = json.dumps(json.loads(lines[0])).encode() + b'\n'
  assert 'is not what was written' in refused([loose, *lines[1:]], 1)
  unsorted = dict(reversed(json.loads(lines[0]).items()))
  text = json.dumps(unsorted, separators=(',', ':')).encode() + b'\n'
  refused([text, *lines[1:]], 1)
  refused([lines[0].replace(b'{', b'{"seq":0,', 1), *lines[1:]], 1)
  refused([lines[0].removesuffix(b'\n') + b'\r\n', *lines[1:]], 1)
  refused([*lines[:-1], lines[-1].removesuffix(b'\n')], len(lines))


def test_a_file_is_on_the_disk_at_the_end(tmp_path, monkeypatch):
  synced = []
  fsync = os.fsync
  monkeypatch.setattr(os, 'fsync', lambda fd: (synced.append(fd), fsync(fd)))
  folder = tmp_path / 'made' / 'here'
  kept = record(transcript.Transcript.create(folder, SETUP.session, 3))
  assert len(synced) == 1
  assert kept.path == folder / f'round-00000003-{SETUP.session.hex()}.jsonl'
  assert inspection.verify_file(kept.path).hash == kept.hash


def test_lines_are_in_the_file_as_they_are_recorded(tmp_path):
  kept = transcript.Transcript.create(tmp_path, SETUP.session, 3)
  kept.record('setup', **transcript.setup_fields(SETUP))
  assert kept.path.read_bytes().count(b'\n') == 1
  kept.close()
  kept.close()
  with pytest.raises(transcript.TranscriptError, match='line 2: the end is mi'):
    inspection.verify_file(kept.path)


def test_a_file_is_never_written_to_again(tmp_path):
  kept = record(transcript.Transcript.create(tmp_path, SETUP.session, 3))
  before = kept.path.read_bytes()
  with pytest.raises(FileExistsError, match='round-00000003-000102'):
    transcript.Transcript.create(tmp_path, SETUP.session, 3)
  assert kept.path.read_bytes() == before
  transcript.Transcript.create(tmp_path, SETUP.session, 4).close()


@pytest.mark.parametrize('in_memory', [True, False])
def test_nothing_is_recorded_after_the_end(tmp_path, in_memory):
  kept = (
    transcript.Transcript.in_memory()
    if in_memory
    else transcript.Transcript.create(tmp_path, SETUP.session, 3)
  )
  record(kept)
  with pytest.raises(
    ValueError, match=r"that has ended takes no 'survivors'\. Begin another"
  ):
    kept.record('survivors', survivors=[])


def test_lines_are_those_of_memory(tmp_path):
  kept = transcript.Transcript.create(tmp_path, SETUP.session, 3)
  with pytest.raises(ValueError, match=r'transcript is a file\. Read .*jsonl'):
    _ = kept.lines
  kept.close()


@pytest.mark.parametrize(
  ('event', 'fields', 'error', 'message'),
  [
    ('other', {}, ValueError, "`event` must be 'setup' or 'stage' or 'keys'"),
    (7, {}, TypeError, "`event` must be a string, 'setup' or 'stage'"),
    (
      'survivors',
      {},
      ValueError,
      "event 'survivors' has the fields confirmations, survivors. Found",
    ),
    (
      'survivors',
      {'survivors': [], 'private_key': b'x'},
      ValueError,
      'Found private_key, survivors',
    ),
    (
      'survivors',
      {'survivors': {1, 2}},
      TypeError,
      'takes numbers, strings, bytes and lists of them. Found set',
    ),
    (
      'result',
      {'digest': b'', 'verified': None, 'seconds': float('nan')},
      ValueError,
      'not JSON compliant',
    ),
  ],
)
def test_what_is_not_in_the_table_is_not_recorded(
  event, fields, error, message
):
  kept = transcript.Transcript.in_memory()
  with pytest.raises(error, match=message):
    kept.record(event, **fields)
  assert kept.lines == ()


def test_values_of_numpy_are_taken():
  kept = transcript.Transcript.in_memory()
  kept.record('survivors', survivors=[np.int64(3), np.uint32(4)])
  kept.record('result', digest=b'\xab', verified=True, seconds=np.float32(0.5))
  first, second = map(json.loads, kept.lines)
  assert first['survivors'] == [3, 4]
  assert (second['digest'], second['seconds']) == ('ab', 0.5)


def test_errors_tell_no_value():
  with pytest.raises(TypeError) as caught:
    transcript.Transcript.in_memory().record(
      'survivors', survivors=bytearray(b'secret')
    )
  assert 'secret' not in str(caught.value)
