# SPDX-License-Identifier: Apache-2.0
"""The recorder: nothing is returned before it is charged and committed."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.program import conftest
import tff_secagg_ext
from tff_secagg_ext import accounting, ledger, program
from tff_secagg_ext._compat import tff

DELTA = 1e-5
CLIENTS = conftest.CLIENTS


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
  return tmp_path / 'runs.db'


def record(process: Any, aggregator: Any, path: Any, **kwargs: Any) -> Any:
  kwargs = {'run': 'a', 'sampling': accounting.NoSampling(), **kwargs}
  return program.PrivacyRecorder(
    process, aggregator, ledger=path, delta=DELTA, **kwargs
  )


def show(path: pathlib.Path) -> dict[str, Any]:
  with ledger.Ledger.open(path) as opened:
    return opened.show('a')


def statuses(path: pathlib.Path) -> list[str]:
  return [a['status'] for r in show(path)['rounds'] for a in r['attempts']]


class Replaced(tff.Computation):
  """A computation with the type of another one, and with another body."""

  def __init__(self, original: Any, body: Any):
    self.original, self.body = original, body

  @property
  def type_signature(self) -> Any:
    return self.original.type_signature

  def __call__(self, *args: Any) -> Any:
    return self.body(*args)

  def __hash__(self) -> int:
    return hash(self.original)


def with_body(recorder: Any, body: Any) -> Any:
  recorder.next._computation = Replaced(recorder.process.next, body)
  return recorder


def test_all_computations_keep_their_types(
  process: Any, aggregator: Any, path: pathlib.Path
) -> None:
  recorder = record(process, aggregator, path)
  assert isinstance(recorder, tff.learning.templates.LearningProcess)
  for name in (
    'initialize',
    'next',
    'get_model_weights',
    'set_model_weights',
    'get_hparams',
    'set_hparams',
  ):
    found = getattr(recorder, name).type_signature
    assert found == getattr(process, name).type_signature, name
  assert recorder.state_type == process.state_type


def test_rounds_are_charged_as_they_were(
  process: Any, aggregator: Any, path: pathlib.Path, data: list[Any]
) -> None:
  recorder = record(process, aggregator, path)
  state = recorder.initialize()
  state, metrics = recorder.next(state, data[:CLIENTS])
  # Two of five clients drop out: their noise is missing, and charged so.
  recorder.next(state=state, client_data=data[:3])
  dimension = metrics['aggregator']['dimension']
  rounds = [
    accounting.Round(
      (aggregator.event(dimension, count),), accounting.NoSampling()
    )
    for count in (CLIENTS, 3)
  ]
  shown = show(path)
  for index, each in enumerate(shown['rounds']):
    so_far = rounds[: index + 1]
    expected = accounting.release_epsilon(so_far, DELTA).value
    assert each['release_epsilon'] == pytest.approx(expected)
    expected = accounting.server_epsilon(so_far, DELTA).value
    assert each['server_epsilon'] == pytest.approx(expected)
  assert shown['rounds'][1]['measurements']['contributors'] == 3
  assert shown['settings']['unaccounted'] == []
  assert shown['settings']['aggregator']['noise_multiplier'] == 1.0


def test_notebooks_show_the_run_as_it_is_now(
  process: Any, aggregator: Any, path: pathlib.Path, data: list[Any]
) -> None:
  recorder = record(process, aggregator, path)
  assert 'No round was released' in recorder._repr_html_()
  with pytest.raises(ValueError, match='must have a round to be drawn'):
    recorder.plot()
  recorder.next(recorder.initialize(), data[:CLIENTS])
  assert '<svg' in recorder._repr_html_()
  pytest.importorskip('matplotlib')
  drawn = recorder.plot()
  line = drawn.figure.axes[0].lines[0]
  assert list(line.get_ydata()) == [show(path)['release_epsilon']]
  assert '<svg' in drawn._repr_svg_()


def test_the_reservation_is_there_before_the_round_runs(
  process: Any, aggregator: Any, path: pathlib.Path, data: list[Any]
) -> None:
  seen = []

  def body(state: Any, clients: Any) -> Any:
    seen.append(statuses(path))
    return process.next(state, clients)

  recorder = with_body(record(process, aggregator, path), body)
  recorder.next(recorder.initialize(), data[:CLIENTS])
  assert seen == [['reserved']]
  assert statuses(path) == ['committed']


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_a_round_that_raises_is_lost_and_charged(
  process: Any,
  aggregator: Any,
  path: pathlib.Path,
  error: type[BaseException],
) -> None:
  def body(*_: Any) -> Any:
    raise error('secret')

  recorder = with_body(record(process, aggregator, path), body)
  with pytest.raises(error):
    recorder.next(None, [None] * CLIENTS)
  assert statuses(path) == ['lost']
  shown = show(path)
  assert shown['release_epsilon'] > 0
  assert shown['rounds'][0]['attempts'][0]['note'] == error.__name__
  assert 'secret' not in str(shown)


def test_nothing_is_returned_if_the_commit_fails(
  process: Any,
  aggregator: Any,
  path: pathlib.Path,
  data: list[Any],
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  recorder = record(process, aggregator, path)

  def fail(*_: Any) -> None:
    raise ledger.LedgerWriteError('full')

  monkeypatch.setattr(ledger.Run, 'commit', fail)
  with pytest.raises(ledger.LedgerWriteError, match='full'):
    recorder.next(recorder.initialize(), data[:CLIENTS])
  assert statuses(path) == ['reserved']


def test_another_aggregator_is_found_out_and_nothing_is_returned(
  process: Any, path: pathlib.Path, data: list[Any]
) -> None:
  other = tff_secagg_ext.ddp_secure_aggregator(2.0, CLIENTS)
  recorder = record(process, other, path)
  with pytest.raises(
    program.MeasurementError, match=r'measured \w+ must be .*built with'
  ):
    recorder.next(recorder.initialize(), data[:CLIENTS])
  shown = show(path)
  assert shown['release_epsilon'] is None
  assert 'The measured' in shown['release_reasons'][0]


def test_what_is_not_noised_is_named(
  aggregator: Any, path: pathlib.Path, data: list[Any]
) -> None:
  process = conftest.build(aggregator, metrics_aggregator=None)
  recorder = record(process, aggregator, path)
  recorder.next(recorder.initialize(), data[:CLIENTS])
  shown = show(path)
  assert shown['release_epsilon'] is None
  assert shown['server_epsilon'] is None
  assert 'client_work.train.loss is exact' in shown['release_reasons']


def test_a_waiver_is_recorded_and_told_with_the_epsilon(
  aggregator: Any, path: pathlib.Path, data: list[Any]
) -> None:
  process = conftest.build(tff.aggregators.zeroing_factory(1.0, aggregator))
  waiver = program.Waiver(
    'aggregator.zeroed_count is exact', 'A. Reviewer', 'it is always 0'
  )
  recorder = record(process, aggregator, path, allow_unaccounted=[waiver])
  recorder.next(recorder.initialize(), data[:CLIENTS])
  shown = show(path)
  dimension = aggregator.padded_dimension(5)
  a_round = accounting.Round(
    (aggregator.event(dimension, CLIENTS),), accounting.NoSampling()
  )
  expected = accounting.release_epsilon([a_round], DELTA).value
  assert shown['release_epsilon'] == pytest.approx(expected)
  told = {
    'name': 'aggregator.zeroed_count is exact',
    'by': 'A. Reviewer',
    'why': 'it is always 0',
  }
  assert shown['waivers'] == shown['settings']['waived'] == [told]
  assert shown['settings']['unaccounted'] == []
  written = recorder.account.run.entries[-1]
  with ledger.Ledger.open(path) as opened:
    assert opened.show('a')['rounds'][0]['waivers'] == [told]
  assert written.release.waivers == written.server.waivers == (waiver,)


def evaluation(metrics: Any) -> Any:
  import tensorflow as tf

  with tf.Graph().as_default():
    model = conftest.model()
    finalizers = model.metric_finalizers()
    unfinalized = tf.nest.map_structure(
      lambda tensor: tff.TensorType(tensor.dtype.as_numpy_dtype, tensor.shape),
      model.report_local_unfinalized_metrics(),
    )
  process = metrics.aggregation_process(finalizers, tff.to_type(unfinalized))
  return tff.learning.algorithms.build_fed_eval(
    conftest.model, metrics_aggregation_process=process
  )


def test_noised_metrics_are_charged_as_a_second_event(
  aggregator: Any, path: pathlib.Path, data: list[Any]
) -> None:
  metrics = conftest.noised_metrics(
    tff_secagg_ext.ddp_secure_aggregator(4.0, CLIENTS)
  )
  process = conftest.build(aggregator, metrics_aggregator=metrics)
  recorder = record(process, aggregator, path, metrics=metrics)
  output = recorder.next(recorder.initialize(), data[:CLIENTS])
  assert 'loss' in output.metrics['client_work']['train']
  dimension = aggregator.padded_dimension(5)
  both = accounting.Round(
    (
      aggregator.event(dimension, CLIENTS),
      metrics.aggregator.event(metrics.dimension, CLIENTS),
    ),
    accounting.NoSampling(),
  )
  shown = show(path)
  expected = accounting.release_epsilon([both], DELTA).value
  assert shown['release_epsilon'] == pytest.approx(expected)
  alone = accounting.Round(both.events[:1], both.sampling)
  assert expected > accounting.release_epsilon([alone], DELTA).value
  measured = shown['rounds'][0]['measurements']
  assert measured['noised_sum.dimension'] == metrics.dimension
  assert measured['dimension'] == dimension
  assert shown['settings']['metrics'] == metrics.settings


def test_other_metrics_than_those_of_the_process_are_found_out(
  process: Any, aggregator: Any, path: pathlib.Path, data: list[Any]
) -> None:
  metrics = conftest.noised_metrics(aggregator)
  with pytest.raises(ValueError, match='of 4 coordinates'):
    record(process, aggregator, path, metrics=metrics)
  process = conftest.build(aggregator, metrics_aggregator=metrics)
  other = conftest.noised_metrics(
    tff_secagg_ext.ddp_secure_aggregator(4.0, CLIENTS)
  )
  recorder = record(process, aggregator, path, metrics=other)
  with pytest.raises(
    program.MeasurementError, match=r'measured noised_sum\.\w+ must be'
  ):
    recorder.next(recorder.initialize(), data[:CLIENTS])
  assert show(path)['release_epsilon'] is None


def test_an_evaluation_on_private_data_is_charged(
  aggregator: Any, path: pathlib.Path, data: list[Any]
) -> None:
  metrics = conftest.noised_metrics(aggregator)
  recorder = record(evaluation(metrics), metrics, path)
  output = recorder.next(recorder.initialize(), data[:CLIENTS])
  found = output.metrics['client_work']['eval']['current_round_metrics']
  assert found['noised_sum']['contributors'] == CLIENTS
  a_round = accounting.Round(
    (metrics.aggregator.event(metrics.dimension, CLIENTS),),
    accounting.NoSampling(),
  )
  expected = accounting.release_epsilon([a_round], DELTA).value
  shown = show(path)
  assert shown['release_epsilon'] == pytest.approx(expected)
  assert shown['settings']['dimension'] is None
  assert shown['settings']['unaccounted'] == []


def test_no_noise_is_named(path: pathlib.Path) -> None:
  silent = tff_secagg_ext.ddp_secure_aggregator(0.0, CLIENTS)
  recorder = record(conftest.build(silent), silent, path)
  reservation = recorder.account.reserve(CLIENTS)
  recorder.account.run.lose(reservation.attempt, reservation.charge, '')
  assert show(path)['release_epsilon'] is None
  assert 'noise' in show(path)['release_reasons'][0]


def test_a_recorded_next_cannot_be_composed(
  process: Any, aggregator: Any, path: pathlib.Path
) -> None:
  recorder = record(process, aggregator, path)
  with pytest.raises(TypeError, match='cannot become part of another'):

    @tff.federated_computation(process.next.type_signature.parameter)
    def twice(state: Any, client_data: Any) -> Any:
      return recorder.next(state, client_data)

  assert statuses(path) == []


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'process': 1}, '`process` must be a LearningProcess. Found 1'),
    ({'aggregator': 1}, '`aggregator` must be a DdpSecureAggregationFactory'),
    ({'metrics': 1}, '`metrics` must be a DpSumThenFinalize or NoneType'),
    ({'sampling': 0.1}, '`sampling` must be a NoSampling or Poisson'),
  ],
)
def test_arguments_of_the_wrong_kind(
  process: Any,
  aggregator: Any,
  path: pathlib.Path,
  changes: dict[str, Any],
  message: str,
) -> None:
  arguments = {'process': process, 'aggregator': aggregator, 'path': path}
  with pytest.raises(TypeError, match=message):
    record(**{**arguments, **changes})


def test_other_settings_are_refused(
  process: Any, aggregator: Any, path: pathlib.Path
) -> None:
  record(process, aggregator, path)
  with pytest.raises(
    ledger.RunSettingsError, match=r'population is None .* and 9 now'
  ):
    record(
      process,
      aggregator,
      path,
      run=program.RunDescription('a', population=9),
    )


async def _rounds_by_reference(recorder: Any, data: list[Any]) -> Any:
  """Runs two rounds, the second from references to the first."""
  context = tff.program.NativeFederatedContext(
    tff.backends.native.create_async_local_cpp_execution_context()
  )
  with tff.framework.get_context_stack().install(context):
    first = recorder.next(recorder.initialize(), data[:CLIENTS])
    second = recorder.next(first.state, data[:CLIENTS])
    return await tff.program.materialize_value(second)


def test_references_wait_for_the_commit(
  process: Any,
  aggregator: Any,
  path: pathlib.Path,
  data: list[Any],
) -> None:
  recorder = record(process, aggregator, path)
  output = asyncio.run(_rounds_by_reference(recorder, data))
  assert statuses(path) == ['committed'] * 2
  assert output.metrics['aggregator']['contributors'] == CLIENTS
  assert isinstance(output, tff.learning.templates.LearningProcessOutput)


def test_no_reference_can_be_read_if_the_commit_fails(
  process: Any,
  aggregator: Any,
  path: pathlib.Path,
  data: list[Any],
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  recorder = record(process, aggregator, path)
  readable = []

  async def run() -> None:
    context = tff.program.NativeFederatedContext(
      tff.backends.native.create_async_local_cpp_execution_context()
    )
    with tff.framework.get_context_stack().install(context):
      output = recorder.next(recorder.initialize(), data[:CLIENTS])
      for leaf in tf.nest.flatten(output):
        with contextlib.suppress(ledger.LedgerWriteError):
          readable.append(await leaf.get_value())

  def fail(*_: Any) -> None:
    raise ledger.LedgerWriteError('full')

  monkeypatch.setattr(ledger.Run, 'commit', fail)
  asyncio.run(run())
  assert readable == []


def test_an_asynchronous_context_commits_before_it_returns(
  process: Any, aggregator: Any, path: pathlib.Path, data: list[Any]
) -> None:
  recorder = record(process, aggregator, path)
  state = recorder.initialize()

  async def body(*args: Any) -> Any:
    return process_output

  process_output = process.next(state, data[:CLIENTS])
  with_body(recorder, body)
  output = asyncio.run(recorder.next(state, data[:CLIENTS]))
  assert output is process_output
  assert statuses(path) == ['committed']


@tff.tensorflow.computation(np.str_)
def _dataset(client_id: Any) -> Any:
  x = tf.fill([8, 4], tf.cast(tf.strings.length(client_id), tf.float32))
  return tf.data.Dataset.from_tensors(collections.OrderedDict(x=x, y=x[:, :1]))


def test_train_model_records_all_it_runs_discarded_rounds_too(
  process: Any,
  aggregator: Any,
  path: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  composed = tff.simulation.compose_dataset_computation_with_learning_process(
    _dataset, process
  )
  recorder = record(composed, aggregator, path)
  released = tff.program.MemoryReleaseManager()
  discarded = []

  def discard(output: Any) -> bool:
    discarded.append(len(discarded) == 1)
    return discarded[-1]

  async def train(rounds: int) -> None:
    context = tff.program.NativeFederatedContext(
      tff.backends.native.create_async_local_cpp_execution_context()
    )
    with tff.framework.get_context_stack().install(context):
      await tff.learning.programs.train_model(
        train_process=recorder,
        train_data_source=tff.program.ClientIdDataSource(
          [f'client{i}' for i in range(10)]
        ),
        train_per_round_clients=CLIENTS,
        train_total_rounds=rounds,
        should_discard_round=discard,
        program_state_manager=tff.program.FileProgramStateManager(
          tmp_path / 'states'
        ),
        model_output_manager=released,
        evaluation_manager=None,
        evaluation_periodicity=1,
      )

  asyncio.run(train(2))
  assert statuses(path) == ['committed'] * 3
  # It resumes from its own program state, and spends one round more.
  asyncio.run(train(3))
  assert statuses(path) == ['committed'] * 4
  shown = show(path)
  assert shown['settings']['unaccounted'] == []
  assert len(released.values()) == 2
