# SPDX-License-Identifier: Apache-2.0
"""What a secure context is told: its protocol, its dropouts, its policy."""

from __future__ import annotations

from collections.abc import Collection, Mapping
import dataclasses
import hashlib
import os
from typing import Any

from tff_secagg_ext import _validate
from tff_secagg_ext._dropout_noise import DropoutNoise
from tff_secagg_ext.secagg import parameters
from tff_secagg_ext.secagg.setup import STAGES, Security


@dataclasses.dataclass(frozen=True)
class Dropouts:
  """Which simulated clients drop out of a session, and in which step of it.

  `Dropouts({'mask': 0.1})` loses a tenth of the clients where it costs most:
  after their keys are shared and their work is done, before their vector has
  arrived. `Dropouts({'share': [3, 5]})` loses these two in each session. More
  than the fraction that `Security.dropout` names end a session on a sparse
  graph: name one well above what is drawn here.

  - Everything is a function of the seed: who drops out of a round is the same
    whenever, and on whatever machine, it is asked.
  - Steps, rounds and clients are independent of one another.

  Attributes:
    at: By step ('invite', 'reveal', 'share', 'mask', 'confirm', 'unmask' or
      'verify'): the probability, in [0, 1], that a client that has come so far
      goes no further; or the clients that drop out there, by their position in
      the cohort, from 0. A step that the threat class does not have loses
      nobody.
    seed: Any integer.
  """

  at: Mapping[str, float | Collection[int]]
  seed: int = 0

  def __post_init__(self) -> None:
    if not isinstance(self.at, Mapping):
      raise TypeError(
        '`at` must be a mapping from steps to probabilities or clients. Found'
        f" {self.at!r}. Write Dropouts({{'mask': 0.1}})."
      )
    for stage, who in self.at.items():
      _validate.check_choice(stage, 'stage', STAGES)
      if isinstance(who, Collection):
        for client in who:
          _validate.check_int(client, f'at[{stage!r}]', minimum=0)
      else:
        _validate.check_float(who, f'at[{stage!r}]', minimum=0.0, maximum=1.0)
    _validate.check_int(self.seed, 'seed')

  def __call__(self, round_number: int, stage: str, client: int) -> bool:
    """Whether a client drops out in this step of this round."""
    who = self.at.get(stage, 0.0)
    if isinstance(who, Collection):
      return client in who
    coin = f'{self.seed} {round_number} {stage} {client}'.encode()
    draw = int.from_bytes(hashlib.sha256(coin).digest()[:8], 'big')
    return draw < who * 2.0**64


@dataclasses.dataclass(frozen=True)
class SecureOptions:
  """How secure sums are run, and what else may leave the clients.

  Attributes:
    security: The threat class, and the fractions of corrupt and of lost
      clients or the neighbors and threshold themselves.
    verify: Whether the clients check the sum; `None`: where the server may be
      malicious, and no layers of noise are taken off.
    min_contributors: A sum of fewer clients is not computed: the round aborts.
    dropouts: Which clients drop out; `None` for nobody.
    insecure_aggregates: What to do with a computation that aggregates values
      of clients in the clear, such as the `federated_sum` of metrics: 'allow',
      'warn' (once for each computation, in the log), or 'forbid'.
    transcripts: A folder for the transcripts of the sessions, one file each;
      `None` for none.
    protocol: 'secagg'; or 'plain', which adds vectors in the clear, for quick
      work without any secrecy.
    batch_size: How many clients work at once: no more of their vectors are in
      memory.
    dropout_noise: The noises that shall be exact after dropouts, as
      `DdpSecureAggregationFactory.dropout_noise` gives them; all of one cohort,
      of which `min_contributors` leaves no fewer than they bear. Every
      computation with secure sums that is run must have each of them once. Not
      with `verify`.
  """

  security: Security = dataclasses.field(default_factory=Security)
  verify: bool | None = None
  min_contributors: int = 2
  dropouts: Dropouts | None = None
  insecure_aggregates: str = 'warn'
  transcripts: str | os.PathLike[str] | None = None
  protocol: str = 'secagg'
  batch_size: int = 32
  dropout_noise: tuple[DropoutNoise, ...] = ()

  def __post_init__(self) -> None:
    for name, kind in (('security', Security), ('dropouts', Dropouts)):
      value = getattr(self, name)
      if not isinstance(value, kind) and (name, value) != ('dropouts', None):
        raise TypeError(f'`{name}` must be a {kind.__name__}. Found {value!r}.')
    if self.verify is not None:
      _validate.check_bool(self.verify, 'verify')
    _validate.check_int(self.min_contributors, 'min_contributors', minimum=1)
    _validate.check_choice(
      self.insecure_aggregates,
      'insecure_aggregates',
      ('allow', 'warn', 'forbid'),
    )
    _validate.check_choice(self.protocol, 'protocol', ('secagg', 'plain'))
    _validate.check_int(self.batch_size, 'batch_size', minimum=1)
    object.__setattr__(self, 'dropout_noise', tuple(self.dropout_noise))
    if self.dropout_noise:
      self._check_noise()

  def _check_noise(self) -> None:
    for noise in self.dropout_noise:
      if not isinstance(noise, DropoutNoise):
        raise TypeError(
          '`dropout_noise` must hold what `dropout_noise` of aggregators gives.'
          f' Found {noise!r}.'
        )
      least = noise.clients - noise.dropouts
      if self.min_contributors < least:
        raise ValueError(
          f'`min_contributors` must be at least {least}: `dropout_noise` of'
          f' {noise.clients} clients bears {noise.dropouts} dropouts. Found'
          f' {self.min_contributors}. Give it as to the aggregator.'
        )
    cohorts = {(noise.clients, noise.dropouts) for noise in self.dropout_noise}
    if len(cohorts) > 1:
      raise ValueError(
        'All `dropout_noise` must be for the same clients and dropouts. Found'
        f' {sorted(cohorts)}. Make all aggregators with the same numbers.'
      )
    if self.protocol == 'plain':
      raise ValueError(
        "`protocol` must be 'secagg' with `dropout_noise`. Found 'plain', which"
        ' adds no layers of noise and takes none off.'
      )
    if self.verify:
      raise ValueError(
        '`verify` must be False, or None, with `dropout_noise`: tags are of the'
        ' sum before layers are taken off. Found True. Give up one of both.'
      )

  @property
  def verified(self) -> bool:
    """Whether the clients check the sum, as resolved."""
    if self.verify is None:
      return self.security.threat == 'malicious' and not self.dropout_noise
    return self.verify

  @property
  def settings(self) -> dict[str, Any]:
    """What the secrecy of the sums rests on, as JSON values for a ledger."""
    common: dict[str, Any] = {
      'protocol': self.protocol,
      'corrupt': self.security.corrupt,
      'dropout': self.security.dropout,
      'min_contributors': self.min_contributors,
      'clients': 'simulated in one process',
    }
    # Absent without, so that runs on record can be reopened.
    if self.dropout_noise:
      common['dropout_noise'] = [
        dataclasses.asdict(noise) for noise in self.dropout_noise
      ]
    if self.protocol == 'plain':
      secrecy = 'none: insecure, vectors are added in the clear'
      return {**common, 'secrecy': secrecy}
    security = dataclasses.asdict(self.security)
    return {**common, **security, 'verify': self.verified}

  def colluders(self, clients: int) -> int:
    """How many of so many clients may collude with the server."""
    return parameters.counts(clients, self.security)[0]

  def lost(self, clients: int) -> int:
    """How many of so many clients are assumed to drop out at most."""
    return parameters.counts(clients, self.security)[1]

  def least_contributors(self, clients: int) -> int:
    """The fewest of so many clients whose vectors make a sum."""
    if self.dropouts is None:
      return clients
    return min(clients, self.min_contributors)
