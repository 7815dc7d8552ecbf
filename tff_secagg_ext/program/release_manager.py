# SPDX-License-Identifier: Apache-2.0
"""Sends the privacy figures of a run to TensorBoard, MLflow or other sinks."""

from __future__ import annotations

import importlib
import os
import time
from typing import Any

import numpy as np
import tree

from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext import report
from tff_secagg_ext._compat import tff
from tff_secagg_ext.program import board_layout
from tff_secagg_ext.program.recorder import PrivacyRecorder
from tff_secagg_ext.report import collecting, words

_NOISE = 'effective_noise_multiplier'


class PrivacyReleaseManager(tff.program.ReleaseManager):
  """A `tff.program.ReleaseManager` of what rounds have spent.

  It releases to another manager, TensorBoard's for instance, and stands beside
  the one that gets the training metrics:

  ```python
  board = tff.program.TensorBoardReleaseManager('logs')
  private = program.PrivacyReleaseManager(recorder, board)
  private.write_tensorboard_layout('logs')
  train_metrics_manager = tff.program.GroupingReleaseManager([board, private])
  ```

  Guarantees:

  * Each round that was committed since the manager was made is released once,
    in the order of the ledger, rounds that the training program discards
    included. Nothing is released of a round before it is committed.
  * Both epsilons are those that the ledger told when the round was committed:
    they count all attempts up to it, lost ones included. Infinity stays so.
  * Without `server_view` nothing tells the size of a secret cohort.
  """

  def __init__(
    self,
    recorder: PrivacyRecorder,
    sink: tff.program.ReleaseManager,
    server_view: bool = False,
  ):
    """Releases the rounds of `recorder` from now on.

    Args:
      recorder: The process that is trained.
      sink: Where figures are released: structures of type `Mapping[str,
        Mapping[str, float]]`, as `privacy_figures` returns them, with the
        number of the round in the ledger, from 1, as key. It differs from the
        number that a training program counts once a round was discarded or run
        again. `privacy/budget` is among them, if the run has one.
      server_view: Whether to release who took part, which is the coordinator's
        alone.
    """
    facts = recorder.facts()
    self._run = recorder.account.run
    self._budget = None if facts.budget is None else facts.budget.budget
    self._sink = sink
    self._server_view = server_view
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
        figures = privacy_figures(entry, self._run.delta, self._server_view)
        if self._budget is not None:
          figures['privacy']['budget'] = self._budget.epsilon
        await self._sink.release(figures, entry.attempt.round)

  def write_tensorboard_layout(self, folder: str | os.PathLike[str]) -> None:
    """Has TensorBoard show the figures as charts, under "Custom Scalars".

    It is written once, into a folder of its own, `layout`: of the files of one
    folder TensorBoard follows the newest alone.

    Args:
      folder: The log directory that TensorBoard is opened on.

    Raises:
      ImportError: If TensorBoard is not installed. TensorFlow 2.20 and later
        come without it.
    """
    view = None if self._budget is None else self._budget.view
    board_layout.write(folder, view, self._server_view)


def privacy_figures(
  entry: ledger_lib.Entry, delta: float, server_view: bool = False
) -> dict[str, dict[str, float]]:
  """Returns the figures of an entry that `PrivacyReleaseManager` releases.

  Args:
    entry: Of a committed round.
    delta: That of its run, in (0, 1).
    server_view: Whether to tell who took part. Without it, contributors are
      told where their number is public.

  Returns:
    `privacy`: `release_epsilon`, `server_epsilon` and `delta`; `mechanism`:
    `clip_norm`, `zeroing_threshold`, `wrap_probability` and
    `effective_noise_multiplier`, what of them was measured; `clients`:
    `contributors`, and in the server's view `invited` and `dropped_out`.
    Groups of which nothing is known are left out.
  """
  measured = entry.measurements
  session = (entry.protocol or {}) if server_view else {}
  found: dict[str, dict[str, Any]] = {
    'privacy': {
      'release_epsilon': float(entry.release.value),
      'server_epsilon': float(entry.server.value),
      'delta': delta,
    },
    'mechanism': {
      **{n: collecting.measurement(measured, n) for n in collecting.MEASURED},
      _NOISE: measured.get(_NOISE),
    },
    'clients': {
      'contributors': session.get('survivors', measured.get('contributors')),
      'invited': session.get('clients'),
      'dropped_out': sum(session['dropouts'].values())
      if 'dropouts' in session
      else None,
    },
  }
  known = {
    group: {
      name: float(value)
      for name, value in figures.items()
      if isinstance(value, (int, float))
    }
    for group, figures in found.items()
  }
  return {group: figures for group, figures in known.items() if figures}


def privacy_tags(recorder: PrivacyRecorder) -> dict[str, str]:
  """Returns what a run claims and what is to be said of it, as it is now.

  Args:
    recorder: The process that is trained.

  Returns:
    Texts by name, all of which begin with `privacy.`: `run` (its name in the
    ledger), `verdict` and `sentence` of `report.verdict`, `unit`, `delta`,
    `adjacency`, `release_view` and `server_view` (what their epsilons assume),
    `threat_class`, `head` of the ledger's chain, and `version.` and the name of
    each package. Nothing in them is the coordinator's alone.
  """
  facts = recorder.facts()
  found = report.verdict(facts, report.forecast(facts))
  sums = facts.settings.get('secure_sums')
  secret = words.is_secret(sums)
  tags = {
    'run': facts.name,
    'verdict': found.level,
    'sentence': found.sentence,
    'unit': facts.settings.get('unit_of_privacy', 'client'),
    'delta': repr(facts.delta),
    'adjacency': words.adjacency(facts.sampling),
    'release_view': words.sampling(facts.sampling),
    'server_view': words.sums(sums),
    'threat_class': facts.mapping('secure_sums')['threat']
    if secret
    else 'none',
    'head': facts.head,
  }
  for package, version in (facts.versions or [{}])[-1].items():
    tags[f'version.{package}'] = version
  return {f'privacy.{name}': str(value) for name, value in tags.items()}


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

  def tag(self, recorder: PrivacyRecorder) -> None:
    """Sets the tags of the run of MLflow to `privacy_tags` of `recorder`.

    Call it when the training begins, and again when it ends: the verdict is
    that of the moment. It reads the ledger and prices what is spent, some
    seconds for thousands of rounds.

    Args:
      recorder: The process that is trained.
    """
    tags = [
      self._entities.RunTag(name, value)
      for name, value in privacy_tags(recorder).items()
    ]
    self._client.log_batch(self._run_id, tags=tags)

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
