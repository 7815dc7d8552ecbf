# SPDX-License-Identifier: Apache-2.0
"""A cache by identity: what is kept, of whom, and for how long."""

from __future__ import annotations

import gc
from typing import Any
import weakref

import pytest

from tff_secagg_ext import _identity


class Thing:
  """Equal to all of its kind, and without a hash."""

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Thing)

  __hash__ = None  # type: ignore[assignment]


def test_each_object_is_asked_for_once_and_equal_ones_are_different() -> None:
  asked: list[Any] = []

  @_identity.cached(2)
  def place(thing: Any) -> int:
    asked.append(thing)
    return len(asked)

  one, other = Thing(), Thing()
  assert [place(one), place(other), place(one)] == [1, 2, 1]
  assert place(Thing()) == 3
  # Of two that are kept, the one that was asked for last is.
  assert [place(one), place(other)] == [1, 4]


def test_what_is_kept_stays_alive_and_no_longer() -> None:
  keep = _identity.cached(1)(lambda thing: None)
  thing = Thing()
  alive = weakref.ref(thing)
  keep(thing)
  del thing
  gc.collect()
  # Its id is not used again while the result is kept.
  assert alive() is not None
  keep(Thing())
  gc.collect()
  assert alive() is None


def test_what_raises_is_tried_again() -> None:
  results = iter([ValueError('not yet'), 7])

  @_identity.cached(1)
  def result(thing: Any) -> Any:
    found = next(results)
    if isinstance(found, Exception):
      raise found
    return found

  thing = Thing()
  with pytest.raises(ValueError, match='not yet'):
    result(thing)
  assert [result(thing), result(thing)] == [7, 7]
