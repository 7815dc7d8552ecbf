# SPDX-License-Identifier: Apache-2.0
"""Values that cannot be read before their round is committed.

In a federated program a computation returns at once, with references to
values that are to come. A recorded round hands out such references of its
own: each waits for the one task that commits the round, then for its value.
"""

from __future__ import annotations

import asyncio
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


def _is_reference(leaf: object) -> bool:
  return isinstance(leaf, tff.program.MaterializableValueReference)
