# SPDX-License-Identifier: Apache-2.0
"""Metrics as one vector of norm at most 1, by public bounds, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tff_secagg_ext import _validate, aggregators
from tff_secagg_ext._compat import tff

Array = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Bounds:
  """A bound on each tensor of each unfinalized metric of a client.

  Attributes:
    by_metric: float32 arrays of positive numbers, each in the shape of the
      tensor.
  """

  by_metric: Mapping[str, Sequence[Array]]

  @classmethod
  def of(cls, bounds: object) -> Bounds:
    """Returns what `dp_sum_then_finalize` was given, checked.

    Raises:
      TypeError: If it is not a mapping to numbers or arrays.
      ValueError: If it is empty, or a bound is not positive and finite.
    """
    if not isinstance(bounds, Mapping):
      raise TypeError(
        f'`bounds` must be a mapping from metrics to bounds. Found {bounds!r}.'
      )
    if not bounds:
      raise ValueError(
        '`bounds` must name at least one metric. Found none. For no metrics at'
        ' all, use no_client_metrics.'
      )
    return cls({name: _arrays(name, each) for name, each in bounds.items()})

  @property
  def num_elements(self) -> int:
    """Coordinates of the vector."""
    return sum(b.size for each in self.by_metric.values() for b in each)

  @property
  def settings(self) -> dict[str, Any]:
    """The bounds as JSON values."""
    return {
      name: [bound.tolist() for bound in each]
      for name, each in self.by_metric.items()
    }

  def check(self, metrics_type: tff.Type) -> None:
    """Raises `ValueError` if the metrics are not those that bounds are for."""
    found = {
      name: [tuple(leaf.shape) for leaf in aggregators.tensor_types(each)]
      for name, each in _named(metrics_type)
    }
    expected = {
      name: [bound.shape for bound in each]
      for name, each in self.by_metric.items()
    }
    if found != expected:
      raise ValueError(
        '`bounds` must have a bound in the shape of each tensor of each'
        f' unfinalized metric: {found}. Found {expected}. Bound the metrics of'
        ' the model, all of them and no others.'
      )

  def encode(self, metrics: Any) -> tf.Tensor:
    """float32[num_elements] of norm at most 1, from a client's metrics.

    Not a number, or infinite, where a metric is not finite.
    """
    parts: list[tf.Tensor] = []
    for name, bounds in self.by_metric.items():
      values = [
        tf.cast(value, tf.float32)
        for value in aggregators.flatten(metrics[name])
      ]
      pairs = list(zip(values, bounds, strict=True))
      # A metric is scaled down as a whole, to the share that is within bounds.
      share = tf.reduce_min(
        [tf.reduce_min(b / tf.maximum(tf.abs(v), b)) for v, b in pairs]
      )
      parts.extend(tf.reshape(v / b * share, [-1]) for v, b in pairs)
    return tf.concat(parts, axis=0) / math.sqrt(self.num_elements)

  def decode(self, vector: tf.Tensor, metrics_type: tff.Type) -> Any:
    """The sums of metrics, in their types, from a sum of encoded vectors."""
    remaining = vector * math.sqrt(self.num_elements)
    sums: dict[str, list[tf.Tensor]] = {}
    for name, bounds in self.by_metric.items():
      sums[name] = []
      for bound in bounds:
        part, remaining = remaining[: bound.size], remaining[bound.size :]
        sums[name].append(tf.reshape(part, bound.shape) * bound)
    in_order = [leaf for name, _ in _named(metrics_type) for leaf in sums[name]]
    return aggregators.restore(in_order, metrics_type)

  def denominator(self, name: str) -> float | None:
    """The bound on the denominator of a quotient; `None` for other metrics.

    A quotient is a metric of two scalars, as Keras's means are.
    """
    bounds = self.by_metric.get(name, ())
    if [bound.shape for bound in bounds] != [(), ()]:
      return None
    return float(bounds[-1])


def _named(metrics_type: tff.Type) -> list[tuple[str, tff.Type]]:
  """The metrics of a type, by name and in its order."""
  if not isinstance(metrics_type, tff.StructType):
    raise TypeError(
      'The unfinalized metrics must be a structure with a name for each. Found'
      f' {metrics_type.compact_representation()}. Give what the model reports.'
    )
  return [
    (name or '', element)
    for name, element in tff.structure.iter_elements(metrics_type)
  ]


def _arrays(name: str, bounds: Any) -> list[Array]:
  if not isinstance(bounds, (list, tuple)):
    bounds = (bounds,)
  arrays = [np.asarray(bound, np.float32) for bound in bounds]
  if not arrays or not all(array.size for array in arrays):
    raise ValueError(
      f'`bounds[{name!r}]` must have a bound for each tensor. Found'
      f' {bounds!r}. Say how large a sum of one client can be.'
    )
  for array in arrays:
    for number in array.flat:
      _validate.check_float(
        float(number),
        f'bounds[{name!r}]',
        minimum=0.0,
        maximum=math.inf,
        exclusive=True,
        remedy='Say how large a sum of one client can be.',
      )
  return arrays
