# SPDX-License-Identifier: Apache-2.0
"""What is audited: an aggregation as plain functions, and what is said of it.

Nothing here knows TensorFlow. Arrays are numpy's; values are in the units of
the aggregated value, messages in integer units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, TypeAlias

Array: TypeAlias = Any
"""A numpy array."""


class Refused(ValueError):
  """A mechanism declines to be built for a setting, and says why."""


@dataclasses.dataclass(frozen=True)
class Setting:
  """For what a subject is built.

  Attributes:
    noise_multiplier: Central standard deviation over sensitivity, as asked for.
    clients: The expected number of contributors.
    bits: The sum is modulo 2^bits.
    dimension: Coordinates of a client's value.
  """

  noise_multiplier: float = 1.0
  clients: int = 20
  bits: int = 20
  dimension: int = 16382


@dataclasses.dataclass(frozen=True)
class Facts:
  """What is stated of a mechanism; None where nothing is.

  Attributes:
    clip_norm: L2 norm that a client's value has at most after clipping, in
      units of the value.
    sensitivity: L2 norm of a client's integers at most, before noise.
    l1_sensitivity: Their L1 norm at most.
    share_stddev: Standard deviation of one client's noise, in integer units.
    unit: Units of the value per integer unit.
    modulus: Of the sum.
    wrap_probability: Probability at most that a coordinate of the sum of the
      expected clients leaves the range.
    hides_cohort: Whether the number of contributors is said to stay hidden
      from who sees the releases.
  """

  clip_norm: float
  sensitivity: float | None = None
  l1_sensitivity: float | None = None
  share_stddev: float | None = None
  unit: float | None = None
  modulus: int | None = None
  wrap_probability: float | None = None
  hides_cohort: bool = False


@dataclasses.dataclass(frozen=True)
class Total:
  """What a round releases.

  Attributes:
    vector: float64[dimension], the noised sum, in units of the value.
    noise_multiplier: Which one the round says that it had.
    measurements: All else that is released, by name.
    aborted: Whether the round says that its result is void.
  """

  vector: Array
  noise_multiplier: float
  measurements: Mapping[str, Any]
  aborted: bool = False


@dataclasses.dataclass(frozen=True)
class Subject:
  """An aggregation in its first round, built for one setting.

  Attributes:
    setting: What it is built for.
    facts: What is stated of it.
    encode: Takes one round's values, float32[dimension] each, to what each
      client sends, int64[D]; None where a client refuses to send. A subject
      whose clients can't be run alone has no `encode`.
    aggregate: Takes one round's values to what is released; None for a
      mechanism that ends at the clients.
    unnoised: The names of what leaves the clients without noise and is not
      public by statement; None if nobody knows.
    replay: Takes a time stamp in microseconds since the epoch, and a count, to
      int64[count, D]: the noise that time-stamped seeds from it on give.
  """

  setting: Setting
  facts: Facts
  encode: Callable[[Sequence[Array]], Sequence[Array | None]] | None = None
  aggregate: Callable[[Sequence[Array]], Total] | None = None
  unnoised: tuple[str, ...] | None = None
  replay: Callable[[int, int], Array] | None = None


Make: TypeAlias = Callable[[Setting], Subject]
"""Builds the subject for a setting; raises `Refused` if it declines to."""
