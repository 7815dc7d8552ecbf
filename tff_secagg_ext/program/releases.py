# SPDX-License-Identifier: Apache-2.0
"""What leaves the clients of a learning process, read off its computations.

The process is compiled to its MapReduce form: everything that leaves the
clients in a round is one of its sums, and all else, metrics and states
included, is post-processing of them. A sum is a noised one if it is a secure
modular sum of one vector with which an aggregator of ours says `aborted`.
Whatever else leaves the clients is named, by the results that come of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import math
from typing import Any

from tff_secagg_ext import _forms, _identity
from tff_secagg_ext._compat import tff
from tff_secagg_ext.metrics import NOISED_SUM
from tff_secagg_ext.program import dataflow

# By these a dictionary of measurements is known as that of our aggregator.
MEASUREMENT_KEYS = frozenset(
  ('scale', 'dimension', 'effective_noise_multiplier', 'aborted')
)
_MODULAR = 3
# Computations of which it is kept what they sum.
_CACHED = 16
# The kinds of aggregates of a MapReduce form, in its order.
_KINDS = (
  'an aggregate in the clear',
  'a secure sum without noise',
  'a secure sum without noise',
  'a secure modular sum that no given aggregator noises',
)


@dataclasses.dataclass(frozen=True)
class Releases:
  """What leaves the clients in one round.

  Attributes:
    dimension: Coordinates of the noised vector of the model, the count of
      contributors not among them; `None` if there is no such vector.
    unaccounted: Everything else, by name.
    metrics_dimension: Coordinates of the noised vector of metrics; `None` if
      there is no such vector.
    seen_by_server: What is not noised, and leaves the clients for nothing: no
      result depends on it.
    counts: What tells how many clients there were, and nothing of their data.
  """

  dimension: int | None
  unaccounted: tuple[str, ...]
  metrics_dimension: int | None = None
  seen_by_server: tuple[str, ...] = ()
  counts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Sum:
  """A tensor that is aggregated over the clients.

  Attributes:
    number: Which of all.
    kind: Which of the four kinds of the MapReduce form.
    type: Of the aggregate.
    results: What comes of it: paths from the output.
    of_data: Whether what a client sends depends on its data. Else everybody
      sends the same, and the sum tells their number.
  """

  number: int
  kind: int
  type: tff.TensorType
  results: Sequence[tuple[str, ...]]
  of_data: bool = True

  @property
  def length(self) -> int | None:
    """Coordinates, if it can be a noised vector with a count."""
    shape = self.type.shape
    if self.kind != _MODULAR or shape is None or len(shape) != 1:
      return None
    return None if (shape[0] or 0) < 2 else int(shape[0]) - 1

  @property
  def reasons(self) -> Iterator[str]:
    """What is not accounted if it is not."""
    kind, modular = _KINDS[self.kind], self.kind == _MODULAR
    if not self.results:
      yield f'{kind}: {self.type.compact_representation()}'
    for path in self.results:
      # Parts of the state are named as wholes, metrics one by one.
      named = path[:2] if path[0] == 'state' else path[1:]
      yield '.'.join(named) + (f' comes of {kind}' if modular else ' is exact')


def of_process(
  process: tff.learning.templates.LearningProcess, *, metrics: bool = False
) -> Releases:
  """Returns what leaves the clients in `process.next`.

  Fails closed: what cannot be compiled or understood is unaccounted.

  Args:
    process: A learning process.
    metrics: Whether a noised sum of metrics is accounted as well.
  """
  try:
    results = dict(_results(process.next))
    sums = sums_of(process.next)
  except Exception as error:  # pylint: disable=broad-except
    return unknown(error)
  model: Sum | None = None
  of_metrics: Sum | None = None
  for path in _measurement_dicts(results):
    reported = _reported(sums, path)
    if path[-1] != NOISED_SUM:
      model = model or reported
    elif metrics:
      of_metrics = of_metrics or reported
  unaccounted = [
    reason
    for each in sums
    if each not in (model, of_metrics)
    for reason in each.reasons
  ]
  if not sums:
    unaccounted = ['the aggregator sums nothing of the clients']
  return Releases(
    None if model is None else model.length,
    tuple(dict.fromkeys(unaccounted)),
    None if of_metrics is None else of_metrics.length,
  )


@_identity.cached(_CACHED)
def sums_of(computation: tff.Computation) -> tuple[Sum, ...]:
  """Returns all that is summed over the clients.

  Args:
    computation: From (state, values) to (state, results).

  Raises whatever compiling the process raises.
  """
  results = [path for path, _ in _results(computation)]
  form = _forms.of(computation)
  used = dataflow.dependents(form.update)
  state, aggregates = form.update.type_signature.parameter
  kinds = [
    (kind, leaf)
    for kind, aggregate in enumerate(aggregates)
    for _, leaf in dataflow.leaves(aggregate)
  ]
  used = used[len(list(dataflow.leaves(state))) :]
  of_data = dataflow.dependents_of_first(form.work)
  return tuple(
    Sum(
      number,
      kind,
      leaf,
      tuple(results[i] for i in sorted(positions)),
      number in of_data,
    )
    for number, ((kind, leaf), positions) in enumerate(
      zip(kinds, used, strict=True)
    )
  )


def unknown(error: Exception) -> Releases:
  """Returns what is said of a process that compiling raised `error` for."""
  reason = f'process.next cannot be checked ({type(error).__name__})'
  return Releases(None, (reason,))


def beside_the_vector(computation: tff.Computation) -> tuple[str, ...]:
  """Names what leaves the clients beside the longest vector that is summed.

  Args:
    computation: From (state, values) to (state, results).
  """
  sums = sums_of(computation)
  longest = max(sums, key=lambda each: math.prod(each.type.shape or ()))
  return tuple(
    dict.fromkeys(
      reason for each in sums if each is not longest for reason in each.reasons
    )
  )


def find_measurements(metrics: Any) -> dict[str, Any]:
  """Returns the aggregators' measurements, wherever in `metrics` they are.

  By name; those of a noised sum of metrics have `noised_sum.` before theirs.
  """
  if not isinstance(metrics, Mapping):
    return {}
  if set(metrics) >= MEASUREMENT_KEYS:
    return dict(metrics)
  found: dict[str, Any] = {}
  for name, value in metrics.items():
    prefix = f'{NOISED_SUM}.' if name == NOISED_SUM else ''
    for key, each in find_measurements(value).items():
      found.setdefault(prefix + key, each)
  return found


def _results(
  computation: tff.Computation,
) -> Iterator[tuple[tuple[str, ...], tff.TensorType]]:
  """Yields the tensors of the state and of the metrics, each with its path."""
  result = computation.type_signature.result
  for name, placed in tff.structure.iter_elements(result):
    yield from dataflow.leaves(placed.member, (name,))


def _measurement_dicts(
  results: Iterable[tuple[str, ...]],
) -> Iterator[tuple[str, ...]]:
  """Yields the paths of what has the keys of our measurements."""
  keys: dict[tuple[str, ...], set[str]] = {}
  for path in results:
    keys.setdefault(path[:-1], set()).add(path[-1])
  for parent, found in keys.items():
    if found >= MEASUREMENT_KEYS:
      yield parent


def _reported(sums: Iterable[Sum], path: tuple[str, ...]) -> Sum | None:
  """Returns the one vector that the measurements at `path` are about."""
  found = [each for each in sums if (*path, 'aborted') in each.results]
  vectors = [each for each in found if each.length is not None]
  return vectors[0] if len(found) == len(vectors) == 1 else None
