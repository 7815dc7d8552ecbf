# SPDX-License-Identifier: Apache-2.0
"""What leaves the clients of a process that a factory of TFF aggregates for.

As in `releases`, by the results that come of each sum. A factory of TFF sums
many things besides its vector: those that do not depend on any client's data
tell how many clients there are; those that no result depends on are seen by
the server alone; the others are exact, and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import math
from typing import Any

from tff_secagg_ext._compat import tff
from tff_secagg_ext.program import dataflow, tff_factories
from tff_secagg_ext.program import releases as releases_lib
from tff_secagg_ext.program.releases import Releases, Sum

_IN_THE_CLEAR = 0
_AGGREGATOR = ('state', 'aggregator')
# What the aggregated update goes to.
_UPDATED = (
  ('state', 'global_model_weights'),
  ('state', 'finalizer'),
  ('metrics', 'finalizer'),
)
_ZEROING = 'zeroing_norm'
EXACT_ZEROING = 'zeroing quantile is exact'


def weights(process: tff.learning.templates.LearningProcess) -> tff.Type:
  """Returns the type of what is aggregated: the trainable weights.

  Raises:
    ValueError: If the process has none where TFF's algorithms have them.
  """
  state = process.next.type_signature.parameter[0].member
  try:
    return state.global_model_weights.trainable
  except AttributeError as error:
    raise ValueError(
      '`process` must have its weights where those of tff.learning.algorithms'
      f' are. Found the state {state.compact_representation()}. Build it with'
      ' one of them.'
    ) from error


def elements(value_type: tff.Type) -> int:
  """Returns how many numbers a value of the type has."""
  return sum(
    math.prod(leaf.shape or ()) for _, leaf in dataflow.leaves(value_type)
  )


def check_built_with(
  process: tff.learning.templates.LearningProcess, factory: Any
) -> None:
  """Raises `ValueError` if the aggregator of `process` is another one."""
  built = factory.create(weights(process)).next.type_signature.result
  output = process.next.type_signature.result
  metrics = output.metrics.member
  for name, found, expected in (
    ('state', output.state.member, built.state.member),
    ('measurements', metrics, built.measurements.member),
  ):
    try:
      found = found.aggregator
      same = found.is_equivalent_to(expected)
    except AttributeError:
      same = False
    if not same:
      raise ValueError(
        f"The {name} of the process's aggregator must be those of `factory`,"
        f' {expected.compact_representation()}. Found'
        f' {found.compact_representation()}. Give the factory that the process'
        ' was built with, as it is: what was wrapped around it releases more.'
      )


def of_process(
  process: tff.learning.templates.LearningProcess, read: tff_factories.Read
) -> Releases:
  """Returns what leaves the clients in `process.next`. Fails closed.

  Args:
    process: A learning process.
    read: The factory that it was built with.
  """
  noise = read.noise
  if isinstance(noise, tff_factories.Unknown):
    return Releases(None, (f'{noise.name} is not accounted',))
  try:
    sums = releases_lib.sums_of(process.next)
  except Exception as error:  # pylint: disable=broad-except
    return releases_lib.unknown(error)
  value_type = weights(process)
  noised, dimension = _noised(sums, read, value_type)
  exact = [each for each in sums if each.of_data and each not in noised]
  seeds = dimension is not None and _seeded_by_time(noise)
  return Releases(
    dimension,
    (*((tff_factories.TIME_STAMPS,) if seeds else ()), *_named(exact, True)),
    seen_by_server=_named(exact, False),
    counts=_counts(sums),
  )


def _seeded_by_time(noise: tff_factories.Mechanism) -> bool:
  """Whether whoever knows when noise was drawn can try all of its seeds."""
  mechanism = getattr(noise, 'mechanism', None)
  return mechanism == 'distributed_skellam'


def _counts(sums: Iterable[Sum]) -> tuple[str, ...]:
  """The results that tell how many clients there were."""
  paths = [p for each in sums if not each.of_data for p in each.results]
  return tuple(dict.fromkeys('.'.join(path[:2]) for path in paths))


def _named(sums: Iterable[Sum], with_results: bool) -> tuple[str, ...]:
  """The reasons of the sums that have results, or of those that have none."""
  reasons: list[str] = []
  for each in sums:
    if bool(each.results) != with_results:
      continue
    if each.results and all(_ZEROING in path for path in each.results):
      reasons.append(EXACT_ZEROING)
    else:
      reasons.extend(each.reasons)
  return tuple(dict.fromkeys(reasons))


def _noised(
  sums: Sequence[Sum], read: tff_factories.Read, value_type: tff.Type
) -> tuple[list[Sum], int | None]:
  """Returns the sums that are noised, and the coordinates of the vector.

  No sums and no coordinates if there are others than the factory has.
  """
  noise, of_data = read.noise, [each for each in sums if each.of_data]
  if isinstance(noise, tff_factories.Unknown):
    return [], None
  vectors = [each for each in of_data if _goes_to(each, _UPDATED)]
  own = (*_AGGREGATOR, *read.path)
  if isinstance(noise, tff_factories.Distributed):
    dimension = noise.padded(elements(value_type))
    shapes = [(each.kind == _IN_THE_CLEAR, each.type.shape) for each in vectors]
    right = shapes == [(False, (dimension,))]
    tuned = [(*own, '0', 'clipping_norm'), (*own, '0', 'inner_agg')]
  else:
    dimension = elements(value_type)
    leaves = sorted(str(leaf) for _, leaf in dataflow.leaves(value_type))
    right = sorted(str(each.type) for each in vectors) == leaves
    right &= all(each.kind == _IN_THE_CLEAR for each in vectors)
    tuned = [(*own, 'query_state'), ('metrics', 'aggregator')]
  bits = [each for each in of_data if _goes_to(each, tuned)]
  if noise.bit_stddev is None:
    bits = []
  elif [each.type.shape for each in bits] != [()]:
    right = False
  return ([*vectors, *bits], dimension) if right else ([], None)


def _is_in(path: tuple[str, ...], place: tuple[str, ...]) -> bool:
  return path[: len(place)] == place


def _goes_to(each: Sum, places: Sequence[tuple[str, ...]]) -> bool:
  """Whether all that comes of a sum is in the places, some in the first."""
  first = any(_is_in(path, places[0]) for path in each.results)
  return first and all(
    any(_is_in(path, place) for place in places) for path in each.results
  )
