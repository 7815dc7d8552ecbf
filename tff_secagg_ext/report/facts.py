# SPDX-License-Identifier: Apache-2.0
"""Everything that a page shows of a run, as plain values.

`reading.read` makes them; nothing here knows of a database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tff_secagg_ext import accounting

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
# Alike charges that follow one another, and how many there are.
Charges: TypeAlias = tuple[tuple[accounting.Round, int], ...]


@dataclasses.dataclass(frozen=True)
class Series:
  """Figures of the attempts at rounds, in the order of their reservation.

  All arrays have one length, the number of attempts. NaN stands for what is not
  known, does not apply, or is not told in the view of the facts.

  Attributes:
    round: int64, from 1.
    attempt: int64, at that round, from 1.
    status: 'reserved', 'committed' or 'lost'.
    aborted: bool; whether it was lost, or committed without an update.
    release_epsilon: So far, this attempt included; infinite if it is.
    server_epsilon: The same, towards the coordinator.
    release_noise: Noise multiplier that protects the model from whoever sees
      it; noise over sensitivity, of what the attempt was charged with.
    server_noise: The same towards the coordinator: without the server's noise
      and that of colluders.
    clip_norm: L2 norm that updates were clipped to, in units of the update.
    zeroing_threshold: Largest coordinate of an update that was not zeroed.
    wrap_probability: That one coordinate of the sum wraps around.
    contributors: How many clients are in the sum.
    invited: How many were asked.
    dropouts: How many were lost, by step of the protocol.
    upload_bytes: What a client sent, mean.
    download_bytes: What it was sent, mean.
    expansion: Both together over the bytes of its packed vectors.
    client_seconds: CPU seconds of a client, mean.
    server_seconds: CPU seconds of the server.
    seconds: Of the session, from its first message to its last.
    verified: 1 where clients have accepted the sum, 0 where they have not.
  """

  round: Integers
  attempt: Integers
  status: npt.NDArray[np.str_]
  aborted: npt.NDArray[np.bool_]
  release_epsilon: Floats
  server_epsilon: Floats
  release_noise: Floats
  server_noise: Floats
  clip_norm: Floats
  zeroing_threshold: Floats
  wrap_probability: Floats
  contributors: Floats
  invited: Floats
  dropouts: Mapping[str, Floats]
  upload_bytes: Floats
  download_bytes: Floats
  expansion: Floats
  client_seconds: Floats
  server_seconds: Floats
  seconds: Floats
  verified: Floats

  def __len__(self) -> int:
    return len(self.round)

  @property
  def committed(self) -> npt.NDArray[np.bool_]:
    """Which attempts were committed."""
    return np.asarray(self.status == 'committed')


@dataclasses.dataclass(frozen=True)
class BudgetFacts:
  """What a run may spend, and who spends of it besides.

  Attributes:
    budget: The budget.
    settings: Those of its filter, fixed before the first round.
    population: The name of the population whose runs share it; `None` if it is
      the run's own.
    others: The other runs that share it, by name.
    charges: Theirs.
  """

  budget: accounting.Budget
  settings: Mapping[str, Any]
  population: str | None = None
  others: tuple[str, ...] = ()
  charges: Charges = ()


@dataclasses.dataclass(frozen=True)
class AuditFacts:
  """What an audit has found.

  Attributes:
    number: Among the audits of the run, from 1.
    kind: Which audit it is; see `ledger.audits.KINDS`.
    entries: How many entries of the ledger it is about.
    figures: JSON values by name; `None` if the view does not see them.
    versions: Of the packages that it ran with.
  """

  number: int
  kind: str
  entries: int
  figures: Mapping[str, Any] | None
  versions: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class RunFacts:
  """All that is told of a run.

  Of a run whose rows were altered nothing is told but the fault: all else would
  rest on them.

  Attributes:
    name: Of the run.
    view: 'release': what may be published; 'server': what is the coordinator's
      alone besides.
    fault: What was done to its rows; `None` if they are as they were written.
    head: Of the hash chain, to be kept elsewhere; empty with a fault.
    created_at: When it was begun, UTC, ISO 8601.
    delta: At which epsilon is told.
    settings: What it was begun with.
    versions: Of Python and of packages, one mapping for each session, oldest
      first.
    entries: How many entries the ledger has of it.
    series: By attempt.
    charges: Of all attempts, in their order.
    plan: What the newest attempt was reserved at; `None` before the first.
    release: Epsilon of all attempts, towards whoever sees what is released.
    server: The same towards the coordinator.
    notes: Why attempts were lost, and how many for each reason.
    budget: What it may spend; `None` without a limit.
    audits: Oldest first.
    transcripts: What is wrong with the transcripts of its sessions; `None` if
      nobody said where they are.
    baseline: The facts of the run that utility is compared with.
  """

  name: str
  view: str
  fault: str | None
  head: str
  created_at: str
  delta: float
  settings: Mapping[str, Any]
  versions: Sequence[Mapping[str, str]]
  entries: int
  series: Series
  charges: Charges
  plan: accounting.Round | None
  release: accounting.Epsilon
  server: accounting.Epsilon
  notes: Mapping[str, int]
  budget: BudgetFacts | None = None
  audits: Sequence[AuditFacts] = ()
  transcripts: Sequence[str] | None = None
  baseline: RunFacts | None = None

  @property
  def waivers(self) -> tuple[accounting.Waiver, ...]:
    """What both epsilons leave out."""
    both = (*self.release.waivers, *self.server.waivers)
    return tuple(dict.fromkeys(both))

  @property
  def rounds(self) -> int:
    """How many rounds were committed."""
    return int(self.series.committed.sum())

  @property
  def lost(self) -> int:
    """How many attempts were lost."""
    return int((self.series.status == 'lost').sum())

  @property
  def aborted(self) -> int:
    """How many attempts have no update: lost ones, and aborted ones."""
    return int(self.series.aborted.sum())

  @property
  def spendable_delta(self) -> float:
    """What of delta is left for noise."""
    return self.delta - float(self.settings.get('failure_probability', 0.0))

  @property
  def participation(self) -> accounting.ParticipationCap | None:
    """How often any client takes part; `None` if nothing limits it."""
    cap = self.settings.get('participation')
    return None if cap is None else accounting.ParticipationCap(**cap)

  @property
  def sampling(self) -> accounting.Sampling | None:
    """What is claimed of the cohorts; `None` before the first attempt."""
    return None if self.plan is None else self.plan.sampling

  @property
  def planned_noise(self) -> float | None:
    """The noise multiplier that the run was begun with; `None` if unknown."""
    value = self.mapping('aggregator').get('noise_multiplier')
    return float(value) if isinstance(value, (int, float)) else None

  @property
  def is_distributed(self) -> bool:
    """Whether clients add this package's discrete noise, and no other does."""
    aggregator = self.mapping('aggregator')
    return 'mechanism' in aggregator and 'tff' not in aggregator

  @property
  def clients_add_noise(self) -> bool:
    """Whether what leaves a client has a share of the noise in it."""
    return any(
      isinstance(event, accounting.NoisedSumEvent)
      for charge, _ in self.charges
      for event in charge.events
    )

  @property
  def external(self) -> Sequence[Mapping[str, Any]]:
    """What ran elsewhere, by source; none of a run that was recorded here."""
    found = self.settings.get('external')
    return found if isinstance(found, list) else ()

  def mapping(self, name: str) -> Mapping[str, Any]:
    """Returns a setting that is a table; empty if it is none."""
    found = self.settings.get(name)
    return found if isinstance(found, Mapping) else {}

  def newest(self, *kinds: str) -> AuditFacts | None:
    """Returns the newest audit of some kinds; `None` if there is none."""
    made = [audit for audit in self.audits if audit.kind in kinds]
    return made[-1] if made else None
