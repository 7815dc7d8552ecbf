# SPDX-License-Identifier: Apache-2.0
"""What all parties of a session agree on before anything secret is made."""

from __future__ import annotations

import dataclasses

from tff_secagg_ext import _validate
from tff_secagg_ext._dropout_noise import DropoutNoise

VERSION = 1
THREAT_CLASSES = ('curious', 'semi-malicious', 'malicious')
MAX_MODULUS = 1 << 62
_MAX_U32 = (1 << 32) - 1
MAX_ID = _MAX_U32
SESSION_BYTES = 32
# The steps of a session, in order; not every session has all of them.
STAGES = ('invite', 'reveal', 'share', 'mask', 'confirm', 'unmask', 'verify')
# Coordinates that the verifiable sum appends to a vector.
TAG_LENGTH = 64


def check_id(client: object) -> int:
  """Returns the id of a client, an integer from 0 to 2^32 - 1; or raises."""
  return _validate.check_int(client, 'client', minimum=0, maximum=MAX_ID)


@dataclasses.dataclass(frozen=True)
class PlacedNoise:
  """Noise that is exact after dropouts, and where in a vector it is.

  Attributes:
    start: The first noised coordinate.
    noise: Its shares are in the clients' vectors; its layers are added, and
      taken off, by the protocol.
  """

  start: int
  noise: DropoutNoise

  @property
  def end(self) -> int:
    """The coordinate after the last noised one."""
    return self.start + self.noise.dimension


@dataclasses.dataclass(frozen=True)
class VectorSpec:
  """One of the vectors that a session sums.

  Attributes:
    name: At most 255 bytes of UTF-8; names of a session are different.
    length: Number of coordinates, from 0 to 2^31.
    modulus: m, from 2 to 2^62; coordinates are integers in [0, m), and so is
      their sum, modulo m.
    noise: Which coordinates have noise that is exact after dropouts,
      ascending; most vectors have none.
  """

  name: str
  length: int
  modulus: int
  noise: tuple[PlacedNoise, ...] = ()

  def __post_init__(self) -> None:
    if not isinstance(self.name, str):
      raise TypeError(f'`name` must be a string. Found {self.name!r}.')
    if len(self.name.encode()) > 255:
      raise ValueError(
        '`name` must have at most 255 bytes of UTF-8. Found'
        f' {len(self.name.encode())}. Shorten it.'
      )
    length = _validate.check_int(
      self.length, 'length', minimum=0, maximum=1 << 31
    )
    object.__setattr__(self, 'length', length)
    modulus = _validate.check_int(
      self.modulus, 'modulus', minimum=2, maximum=MAX_MODULUS
    )
    object.__setattr__(self, 'modulus', modulus)
    end = 0
    for placed in self.noise:
      if (
        placed.noise.modulus != modulus
        or not end <= placed.start < placed.end <= length
      ):
        raise ValueError(
          '`noise` must be of coordinates of the vector, ascending, none twice,'
          f' and modulo {modulus}. Found {self.noise}, of {length} coordinates.'
        )
      end = placed.end


def modulus_for_sum(maximum: int, clients: int) -> int:
  """The smallest power of 2 modulo which a sum does not wrap.

  Args:
    maximum: The largest coordinate of one client, at least 0.
    clients: How many are summed, at least 1.

  Raises:
    ValueError: If that is above 2^62.
  """
  maximum = _validate.check_int(maximum, 'maximum', minimum=0)
  clients = _validate.check_int(clients, 'clients', minimum=1)
  modulus = 1 << max(1, (maximum * clients).bit_length())
  if modulus > MAX_MODULUS:
    raise ValueError(
      f'`maximum` must be at most {(MAX_MODULUS - 1) // clients} for {clients}'
      f' clients. Found {maximum}. Sum fewer bits, or fewer clients.'
    )
  return modulus


@dataclasses.dataclass(frozen=True)
class Security:
  """The protocol's assumptions, and what is derived from them.

  Attributes:
    threat: 'curious', 'semi-malicious' or 'malicious'; see docs/protocol.md.
    corrupt: gamma, the largest fraction of the cohort that colludes with the
      server, in [0, 1).
    dropout: delta, the largest fraction of the cohort that may drop out, in
      [0, 1). On a sparse graph, a session that loses more ends: see
      `parameters.least_survivors`.
    neighbors: k, at least 1, or `None`: derived from the fractions and the
      number of clients. A number above n - 1 means all.
    threshold: t, at least 1 and at most k; `None` exactly if `neighbors` is.
  """

  threat: str = 'malicious'
  corrupt: float = 0.05
  dropout: float = 0.1
  neighbors: int | None = None
  threshold: int | None = None

  def __post_init__(self) -> None:
    _validate.check_choice(self.threat, 'threat', THREAT_CLASSES)
    for name in ('corrupt', 'dropout'):
      value = _validate.check_float(getattr(self, name), name, minimum=0.0)
      if value >= 1.0:
        raise ValueError(f'`{name}` must be below 1. Found {value!r}.')
      object.__setattr__(self, name, value)
    if (self.neighbors is None) != (self.threshold is None):
      raise ValueError(
        '`neighbors` and `threshold` must be given together. Found'
        f' {self.neighbors!r} and {self.threshold!r}. Give both, or neither:'
        ' then they are derived from the fractions.'
      )
    if self.neighbors is not None:
      neighbors = _validate.check_int(
        self.neighbors, 'neighbors', minimum=1, maximum=_MAX_U32
      )
      object.__setattr__(self, 'neighbors', neighbors)
      threshold = _validate.check_int(
        self.threshold, 'threshold', minimum=1, maximum=neighbors
      )
      object.__setattr__(self, 'threshold', threshold)

  @property
  def active(self) -> bool:
    """Whether the server may deviate from the protocol."""
    return self.threat != 'curious'


@dataclasses.dataclass(frozen=True)
class Setup:
  """The first message: all keys of a session are bound to its bytes.

  Attributes:
    session: 32 bytes that no other session of the server has.
    round: The round of the training, from 0 to 2^64 - 1.
    security: The assumptions.
    verify: Whether clients check the sum (see `secagg.verify`); not in the
      class 'curious'.
    min_survivors: The smallest number of clients whose sum is computed, at
      least 1. Alone, a client hides among nobody: its vector is the sum.
    vectors: What is summed, at least one, of different names. If some have
      noise that is exact after dropouts, all of it is for the same clients and
      dropouts, no more than `min_survivors` allows, and the sum is not
      verified: tags are of the sum before layers are taken off.
  """

  session: bytes
  round: int
  security: Security
  verify: bool
  min_survivors: int
  vectors: tuple[VectorSpec, ...]

  def __post_init__(self) -> None:
    if not isinstance(self.session, bytes):
      raise TypeError('`session` must be bytes.')
    if len(self.session) != SESSION_BYTES:
      raise ValueError(
        f'`session` must have {SESSION_BYTES} bytes. Found'
        f' {len(self.session)}. Take them from os.urandom.'
      )
    _validate.check_int(self.round, 'round', minimum=0, maximum=(1 << 64) - 1)
    _validate.check_bool(self.verify, 'verify')
    _validate.check_int(
      self.min_survivors, 'min_survivors', minimum=1, maximum=_MAX_U32
    )
    if self.verify and not self.security.active:
      raise ValueError(
        "`verify` must be False in the class 'curious', whose server computes"
        ' the right sum by assumption. Found True. Use another class.'
      )
    names = [vector.name for vector in self.vectors]
    if not names or len(set(names)) < len(names):
      raise ValueError(
        f'`vectors` must be at least one, of different names. Found {names!r}.'
      )
    if self.noises:
      self._check_noises()

  @property
  def noises(self) -> tuple[DropoutNoise, ...]:
    """The noises that are exact after dropouts, of all vectors."""
    return tuple(p.noise for spec in self.vectors for p in spec.noise)

  @property
  def layers(self) -> int:
    """How many layers of noise a client adds; 0 without."""
    return max((noise.dropouts for noise in self.noises), default=0)

  def _check_noises(self) -> None:
    """Raises `ValueError` unless noises, session and one another fit."""
    if self.verify:
      raise ValueError(
        '`verify` must be False with noise that is exact after dropouts: tags'
        ' are of the sum before layers are taken off. Found True. Give up one'
        ' of both.'
      )
    cohorts = {(noise.clients, noise.dropouts) for noise in self.noises}
    if len(cohorts) > 1:
      raise ValueError(
        'All noise of a session must be for the same clients and dropouts.'
        f' Found {sorted(cohorts)}. Make all aggregators with the same numbers.'
      )
    ((clients, dropouts),) = cohorts
    if self.min_survivors < clients - dropouts:
      raise ValueError(
        f'`min_survivors` must be at least {clients - dropouts}: the noise of'
        f' {clients} clients bears {dropouts} dropouts. Found'
        f' {self.min_survivors}. Raise it.'
      )
