# SPDX-License-Identifier: Apache-2.0
"""Sends the privacy figures of a run to TensorBoard, MLflow or other sinks."""

from __future__ import annotations

import importlib
import time
from typing import Any

import numpy as np
import tree

from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext._compat import tff
from tff_secagg_ext.program.recorder import PrivacyRecorder


class PrivacyReleaseManager(tff.program.ReleaseManager):
  """A `tff.program.ReleaseManager` of what rounds have spent.

  It releases to another manager, TensorBoard's for instance, and stands beside
  the one that gets the training metrics:

  ```python
  board = tff.program.TensorBoardReleaseManager('logs')
  train_metrics_manager = tff.program.GroupingReleaseManager(
    [board, program.PrivacyReleaseManager(recorder, board)])
  ```

  Guarantees:

  * Each round that was committed since the manager was made is released once,
    in the order of the ledger, rounds that the training program discards
    included. Nothing is released of a round before it is committed.
  * Both epsilons are those that the ledger told when the round was committed:
    they count all attempts up to it, lost ones included. Infinity stays so.
  """

  def __init__(
    self, recorder: PrivacyRecorder, sink: tff.program.ReleaseManager
  ):
    """Releases the rounds of `recorder` from now on.

    Args:
      recorder: The process that is trained.
      sink: Where figures are released: structures of type `Mapping[str,
        Mapping[str, float]]`, `privacy/release_epsilon`,
        `privacy/server_epsilon` and `privacy/delta`, with the number of the
        round in the ledger, from 1, as key. It differs from the number that a
        training program counts once a round was discarded or run again.
    """
    self._run = recorder.account.run
    self._sink = sink
    self._seen = len(self._run.entries)

  async def release(self, value: Any, key: Any) -> None:
    """Releases the figures of all rounds that are committed and were not.

    Args:
      value: What a round returned, such as its metrics. Waited for, so that
        the round is committed, and not released.
      key: Ignored.
    """
    del key
    await tff.program.materialize_value(value)
    # No other release can come between these two lines.
    entries = self._run.entries[self._seen :]
    self._seen += len(entries)
    for entry in entries:
      if entry.kind == 'committed':
        figures = privacy_figures(entry, self._run.delta)
        await self._sink.release(figures, entry.attempt.round)


def privacy_figures(
  entry: ledger_lib.Entry, delta: float
) -> dict[str, dict[str, float]]:
  """Returns the figures of an entry that `PrivacyReleaseManager` releases.

  Args:
    entry: Of a committed round.
    delta: That of its run, in (0, 1).
  """
  return {
    'privacy': {
      'release_epsilon': float(entry.release.value),
      'server_epsilon': float(entry.server.value),
      'delta': delta,
    }
  }


class MlflowReleaseManager(tff.program.ReleaseManager):
  """A `tff.program.ReleaseManager` that releases values to a run of MLflow.

  The structure of a value is the name of its metrics, `privacy/delta` for
  instance. Scalars are released; strings and arrays are not, as TensorBoard's
  manager leaves out strings. MLflow's databases store the largest float in
  place of infinity.
  """

  def __init__(self, run_id: str, client: Any = None):
    """Makes a manager for a run that exists.

    Args:
      run_id: Of MLflow, `mlflow.active_run().info.run_id` for instance.
      client: An `mlflow.MlflowClient`; by default one of the tracking server
        that MLflow is set to.

    Raises:
      ImportError: If MLflow is not installed.
    """
    try:
      self._entities = importlib.import_module('mlflow.entities')
      self._client = client or importlib.import_module('mlflow').MlflowClient()
    except ModuleNotFoundError as error:
      raise ImportError(
        f'MLflow cannot be imported: {error}. Install it with `pip install'
        ' "tff-secagg-ext[mlflow]"`.'
      ) from error
    self._run_id = run_id

  async def release(self, value: Any, key: int) -> None:
    """Releases the scalars of `value`.

    Args:
      value: A structure of values, or of references to them.
      key: The step.
    """
    materialized = await tff.program.materialize_value(value)
    now = int(1e3 * time.time())
    metrics = [
      self._entities.Metric('/'.join(map(str, path)), float(leaf), now, key)
      for path, leaf in tree.flatten_with_path(materialized)
      if np.ndim(leaf) == 0 and np.asarray(leaf).dtype.kind in 'biuf'
    ]
    self._client.log_batch(self._run_id, metrics=metrics)
