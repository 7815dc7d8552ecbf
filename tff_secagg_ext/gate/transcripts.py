# SPDX-License-Identifier: Apache-2.0
"""Whether a run's sessions are in transcripts that nobody has altered.

The ledger has the hash of the last line of each transcript, and that line binds
all before it. So a transcript is the session's if it verifies and ends with the
hash; its file's name is not relied on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import pathlib

from tff_secagg_ext.ledger import Entry
from tff_secagg_ext.secagg import inspection
from tff_secagg_ext.secagg.transcript import TranscriptError


def faults(entries: Sequence[Entry], folder: pathlib.Path) -> tuple[str, ...]:
  """Returns what is wrong with the transcripts of a run, one phrase each.

  An attempt that was not committed and of whose session nothing is on record,
  as its process was killed, is passed over.

  Args:
    entries: Of the run.
    folder: Where its transcripts are; those of other runs may be, too.

  Raises:
    OSError: If the folder cannot be read.
  """
  settled = [e for e in entries if e.kind == 'committed' or e.protocol]
  wrong, wanted = [], []
  for entry in settled:
    protocol = entry.protocol or {}
    if not protocol:
      wrong.append(f'of {entry.attempt} it is not known how it was summed')
    elif protocol.get('threat') == 'plain':
      wrong.append(f'{entry.attempt} was summed in the clear')
    elif not protocol.get('transcript'):
      wrong.append(f'{entry.attempt} kept no transcript')
    else:
      wanted.append(entry)
  files = sorted(p for p in folder.iterdir() if p.suffix == '.jsonl')
  return (*wrong, *_compared(wanted, files))


def _compared(
  wanted: Sequence[Entry], paths: Iterable[pathlib.Path]
) -> list[str]:
  """Returns the sessions that no transcript is of, and the broken ones."""
  whole: dict[str, inspection.Summary] = {}
  broken = []
  for path in paths:
    try:
      summary = inspection.verify_file(path)
    except TranscriptError as error:
      broken.append(f'{path.name} is broken, {error}')
    else:
      whole[summary.hash] = summary
  wrong = []
  for entry in wanted:
    protocol = entry.protocol or {}
    found = whole.get(protocol['transcript'])
    if found is None:
      digest = str(protocol['transcript'])[:12]
      wrong.append(f'no transcript of {entry.attempt} ends with {digest}...')
    elif entry.kind == 'committed' and not _agrees(found, protocol):
      wrong.append(f'the transcript of {entry.attempt} is of another session')
  # A session that was killed leaves a file without an end: no fault by itself.
  return wrong + broken if wrong else []


def _agrees(found: inspection.Summary, protocol: Mapping[str, object]) -> bool:
  return (found.threat, found.survivors) == (
    protocol['threat'],
    protocol['survivors'],
  )
