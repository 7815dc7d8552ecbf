# SPDX-License-Identifier: Apache-2.0
"""What came of a session, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class Report:
  """A session in figures, for the server: it names no client.

  Attributes:
    threat: The class, or 'plain': no protocol at all.
    clients: How many were invited.
    neighbors: k.
    threshold: t.
    survivors: How many were summed.
    dropouts: How many were lost, by step.
    refusals: How many clients refused, by the name of the exception.
    verified: Whether clients have accepted the sum; `None` if none was asked.
    upload_bytes: What a survivor sent, mean.
    download_bytes: What a survivor was sent, mean.
    expansion: Both together over the bytes of its packed vectors.
    client_seconds: CPU seconds of a survivor, mean.
    server_seconds: CPU seconds of the server.
    seconds: From the first message to the last.
  """

  threat: str
  clients: int
  neighbors: int
  threshold: int
  survivors: int
  dropouts: Mapping[str, int]
  refusals: Mapping[str, int]
  verified: bool | None
  upload_bytes: float
  download_bytes: float
  expansion: float
  client_seconds: float
  server_seconds: float
  seconds: float


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The end of a session.

  Attributes:
    sums: By name of the vector, int64[length] in [0, m).
    survivors: The ids of who was summed, ascending.
    report: What it cost.
  """

  sums: Mapping[str, npt.NDArray[np.int64]]
  survivors: tuple[int, ...]
  report: Report
