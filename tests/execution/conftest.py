# SPDX-License-Identifier: Apache-2.0
"""Computations run in secure contexts, and in TFF's test context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tff_secagg_ext import execution
from tff_secagg_ext._compat import tff


@pytest.fixture(scope='session')
def in_context() -> Callable[..., Any]:
  """Calls a computation in a context."""

  def run(context: Any, computation: Any, *args: Any) -> Any:
    with tff.framework.get_context_stack().install(context):
      return computation(*args)

  return run


@pytest.fixture(scope='session')
def reference(in_context: Callable[..., Any]) -> Callable[..., Any]:
  """Calls a computation in TFF's test context, where secure sums are plain."""
  context = tff.backends.test.create_sync_test_cpp_execution_context()
  return lambda computation, *args: in_context(context, computation, *args)


@pytest.fixture(scope='session')
def secure(in_context: Callable[..., Any]) -> Callable[..., Any]:
  """Calls a computation in a new secure context with these options."""

  def run(computation: Any, *args: Any, **options: Any) -> Any:
    options.setdefault('insecure_aggregates', 'allow')
    context = execution.create_secure_context(
      execution.SecureOptions(**options)
    )
    return in_context(context, computation, *args)

  return run
