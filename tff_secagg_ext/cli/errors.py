# SPDX-License-Identifier: Apache-2.0
"""How commands report what the user can mend."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib

import typer


@contextlib.contextmanager
def one_line(
  *kinds: type[Exception], code: int = 2, place: str = ''
) -> Iterator[None]:
  """Turns errors of some kinds into one line on stderr and an exit code.

  Args:
    *kinds: The kinds.
    code: The exit code.
    place: What the error is in; comes before it.
  """
  try:
    yield
  except kinds as error:
    text = ' '.join(str(error).split())
    typer.echo(f'Error: {place}{text}', err=True)
    raise typer.Exit(code) from None
