# SPDX-License-Identifier: Apache-2.0
"""The command line, `tff-secagg`."""

from __future__ import annotations

import os


def main() -> None:
  """Runs the command line.

  Exit codes: 0; 2 for bad input, with one line that says what to change; 130
  after Ctrl-C, with a line that says how to go on.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  from tff_secagg_ext.cli.app import app

  app()
