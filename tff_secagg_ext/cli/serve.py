# SPDX-License-Identifier: Apache-2.0
"""`tff-secagg serve`: the live page of a ledger."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import typer

from tff_secagg_ext.cli import errors


def serve(location: str, *, browse: bool | None, **options: Any) -> None:
  """Shows a ledger until Ctrl-C.

  Args:
    location: A path, or an SQLAlchemy URL.
    browse: Whether to open a browser; `None`: if a person is there.
    **options: Those of `serve.server.Options`.
  """
  server = _server()
  from tff_secagg_ext.ledger import LedgerError

  if browse is None:
    browse = sys.stdout.isatty()
  asked = server.Options(browse=browse, **options)
  with (
    errors.one_line(LedgerError, server.AddressError, ValueError, OSError),
    contextlib.suppress(KeyboardInterrupt),
  ):
    server.serve(location, asked, typer.echo)
  typer.echo('No longer served; runs go on.')


def _server() -> Any:
  try:
    from tff_secagg_ext.serve import server
  except ModuleNotFoundError as error:
    with errors.one_line(ImportError):
      raise ImportError(
        f'the live page cannot be served: {error}. Install it with `pip install'
        ' "tff-secagg-ext[serve]"`.'
      ) from error
  return server
