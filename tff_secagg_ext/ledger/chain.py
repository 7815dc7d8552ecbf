# SPDX-License-Identifier: Apache-2.0
"""A hash chain over a run, so that nothing in it is altered unseen.

Every row of a run is a record of JSON values. Its hash is the SHA-256 of its
`redacted` form in canonical JSON (sorted keys, no blanks, ASCII), the hash
itself left out:

* the run's record is the start of three chains, of its sessions, of its entries
  and of its audits; each record in them has its `number`, from 1, and the hash
  of the one before it as `previous`;
* an entry names the hash of the session that wrote it, and so binds it;
* an audit names how many entries there were, and the hash of the newest;
* what a record hides from the release view is in its hash as a commitment,
  the SHA-256 of the hidden values and of a random salt of 256 bits. So a
  redacted chain can be checked like a whole one, and a cohort's size cannot be
  found by trying all sizes.

A chain shows that rows were altered by somebody who did not write the rest of
it anew. Whoever can do that can forge it, unless a `Head` of it is kept
elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import hashlib
import hmac
import secrets
from typing import Any, TypeAlias

from tff_secagg_ext.ledger import errors, records

VERSION = 1
# By `what` a record is of.
HIDDEN = {
  'entry': ('protocol', 'recorded_at', 'salt'),
  'audit': ('figures', 'recorded_at', 'auditor', 'salt'),
}

Record: TypeAlias = Mapping[str, Any]


@dataclasses.dataclass
class Links:
  """Records that follow one another, taken one at a time.

  Attributes:
    end: What the next record names as `previous`.
    count: How many were taken.
  """

  end: str
  count: int = 0

  def take(self, record: Record, was_written: bool = False) -> bool:
    """Takes the next record; returns whether it is as it was written.

    Args:
      record: What follows.
      was_written: Whether it is known to have the hash of what it says.
    """
    fits = record['number'] == self.count + 1 and record['previous'] == self.end
    if not fits or not (was_written or _was_written(record)):
      return False
    self.end, self.count = str(record['hash']), self.count + 1
    return True


@dataclasses.dataclass(frozen=True)
class Head:
  """The state of a chain in one line, to be kept where nobody alters it.

  Attributes:
    sessions: How many sessions it covers.
    entries: How many entries it covers.
    digest: SHA-256 over the newest of each, 64 hexadecimal digits.
    audits: How many audits it covers. Without any it is told, and computed, as
      before there were audits.
  """

  sessions: int
  entries: int
  digest: str
  audits: int = 0

  @property
  def counts(self) -> tuple[int, int, int]:
    """How many sessions, entries and audits it covers."""
    return self.sessions, self.entries, self.audits

  def __str__(self) -> str:
    audits = f'{self.audits}.' if self.audits else ''
    return f'{self.sessions}.{self.entries}.{audits}{self.digest}'

  @classmethod
  def of(cls, sessions: Links, entries: Links, audits: Links) -> Head:
    """Returns the head of a run whose three chains have come so far."""
    tips = {
      'what': 'head',
      'sessions': sessions.count,
      'entries': entries.count,
      'session': sessions.end,
      'entry': entries.end,
    }
    if audits.count:
      tips |= {'audits': audits.count, 'audit': audits.end}
    return cls(sessions.count, entries.count, _sha256(tips), audits.count)

  @classmethod
  def parse(cls, text: str) -> Head:
    """Returns the head that `str` gave.

    Raises:
      ValueError: If it is none.
    """
    *counts, digest = text.strip().split('.')
    numbers = [int(c) for c in counts if c.isascii() and c.isdigit()]
    if (
      len(counts) not in (2, 3)
      or len(numbers) != len(counts)
      or len(digest) != 64
      or not set(digest) <= set('0123456789abcdef')
    ):
      raise ValueError(
        'A head must be two numbers and 64 hexadecimal digits, or three where'
        f' there are audits, separated by points. Found {text!r}. Give what'
        ' `ledger verify` printed.'
      )
    return cls(numbers[0], numbers[1], digest, *numbers[2:])


@dataclasses.dataclass(frozen=True)
class Chain:
  """The records of a run, whole or redacted, in the order of the database.

  Attributes:
    run: What the run was begun with.
    sessions: Its openings, oldest first.
    entries: Its entries, by number.
    audits: Its audits, by number.
  """

  run: Record
  sessions: Sequence[Record]
  entries: Sequence[Record]
  audits: Sequence[Record] = ()

  @functools.cached_property
  def start(self) -> str:
    """What the first record of each chain names as `previous`."""
    return hash_of(self.run)

  def end(self, records_: Sequence[Record]) -> str:
    """Returns what the next record after `records_` names as `previous`."""
    return str(records_[-1]['hash']) if records_ else self.start

  def head(self) -> Head:
    """Returns the head of the chain."""
    return self._head(len(self.sessions), len(self.entries), len(self.audits))

  def _head(self, sessions: int, entries: int, audits: int) -> Head:
    """Returns the head of so many records of the chain."""
    return Head.of(
      Links(self.end(self.sessions[:sessions]), sessions),
      Links(self.end(self.entries[:entries]), entries),
      Links(self.end(self.audits[:audits]), audits),
    )

  def check_since(self, head: Head) -> Head | None:
    """Returns the head, if all records that `head` does not count are written.

    Args:
      head: What `check` has returned. Entries and audits that it counts may be
        left out of the chain, all but the newest of each.

    Returns:
      The head of the chain; `None` if anything does not follow: `check` of the
      whole tells why.
    """
    parts = self.sessions, self.entries, self.audits
    ends = [
      _at(part, number, self.start)
      for part, number in zip(parts, head.counts, strict=True)
    ]
    if Head.of(*map(Links, ends, head.counts)) != head:
      return None
    known = {record['hash'] for record in self.sessions}
    numbered = {record['number']: record['hash'] for record in self.entries}
    follow = all(map(_follow, parts, head.counts, ends)) and all(
      [
        *(record['session'] in known for record in self.entries),
        *(
          record['entry'] == numbered.get(record['entries'])
          for record in self.audits
          if record['number'] > head.audits
        ),
      ]
    )
    if not follow:
      return None
    newest = [
      part[-1]['number'] if part else number
      for part, number in zip(parts, head.counts, strict=True)
    ]
    return Head.of(*map(Links, map(self.end, parts), newest))

  def fault(self, kept: Head | None = None) -> str | None:
    """Returns what was done to the first record that is not as written.

    Args:
      kept: An earlier head of the chain, or its present one.

    Returns:
      A sentence without its point, `None` if nothing is wrong.
    """
    found = _first_fault('session', self.start, self.sessions)
    found = found or _first_fault('entry', self.start, self.entries)
    found = found or self._stray()
    found = found or _first_fault('audit', self.start, self.audits)
    found = found or self._unfounded()
    if found or kept is None:
      return found
    for what, count, wanted in (
      ('session', len(self.sessions), kept.sessions),
      ('entry', len(self.entries), kept.entries),
      ('audit', len(self.audits), kept.audits),
    ):
      if count < wanted:
        return (
          f'{what} {count + 1} is missing, and all after it up to {wanted},'
          ' which the head counts'
        )
    if not hmac.compare_digest(
      self._head(kept.sessions, kept.entries, kept.audits).digest, kept.digest
    ):
      return 'the whole chain was written anew: it is not the one of the head'
    return None

  def _stray(self) -> str | None:
    known = {session['hash'] for session in self.sessions}
    for entry in self.entries:
      if entry['session'] not in known:
        return f'the session that wrote entry {entry["number"]} is missing'
    return None

  def _unfounded(self) -> str | None:
    for audit in self.audits:
      number, entries = audit['number'], audit['entries']
      if len(self.entries) < entries:
        return (
          f'entry {len(self.entries) + 1} is missing, and all after it up to'
          f' {entries}, which audit {number} counts'
        )
      if audit['entry'] != self.end(self.entries[:entries]):
        return f'entry {entries} is not the one that audit {number} followed'
    return None

  def check(self, kept: Head | None = None) -> Head:
    """Returns the head; `kept` is as in `fault`.

    Raises:
      BrokenChainError: If anything was altered; names the first record.
    """
    found = self.fault(kept)
    if found:
      raise errors.BrokenChainError(
        f'The chain of run {self.run["name"]!r} is broken: {found}. What it'
        ' tells cannot be relied on, and nothing is added to it. Restore the'
        ' ledger from a copy that verifies, or begin another run.'
      )
    return self.head()


def new_salt() -> str:
  """Returns 256 random bits, in hexadecimal."""
  return secrets.token_hex(32)


def redacted(record: Record) -> dict[str, Any]:
  """Returns what the release view may see of a record.

  Of an entry these are all fields but the salt, the time, and what of
  `protocol` is not public: rounds of larger cohorts take longer. Of an audit
  they are all but the salt, the time, the auditor, whose name tells when it
  began, and figures that are not public. `hidden` is the commitment to them.
  """
  if 'salt' not in record:
    return dict(record)
  hidden = HIDDEN[record['what']]
  return {
    **{k: v for k, v in record.items() if k not in hidden},
    **public(record),
    'hidden': _sha256({name: record[name] for name in hidden}),
  }


def public(record: Record) -> dict[str, Any]:
  """Returns what may be seen of the fields that hide something."""
  if record['what'] == 'entry':
    protocol = record['protocol']
    if isinstance(protocol, Mapping):
      protocol = {k: v for k, v in protocol.items() if k in records.PUBLIC}
      return {'protocol': protocol}
    return {'protocol': None}
  figures = record['figures']
  if isinstance(figures, Mapping) and records.is_public(
    record['kind'], figures
  ):
    return {'figures': figures}
  return {'figures': None}


def hash_of(record: Record) -> str:
  """Returns the hash that a record has if it is as it was written.

  Raises:
    TypeError: If it holds what no record holds.
    ValueError: If it holds a number that is not finite.
  """
  bound = redacted(record)
  bound.pop('hash', None)
  return _sha256(bound)


def _at(records_: Sequence[Record], number: int, start: str) -> str:
  """Returns the hash of a record, that of the start for number 0."""
  if not number:
    return start
  return next((str(r['hash']) for r in records_ if r['number'] == number), '')


def _follow(records_: Sequence[Record], number: int, previous: str) -> bool:
  """Whether the records after a number are as written, and follow its hash."""
  for place, record in enumerate(
    (r for r in records_ if r['number'] > number), number + 1
  ):
    fits = record['number'] == place and record['previous'] == previous
    if not fits or not _was_written(record):
      return False
    previous = record['hash']
  return True


def _sha256(value: Mapping[str, Any]) -> str:
  return hashlib.sha256(records.to_text(value).encode('ascii')).hexdigest()


def _first_fault(
  what: str, start: str, chained: Sequence[Record]
) -> str | None:
  links = Links(start)
  for place, record in enumerate(chained, 1):
    if not links.take(record):
      return _diagnose(what, chained, place)
  return None


def _diagnose(what: str, chained: Sequence[Record], place: int) -> str:
  """Returns what happened at `place`, where the chain breaks first."""
  record = chained[place - 1]
  if record['number'] != place:
    return f'{what} {place} is missing'
  written = _written_number(record, len(chained))
  if written == place:
    if place > 1:
      return f'{what} {place - 1} was altered: {what} {place} followed another'
    return f'the run was altered: its first {what} was written for another'
  if written is None:
    after = chained[place] if place < len(chained) else None
    if after is not None and _written_number(after, len(chained)) == place:
      return f'{what} {place} was inserted'
    session = ', or the session that wrote it,' if what == 'entry' else ''
    return f'{what} {place}{session} was altered'
  if written < place:
    return f'{what} {place} was inserted: it is a copy of {what} {written}'
  for number, other in enumerate(chained, 1):
    if _was_written({**other, 'number': place}):
      return f'{what} {place} was reordered: it is at {number}'
  return f'{what} {place} is missing: {what} {written} is in its place'


def _was_written(record: Record) -> bool:
  """Whether a record has the hash of what it says."""
  try:
    return bool(hash_of(record) == record['hash'])
  except (TypeError, ValueError):
    return False


def _written_number(record: Record, length: int) -> int | None:
  """Returns the number under which a record was written, if it is intact.

  As many may be missing before it as are left.
  """
  for number in range(1, 2 * length + 2):
    if _was_written({**record, 'number': number}):
      return number
  return None
