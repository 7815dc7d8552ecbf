# SPDX-License-Identifier: Apache-2.0
"""What the states of a server have in common, and its last one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tff_secagg_ext.secagg import errors
from tff_secagg_ext.secagg.codec import Kind
from tff_secagg_ext.secagg.cohort import Cohort

Replies = Iterable[tuple[int, bytes]]
_T = TypeVar('_T')


class Requests(Mapping[int, bytes]):
  """A message for each client, each made when it is looked up."""

  def __init__(self, clients: Iterable[int], make: Callable[[int], bytes]):
    self._clients = dict.fromkeys(clients)
    self._make = make

  def __getitem__(self, client: int) -> bytes:
    if client not in self._clients:
      raise KeyError(client)
    return self._make(client)

  def __iter__(self) -> Iterator[int]:
    return iter(self._clients)

  def __len__(self) -> int:
    return len(self._clients)


class State:
  """What the server waits for; it can be left once.

  Attributes:
    stage: The name of the step.
    cohort: What is known of the session.
    rejected: Why a client has dropped out whose reply was left out.
  """

  stage = ''
  kind = Kind.SETUP

  def __init__(self, cohort: Cohort):
    self.cohort = cohort
    self.rejected: dict[int, errors.MessageError] = {}
    self._left = False

  @property
  def requests(self) -> Requests:
    """A message for each client of which a reply is due."""
    raise NotImplementedError

  def receive(self, replies: Replies) -> State:
    """Takes the replies that came, and returns the next state.

    Raises:
      Aborted: If the session cannot go on.
      StateSpentError: If the state was left before.
    """
    raise NotImplementedError

  def _accepted(
    self, replies: Replies, read: Callable[[int, memoryview], _T]
  ) -> dict[int, _T]:
    """Returns what each valid reply holds, by id, ascending."""
    if self._left:
      raise errors.StateSpentError(
        f'{type(self).__name__} was left already: each step is taken once.'
        ' Begin a new session.'
      )
    self._left = True
    due = set(self.requests)
    found = {}
    for client, message in replies:
      if client not in due:
        continue
      due.remove(client)
      try:
        _, body = self.cohort.channel(client).open(message, self.kind)
        found[client] = read(client, body)
      except errors.MessageError as error:
        self.rejected[client] = error
    return dict(sorted(found.items()))


@dataclasses.dataclass(frozen=True)
class Result:
  """The end of a session.

  Attributes:
    cohort: What is known of the session.
    survivors: The ids of who was summed, ascending.
    totals: The sums, as int64 in [0, m), tags included, in the order of the
      setup.
    accepted: The ids of who has verified the sums; `None` without
      verification.
  """

  cohort: Cohort
  survivors: tuple[int, ...]
  totals: tuple[npt.NDArray[np.int64], ...]
  accepted: tuple[int, ...] | None = None

  @property
  def sums(self) -> dict[str, npt.NDArray[np.int64]]:
    """The sums by name, without tags."""
    specs = self.cohort.setup.vectors
    return {
      spec.name: total[: spec.length]
      for spec, total in zip(specs, self.totals, strict=True)
    }


class Finished(State):
  """The session is over.

  Attributes:
    result: Its result.
  """

  stage = 'finished'

  def __init__(self, result: Result):
    super().__init__(result.cohort)
    self.result = result

  @property
  def requests(self) -> Requests:
    """None."""
    return Requests((), lambda _: b'')
