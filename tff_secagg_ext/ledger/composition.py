# SPDX-License-Identifier: Apache-2.0
"""What a run has spent so far, whether it was released or not."""

from __future__ import annotations

import dataclasses
import functools

from tff_secagg_ext.accounting import Accountant, Epsilon, Round
from tff_secagg_ext.ledger.records import Attempt


@dataclasses.dataclass(frozen=True)
class Composition:
  """The charges of all attempts of a run; immutable.

  An attempt counts from its reservation on, with what it is expected to cost,
  and once it is settled with what it really cost.

  Attributes:
    settled: The account of the settled attempts.
    open: The charges of those that are reserved and not settled.
  """

  settled: Accountant
  open: tuple[tuple[Attempt, Round], ...] = ()

  def reserve(self, attempt: Attempt, charge: Round) -> Composition:
    """Returns the composition with one more open attempt."""
    return Composition(self.settled, (*self.open, (attempt, charge)))

  def settle(self, attempt: Attempt, charge: Round) -> Composition:
    """Returns the composition with `attempt` settled at `charge`."""
    others = tuple(o for o in self.open if o[0] != attempt)
    if self.open == ((attempt, charge),):
      return Composition(self._total)
    return Composition(self.settled.with_round(charge), others)

  def epsilons(self) -> tuple[Epsilon, Epsilon]:
    """Returns the epsilons of the release view and of the server view."""
    return _epsilons(self._total)

  @functools.cached_property
  def _total(self) -> Accountant:
    total = self.settled
    for _, charge in self.open:
      total = total.with_round(charge)
    return total


@functools.lru_cache(maxsize=4)
def _epsilons(accountant: Accountant) -> tuple[Epsilon, Epsilon]:
  """Reads both views; an attempt that is settled as reserved reads them once.

  Accountants are immutable and compare by identity.
  """
  return accountant.release(), accountant.server()
