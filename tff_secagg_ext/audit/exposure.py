# SPDX-License-Identifier: Apache-2.0
"""Secrets that a language model remembers: exposure and extraction.

Random sequences, *canaries*, are put into the training data. How much likelier
than other random sequences does the model find them? [CLEKS19, arXiv
1802.08232]. docs/audit.md, section 6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from tff_secagg_ext import _validate
from tff_secagg_ext.audit import checks

IntArray: TypeAlias = npt.NDArray[np.int64]
# [prefixes, tokens] int64 -> [prefixes, vocabulary], logarithms in nats.
NextLogProbabilities: TypeAlias = Callable[[IntArray], checks.ArrayLike]

_LEAST_REFERENCES = 100
# How far the probabilities of float32 models may be from summing to 1.
_TOLERANCE = 1e-3
_NODES = 8000


def by_rank(
  canaries: checks.ArrayLike, references: checks.ArrayLike
) -> checks.FloatArray:
  """Returns exposures in bits, log2(references + 1) - log2(rank).

  Guarantees:
    - a canary that was not in the training data, drawn as the references were,
      has an exposure of x or more with probability at most 2^-x;
    - ties count against the canary.

  Args:
    canaries: [any] log-perplexities of canaries.
    references: [any] those of sequences that were drawn alike and left out.
  """
  found = checks.check_array(canaries, 'canaries', (None,))
  others = np.sort(checks.check_array(references, 'references', (None,)))
  ranks = 1.0 + np.searchsorted(others, found, side='right')
  return np.asarray(np.log2(1.0 + others.size) - np.log2(ranks))


@dataclasses.dataclass(frozen=True)
class SkewNormal:
  """The law of location + scale U, U with the density 2 phi(u) Phi(shape u)."""

  shape: float
  location: float
  scale: float

  @classmethod
  def fit(cls, references: checks.ArrayLike) -> SkewNormal:
    """Returns the likeliest one, sought from the one of equal moments.

    Args:
      references: [at least 100] log-perplexities.

    Raises:
      ValueError: If there are too few, they are not finite, or all equal.
    """
    values = checks.check_array(references, 'references', (None,))
    if values.size < _LEAST_REFERENCES:
      raise ValueError(
        f'`references` must be at least {_LEAST_REFERENCES} for a fit. Found '
        f'{values.size}. Draw more, or use `by_rank`.'
      )
    centre, spread = float(values.mean()), float(values.std())
    if spread == 0.0:
      raise ValueError(
        '`references` must differ. Found one value alone. A model that finds '
        'all sequences equally likely exposes none; use `by_rank`.'
      )
    scaled = (values - centre) / spread
    first = _of_moments(scaled)
    shape, location, scale = stats.skewnorm.fit(
      scaled, first[0], loc=first[1], scale=first[2]
    )
    return cls(
      float(shape), centre + spread * float(location), spread * float(scale)
    )

  def log_cdf(self, value: float) -> float:
    """Returns ln P(X <= value), in the far left tail too."""
    z = (value - self.location) / self.scale
    if z > 0.0:
      lower = special.ndtr(z) - 2.0 * special.owens_t(z, self.shape)
      return math.log(min(1.0, float(lower)))
    # The density at z - v, for v from e^-40 to where e^(-v^2 / 2) is e^-50.
    steps = np.linspace(-40.0, math.log(10.0), _NODES)
    u = z - np.exp(steps)
    logs = steps - u**2 / 2.0 + special.log_ndtr(self.shape * u)
    factor = 2.0 * (steps[1] - steps[0]) / math.sqrt(2.0 * math.pi)
    return float(special.logsumexp(logs)) + math.log(factor)


def by_skew_normal(
  canaries: checks.ArrayLike, references: checks.ArrayLike
) -> checks.FloatArray:
  """Returns exposures in bits, -log2 of the fitted law up to the canary.

  It goes beyond the number of references, where `by_rank` stops, and is as good
  as the fit is.

  Args:
    canaries: [any] log-perplexities of canaries.
    references: [at least 100] those of sequences that were drawn alike and left
      out.

  Raises:
    ValueError: If there are too few references, or values are not finite.
  """
  found = checks.check_array(canaries, 'canaries', (None,))
  law = SkewNormal.fit(references)
  return np.asarray([-law.log_cdf(value) / math.log(2.0) for value in found])


def log_perplexities(
  model: NextLogProbabilities, prefix: Sequence[int], sequences: IntArray
) -> checks.FloatArray:
  """Returns -ln P(sequence | prefix) in nats, [sequences].

  Args:
    model: Gives the log-probabilities of the next token.
    prefix: Tokens before the sequence, such as 'my number is'; may be empty.
    sequences: [any, length] tokens.

  Raises:
    TypeError: If sequences are not integers.
    ValueError: If shapes do not fit, a token is not in the vocabulary, or the
      model returns what are no log-probabilities.
  """
  tokens = np.asarray(sequences)
  if tokens.dtype.kind not in 'iu':
    raise TypeError(
      f'`sequences` must be an array of integers. Found {tokens.dtype}.'
    )
  if tokens.ndim != 2 or not tokens.size:
    raise ValueError(
      '`sequences` must have the shape [any, any]. Found '
      f'{list(tokens.shape)}. Give equally long ones together.'
    )
  whole = _behind(prefix, tokens.astype(np.int64))
  total = np.zeros(len(tokens))
  for end in range(len(prefix), whole.shape[1]):
    logs = _next(model, whole[:, :end])
    _check_tokens(whole[:, end], logs.shape[1], 'sequences')
    total -= logs[np.arange(len(whole)), whole[:, end]]
  return total


@dataclasses.dataclass(frozen=True)
class Extracted:
  """What beam search found, the likeliest first.

  Attributes:
    sequences: [found, length] tokens.
    log_perplexities: [found], in nats, ascending.
  """

  sequences: IntArray
  log_perplexities: checks.FloatArray


def extract(
  model: NextLogProbabilities,
  prefix: Sequence[int],
  length: int,
  tokens: Sequence[int],
  beam_width: int,
) -> Extracted:
  """Returns the likeliest sequences after a prefix, by beam search.

  Guarantees:
    - perplexities are those of `log_perplexities`;
    - the first is the likeliest of all if `beam_width` is at least
      len(tokens)^(length - 1); narrower beams may miss it.

  Args:
    model: Gives the log-probabilities of the next token.
    prefix: Tokens before the sequence; may be empty.
    length: Of the sequences, at least 1.
    tokens: Of which secrets are made, such as the digits; distinct.
    beam_width: How many sequences are kept at each length, at least 1.

  Raises:
    ValueError: If an argument is outside of its range, or the model returns
      what are no log-probabilities.
  """
  _validate.check_int(length, 'length', minimum=1)
  _validate.check_int(beam_width, 'beam_width', minimum=1)
  allowed = np.asarray(tokens, dtype=np.int64)
  if not allowed.size or np.unique(allowed).size != allowed.size:
    raise ValueError(
      f'`tokens` must be distinct, and one at least. Found {list(tokens)}.'
    )
  beams = np.zeros((1, 0), dtype=np.int64)
  costs = np.zeros(1)
  for _ in range(length):
    logs = _next(model, _behind(prefix, beams))
    _check_tokens(allowed, logs.shape[1], 'tokens')
    grown = (costs[:, None] - logs[:, allowed]).ravel()
    kept = np.argsort(grown, kind='stable')[:beam_width]
    kept = kept[np.isfinite(grown[kept])]
    rows, columns = np.divmod(kept, allowed.size)
    beams = np.column_stack([beams[rows], allowed[columns]])
    costs = grown[kept]
    if not kept.size:
      return Extracted(np.zeros((0, length), dtype=np.int64), costs)
  return Extracted(beams, costs)


def _of_moments(values: checks.FloatArray) -> tuple[float, float, float]:
  """Shape, location and scale with the moments of standardized values."""
  # A skew normal law has no more than 0.995.
  skew = float(np.clip(stats.skew(values), -0.99, 0.99))
  power = abs(skew) ** (2.0 / 3.0)
  delta = math.copysign(
    math.sqrt(
      math.pi / 2.0 * power / (power + ((4.0 - math.pi) / 2.0) ** (2.0 / 3.0))
    ),
    skew,
  )
  scale = 1.0 / math.sqrt(1.0 - 2.0 * delta**2 / math.pi)
  location = -scale * delta * math.sqrt(2.0 / math.pi)
  return delta / math.sqrt(1.0 - delta**2), location, scale


def _behind(prefix: Sequence[int], sequences: IntArray) -> IntArray:
  before = np.asarray(prefix, dtype=np.int64)
  return np.hstack([np.tile(before, (len(sequences), 1)), sequences])


def _next(model: NextLogProbabilities, prefixes: IntArray) -> checks.FloatArray:
  """Returns [prefixes, vocabulary] log-probabilities, checked."""
  logs = np.asarray(model(prefixes), dtype=np.float64)
  if logs.ndim != 2 or len(logs) != len(prefixes):
    raise ValueError(
      f'The model must return the shape [{len(prefixes)}, vocabulary]. Found '
      f'{list(logs.shape)}. It gives one row for each prefix.'
    )
  if np.isnan(logs).any():
    raise ValueError(
      'The model must return log-probabilities. Found NaN. An audit of such a '
      'model would say nothing.'
    )
  off = float(np.max(np.abs(special.logsumexp(logs, axis=1))))
  if not off <= _TOLERANCE:
    raise ValueError(
      'The model must return log-probabilities, which sum to 1. Found a '
      f'sum whose logarithm is off by {off:.3g}. Apply log_softmax to logits.'
    )
  return logs


def _check_tokens(tokens: IntArray, vocabulary: int, name: str) -> None:
  wrong = tokens[(tokens < 0) | (tokens >= vocabulary)]
  if wrong.size:
    raise ValueError(
      f'`{name}` must be tokens below the vocabulary of {vocabulary}. Found '
      f'{int(wrong[0])}.'
    )
