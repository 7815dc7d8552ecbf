# SPDX-License-Identifier: Apache-2.0
"""TFF execution contexts whose secure sums go through the protocol."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Callable, Collection, Sequence
import dataclasses
import functools
import inspect
import logging
from typing import Any
import weakref

from tff_secagg_ext import _identity
from tff_secagg_ext._compat import current_context, tff
from tff_secagg_ext.execution import plans, sums
from tff_secagg_ext.execution.options import SecureOptions
from tff_secagg_ext.execution.vectors import Vectors

_logger = logging.getLogger('tff_secagg_ext')

_CACHED = 64

DEFAULTS = SecureOptions()


class SecureContext(tff.framework.SyncContext):
  """Runs computations, their secure sums through the protocol.

  - All secure sums of a computation are one session, in which a client's id is
    its position in the list of client values.
  - What has no secure sums runs in TFF's native runtime, as it would there.
  - A secure sum is never run as a plain one: what cannot go through the
    protocol raises `UnsupportedComputationError`.
  - Results are of the clients whose vectors arrived in the step 'mask', the
    survivors: of all of them and of them alone, be a sum secure or in the
    clear. A client that drops out before that step does no work.
  - The vectors of at most `batch_size` clients are in memory at a time. What is
    aggregated in the clear is held until the survivors are known.
  - Where TFF's test context is exact, results are bit-identical to its. It is
    not where a modular sum wraps its dtype before its modulus is taken.
  """

  def __init__(self, options: SecureOptions):
    """See `create_secure_context`."""
    self._options = options
    self._sessions = sums.Sessions(options)
    self._warned: weakref.WeakSet[_Compiled] = weakref.WeakSet()

  @property
  def options(self) -> SecureOptions:
    """What it was made with."""
    return self._options

  def invoke(self, comp: Any, arg: Any) -> Any:
    """Runs a computation.

    Args:
      comp: A `tff.Computation`.
      arg: Its argument.

    Raises:
      RoundAborted: If its session ends without a sum, or the protocol has no
        parameters for so many clients.
      UnsupportedComputationError: If its secure sums cannot go through the
        protocol, or it aggregates in the clear where that is forbidden.
      TypeError: If `arg` is not of the type of its parameter.
      ValueError: If a client's value is out of the range that its secure sum
        declares, or a sum has no modulus below 2^62; or if the computation
        has not each `dropout_noise` of the options once.
    """
    compiled = _compiled(comp)
    self._judge(compiled)
    plan = compiled.plan
    if plan is None:
      return _native().invoke(comp, arg)
    state, data = plans.split(comp.type_signature.parameter, arg)
    output = self._run(plan, state, data)
    # The parts of a plan have lost the containers of the type.
    output = tff.structure.from_container((output,), recursive=True)[0]
    return tff.types.type_to_py_container(output, comp.type_signature.result)

  def _run(self, plan: plans.Plan, state: Any, data: Sequence[Any]) -> Any:
    """Runs the parts of a plan, and returns its R."""
    self._sessions.check_cohort(len(data))
    prepared = _native().invoke(plan.prepare, state)

    def work(clients: Sequence[int]) -> Any:
      values = [data[client] for client in clients]
      argument = tff.structure.Struct.unnamed(values, prepared)
      return _native().invoke(plan.work, argument)

    vectors = Vectors(plan.leaves, len(data), self._options.dropout_noise)
    cohort = _Cohort(work, vectors, len(data), self._options.batch_size)
    outcome = self._sessions.run(vectors.specs, len(data), cohort.vectors_of)
    in_clear: Any = ()
    if plan.aggregate is not None:
      values = [cohort.in_clear[client] for client in outcome.survivors]
      in_clear = _native().invoke(plan.aggregate, values)
    secure = plan.sums(vectors.unpack(outcome.sums))
    unnamed = tff.structure.Struct.unnamed
    return _native().invoke(
      plan.update, unnamed(state, unnamed(in_clear, *secure))
    )[1]

  def _judge(self, compiled: _Compiled) -> None:
    """Applies the policy to what a computation aggregates in the clear."""
    policy = self._options.insecure_aggregates
    if policy == 'allow' or not compiled.insecure:
      return
    what = (
      'A computation aggregates values of clients in the clear:'
      f' {", ".join(sorted(compiled.insecure))}.'
    )
    if policy == 'forbid':
      raise plans.UnsupportedComputationError(
        f"{what} This context was made with insecure_aggregates='forbid'. Sum"
        ' securely, or leave it out, as tff_secagg_ext.no_client_metrics does'
        ' for metrics.'
      )
    if compiled not in self._warned:
      self._warned.add(compiled)
      _logger.warning(what)


class AsyncSecureContext(tff.framework.AsyncContext):
  """A `SecureContext` of which `invoke` is a coroutine function.

  `tff.program.NativeFederatedContext` accepts it. Work is done in the threads
  of `asyncio.to_thread`; the sessions of one context run one after another.
  """

  def __init__(self, options: SecureOptions):
    """See `create_async_secure_context`."""
    self._context = SecureContext(options)

  @property
  def options(self) -> SecureOptions:
    """What it was made with."""
    return self._context.options

  async def invoke(self, comp: Any, arg: Any) -> Any:
    """Runs a computation; see `SecureContext.invoke`."""
    if inspect.isawaitable(arg):
      arg = await arg
    return await asyncio.to_thread(self._context.invoke, comp, arg)


def create_secure_context(
  options: SecureOptions = DEFAULTS,
) -> SecureContext:
  """Creates a context in which secure sums go through the protocol.

  Its clients are simulated in this process: their keys, messages and checks are
  real.

  Args:
    options: See `SecureOptions`.
  """
  return SecureContext(_checked(options))


def create_async_secure_context(
  options: SecureOptions = DEFAULTS,
) -> AsyncSecureContext:
  """Creates the same for federated programs; see `create_secure_context`.

  Args:
    options: See `SecureOptions`.
  """
  return AsyncSecureContext(_checked(options))


def set_secure_context(options: SecureOptions = DEFAULTS) -> None:
  """Makes the secure sums of this thread's computations secure.

  ```python
  tff_secagg_ext.set_secure_context()
  output = process.next(state, client_data)  # as before
  ```

  Args:
    options: See `SecureOptions`.
  """
  tff.framework.set_default_context(create_secure_context(options))


def installed_options() -> SecureOptions | None:
  """Returns the options of the context that computations run in now.

  `None` if that is no secure context.
  """
  context = current_context()
  if isinstance(context, (SecureContext, AsyncSecureContext)):
    return context.options
  return None


def _checked(options: object) -> SecureOptions:
  if not isinstance(options, SecureOptions):
    raise TypeError(f'`options` must be a SecureOptions. Found {options!r}.')
  return options


@functools.cache
def _native() -> Any:
  """TFF's runtime: one worker process for all secure contexts."""
  return tff.backends.native.create_sync_local_cpp_execution_context()


def end_worker() -> None:
  """Ends TFF's worker process, of all secure contexts of this process.

  The next computation starts another. At the end of Python it is done by
  itself, but not in the children of `multiprocessing`, which skip that.
  """
  _native.cache_clear()


# Its finalizer needs modules that are gone at the end of Python.
atexit.register(end_worker)


@dataclasses.dataclass(frozen=True, eq=False)
class _Compiled:
  """How to run a computation.

  Attributes:
    plan: For its secure sums; `None` if it has none.
    insecure: The intrinsics by which it aggregates in the clear.
  """

  plan: plans.Plan | None
  insecure: frozenset[str]


@_identity.cached(_CACHED)
def _compiled(computation: Any) -> _Compiled:
  if not isinstance(computation, tff.framework.ConcreteComputation):
    raise TypeError(
      'A secure context runs instances of tff.Computation. Found a'
      f' {type(computation).__name__}.'
    )
  found = plans.Aggregations.of(computation)
  if not found.secure:
    return _Compiled(None, found.insecure)
  plan = plans.make_plan(computation, lambda part: _native().invoke(part, None))
  # Those that no result depends on are not run.
  insecure = found.insecure if plan.aggregate is not None else frozenset()
  return _Compiled(plan, insecure)


class _Cohort:
  """The clients of one session, who work in batches when they are asked."""

  def __init__(
    self,
    work: Callable[[Sequence[int]], Any],
    vectors: Vectors,
    clients: int,
    batch_size: int,
  ):
    self._work = work
    self._vectors = vectors
    self._clients = clients
    self._batch_size = batch_size
    self._secure: dict[int, Any] = {}
    self.in_clear: dict[int, Any] = {}

  def vectors_of(self, client: int, lost: Collection[int]) -> sums.Vectors:
    """Returns a client's vectors, with those of the next ones worked out.

    Args:
      client: Larger than at the call before.
      lost: Clients that will not be asked for.
    """
    if client not in self._secure:
      left = [c for c in range(client, self._clients) if c not in lost]
      # TFF's worker compiles, and keeps, something for each number of clients
      # that it has seen: it sees powers of 2 alone.
      power = 1 << (len(left).bit_length() - 1)
      batch = left[: min(power, self._batch_size)]
      results = self._work(batch)
      self._secure = {}
      for member, (plain, *secure) in zip(batch, results, strict=True):
        self.in_clear[member] = plain
        self._secure[member] = secure
    values = tff.structure.from_container(
      self._secure.pop(client), recursive=True
    )
    return self._vectors.pack(client, tff.structure.flatten(values))
