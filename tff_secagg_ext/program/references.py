# SPDX-License-Identifier: Apache-2.0
"""Values that cannot be read before their round is committed.

In a federated program a computation returns at once, with references to
values that are to come. A recorded round hands out such references of its
own: each waits for the one task that commits the round, then for its value.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import contextlib
from typing import Any

import tensorflow as tf

from tff_secagg_ext._compat import tff


class CommittedReference(tff.program.MaterializableValueReference):
  """A reference to a value of a round, readable once it is committed."""

  def __init__(
    self,
    reference: tff.program.MaterializableValueReference,
    commit: asyncio.Task[None],
  ):
    """Wraps a reference.

    Args:
      reference: The value.
      commit: Ends when the round is committed, raises if it is not.
    """
    self._reference = reference
    self._commit = commit

  @property
  def type_signature(self) -> tff.Type:
    """The type of the value."""
    return self._reference.type_signature

  async def get_value(self) -> Any:
    """Returns the value, after the commit; raises what the commit raised."""
    # A reader that is cancelled must not cancel the commit with it.
    await asyncio.shield(self._commit)
    return await self._reference.get_value()


def has_references(value: Any) -> bool:
  """Whether any leaf of `value` is a reference."""
  return any(map(_is_reference, tf.nest.flatten(value)))


def hold(value: Any, commit: asyncio.Task[None]) -> Any:
  """Returns `value` with each reference in it readable after `commit` only."""

  def wrap(leaf: Any) -> Any:
    return CommittedReference(leaf, commit) if _is_reference(leaf) else leaf

  return tf.nest.map_structure(wrap, value)


@contextlib.contextmanager
def taking_errors() -> Iterator[None]:
  """Takes the errors of the tasks that the block begins.

  asyncio logs an error that nobody has asked for, with all that it quotes; and
  of a round that fails many tasks do, that no reference leads to. Who reads a
  reference gets the error all the same.
  """
  before = _tasks()
  yield
  for task in _tasks() - before:
    task.add_done_callback(_take_error)


def _tasks() -> set[asyncio.Task[Any]]:
  try:
    return asyncio.all_tasks()
  except RuntimeError:  # No loop is running.
    return set()


def _take_error(task: asyncio.Task[Any]) -> None:
  if not task.cancelled():
    task.exception()


def _is_reference(leaf: object) -> bool:
  return isinstance(leaf, tff.program.MaterializableValueReference)
