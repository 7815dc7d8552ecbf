# SPDX-License-Identifier: Apache-2.0
"""The record of a session: what was public in it, and what it cost.

- A transcript holds no secret: the fields below are all that it takes, and
  whatever is in them passed the server in the clear.
- Each line names the hash of the line before it: a line that is altered,
  removed, added, repeated or moved is found, and so is a missing end.
- An existing file is never written to again.

The chain finds accidents and edits; whoever writes a whole new chain is found
by the clients' signatures (`secagg.inspection`), or by the last line's hash, if
somebody else keeps it.

A line is a JSON object in canonical form (ASCII, sorted keys, no spaces) and a
line feed. It has `seq` (from 0), `prev` (the hash of the line before, of the
first line 64 zeros), `time` (Unix, in seconds), `event`, the event's fields,
and `hash`: SHA-256 of the line's canonical form without `hash`. Bytes are
lower-case hex, ids are in ascending order.

- `setup`: session[32], round, threat, corrupt, dropout, neighbors and threshold
  (null: derived), verify, min_survivors; vectors: [name, length, modulus] each;
  noise, if there is any: [vector, start, mechanism, share_stddev, dimension,
  modulus, clients, dropouts, colluders] each.
  `setup_fields` makes them.
- `stage`: stage; answers: [id, bytes up, bytes down, seconds since the setup
  was sent] each; dropouts: ids; refusals: [id, class of the error] each.
- `keys` (active): advertisements: [id, public key of the identity[32],
  c_public[32], s_public[32], commitment[32], signature[64]] each.
- `graph`: clients: ids of the roster; neighbors: k; threshold: t; seed[32];
  active: draw: the number of the last one; preimages[32]: what it revealed, in
  the order of the clients.
- `survivors`: survivors: ids; active: confirmations: [id, signature[64]] each.
- `result`: digest[32]: SHA-256 of the body of Result; verified (null: not asked
  for); seconds.
- `aborted`: reason, stage, sum_known.

A session is setup, stages in the order of the protocol, keys after `invite`,
graph before `share`, survivors after `mask` (passive) or `confirm` (active),
and result or aborted at the end. The stage `reveal` comes once for each draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import hashlib
import io
import json
import numbers
import os
import pathlib
import time
from typing import Any, BinaryIO, NamedTuple

from tff_secagg_ext import _validate
from tff_secagg_ext.secagg.errors import SecAggError
from tff_secagg_ext.secagg.setup import Setup

FIELDS = {
  'setup': {
    'session', 'round', 'threat', 'corrupt', 'dropout', 'neighbors',
    'threshold', 'verify', 'min_survivors', 'vectors', 'noise',
  },
  'stage': {'stage', 'answers', 'dropouts', 'refusals'},
  'keys': {'advertisements'},
  'graph': {'clients', 'neighbors', 'threshold', 'seed', 'draw', 'preimages'},
  'survivors': {'survivors', 'confirmations'},
  'result': {'digest', 'verified', 'seconds'},
  'aborted': {'reason', 'stage', 'sum_known'},
}  # fmt: skip
# Fields that the passive protocol leaves out.
ACTIVE_FIELDS = {'draw', 'preimages', 'confirmations'}
# Fields that sessions without noise leave out.
_NOISE_FIELDS = {'noise'}
ENDS = ('result', 'aborted')
_START = '0' * 64


class TranscriptError(SecAggError):
  """A transcript that no session wrote.

  Attributes:
    line: The number of the first line that is wrong, from 1.
  """

  def __init__(self, line: int, reason: str):
    super().__init__(f'line {line}: {reason}')
    self.line = line


class Entry(NamedTuple):
  """A line whose place in the chain is right.

  Attributes:
    line: Its number, from 1.
    event: A key of `FIELDS`.
    fields: Its fields, as JSON gives them.
    hash: SHA-256 of it and of all before it, hex.
  """

  line: int
  event: str
  fields: Mapping[str, Any]
  hash: str


class Transcript:
  """Records one session, in a file or in memory.

  - Lines are handed to the operating system as they are recorded; the end of
    the session is on the disk when `record` returns.
  - After the end, or after `close`, nothing more is recorded.

  Attributes:
    path: The file, or `None` in memory.
    hash: The last line's hash, hex: to be kept where the file is not.
  """

  def __init__(self, file: BinaryIO, path: pathlib.Path | None):
    self.path = path
    self.hash = _START
    self._file = file
    self._lines = 0
    self._open = True

  @classmethod
  def create(
    cls, folder: str | os.PathLike[str], session: bytes, round: int
  ) -> Transcript:
    """Opens a new file in the folder, which is made if it is not there.

    Args:
      folder: Where the file is put.
      session: The id of the session, for the file's name.
      round: The round of the training, for the file's name.

    Raises:
      FileExistsError: If there is a transcript of this session and round.
    """
    path = pathlib.Path(folder) / f'round-{round:08d}-{session.hex()}.jsonl'
    path.parent.mkdir(parents=True, exist_ok=True)
    return cls(path.open('xb'), path)

  @classmethod
  def in_memory(cls) -> Transcript:
    """A transcript without a file; see `lines`."""
    return cls(io.BytesIO(), None)

  @property
  def lines(self) -> tuple[bytes, ...]:
    """What was recorded so far, a line each; of `in_memory` alone."""
    if not isinstance(self._file, io.BytesIO):
      raise ValueError(f'This transcript is a file. Read {self.path}.')
    return tuple(self._file.getvalue().splitlines(keepends=True))

  def record(self, event: str, /, **fields: Any) -> None:
    """Writes a line.

    Args:
      event: A key of `FIELDS`.
      **fields: The event's fields: numbers, strings, bytes, `None`, and lists
        of these.

    Raises:
      TypeError: If a field has a value of another kind.
      ValueError: If the session has ended, the event or a field is not in the
        table, a field is missing, or a number is not finite.
    """
    _validate.check_choice(event, 'event', tuple(FIELDS))
    _check_fields(event, fields)
    if not self._open:
      raise ValueError(
        f'A transcript that has ended takes no {event!r}. Begin another for'
        ' the next session.'
      )
    line = {
      'seq': self._lines,
      'prev': self.hash,
      'time': round(time.time(), 3),
      'event': event,
      **fields,
    }
    digest = hashlib.sha256(_canonical(line)).hexdigest()
    self._file.write(_canonical({**line, 'hash': digest}) + b'\n')
    self._file.flush()
    self._lines += 1
    self.hash = digest
    if event in ENDS:
      self.close()

  def close(self) -> None:
    """Ends the recording; without result or abort it is one that was cut."""
    if self._open and self.path is not None:
      os.fsync(self._file.fileno())
      self._file.close()
    self._open = False


def setup_fields(setup: Setup) -> dict[str, Any]:
  """The fields of the event 'setup'."""
  security = setup.security
  noise = [
    [spec.name, placed.start, *dataclasses.astuple(placed.noise)]
    for spec in setup.vectors
    for placed in spec.noise
  ]
  return {
    'session': setup.session,
    'round': setup.round,
    'threat': security.threat,
    'corrupt': security.corrupt,
    'dropout': security.dropout,
    'neighbors': security.neighbors,
    'threshold': security.threshold,
    'verify': setup.verify,
    'min_survivors': setup.min_survivors,
    'vectors': [
      [vector.name, vector.length, vector.modulus] for vector in setup.vectors
    ],
    **({'noise': noise} if noise else {}),
  }


def read(lines: Iterable[bytes]) -> Iterator[Entry]:
  """Yields the lines of a transcript, their chain checked.

  Args:
    lines: A file that is opened to read bytes, or `Transcript.lines`.

  Raises:
    TranscriptError: At the first line that is not as it was written, or after
      the last one if the end is missing.
  """
  previous, number, event = _START, 0, ''
  for number, data in enumerate(lines, 1):
    fields = _parse(number, data)
    if event in ENDS:
      raise TranscriptError(number, f'the session has ended with {event!r}')
    if fields.pop('seq') != number - 1 or fields.pop('prev') != previous:
      raise TranscriptError(
        number, 'does not follow the line before it; lines are missing or moved'
      )
    previous, event = fields.pop('hash'), fields.pop('event')
    del fields['time']
    try:
      _check_fields(event, fields)
    except ValueError as error:
      raise TranscriptError(number, str(error)) from None
    yield Entry(number, event, fields, previous)
  if event not in ENDS:
    raise TranscriptError(
      number + 1, 'the end is missing: neither a result nor an abort'
    )


def _parse(number: int, data: bytes) -> dict[str, Any]:
  """Returns a line with a right hash."""
  try:
    line = json.loads(data.decode('ascii'))
    whole = _canonical(line) + b'\n'
  except (ValueError, RecursionError):
    raise TranscriptError(number, 'is not a line of JSON') from None
  common = ('seq', 'prev', 'time', 'event', 'hash')
  if not isinstance(line, dict) or not line.keys() >= set(common):
    raise TranscriptError(number, f'has not all of {", ".join(common)}')
  hashed = {key: value for key, value in line.items() if key != 'hash'}
  digest = hashlib.sha256(_canonical(hashed)).hexdigest()
  if data != whole or line['hash'] != digest:
    raise TranscriptError(number, 'is not what was written: its hash differs')
  return line


def _check_fields(event: str, fields: Mapping[str, Any]) -> None:
  wanted = FIELDS.get(event) if isinstance(event, str) else None
  if wanted is None:
    raise ValueError(f'event {event!r} is none of {", ".join(FIELDS)}')
  found = set(fields)
  if not wanted - ACTIVE_FIELDS - _NOISE_FIELDS <= found <= wanted:
    raise ValueError(
      f'event {event!r} has the fields {", ".join(sorted(wanted))}. Found'
      f' {", ".join(sorted(found))}.'
    )


def _canonical(value: object) -> bytes:
  """JSON in the only form that a transcript has."""
  text = json.dumps(
    value,
    sort_keys=True,
    separators=(',', ':'),
    allow_nan=False,
    default=_plain,
  )
  return text.encode('ascii')


def _plain(value: object) -> str | int | float:
  if isinstance(value, bytes):
    return value.hex()
  if isinstance(value, numbers.Integral):
    return int(value)
  if isinstance(value, numbers.Real):
    return float(value)
  raise TypeError(
    'A transcript takes numbers, strings, bytes and lists of them. Found'
    f' {type(value).__name__}.'
  )
