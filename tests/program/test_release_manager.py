# SPDX-License-Identifier: Apache-2.0
"""The privacy figures of rounds, in TensorBoard, MLflow and any sink."""

from __future__ import annotations

import asyncio
import collections
import json
import pathlib
import re
import sys
from typing import Any

import numpy as np
import pytest

from tests.program import conftest
from tff_secagg_ext import accounting, ledger, program, report
from tff_secagg_ext._compat import tff
from tff_secagg_ext.program import board_layout


def record(
  process: Any, aggregator: Any, path: pathlib.Path, **options: Any
) -> Any:
  return program.PrivacyRecorder(
    process,
    aggregator,
    ledger=path,
    run='a',
    sampling=accounting.NoSampling(),
    delta=1e-5,
    **options,
  )


def scalars(folder: pathlib.Path) -> dict[str, dict[int, float]]:
  """Returns what TensorBoard would show: by name and step."""
  import tensorflow as tf

  found: dict[str, dict[int, float]] = collections.defaultdict(dict)
  for file in filter(pathlib.Path.is_file, folder.iterdir()):
    for record in tf.data.TFRecordDataset(str(file)):
      event = tf.compat.v1.Event.FromString(record.numpy())
      for value in event.summary.value:
        number = float(tf.make_ndarray(value.tensor))
        found[value.tag][event.step] = number
  return found


def committed(path: pathlib.Path) -> dict[str, dict[int, float]]:
  """Returns what the ledger says, in the same form."""
  with ledger.Ledger.open(path) as opened:
    rounds = opened.show('a')['rounds']
  assert all(r['status'] == 'committed' for r in rounds)
  return {
    f'privacy/{name}': {
      r['round']: pytest.approx(r[name], rel=1e-6) for r in rounds
    }
    for name in ('release_epsilon', 'server_epsilon')
  }


@tff.tensorflow.computation(np.str_)
def _dataset(_: Any) -> Any:
  import tensorflow as tf

  x = tf.random.stateless_normal([8, 4], seed=[1, 2])
  return tf.data.Dataset.from_tensors(collections.OrderedDict(x=x, y=x[:, :1]))


def test_train_model_shows_every_round_in_tensorboard(
  process: Any, aggregator: Any, tmp_path: pathlib.Path
) -> None:
  """Discarded rounds too, which it does not release itself."""
  pytest.importorskip('tensorboard', reason='TensorFlow came without it')
  composed = tff.simulation.compose_dataset_computation_with_learning_process(
    _dataset, process
  )
  recorder = record(composed, aggregator, tmp_path / 'runs.db')
  board = tff.program.TensorBoardReleaseManager(tmp_path / 'logs')
  discarded: list[bool] = []

  def discard(output: Any) -> bool:
    discarded.append(not discarded)
    return discarded[-1]

  async def train() -> None:
    context = tff.program.NativeFederatedContext(
      tff.backends.native.create_async_local_cpp_execution_context()
    )
    with tff.framework.get_context_stack().install(context):
      await tff.learning.programs.train_model(
        train_process=recorder,
        train_data_source=tff.program.ClientIdDataSource(
          [f'client{i}' for i in range(10)]
        ),
        train_per_round_clients=conftest.CLIENTS,
        train_total_rounds=2,
        should_discard_round=discard,
        program_state_manager=tff.program.FileProgramStateManager(
          tmp_path / 'states'
        ),
        model_output_manager=tff.program.MemoryReleaseManager(),
        train_metrics_manager=tff.program.GroupingReleaseManager(
          [board, program.PrivacyReleaseManager(recorder, board)]
        ),
        evaluation_manager=None,
        evaluation_periodicity=1,
      )

  asyncio.run(train())
  shown, told = scalars(tmp_path / 'logs'), committed(tmp_path / 'runs.db')
  assert len(told['privacy/release_epsilon']) == 3
  for name, values in told.items():
    assert shown[name] == values
  deltas = list(shown['privacy/delta'].values())
  assert deltas == pytest.approx([1e-5] * 3)


class _Sink(tff.program.ReleaseManager):
  """Keeps what is released, in order."""

  def __init__(self) -> None:
    self.released: list[tuple[int, Any]] = []

  async def release(self, value: Any, key: int) -> None:
    self.released.append((key, value))


def test_each_round_is_released_once_and_from_now_on(
  process: Any, aggregator: Any, data: list[Any], tmp_path: pathlib.Path
) -> None:
  recorder, sink = record(process, aggregator, tmp_path / 'runs.db'), _Sink()
  state = recorder.initialize()
  clients = data[: conftest.CLIENTS]
  state = recorder.next(state, clients).state
  manager = program.PrivacyReleaseManager(recorder, sink)
  asyncio.run(manager.release({}, 1))
  assert sink.released == []
  state = recorder.next(state, clients).state
  output = recorder.next(state, clients)
  for _ in range(2):
    asyncio.run(manager.release(output.metrics, 7))
  assert [key for key, _ in sink.released] == [2, 3]
  for (_, figures), entry in zip(
    sink.released, recorder.account.run.entries[3::2], strict=True
  ):
    assert figures == program.privacy_figures(entry, 1e-5)
    assert figures['privacy']['server_epsilon'] == entry.server.value


# Of a package that TensorBoard brings along.
@pytest.mark.filterwarnings("ignore:html5lib's sanitizer:DeprecationWarning")
def test_tensorboard_shows_the_figures_in_its_own_charts(
  process: Any, aggregator: Any, data: list[Any], tmp_path: pathlib.Path
) -> None:
  """As TensorBoard reads them; each figure of a chart is a scalar."""
  pytest.importorskip('tensorboard', reason='TensorFlow came without it')
  from tensorboard.backend.event_processing import (
    data_provider,
    plugin_event_multiplexer,
  )
  from tensorboard.context import RequestContext
  from tensorboard.plugins import base_plugin
  from tensorboard.plugins.custom_scalar import custom_scalars_plugin

  budget = accounting.Budget(1e6, 1e-5)
  recorder = record(process, aggregator, tmp_path / 'runs.db', budget=budget)
  board = tff.program.TensorBoardReleaseManager(tmp_path / 'logs')
  manager = program.PrivacyReleaseManager(recorder, board)
  manager.write_tensorboard_layout(tmp_path / 'logs')
  recorder.next(recorder.initialize(), data[: conftest.CLIENTS])
  asyncio.run(manager.release({}, 1))
  events = plugin_event_multiplexer.EventMultiplexer()
  events.AddRunsFromDirectory(str(tmp_path / 'logs')).Reload()
  provider = data_provider.MultiplexerDataProvider(events, str(tmp_path))
  plugin = custom_scalars_plugin.CustomScalarsPlugin(
    base_plugin.TBContext(multiplexer=events, data_provider=provider)
  )
  layout = json.loads(plugin.layout_impl(RequestContext(), ''))
  shown = {
    category['title']: {
      chart['title']: chart['multiline']['tag'] for chart in category['chart']
    }
    for category in layout['category']
  }
  assert shown['Privacy']['ε towards whoever sees the models'] == [
    '^privacy/release_epsilon$',
    '^privacy/budget$',
  ]
  assert shown['Privacy']['ε towards the coordinator'] == [
    '^privacy/server_epsilon$'
  ]
  released = scalars(tmp_path / 'logs')
  for charts in shown.values():
    for tags in charts.values():
      for tag in tags:
        assert [name for name in released if re.search(tag, name)], tag
  assert released['privacy/budget'] == {1: 1e6}
  assert released['clients/contributors'] == {1: conftest.CLIENTS}


def test_charts_without_tensorboard_are_refused_by_name(
  process: Any,
  aggregator: Any,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  plugin = 'tensorboard.plugins.custom_scalar'
  monkeypatch.setitem(sys.modules, f'{plugin}.layout_pb2', None)
  recorder = record(process, aggregator, tmp_path / 'runs.db')
  manager = program.PrivacyReleaseManager(recorder, _Sink())
  with pytest.raises(ImportError, match='pip install tensorboard'):
    manager.write_tensorboard_layout(tmp_path / 'logs')
  assert not (tmp_path / 'logs').exists()


def test_who_took_part_is_released_in_the_servers_view_alone() -> None:
  entry = ledger.Entry(
    2,
    1,
    ledger.Attempt(1, 1),
    'committed',
    accounting.Round((), accounting.NoSampling()),
    {'l2_clip': 0.5, 'wrap_probability': 'NaN', 'aborted': False},
    '',
    accounting.Epsilon(1.0),
    accounting.Epsilon(float('inf'), ('the loss is exact',)),
    '2026-01-01',
    {'clients': 9, 'survivors': 6, 'dropouts': {'invite': 1, 'mask': 2}},
  )
  privacy = {
    'release_epsilon': 1.0,
    'server_epsilon': float('inf'),
    'delta': 1e-5,
  }
  told = {'privacy': privacy, 'mechanism': {'clip_norm': 0.5}}
  clients = {'contributors': 6.0, 'invited': 9.0, 'dropped_out': 3.0}
  assert program.privacy_figures(entry, 1e-5) == told
  assert program.privacy_figures(entry, 1e-5, server_view=True) == {
    **told,
    'clients': clients,
  }
  in_charts = {
    tag
    for shown in board_layout.charts('server', True).values()
    for tags in shown.values()
    for tag in tags
  }
  assert {f'clients/{name}' for name in clients} <= in_charts
  hidden = board_layout.charts('server', False)
  assert list(hidden['Clients'].values()) == [['clients/contributors']]
  assert 'privacy/budget' in hidden['Privacy']['ε towards the coordinator']


@pytest.fixture
def mlflow_client(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
  """MLflow itself, which writes files; its databases take longer to make."""
  mlflow = pytest.importorskip('mlflow')
  monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
  return mlflow.MlflowClient(str(tmp_path / 'mlruns'))


def test_mlflow_keeps_scalars_by_name_and_step(mlflow_client: Any) -> None:
  experiment = mlflow_client.create_experiment('a')
  run_id = mlflow_client.create_run(experiment).info.run_id
  manager = program.MlflowReleaseManager(run_id, mlflow_client)
  value = {
    'privacy': {'release_epsilon': float('inf'), 'delta': 1e-5},
    'list': [np.float32(0.5), True],
    'name': 'left out',
    'array': np.zeros(3),
  }
  asyncio.run(manager.release(value, 4))
  assert mlflow_client.get_run(run_id).data.metrics == {
    'privacy/release_epsilon': float('inf'),
    'privacy/delta': 1e-5,
    'list/0': 0.5,
    'list/1': 1.0,
  }
  (metric,) = mlflow_client.get_metric_history(run_id, 'list/0')
  assert metric.step == 4
  assert metric.timestamp > 1_600_000_000_000


def test_a_run_in_mlflow_has_what_it_claims_and_every_round(
  process: Any,
  aggregator: Any,
  data: list[Any],
  tmp_path: pathlib.Path,
  mlflow_client: Any,
) -> None:
  recorder = record(process, aggregator, tmp_path / 'runs.db')
  experiment = mlflow_client.create_experiment('a')
  run_id = mlflow_client.create_run(experiment).info.run_id
  sink = program.MlflowReleaseManager(run_id, mlflow_client)
  manager = program.PrivacyReleaseManager(recorder, sink)
  sink.tag(recorder)
  begun = mlflow_client.get_run(run_id).data.tags
  assert begun['privacy.verdict'] == 'nothing'
  state = recorder.initialize()
  for number in (1, 2):
    state = recorder.next(state, data[: conftest.CLIENTS]).state
    asyncio.run(manager.release({}, number))
  sink.tag(recorder)
  for name, values in committed(tmp_path / 'runs.db').items():
    kept = mlflow_client.get_metric_history(run_id, name)
    assert {metric.step: metric.value for metric in kept} == values
  tags = mlflow_client.get_run(run_id).data.tags
  facts = recorder.facts()
  assert tags['privacy.verdict'] == report.verdict(facts).level != 'nothing'
  assert tags['privacy.sentence'] == report.verdict(facts).sentence
  assert tags['privacy.run'] == 'a'
  assert tags['privacy.delta'] == '1e-05'
  assert tags['privacy.unit'] == 'client'
  assert tags['privacy.adjacency'].startswith('zero-out')
  assert tags['privacy.release_view'].startswith('no sampling is claimed')
  assert tags['privacy.threat_class'] == 'none'
  assert 'in the clear' in tags['privacy.server_view']
  assert tags['privacy.head'] == facts.head
  assert tags['privacy.version.tff-secagg-ext']
  assert tags['privacy.version.python'].startswith('3.')


def test_a_missing_mlflow_is_named_with_its_extra(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setitem(sys.modules, 'mlflow', None)
  monkeypatch.setitem(sys.modules, 'mlflow.entities', None)
  with pytest.raises(ImportError, match=r'tff-secagg-ext\[mlflow\]'):
    program.MlflowReleaseManager('run7')
