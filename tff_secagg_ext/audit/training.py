# SPDX-License-Identifier: Apache-2.0
"""Canaries that ride in a training: fresh directions in every round.

A canary of a training is a client that takes part in all of it. In each attempt
at a round it sends a new direction, which nothing before depended on. So what
the other clients send, though they train on models that have earlier canaries
in them, does not depend on the canaries of their own round, and the lower bound
of one round holds for all of them together: docs/audit.md, section 3, Theorem
3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import hashlib
import math

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from tff_secagg_ext import _validate
from tff_secagg_ext.audit import canaries as canaries_lib
from tff_secagg_ext.audit import checks, one_shot, two_gaussians

_KEY_BYTES = 32
_LABEL = b'tff-secagg-ext training canaries 1 '


@dataclasses.dataclass(frozen=True)
class TrainingCanaries:
  """The canaries of a training, derived from one key.

  Guarantees:
    - the directions of an attempt, those of any other, and the coins are
      independent (as outputs of SHAKE-256 under a secret key);
    - a canary whose coin says no takes its place with a zero vector: how many
      take part tells nothing of coins.

  Attributes:
    key: 32 bytes, secret for as long as the run lasts.
    always: How many canaries send a direction in every round, at least 0.
    coins: How many more do so if their own fair coin says so, at least 0.
    dimension: Coordinates of the flattened update; each of both is below it.

  Raises:
    TypeError: If an attribute has another type.
    ValueError: If one is outside of its range, or there are no canaries.
  """

  key: bytes
  always: int
  coins: int
  dimension: int

  def __post_init__(self) -> None:
    if not isinstance(self.key, bytes) or len(self.key) != _KEY_BYTES:
      raise ValueError(f'`key` must be {_KEY_BYTES} bytes. Found other ones.')
    _validate.check_int(self.dimension, 'dimension', minimum=2)
    for name in ('always', 'coins'):
      _validate.check_int(
        getattr(self, name),
        name,
        minimum=0,
        maximum=self.dimension - 1,
        remedy='Take fewer canaries than the update has coordinates.',
      )
    if not self.always + self.coins:
      raise ValueError('There must be canaries. Found none. Ask for some.')

  @property
  def included(self) -> checks.BoolArray:
    """The coins, [coins]: True for canaries that send their directions."""
    drawn = np.frombuffer(self._derived('coins', self.coins), np.uint8)
    return np.asarray(drawn % 2 == 1)

  def sent(self, attempt: str) -> Iterator[npt.NDArray[np.float64]]:
    """Yields what the canaries send in an attempt: unit vectors or zero.

    Args:
      attempt: Its name, another one for each attempt at a round.
    """
    always, flipped = self.of_attempt(attempt)
    if always is not None:
      yield from always.directions(range(self.always))
    if flipped is not None:
      included = self.included
      members = np.flatnonzero(included).tolist()
      directions = flipped.directions(members)
      for takes_part in included:
        yield next(directions) if takes_part else np.zeros(self.dimension)

  def of_attempt(
    self, attempt: str
  ) -> tuple[canaries_lib.Canaries | None, canaries_lib.Canaries | None]:
    """Returns the canaries that are always there, and those of the coins."""
    always = flipped = None
    if self.always:
      seed = self._derived(f'always {attempt}', _KEY_BYTES)
      always = canaries_lib.Canaries(seed, self.always, self.dimension)
    if self.coins:
      seed = self._derived(f'flipped {attempt}', _KEY_BYTES)
      flipped = canaries_lib.Canaries(seed, self.coins, self.dimension)
    return always, flipped

  def observe(
    self,
    attempt: str,
    release: checks.ArrayLike,
    earlier: checks.ArrayLike | None = None,
  ) -> Observation:
    """Returns what a round that was released tells of its canaries.

    Args:
      attempt: Which attempt it was.
      release: [dimension], the update of the model; its scale does not matter.
      earlier: [dimension], an update that was released before. What the release
        has along it, such as the server's momentum, is taken off.

    Raises:
      TypeError: If these are not real numbers.
      ValueError: If they have another shape, are not finite, or nothing is left
        of the release.
    """
    shape = (self.dimension,)
    vectors = checks.check_array(release, 'release', shape)[None]
    if earlier is not None:
      before = checks.check_array(earlier, 'earlier', shape)
      before = before / np.linalg.norm(before)
      rest = vectors[0] - (vectors[0] @ before) * before
      vectors = np.stack([rest, before])
    always, flipped = self.of_attempt(attempt)
    statistic = scores = None
    if always is not None:
      statistic = RoundStatistic.of(always.cosines(vectors))
    if flipped is not None:
      scores = flipped.cosines(vectors[:1]).values[0]
    return Observation(statistic, scores)

  def _derived(self, what: str, size: int) -> bytes:
    return hashlib.shake_256(_LABEL + self.key + what.encode()).digest(size)


@dataclasses.dataclass(frozen=True)
class RoundStatistic:
  """What one round says about its noise.

  Attributes:
    value: Student's t of the canaries' sum and the release. Its law is
      noncentral, with a noncentrality of at most `sum_norm` times the ratio of
      a canary's norm and the noise's standard deviation; or the value is
      stochastically smaller.
    degrees: Of freedom, at least 1.
    sum_norm: The norm of the canaries' sum, positive.
  """

  value: float
  degrees: int
  sum_norm: float

  def __post_init__(self) -> None:
    _validate.check_float(self.value, 'value')
    _validate.check_int(self.degrees, 'degrees', minimum=1)
    _validate.check_float(
      self.sum_norm, 'sum_norm', minimum=0.0, exclusive=True
    )

  @classmethod
  def of(cls, cosines: canaries_lib.Cosines) -> RoundStatistic:
    """From cosines with a release and, in a second row, with an earlier one.

    The release must be orthogonal to the earlier one.

    Raises:
      ValueError: If there is nothing but canaries in the release.
    """
    rows = cosines.values.sum(axis=1) / cosines.sum_norm
    # Of the direction b, what is orthogonal to the earlier release.
    part = math.sqrt(max(0.0, 1.0 - float(rows[1:] @ rows[1:])))
    degrees = cosines.dimension - len(rows)
    value = one_shot.student(float(rows[0]) / part, degrees)
    return cls(value, degrees, cosines.sum_norm)


@dataclasses.dataclass(frozen=True)
class Observation:
  """What a round tells: of the canaries in all rounds, and of the coins'.

  Attributes:
    statistic: `None` without canaries that are in all rounds.
    scores: Cosines of the coins' canaries, [coins]; `None` without any.
  """

  statistic: RoundStatistic | None
  scores: checks.FloatArray | None


@dataclasses.dataclass(frozen=True)
class Composed:
  """What the canaries of a training say about the epsilon of its rounds.

  Attributes:
    known: The estimate, in nats; see `one_shot.Estimate`.
    lower_bound: Above the epsilon of the noise with probability at most
      1 - `confidence`, never above `known`.
    rounds: How many rounds are composed.
    delta: For which both are.
    confidence: Of the lower bound.
  """

  known: float
  lower_bound: float
  rounds: int
  delta: float
  confidence: float


def compose(
  statistics: Sequence[RoundStatistic], delta: float, confidence: float = 0.95
) -> Composed:
  """Returns estimate and lower bound for all rounds together.

  Guarantees, where the ratio of a canary's norm and the noise's standard
  deviation is at most the same in all rounds, and the canaries of a round do
  not depend on what came before, nor on what others send in it:
    - `lower_bound` is above the epsilon of so many rounds of Gaussian noise,
      composed, with probability at most 1 - `confidence`, whatever others send.

  Args:
    statistics: Of the rounds, at least one.
    delta: In (0, 1).
    confidence: In [0.5, 1).

  Raises:
    ValueError: If there is no round, or a number is outside of its range.
  """
  two_gaussians.check_positive_delta(delta)
  if _validate.check_float(confidence, 'confidence', minimum=0.5) >= 1.0:
    raise ValueError(f'`confidence` must be below 1. Found {confidence!r}.')
  if not statistics:
    raise ValueError(
      'There must be a round that was audited. Found none. Train with'
      ' canaries, until a round is released.'
    )
  rounds = len(statistics)
  ratios = [each.value / each.sum_norm for each in statistics]
  least = _least_ratio(statistics, 1.0 - confidence)
  known, bound = (
    two_gaussians.epsilon(max(0.0, ratio) * math.sqrt(rounds), 1.0, delta)
    for ratio in (sum(ratios) / rounds, least)
  )
  return Composed(known, bound, rounds, delta, confidence)


def _least_ratio(statistics: Sequence[RoundStatistic], level: float) -> float:
  """The least ratio at which the rounds are no larger than `level` allows.

  Normal scores of the rounds' p-values are independent and standard normal, or
  smaller; so is their sum over the square root of their number.
  """
  limit = float(special.ndtri(1.0 - level)) * math.sqrt(len(statistics))
  degrees = {each.degrees for each in statistics}
  alike = [[s for s in statistics if s.degrees == each] for each in degrees]
  rows = [
    (
      np.asarray([each.value for each in group]),
      np.asarray([each.sum_norm for each in group]),
      group[0].degrees,
    )
    for group in alike
  ]

  def excess(ratio: float) -> float:
    scores = [
      one_shot.normal_scores(values, ratio * norms, degrees).sum()
      for values, norms, degrees in rows
    ]
    return float(sum(scores)) - limit

  if excess(0.0) <= 0.0:
    return 0.0
  high = max(
    float(np.max(one_shot.median_noncentralities(values, degrees) / norms))
    for values, norms, degrees in rows
  )
  return float(optimize.brentq(excess, 0.0, high))
