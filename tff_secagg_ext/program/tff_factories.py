# SPDX-License-Identifier: Apache-2.0
"""TFF's own factories: what their rounds release, in TFF's own numbers.

TFF does not publish the numbers that its factories were made with. All that is
read of their private parts, and of TensorFlow Privacy's queries, is read here.
Classes are known by name; a subclass may do anything, and is another factory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import inspect
import math
from typing import Any, TypeAlias

import numpy as np

from tff_secagg_ext import accounting
from tff_secagg_ext.mechanism import rotation, rounding

# What `DistributedDpSumFactory` caps its scale at, and adds to norm bounds.
MAX_SCALE = 1e6
NORM_LEEWAY = 1e-5
# A client's bit in the sum that tunes a clip norm is +-1/2 [ATMR21].
BIT_SENSITIVITY = 0.5
TIME_STAMPS = 'noise seeds are time stamps'
BIT = 'clip quantile bit'
UPDATES = 'sum of clipped updates'

# The count of contributors, and the other numbers of a distributed round.
COUNT = 'actual_num_clients'
_MEASURED = (
  'l2_clip',
  'scale_factor',
  'scaled_inflated_l2',
  'scaled_local_stddev',
  'padded_dim',
)

Numbers: TypeAlias = Mapping[str, float]


def at(value: Any, *path: str) -> Any:
  """Returns what is at a path of names and positions; `None` if nothing is."""
  for name in path:
    if isinstance(value, Mapping):
      value = value.get(name)
    elif isinstance(value, (tuple, list)) and name.isdigit():
      value = value[int(name)] if int(name) < len(value) else None
    else:
      value = getattr(value, name, None)
  return value


def number(value: Any) -> float:
  """Returns a number, such as a NumPy scalar, as a float; NaN for all else."""
  if isinstance(value, (int, float, np.number)):
    return float(value)
  scalar = isinstance(value, np.ndarray) and value.ndim == 0
  return float(value[()]) if scalar else math.nan


@dataclasses.dataclass(frozen=True)
class Distributed:
  """`DistributedDpSumFactory`: integer vectors, noised by the clients.

  Attributes:
    noise_multiplier: z, over the clip norm, of the noise of
      `expected_clients`; of the vectors alone, without the bit.
    expected_clients: Among how many the noise is split.
    bits: The sum is modulo 2**bits.
    l2_clip: The first clip norm.
    num_stddevs: How many standard deviations of the sum have room.
    beta: Of conditional rounding; 0 takes every rounding.
    mechanism: 'distributed_dgauss' or 'distributed_skellam'.
    rotation_type: 'hd' or 'dft'.
    bit_stddev: Of the server's noise on the bits that tune the clip norm;
      `None` if that does not move.
  """

  noise_multiplier: float
  expected_clients: int
  bits: int
  l2_clip: float
  num_stddevs: float
  beta: float
  mechanism: str
  rotation_type: str
  bit_stddev: float | None

  def padded(self, elements: int) -> int:
    """Returns the coordinates of the summed vector."""
    padded = rotation.ROTATIONS[self.rotation_type].padded
    return padded(max(1, elements))

  def numbers(self, elements: int, clip: float) -> dict[str, float]:
    """Returns what TFF computes for a round, by the names of measurements.

    Scale as in `_heuristic_scale_factor`, [KLS21, Section 4.4]; norm bound as
    in `inflated_l2_norm_bound`, [KLS21, Prop. 22]; noise is sized for the clip
    norm before rounding, not for the norm bound after it.

    Args:
      elements: Of the value that is aggregated.
      clip: The clip norm of the round.
    """
    d = self.padded(elements)
    n, k = self.expected_clients, self.num_stddevs
    local_stddev = clip * self.noise_multiplier / math.sqrt(n)
    room = math.sqrt(4.0**self.bits - n * k**2)
    spread = math.sqrt((clip * n) ** 2 / d + n * local_stddev**2)
    scale = min(room / (2.0 * k * spread), MAX_SCALE)
    inflated = rounding.inflated_norm_squared(clip * scale, d, self.beta)
    found = {
      'l2_clip': clip,
      'scale_factor': scale,
      'scaled_inflated_l2': math.sqrt(inflated) + NORM_LEEWAY * scale,
      'scaled_local_stddev': local_stddev * scale,
      'padded_dim': d,
    }
    if self.bit_stddev is not None:
      found['bit_stddev'] = self.bit_stddev
    return found

  def planned(self, elements: int, state: Any) -> Numbers | None:
    """Returns the numbers of a round that begins in `state`.

    Args:
      elements: Of the value that is aggregated.
      state: Of the mechanism; `None` for the initial one.

    Returns:
      The numbers; `None` if the state cannot be read.
    """
    clip = self.l2_clip
    if state is not None and self.bit_stddev is not None:
      clip = number(at(state, '0', 'clipping_norm', '0', 'current_estimate'))
    return self.numbers(elements, clip) if 0.0 < clip < math.inf else None

  def measured(self, state: Any, measurements: Any) -> dict[str, float]:
    """Returns the numbers of a round, from what it returned."""
    found = {name: number(at(measurements, name)) for name in _MEASURED}
    if self.bit_stddev is not None:
      noise = at(state, '0', 'clipping_norm', '0', 'below_estimate_state')
      found['bit_stddev'] = number(at(noise, 'numerator_state', 'stddev'))
    return {**found, COUNT: number(at(measurements, COUNT))}

  def expected(self, elements: int, measured: Numbers) -> Numbers:
    """Returns what the numbers of a round must be, by its clip norm."""
    clip = measured['l2_clip'] if self.bit_stddev is not None else self.l2_clip
    return self.numbers(elements, clip) if 0.0 < clip < math.inf else {}

  def events(
    self, numbers: Numbers, contributors: int, colluders: int
  ) -> tuple[accounting.Event, ...]:
    """Returns what a round of such numbers releases.

    TensorFlow Privacy draws discrete Gaussians of integer standard deviations
    alone, and rounds up.
    """
    stddev = numbers['scaled_local_stddev']
    if self.mechanism == 'distributed_dgauss':
      stddev = math.ceil(stddev)
    vectors = accounting.NoisedSumEvent(
      mechanism=self.mechanism,
      l2_sensitivity=numbers['scaled_inflated_l2'],
      share_stddev=stddev,
      client_shares=contributors,
      dimension=int(numbers['padded_dim']),
      colluders=colluders,
    )
    if self.bit_stddev is None:
      return (vectors,)
    return vectors, accounting.CentralGaussianEvent(
      BIT_SENSITIVITY, numbers['bit_stddev'], BIT
    )


@dataclasses.dataclass(frozen=True)
class Central:
  """`DifferentiallyPrivateFactory` with a Gaussian query: the server's noise.

  Attributes:
    noise_multiplier: z of the sum of the clipped vectors alone.
    expected_clients: What the sum is divided by, always.
    l2_clip: The first clip norm.
    bit_stddev: As for `Distributed`.
  """

  noise_multiplier: float
  expected_clients: float
  l2_clip: float
  bit_stddev: float | None

  def planned(self, elements: int, state: Any) -> Numbers:
    """Returns the noise of a round, whatever its clip norm is."""
    del elements, state
    found = {'noise_multiplier': self.noise_multiplier}
    if self.bit_stddev is not None:
      found['bit_stddev'] = self.bit_stddev
    return found

  def measured(self, state: Any, measurements: Any) -> dict[str, float]:
    """Returns the noise of a round, as its query's event has it."""
    del measurements
    events = [at(state, 'dp_event')]
    if self.bit_stddev is not None:
      events = [at(events[0], 'events', index) for index in ('0', '1')]
    noises = [number(at(event, 'noise_multiplier')) for event in events]
    found = {'noise_multiplier': noises[0]}
    if self.bit_stddev is not None:
      found['bit_stddev'] = noises[1] * BIT_SENSITIVITY
    return found

  def expected(self, elements: int, measured: Numbers) -> Numbers:
    """Returns what the noise must be."""
    del measured
    return self.planned(elements, None)

  def events(
    self, numbers: Numbers, contributors: int, colluders: int
  ) -> tuple[accounting.Event, ...]:
    """Returns what a round of such noise releases, in units of its clip norm.

    However many contribute: the noise is the server's, and so is the divisor.
    """
    del contributors, colluders
    updates = accounting.CentralGaussianEvent(
      1.0, numbers['noise_multiplier'], UPDATES
    )
    if self.bit_stddev is None:
      return (updates,)
    return updates, accounting.CentralGaussianEvent(
      BIT_SENSITIVITY, numbers['bit_stddev'], BIT
    )


@dataclasses.dataclass(frozen=True)
class Unknown:
  """A mechanism that nobody accounts here.

  Attributes:
    name: What it is.
  """

  name: str

  def planned(self, elements: int, state: Any) -> Numbers:
    """Returns nothing."""
    del elements, state
    return {}

  def measured(self, state: Any, measurements: Any) -> dict[str, float]:
    """Returns nothing."""
    del state, measurements
    return {}

  def expected(self, elements: int, measured: Numbers) -> Numbers:
    """Returns nothing."""
    del elements, measured
    return {}

  def events(
    self, numbers: Numbers, contributors: int, colluders: int
  ) -> tuple[accounting.Event, ...]:
    """Returns nothing: whatever it releases is unaccounted."""
    del numbers, contributors, colluders
    return ()


Mechanism: TypeAlias = Distributed | Central | Unknown


@dataclasses.dataclass(frozen=True)
class Read:
  """A factory, as it was read.

  Attributes:
    noise: What its mechanism is.
    path: Where in the factory's state that of the mechanism is.
  """

  noise: Mechanism
  path: tuple[str, ...]


def read(factory: Any) -> Read:
  """Returns what a factory of TFF does.

  Raises:
    TypeError: If it is none of those that are known.
  """
  path: tuple[str, ...] = ()
  wrapped = factory
  while (unwrap := _WRAPPERS.get(_kind(wrapped))) is not None:
    inside, wrapped = unwrap(wrapped)
    path += inside
  if (of := _MECHANISMS.get(_kind(wrapped))) is None:
    raise TypeError(
      '`factory` must be what tff.learning.ddp_secure_aggregator or'
      ' tff.learning.dp_aggregator returns, a DistributedDpSumFactory or a'
      f' DifferentiallyPrivateFactory. Found {factory!r}. Give a factory of'
      ' this package to PrivacyRecorder, and of others none: nobody knows what'
      ' they release.'
    )
  return Read(of(wrapped), path)


def _kind(value: Any) -> str:
  """The name of a class of TFF, or of TensorFlow Privacy; else ''."""
  cls = type(value)
  package = cls.__module__.partition('.')[0]
  known = package in ('tensorflow_federated', 'tensorflow_privacy')
  return cls.__name__ if known else ''


def _distributed(factory: Any) -> Distributed:
  adaptive = factory._auto_l2_clip
  total, alone = factory._noise_multiplier, factory._value_noise_mult
  return Distributed(
    noise_multiplier=float(alone),
    expected_clients=int(factory._num_clients),
    bits=int(factory._bits),
    l2_clip=float(factory._initial_l2_clip),
    num_stddevs=float(factory._k_stddevs),
    beta=float(factory._beta),
    mechanism=factory._mechanism,
    rotation_type=factory._rotation_type,
    bit_stddev=_bit_stddev(total, alone) if adaptive else None,
  )


def _bit_stddev(total: float, alone: float) -> float:
  """The noise on the bits, of which TFF keeps only what it makes of it.

  `adaptive_clip_noise_params`: alone^-2 = total^-2 - (2 stddev)^-2.
  """
  if total == 0.0:
    return 0.0
  return 0.5 / math.sqrt(total**-2 - alone**-2)


def _central(factory: Any) -> Central | Unknown:
  query, summed = factory._query, factory._record_aggregation_factory
  if _kind(summed) != 'SumFactory':
    return Unknown(f'DifferentiallyPrivateFactory over {type(summed).__name__}')
  if _kind(query) != 'NormalizedQuery':
    return Unknown(type(query).__name__)
  numerator, clients = query._numerator, float(query._denominator)
  if _kind(numerator) == 'GaussianSumQuery':
    clip = float(numerator._l2_norm_clip)
    return Central(float(numerator._stddev) / clip, clients, clip, None)
  if _kind(numerator) == 'QuantileAdaptiveClipSumQuery':
    bits = numerator._quantile_estimator_query._below_estimate_query._numerator
    return Central(
      float(numerator._noise_multiplier),
      clients,
      float(numerator._sum_query._l2_norm_clip),
      float(bits._stddev),
    )
  return Unknown(type(numerator).__name__)


def _robust(factory: Any) -> tuple[tuple[str, ...], Any]:
  """What zeroes or clips keeps the factory within it in a closure."""
  variables = inspect.getclosurevars(type(factory).create).nonlocals
  return ('inner_agg',), variables['inner_agg_factory']


_WRAPPERS: Mapping[str, Callable[[Any], tuple[tuple[str, ...], Any]]] = {
  'UnweightedRobustFactory': _robust,
  'UnweightedMeanFactory': lambda f: (('0',), f._value_sum_factory),
}
_MECHANISMS: Mapping[str, Callable[[Any], Mechanism]] = {
  'DistributedDpSumFactory': _distributed,
  'DifferentiallyPrivateFactory': _central,
}
