# SPDX-License-Identifier: Apache-2.0
"""A cache of what is known of objects, by identity.

TFF hashes and compares computations by their serialized form, which can take
longer than what is looked up.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any, TypeVar

Result = TypeVar('Result')


class _Key:
  """An object as a key; it keeps the object, so that no id is used again."""

  def __init__(self, value: Any):
    self.value = value

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _Key) and self.value is other.value

  def __hash__(self) -> int:
    return id(self.value)


def cached(
  maxsize: int,
) -> Callable[[Callable[[Any], Result]], Callable[[Any], Result]]:
  """Decorates a function of one immutable object.

  Results for the `maxsize` objects that were asked for last are kept, and the
  objects with them. What raises is tried again.
  """

  def decorate(function: Callable[[Any], Result]) -> Callable[[Any], Result]:
    @functools.lru_cache(maxsize)
    def of_key(key: _Key) -> Result:
      return function(key.value)

    @functools.wraps(function)
    def of_object(value: Any) -> Result:
      return of_key(_Key(value))

    return of_object

  return decorate
