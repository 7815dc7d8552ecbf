# SPDX-License-Identifier: Apache-2.0
"""Sessions: who is lost, what is reported and what is transcribed."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest

from tff_secagg_ext import execution
from tff_secagg_ext.execution import sums as sums_lib
from tff_secagg_ext.secagg import transcript
from tff_secagg_ext.secagg.setup import Security, VectorSpec

SPECS = [VectorSpec('a', 4, 2**31 - 1), VectorSpec('b', 1, 2**62)]
PROTOCOLS = pytest.mark.parametrize('protocol', ['secagg', 'plain'])


def sessions(**options: Any) -> sums_lib.Sessions:
  options.setdefault('security', Security('curious', dropout=0.5))
  return sums_lib.Sessions(execution.SecureOptions(**options))


def vectors(client: int, lost: Any = ()) -> dict[str, Any]:
  del lost
  return {
    'a': np.full(4, 2**31 - 2 - client, np.int64),
    'b': np.array([2**62 - 1 - client], np.int64),
  }


@PROTOCOLS
def test_sums_are_modular(protocol: str):
  outcome = sessions(protocol=protocol).run(SPECS, 6, vectors)
  for spec in SPECS:
    expected = sum(int(vectors(i)[spec.name][0]) for i in range(6))
    np.testing.assert_array_equal(
      outcome.sums[spec.name], np.full(spec.length, expected % spec.modulus)
    )
    assert outcome.sums[spec.name].dtype == np.int64
  assert outcome.survivors == tuple(range(6))


@PROTOCOLS
def test_work_is_asked_in_order_of_those_that_are_left(protocol: str):
  asked = []

  def work(client: int, lost: Any) -> Any:
    asked.append((client, set(lost)))
    return vectors(client)

  dropouts = execution.Dropouts({'invite': [1], 'share': [4], 'unmask': [0]})
  sessions(protocol=protocol, dropouts=dropouts).run(SPECS, 7, work)
  assert asked == [(client, {1, 4}) for client in (0, 2, 3, 5, 6)]


def test_both_protocols_lose_the_same_clients():
  dropouts = execution.Dropouts({'share': 0.2, 'mask': 0.2}, seed=3)
  secure = sessions(dropouts=dropouts)
  plain = sessions(dropouts=dropouts, protocol='plain')
  survivors = set()
  for _ in range(4):
    one = secure.run(SPECS, 20, vectors)
    other = plain.run(SPECS, 20, vectors)
    assert one.survivors == other.survivors
    assert one.report.dropouts == other.report.dropouts
    survivors.add(one.survivors)
  # Each round has draws of its own.
  assert len(survivors) == 4


def test_reports_are_collected_inside_of_the_block_alone():
  run = sessions().run
  run(SPECS, 3, vectors)
  with execution.collect_reports() as outer:
    run(SPECS, 4, vectors)
    with execution.collect_reports() as inner:
      run(SPECS, 5, vectors)
    run(SPECS, 6, vectors)
  run(SPECS, 7, vectors)
  assert [report.clients for report in outer] == [4, 5, 6]
  assert [report.clients for report in inner] == [5]


def test_options_reach_the_protocol():
  with execution.collect_reports() as reports:
    sessions(
      security=Security('semi-malicious', neighbors=6, threshold=5),
      verify=True,
    ).run(SPECS, 10, vectors)
    sessions(security=Security('malicious'), verify=False).run(
      SPECS, 10, vectors
    )
  first, second = reports
  assert (first.threat, first.neighbors, first.threshold) == (
    'semi-malicious',
    6,
    5,
  )
  assert first.verified is True
  assert second.threat == 'malicious'
  assert second.verified is None


def test_an_abort_is_told_as_it_was():
  run = sessions(
    security=Security('curious', neighbors=4, threshold=3),
    dropouts=execution.Dropouts({'unmask': [0, 1, 2]}),
  ).run
  with pytest.raises(execution.RoundAborted, match='The round was') as caught:
    run(SPECS, 5, vectors)
  assert caught.value.stage == 'unmask'
  assert not caught.value.sum_known
  assert "in step 'unmask'" in caught.value.reason


@PROTOCOLS
def test_an_abort_has_a_report(protocol: str):
  run = sessions(
    protocol=protocol,
    min_contributors=4,
    dropouts=execution.Dropouts({'share': [0], 'mask': [1, 2]}),
  ).run
  with pytest.raises(execution.RoundAborted) as caught:
    run(SPECS, 6, vectors)
  report = caught.value.report
  assert report is not None
  assert (report.clients, report.survivors) == (6, 0)
  assert report.dropouts == {'share': 1, 'mask': 2}
  assert report.transcript is None
  assert report.seconds > 0
  # A cohort that is refused before any work has no session.
  with pytest.raises(execution.RoundAborted) as caught:
    sessions(protocol=protocol).check_cohort(1)
  assert caught.value.report is None


def test_plain_sums_presume_no_colluders():
  outcome = sessions(protocol='plain').run(SPECS, 40, vectors)
  assert (outcome.report.colluders, outcome.report.transcript) == (0, None)
  outcome = sessions().run(SPECS, 40, vectors)
  assert outcome.report.colluders == 2


def test_each_session_has_a_transcript(tmp_path: pathlib.Path):
  folder = tmp_path / 'transcripts'
  run = sessions(
    transcripts=folder,
    security=Security('malicious', dropout=0.3),
    dropouts=execution.Dropouts({'mask': [2]}),
  ).run
  hashes = [run(SPECS, 6, vectors).report.transcript]
  with pytest.raises(execution.RoundAborted) as caught:
    run(SPECS, 1, vectors)
  assert caught.value.report is not None
  hashes.append(caught.value.report.transcript)
  first, second = sorted(folder.iterdir())
  assert first.name.startswith('round-00000000-')
  assert second.name.startswith('round-00000001-')
  entries = [
    list(transcript.read(path.read_bytes().splitlines(keepends=True)))
    for path in (first, second)
  ]
  assert [each[-1].event for each in entries] == ['result', 'aborted']
  assert [each[-1].hash for each in entries] == hashes
  for path, (setup, *_) in zip((first, second), entries, strict=True):
    assert path.stem.endswith(setup.fields['session'])


def test_the_plain_protocol_transcribes_nothing(tmp_path: pathlib.Path):
  sessions(transcripts=tmp_path, protocol='plain').run(SPECS, 3, vectors)
  assert not list(tmp_path.iterdir())
