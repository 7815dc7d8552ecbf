# SPDX-License-Identifier: Apache-2.0
"""Client work in which some clients are canaries.

What a client does is decided by its data: a structure of what it trains on, and
of the vectors that it sends in place of a trained update, of which there are
none or one.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tff_secagg_ext import aggregators
from tff_secagg_ext._compat import tff

_FIELDS = ('data', 'canary')


def with_canaries(
  work: tff.learning.templates.ClientWorkProcess,
) -> tff.learning.templates.ClientWorkProcess:
  """Returns client work that canaries take part in.

  For data of type D* it takes

    <data=D*, canary=float32[dimension]*>@CLIENTS,

  with `dimension` the number of coordinates of an update. A client without a
  canary's vector does what it did; one with a vector sends that, cut into the
  tensors of an update in their order, and trains on nothing.

  ```python
  process = tff.learning.templates.compose_learning_process(
    initial_model_weights_fn, distributor, with_canaries(client_work),
    tff.aggregators.as_weighted_aggregator(aggregator).create(
      weights_type.trainable, tff.TensorType(np.float32)),
    finalizer)
  ```

  Args:
    work: Client work whose update is a tensor or a structure of tensors.

  Raises:
    TypeError: If it is no client work, or its updates are not of floats and
      integers of fully defined shapes.
  """
  if not isinstance(work, tff.learning.templates.ClientWorkProcess):
    raise TypeError(
      f'`work` must be a tff.learning.templates.ClientWorkProcess. Found'
      f' {type(work).__name__}. Wrap it before the process is composed.'
    )
  state, weights, data = work.next.type_signature.parameter
  result = work.next.type_signature.result.result.member
  shapes = [leaf.shape for leaf in aggregators.tensor_types(result.update)]
  canary = tff.SequenceType((np.float32, [sum(map(math.prod, shapes))]))
  fields = zip(_FIELDS, (data.member, canary), strict=True)
  given = tff.FederatedType(collections.OrderedDict(fields), tff.CLIENTS)
  replaced = _replaced(result, canary)

  @tff.federated_computation(state, weights, given)
  def next_fn(state: Any, weights: Any, given: Any) -> Any:
    output = work.next(state, weights, given['data'])
    result = tff.federated_map(replaced, (output.result, given['canary']))
    return tff.templates.MeasuredProcessOutput(
      output.state, result, output.measurements
    )

  return tff.learning.templates.ClientWorkProcess(
    work.initialize,
    next_fn,
    get_hparams_fn=work.get_hparams,
    set_hparams_fn=work.set_hparams,
  )


def _replaced(result: tff.Type, canary: tff.SequenceType) -> tff.Computation:
  """Returns a computation from a client's result and vectors to its result."""

  @tff.tensorflow.computation(result, canary)
  def replaced(trained: Any, vectors: Any) -> Any:
    count, vector = vectors.reduce(
      (0, tf.zeros(canary.element.shape)),
      lambda total, each: (total[0] + 1, total[1] + each),
    )
    tensors = aggregators.flatten(trained.update)
    pieces = tf.split(vector, [math.prod(tensor.shape) for tensor in tensors])
    sent = []
    for piece, tensor in zip(pieces, tensors, strict=True):
      shaped = tf.cast(tf.reshape(piece, tensor.shape), tensor.dtype)
      sent.append(tf.where(count > 0, shaped, tensor))
    restored = aggregators.restore(sent, result.update)
    return tff.learning.templates.ClientResult(restored, trained.update_weight)

  return replaced


def dimension_of(
  process: tff.learning.templates.LearningProcess,
) -> int | None:
  """Returns the coordinates of a canary's vector; `None` if it takes none."""
  member = process.next.type_signature.parameter[1].member
  if not isinstance(member, tff.StructType) or dir(member) != sorted(_FIELDS):
    return None
  kind = member['canary']
  shape = kind.element.shape if isinstance(kind, tff.SequenceType) else None
  return int(shape[0]) if shape and len(shape) == 1 else None


def without_canaries(function: tff.FunctionType) -> tff.FunctionType:
  """Returns the type of `next` for clients' data alone."""
  (state, _), (data, given) = tff.structure.to_elements(function.parameter)
  of_clients = tff.FederatedType(given.member['data'], tff.CLIENTS)
  return tff.FunctionType(
    [(state, function.parameter[0]), (data, of_clients)], function.result
  )


def clients_data(
  data: Sequence[Any], vectors: Sequence[npt.NDArray[np.float32]]
) -> list[Any]:
  """Returns the data of clients, and after them those of canaries.

  Args:
    data: Of each client, what it trains on.
    vectors: float32[dimension], what each canary sends.
  """
  clients: list[tuple[Any, Any]] = [(each, []) for each in data]
  canaries: list[tuple[Any, Any]] = [([], [vector]) for vector in vectors]
  return [
    collections.OrderedDict(zip(_FIELDS, pair, strict=True))
    for pair in clients + canaries
  ]
