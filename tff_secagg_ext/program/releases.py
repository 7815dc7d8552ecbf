# SPDX-License-Identifier: Apache-2.0
"""What leaves the clients of a learning process, read off its computations.

The process is compiled to its MapReduce form. If one secure modular sum of
one vector is all that leaves the clients, then everything else, metrics and
states included, is post-processing of it. Whatever else leaves them is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

import numpy as np

from tff_secagg_ext._compat import tff

# By these a dictionary of measurements is known as that of our aggregator.
MEASUREMENT_KEYS = frozenset(
  ('scale', 'dimension', 'effective_noise_multiplier', 'aborted')
)
# These parts of a learning process see the clients through the sums only.
_SERVER_ONLY = ('distributor', 'finalizer')


@dataclasses.dataclass(frozen=True)
class Releases:
  """What leaves the clients in one round.

  Attributes:
    dimension: Coordinates of the one vector that is summed, the count of
      contributors not among them; `None` if there is no such vector.
    unaccounted: Everything else, by name.
  """

  dimension: int | None
  unaccounted: tuple[str, ...]


def of_process(process: tff.learning.templates.LearningProcess) -> Releases:
  """Returns what leaves the clients in `process.next`.

  Fails closed: what cannot be compiled or understood is unaccounted.
  """
  exact = tuple(f'{name} is exact' for name in _metrics_of_clients(process))
  try:
    form = tff.backends.mapreduce.get_map_reduce_form_for_computation(
      process.next
    )
  except Exception as error:  # pylint: disable=broad-except
    reason = f'process.next cannot be checked ({type(error).__name__})'
    return Releases(None, (*exact, reason))
  plain, bounded, summed, modular = form.work.type_signature.result
  unaccounted = []
  for kind, part in (
    ('a plain sum', plain),
    ('a secure sum without noise', bounded),
    ('a secure sum without noise', summed),
  ):
    if len(part):
      unaccounted.append(f'{kind} of {part.compact_representation()}')
  if unaccounted and exact:
    unaccounted = list(exact)
  dimension = _length(modular)
  if dimension is None:
    found = modular.compact_representation()
    unaccounted.append(f'secure modular sums other than one vector: {found}')
  elif not any(True for _ in _measurement_dicts(_metrics_type(process), ())):
    unaccounted.append('the aggregator does not report its measurements')
  return Releases(dimension, tuple(unaccounted))


def find_measurements(metrics: Any) -> Mapping[str, Any] | None:
  """Returns the aggregator's measurements, wherever in `metrics` they are."""
  if not isinstance(metrics, Mapping):
    return None
  if set(metrics) >= MEASUREMENT_KEYS:
    return metrics
  found = (find_measurements(value) for value in metrics.values())
  return next((each for each in found if each is not None), None)


def _length(modular: tff.Type) -> int | None:
  """Returns the coordinates of a sum of a single vector and a count."""
  if len(modular) != 1 or not isinstance(modular[0], tff.TensorType):
    return None
  shape = modular[0].shape
  if shape is None or len(shape) != 1 or shape[0] is None or shape[0] < 2:
    return None
  return int(shape[0]) - 1


def _metrics_type(process: tff.learning.templates.LearningProcess) -> tff.Type:
  return process.next.type_signature.result.metrics.member


def _metrics_of_clients(
  process: tff.learning.templates.LearningProcess,
) -> list[str]:
  """Returns the numeric metrics that may have come from clients, by name."""
  metrics = _metrics_type(process)
  ours = [path for path, _ in _measurement_dicts(metrics, ())]
  return [
    '.'.join(path)
    for path, leaf in _leaves(metrics, ())
    if path[:1] not in [(name,) for name in _SERVER_ONLY]
    and not any(path[: len(prefix)] == prefix for prefix in ours)
    and np.issubdtype(leaf.dtype, np.number)
  ]


def _measurement_dicts(
  metrics: tff.Type, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], tff.Type]]:
  if not isinstance(metrics, tff.StructType):
    return
  elements = list(tff.structure.iter_elements(metrics))
  if {name for name, _ in elements} >= MEASUREMENT_KEYS:
    yield path, metrics
    return
  for index, (name, element) in enumerate(elements):
    yield from _measurement_dicts(element, (*path, name or str(index)))


def _leaves(
  metrics: tff.Type, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], tff.TensorType]]:
  if isinstance(metrics, tff.TensorType):
    yield path, metrics
  elif isinstance(metrics, tff.StructType):
    for index, (name, element) in enumerate(
      tff.structure.iter_elements(metrics)
    ):
      yield from _leaves(element, (*path, name or str(index)))
