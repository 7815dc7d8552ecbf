# SPDX-License-Identifier: Apache-2.0
"""Which results of a computation depend on which of its arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tff_secagg_ext._compat import tff
from tff_secagg_ext.program import dataflow

FLOAT = np.float32


def test_each_result_depends_on_what_it_is_computed_from() -> None:
  @tff.tensorflow.computation(FLOAT, FLOAT, FLOAT)
  def of(a: Any, b: Any, unused: Any) -> Any:
    del unused
    return a + 1, (a * b, 3.0), b

  assert dataflow.dependents(of) == [{0, 1}, {1, 3}, frozenset()]


def test_what_is_written_into_a_variable_is_in_all_that_is_read_of_it() -> None:
  @tff.tensorflow.computation(FLOAT, FLOAT)
  def through(a: Any, b: Any) -> Any:
    variable = tf.Variable(0.0)
    with tf.control_dependencies([variable.assign_add(a)]):
      return variable.read_value(), b

  assert dataflow.dependents(through) == [{0}, {1}]


def test_a_branch_depends_on_its_condition() -> None:
  @tff.tensorflow.computation(np.bool_, FLOAT)
  def branch(which: Any, a: Any) -> Any:
    return tf.cond(which, lambda: 1.0, lambda: 2.0), tf.where(which, a, 0.0)

  assert dataflow.dependents(branch) == [{0, 1}, {1}]


def test_constants_on_the_sides_of_a_switch_depend_on_it() -> None:
  @tff.tensorflow.computation(np.bool_, FLOAT)
  def lowered(which: Any, a: Any) -> Any:
    sides = tf.raw_ops.Switch(data=which, pred=which)
    constants = []
    for side in sides:
      with tf.control_dependencies([tf.identity(side)]):
        constants.append(tf.constant(len(constants)))
    return tf.raw_ops.Merge(inputs=constants).output, a

  assert dataflow.dependents(lowered) == [{0}, {1}]


def test_a_function_depends_on_all_of_its_arguments() -> None:
  @tf.function
  def inner(a: Any, b: Any) -> Any:
    return a, b

  @tff.tensorflow.computation(FLOAT, FLOAT)
  def outer(a: Any, b: Any) -> Any:
    return inner(a, b)

  first, second = dataflow.dependents(outer)
  assert {0} <= first
  assert {1} <= second


def test_a_check_alone_is_no_dependence() -> None:
  @tff.tensorflow.computation(FLOAT, FLOAT)
  def checked(a: Any, b: Any) -> Any:
    with tf.control_dependencies([tf.debugging.assert_positive(a)]):
      return tf.identity(b)

  assert dataflow.dependents(checked) == [frozenset(), {0}]


def test_leaves_have_paths_of_names_or_positions() -> None:
  of = tff.to_type([('a', [np.int32, np.float32]), ('b', np.bool_)])
  assert [path for path, _ in dataflow.leaves(of)] == [
    ('a', '0'),
    ('a', '1'),
    ('b',),
  ]


def test_sequences_are_no_leaves() -> None:
  with pytest.raises(TypeError, match='structures of them'):
    list(dataflow.leaves(tff.SequenceType(np.int32)))


def test_what_uses_the_first_part_is_told_from_what_does_not() -> None:
  @tff.tensorflow.computation([tff.SequenceType(np.int32), FLOAT], FLOAT)
  def of(first: Any, other: Any) -> Any:
    values, weight = first
    total = values.reduce(0, lambda a, b: a + b)
    return total, tf.constant(1), other + 1.0, weight * other

  assert dataflow.dependents_of_first(of) == {0, 3}
