# SPDX-License-Identifier: Apache-2.0
"""A run of any length at one moment: entries are read in batches and checked.

`rows.RunRows` holds a run whole, some kilobytes for each round; a run of a
million rounds is read here in the memory that a batch takes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
import contextlib
import hashlib
from typing import NoReturn, TypeAlias

import sqlalchemy as sa

from tff_secagg_ext.ledger import chain as chain_lib
from tff_secagg_ext.ledger import records, rows
from tff_secagg_ext.ledger.chain import Chain, Head, Links, Record
from tff_secagg_ext.ledger.rows import Row, RunRows

# Gets a row, and its record, in which JSON is parsed.
Taker: TypeAlias = Callable[[Row, Record], None]
_BATCH = 1000


class Scan:
  """A run at one moment; get it by `Ledger.scan`, and use it inside.

  Attributes:
    found: Its rows but for the entries.
  """

  def __init__(self, connection: sa.Connection, run_id: int):
    """Reads all but the entries.

    Args:
      connection: In a transaction that sees the ledger as it was at one moment.
      run_id: The number of the run.
    """
    self._connection = connection
    self._run_id = run_id
    self.found: RunRows = rows.read_without_entries(connection, run_id)

  def read(self, take: Taker) -> Head:
    """Gives all entries to `take`, oldest first, and returns the head.

    Guarantees:
      - an entry is given once it was found to be as it was written, after all
        before it; nothing that `take` made of them is to be relied on before
        the head is there, which needs the audits to fit as well;
      - where `Chain.check` raises, this does, with the same message.

    A run is read whole, with the memory that takes, to say what was altered.

    Raises:
      BrokenChainError: If a row was altered or is missing; names the first.
    """
    chain: Chain = self.found.chain
    sessions, entries, audits = (Links(chain.start) for _ in range(3))
    if not all(map(sessions.take, chain.sessions)):
      self._refuse()
    # Where an audit found the entries to end, by their number.
    ends = {audit['entries']: '' for audit in chain.audits} | {0: chain.start}
    hashes = {row['id']: row['hash'] for row in self.found.sessions}
    with contextlib.closing(self._entries()) as stored:
      for row in stored:
        session = hashes.get(row['session_id'])
        record = rows.entry_record(row, session)
        quick = hash_of_texts(row, record) == row['hash']
        if session is None or not entries.take(record, quick):
          self._refuse()
        if entries.count in ends:
          ends[entries.count] = entries.end
        take(row, record)
    for audit in chain.audits:
      if not audits.take(audit) or audit['entry'] != ends[audit['entries']]:
        self._refuse()
    return Head.of(sessions, entries, audits)

  def _entries(self) -> Generator[Row, None, None]:
    with self._connection.execute(
      rows.entries_of(self._run_id), execution_options={'yield_per': _BATCH}
    ) as result:
      names = tuple(result.keys())
      for batch in result.partitions():
        for values in batch:
          yield dict(zip(names, values, strict=True))

  def _refuse(self) -> NoReturn:
    rows.read(self._connection, self._run_id).chain.check()
    raise AssertionError('A chain is whole for one check alone.')


def hash_of_texts(row: Row, record: Record) -> str | None:
  """Returns the hash of an entry whose columns of JSON are canonical texts.

  It is `chain.hash_of` of the record at a fraction of its time, as what is a
  text already is not written anew. Columns of entries that the ledger writes
  are canonical; where some are not, the hash is another.

  A hash that fits proves as much as one of `hash_of`: each part of the text is
  one JSON value, so that the text says what the row does, and it is the text
  that was hashed when the row was written.

  Returns:
    64 hexadecimal digits; `None` if a column of JSON is none.
  """
  charge, measurements, reasons, protocol = (
    'null' if row[name] is None else row[name] for name in rows.ENTRY_JSON
  )
  if any(isinstance(record[name], str) for name in rows.ENTRY_JSON):
    return None
  hidden = _sha256(
    f'{{"protocol":{protocol},"recorded_at":{_text(row["recorded_at"])},'
    f'"salt":{_text(row["salt"])}}}'
  )
  public = chain_lib.public(record)['protocol']
  return _sha256(
    f'{{"attempt":{_text(row["attempt"])},"charge":{charge},'
    f'"hidden":"{hidden}","kind":{_text(row["kind"])},'
    f'"measurements":{measurements},"note":{_text(row["note"])},'
    f'"number":{_text(record["number"])},"previous":{_text(row["previous"])},'
    f'"protocol":{records.to_text(public)},"reasons":{reasons},'
    f'"release_epsilon":{_text(row["release_epsilon"])},'
    f'"round":{_text(row["round"])},'
    f'"server_epsilon":{_text(row["server_epsilon"])},'
    f'"session":{_text(record["session"])},"what":"entry"}}'
  )


def _text(value: object) -> str:
  """Returns a scalar as canonical JSON; that of a number is Python's own."""
  is_number = type(value) is int or type(value) is float
  return repr(value) if is_number else records.to_text(value)


def _sha256(text: str) -> str:
  """Returns the hash of a text, of which no two have the same bytes."""
  return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()
