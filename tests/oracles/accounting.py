# SPDX-License-Identifier: Apache-2.0
"""Naive oracles for the accounting: sums and integrals, straight from the page.

Nothing here is fast, and nothing is shared with the package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import itertools
import math

import mpmath
import numpy as np
import numpy.typing as npt
from scipy import special

FloatArray = npt.NDArray[np.float64]

mpmath.mp.dps = 60


@functools.lru_cache
def sum_of_discrete_gaussians(
  variances: tuple[float, ...], reach: int
) -> list[mpmath.mpf]:
  """P(sum = k) for k = -reach..reach, by direct convolution of 60 digits."""
  laws = []
  for variance in variances:
    weights = [
      mpmath.exp(-mpmath.mpf(k * k) / (2 * mpmath.mpf(variance)))
      for k in range(-reach, reach + 1)
    ]
    total = mpmath.fsum(weights)
    laws.append([w / total for w in weights])
  return functools.reduce(_convolve, laws)


def _convolve(
  one: Sequence[mpmath.mpf], other: Sequence[mpmath.mpf]
) -> list[mpmath.mpf]:
  reach = len(one) // 2
  return [
    mpmath.fsum(
      one[j + reach] * other[k - j + reach]
      for j in range(max(-reach, k - reach), min(reach, k + reach) + 1)
    )
    for k in range(-reach, reach + 1)
  ]


def hockey_stick(p: FloatArray, q: FloatArray, a: float) -> float:
  """The sum of [p - a q]_+ over all outcomes."""
  return float(np.maximum(p - a * q, 0.0).sum())


def normal(x: FloatArray, centre: float) -> FloatArray:
  """Density of N(centre, 1)."""
  return np.exp(-0.5 * (x - centre) ** 2) / math.sqrt(2.0 * math.pi)


def mixture_divergence(
  p: Sequence[tuple[float, float]], q: Sequence[tuple[float, float]], a: float
) -> float:
  """H_a of two mixtures of unit normals, (weight, centre) each, by a sum."""
  centres = [c for _, c in [*p, *q]]
  x = np.linspace(min(centres) - 12.0, max(centres) + 12.0, 200_001)
  densities = [
    np.sum([w * normal(x, c) for w, c in mixture], axis=0) for mixture in (p, q)
  ]
  return hockey_stick(*densities, a) * float(x[1] - x[0])


def plane_divergences(
  u: tuple[float, float],
  v: tuple[float, float],
  q: float,
  levels: Sequence[float],
) -> tuple[FloatArray, FloatArray]:
  """H_a(P, Q) and H_a(Q, P) in the plane, to about 1e-4.

  P = (1-q) phi_0 + q phi_u and Q = (1-q) phi_0 + q phi_v.
  """
  step = 0.05
  axis = np.arange(-8.0, 8.0, step)

  def density(centre: tuple[float, float]) -> FloatArray:
    return np.outer(normal(axis, centre[0]), normal(axis, centre[1])) * step**2

  rest = (1.0 - q) * density((0.0, 0.0))
  p, other = rest + q * density(u), rest + q * density(v)
  forward = [hockey_stick(p, other, a) for a in levels]
  return np.array(forward), np.array(
    [hockey_stick(other, p, a) for a in levels]
  )


def composed_epsilon(
  losses: Callable[[FloatArray], FloatArray],
  weights: Callable[[FloatArray], FloatArray],
  rounds: int,
  delta: float,
  round_up: bool,
) -> float:
  """Epsilon of `rounds` equal rounds, losses rounded up or down to a grid.

  Args:
    losses: The loss at each of the edges of small cells, increasing.
    weights: P(outcome below each edge).
    rounds: How often.
    delta: The delta.
    round_up: Whether the result is an upper or a lower bound.
  """
  edges = np.linspace(-14.0, 34.0, 480_001)
  at_edges = losses(edges)
  masses = np.diff(weights(edges))
  chosen = at_edges[1:] if round_up else at_edges[:-1]
  step, size = 2e-4, 2**20
  index = np.ceil(chosen / step) if round_up else np.floor(chosen / step)
  law = np.bincount(index.astype(int) % size, masses, minlength=size)
  composed = np.fft.irfft(np.fft.rfft(law) ** rounds, size)
  return _epsilon_of_law(composed, step, delta)


def _epsilon_of_law(law: FloatArray, step: float, delta: float) -> float:
  """Epsilon of losses that are `step` times their index, modulo its size."""
  size = law.size
  composed = np.roll(law, size // 4)
  values = (np.arange(size) - size // 4) * step
  low, high = 0.0, float(values[-1])
  for _ in range(60):
    middle = (low + high) / 2.0
    above = values > middle
    gain = -np.expm1(middle - values[above])
    if float((composed[above] * gain).sum()) > delta:
      low = middle
    else:
      high = middle
  return high


def fixed_size_losses(m: float, q: float) -> Callable[[FloatArray], FloatArray]:
  """Loss of (1-q) phi_0 + q phi_2m against (1-q) phi_0 + q phi_m at x."""

  def losses(x: FloatArray) -> FloatArray:
    top = np.log1p(q * np.expm1(2.0 * m * x - 2.0 * m * m))
    return top - np.log1p(q * np.expm1(m * x - m * m / 2.0))

  return losses


def normal_cdf(x: FloatArray) -> FloatArray:
  return np.asarray(special.ndtr(x))


Mixture = Sequence[tuple[float, float]]


def adaptive_epsilon(
  pairs: Sequence[tuple[Mixture, Mixture]], rounds: int, delta: float
) -> float:
  """Epsilon that a run reaches which picks its pair in every round.

  The pair may depend on the outcomes so far. Backwards from the last round,
  V(l) is the largest divergence at e^l that the rounds left can reach. Losses
  are rounded down: a lower bound.

  Args:
    pairs: Mixtures of unit normals, (weight, centre) each, to pick from.
    rounds: How many rounds.
    delta: The delta.
  """
  step, reach = 2.0**-10, 32.0
  levels = np.arange(-round(reach / step), round(reach / step) + 1) * step
  size = 2**18
  x = np.linspace(-14.0, 16.0, 600_001)
  transforms = []
  for p, q in pairs:
    one, other = (
      np.sum([w * normal(x, c) for w, c in mixture], axis=0)
      for mixture in (p, q)
    )
    losses = np.log(one) - np.log(other)
    index = np.floor(losses / step).astype(int)
    kept = np.abs(index) < levels.size
    law = np.bincount(
      index[kept] % size, one[kept] * float(x[1] - x[0]), minlength=size
    )
    transforms.append(np.fft.rfft(law))
  value = np.maximum(-np.expm1(levels), 0.0)
  for _ in range(rounds):
    padded = np.zeros(size)
    padded[: 2 * levels.size] = np.concatenate([np.ones(levels.size), value])
    transform = np.fft.rfft(padded)
    value = np.max(
      [
        np.fft.irfft(transform * t, size)[levels.size : 2 * levels.size]
        for t in transforms
      ],
      axis=0,
    )
  return float(levels[np.flatnonzero(value > delta)[-1]])


def renyi_divergence(
  p: Sequence[mpmath.mpf], q: Sequence[mpmath.mpf], order: float
) -> float:
  """ln(sum p^a q^(1-a)) / (a - 1), over where both are above 0."""
  moment = mpmath.fsum(
    one**order * other ** (1 - order)
    for one, other in zip(p, q, strict=True)
    if one > 0 and other > 0
  )
  return float(mpmath.log(moment) / (order - 1))


def shifted_laws(
  law: Sequence[mpmath.mpf], shift: int, probability: float
) -> tuple[list[mpmath.mpf], list[mpmath.mpf]]:
  """The law of b * shift + X with P(b = 1) = probability, and that of X.

  Both over the outcomes where X - shift and X are in the table.
  """
  q = mpmath.mpf(probability)
  absent = list(law[shift:])
  present = [
    (1 - q) * law[k + shift] + q * law[k] for k in range(len(law) - shift)
  ]
  return present, absent


def sampled_gaussians_epsilon(
  parts: Sequence[tuple[float, float, int]], delta: float, round_up: bool
) -> float:
  """Epsilon of Poisson-sampled Gaussians of several kinds, client present.

  Args:
    parts: Ratio m, probability q and number of rounds of each kind.
    delta: The delta.
    round_up: Whether losses are rounded so as to bound it from above or below.
  """
  edges = np.linspace(-14.0, 34.0, 480_001)
  step, size = 2e-4, 2**19
  product: FloatArray | float = 1.0
  for m, q, rounds in parts:
    losses = np.log1p(q * np.expm1(m * edges - m * m / 2.0))
    weights = (1.0 - q) * normal_cdf(edges) + q * normal_cdf(edges - m)
    chosen = np.ceil(losses[1:] / step) if round_up else losses[:-1] // step
    law = np.bincount(
      chosen.astype(int) % size, np.diff(weights), minlength=size
    )
    product = product * np.fft.rfft(law) ** rounds
  return _epsilon_of_law(np.fft.irfft(product, size), step, delta)


def allocated_divergences(
  m: float, participations: int, rounds: int, level: float
) -> tuple[float, float]:
  """H_a of an epoch of random allocation, present against zeroed and back.

  L is the mean over all subsets of `participations` rounds of the products of
  X_i = exp(m g_i - m^2/2). All g_i but the last are summed over a grid, which
  is exact to many digits for a smooth integrand; the last has a closed form,
  since L is linear in X_i.
  """
  axis = np.linspace(-12.0, 12.0, {2: 6001, 3: 1501, 4: 161}[rounds])
  shape = (axis.size,) * (rounds - 1)
  weights, polynomial = np.ones(shape), [np.ones(shape)]
  for i in range(rounds - 1):
    along = [1] * (rounds - 1)
    along[i] = axis.size
    g = axis.reshape(along)
    weights = weights * normal(g, 0.0) * (axis[1] - axis[0])
    x = np.exp(m * g - m * m / 2.0)
    polynomial = [
      (polynomial[j] if j < len(polynomial) else 0.0)
      + (x * polynomial[j - 1] if j else 0.0)
      for j in range(len(polynomial) + 1)
    ]
  polynomial.append(np.zeros(shape))
  subsets = math.comb(rounds, participations)
  slope = polynomial[participations - 1] / subsets
  rest = polynomial[participations] / subsets
  a = math.exp(level)
  forward = slope * _call((a - rest) / slope, m)
  backward = slope * a * _put((1.0 / a - rest) / slope, m)
  return float((weights * forward).sum()), float((weights * backward).sum())


def _call(strike: FloatArray, m: float) -> FloatArray:
  """E[X - strike]_+ for X = exp(m g - m^2/2)."""
  d = -np.log(np.maximum(strike, 1e-300)) / m
  value = special.ndtr(d + m / 2.0) - strike * special.ndtr(d - m / 2.0)
  return np.where(strike > 0.0, value, 1.0 - strike)


def _put(strike: FloatArray, m: float) -> FloatArray:
  """E[strike - X]_+ for X = exp(m g - m^2/2)."""
  d = -np.log(np.maximum(strike, 1e-300)) / m
  value = strike * special.ndtr(m / 2.0 - d) - special.ndtr(-d - m / 2.0)
  return np.where(strike > 0.0, value, 0.0)


def adaptive_pair_divergences(
  m: float, second: Callable[[FloatArray], FloatArray], level: float
) -> tuple[float, float]:
  """H_a of one random round of two, the second chosen by what the first gave.

  Args:
    m: The ratio of the first round.
    second: From the first outcome to the ratio of the second, positive.
    level: ln a.
  """
  g = np.linspace(-14.0, 14.0, 20_001)
  weights = normal(g, 0.0) * (g[1] - g[0])
  x, ratios, a = np.exp(m * g - m * m / 2.0), second(g), math.exp(level)
  forward = 0.5 * _call(2.0 * a - x, ratios)
  backward = 0.5 * a * _put(2.0 / a - x, ratios)
  return float((weights * forward).sum()), float((weights * backward).sum())


def worst_selection(
  values: Sequence[float], most: int, separation: int
) -> float:
  """The largest sum of at most `most` values, `separation` or more apart."""
  best = 0.0
  for size in range(1, most + 1):
    for chosen in itertools.combinations(range(len(values)), size):
      gaps = itertools.pairwise(chosen)
      if all(after - before >= separation for before, after in gaps):
        best = max(best, sum(values[i] for i in chosen))
  return best
