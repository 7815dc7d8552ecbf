# SPDX-License-Identifier: Apache-2.0
"""Real data to train on, each with a model and settings that suit it."""

from __future__ import annotations

from collections.abc import Callable
import importlib
from typing import cast

from tff_secagg_ext import _validate
from tff_secagg_ext.tasks.language import LanguageTask
from tff_secagg_ext.tasks.task import Task, TaskDataError, Training

NAMES = ('digits', 'shakespeare', 'fashion-mnist')
"""The names that `load` knows; the first one needs nothing to be installed."""

__all__ = [
  'NAMES',
  'LanguageTask',
  'Task',
  'TaskDataError',
  'Training',
  'load',
]


def load(name: str) -> Task:
  """Returns the task of that name, with its data read.

  Raises:
    TaskDataError: If its data are not installed; says how to install them.
    ValueError: If there is no such task.
  """
  name = _validate.check_choice(name, 'task', NAMES)
  module = importlib.import_module(
    f'tff_secagg_ext.tasks.{name.replace("-", "_")}'
  )
  return cast(Callable[[], Task], module.load)()
