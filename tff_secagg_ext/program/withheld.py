# SPDX-License-Identifier: Apache-2.0
"""Errors of TensorFlow's runtime, without what they tell of clients.

An operation that fails on the data of a client says so in words that may hold
these data, such as the string that is no number; and TFF shows an argument that
is of the wrong kind. Logs and reports of errors would carry them away.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec('_Arguments')
_Result = TypeVar('_Result')

# Where the errors that quote values are defined. Those of Python that TFF
# raises, such as a TypeError for a dtype, tell types and shapes.
_PACKAGES = frozenset(
  ('absl', 'grpc', 'pybind11_abseil', 'tensorflow', 'tensorflow_federated')
)


class WithheldError(Exception):
  """A round failed in the runtime; what it said may show data of clients."""

  def __init__(self, kind: str):
    super().__init__(
      f'A round must run in the runtime of TensorFlow. Found that it ended with'
      f' {kind}, whose text is withheld: it may show data of clients. To see'
      ' such a text, run `recorder.process.next` on data that are made up.'
    )


def run(
  action: Callable[_Arguments, _Result],
  *args: _Arguments.args,
  **kwargs: _Arguments.kwargs,
) -> _Result:
  """Returns what a call returns.

  Raises:
    WithheldError: If the runtime fails. Nothing leads from it to the error that
      it stands for, not even its context: it is raised when that was handled.
  """
  try:
    return action(*args, **kwargs)
  except Exception as error:
    if not _is_of_runtime(error):
      raise
    kind = type(error).__name__
  raise WithheldError(kind)


async def awaited(action: Awaitable[_Result]) -> _Result:
  """Returns what an awaitable gives; raises as `run` does."""
  try:
    return await action
  except Exception as error:
    if not _is_of_runtime(error):
      raise
    kind = type(error).__name__
  raise WithheldError(kind)


def _is_of_runtime(error: Exception) -> bool:
  return type(error).__module__.partition('.')[0] in _PACKAGES
