# SPDX-License-Identifier: Apache-2.0
"""An environment with Flower in it, apart from ours, and its scripts.

Flower and TensorFlow Federated do not agree on their dependencies.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

VERSION = '1.41.0'


def environment(folder: pathlib.Path) -> pathlib.Path:
  """Returns the folder's Python, made with Flower if it has none.

  Raises:
    subprocess.CalledProcessError: If Flower can't be installed.
  """
  python = folder / 'bin' / 'python'
  if not python.exists():
    subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
  probe = subprocess.run(
    [python, '-c', 'import flwr'],
    check=False,
    capture_output=True,
    env=_without_our_packages(),
  )
  if probe.returncode:
    install = [python, '-m', 'pip', 'install', '--quiet', f'flwr=={VERSION}']
    subprocess.run(install, check=True, env=_without_our_packages())
  return python


def run(python: pathlib.Path, script: str, *arguments: object) -> Any:
  """Runs a script that lies beside this one; returns the JSON it prints."""
  path = pathlib.Path(__file__).with_name(script)
  command = [str(word) for word in (python, path, *arguments)]
  printed = subprocess.run(
    command,
    check=True,
    stdout=subprocess.PIPE,
    text=True,
    env=_without_our_packages(),
  )
  return json.loads(printed.stdout)


def _without_our_packages() -> dict[str, str]:
  return {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
