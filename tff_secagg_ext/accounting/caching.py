# SPDX-License-Identifier: Apache-2.0
"""A memory for large arrays: as many as fit a number of bytes.

The transforms of a run of a million rounds take megabytes each, those of a
hundred rounds some kilobytes; a number of entries would be too many or too few.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable
import threading
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

Arrays: TypeAlias = npt.NDArray[Any] | tuple[npt.NDArray[Any], ...]
_Arguments = ParamSpec('_Arguments')
_Arrays = TypeVar('_Arrays', bound=Arrays)


def by_bytes(
  limit: int,
) -> Callable[
  [Callable[_Arguments, _Arrays]], Remembering[_Arguments, _Arrays]
]:
  """Has a function remember the arrays that it returned; for decorators.

  Args:
    limit: How many bytes it remembers at most.
  """
  return lambda function: Remembering(function, limit)


class Remembering(Generic[_Arguments, _Arrays]):
  """A function that remembers what it returned, like `functools.lru_cache`.

  Guarantees:
    - the arrays that it remembers, those asked for last, have at most so many
      bytes together; what has more is not remembered;
    - it may be called by several threads, and may call itself.

  Its arguments are hashable, and decide what it returns; nobody may change an
  array that it returned.
  """

  def __init__(self, function: Callable[_Arguments, _Arrays], limit: int):
    """Remembers nothing yet.

    Args:
      function: What is called.
      limit: In bytes.
    """
    self._function, self._limit = function, limit
    self._lock, self._bytes = threading.Lock(), 0
    self._kept: collections.OrderedDict[Hashable, _Arrays] = (
      collections.OrderedDict()
    )

  def __call__(
    self, *args: _Arguments.args, **kwargs: _Arguments.kwargs
  ) -> _Arrays:
    """Returns what the function does."""
    key = args, tuple(sorted(kwargs.items()))
    with self._lock:
      if key in self._kept:
        self._kept.move_to_end(key)
        return self._kept[key]
    found = self._function(*args, **kwargs)
    size = _size(found)
    with self._lock:
      if size <= self._limit and key not in self._kept:
        self._kept[key] = found
        self._bytes += size
      while self._bytes > self._limit:
        _, oldest = self._kept.popitem(last=False)
        self._bytes -= _size(oldest)
    return found

  def cache_clear(self) -> None:
    """Forgets everything."""
    with self._lock:
      self._kept.clear()
      self._bytes = 0


def _size(arrays: Arrays) -> int:
  """Returns how many bytes arrays have."""
  each = (arrays,) if isinstance(arrays, np.ndarray) else arrays
  return sum(array.nbytes for array in each)
