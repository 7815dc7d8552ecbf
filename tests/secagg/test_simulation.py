# SPDX-License-Identifier: Apache-2.0
"""Simulated clients: sums of sessions, and who is not heard again."""

from __future__ import annotations

import collections
import itertools
import time

import numpy as np
import pytest

from tests.secagg.sessions import (
  ACTIVE,
  CURIOUS,
  PASSIVE_STAGES,
  SPECS,
  STAGES,
  Group,
  is_exact,
  vectors_of,
)
from tff_secagg_ext.secagg import errors, inspection, simulation
from tff_secagg_ext.secagg.setup import Security, VectorSpec, modulus_for_sum
from tff_secagg_ext.secagg.transcript import Transcript

CLASSES = pytest.mark.parametrize(
  'security', [CURIOUS, ACTIVE], ids=['passive', 'active']
)


@CLASSES
def test_one_simulation_runs_many_sessions(security: Security):
  simulated = simulation.Simulation(security)
  for number, clients in enumerate(([5, 3, 9, 1, 7], range(7), [2**32 - 1])):
    if len(clients) < 2:
      with pytest.raises(errors.Aborted, match='At least 2 clients must be le'):
        simulated.run(clients, SPECS, vectors_of, round=number)
      continue
    outcome = simulated.run(clients, SPECS, vectors_of, round=number)
    assert is_exact(outcome)
    assert list(outcome.survivors) == sorted(clients)
    assert list(outcome.sums) == [spec.name for spec in SPECS]
    for spec in SPECS:
      assert outcome.sums[spec.name].dtype == np.int64
      assert outcome.sums[spec.name].shape == (spec.length,)


@CLASSES
def test_clients_remember_the_rounds_that_they_have_answered(security):
  simulated = simulation.Simulation(security)

  def run(round: int, lost_in: str = '', transcripts=None):
    return simulated.run(
      range(7),
      SPECS,
      vectors_of,
      round=round,
      dropouts=lambda stage, _: stage == lost_in,
      transcripts=transcripts,
    )

  for stage in ('share', 'mask'):
    with pytest.raises(errors.Aborted):
      run(3, lost_in=stage)
  assert is_exact(run(3))
  transcript = Transcript.in_memory()
  with pytest.raises(errors.Aborted, match='Found 0') as caught:
    run(3, transcripts=lambda _: transcript)
  assert caught.value.stage == 'invite'
  summary = inspection.check(transcript.lines)
  assert summary.refusals == {'ReplayedSession': 7}
  assert is_exact(run(4))


@pytest.mark.parametrize(
  ('threat', 'verify', 'verified'),
  [
    ('curious', None, None),
    ('semi-malicious', None, None),
    ('semi-malicious', True, True),
    ('malicious', None, True),
    ('malicious', False, None),
  ],
)
def test_sums_are_verified_by_default_in_the_malicious_class_alone(
  threat: str, verify, verified
):
  simulated = simulation.Simulation(Security(threat), verify=verify)
  outcome = simulated.run(range(12), SPECS, vectors_of)
  assert outcome.report.verified is verified
  assert is_exact(outcome)


def test_the_curious_class_verifies_nothing():
  simulated = simulation.Simulation(Security('curious'), verify=True)
  with pytest.raises(ValueError, match="False in the class 'curious'"):
    simulated.run(range(5), SPECS, vectors_of)


def test_vectors_are_asked_for_once_of_whoever_masks_ids_ascending():
  asked = []

  def vectors(client_id: int):
    asked.append(client_id)
    return vectors_of(client_id)

  outcome = simulation.Simulation(ACTIVE).run(
    [6, 5, 4, 3, 2, 1, 0],
    SPECS,
    vectors,
    dropouts=lambda stage, i: (stage, i) in {('share', 2), ('mask', 4)},
  )
  assert asked == [0, 1, 3, 5, 6]
  assert outcome.survivors == (0, 1, 3, 5, 6)


@pytest.mark.parametrize('modulus', [2, 2**20, 2**20 - 1])
def test_a_modulus_that_is_large_enough_gives_the_plain_sum(modulus: int):
  maximum = modulus - 1
  enough = modulus_for_sum(maximum, 5)
  for ring, expected in ((enough, 5 * maximum), (modulus, -5 % modulus)):
    outcome = simulation.Simulation(CURIOUS).run(
      range(5),
      [VectorSpec('x', 2, ring)],
      lambda _: {'x': np.full(2, maximum)},
    )
    assert outcome.sums['x'].tolist() == [expected] * 2


@CLASSES
def test_dropouts_are_asked_for_each_client_that_is_left(security: Security):
  asked = collections.defaultdict(list)

  def dropouts(stage: str, client_id: int) -> bool:
    asked[stage].append(client_id)
    return (stage, client_id) == ('mask', 3)

  simulation.Simulation(security).run(
    range(7), SPECS, vectors_of, dropouts=dropouts
  )
  stages = STAGES if security.active else PASSIVE_STAGES
  assert tuple(asked) == stages
  for stage, clients in asked.items():
    is_before = stages.index(stage) <= stages.index('mask')
    assert clients == [i for i in range(7) if is_before or i != 3]


@pytest.mark.parametrize(
  ('vector', 'error', 'message'),
  [
    (np.zeros(3), TypeError, "'x' must be of integers. Found float64"),
    (np.full(3, np.nan), TypeError, 'must be of integers. Found float64'),
    (np.zeros(4, int), ValueError, r'the shape \(3,\). Found \(4,\)'),
    (np.full(3, 16), ValueError, r'must be in \[0, 16\), and one is not'),
    (np.full(3, -1), ValueError, r'must be in \[0, 16\), and one is not'),
    (None, ValueError, r"all vectors of the session. Found no \['x'\]"),
  ],
)
def test_bad_vectors_are_errors_of_the_caller(vector, error, message: str):
  transcript = Transcript.in_memory()
  with pytest.raises(error, match=message):
    simulation.Simulation(CURIOUS).run(
      range(5),
      [VectorSpec('x', 3, 16)],
      lambda i: {} if vector is None else {'x': vector},
      transcripts=lambda _: transcript,
    )
  # What was recorded is a session without an end.
  with pytest.raises(errors.SecAggError, match='the end is missing'):
    inspection.check(transcript.lines)


@pytest.mark.parametrize(
  ('clients', 'error', 'message'),
  [
    ([1, 1, 2], ValueError, r'must be different ids. Found \(1, 1, 2\)'),
    ([1, -2], ValueError, '`client` must be at least 0'),
    ([1, 2**32], ValueError, '`client` must be at most 4294967295'),
    (['a', 'b'], TypeError, '`client` must be an integer'),
  ],
)
def test_bad_ids(clients, error, message: str):
  with pytest.raises(error, match=message):
    simulation.Simulation(CURIOUS).run(clients, SPECS, vectors_of)


def test_too_few_clients_for_the_threshold():
  with pytest.raises(
    errors.Aborted,
    match='`threshold` must be at most the number of neighbors, 3 for 4 client',
  ):
    simulation.Simulation(ACTIVE).run(range(4), SPECS, vectors_of)


def test_clients_that_are_gone_are_not_heard_again():
  group = Group(CURIOUS)
  transport = group.transport(lambda stage, i: (stage, i) == ('invite', 4))
  requests = {4: b'a message', 5: b'no setup'}
  assert [
    (answer.client, answer.message, answer.refusal)
    for answer in transport.exchange('invite', requests)
  ] == [(5, None, 'MessageError')]
  assert list(transport.exchange('share', requests)) == []


@CLASSES
def test_whatever_clients_have_to_do_is_not_time_of_the_server(security):
  """Their training, above all, which happens when vectors are asked for."""

  def vectors(client_id: int):
    until = time.process_time() + 0.05
    while time.process_time() < until:
      pass
    return vectors_of(client_id)

  outcome = simulation.Simulation(security).run(range(7), SPECS, vectors)
  assert outcome.report.seconds > 7 * 0.05
  assert outcome.report.server_seconds < 0.2
  assert outcome.report.client_seconds < 0.04


def test_nobody_drops_out_by_default():
  assert not any(
    simulation.nobody(stage, i) for stage, i in itertools.product(STAGES, [1])
  )


def test_a_simulation_shows_no_secret():
  simulated = simulation.Simulation(ACTIVE)
  simulated.run(range(7), SPECS, vectors_of)
  assert 'key' not in repr(simulated)
