# SPDX-License-Identifier: Apache-2.0
"""Who took part in which attempt, by keyed hashes, and whether they may again.

A cap on participations is not believed: each attempt names its clients before
it runs, and is refused if one of them was in too many, or in one too near. Of a
client there is only HMAC-SHA-256 under a key of the run, cut to 128 bits. Two
files in a folder that is the coordinator's own hold them, of mode 0600:

| file | holds |
| --- | --- |
| participants.key | the key, from the kernel |
| participants.jsonl | a line for the run; for each attempt, who is in it |

A line is synced before its attempt is reserved in the ledger, so that each
attempt of the ledger has one. What a kill leaves behind:

* half a line: its attempt was never reserved; it is cut off;
* a line without an attempt: the next attempt has its number, and counts the
  clients of both lines, since nobody can tell whether they were asked already.

A run of whose attempts one is missing, or whose key is lost or another, is not
continued. Attempts that have cost nothing do not count.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
import dataclasses
import json
import numbers
import os
import pathlib

from cryptography.hazmat.primitives import hashes, hmac
import numpy as np

from tff_secagg_ext import accounting
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext._compat import tff
from tff_secagg_ext.program import keys

_HASH_BYTES = 16


class ParticipationError(Exception):
  """A cap on participations would be broken, or cannot be seen to."""


@dataclasses.dataclass(frozen=True)
class Participation:
  """A cap on participations that a run keeps.

  Attributes:
    cap: What each client of the run keeps within.
    folder: Where the key and the hashes of the clients are kept, for this run
      alone. It is the coordinator's own, and as lasting as the ledger.
  """

  cap: accounting.ParticipationCap
  folder: str | os.PathLike[str]


class Participants:
  """Refuses attempts with clients that took part too often or too recently.

  Guarantees:

  * A client is in at most `cap.most` attempts that have cost anything, or may
    have, and these are `cap.separation` or more apart, in the order of
    reservation.
  * What `admit` has admitted is on the disk when it returns.
  * No error, and nothing that is written, has the name of a client.
  """

  def __init__(self, run: ledger_lib.Run, participation: Participation):
    """Opens the files of a run, or makes them if it is new.

    Raises:
      ParticipationError: If they are not those of all attempts of the run.
      RunKeyError: If the key is lost or can be read by others.
    """
    self._run, self._cap = run, participation.cap
    folder = pathlib.Path(participation.folder)
    self._path = folder / 'participants.jsonl'
    new = run.attempts == 0
    self._key = keys.kept(folder / 'participants.key', new=new)
    # The numbers of the attempts of each client, from 0.
    self._attempts_of: dict[str, set[int]] = collections.defaultdict(set)
    self._free: set[int] = set()
    self._numbers: dict[ledger_lib.Attempt, int] = {}
    self._read = 0
    self._load(new)

  @classmethod
  def of_run(
    cls, run: ledger_lib.Run, participation: Participation | None
  ) -> Participants | None:
    """Returns who took part in a run; `None` if it claims no cap."""
    return None if participation is None else cls(run, participation)

  def admit(self, members: Sequence[object]) -> None:
    """Writes down who is in the next attempt; to be called before it is.

    Args:
      members: The names of its clients: strings, bytes or integers, of which
        those that read the same are one client.

    Raises:
      ParticipationError: If one is there twice, or breaks the cap.
      TypeError: If a name is of another kind.
    """
    found = [self._hash(_name(member)) for member in members]
    if len(set(found)) != len(found):
      raise ParticipationError(
        f'Each client must be in a round once. Found {len(found)} names of'
        f' {len(set(found))} clients. Give each the data of one client.'
      )
    refused = sum(not allowed for allowed in self._allowed(found))
    if refused:
      raise ParticipationError(
        f'Each client must take part in at most {self._cap.most} rounds,'
        f' {self._cap.separation} or more apart. Found that this one would be'
        f' too many or too soon for {refused} of {len(found)} clients. It was'
        ' not run. Leave them out; may_take_part tells who may.'
      )
    number = self._run.attempts
    keys.append_line(self._path, {'attempt': number, 'members': found})
    for each in found:
      self._attempts_of[each].add(number)

  def may_take_part(self, members: Iterable[object]) -> list[bool]:
    """Returns which clients the cap allows to take part in the next attempt."""
    return self._allowed([self._hash(_name(member)) for member in members])

  def _allowed(self, found: Sequence[str]) -> list[bool]:
    self._read_entries()
    number = self._run.attempts
    allowed = []
    for each in found:
      # A line without an attempt has the number of the next one.
      earlier = self._attempts_of.get(each, set()) - self._free - {number}
      near = any(number - n < self._cap.separation for n in earlier)
      allowed.append(len(earlier) < self._cap.most and not near)
    return allowed

  def _read_entries(self) -> None:
    """Finds out which attempts have cost nothing."""
    entries = self._run.entries
    for entry in entries[self._read :]:
      number = self._numbers.setdefault(entry.attempt, len(self._numbers))
      if entry.kind != 'reserved' and not entry.charge.events:
        self._free.add(number)
    self._read = len(entries)

  def _hash(self, name: bytes) -> str:
    return self._tag(b'client ' + name)

  def _tag(self, text: bytes) -> str:
    mac = hmac.HMAC(self._key, hashes.SHA256())
    mac.update(b'tff-secagg participation 1 ' + text)
    return mac.finalize()[:_HASH_BYTES].hex()

  @property
  def _header(self) -> dict[str, object]:
    return {'version': 1, 'run': self._tag(b'run ' + self._run.name.encode())}

  def _load(self, new: bool) -> None:
    if not self._path.exists():
      if not new:
        raise self._broken('no such file')
      keys.append_line(self._path, self._header)
      keys.sync(self._path.parent)
    lines = keys.whole_lines(self._path)
    if not lines:
      keys.append_line(self._path, self._header)
      lines = [json.dumps(self._header).encode()]
    found: dict[int, list[str]] = collections.defaultdict(list)
    try:
      header, *records = (json.loads(line) for line in lines)
      for record in records:
        found[int(record['attempt'])].extend(record['members'])
    except (ValueError, KeyError, TypeError) as error:
      raise self._broken(f'a line that cannot be read: {error}') from error
    if header != self._header:
      raise self._broken('those of another run, or under another key')
    missing = set(range(self._run.attempts)) - set(found)
    if missing:
      raise self._broken(f'none of {len(missing)} of its attempts')
    for number, members in found.items():
      for each in members:
        self._attempts_of[each].add(number)

  def _broken(self, found: str) -> ParticipationError:
    return ParticipationError(
      f'{os.fspath(self._path)!r} must have the participants of all attempts of'
      f' run {self._run.name!r}. Found {found}. Restore it, or use another run'
      ' name: whoever has taken part in this one cannot be told.'
    )


def names_of(kind: tff.Type, data: object) -> Sequence[object] | None:
  """Returns the clients' names where they are what a process is given.

  As `tff.program.ClientIdDataSource` gives them to a process that was composed
  with a dataset computation.

  Args:
    kind: The type of the clients' data.
    data: The data.
  """
  member = getattr(kind, 'member', None)
  if not isinstance(member, tff.TensorType) or not isinstance(
    data, (list, tuple)
  ):
    return None
  text = np.dtype(member.dtype).kind in 'US' and member.shape == ()
  return data if text else None


def _name(member: object) -> bytes:
  """Returns a name as bytes, the same for all ways to write it."""
  if isinstance(member, bytes):
    return member
  if isinstance(member, str):
    return member.encode()
  if type(member) is not bool and isinstance(member, numbers.Integral):
    return str(int(member)).encode()
  # Its kind alone: the name is nobody's business.
  raise TypeError(
    'The name of a client must be a string, bytes or an integer. Found a'
    f' {type(member).__name__}. Give what identifies the client in all rounds.'
  )
