# SPDX-License-Identifier: Apache-2.0
"""Files that commands write."""

from __future__ import annotations

import os
import pathlib
import secrets

from tff_secagg_ext.cli import errors


def replace(path: pathlib.Path, content: bytes) -> None:
  """Writes a file whole, or leaves what was there.

  What the user can mend is one line and exit code 2.
  """
  beside = path.with_name(f'.{path.name}.{secrets.token_hex(4)}')
  with errors.one_line(OSError, place=f'{path} is not written: '):
    try:
      beside.write_bytes(content)
      os.replace(beside, path)
    finally:
      beside.unlink(missing_ok=True)
