# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a ledger, one class per remedy."""

from __future__ import annotations


class LedgerError(Exception):
  """A ledger could not do what was asked; nothing was half-written."""


class ForeignDatabaseError(LedgerError):
  """The location holds something that is not a ledger."""


class NewerLedgerError(LedgerError):
  """The ledger was written by a later version of this package."""


class OlderLedgerError(LedgerError):
  """The ledger has an older schema, and is opened for reading alone."""


class UnknownRunError(LedgerError, KeyError):
  """The ledger has no run of that name."""

  def __str__(self) -> str:
    return str(self.args[0])


class RunSettingsError(LedgerError, ValueError):
  """A run of that name exists with other settings."""


class ConcurrentWriterError(LedgerError):
  """Somebody else writes, or has written, the same run."""


class NotReservedError(LedgerError):
  """An attempt is settled that is not open."""


class LedgerWriteError(LedgerError):
  """An entry could not be made durable; the round must not be released."""


class BrokenChainError(LedgerError):
  """Rows of a run are not as they were written, or are not there."""


class ExportError(LedgerError, ValueError):
  """A file is not an export of a run, or not one that can be imported."""
