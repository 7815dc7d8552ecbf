# SPDX-License-Identifier: Apache-2.0
"""What was spent: an append-only record, charged before it is released."""

from tff_secagg_ext.ledger.chain import Head
from tff_secagg_ext.ledger.errors import (
  BrokenChainError,
  ConcurrentWriterError,
  ExportError,
  ForeignDatabaseError,
  LedgerError,
  LedgerWriteError,
  NewerLedgerError,
  NotReservedError,
  RunSettingsError,
  UnknownRunError,
)
from tff_secagg_ext.ledger.exchange import verify_export
from tff_secagg_ext.ledger.ledger import Ledger
from tff_secagg_ext.ledger.records import Attempt, Entry, Protocol, measured
from tff_secagg_ext.ledger.run import Run

__all__ = [
  'Attempt',
  'BrokenChainError',
  'ConcurrentWriterError',
  'Entry',
  'ExportError',
  'ForeignDatabaseError',
  'Head',
  'Ledger',
  'LedgerError',
  'LedgerWriteError',
  'NewerLedgerError',
  'NotReservedError',
  'Protocol',
  'Run',
  'RunSettingsError',
  'UnknownRunError',
  'measured',
  'verify_export',
]
