# SPDX-License-Identifier: Apache-2.0
"""What came of a session, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses

import numpy as np
import numpy.typing as npt

from tff_secagg_ext._dropout_noise import DropoutNoise


@dataclasses.dataclass(frozen=True)
class Report:
  """A session in figures, for the server: it names no client.

  Attributes:
    threat: The class, or 'plain': no protocol at all.
    clients: How many were invited.
    neighbors: k; 0 before there is a graph.
    threshold: t; the same.
    colluders: floor(gamma n): how many of the roster may collude with the
      server by the assumptions of the session; 0 before there is a roster.
    survivors: How many were summed; 0 of a session that was aborted.
    dropouts: How many were lost, by step.
    refusals: How many clients refused, by the name of the exception.
    verified: Whether clients have accepted the sum; `None` if none was asked.
    upload_bytes: What a survivor sent, mean; of a session that was aborted,
      what an invited client did.
    download_bytes: What it was sent, mean.
    expansion: Both together over the bytes of its packed vectors.
    client_seconds: Its CPU seconds, mean.
    server_seconds: CPU seconds of the server.
    seconds: From the first message to the last.
    transcript: The hash of the transcript's last line, hex; `None` if nobody
      keeps a transcript.
    noise: The noises that are exact in the sum, whoever dropped out; none of a
      session without layers, or of one that was aborted.
  """

  threat: str
  clients: int
  neighbors: int
  threshold: int
  colluders: int
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
  transcript: str | None
  noise: tuple[DropoutNoise, ...] = ()


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
