# SPDX-License-Identifier: Apache-2.0
"""What an entry says, as values, and its JSON.

JSON has no infinity: an infinite epsilon is `null` beside the list of reasons
why it is infinite, and a measurement that is not finite is one of the strings
`"Infinity"`, `"-Infinity"`, `"NaN"`.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import datetime
import json
import math
import numbers
import types
from typing import Any

from tff_secagg_ext.accounting import Epsilon, Round, Waiver

_CANONICAL = json.JSONEncoder(
  sort_keys=True, separators=(',', ':'), allow_nan=False
)

Scalar = bool | int | float | str | None
# JSON values by name: how the vectors of an attempt were summed.
Protocol = Mapping[str, Any]
# What of it tells nothing about a cohort. It is part of the format of the hash
# chain, and of its version.
PUBLIC = frozenset(('threat', 'verified'))
# Audits whose figures are computed from clients' data without noise, or from
# what the coordinator alone sees. The same holds for this.
_UNPUBLISHED = frozenset(('membership', 'gate'))


@dataclasses.dataclass(frozen=True, order=True)
class Attempt:
  """One attempt at one round, both counted from 1."""

  round: int
  attempt: int

  def __str__(self) -> str:
    return f'attempt {self.attempt} of round {self.round}'


@dataclasses.dataclass(frozen=True)
class Entry:
  """One row of the ledger.

  Attributes:
    sequence: Its number in the run, from 1, without gaps.
    session: Which opening of the run wrote it.
    attempt: What it is about.
    kind: `reserved`, `committed` or `lost`.
    charge: What the attempt costs, as far as this entry knows.
    measurements: What the round measured; empty unless committed.
    note: Why the attempt was lost, else empty.
    release: Epsilon so far, this entry included, of who sees the releases.
    server: Epsilon so far, this entry included, of the coordinator.
    recorded_at: UTC, ISO 8601.
    protocol: How the vectors were summed, with whom and at what cost; it tells
      the size of the cohort. `None` if nothing is known of it.
  """

  sequence: int
  session: int
  attempt: Attempt
  kind: str
  charge: Round
  measurements: Mapping[str, Scalar]
  note: str
  release: Epsilon
  server: Epsilon
  recorded_at: str
  protocol: Protocol | None = None

  @property
  def waivers(self) -> tuple[Waiver, ...]:
    """What both epsilons leave out."""
    both = (*self.release.waivers, *self.server.waivers)
    return tuple(dict.fromkeys(both))


def is_public(kind: str, figures: Mapping[str, Any]) -> bool:
  """Whether the release view may see the figures of an audit.

  Not those that are compared with the server's epsilon, for what they are
  computed from is the server's. It is part of the format of the hash chain, and
  of its version.
  """
  return kind not in _UNPUBLISHED and figures.get('view') != 'server'


def now() -> str:
  """Returns the time in UTC, ISO 8601 with microseconds."""
  return datetime.datetime.now(datetime.timezone.utc).isoformat(
    timespec='microseconds'
  )


def to_text(value: object) -> str:
  """Returns `value` as canonical JSON; refuses what JSON cannot hold."""
  return _CANONICAL.encode(value)


def measured(measurements: Mapping[str, object]) -> Mapping[str, Scalar]:
  """Returns scalars (numpy's included) as plain values that JSON can hold.

  Raises:
    TypeError: If a measurement is not a scalar.
  """
  return types.MappingProxyType(
    {name: _scalar(name, value) for name, value in measurements.items()}
  )


def unwrapped(value: object) -> object:
  """Returns a scalar of numpy as Python's own; all else as it is."""
  item = getattr(value, 'item', None)
  if item is not None and getattr(value, 'shape', None) == ():
    return item()
  return value


def _scalar(name: str, value: object) -> Scalar:
  value = unwrapped(value)
  if value is None or isinstance(value, (bool, str)):
    return value
  if isinstance(value, numbers.Integral):
    return int(value)
  if isinstance(value, numbers.Real):
    number = float(value)
    if math.isfinite(number):
      return number
    if math.isnan(number):
      return 'NaN'
    return 'Infinity' if number > 0 else '-Infinity'
  raise TypeError(
    f'The measurement `{name}` must be a number, a bool or a string. Found'
    f' {type(value).__name__}.'
  )


def finite(epsilon: Epsilon) -> float | None:
  """Returns the value of `epsilon`, `None` if it is infinite."""
  return None if math.isinf(epsilon.value) else float(epsilon.value)
