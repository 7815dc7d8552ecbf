# SPDX-License-Identifier: Apache-2.0
"""The user's choices, checked once, and the numbers of clients they imply."""

from __future__ import annotations

import dataclasses
import math

from scipy import stats

from tff_secagg_ext import _validate

MECHANISMS = ('distributed_dgauss', 'distributed_skellam')
ROTATION_TYPES = ('hd', 'dft')
COHORTS = ('fixed', 'poisson')

MIN_BITS = 2
MAX_BITS = 30

# Where the bounds on a Poisson cohort are not given, a cohort is outside of
# them with at most this probability, on either side.
_POISSON_TAIL = 1e-9


@dataclasses.dataclass(frozen=True)
class AdaptiveClipping:
  """A clip norm that follows a quantile of the clients' norms, privately.

  Attributes:
    initial_norm: The clip norm of the first round, positive, in the units of
      the value.
    target_quantile: The share of clients whose norm shall be at most the clip
      norm, in [0, 1].
    learning_rate: Step in the clip norm's logarithm per unit of the share's
      distance from the target, at least 0.
  """

  initial_norm: float = 0.1
  target_quantile: float = 0.5
  learning_rate: float = 0.2

  def __post_init__(self) -> None:
    _set(self, 'initial_norm', _positive(self.initial_norm, 'initial_norm'))
    quantile = _validate.check_float(
      self.target_quantile, 'target_quantile', minimum=0, maximum=1
    )
    _set(self, 'target_quantile', quantile)
    rate = _validate.check_float(self.learning_rate, 'learning_rate', minimum=0)
    _set(self, 'learning_rate', rate)


@dataclasses.dataclass(frozen=True)
class MechanismSpec:
  """The choices; `aggregators.ddp_secure_aggregator` documents each.

  Raises:
    TypeError: If a value is of the wrong kind.
    ValueError: If a value is out of its range, or two contradict each other.
  """

  noise_multiplier: float
  expected_clients_per_round: int
  bits: int
  zeroing: bool
  rotation_type: str
  mechanism: str
  clipping: AdaptiveClipping | float
  cohorts: str
  max_contributors: int | None
  min_contributors: int | None
  max_colluders: int
  beta: float
  modclip_prob: float
  exact_noise: bool = False

  def __post_init__(self) -> None:
    for name, value in _checked(self).items():
      _set(self, name, value)
    if self.cohorts == 'poisson':
      _fill_poisson_bounds(self)
    _check_numbers_of_clients(self)
    if self.exact_noise:
      _check_exact_noise(self)

  @property
  def adaptive(self) -> bool:
    """Whether the clip norm adapts."""
    return isinstance(self.clipping, AdaptiveClipping)

  @property
  def noise_shares(self) -> int:
    """n: the honest shares that together reach the noise multiplier."""
    sized_for = self.expected_clients_per_round
    if self.min_contributors is not None and not self.exact_noise:
      sized_for = self.min_contributors
    return sized_for - self.max_colluders

  @property
  def max_shares(self) -> int:
    """The contributors, with a share each, that the sum has room for."""
    return self.max_contributors or self.expected_clients_per_round

  @property
  def dropouts(self) -> int:
    """T: after how many dropouts the noise is exact; 0 without layers."""
    if not self.exact_noise or self.min_contributors is None:
      return 0
    return self.expected_clients_per_round - self.min_contributors

  @property
  def most_noise(self) -> float:
    """The most noise that the sum can have, in shares.

    With layers and D dropouts, the n - D contributors leave (n - c)/(n - c - D)
    shares each, of which those of c colluders are too many: it grows in D.
    """
    left = self.expected_clients_per_round - self.dropouts
    each = self.noise_shares / (self.noise_shares - self.dropouts)
    return max(self.max_shares, left * each)


def _checked(spec: MechanismSpec) -> dict[str, object]:
  """The values as plain Python ones, each checked on its own."""
  check_float, check_int = _validate.check_float, _validate.check_int
  noise_multiplier = check_float(
    spec.noise_multiplier, 'noise_multiplier', minimum=0
  )
  clients = check_int(
    spec.expected_clients_per_round, 'expected_clients_per_round', minimum=1
  )
  bits = check_int(spec.bits, 'bits', minimum=MIN_BITS, maximum=MAX_BITS)
  return {
    'noise_multiplier': noise_multiplier,
    'expected_clients_per_round': clients,
    'bits': bits,
    'zeroing': _validate.check_bool(spec.zeroing, 'zeroing'),
    'clipping': _clipping(spec.clipping),
    **_checked_choices(spec),
    'max_contributors': _optional_int(
      spec.max_contributors, 'max_contributors'
    ),
    'min_contributors': _optional_int(
      spec.min_contributors, 'min_contributors'
    ),
    'max_colluders': check_int(spec.max_colluders, 'max_colluders', minimum=0),
    'beta': _below_one(spec.beta, 'beta', minimum=0.0),
    'modclip_prob': check_float(
      spec.modclip_prob, 'modclip_prob', minimum=0, maximum=1, exclusive=True
    ),
    'exact_noise': _validate.check_bool(spec.exact_noise, 'exact_noise'),
  }


def _checked_choices(spec: MechanismSpec) -> dict[str, object]:
  choices = {
    'rotation_type': ROTATION_TYPES,
    'mechanism': MECHANISMS,
    'cohorts': COHORTS,
  }
  return {
    name: _validate.check_choice(getattr(spec, name), name, allowed)
    for name, allowed in choices.items()
  }


def _clipping(value: AdaptiveClipping | float) -> AdaptiveClipping | float:
  if isinstance(value, AdaptiveClipping):
    return value
  return _positive(
    value, 'clipping', 'Give a fixed L2 norm, or an AdaptiveClipping.'
  )


def _fill_poisson_bounds(spec: MechanismSpec) -> None:
  """Bounds that a Poisson cohort keeps but for `_POISSON_TAIL` on either side.

  A cohort of independent clients is no more spread than a Poisson variable of
  the same mean.
  """
  cohort = stats.poisson(spec.expected_clients_per_round)
  if spec.max_contributors is None:
    _set(spec, 'max_contributors', int(cohort.isf(_POISSON_TAIL)))
  if spec.min_contributors is None:
    lowest = int(cohort.ppf(_POISSON_TAIL))
    _set(spec, 'min_contributors', max(1 + spec.max_colluders, lowest))


def _check_numbers_of_clients(spec: MechanismSpec) -> None:
  expected = spec.expected_clients_per_round
  if spec.min_contributors is not None:
    _validate.check_int(
      spec.min_contributors,
      'min_contributors',
      maximum=expected,
      remedy=(
        f'With {expected} clients expected a round, a higher number would'
        ' abort about every round.'
      ),
    )
  if spec.max_contributors is not None:
    _validate.check_int(
      spec.max_contributors,
      'max_contributors',
      minimum=expected,
      remedy=f'{expected} clients are expected a round.',
    )
  if spec.noise_shares < 1:
    sized_for = spec.noise_shares + spec.max_colluders
    raise ValueError(
      f'`max_colluders` must be below the {sized_for} contributors that the'
      f' noise is sized for. Found {spec.max_colluders!r}. Raise'
      ' `min_contributors`, or expect fewer colluders.'
    )


def _check_exact_noise(spec: MechanismSpec) -> None:
  if spec.cohorts != 'fixed':
    raise ValueError(
      "`exact_noise` must be False for cohorts='poisson', whose number the"
      " server hides by noise of its own. Found True. Use cohorts='fixed'."
    )
  least, expected = spec.min_contributors, spec.expected_clients_per_round
  if least is None or not spec.max_colluders < least < expected:
    raise ValueError(
      '`min_contributors` must be above `max_colluders` and below the'
      f' {expected} expected clients with `exact_noise`: the difference is how'
      f' many may drop out. Found {least!r}, with {spec.max_colluders}'
      ' colluders.'
    )


def _optional_int(value: object, name: str) -> int | None:
  return None if value is None else _validate.check_int(value, name, minimum=1)


def _positive(value: object, name: str, remedy: str = '') -> float:
  return _validate.check_float(
    value, name, minimum=0, maximum=math.inf, exclusive=True, remedy=remedy
  )


def _below_one(value: object, name: str, minimum: float) -> float:
  number = _validate.check_float(value, name, minimum=minimum, maximum=1)
  if number == 1:
    raise ValueError(f'`{name}` must be below 1. Found {value!r}.')
  return number


def _set(instance: object, name: str, value: object) -> None:
  """Stores a checked value in a frozen dataclass, from `__post_init__`."""
  object.__setattr__(instance, name, value)
