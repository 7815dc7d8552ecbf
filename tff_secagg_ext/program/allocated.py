# SPDX-License-Identifier: Apache-2.0
"""Cohorts by random allocation: each client in some random rounds of an epoch.

Which rounds these are follows from a secret key of the run and from the number
of the epoch, so that it is the same after a kill, and is stored nowhere. An
attempt is in the place of its number: attempt a, counted from 0 in the ledger,
is round a mod t of epoch a div t. So an attempt that is lost uses its place up,
and nobody takes part in it again: a client has at most k participations in an
epoch, whatever becomes of them.
"""

from __future__ import annotations

import dataclasses
import secrets

from cryptography.hazmat.primitives import ciphers, hashes, hmac
from cryptography.hazmat.primitives.ciphers import algorithms
import numpy as np
import numpy.typing as npt

from tff_secagg_ext import _validate, accounting
from tff_secagg_ext.program.cohorts import Cohort, Turn

_WORD = np.dtype('<u8')


@dataclasses.dataclass(frozen=True)
class AllocatedCohorts:
  """Each client takes part in `participations` random rounds of each epoch.

  Guarantees:

  * The rounds of a client are a uniformly random subset, independent between
    clients and epochs, for whoever does not know the key of the run: they come
    from a ChaCha20 keystream under HMAC-SHA-256 of the number of the epoch. A
    subset is drawn within statistical distance k t / 2^64 of uniform.
  * The cohort of an attempt is the same whenever it is drawn.
  * A cohort above `maximum` is cut to a uniformly random subset of that size;
    one below `minimum` is left to the aggregator, which fails closed. Neither
    claims amplification, for its whole epoch.

  Attributes:
    population: The number of clients, at least 2.
    participations: k, in how many rounds of an epoch a client takes part.
    epoch: t, the number of rounds of an epoch, at least k.
    minimum: The smallest cohort that is released.
    maximum: The largest cohort that runs.
  """

  population: int
  participations: int
  epoch: int
  minimum: int
  maximum: int

  def __post_init__(self) -> None:
    _validate.check_int(self.population, 'population', minimum=2)
    accounting.RandomAllocation(self.participations, self.epoch)
    _validate.check_int(self.minimum, 'minimum', minimum=1)
    _validate.check_int(self.maximum, 'maximum', minimum=self.minimum)

  @classmethod
  def for_run(
    cls,
    population: int,
    participations: int,
    epoch: int,
    *,
    rounds: int,
    delta: float,
  ) -> AllocatedCohorts:
    """Returns cohorts that stay in bounds but with probability delta/100.

    Args:
      population: The number of clients.
      participations: In how many rounds of an epoch a client takes part.
      epoch: The number of rounds of an epoch.
      rounds: The number of rounds of the run.
      delta: The delta of the run.
    """
    rate = accounting.RandomAllocation(participations, epoch).rate
    bounds = accounting.allocated_cohort_bounds(population, rate, rounds, delta)
    least = max(1, bounds.minimum)
    most = min(population, bounds.maximum)
    return cls(population, participations, epoch, least, most)

  @property
  def expected(self) -> float:
    """The mean size of a cohort."""
    return self.population * self.sampling.rate

  @property
  def sampling(self) -> accounting.RandomAllocation:
    """The allocation, of an epoch without a name."""
    return accounting.RandomAllocation(self.participations, self.epoch)

  def draw(self, turn: Turn) -> Cohort:
    """Returns the cohort of an attempt."""
    epoch, place = divmod(turn.attempt, self.epoch)
    places = self._allocation(turn.key(), epoch)
    taking_part = (places == place).any(axis=1)
    chosen: list[int] = np.flatnonzero(taking_part).tolist()
    if self.minimum <= len(chosen) <= self.maximum:
      return Cohort(tuple(chosen), self.sampling)
    if len(chosen) > self.maximum:
      chosen = secrets.SystemRandom().sample(chosen, self.maximum)
    claim = accounting.unclaimed(self.sampling)
    return Cohort(tuple(sorted(chosen)), claim)

  def _allocation(self, key: bytes, epoch: int) -> npt.NDArray[np.int64]:
    """Returns int64[population, k], the rounds of each client in an epoch.

    Floyd's algorithm, for all clients at once: for j = t - k, ..., t - 1 a
    uniform r in 0..j is taken, or j itself if r is already.
    """
    words = _keystream(key, epoch, self.population * self.participations)
    words = words.reshape(self.participations, self.population)
    chosen = np.full((self.population, self.participations), -1, np.int64)
    for i, row in enumerate(words):
      last = self.epoch - self.participations + i
      drawn = (row % np.uint64(last + 1)).astype(np.int64)
      taken = (chosen == drawn[:, np.newaxis]).any(axis=1)
      chosen[:, i] = np.where(taken, last, drawn)
    return chosen


def _keystream(key: bytes, epoch: int, count: int) -> npt.NDArray[np.uint64]:
  """Returns `count` words that the key has for an epoch."""
  mac = hmac.HMAC(key, hashes.SHA256())
  mac.update(b'tff-secagg random allocation 1' + epoch.to_bytes(8, 'little'))
  # Each epoch has a key of its own, so that the counter may begin at 0.
  cipher = ciphers.Cipher(algorithms.ChaCha20(mac.finalize(), bytes(16)), None)
  stream = cipher.encryptor().update(bytes(count * _WORD.itemsize))
  return np.frombuffer(stream, _WORD)
