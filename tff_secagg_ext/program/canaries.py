# SPDX-License-Identifier: Apache-2.0
"""Canary clients of a run: what they send, and what is seen of it.

They take part in every attempt at a round, beside the clients that were drawn.
What each attempt showed of them is a line of a file beside their key, written
before the attempt is committed; the audit counts the lines of those that were.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
import dataclasses
import json
import math
import os
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt

from tff_secagg_ext import _validate, accounting, aggregators, audit
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext._compat import tff
from tff_secagg_ext.audit import training
from tff_secagg_ext.mechanism import norms
from tff_secagg_ext.program import canary_work, keys

_KEY, _LINES = 'canaries.key', 'canaries.jsonl'
# What is clipped keeps its direction; what is not votes so, in float32 too.
_ABOVE, _BELOW = 1.01, 0.999


class CanaryError(Exception):
  """Canaries cannot ride in a round, or nothing can be said of them."""


@dataclasses.dataclass(frozen=True)
class CanaryClients:
  """Canaries that ride in a run.

  Attributes:
    always: How many send their directions in every round.
    folder: Where their key is, and what was seen of them: files of mode 0600
      for the coordinator alone, of this run alone.
    coins: How many more do if their own coin says so, and send zero if not.
  """

  always: int
  folder: str | os.PathLike[str]
  coins: int = 0

  def __post_init__(self) -> None:
    _validate.check_int(self.always, 'always', minimum=0)
    _validate.check_int(self.coins, 'coins', minimum=0)
    if not self.places:
      raise ValueError(
        '`always` + `coins` must be at least 1. Found 0. Leave the canaries'
        ' out, or ask for some.'
      )

  @property
  def places(self) -> int:
    """How many places of each cohort they take."""
    return self.always + self.coins


class Riders:
  """The canaries of one run.

  Guarantees:

  * A canary that is in a round sends its direction with the norm that the round
    clips to; less only where a coordinate would pass the zeroing threshold.
  * They do not move an adaptive clip norm: as many of them are below it as it
    aims at, to the nearest.
  * Their directions are those of the attempt alone; a key that was lost is not
    replaced.
  """

  def __init__(
    self,
    run: ledger_lib.Run,
    process: tff.learning.templates.LearningProcess,
    aggregator: aggregators.DdpSecureAggregationFactory,
    clients: CanaryClients,
  ):
    """Opens the files of a run, or makes them if it is new.

    Raises:
      TypeError: If the clients of the process cannot be canaries.
      ValueError: If there are as many as the update has coordinates.
      RunKeyError: If the key is lost or can be read by others.
    """
    self._run, self._process = run, process
    self._spec = aggregator.spec
    folder = pathlib.Path(clients.folder)
    self._path = folder / _LINES
    dimension = canary_work.dimension_of(process)
    if dimension is None:
      raise TypeError(
        'The clients of a process with `canaries` must take them. Found data of'
        f' type {process.next.type_signature.parameter[1]}. Compose the process'
        ' of program.with_canaries(client_work).'
      )
    key = keys.kept(folder / _KEY, new=run.attempts == 0)
    self._canaries = training.TrainingCanaries(
      key, clients.always, clients.coins, dimension
    )
    # What a kill has torn must not become part of the next line.
    keys.whole_lines(self._path)
    # The newest state whose weights were read, these, and the update to them.
    self._newest: tuple[Any, npt.NDArray[Any], npt.NDArray[Any] | None]
    self._newest = (None, np.zeros(0), None)

  @property
  def places(self) -> int:
    """How many places of each cohort they take."""
    return self._canaries.always + self._canaries.coins

  def among(
    self, data: Sequence[Any], attempt: ledger_lib.Attempt, state: Any
  ) -> list[Any]:
    """Returns the data of the clients, and after them those of the canaries.

    Args:
      data: Of the clients that were drawn.
      attempt: At which round.
      state: Of the process, before the round.

    Raises:
      CanaryError: If the clip norm is not in the state.
    """
    vectors = self._scaled(self._canaries.sent(_name(attempt)), state)
    return canary_work.clients_data(data, list(vectors))

  def observe(
    self,
    attempt: ledger_lib.Attempt,
    before: Any,
    after: Any,
    measured: Mapping[str, Any],
  ) -> None:
    """Writes down what an attempt shows of the canaries, before its commit.

    Args:
      attempt: At which round.
      before: The state of the process before it.
      after: The state after it.
      measured: The aggregator's measurements.

    Raises:
      CanaryError: If the update is not finite, or is nothing but canaries.
    """
    old, earlier = self._weights(before)
    new, _ = self._weights(after)
    # TFF's finalizers step against the update, as along a gradient.
    release = old - new
    self._newest = (after, new, release if release.any() else None)
    if bool(measured['aborted']):
      return
    try:
      seen = self._canaries.observe(_name(attempt), release, earlier)
    except ValueError as error:
      raise CanaryError(
        f'{str(attempt).capitalize()} cannot be audited, and is not released:'
        f' {error}'
      ) from error
    line: dict[str, Any] = {'attempt': dataclasses.astuple(attempt)}
    if seen.statistic is not None:
      line['statistic'] = dataclasses.astuple(seen.statistic)
    if seen.scores is not None:
      line['scores'] = seen.scores.tolist()
    keys.append_line(self._path, line)

  def audits(self, confidence: float = 0.95) -> dict[str, dict[str, Any]]:
    """Returns figures for the ledger, as JSON values, by their kind.

    `one_shot` where there are canaries that always take part, `one_run` where
    there are coins. What they are compared with, `ledger_epsilon`, is that of
    the same rounds towards whoever sees all releases and knows who took part:
    canaries are in all rounds, and no sampling amplifies what is seen of them.
    Of the ledger's own epsilons the server's is comparable, which is no less.

    Raises:
      CanaryError: If no committed round was audited.
    """
    lines = list(self._committed())
    if not lines:
      raise CanaryError(
        f'Run {self._run.name!r} must have a committed round that was audited.'
        f' Found none in {os.fspath(self._path)!r}. Train with canaries first.'
      )
    common = self._common([_attempt(line) for line in lines], confidence)
    found: dict[str, dict[str, Any]] = {}
    if self._canaries.always:
      found['one_shot'] = {**common, **self._one_shot(lines, confidence)}
    if self._canaries.coins:
      found['one_run'] = {**common, **self._one_run(lines, confidence)}
    for figures in found.values():
      limit = figures['ledger_epsilon']
      figures['alarm'] = limit is not None and figures['lower_bound'] > limit
    return found

  def _common(
    self, attempts: Sequence[ledger_lib.Attempt], confidence: float
  ) -> dict[str, Any]:
    rounds = list(_charges(self._run, attempts))
    epsilon = accounting.release_epsilon(rounds, self._run.delta).value
    return {
      'confidence': confidence,
      'delta': self._run.delta,
      'view': 'server',
      'sampling': 'none: canaries are in all rounds',
      'ledger_epsilon': epsilon if math.isfinite(epsilon) else None,
      'rounds': len(rounds),
      'places': self.places,
      'dimension': self._canaries.dimension,
      'beside_noise': self._beside_noise(rounds[-1]),
    }

  def _beside_noise(self, a_round: accounting.Round) -> float | None:
    """Returns the norm of the canaries' sum over that of the noise.

    That is sqrt(k / d) / z; `None` without noise.
    """
    first = a_round.events[0]
    if not isinstance(first, accounting.NoisedSumEvent):
      return None
    shares = first.client_shares + first.server_shares
    noise = first.share_stddev * math.sqrt(shares) / first.l2_sensitivity
    if not noise:
      return None
    return math.sqrt(self.places / self._canaries.dimension) / noise

  def _one_shot(
    self, lines: Sequence[Mapping[str, Any]], confidence: float
  ) -> dict[str, Any]:
    statistics = [training.RoundStatistic(*each['statistic']) for each in lines]
    found = training.compose(statistics, self._run.delta, confidence)
    return {
      'canaries': self._canaries.always,
      'estimate': found.known,
      'lower_bound': found.lower_bound,
    }

  def _one_run(
    self, lines: Sequence[Mapping[str, Any]], confidence: float
  ) -> dict[str, Any]:
    scores = np.sum([each['scores'] for each in lines], axis=0)
    quarter = self._canaries.coins // 4
    guesses = audit.one_run.guess(
      scores, self._canaries.included, max(1, quarter), quarter
    )
    bound = audit.one_run.epsilon_lower_bound(
      guesses, self._run.delta, confidence
    )
    return {**dataclasses.asdict(guesses), 'lower_bound': bound}

  def _scaled(
    self, directions: Iterator[npt.NDArray[np.float64]], state: Any
  ) -> Iterator[npt.NDArray[np.float32]]:
    """Yields directions with the clip norm of the round."""
    clip_norm, largest, above = self._bounds(state)
    for direction in directions:
      norm = clip_norm * (_ABOVE if above > 0 else _BELOW)
      peak = float(np.max(np.abs(direction)))
      if peak:
        above -= 1
        norm = min(norm, _BELOW * largest / peak)
      yield (norm * direction).astype(np.float32)

  def _bounds(self, state: Any) -> tuple[float, float, int]:
    """Returns clip norm, largest coordinate, and how many are to be above."""
    clipping = self._spec.clipping
    public = getattr(state, 'aggregator', None)
    public = public if isinstance(public, Mapping) else {}
    largest = math.inf
    if self._spec.zeroing:
      # Without a quantile the least threshold that there can be.
      quantile = float(public.get('zeroing_quantile', 0.0))
      largest = float(norms.zeroing_threshold(quantile))
    if not isinstance(clipping, aggregators.AdaptiveClipping):
      return clipping, largest, self.places
    if 'clip_norm' not in public:
      raise CanaryError(
        'The clip norm of a round must be in `state.aggregator`, for canaries'
        ' to have it. Found none. Compose the process of the aggregator itself,'
        ' or clip to a fixed norm.'
      )
    above = round((1.0 - clipping.target_quantile) * self.places)
    return float(public['clip_norm']), largest, above

  def _weights(
    self, state: Any
  ) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Returns the model's weights as one vector, and the update to them.

    The update is `None` where it was not seen.
    """
    newest, weights, update = self._newest
    if state is newest:
      return weights, update
    trainable = self._process.get_model_weights(state).trainable
    tensors = aggregators.flatten(trainable)
    found = np.concatenate([np.ravel(each) for each in tensors])
    return found.astype(np.float64), None

  def _committed(self) -> Iterator[Mapping[str, Any]]:
    """Yields what was seen of attempts that are committed."""
    for text in keys.whole_lines(self._path):
      line = json.loads(text)
      if self._run.status(_attempt(line)) == 'committed':
        yield line


def _charges(
  run: ledger_lib.Run, attempts: Collection[ledger_lib.Attempt]
) -> Iterator[accounting.Round]:
  """Yields what committed attempts were charged with, without any sampling."""
  for entry in run.entries:
    if entry.kind == 'committed' and entry.attempt in attempts:
      nothing = accounting.NoSampling(entry.charge.sampling.adjacency)
      yield accounting.Round(entry.charge.events, nothing)


def _name(attempt: ledger_lib.Attempt) -> str:
  return f'{attempt.round}/{attempt.attempt}'


def _attempt(line: Mapping[str, Any]) -> ledger_lib.Attempt:
  return ledger_lib.Attempt(*line['attempt'])
