# SPDX-License-Identifier: Apache-2.0
"""What all tests share: a quiet TensorFlow and an end for TFF's workers."""

from __future__ import annotations

from collections.abc import Iterator
import os

import hypothesis
import pytest

from tests.browser import browser

__all__ = ['browser']

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Tests must not need, or wait for, an accelerator.
os.environ.setdefault('CUDA_VISIBLE_DEVICES', '-1')

hypothesis.settings.register_profile(
  'deterministic', deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile('deterministic')


@pytest.fixture(scope='session', autouse=True)
def _workers_end_with_the_session() -> Iterator[None]:
  """Ends the processes that TFF's runtime has started for the tests."""
  yield
  from tff_secagg_ext import _compat

  _compat.end_workers()
