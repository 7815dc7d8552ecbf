# SPDX-License-Identifier: Apache-2.0
"""A computation with secure sums, taken apart into what each party runs.

TFF's MapReduce form has the parts: `prepare` on the server, `work` on each
client, an aggregate in the clear, three kinds of secure sums, and `update` on
the server. It is defined for computations of one state and one client value
that return a state and an output. Any other computation is put into that shape:
its server-placed arguments become the state, its client-placed ones the client
value, and its result the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import textwrap
from typing import Any

import numpy as np
import tensorflow as tf

from tff_secagg_ext import _forms
from tff_secagg_ext._compat import tff
from tff_secagg_ext.execution.vectors import Leaf


class UnsupportedComputationError(TypeError):
  """A computation that cannot run with its secure sums secure."""


@dataclasses.dataclass(frozen=True)
class Aggregations:
  """The intrinsics of a computation that aggregate values of clients.

  Attributes:
    secure: The names of those that hide the values from the server.
    insecure: The names of the others.
  """

  secure: frozenset[str]
  insecure: frozenset[str]

  @classmethod
  def of(cls, computation: tff.Computation) -> Aggregations:
    """Finds them in a computation as it was written, used or not."""
    found: dict[bool, set[str]] = {True: set(), False: set()}

    def visit(block: Any) -> tuple[Any, bool]:
      if isinstance(block, tff.framework.Intrinsic):
        secure = block.uri.startswith('federated_secure_')
        if secure or block.intrinsic_def().aggregation_kind is not None:
          found[secure].add(block.uri)
      return block, False

    tff.framework.transform_postorder(computation.to_building_block(), visit)
    return cls(frozenset(found[True]), frozenset(found[False]))


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a computation with secure sums is made of.

  Attributes:
    prepare: S -> B, on the server, before the clients' work.
    work: <{D}@CLIENTS, B@SERVER> -> {<P, V1, V2, V3>}@CLIENTS, the work of any
      number of clients.
    aggregate: {P}@CLIENTS -> A@SERVER, the aggregate in the clear; `None` if
      there is none.
    update: <S, <A, V1, V2, V3>> -> <S, R>, on the server, after the sums.
    leaves: The tensors of V1, V2 and V3, in order.
  """

  prepare: tff.Computation
  work: tff.Computation
  aggregate: tff.Computation | None
  update: tff.Computation
  leaves: tuple[Leaf, ...]

  def sums(self, totals: Sequence[Any]) -> list[Any]:
    """Returns V1, V2 and V3 with these tensors."""
    remaining = iter(totals)
    return [
      tff.types.structure_from_tensor_type_tree(
        lambda leaf: next(remaining), summed
      )
      for summed in self.update.type_signature.parameter[1][1:]
    ]


def make_plan(computation: tff.Computation, evaluate: Any) -> Plan:
  """Compiles a computation that holds secure sums.

  Args:
    computation: Whose arguments are placed, at least one of them at the
      clients, and whose results are placed at the server.
    evaluate: Runs a computation without arguments.

  Raises:
    UnsupportedComputationError: If it has another shape, or needs more than
      one exchange between server and clients.
  """
  shaped = _shaped(computation)
  try:
    form = _forms.of(shaped)
  except Exception as error:
    raise _unsupported(
      computation,
      'it has no MapReduce form: it is not one broadcast, one step of work on'
      f' the clients, sums, and one step on the server ({error})',
    ) from error
  drawn = _stateful_ops(form.prepare) & _stateful_ops(form.update)
  if drawn:
    raise _unsupported(
      computation,
      f'{", ".join(sorted(drawn))} on the server is used by the clients and by'
      ' the last step, which would have different draws. Keep a seed in the'
      ' state',
    )
  bounds = (
    ('federated_secure_sum_bitwidth', form.secure_sum_bitwidth),
    ('federated_secure_sum', form.secure_sum_max_input),
    ('federated_secure_modular_sum', form.secure_modular_sum_modulus),
  )
  plain, *summed = form.work.type_signature.result
  leaves: list[Leaf] = []
  for (intrinsic, bound), value_type in zip(bounds, summed, strict=True):
    limits = _limits(value_type, evaluate(bound))
    leaves.extend(_leaf(computation, intrinsic, *limit) for limit in limits)
  if not leaves:
    raise _unsupported(computation, 'no result depends on its secure sums')
  return Plan(
    form.prepare,
    _work(form),
    _aggregate(form) if len(plain) else None,
    form.update,
    tuple(leaves),
  )


def split(
  type_signature: tff.Type, argument: Any
) -> tuple[tff.structure.Struct, list[tff.structure.Struct]]:
  """Returns the S and the {D}@CLIENTS of a plan, from the computation's own.

  Raises:
    TypeError: If `argument` has not the structure of its type, or no lists for
      its client-placed parts.
    ValueError: If these lists have different lengths.
  """
  state: list[Any] = []
  columns: list[Any] = []
  for part, value in _parts(type_signature, argument):
    if part.placement is tff.SERVER:
      state.append(value)
    elif isinstance(value, (list, tuple)):
      columns.append(value)
    else:
      raise TypeError(
        'A client-placed argument must be a list, with one element for each'
        f' client. Found a {type(value).__name__}.'
      )
  lengths = sorted({len(column) for column in columns})
  if len(lengths) != 1:
    raise ValueError(
      'Client-placed arguments must have one element for each client. Found'
      f' lists of {lengths} elements.'
    )
  return (
    tff.structure.Struct.unnamed(*state),
    [tff.structure.Struct.unnamed(*row) for row in zip(*columns, strict=True)],
  )


def _parts(type_signature: tff.Type, value: Any) -> Iterator[tuple[Any, Any]]:
  """Yields the types of an argument that are not structures, with values."""
  if not isinstance(type_signature, tff.StructType):
    yield type_signature, value
    return
  value = tff.structure.from_container(value)
  if len(value) != len(type_signature):
    raise TypeError(
      'An argument must have the structure of its type. Expected'
      f' {len(type_signature)} elements. Found {len(value)}.'
    )
  for index, (name, element) in enumerate(
    tff.structure.iter_elements(type_signature)
  ):
    named = name is not None and tff.structure.has_field(value, name)
    yield from _parts(element, value[name if named else index])


def _nested(type_signature: tff.Type, values: Callable[[Any], Any]) -> Any:
  """The inverse of `_parts`: `values` gives a value for the type of each."""
  if not isinstance(type_signature, tff.StructType):
    return values(type_signature)
  return tff.structure.Struct(
    [
      (name, _nested(element, values))
      for name, element in tff.structure.iter_elements(type_signature)
    ]
  )


def _shaped(computation: tff.Computation) -> tff.Computation:
  """Returns it as <S@SERVER, {D}@CLIENTS> -> <S@SERVER, R@SERVER>."""
  parameter = computation.type_signature.parameter
  _check_placements(computation)
  members: dict[Any, list[tff.Type]] = {tff.SERVER: [], tff.CLIENTS: []}
  for part, _ in _parts(parameter, parameter):
    members[part.placement].append(part.member)

  @tff.federated_computation(
    *(tff.FederatedType(types, at) for at, types in members.items())
  )
  def shaped(state: Any, data: Any) -> Any:
    remaining = {
      at: iter([value[i] for i in range(len(members[at]))])
      for at, value in ((tff.SERVER, state), (tff.CLIENTS, data))
    }
    result = computation(
      _nested(parameter, lambda part: next(remaining[part.placement]))
    )
    if isinstance(result.type_signature, tff.StructType):
      result = tff.federated_zip(result)
    return state, result

  return shaped


def _check_placements(computation: tff.Computation) -> None:
  """Refuses what has no number of clients, or no result at the server."""
  parameter = computation.type_signature.parameter
  result = computation.type_signature.result
  given = (
    [] if parameter is None else [p for p, _ in _parts(parameter, parameter)]
  )
  returned = [part for part, _ in _parts(result, result)]
  for part in (*given, *returned):
    if not isinstance(part, tff.FederatedType):
      raise _unsupported(
        computation,
        f'{part} is placed neither at the clients nor at the server. Place it'
        ' with tff.FederatedType',
      )
  clients = [part for part in given if part.placement is tff.CLIENTS]
  if not clients or any(part.all_equal for part in clients):
    raise _unsupported(
      computation,
      'the clients, whose ids are their positions in a list of values, are not'
      ' given by each client-placed argument. Take at least one, and none that'
      ' is all_equal',
    )
  if not returned or any(p.placement is not tff.SERVER for p in returned):
    raise _unsupported(
      computation,
      'its results are not all at the server. Return results of the clients'
      ' from a computation of its own',
    )


def _work(form: tff.backends.mapreduce.MapReduceForm) -> tff.Computation:
  data_type, prepared_type = form.work.type_signature.parameter

  @tff.federated_computation(
    tff.FederatedType(data_type, tff.CLIENTS),
    tff.FederatedType(prepared_type, tff.SERVER),
  )
  def work(data: Any, prepared: Any) -> Any:
    return tff.federated_map(
      form.work, (data, tff.federated_broadcast(prepared))
    )

  return work


def _aggregate(form: tff.backends.mapreduce.MapReduceForm) -> tff.Computation:
  value_type = form.work.type_signature.result[0]

  @tff.federated_computation(tff.FederatedType(value_type, tff.CLIENTS))
  def aggregate(values: Any) -> Any:
    return tff.federated_aggregate(
      values, form.zero(), form.accumulate, form.merge, form.report
    )

  return aggregate


def _stateful_ops(computation: tff.Computation) -> set[str]:
  """The ops of a TensorFlow computation that give different results each time.

  A MapReduce form has what is computed before the broadcast in `prepare`, and
  once more in `update` if a result depends on it.
  """
  proto = tff.framework.serialize_computation(computation)
  graph_def = tf.compat.v1.GraphDef()
  proto.tensorflow.graph_def.Unpack(graph_def)
  with tf.Graph().as_default() as graph:
    tf.graph_util.import_graph_def(graph_def)
  ops = graph.get_operations()
  return {op.type for op in ops if op.op_def.is_stateful} - {'Assert'}


def _limits(value_type: tff.Type, limit: Any) -> Iterator[tuple[Any, int]]:
  """Yields the tensor types of a value, each with its limit.

  Args:
    value_type: A structure of tensors.
    limit: The same structure of integers, or an integer for all.
  """
  if isinstance(value_type, tff.TensorType):
    yield value_type, int(limit)
    return
  limits = [limit] * len(value_type)
  if isinstance(limit, (tuple, Mapping)):
    limits = list(tff.structure.from_container(limit))
  for element, each in zip(value_type, limits, strict=True):
    yield from _limits(element, each)


def _leaf(
  computation: tff.Computation, intrinsic: str, tensor: Any, limit: int
) -> Leaf:
  if tensor.shape is None or None in tensor.shape:
    raise _unsupported(
      computation,
      f'{intrinsic} sums {tensor}, whose size is not known before it is there.'
      ' Give it a shape with tf.ensure_shape',
    )
  maximum, modulus = limit, None
  if intrinsic == 'federated_secure_sum_bitwidth':
    maximum = (1 << limit) - 1
  elif intrinsic == 'federated_secure_modular_sum':
    maximum, modulus = limit - 1, limit
  return Leaf(
    intrinsic, np.dtype(tensor.dtype), tuple(tensor.shape), maximum, modulus
  )


def _unsupported(
  computation: tff.Computation, reason: str
) -> UnsupportedComputationError:
  found = computation.type_signature.compact_representation()
  return UnsupportedComputationError(
    'A computation with secure sums cannot run in a secure context, as'
    f' {reason}. Found {textwrap.shorten(found, 200)}.'
  )
