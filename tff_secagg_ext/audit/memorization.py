# SPDX-License-Identifier: Apache-2.0
"""Secrets that are planted in clients' texts, and what a model has kept.

A secret is a random sequence behind a random prefix that nobody else has
[TRMB20, arXiv 2006.07490; CLEKS19, arXiv 1802.08232]. Some clients hold it, and
the model is asked to go on from the prefix. Models that were trained alike but
for their privacy are compared by what they kept. docs/audit.md, section 6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import math
import secrets as kernel
from typing import Any

import numpy as np
from scipy import stats

from tff_secagg_ext import _validate
from tff_secagg_ext.audit import checks, exposure

UNSEEN_EXPOSURE = 1.0 / math.log(2.0)
"""Mean exposure of what was not trained on, in bits, with many references."""
GUESSES = 5
"""A secret is extracted if it is one of so many that beam search gives."""

_REFERENCES = 2**14 - 1
_BEAM_WIDTH = 64
_RESAMPLES = 4000


@dataclasses.dataclass(frozen=True)
class Secrets:
  """Sequences that only their holders have.

  Guarantees:
    - all tokens are independent and uniform (within 2^-50), from the kernel's
      randomness: nothing that was not told of a secret depends on it.

  Attributes:
    prefixes: int64[secrets, any], what comes before each.
    sequences: int64[secrets, length], what is to be kept.
    tokens: Of which they are made.
  """

  prefixes: exposure.IntArray
  sequences: exposure.IntArray
  tokens: tuple[int, ...]

  @classmethod
  def draw(
    cls, count: int, tokens: Sequence[int], prefix_length: int, length: int
  ) -> Secrets:
    """Returns new ones.

    Args:
      count: How many, at least 1.
      tokens: Of which they are made, at least 2, distinct.
      prefix_length: Tokens that come before, at least 0.
      length: Tokens of each, at least 1.

    Raises:
      TypeError: If a number is no integer.
      ValueError: If an argument is out of its range.
    """
    _validate.check_int(count, 'count', minimum=1)
    _validate.check_int(prefix_length, 'prefix_length', minimum=0)
    _validate.check_int(length, 'length', minimum=1)
    distinct = tuple(dict.fromkeys(int(token) for token in tokens))
    if len(distinct) < 2 or len(distinct) != len(tokens):
      raise ValueError(
        '`tokens` must be distinct, and two at least. Found'
        f' {list(tokens)}. Secrets of fewer are none.'
      )
    return cls(
      _drawn(distinct, (count, prefix_length)),
      _drawn(distinct, (count, length)),
      distinct,
    )

  @property
  def texts(self) -> exposure.IntArray:
    """What their holders have, int64[secrets, prefix and length]."""
    return np.hstack([self.prefixes, self.sequences])


@dataclasses.dataclass(frozen=True)
class Memory:
  """What a model has kept of secrets.

  Attributes:
    exposures: [secrets] bits, by rank among references of the same prefix.
    extrapolated: [secrets] bits, by the fitted skew normal law.
    extracted: bool[secrets], whether it is one of the `GUESSES` likeliest that
      beam search finds behind the prefix.
  """

  exposures: checks.FloatArray
  extrapolated: checks.FloatArray
  extracted: checks.BoolArray


def recall(
  model: exposure.NextLogProbabilities,
  secrets: Secrets,
  references: int = _REFERENCES,
) -> Memory:
  """Returns what a model has kept of each secret.

  Guarantees, for a secret that the model does not depend on:
    - its exposure is x or more with probability at most 2^-x, independent of
      those of others;
    - it is extracted with probability at most GUESSES / tokens^length.

  Args:
    model: Gives the log-probabilities of the next token.
    secrets: What to ask for.
    references: How many sequences each is compared with, at least 100. They are
      drawn anew for each: exposures by rank end at log2(references + 1).

  Raises:
    ValueError: If the model returns what are no log-probabilities, NaN for
      instance, or there are too few references.
  """
  length = secrets.sequences.shape[1]
  ranked, fitted, found = [], [], []
  for prefix, sequence in zip(secrets.prefixes, secrets.sequences, strict=True):
    others = _drawn(secrets.tokens, (references, length))
    costs = exposure.log_perplexities(
      model, prefix, np.concatenate([sequence[None], others])
    )
    ranked.append(exposure.by_rank(costs[:1], costs[1:])[0])
    fitted.append(exposure.by_skew_normal(costs[:1], costs[1:])[0])
    guesses = exposure.extract(
      model, prefix, length, secrets.tokens, _BEAM_WIDTH
    ).sequences[:GUESSES]
    found.append(bool((guesses == sequence).all(axis=1).any()))
  return Memory(np.asarray(ranked), np.asarray(fitted), np.asarray(found))


def assign(population: int, holders: Sequence[int]) -> tuple[int, ...]:
  """Returns which secret each client holds, -1 for none.

  Holders are a uniformly random subset, and hold one secret each.

  Args:
    population: How many clients there are.
    holders: How many clients hold each secret, at least 0.

  Raises:
    ValueError: If they are more than there are.
  """
  needed = sum(holders)
  if needed > population:
    raise ValueError(
      f'Holders of secrets must be at most the {population} clients. Found'
      f' {needed}. Plant fewer canaries, or in fewer clients.'
    )
  owned = [-1] * population
  owners = [i for i, count in enumerate(holders) for _ in range(count)]
  chosen = kernel.SystemRandom().sample(range(population), needed)
  for client, owner in zip(chosen, owners, strict=True):
    owned[client] = owner
  return tuple(owned)


@dataclasses.dataclass(frozen=True)
class Interval:
  """A figure with a bootstrapped interval of 95 %, lower <= upper."""

  value: float
  lower: float
  upper: float


def mean(exposures: checks.ArrayLike) -> Interval:
  """Returns the mean exposure over repeats, levels and secrets.

  Args:
    exposures: [repeats, levels, secrets], in bits.

  Raises:
    ValueError: If the shape is another one, or a value is not finite.
  """
  found = checks.check_array(exposures, 'exposures', (None, None, None))
  return _interval(lambda sample: sample(found), found.shape)


def reduction(without: checks.ArrayLike, private: checks.ArrayLike) -> Interval:
  """Returns the mean exposure of one training over that of another.

  Secrets that are not kept at all have a mean of `UNSEEN_EXPOSURE`, not 0: the
  ratio stays below mean(without) / 1.44, however private the other is.

  Args:
    without: [repeats, levels, secrets] bits, of the training to compare with.
    private: The same secrets, of the other one.

  Raises:
    ValueError: If shapes differ, a value is not finite, or the private mean is
      0, of which there is no ratio.
  """
  of = checks.check_array(without, 'without', (None, None, None))
  by = checks.check_array(private, 'private', of.shape)
  if not by.any():
    raise ValueError(
      '`private` must have an exposure above 0. Found none: there is no ratio.'
      ' Plant more canaries.'
    )

  def ratio(sample: Sample) -> checks.FloatArray:
    numerator, denominator = np.asarray(sample(of)), np.asarray(sample(by))
    found = np.full(denominator.shape, math.inf)
    np.divide(numerator, denominator, out=found, where=denominator > 0)
    return found

  return _interval(ratio, of.shape)


def kept_nothing(exposures: checks.ArrayLike) -> float:
  """Returns a p-value: exposures so large, of secrets that nobody held.

  Guarantees:
    - of a model that does not depend on the secrets, or of several, it is p or
      less with probability at most p.

  By Fisher's sum of logarithms: each ln(2) exposure is at most an exponential
  variable, in stochastic order, and they are independent given the models.

  Args:
    exposures: [any] bits, by rank, as `recall` returns them.
  """
  found = checks.check_array(exposures, 'exposures', (None,))
  total = math.log(2.0) * float(found.sum())
  return float(stats.gamma.sf(total, found.size))


Sample = Callable[[checks.FloatArray], Any]


def _interval(
  figure: Callable[[Sample], Any], shape: tuple[int, ...]
) -> Interval:
  """Bootstraps in two stages: repeats, and the secrets of each level in them.

  What is sampled twice has the same indices: pairs stay pairs.
  """
  repeats, levels, count = shape
  rows = _below(repeats, (_RESAMPLES, repeats, 1, 1))
  columns = np.arange(levels)[None, None, :, None]
  members = _below(count, (_RESAMPLES, repeats, levels, count))
  samples = figure(lambda of: of[rows, columns, members].mean(axis=(1, 2, 3)))
  lower, upper = np.quantile(samples, [0.025, 0.975])
  return Interval(
    float(figure(lambda of: of.mean())), float(lower), float(upper)
  )


def _drawn(tokens: Sequence[int], shape: tuple[int, ...]) -> exposure.IntArray:
  return np.asarray(tokens, np.int64)[_below(len(tokens), shape)]


def _below(limit: int, shape: tuple[int, ...]) -> exposure.IntArray:
  """Uniform integers below a limit, within limit / 2^64."""
  words = kernel.token_bytes(8 * math.prod(shape))
  drawn = np.frombuffer(words, np.uint64) % np.uint64(limit)
  return drawn.astype(np.int64).reshape(shape)
