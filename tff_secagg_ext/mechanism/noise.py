# SPDX-License-Identifier: Apache-2.0
"""Integer noise with a stated distance from the ideal law, as TensorFlow ops.

Guarantees of every `Sampler`, from a standard deviation of 0.5 to 1e5:

*   One draw is within `tv_bound <= 2^-60` of the ideal law in total variation,
    so a vector of d draws is within d 2^-60.
*   The draws are a function of secret kernel randomness alone (see `random`);
    no random op of TensorFlow takes part.
*   All arithmetic in the graph is on integers: no float rounding, the same
    draws from the same key everywhere.

A draw inverts the distribution function with 16 random bits first, 32 more only
where these do not decide, and a last 63 where those do not either. Hence the
time that sampling takes depends, a little, on how many draws were undecided: a
count over the whole vector, which says next to nothing about single draws. Who
can time a client's sampling to microseconds learns that count.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from fractions import Fraction
import functools
import math

import numpy as np
import tensorflow as tf

from tff_secagg_ext import _tables as tables
from tff_secagg_ext import _validate
from tff_secagg_ext.mechanism import random

MIN_STDDEV = 0.5
MAX_STDDEV = 1e5
# Up to here one table is faster than a sum of two.
_SINGLE_MAX = 3000.0
# v of `_pair`: 4 exp(-2 pi^2 v) < 2^-69.
_OVERLAP = Fraction(5, 2)
# Half-words of keystream at a time: one cache-sized piece of `random`.
_CHUNK = 1 << 19
_HEADS, _MIDDLE, _LOW, _RESIDUAL = range(4)
_INT64_MAX = np.int64(np.iinfo(np.int64).max)


def _int64_words(words: tf.Tensor) -> tf.Tensor:
  """Views `uint32[2 n]` as `int64[n]`, the low word first."""
  return tf.bitcast(tf.reshape(words, [-1, 2]), tf.int64)


def _replace(
  values: tf.Tensor,
  where: tf.Tensor,
  others: Callable[[], tf.Tensor],
) -> tf.Tensor:
  """Puts `others()` in the places `where`, if there are any."""
  return tf.cond(
    tf.size(where) > 0,
    lambda: tf.tensor_scatter_nd_update(values, where, others()),
    lambda: values,
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
  """Draws integers of one law. Made by `discrete_gaussian` or `skellam`.

  Attributes:
    stddev: Standard deviation of the ideal law.
    tv_bound: Total variation distance of one draw from the ideal law.
    table: The laws X_r that are drawn.
    factors: The draw is the sum of factors[r] * X_r.
    centre: The same sum for the positions, in the table, of X_r = 0.
    residual: If there is one, it replaces the draw where X_0 is past its end.
  """

  stddev: float
  tv_bound: float
  table: tables.Table
  factors: tuple[int, ...]
  centre: int
  residual: tables.Residual | None = None

  def sample(self, stream: random.Stream, size: int) -> tf.Tensor:
    """Returns `int32[size]`, independent draws.

    Args:
      stream: Where the randomness comes from. It serves one call.
      size: At least 0. More than 2^19 draws are made in a loop, so that hardly
        more memory is taken than that of the result.
    """
    size = _validate.check_int(size, 'size', minimum=0, maximum=2**31 - 1)
    chunks = max(1, -(-size * len(self.factors) // _CHUNK))
    length = -(-size // chunks)
    if chunks == 1:
      return self._chunk(stream, length, tf.constant(0))
    draws = tf.map_fn(
      lambda index: self._chunk(stream, length, index),
      tf.range(chunks),
      parallel_iterations=1,
      fn_output_signature=tf.TensorSpec([length], tf.int32),
    )
    return tf.reshape(draws, [-1])[:size]

  def _chunk(
    self, stream: random.Stream, length: int, index: tf.Tensor
  ) -> tf.Tensor:
    laws = len(self.factors)
    words = stream.words((laws * length + 1) // 2, index, _HEADS)
    heads = tf.reshape(tf.bitcast(words, tf.uint16), [-1])[: laws * length]
    positions = self._positions(stream, index, heads)
    draws = tf.add_n(
      [
        tf.constant(factor) * positions[r]
        for r, factor in enumerate(self.factors)
      ]
    )
    return self._correct(stream, index, draws - self.centre, positions[0])

  def _positions(
    self, stream: random.Stream, index: tf.Tensor, heads: tf.Tensor
  ) -> tf.Tensor:
    """Returns `int32[laws, n]`, decided by `heads`, `uint16[laws * n]`.

    Where they do not decide, more bits do.
    """
    laws = len(self.factors)
    heads = tf.reshape(tf.cast(heads, tf.int32), [laws, -1])
    heads += tf.range(laws)[:, tf.newaxis] * (1 << tables.HEAD_BITS)
    heads = tf.reshape(heads, [-1])
    positions = tf.cast(tf.gather(self.table.guide, heads), tf.int32)
    undecided = tf.where(tf.equal(positions, tables.UNDECIDED))

    def decide() -> tf.Tensor:
      middle = stream.words(tf.size(undecided), index, _MIDDLE)
      high = tf.cast(tf.gather_nd(heads, undecided), tf.int64)
      high = high * (1 << tables.MIDDLE_BITS) + tf.cast(middle, tf.int64)
      return self._search(stream, index, high)

    positions = _replace(positions, undecided, decide)
    return tf.reshape(positions, [laws, -1])

  def _search(
    self, stream: random.Stream, index: tf.Tensor, high: tf.Tensor
  ) -> tf.Tensor:
    """Returns positions, `int32[n]`, for the first bits `high`, `int64[n]`.

    `high` is as `Table` has it. Where it is that of a threshold, the last bits
    decide.
    """
    thresholds = tf.constant(self.table.high)
    found = tf.searchsorted(thresholds, high)
    nearest = tf.minimum(found, self.table.high.size - 1)
    tied = tf.where(tf.equal(tf.gather(thresholds, nearest), high))

    def decide() -> tf.Tensor:
      words = stream.words(2 * tf.size(tied), index, _LOW)
      low = tf.bitwise.bitwise_and(_int64_words(words), _INT64_MAX)
      same = tf.equal(tf.gather_nd(high, tied)[:, tf.newaxis], thresholds)
      passed = same & (low[:, tf.newaxis] >= self.table.low)
      return tf.gather_nd(found, tied) + tf.math.count_nonzero(
        passed, axis=1, dtype=tf.int32
      )

    return _replace(found, tied, decide)

  def _correct(
    self,
    stream: random.Stream,
    index: tf.Tensor,
    draws: tf.Tensor,
    positions: tf.Tensor,
  ) -> tf.Tensor:
    """Replaces the draws where X_0 has its last outcome, by the residual."""
    if self.residual is None:
      return draws
    rare = tf.where(tf.equal(positions, self.table.starts[1]))
    thresholds = self.residual.thresholds

    def draw() -> tf.Tensor:
      u = _int64_words(stream.words(2 * tf.size(rare), index, _RESIDUAL))
      magnitude = tf.bitwise.bitwise_and(u, _INT64_MAX)
      size = tf.searchsorted(thresholds, magnitude, side='right')
      return tf.where(u < 0, -size, size)

    return _replace(draws, rare, draw)


def _pair(variance: Fraction) -> tuple[int, Fraction, Fraction]:
  """Returns m, s1^2, s2^2 such that X1 + m X2 is close to N_Z(0, variance).

  X1 ~ N_Z(0, s1^2) and X2 ~ N_Z(0, s2^2) are independent, and
  s1^2 + m^2 s2^2 = variance exactly. Completing the square,
  P(X1 + m X2 = x) = C exp(-x^2 / (2 variance)) sum_j exp(-(j - a)^2 / (2 v)),
  with j over the integers, some offset a that depends on x, and
  v = s1^2 s2^2 / variance. By Poisson summation that sum is sqrt(2 pi v) times
  a factor in [1 - e, 1 + e], e = 2 sum_{i>=1} exp(-2 pi^2 v i^2). Normalising
  both, the ratio of the two laws is at least (1-e)/(1+e) >= 1 - 2e everywhere,
  so their TV distance is at most 2e. Here v = 5/2 up to float rounding, and
  2e < 2^-69.

  Both s1 and s2 are about sqrt(sqrt(v variance)), so both tables are small.
  """
  v = float(_OVERLAP)
  sigma2 = float(variance)
  m = math.floor(sigma2**0.25 / v**0.25 * 0.9)
  root = math.sqrt(sigma2 * sigma2 - 4 * m * m * v * sigma2)
  second = Fraction((sigma2 + root) / (2 * m * m))
  return m, variance - m * m * second, second


def _check_stddev(stddev: float) -> float:
  return _validate.check_float(
    stddev,
    'stddev',
    minimum=MIN_STDDEV,
    maximum=MAX_STDDEV,
    remedy='It is in integer units: change the scale, or the bits.',
  )


def _single(stddev: float, weights: tables.Weights) -> Sampler:
  table = tables.lay_out([weights.both_sides])
  bound = weights.tv_bound + table.tv_bound
  return Sampler(stddev, bound, table, (1,), weights.last)


def _sum_of_two(
  stddev: float, variance: Fraction, rest: tables.Residual | None
) -> Sampler:
  """Samples X1 + m X2 of `_pair`; X1 gives way to `rest` at its odds."""
  m, first, second = _pair(variance)
  near = tables.discrete_gaussian_weights(first)
  far = tables.discrete_gaussian_weights(second)
  law = near.both_sides
  if rest is not None:
    law.append(near.total * rest.odds >> tables.UNIT_BITS)
  table = tables.lay_out([law, far.both_sides])
  overlap = 4 * math.exp(-2 * math.pi**2 * float(first * second / variance))
  bounds = [near.tv_bound, far.tv_bound, table.tv_bound, 1.01 * overlap]
  centre = near.last + m * (table.starts[1] + far.last)
  return Sampler(stddev, math.fsum(bounds), table, (1, m), centre, rest)


@functools.lru_cache(maxsize=16)
def discrete_gaussian(stddev: float) -> Sampler:
  """Returns a sampler of the discrete Gaussian N_Z(0, stddev^2) of [CKS20].

  Up to a `stddev` of 3000 it is one table, above that a sum: see `_pair`.

  Args:
    stddev: The parameter sigma, in integer units, from 0.5 to 1e5. It is taken
      as the exact value of the float.

  Raises:
    TypeError: If `stddev` is not a real number.
    ValueError: If it is outside the range.
  """
  stddev = _check_stddev(stddev)
  variance = Fraction(stddev) ** 2
  if stddev <= _SINGLE_MAX:
    return _single(stddev, tables.discrete_gaussian_weights(variance))
  return _sum_of_two(stddev, variance, None)


@functools.lru_cache(maxsize=16)
def skellam(stddev: float) -> Sampler:
  """Returns a sampler of the Skellam law of variance stddev^2 [AKL21].

  That is the difference of two Poisson draws of mean stddev^2 / 2 each. Up to a
  `stddev` of 3000 it is one table. Above, the law is so close to the discrete
  Gaussian q that (1-d) q + d r writes it exactly, with d about
  1 / (4 stddev^2): the draw is a discrete Gaussian's, and one of r at
  probability d.

  Args:
    stddev: The standard deviation, in integer units, from 0.5 to 1e5. It is
      taken as the exact value of the float.

  Raises:
    TypeError: If `stddev` is not a real number.
    ValueError: If it is outside the range.
  """
  stddev = _check_stddev(stddev)
  variance = Fraction(stddev) ** 2
  weights = tables.skellam_weights(variance)
  if stddev <= _SINGLE_MAX:
    return _single(stddev, weights)
  similar = tables.discrete_gaussian_weights(variance)
  rest = tables.residual(weights, similar)
  sampler = _sum_of_two(stddev, variance, rest)
  bounds = [sampler.tv_bound, weights.tv_bound, similar.tv_bound, rest.tv_bound]
  return dataclasses.replace(sampler, tv_bound=math.fsum(bounds))
