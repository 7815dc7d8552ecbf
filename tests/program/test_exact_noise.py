# SPDX-License-Identifier: Apache-2.0
"""Runs whose noise is exact after dropouts: what they cost, and the record."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import json
import pathlib
from typing import Any

import pytest

from tests.program import conftest
import tff_secagg_ext
from tff_secagg_ext import accounting, execution, ledger, program
from tff_secagg_ext._compat import tff
from tff_secagg_ext.program import MeasurementError, releases
from tff_secagg_ext.program.releases import Releases
from tff_secagg_ext.program.terms import Terms

DELTA = 1e-5
CLIENTS, LEAST = 10, 7
SECURITY = execution.Security('curious', corrupt=0.0, dropout=0.3)
DIMENSION = 8


def make(**changes: Any) -> Any:
  options = {
    'min_contributors': LEAST,
    'exact_noise': True,
    'clipping': 1.0,
    'zeroing': False,
    **changes,
  }
  return tff_secagg_ext.ddp_secure_aggregator(1.0, CLIENTS, **options)


@pytest.fixture(scope='module')
def aggregator() -> Any:
  return make()


@pytest.fixture(scope='module')
def process(aggregator: Any) -> Any:
  return conftest.build(aggregator)


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
  return tmp_path / 'runs.db'


@contextlib.contextmanager
def installed(*noises: Any, **options: Any) -> Iterator[None]:
  options = {
    'security': SECURITY,
    'min_contributors': LEAST,
    'dropout_noise': noises,
    **options,
  }
  context = execution.create_secure_context(execution.SecureOptions(**options))
  with tff.framework.get_context_stack().install(context):
    yield


def dimension_of(process: Any) -> int:
  found = releases.of_process(process, metrics=False).dimension
  assert found is not None
  return found


def record(process: Any, aggregator: Any, path: Any) -> Any:
  return program.PrivacyRecorder(
    process,
    aggregator,
    ledger=path,
    run='a',
    sampling=accounting.NoSampling(),
    delta=DELTA,
  )


def charges(path: pathlib.Path) -> list[Any]:
  with ledger.Ledger.open(path) as opened:
    shown = opened.show('a', server_view=True)
  return [
    accounting.from_json(json.dumps(attempt['charge']))
    for each in shown['rounds']
    for attempt in each['attempts']
  ]


@pytest.mark.parametrize('lost', [0, 1, 3])
def test_a_round_costs_the_same_whoever_drops_out(
  process: Any,
  aggregator: Any,
  path: pathlib.Path,
  data: list[Any],
  lost: int,
) -> None:
  dimension = dimension_of(process)
  noise = aggregator.dropout_noise(dimension)
  dropouts = execution.Dropouts({'mask': range(lost)})
  with installed(noise, dropouts=dropouts):
    recorder = record(process, aggregator, path)
    output = recorder.next(recorder.initialize(), data[:CLIENTS])
  assert output.metrics['aggregator']['contributors'] == CLIENTS - lost
  (charge,) = charges(path)
  (event,) = charge.events
  assert event == aggregator.event(dimension, CLIENTS - lost)
  assert len(event.layer_stddevs) == lost
  full = accounting.Round((aggregator.event(dimension),), charge.sampling)
  for view in ('release', 'server'):
    assert accounting.epsilon(
      [charge], DELTA, view=view
    ).value == pytest.approx(
      accounting.epsilon([full], DELTA, view=view).value, rel=1e-6
    )
  with ledger.Ledger.open(path) as opened:
    (on_record,) = opened.show('a')['settings']['secure_sums']['dropout_noise']
  assert on_record == dataclasses.asdict(noise)


def test_more_dropouts_end_the_round(
  process: Any, aggregator: Any, path: pathlib.Path, data: list[Any]
) -> None:
  noise = aggregator.dropout_noise(dimension_of(process))
  with installed(noise, dropouts=execution.Dropouts({'mask': range(4)})):
    recorder = record(process, aggregator, path)
    with pytest.raises(execution.RoundAborted, match='At least 7 clients'):
      recorder.next(recorder.initialize(), data[:CLIENTS])
  (charge,) = charges(path)
  assert charge.events == ()


def test_a_context_that_does_not_keep_it_exact_is_refused(
  process: Any, aggregator: Any, path: pathlib.Path
) -> None:
  match = 'must be told of the noise of an aggregator with `exact_noise`'
  with pytest.raises(ValueError, match=match):
    record(process, aggregator, path)
  with installed(), pytest.raises(ValueError, match=match):
    record(process, aggregator, path)
  other = dataclasses.replace(
    aggregator.dropout_noise(dimension_of(process)), dropouts=2
  )
  with (
    installed(other, min_contributors=8),
    pytest.raises(ValueError, match=match),
  ):
    record(process, aggregator, path)


def test_a_computation_without_the_noise_is_refused(
  process: Any, aggregator: Any, data: list[Any]
) -> None:
  noise = aggregator.dropout_noise(dimension_of(process) * 2)
  with (
    installed(noise),
    pytest.raises(ValueError, match=r'must be of one secure sum.*Found 0'),
  ):
    process.next(process.initialize(), data[:CLIENTS])


# Terms.


def terms(aggregator: Any, *noises: Any) -> Terms:
  options = execution.SecureOptions(
    SECURITY, min_contributors=LEAST, dropout_noise=noises
  )
  return Terms(
    aggregator,
    releases=Releases(DIMENSION, ()),
    sampling=accounting.NoSampling(),
    population=None,
    allowed_failures=0.0,
    options=options,
  )


def report(*noises: Any, survivors: int = CLIENTS) -> execution.Report:
  return execution.Report(
    threat='curious',
    clients=CLIENTS,
    neighbors=9,
    threshold=5,
    colluders=0,
    survivors=survivors,
    dropouts={},
    refusals={},
    verified=None,
    upload_bytes=1.0,
    download_bytes=1.0,
    expansion=1.0,
    client_seconds=0.0,
    server_seconds=0.0,
    seconds=0.0,
    transcript=None,
    noise=noises,
  )


def test_a_session_without_the_layers_contradicts_the_run(
  aggregator: Any,
) -> None:
  noise = aggregator.dropout_noise(DIMENSION)
  agreed = terms(aggregator, noise)
  assert agreed.check_session([report(noise)]) is not None
  for others in ((), (dataclasses.replace(noise, dropouts=2),)):
    with pytest.raises(MeasurementError, match='must be exact after dropouts'):
      agreed.check_session([report(*others)])


def test_layers_are_those_of_the_survivors_not_of_what_the_sum_has_counted(
  aggregator: Any,
) -> None:
  noise = aggregator.dropout_noise(DIMENSION)
  agreed = terms(aggregator, noise)
  constants = aggregator.constants(DIMENSION)
  measured = {
    'dimension': DIMENSION,
    'scale': constants.scale,
    'effective_noise_multiplier': constants.noise_multiplier(8),
    'contributors': 8,
    'aborted': False,
  }
  charge = agreed.happened(
    CLIENTS,
    accounting.NoSampling(),
    measured,
    report(noise, survivors=9),
  )
  (event,) = charge.events
  # Nine survived: one layer was left. One of them has not counted itself.
  assert (event.client_shares, len(event.layer_stddevs)) == (8, 1)
  assert event.layer_stddevs == noise.layer_stddevs(1)


def test_a_round_is_planned_with_the_fewest_contributors(
  aggregator: Any,
) -> None:
  noise = aggregator.dropout_noise(DIMENSION)
  agreed = terms(aggregator, noise)
  object.__setattr__(
    agreed,
    'options',
    dataclasses.replace(agreed.options, dropouts=execution.Dropouts({})),
  )
  (event,) = agreed.planned(CLIENTS, accounting.NoSampling()).events
  assert event == aggregator.event(DIMENSION, LEAST)
  assert len(event.layer_stddevs) == CLIENTS - LEAST
