# SPDX-License-Identifier: Apache-2.0
"""What a run has spent so far, whether it was released or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools

from tff_secagg_ext.accounting import Accountant, Epsilon, Round
from tff_secagg_ext.ledger.records import Attempt, Entry


@dataclasses.dataclass(frozen=True)
class Composition:
  """The charges of all attempts of a run; immutable.

  An attempt counts from its reservation on, with what it is expected to cost,
  and once it is settled with what it really cost. All are in the order in which
  they were reserved, on which a cap on participations may rest.

  Attributes:
    settled: The account of the attempts before the first that is open.
    later: Those from there on, with their charges.
    open: Which of these are open.
  """

  settled: Accountant
  later: Mapping[Attempt, Round] = dataclasses.field(default_factory=dict)
  open: frozenset[Attempt] = frozenset()

  def reserve(self, attempt: Attempt, charge: Round) -> Composition:
    """Returns the composition with one more open attempt."""
    later = {**self.later, attempt: charge}
    return Composition(self.settled, later, self.open | {attempt})

  def settle(self, attempt: Attempt, charge: Round) -> Composition:
    """Returns the composition with `attempt` settled at `charge`."""
    if self.later == {attempt: charge}:
      return Composition(self._total)
    later, still_open = {**self.later, attempt: charge}, self.open - {attempt}
    done = list(itertools.takewhile(lambda a: a not in still_open, later))
    charges = (later.pop(each) for each in done)
    settled = self.settled
    for each, same in itertools.groupby(charges):
      settled = settled.with_round(each, sum(1 for _ in same))
    return Composition(settled, later, still_open)

  def epsilons(self) -> tuple[Epsilon, Epsilon]:
    """Returns the epsilons of the release view and of the server view."""
    return _epsilons(self._total)

  @functools.cached_property
  def _total(self) -> Accountant:
    total = self.settled
    for charge in self.later.values():
      total = total.with_round(charge)
    return total


def compose(account: Accountant, entries: Sequence[Entry]) -> Composition:
  """Returns the composition after `entries`, the first of a run.

  Args:
    account: That of the run before its first round.
    entries: In their order.
  """
  charges = {entry.attempt: entry.charge for entry in entries}
  open_ones = frozenset(
    attempt
    for attempt, same in itertools.groupby(
      sorted(entry.attempt for entry in entries)
    )
    if len(list(same)) == 1
  )
  in_order = list(charges.items())
  before = list(itertools.takewhile(lambda c: c[0] not in open_ones, in_order))
  for charge, same in itertools.groupby(charge for _, charge in before):
    account = account.with_round(charge, sum(1 for _ in same))
  return Composition(account, dict(in_order[len(before) :]), open_ones)


@functools.lru_cache(maxsize=4)
def _epsilons(accountant: Accountant) -> tuple[Epsilon, Epsilon]:
  """Reads both views; an attempt that is settled as reserved reads them once.

  Accountants are immutable and compare by identity.
  """
  return accountant.release(), accountant.server()
