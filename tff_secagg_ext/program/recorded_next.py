# SPDX-License-Identifier: Apache-2.0
"""The `next` of a learning process, of which each call is charged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import contextvars
import inspect
from typing import Any

from tff_secagg_ext import execution
from tff_secagg_ext._compat import tff
from tff_secagg_ext.program import canary_work, references, withheld
from tff_secagg_ext.program.account import Account, Reservation
from tff_secagg_ext.program.canaries import Riders
from tff_secagg_ext.program.participants import names_of

# Who takes part in the rounds of a block.
_named: contextvars.ContextVar[Sequence[object] | None] = (
  contextvars.ContextVar('named', default=None)
)


@contextlib.contextmanager
def of_clients(names: Sequence[object]) -> Iterator[None]:
  """Says who takes part in the rounds of the block."""
  token = _named.set(tuple(names))
  try:
    yield
  finally:
    _named.reset(token)


class RecordedNext(tff.Computation):
  """A computation of which each invocation is charged and recorded."""

  def __init__(
    self, computation: tff.Computation, account: Account, riders: Riders | None
  ):
    self._computation = computation
    self._account = account
    self._riders = riders

  @property
  def type_signature(self) -> tff.FunctionType:
    """The type of the wrapped computation, of clients that are no canaries."""
    found = self._computation.type_signature
    return (
      found if self._riders is None else canary_work.without_canaries(found)
    )

  def __hash__(self) -> int:
    return hash((type(self), self._computation))

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Reserves, runs and commits a round, and returns its output."""
    if any(isinstance(a, tff.Value) for a in (*args, *kwargs.values())):
      raise TypeError(
        'A recorded `next` cannot become part of another computation: its'
        ' rounds would run unrecorded. Compose the process first, and wrap'
        ' the result in a PrivacyRecorder.'
      )
    state, data = self._arguments(args, kwargs)
    clients = len(data) if isinstance(data, (list, tuple)) else None
    names = _named.get()
    if names is None:
      names = names_of(self.type_signature.parameter[1], data)
    if self._riders is not None:
      _check_values(data)
    reservation = self._account.reserve(clients, members=names, state=state)
    with self._account.running(reservation) as sessions:
      if self._riders is not None:
        with_canaries = self._riders.among(data, reservation.attempt, state)
        args, kwargs = (state, with_canaries), {}
      with references.taking_errors():
        output = withheld.run(self._computation, *args, **kwargs)
      if inspect.isawaitable(output):
        return self._finish(reservation, output)
      if references.has_references(output):
        return self._hold(reservation, output, sessions)
      evidence = self._account.terms.evidence(output)
      settlement = self._account.assess(reservation, evidence, sessions)
      if self._riders is not None:
        self._riders.observe(
          reservation.attempt, state, output.state, settlement.measurements
        )
    self._account.commit(reservation.attempt, settlement)
    return output

  async def _finish(self, reservation: Reservation, output: Any) -> Any:
    """Awaits the output of an asynchronous context, and commits the round."""
    with self._account.running(reservation) as sessions:
      output = await withheld.awaited(output)
      evidence = self._account.terms.evidence(output)
      settlement = self._account.assess(reservation, evidence, sessions)
    self._account.commit(reservation.attempt, settlement)
    return output

  def _hold(
    self,
    reservation: Reservation,
    output: Any,
    sessions: Sequence[execution.Report],
  ) -> Any:
    """Returns references that wait until the round is committed.

    Its sessions run in a task that was begun with it, and report there.
    """

    async def settle() -> None:
      with self._account.running(reservation):
        evidence = await withheld.awaited(
          tff.program.materialize_value(self._account.terms.evidence(output))
        )
        settlement = self._account.assess(reservation, evidence, sessions)
      self._account.commit(reservation.attempt, settlement)

    commit = asyncio.get_running_loop().create_task(settle())
    return references.hold(output, commit)

  def _arguments(
    self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
  ) -> tuple[Any, Any]:
    """Returns the state, and what the clients are given."""
    parameter = self.type_signature.parameter
    names = [name for name, _ in tff.structure.iter_elements(parameter)]
    state, data = (
      args[index] if len(args) > index else kwargs.get(names[index])
      for index in (0, 1)
    )
    return state, data


def _check_values(data: object) -> None:
  """Raises `RuntimeError` where rounds are not run on values, and at once."""
  context = tff.framework.get_context_stack().current
  if not isinstance(data, (list, tuple)) or not isinstance(
    context, tff.framework.SyncContext
  ):
    raise RuntimeError(
      "A run with `canaries` must have its clients' data as a list, in a"
      f' context that returns values. Found {type(data).__name__} in a'
      f' {type(context).__name__}. Use set_secure_context(), or leave the'
      ' canaries out.'
    )
