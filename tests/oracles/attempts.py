# SPDX-License-Identifier: Apache-2.0
"""Figures of attempts, naively: all entries at hand, each an object."""

from __future__ import annotations

from collections.abc import Sequence
import itertools
import math
from typing import Any

from tff_secagg_ext.ledger import Entry

_SESSION = (
  'upload_bytes',
  'download_bytes',
  'expansion',
  'client_seconds',
  'server_seconds',
  'seconds',
)


def newest(entries: Sequence[Entry]) -> list[Entry]:
  """Returns what is known last of each attempt, in order of reservation."""
  found = {entry.attempt: entry for entry in entries}
  return list(found.values())


def figures(
  entries: Sequence[Entry], server_view: bool
) -> dict[str, list[Any]]:
  """Returns series by name; steps of dropouts as `dropouts.STEP`."""
  known = newest(entries)
  sessions = [(e.protocol or {}) if server_view else {} for e in known]
  steps = {step for s in sessions for step in s.get('dropouts', {})}
  measured = [e.measurements for e in known]
  return {
    'round': [e.attempt.round for e in known],
    'attempt': [e.attempt.attempt for e in known],
    'status': [e.kind for e in known],
    'aborted': [
      e.kind == 'lost' or e.measurements.get('aborted') is True for e in known
    ],
    'release_epsilon': [e.release.value for e in known],
    'server_epsilon': [e.server.value for e in known],
    'clip_norm': [
      _number(m.get('clip_norm', m.get('l2_clip'))) for m in measured
    ],
    'zeroing_threshold': [
      _number(m.get('zeroing_threshold')) for m in measured
    ],
    'wrap_probability': [_number(m.get('wrap_probability')) for m in measured],
    'contributors': [
      _number(
        s.get('survivors', e.measurements.get('contributors'))
        if e.kind == 'committed'
        else None
      )
      for e, s in zip(known, sessions, strict=True)
    ],
    'invited': [_number(s.get('clients')) for s in sessions],
    'verified': [_number((e.protocol or {}).get('verified')) for e in known],
    **{name: [_number(s.get(name)) for s in sessions] for name in _SESSION},
    **{
      f'dropouts.{step}': [
        float(s.get('dropouts', {}).get(step, 0)) if s else math.nan
        for s in sessions
      ]
      for step in steps
    },
  }


def charges(entries: Sequence[Entry]) -> list[Any]:
  """Returns alike charges that follow one another, with their number."""
  grouped = itertools.groupby(entry.charge for entry in newest(entries))
  return [(charge, len(list(alike))) for charge, alike in grouped]


def _number(value: Any) -> float:
  return float(value) if isinstance(value, (int, float)) else math.nan
