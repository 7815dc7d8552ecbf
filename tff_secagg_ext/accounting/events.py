# SPDX-License-Identifier: Apache-2.0
"""What a round released: events, apart from what they cost.

An event holds what is necessary and sufficient for the privacy account of one
release, and documents it completely: whoever writes another accountant needs
nothing else. All events of one account are about the same population of
clients, and the unit of privacy is one client.

Compatibility promise. Events outlive the code that wrote them, in ledgers. So
  - no event, field or mechanism is ever removed or renamed;
  - none ever changes its meaning, unit or default: another meaning is another
    event;
  - a field added later has a default under which old events mean what they
    meant, and its presence raises the serialised version;
  - an accountant refuses, or counts as infinite, what it does not know.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
from typing import TypeAlias

from tff_secagg_ext import _validate
from tff_secagg_ext.accounting import external as external_lib
from tff_secagg_ext.accounting import sampling as sampling_lib

MECHANISMS: tuple[str, ...] = ('distributed_dgauss', 'distributed_skellam')


def _phrases(given: object, name: str) -> tuple[str, ...]:
  """Returns `given` as a tuple of phrases, of which there is at least one."""
  if isinstance(given, str) or not isinstance(given, Iterable):
    raise TypeError(
      f'`{name}` must be a tuple of phrases. Found {given!r}. Put a single '
      'one as `(reason,)`.'
    )
  phrases = tuple(given)
  if not all(isinstance(phrase, str) for phrase in phrases):
    raise TypeError(
      f'`{name}` must hold strings only. Found {phrases!r}. Say in words '
      'what was released.'
    )
  if not phrases or not all(phrase.strip() for phrase in phrases):
    raise ValueError(
      f'`{name}` must name at least one thing, and no empty one. Found '
      f'{phrases!r}. Say in words what was released.'
    )
  return phrases


@dataclasses.dataclass(frozen=True)
class NoisedSumEvent:
  """A sum of integer vectors, one a client, with noise shares in it.

  The released value is a post-processing of

    sum_i x_i + sum_j e_j  (mod any modulus),

  with x_i in Z^dimension the vector of client i, |x_i|_2 <= l2_sensitivity,
  and e_j independent noise shares, each with `dimension` independent
  coordinates of mean 0 and standard deviation `share_stddev`: for
  'distributed_dgauss' the discrete Gaussian of [CKS20], whose probability of
  k is proportional to exp(-k^2 / (2 share_stddev^2)); for
  'distributed_skellam' the difference of two Poisson variables of mean
  share_stddev^2 / 2 each [AKL21]. The noise of a client stays where its
  vector is zeroed.

  The release view is protected by `client_shares + server_shares` shares. The
  server knows what it added and what its colluders added, so that the server
  view is protected by `client_shares - colluders` shares. The server's part
  may also be a few discrete Gaussians whose variances are integer multiples
  of share_stddev^2 and sum to `server_shares` of them.

  With `layer_stddevs` the noise of a client is more than a share: each of the
  `client_shares` comes with one independent draw of the same law for each of
  these standard deviations. That is so where a sum has exactly the noise that
  it shall have after dropouts.

  Attributes:
    mechanism: The law of a share, 'distributed_dgauss' or
      'distributed_skellam'.
    l2_sensitivity: Norm bound of a client's integer vector after rounding,
      appended coordinates included, in integer units; positive.
    share_stddev: Standard deviation of one share, in integer units; 0 means
      no noise.
    client_shares: The number of shares that clients really added.
    dimension: The number of coordinates of the summed vector.
    server_shares: The number of shares that the server added.
    colluders: How many clients may tell the server their noise, layers
      included.
    layer_stddevs: Standard deviations of the further noise that came with each
      client share, in integer units, positive; none where shares are all.
  """

  mechanism: str
  l2_sensitivity: float
  share_stddev: float
  client_shares: int
  dimension: int
  server_shares: int = 0
  colluders: int = 0
  layer_stddevs: tuple[float, ...] = ()

  def __post_init__(self) -> None:
    _validate.check_choice(self.mechanism, 'mechanism', MECHANISMS)
    sensitivity = _validate.check_float(self.l2_sensitivity, 'l2_sensitivity')
    if sensitivity <= 0.0:
      raise ValueError(
        '`l2_sensitivity` must be above 0. Found '
        f'{self.l2_sensitivity!r}. Give the norm bound after rounding, in '
        'integer units.'
      )
    object.__setattr__(self, 'l2_sensitivity', sensitivity)
    stddev = _validate.check_float(
      self.share_stddev,
      'share_stddev',
      minimum=0.0,
      remedy='Give the standard deviation of one share, in integer units.',
    )
    object.__setattr__(self, 'share_stddev', stddev)
    counts = ('client_shares', 'server_shares', 'colluders')
    for name, minimum in (*((c, 0) for c in counts), ('dimension', 1)):
      value = _validate.check_int(getattr(self, name), name, minimum=minimum)
      object.__setattr__(self, name, value)
    if self.layer_stddevs:
      self._check_layers()

  def _check_layers(self) -> None:
    layers = tuple(
      _validate.check_float(value, 'layer_stddevs')
      for value in self.layer_stddevs
    )
    if min(layers) <= 0.0 or self.share_stddev == 0.0:
      raise ValueError(
        '`layer_stddevs` must be above 0, of shares that are. Found'
        f' {layers}, with shares of {self.share_stddev}. Leave out layers that'
        ' are no noise.'
      )
    object.__setattr__(self, 'layer_stddevs', layers)


@dataclasses.dataclass(frozen=True)
class CentralGaussianEvent:
  """A sum of real vectors, to which the server adds Gaussian noise.

  The released value is a post-processing of sum_i x_i + N(0, stddev^2 I), with
  x_i the vector of client i and |x_i|_2 <= l2_sensitivity, in any dimension.
  The server sees the sum without its noise: in its view it is not private.

  Several of one round are one vector of each client, each part scaled by its
  noise, so that a clipped sum and the count that tunes its clip norm are
  together as private as one Gaussian of the noise multiplier
  (z_sum^-2 + (2 stddev)^-2)^(-1/2) [ATMR21, arXiv 1905.03871, Thm 1], the
  count's terms being +-1/2.

  The event is about real numbers. Floats are not: what a sampler in floating
  point reaches depends on the sum [Mironov 2012], which no event covers.

  Attributes:
    l2_sensitivity: Norm bound of a client's vector, in any unit; positive.
    stddev: Standard deviation of the noise of a coordinate, in the same unit;
      0 means no noise.
    name: What it is a sum of, such as 'clip quantile bit'; not empty.
  """

  l2_sensitivity: float
  stddev: float
  name: str

  def __post_init__(self) -> None:
    sensitivity = _validate.check_float(self.l2_sensitivity, 'l2_sensitivity')
    if sensitivity <= 0.0:
      raise ValueError(
        '`l2_sensitivity` must be above 0. Found '
        f'{self.l2_sensitivity!r}. Give the norm that vectors are clipped to.'
      )
    object.__setattr__(self, 'l2_sensitivity', sensitivity)
    stddev = _validate.check_float(
      self.stddev,
      'stddev',
      minimum=0.0,
      remedy='Give the standard deviation of the noise on the sum.',
    )
    object.__setattr__(self, 'stddev', stddev)
    (name,) = _phrases((self.name,), 'name')
    object.__setattr__(self, 'name', name)


@dataclasses.dataclass(frozen=True)
class SeenByServerEvent:
  """Something without noise that the server sees, and nobody else.

  The server's view is infinite, and repeats the reasons; the release view is
  as if the event were not there.

  Attributes:
    reasons: What it is, one phrase each; at least one, none empty.
  """

  reasons: tuple[str, ...]

  def __post_init__(self) -> None:
    object.__setattr__(self, 'reasons', _phrases(self.reasons, 'reasons'))


@dataclasses.dataclass(frozen=True)
class UnaccountedEvent:
  """Something left the round for which nobody can give a finite epsilon.

  Any account that holds one is infinite in both views, and repeats the
  reasons. There is no way to average it away.

  Attributes:
    reasons: Why, one phrase each, such as 'zeroing quantile is exact'; at
      least one, none empty.
  """

  reasons: tuple[str, ...]

  def __post_init__(self) -> None:
    object.__setattr__(self, 'reasons', _phrases(self.reasons, 'reasons'))


@dataclasses.dataclass(frozen=True, order=True)
class Waiver:
  """Something left the round without noise, and somebody answers for it.

  It costs nothing, and is not private: every epsilon of an account that holds
  one lists it, and is true only where it is right to leave that release out.

  Attributes:
    name: What was released, as it would be a reason of an `UnaccountedEvent`.
    by: Who answers for it.
    why: Why it may be left out.
  """

  name: str
  by: str
  why: str

  def __post_init__(self) -> None:
    for field in ('name', 'by', 'why'):
      value: object = getattr(self, field)
      if not isinstance(value, str):
        raise TypeError(
          f'`{field}` must be a string. Found {value!r}. Say what is waived, by'
          ' whom and why.'
        )
      if not value.strip():
        raise ValueError(
          f'`{field}` must not be empty. Found {value!r}. Say what is waived,'
          ' by whom and why.'
        )


Event: TypeAlias = (
  NoisedSumEvent
  | CentralGaussianEvent
  | SeenByServerEvent
  | UnaccountedEvent
  | Waiver
  | external_lib.ExternalEvent
)
EVENT_TYPES = (
  NoisedSumEvent,
  CentralGaussianEvent,
  SeenByServerEvent,
  UnaccountedEvent,
  Waiver,
  external_lib.ExternalEvent,
)
_EVENT_NAMES = ', '.join(kind.__name__ for kind in EVENT_TYPES)


@dataclasses.dataclass(frozen=True)
class Round:
  """All that one round released, and how its cohort was formed.

  Several events of a round are about the same cohort: sampling is not
  independent between them, and the account amplifies them together. The
  vectors of one event must not depend on what another event of the same round
  released; what depends on it belongs to a later round.

  An external event is a round of its own, without sampling: that of its records
  is in it, and no cohort is drawn for it.

  Attributes:
    events: What left the round. Empty if nothing did: that costs nothing.
    sampling: What may be assumed of the cohort. A truncated cohort, and an
      aborted round that released something, is `NoSampling`.
  """

  events: tuple[Event, ...]
  sampling: sampling_lib.Sampling

  def __post_init__(self) -> None:
    given: object = self.events
    if isinstance(given, EVENT_TYPES) or not isinstance(given, Iterable):
      raise TypeError(
        f'`events` must be a tuple of events. Found {given!r}. Put a single '
        'one as `(event,)`.'
      )
    events = tuple(given)
    for event in events:
      if not isinstance(event, EVENT_TYPES):
        raise TypeError(
          f'`events` must hold {_EVENT_NAMES}. Found {event!r}. Record what '
          'cannot be described as an UnaccountedEvent.'
        )
    if not isinstance(self.sampling, sampling_lib.SAMPLING_TYPES):
      raise TypeError(
        '`sampling` must be NoSampling, PoissonSampling, FixedSizeSampling or '
        f'RandomAllocation. Found {self.sampling!r}. Without a claim, give '
        'NoSampling().'
      )
    object.__setattr__(self, 'events', events)
    self._check_external()

  def _check_external(self) -> None:
    if not any(isinstance(e, external_lib.ExternalEvent) for e in self.events):
      return
    alone = sampling_lib.NoSampling()
    if len(self.events) != 1 or self.sampling != alone:
      raise ValueError(
        'An ExternalEvent must be a round of its own, under NoSampling and the'
        f' relation zero-out. Found {len(self.events)} events under'
        f' {self.sampling!r}. Record it as Round((event,), NoSampling()); an'
        ' account under substitution admits none.'
      )

  @property
  def external(self) -> external_lib.ExternalEvent | None:
    """The external event that the round is; `None` for a round."""
    first = self.events[0] if self.events else None
    return first if isinstance(first, external_lib.ExternalEvent) else None
