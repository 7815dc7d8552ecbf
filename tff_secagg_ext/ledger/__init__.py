# SPDX-License-Identifier: Apache-2.0
"""What was spent: an append-only record, charged before it is released."""

from tff_secagg_ext.ledger.audits import AuditRecord
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
  OlderLedgerError,
  RunSettingsError,
  UnknownRunError,
)
from tff_secagg_ext.ledger.exchange import verify_export
from tff_secagg_ext.ledger.external import ExternalRun, record_external
from tff_secagg_ext.ledger.following import Growth, Progress, Standing
from tff_secagg_ext.ledger.ledger import Ledger
from tff_secagg_ext.ledger.population import (
  PopulationAccount,
  PopulationItem,
  charges,
  compose_population,
)
from tff_secagg_ext.ledger.records import Attempt, Entry, Protocol, measured
from tff_secagg_ext.ledger.run import Run

__all__ = [
  'Attempt',
  'AuditRecord',
  'BrokenChainError',
  'ConcurrentWriterError',
  'Entry',
  'ExportError',
  'ExternalRun',
  'ForeignDatabaseError',
  'Growth',
  'Head',
  'Ledger',
  'LedgerError',
  'LedgerWriteError',
  'NewerLedgerError',
  'NotReservedError',
  'OlderLedgerError',
  'PopulationAccount',
  'PopulationItem',
  'Progress',
  'Protocol',
  'Run',
  'RunSettingsError',
  'Standing',
  'UnknownRunError',
  'charges',
  'compose_population',
  'measured',
  'record_external',
  'verify_export',
]
