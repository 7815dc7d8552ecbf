# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C at the end of a round."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import signal
import threading
from types import FrameType


@contextlib.contextmanager
def deferred() -> Iterator[threading.Event]:
  """Turns the first SIGINT into an event; the second one interrupts.

  Outside of the main thread, where Python delivers no signals, the event is
  never set.
  """
  requested = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield requested
    return

  def handle(number: int, frame: FrameType | None) -> None:
    del number, frame
    if requested.is_set():
      raise KeyboardInterrupt
    requested.set()

  previous = signal.signal(signal.SIGINT, handle)
  try:
    yield requested
  finally:
    signal.signal(signal.SIGINT, previous)
