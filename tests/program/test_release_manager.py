# SPDX-License-Identifier: Apache-2.0
"""The privacy figures of rounds, in TensorBoard, MLflow and any sink."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import pathlib
import sys
import types
from typing import Any

import numpy as np
import pytest

from tests.program import conftest
from tff_secagg_ext import accounting, ledger, program
from tff_secagg_ext._compat import tff


def record(process: Any, aggregator: Any, path: pathlib.Path) -> Any:
  return program.PrivacyRecorder(
    process,
    aggregator,
    ledger=path,
    run='a',
    sampling=accounting.NoSampling(),
    delta=1e-5,
  )


def scalars(folder: pathlib.Path) -> dict[str, dict[int, float]]:
  """Returns what TensorBoard would show: by name and step."""
  import tensorflow as tf

  found: dict[str, dict[int, float]] = collections.defaultdict(dict)
  for file in folder.iterdir():
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


@dataclasses.dataclass
class _Metric:
  key: str
  value: float
  timestamp: int
  step: int


class _Client:
  """Takes what `mlflow.MlflowClient.log_batch` takes."""

  def __init__(self) -> None:
    self.logged: list[tuple[str, list[_Metric]]] = []

  def log_batch(self, run_id: str, metrics: Any = ()) -> None:
    self.logged.append((run_id, list(metrics)))


def test_mlflow_gets_scalars_by_name_and_step(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  client, mlflow = _Client(), types.ModuleType('mlflow')
  entities = types.ModuleType('mlflow.entities')
  mlflow.MlflowClient = lambda: client  # type: ignore[attr-defined]
  entities.Metric = _Metric  # type: ignore[attr-defined]
  monkeypatch.setitem(sys.modules, 'mlflow', mlflow)
  monkeypatch.setitem(sys.modules, 'mlflow.entities', entities)
  manager = program.MlflowReleaseManager('run7')
  value = {
    'privacy': {'release_epsilon': float('inf'), 'delta': 1e-5},
    'list': [np.float32(0.5), True],
    'name': 'left out',
    'array': np.zeros(3),
  }
  asyncio.run(manager.release(value, 4))
  ((run_id, metrics),) = client.logged
  assert run_id == 'run7'
  assert {m.key: m.value for m in metrics} == {
    'privacy/release_epsilon': float('inf'),
    'privacy/delta': 1e-5,
    'list/0': 0.5,
    'list/1': 1.0,
  }
  assert {m.step for m in metrics} == {4}
  assert min(m.timestamp for m in metrics) > 1_600_000_000_000


def test_mlflow_itself_keeps_them(tmp_path: pathlib.Path) -> None:
  mlflow = pytest.importorskip('mlflow')
  client = mlflow.MlflowClient(f'sqlite:///{tmp_path / "mlflow.db"}')
  experiment = client.create_experiment('a', str(tmp_path / 'artifacts'))
  run_id = client.create_run(experiment).info.run_id
  manager = program.MlflowReleaseManager(run_id, client)
  asyncio.run(manager.release({'privacy': {'delta': 1e-5}}, 4))
  (metric,) = client.get_metric_history(run_id, 'privacy/delta')
  assert (metric.value, metric.step) == (1e-5, 4)


def test_a_missing_mlflow_is_named_with_its_extra(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setitem(sys.modules, 'mlflow', None)
  monkeypatch.setitem(sys.modules, 'mlflow.entities', None)
  with pytest.raises(ImportError, match=r'tff-secagg-ext\[mlflow\]'):
    program.MlflowReleaseManager('run7')
