# SPDX-License-Identifier: Apache-2.0
"""Which results of a TensorFlow computation depend on which of its arguments.

Read off the graph, so that it is true of whatever was compiled into it. A node
counts as a whole: where a node hides a function, all its outputs depend on all
its inputs. A variable depends on all that is ever written into it, and what is
run on one side of a `Switch` alone depends on what it switches on.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tff_secagg_ext._compat import tff


def dependents(computation: tff.Computation) -> list[frozenset[int]]:
  """Returns for each leaf of the parameter which leaves of the result use it.

  Args:
    computation: A computation in TensorFlow with a parameter.

  Returns:
    One set a tensor of the parameter, in order, of the positions of tensors of
    the result.
  """
  proto, users = _read(computation)
  return [
    _reached_results(proto, users, name) for name in _tensors(proto.parameter)
  ]


def dependents_of_first(computation: tff.Computation) -> frozenset[int]:
  """Returns which leaves of the result use the first part of the parameter.

  Args:
    computation: A computation in TensorFlow whose parameter is a structure; the
      first part may hold sequences.
  """
  proto, users = _read(computation)
  names = _tensors(proto.parameter.struct.element[0])
  found = (_reached_results(proto, users, name) for name in names)
  return frozenset().union(*found)


def leaves(
  value_type: tff.Type, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], tff.TensorType]]:
  """Yields the tensors of a type in order, each with its path of names."""
  if isinstance(value_type, tff.TensorType):
    yield path, value_type
  elif isinstance(value_type, tff.StructType):
    for index, (name, element) in enumerate(
      tff.structure.iter_elements(value_type)
    ):
      yield from leaves(element, (*path, name or str(index)))
  else:
    raise TypeError(
      'All of a round must be tensors and structures of them. Found'
      f' {value_type.compact_representation()}.'
    )


def _read(computation: tff.Computation) -> tuple[Any, Mapping[str, set[str]]]:
  """Returns a computation as it is serialized, and its data flow."""
  proto = tff.framework.serialize_computation(computation).tensorflow
  graph_def = tf.compat.v1.GraphDef()
  proto.graph_def.Unpack(graph_def)
  return proto, _users(graph_def)


def _reached_results(
  proto: Any, users: Mapping[str, set[str]], tensor: str
) -> frozenset[int]:
  """The positions of the results that data of `tensor` flow to."""
  reached = _reached(_node(tensor), users)
  results = [_node(name) for name in _tensors(proto.result)]
  return frozenset(i for i, name in enumerate(results) if name in reached)


def _users(graph_def: Any) -> Mapping[str, set[str]]:
  """For each node those that its data flow to in one step."""
  users: dict[str, set[str]] = collections.defaultdict(set)
  waiting: dict[str, set[str]] = collections.defaultdict(set)
  with tf.Graph().as_default() as graph:
    tf.graph_util.import_graph_def(graph_def, name='')
  for node in graph.get_operations():
    for tensor in node.inputs:
      users[tensor.op.name].add(node.name)
      if tensor.dtype in (tf.resource, tf.variant):
        # What is written into a variable is there for all that read it.
        users[node.name].add(tensor.op.name)
    for control in node.control_inputs:
      waiting[control.name].add(node.name)
  # To wait for a node tells nothing of its data, but if the node may not run:
  # then a Merge tells whether it did.
  either = {name: users[name] | waiting[name] for name in {*users, *waiting}}
  for node in graph.get_operations():
    if node.type in ('Switch', 'RefSwitch', '_SwitchN'):
      for name in _reached(node.name, either):
        users[name] |= waiting[name]
  return users


def _reached(start: str, users: Mapping[str, set[str]]) -> set[str]:
  """All nodes that data of node `start` flow to, itself included."""
  reached, left = {start}, [start]
  while left:
    found = users.get(left.pop(), set()) - reached
    reached |= found
    left.extend(found)
  return reached


def _tensors(binding: Any) -> Sequence[str]:
  """The names of the tensors that a value is bound to, in order."""
  kind = binding.WhichOneof('binding')
  if kind == 'struct':
    return [name for each in binding.struct.element for name in _tensors(each)]
  if kind == 'tensor':
    return [binding.tensor.tensor_name]
  if kind == 'sequence':
    return [binding.sequence.variant_tensor_name]
  raise TypeError(
    f'All of a round must be tensors and structures of them. Found a {kind}.'
  )


def _node(tensor: str) -> str:
  return tensor.split(':')[0]
