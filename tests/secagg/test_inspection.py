# SPDX-License-Identifier: Apache-2.0
"""Tests of transcripts and their inspection, on those of real sessions."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from tff_secagg_ext.secagg import errors, inspection, simulation, transcript
from tff_secagg_ext.secagg.setup import Security, VectorSpec

SPECS = [VectorSpec('a', 3, 1 << 8)]


def drops(stage: str, client: int) -> bool:
  return (stage, client) in {('invite', 1), ('reveal', 2), ('mask', 3)}


def record(threat: str, kept: transcript.Transcript) -> tuple[int, ...]:
  outcome = simulation.Simulation(Security(threat, dropout=0.2)).run(
    range(12),
    SPECS,
    lambda client: {'a': np.full(3, client)},
    dropouts=drops,
    transcript=kept,
  )
  return outcome.survivors


@pytest.mark.parametrize('threat', ['curious', 'semi-malicious', 'malicious'])
def test_a_real_session_is_taken(threat: str):
  kept = transcript.Transcript.in_memory()
  survivors = record(threat, kept)
  summary = inspection.check(kept.lines)
  assert summary.survivors == len(survivors)
  assert summary.verified is (True if threat == 'malicious' else None)
  assert summary.dropouts['mask'] == 1
  assert (summary.signatures > 0) == (threat != 'curious')


def test_a_file_is_taken_and_never_overwritten(tmp_path: pathlib.Path):
  session = b's' * 32
  kept = transcript.Transcript.create(tmp_path, session, 7)
  record('malicious', kept)
  assert inspection.verify_file(kept.path).threat == 'malicious'
  with pytest.raises(FileExistsError):
    transcript.Transcript.create(tmp_path, session, 7)


def test_other_identities_are_found():
  kept = transcript.Transcript.in_memory()
  record('malicious', kept)
  with pytest.raises(transcript.TranscriptError, match='not known by this'):
    inspection.check(kept.lines, {0: b'i' * 32})


def test_each_altered_line_is_found():
  kept = transcript.Transcript.in_memory()
  record('malicious', kept)
  lines = kept.lines
  for number, line in enumerate(lines):
    for place in range(0, len(line) - 1, 97):
      altered = bytearray(line)
      altered[place] ^= 1
      changed = [*lines[:number], bytes(altered), *lines[number + 1 :]]
      with pytest.raises(transcript.TranscriptError):
        inspection.check(changed)


def test_missing_repeated_and_moved_lines_are_found():
  kept = transcript.Transcript.in_memory()
  record('curious', kept)
  lines = kept.lines
  for number in range(len(lines)):
    for changed in (
      lines[:number] + lines[number + 1 :],
      lines[: number + 1] + lines[number:],
      lines[:number],
    ):
      with pytest.raises(transcript.TranscriptError):
        inspection.check(changed)


def test_a_new_chain_around_a_forged_signature_is_found():
  kept = transcript.Transcript.in_memory()
  record('malicious', kept)
  forged = transcript.Transcript.in_memory()
  for line in kept.lines:
    fields = json.loads(line)
    event = fields.pop('event')
    for name in ('seq', 'prev', 'time', 'hash'):
      del fields[name]
    if event == 'survivors':
      client, signature = fields['confirmations'][0]
      last = '0' if signature[-1] != '0' else '1'
      fields['confirmations'][0] = [client, signature[:-1] + last]
    forged.record(event, **fields)
  with pytest.raises(transcript.TranscriptError, match='does not verify'):
    inspection.check(forged.lines)


def test_an_aborted_session_is_taken():
  kept = transcript.Transcript.in_memory()
  with pytest.raises(errors.Aborted, match='must be left'):
    simulation.Simulation(Security('curious'), min_survivors=5).run(
      range(5),
      SPECS,
      lambda client: {'a': np.full(3, client)},
      dropouts=lambda stage, client: stage == 'share' and client == 0,
      transcript=kept,
    )
  assert 'must be left' in (inspection.check(kept.lines).aborted or '')
