# SPDX-License-Identifier: Apache-2.0
"""What a page is told while it is open, as server-sent events.

A page that is told nothing new for a while gets a comment, by which both sides
see that the other is still there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
import contextlib
import json
import time
from typing import Any

import anyio
from anyio import to_thread

from tff_secagg_ext.serve.library import Library
from tff_secagg_ext.serve.pages import Pages

# Seconds between two looks, each one query for all pages that are open.
EVERY = 0.25
SILENCE = 15.0
# Pages that are followed at once.
MOST = 32


class Streams:
  """How many pages are followed, and whether they still may be."""

  def __init__(self, most: int = MOST):
    """Takes the largest number of them."""
    self._free = most
    self.ended: Callable[[], bool] = lambda: False

  @property
  def full(self) -> bool:
    """Whether no more may be followed."""
    return self._free <= 0

  @contextlib.contextmanager
  def one(self) -> Iterator[None]:
    """Counts one for as long as it is followed."""
    self._free -= 1
    try:
      yield
    finally:
      self._free += 1


async def follow(
  streams: Streams, look: Callable[[], dict[str, Any]]
) -> AsyncIterator[str]:
  """Yields what `look` returns, whenever it differs; the first at once.

  Args:
    streams: It is one of them.
    look: Returns JSON values; runs in a thread.
  """
  before, told = None, 0.0
  with streams.one():
    yield 'retry: 1000\n\n'
    while not streams.ended():
      now = await to_thread.run_sync(look)
      if now != before:
        yield f'data: {json.dumps(now)}\n\n'
        before, told = now, time.monotonic()
      elif time.monotonic() - told > SILENCE:
        yield ': still here\n\n'
        told = time.monotonic()
      await anyio.sleep(EVERY)


def of_all(library: Library) -> Callable[[], dict[str, Any]]:
  """Returns how to look at the list of runs: its version changes with it."""

  def look() -> dict[str, Any]:
    return {'version': library.version_of_all()}

  return look


def of_run(
  library: Library, pages: Pages, name: str
) -> Callable[[], dict[str, Any]]:
  """Returns how to look at a run: what is new, and the version of its page."""

  def look() -> dict[str, Any]:
    standing = library.standing(name)
    facts = None
    judged = library.judged(standing)
    with contextlib.suppress(LookupError):
      facts = library.facts(standing)
    if judged is not None and facts is None:
      facts = judged.facts
    return {
      'version': judged.summary.version if judged else '',
      'writing': standing.progress.writing,
      'now': pages.now(standing, facts) if facts is not None else '',
    }

  return look
