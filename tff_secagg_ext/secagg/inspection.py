# SPDX-License-Identifier: Apache-2.0
"""Whether a transcript can be that of a session, and what it says.

Guarantees, for a transcript that `check` takes:

- the chain of hashes is whole, from the setup to the end;
- nobody is heard who has not answered the step before;
- the survivors are those whose masked vectors arrived, and not too few;
- neighbors and threshold are those that the setup asks for;

and in the active classes, without trust in whoever wrote it:

- every client of the roster has signed its keys for exactly this setup;
- the seed of the graph is the hash of what these clients committed to;
- every confirmation is its client's signature of exactly these survivors.

What nobody signs (times, bytes, dropouts, the digest of the result) is as true
as its writer. Nor does a signature say whose it is: a writer can make up
clients. Give the identities that you know to have them compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
import dataclasses
import os
from typing import Any

from tff_secagg_ext import _validate
from tff_secagg_ext.secagg import errors, keys, messages, parameters, transcript
from tff_secagg_ext.secagg.setup import (
  MAX_ID,
  SESSION_BYTES,
  Security,
  Setup,
  VectorSpec,
)

STAGES = ('invite', 'reveal', 'share', 'mask', 'confirm', 'unmask', 'verify')
_ACTIVE_STAGES = ('reveal', 'confirm')


@dataclasses.dataclass(frozen=True)
class Summary:
  """What a transcript says.

  Attributes:
    session: Its id, hex.
    round: The round of the training.
    threat: The class.
    clients: n, those on the roster; 0 if it ended before there was one.
    neighbors: k.
    threshold: t.
    survivors: Their number; 0 if it ended before they were known.
    dropouts: How many, by stage.
    refusals: How many, by class of the error.
    upload_bytes: All bytes from clients.
    download_bytes: All bytes to clients that answered.
    seconds: To the result; `None` without one.
    aborted: The reason of an abort, or `None`.
    verified: Whether clients checked the sum; `None` if they were not to.
    digest: SHA-256 of the body of Result, hex; `None` without one.
    signatures: How many there are; all were checked.
    hash: The hash of the last line, hex.
  """

  session: str
  round: int
  threat: str
  clients: int = 0
  neighbors: int = 0
  threshold: int = 0
  survivors: int = 0
  dropouts: Mapping[str, int] = dataclasses.field(default_factory=dict)
  refusals: Mapping[str, int] = dataclasses.field(default_factory=dict)
  upload_bytes: int = 0
  download_bytes: int = 0
  seconds: float | None = None
  aborted: str | None = None
  verified: bool | None = None
  digest: str | None = None
  signatures: int = 0
  hash: str = ''


def check(
  lines: Iterable[bytes], identities: Mapping[int, bytes] | None = None
) -> Summary:
  """Checks a transcript and returns what it says.

  Args:
    lines: A file that is opened to read bytes, or `Transcript.lines`.
    identities: The Ed25519 public keys that clients are known by; all that
      have signed must be among them. `None` takes those of the transcript.

  Raises:
    TranscriptError: At the first line that is wrong.
  """
  inspection: _Inspection | None = None
  last = ''
  for entry in transcript.read(lines):
    try:
      if inspection is None:
        _demand(entry.event == 'setup', 'a session begins with its setup')
        inspection = _Inspection(_setup(entry.fields), identities)
      else:
        inspection.take(entry.event, entry.fields)
    except (TypeError, ValueError, errors.SecAggError) as error:
      raise transcript.TranscriptError(entry.line, str(error)) from error
    last = entry.hash
  assert inspection is not None, 'no line is not a transcript'
  return dataclasses.replace(inspection.summary(), hash=last)


def verify_file(
  path: str | os.PathLike[str], identities: Mapping[int, bytes] | None = None
) -> Summary:
  """Checks a transcript's file; see `check`.

  Raises:
    OSError: If it cannot be read.
    TranscriptError: At the first line that is wrong.
  """
  with open(path, 'rb') as file:
    return check(file, identities)


class _Inspection:
  """A session as far as its lines have been read."""

  def __init__(self, setup: Setup, identities: Mapping[int, bytes] | None):
    self._setup = setup
    self._active = setup.security.active
    self._digest = messages.setup_digest(messages.encode_setup(setup))
    self._known = identities
    self._stage = ''
    self._draws = 0
    self._heard: list[int] = []  # who has answered the last stage
    self._masked: list[int] = []
    self._signers: dict[int, tuple[bytes, bytes]] = {}  # identity, commitment
    self._roster: list[int] = []
    self._seed = b''
    self._found: dict[str, Any] = {}
    self._dropouts: Counter[str] = Counter()
    self._refusals: Counter[str] = Counter()
    self._bytes = [0, 0]
    self._signatures = 0

  def take(self, event: str, fields: Mapping[str, Any]) -> None:
    """Takes the next line, or raises an error that says what is wrong."""
    _demand(event != 'setup', 'a session has one setup')
    active = transcript.ACTIVE_FIELDS & transcript.FIELDS[event]
    wanted = active if self._active else set()
    _demand(
      active & fields.keys() == wanted,
      f'event {event!r} must have the fields {sorted(active)} in the active'
      ' protocol alone',
    )
    getattr(self, f'_take_{event}')(fields)

  def summary(self) -> Summary:
    return Summary(
      session=self._setup.session.hex(),
      round=self._setup.round,
      threat=self._setup.security.threat,
      clients=len(self._roster),
      dropouts=dict(self._dropouts),
      refusals=dict(self._refusals),
      upload_bytes=self._bytes[0],
      download_bytes=self._bytes[1],
      signatures=self._signatures,
      **self._found,
    )
