# SPDX-License-Identifier: Apache-2.0
"""Figures of attempts from the entries of a ledger, one number for each.

A run may have a million rounds: what is known of an attempt is a few numbers in
arrays, and no object of its own.
"""

from __future__ import annotations

import array
import collections
from collections.abc import Iterable, Mapping
import functools
import math
from typing import Any

import numpy as np

from tff_secagg_ext import accounting
from tff_secagg_ext.ledger import chain, rows, schema
from tff_secagg_ext.report.facts import Charges, Floats, Integers, Series

_KINDS = (schema.RESERVED, schema.COMMITTED, schema.LOST)
# What the mechanism measures in each round, public or noised.
MEASURED = ('clip_norm', 'zeroing_threshold', 'wrap_probability')
# TFF's own factories measure it under another name.
_ALSO = {'clip_norm': 'l2_clip'}
_SESSION = (
  'upload_bytes',
  'download_bytes',
  'expansion',
  'client_seconds',
  'server_seconds',
  'seconds',
)
_FLOATS = (
  'release_epsilon',
  'server_epsilon',
  *MEASURED,
  'contributors',
  'invited',
  *_SESSION,
  'verified',
)


class Collector:
  """What is known last of each attempt, in the order of their reservation.

  Attributes:
    notes: Why attempts were lost, and how many for each reason.
    entries: How many entries there are.
  """

  def __init__(self, server_view: bool):
    """Has no attempt yet.

    Args:
      server_view: Whether to tell what is the coordinator's alone.
    """
    self.notes: collections.Counter[str] = collections.Counter()
    self.entries = 0
    self._newest: rows.Row | None = None
    self._plan: str | None = None
    self._server_view = server_view
    self._places: dict[tuple[int, int], int] = {}
    self._rounds, self._attempts = array.array('q'), array.array('q')
    self._kinds, self._aborted = array.array('b'), array.array('b')
    self._floats = {name: array.array('d') for name in _FLOATS}
    # Of clients, by step; as long as the last attempt that lost one in it.
    self._dropouts: dict[str, array.array[float]] = {}
    self._has_session = array.array('b')
    # Charges repeat: each is there once, and an attempt has its number.
    self._charges: list[accounting.Round] = []
    self._numbers: dict[str, int] = {}
    self._codes = array.array('q')

  def __len__(self) -> int:
    return len(self._kinds)

  def take(self, row: rows.Row, record: chain.Record) -> None:
    """Takes the next entry: of a new attempt, or of one that it settles."""
    self.entries, self._newest = self.entries + 1, row
    attempt = record['round'], record['attempt']
    reserved = record['kind'] == schema.RESERVED
    place = None if reserved else self._places.pop(attempt, None)
    if place is None:
      place = self._new(*attempt)
    if reserved:
      self._places[attempt], self._plan = place, row['charge']
    elif record['note']:
      self.notes[record['note']] += 1
    measured, protocol = record['measurements'], record['protocol'] or {}
    lost = record['kind'] == schema.LOST
    self._kinds[place] = _KINDS.index(record['kind'])
    self._aborted[place] = lost or measured.get('aborted') is True
    self._codes[place] = self._number(row['charge'])
    self._set(place, 'verified', protocol.get('verified'))
    for name in ('release_epsilon', 'server_epsilon'):
      self._set(place, name, math.inf if row[name] is None else row[name])
    for name in MEASURED:
      self._set(place, name, measurement(measured, name))
    session = protocol if self._server_view else {}
    if record['kind'] == schema.COMMITTED:
      count = session.get('survivors', measured.get('contributors'))
      self._set(place, 'contributors', count)
    if session:
      self._take_session(place, session)

  def _new(self, round_number: int, attempt: int) -> int:
    """Returns the place of an attempt of which nothing is known yet."""
    self._rounds.append(round_number)
    self._attempts.append(attempt)
    for column in (self._kinds, self._aborted, self._has_session, self._codes):
      column.append(0)
    for values in self._floats.values():
      values.append(math.nan)
    return len(self) - 1

  def _number(self, text: str) -> int:
    """Returns the number of a charge among the distinct ones."""
    number = self._numbers.setdefault(text, len(self._charges))
    if number == len(self._charges):
      self._charges.append(rows.to_charge(text))
    return number

  def _take_session(self, place: int, session: Mapping[str, Any]) -> None:
    self._has_session[place] = 1
    self._set(place, 'invited', session.get('clients'))
    for name in _SESSION:
      self._set(place, name, session.get(name))
    for step, count in session.get('dropouts', {}).items():
      column = self._dropouts.setdefault(step, array.array('d'))
      column.extend([0.0] * (place + 1 - len(column)))
      column[place] = count

  def _set(self, place: int, name: str, value: Any) -> None:
    """Sets what is a number; what is none stays unknown."""
    if isinstance(value, (int, float)):
      self._floats[name][place] = value

  @property
  def epsilons(self) -> tuple[accounting.Epsilon, accounting.Epsilon]:
    """Both views' epsilon of all attempts, by the newest entry."""
    if self._newest is None:
      return accounting.Epsilon(0.0), accounting.Epsilon(0.0)
    entry = rows.to_entry(self._newest)
    return entry.release, entry.server

  @property
  def plan(self) -> accounting.Round | None:
    """What the newest attempt was reserved at; `None` before the first."""
    return None if self._plan is None else rows.to_charge(self._plan)

  def charges(self) -> Charges:
    """Returns the charges; alike ones that follow one another together."""
    return _grouped(self._charges, np.array(self._codes, np.int64))

  def charges_of_budget(self, budget: accounting.Budget) -> Charges:
    """Returns the same, open attempts counted as a budget counts them."""
    distinct = self._charges
    is_open = np.array(self._kinds, np.int8) == _KINDS.index(schema.RESERVED)
    counted = [*distinct, *map(budget.at_most, distinct)]
    codes = np.array(self._codes, np.int64) + len(distinct) * is_open
    return _grouped(counted, codes)

  def series(self) -> Series:
    """Returns the figures of all attempts; nothing can be taken after it."""
    codes = _shared(self._codes, np.int64)
    noise = np.array(list(map(_noise, self._charges)), np.float64)
    release, server = noise.reshape(-1, 2)[codes].T
    has_session = _shared(self._has_session, np.int8).astype(np.bool_)
    floats: dict[str, Any] = {
      name: _shared(values, np.float64) for name, values in self._floats.items()
    }
    return Series(
      round=_shared(self._rounds, np.int64),
      attempt=_shared(self._attempts, np.int64),
      status=np.array(_KINDS, '<U9')[_shared(self._kinds, np.int8)],
      aborted=_shared(self._aborted, np.int8).astype(np.bool_),
      release_noise=release,
      server_noise=server,
      dropouts={
        step: np.where(has_session, _padded(values, len(self)), math.nan)
        for step, values in self._dropouts.items()
      },
      **floats,
    )


def _shared(values: array.array[Any], kind: type[np.generic]) -> Any:
  """Returns values as numpy sees them, without a second copy in memory."""
  return np.frombuffer(values, kind) if len(values) else np.zeros(0, kind)


def measurement(measured: Mapping[str, Any], name: str) -> Any:
  """Returns what a round measured, one of `MEASURED`; `None` if it did not."""
  return measured.get(name, measured.get(_ALSO.get(name, '')))


def together(all_charges: Iterable[Charges]) -> Charges:
  """Returns charges one after another, alike neighbours together."""
  found: list[tuple[accounting.Round, int]] = []
  for charge, count in (each for charges in all_charges for each in charges):
    if found and found[-1][0] == charge:
      charge, before = found.pop()
      count += before
    found.append((charge, count))
  return tuple(found)


def _grouped(distinct: list[accounting.Round], codes: Integers) -> Charges:
  """Returns charges by their numbers, alike neighbours together."""
  if not len(codes):
    return ()
  starts = np.flatnonzero(np.diff(codes, prepend=-1))
  counts = np.diff(starts, append=len(codes))
  # Numbers differ where texts do; two texts may be of one charge.
  return together(
    [
      tuple(
        (distinct[code], count)
        for code, count in zip(
          codes[starts].tolist(), counts.tolist(), strict=True
        )
      )
    ]
  )


def _padded(values: array.array[float], length: int) -> Floats:
  """Returns values with zeros after them."""
  found = np.zeros(length)
  found[: len(values)] = values
  return found


@functools.lru_cache(maxsize=1024)
def _noise(charge: accounting.Round) -> tuple[float, float]:
  """Returns the noise multipliers of the model's sum in both views.

  NaN if none is known.
  """
  for event in charge.events:
    if isinstance(event, accounting.NoisedSumEvent):
      share = math.hypot(event.share_stddev, *event.layer_stddevs)
      own = event.client_shares * share**2
      added = event.server_shares * event.share_stddev**2
      told = min(event.colluders, event.client_shares) * share**2
      return (
        math.sqrt(own + added) / event.l2_sensitivity,
        math.sqrt(own - told) / event.l2_sensitivity,
      )
  central = [
    e for e in charge.events if isinstance(e, accounting.CentralGaussianEvent)
  ]
  if not central:
    return math.nan, math.nan
  ratios = [
    e.l2_sensitivity / e.stddev if e.stddev else math.inf for e in central
  ]
  return 1.0 / math.hypot(*ratios), 0.0
