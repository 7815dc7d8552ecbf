# SPDX-License-Identifier: Apache-2.0
"""Canaries that ride in recorded rounds."""

from __future__ import annotations

import json
import math
import os
import pathlib
from typing import Any

import numpy as np
import pytest

from tests.audit import riding
from tests.program import conftest
import tff_secagg_ext
from tff_secagg_ext import accounting, aggregators, execution, ledger, program
from tff_secagg_ext._compat import tff
from tff_secagg_ext.program import canaries as canaries_lib
from tff_secagg_ext.program import canary_work, loop, terms
from tff_secagg_ext.program import releases as releases_lib

DELTA = 1e-5
FEATURES, CLIENTS, ALWAYS, COINS = 200, 4, 16, 8
PLACES = ALWAYS + COINS
COHORT = CLIENTS + PLACES


def aggregator_of(noise_multiplier: float, clipping: Any) -> Any:
  return tff_secagg_ext.ddp_secure_aggregator(
    noise_multiplier, COHORT, bits=24, clipping=clipping
  )


@pytest.fixture(scope='module')
def noised() -> Any:
  return aggregator_of(1.0, 1.0)


@pytest.fixture(scope='module')
def ridden(noised: Any) -> Any:
  return riding.build(noised, FEATURES)


def record(
  folder: pathlib.Path, ridden: Any, noised: Any, **options: Any
) -> Any:
  options = {
    'run': 'ridden',
    'sampling': accounting.NoSampling(),
    'canaries': program.CanaryClients(ALWAYS, folder, COINS),
    **options,
  }
  return program.PrivacyRecorder(
    ridden, noised, ledger=folder / 'runs.db', delta=DELTA, **options
  )


def trained(recorder: Any, rounds: int, state: Any) -> Any:
  for _ in range(rounds):
    state = recorder.next(state, riding.data(CLIENTS, FEATURES)).state
  return state


def lines(folder: pathlib.Path) -> list[Any]:
  text = (folder / 'canaries.jsonl').read_text('ascii')
  return [json.loads(line) for line in text.splitlines()]


def test_a_run_is_audited_while_it_trains(
  ridden: Any, noised: Any, tmp_path: pathlib.Path
) -> None:
  recorder = record(tmp_path, ridden, noised)
  with pytest.raises(program.CanaryError, match='committed round that was aud'):
    recorder.audit_canaries()
  state = trained(recorder, 2, recorder.initialize())
  found = recorder.audit_canaries()
  assert found.keys() == {'one_shot', 'one_run'}
  one_shot, one_run = found['one_shot'], found['one_run']
  assert 0.0 < one_shot['lower_bound'] < one_shot['estimate']
  assert one_run['guessed'] == 4
  rounds = [e.charge for e in recorder.account.run.entries if e.kind[0] == 'c']
  expected = accounting.release_epsilon(rounds, DELTA).value
  for figures in found.values():
    assert figures['ledger_epsilon'] == expected
    assert (figures['rounds'], figures['places']) == (2, PLACES)
    assert not figures['alarm']
    assert figures['view'] == 'server'
    assert figures['beside_noise'] == pytest.approx(
      math.sqrt(PLACES / (FEATURES + 1)), rel=1e-3
    )
  # A finished audit is on record, and once.
  assert recorder.audit_canaries() == found
  with ledger.Ledger.open(tmp_path / 'runs.db') as opened:
    on_record = {a.kind: dict(a.figures) for a in opened.audits('ridden')}
    assert len(opened.audits('ridden')) == 2
    assert opened.show('ridden')['settings']['canaries'] == PLACES
  assert on_record == found
  # More rounds are another audit.
  trained(recorder, 1, state)
  assert recorder.audit_canaries()['one_shot']['rounds'] == 3

  # The types are those of clients that are no canaries.
  kind = recorder.next.type_signature
  assert str(kind.parameter[1]) == '{<float32[?,200],float32[?]>*}@CLIENTS'
  assert kind.result == ridden.next.type_signature.result
  # Key and lines are for their owner alone.
  for name in ('canaries.key', 'canaries.jsonl'):
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
  # A key that was lost is not replaced.
  os.remove(tmp_path / 'canaries.key')
  clients = program.CanaryClients(ALWAYS, tmp_path, COINS)
  with pytest.raises(program.RunKeyError, match=r'Found no file .*canaries'):
    canaries_lib.Riders(recorder.account.run, ridden, noised, clients)


@pytest.fixture(scope='module')
def noiseless() -> Any:
  """A process without noise, whose clip norm adapts."""
  clipping = aggregators.AdaptiveClipping(50.0, target_quantile=0.75)
  noised = aggregator_of(0.0, clipping)
  return noised, riding.build(noised, FEATURES)


class _NewRun:
  """A run without attempts."""

  attempts = 0


def riders(folder: pathlib.Path, ridden: Any, noised: Any) -> Any:
  clients = program.CanaryClients(PLACES, folder)
  return canaries_lib.Riders(_NewRun(), ridden, noised, clients)


def test_the_trained_update_of_others_is_as_without_canaries(
  noiseless: Any,
) -> None:
  """No noise: the sum less what canaries sent is what others did."""
  _, ridden = noiseless
  data = riding.data(CLIENTS, FEATURES)
  zero = np.zeros(FEATURES + 1, np.float32)
  vectors = [zero + n for n in range(3)]

  def update(vectors: list[Any]) -> Any:
    given = canary_work.clients_data(data, vectors)
    weights = ridden.get_model_weights(
      ridden.next(ridden.initialize(), given).state
    )
    flat = np.concatenate([np.ravel(w) for w in weights.trainable])
    return -flat * (CLIENTS + len(vectors))

  np.testing.assert_allclose(
    update(vectors) - update([]), sum(vectors), atol=0.05
  )


def test_canaries_do_not_move_an_adaptive_clip_norm(
  noiseless: Any, tmp_path: pathlib.Path
) -> None:
  """Nobody but canaries is there: as many are below as it aims at."""
  noised, ridden = noiseless
  riding_ones = riders(tmp_path, ridden, noised)
  state = ridden.initialize()
  attempt = ledger.Attempt(1, 1)
  output = ridden.next(state, riding_ones.among([], attempt, state))
  assert output.state.aggregator['clip_norm'] == pytest.approx(50.0, rel=1e-3)
  riding_ones.observe(
    attempt, state, output.state, output.metrics['aggregator']
  )
  (line,) = lines(tmp_path)
  # Without noise, the release is canaries and rounding.
  assert line['statistic'][0] > 100.0


def test_canaries_stay_below_the_zeroing_threshold(
  ridden: Any, tmp_path: pathlib.Path
) -> None:
  riding_ones = riders(tmp_path, ridden, aggregator_of(1.0, 1000.0))
  given = riding_ones.among([], ledger.Attempt(1, 1), ridden.initialize())
  sent = np.stack([each['canary'][0] for each in given])
  assert sent.shape == (PLACES, FEATURES + 1)
  assert np.abs(sent).max() <= 21.0
  assert np.linalg.norm(sent, axis=1).min() > 40.0


def test_an_adaptive_clip_norm_must_be_seen(
  noiseless: Any, tmp_path: pathlib.Path
) -> None:
  noised, ridden = noiseless
  riding_ones = riders(tmp_path, ridden, noised)
  with pytest.raises(program.CanaryError, match=r'must be in `state\.aggregat'):
    riding_ones.among([], ledger.Attempt(1, 1), 'another state')


def test_half_the_noise_is_an_alarm_in_a_secure_context(
  noised: Any, tmp_path: pathlib.Path
) -> None:
  """The bound would have to miss by five standard deviations."""
  with riding.half_the_noise():
    ridden = riding.build(noised, FEATURES)
  options = execution.SecureOptions(
    security=execution.Security('curious', corrupt=0.1, dropout=0.1),
    insecure_aggregates='forbid',
  )
  context = execution.create_secure_context(options)
  with tff.framework.get_context_stack().install(context):
    recorder = record(
      tmp_path,
      ridden,
      noised,
      canaries=program.CanaryClients(PLACES, tmp_path),
    )
    trained(recorder, 2, recorder.initialize())
    found = recorder.audit_canaries()['one_shot']
  assert found['alarm']
  entry = recorder.account.run.entries[-1]
  # More canaries than the protocol bears colluders, by name.
  assert entry.server.value == math.inf
  assert any('runs 24 canaries' in reason for reason in entry.server.reasons)
  assert math.isfinite(entry.release.value)


class _Killed(BaseException):
  """Ends a run anywhere."""


def test_a_killed_run_goes_on_with_its_canaries(
  ridden: Any,
  noised: Any,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  data = riding.data(12, FEATURES)
  cohorts = program.FixedCohorts(12, CLIENTS)

  def go(rounds: int) -> Any:
    recorder = record(
      tmp_path,
      ridden,
      noised,
      sampling=cohorts.sampling,
      run=program.RunDescription('ridden', 12),
    )
    plan = program.TrainingPlan(rounds, cohorts, tmp_path)
    program.train(recorder, lambda members: [data[i] for i in members], plan)
    return recorder

  def die(*_: Any) -> None:
    raise _Killed

  with monkeypatch.context() as patch:
    patch.setattr(loop.checkpoints_lib.Checkpoints, 'save', die)
    # A killed process settles nothing.
    patch.setattr(ledger.Run, 'lose', lambda *_: None)
    with pytest.raises(_Killed):
      go(2)
  with monkeypatch.context() as patch:
    patch.setattr(ledger.Run, 'commit', die)
    with pytest.raises(_Killed):
      go(2)
  with open(tmp_path / 'canaries.jsonl', 'ab') as file:
    file.write(b'{"attempt": [1')  # A kill in the middle of a line.
  recorder = go(2)
  found = recorder.audit_canaries()
  # The first attempt was lost; the second was committed from its checkpoint.
  assert [line['attempt'] for line in lines(tmp_path)] == [
    [1, 1],
    [1, 2],
    [2, 1],
  ]
  assert found['one_shot']['rounds'] == 2
  # What is claimed of cohorts is about clients alone.
  assert recorder.account.run.entries[-1].charge.sampling == cohorts.sampling


@pytest.mark.parametrize('cohorts', ['poisson', 'fixed'])
def test_canaries_take_places_of_planned_cohorts(cohorts: str) -> None:
  asked = {'cohorts': cohorts, 'clipping': 1.0}
  run = program.RunPlan(400, 100, 2, 1e-3, canaries=PLACES, **asked)
  # Clients are drawn as if there were so many places fewer.
  without = program.RunPlan(400, 100 - PLACES, 2, 1e-3, **asked)
  assert run.former == without.former
  spec = run.aggregator(1.0).spec
  assert spec.expected_clients_per_round == without.expected + PLACES
  assert spec.min_contributors == run.former.minimum + PLACES
  (event,) = run.charge(1.0, FEATURES + 1).events
  assert event.colluders == PLACES
  if cohorts != 'fixed':
    assert spec.max_contributors == run.former.maximum + PLACES
    shares = event.client_shares + event.server_shares
    assert shares == spec.max_contributors


def agreed(noised: Any, canaries: int, **options: Any) -> terms.Terms:
  return terms.Terms(
    noised,
    releases_lib.Releases(512, ()),
    options.pop('sampling', accounting.NoSampling()),
    100,
    0.0,
    options.pop('secure', None),
    canaries=canaries,
  )


def test_noise_of_canaries_protects_from_outsiders_alone(
  noised: Any,
) -> None:
  of = agreed(noised, PLACES)
  charge = of.planned(CLIENTS, accounting.NoSampling())
  (event,) = charge.events
  assert (event.client_shares, event.colluders) == (COHORT, PLACES)
  alone = agreed(noised, 0).planned(COHORT, accounting.NoSampling())
  assert accounting.release_epsilon([charge], DELTA) == (
    accounting.release_epsilon([alone], DELTA)
  )
  server = accounting.server_epsilon([charge], DELTA).value
  assert server > accounting.server_epsilon([alone], DELTA).value


def test_a_claim_of_fixed_cohorts_is_about_clients(noised: Any) -> None:
  claim = accounting.FixedSizeSampling(CLIENTS, 100)
  of = agreed(noised, PLACES, sampling=claim)
  assert of.usual.sampling == claim
  assert of.planned(COHORT, claim).sampling == accounting.NoSampling()


@pytest.mark.parametrize(
  ['corrupt', 'colluders', 'exposed'], [(0.9, 25, False), (0.5, 24, True)]
)
def test_the_protocol_must_bear_canaries_as_colluders(
  noised: Any, corrupt: float, colluders: int, exposed: bool
) -> None:
  secure = execution.SecureOptions(
    security=execution.Security('curious', corrupt=corrupt, dropout=0.0)
  )
  of = agreed(noised, PLACES, secure=secure)
  first, *rest = of.planned(CLIENTS, accounting.NoSampling()).events
  assert first.colluders == colluders
  reason = (
    'single updates: the coordinator runs 24 canaries, and the protocol is'
    ' secure against 14 colluders'
  )
  expected = [accounting.SeenByServerEvent((reason,))] if exposed else []
  assert rest == expected


def test_a_process_must_take_canaries_that_are_counted(
  ridden: Any, noised: Any, process: Any, tmp_path: pathlib.Path
) -> None:
  other = tff_secagg_ext.ddp_secure_aggregator(1.0, conftest.CLIENTS)
  with pytest.raises(ValueError, match='nobody would count them'):
    record(tmp_path, ridden, noised, canaries=None)
  with pytest.raises(TypeError, match=r'must take them\. Found data of type'):
    riders(tmp_path, process, other)
  with pytest.raises(TypeError, match='`canaries` must be CanaryClients'):
    record(tmp_path, ridden, noised, canaries=3)
  for options in (
    {'sampling': accounting.RandomAllocation(1, 4)},
    {
      'participation': program.Participation(
        accounting.ParticipationCap(1), tmp_path
      )
    },
  ):
    with pytest.raises(ValueError, match='bounded number of rounds'):
      record(tmp_path, ridden, noised, **options)
  with pytest.raises(TypeError, match='`work` must be a'):
    program.with_canaries(ridden)
  recorder = record(tmp_path, process, other, canaries=None)
  with pytest.raises(program.CanaryError, match=r'Found none\. Make the recor'):
    recorder.audit_canaries()


def test_too_many_and_too_few_canaries_are_refused(
  ridden: Any, noised: Any, tmp_path: pathlib.Path
) -> None:
  clients = program.CanaryClients(FEATURES + 1, tmp_path)
  with pytest.raises(ValueError, match=r'`always` must be at most 200.*fewer'):
    canaries_lib.Riders(_NewRun(), ridden, noised, clients)
  with pytest.raises(ValueError, match=r'must be at least 1\. Found 0'):
    program.CanaryClients(0, tmp_path)
  with pytest.raises(ValueError, match=r'`canaries` must be at most 9.*places'):
    program.RunPlan(100, 10, 1, DELTA, canaries=10)


def test_a_model_that_is_no_number_is_not_released(
  ridden: Any, noised: Any, tmp_path: pathlib.Path
) -> None:
  recorder = record(tmp_path, ridden, noised)
  with pytest.raises(RuntimeError, match="clients' data as a list"):
    recorder.next(recorder.initialize(), 'references')
  assert not recorder.account.run.entries
  state = recorder.initialize()
  weights = recorder.get_model_weights(state)
  broken = recorder.set_model_weights(
    state,
    tff.learning.models.ModelWeights(
      tuple(np.full_like(w, np.nan) for w in weights.trainable), ()
    ),
  )
  with pytest.raises(program.CanaryError, match=r'must be finite\. Found 201'):
    trained(recorder, 1, broken)
  kinds = [entry.kind for entry in recorder.account.run.entries]
  assert kinds == ['reserved', 'lost']
