# SPDX-License-Identifier: Apache-2.0
"""Noise laws from their definitions, to 60 digits, and naive draws."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
import itertools

import mpmath

mpmath.mp.dps = 60

Probabilities = dict[int, mpmath.mpf]


def discrete_gaussian(variance: object, last: int) -> Probabilities:
  """P(X = k) for |k| <= last; the normaliser sums 40 standard deviations."""
  variance = mpmath.mpf(variance)

  def weight(k: int) -> mpmath.mpf:
    return mpmath.exp(-k * k / (2 * variance))

  reach = max(last, int(40 * mpmath.sqrt(variance)) + 40)
  total = weight(0) + 2 * mpmath.fsum(weight(k) for k in range(1, reach))
  one_side = [weight(k) / total for k in range(last + 1)]
  return {k: one_side[abs(k)] for k in range(-last, last + 1)}


def skellam(variance: object, last: int) -> Probabilities:
  """P(X = k) = exp(-mu) I_k(mu) for |k| <= last."""
  mu = mpmath.mpf(variance)
  one_side = [skellam_probability(mu, k) for k in range(last + 1)]
  return {k: one_side[abs(k)] for k in range(-last, last + 1)}


def skellam_probability(mu: object, k: int) -> mpmath.mpf:
  """exp(-mu) I_k(mu)."""
  return mpmath.exp(-mpmath.mpf(mu)) * mpmath.besseli(k, mu)


def scaled_sum(
  first: Probabilities, second: Probabilities, factor: int
) -> Probabilities:
  """The law of X1 + factor X2."""
  law: Probabilities = {}
  for (j, p), (k, q) in itertools.product(first.items(), second.items()):
    law[j + factor * k] = law.get(j + factor * k, mpmath.mpf(0)) + p * q
  return law


def total_variation(one: Probabilities, other: Probabilities) -> mpmath.mpf:
  """Half the sum of |p - q|; what either leaves out counts as far as it can."""
  outcomes = one.keys() | other.keys()
  distance = mpmath.fsum(
    abs(one.get(k, mpmath.mpf(0)) - other.get(k, mpmath.mpf(0)))
    for k in outcomes
  )
  left_out = sum(abs(1 - mpmath.fsum(law.values())) for law in (one, other))
  return (distance + left_out) / 2


def invert(
  laws: Sequence[Probabilities],
  heads: Sequence[int],
  more_words: Callable[[int, int], Sequence[int]],
) -> list[int]:
  """Draws outcomes by inversion, one number at a time.

  The heads are 16 bits each, `len(heads) / len(laws)` of them for each law in
  turn. Those that do not decide an outcome take 32 more bits, in order, and
  then, if need be, 63.

  Args:
    laws: The outcomes of each, in increasing order.
    heads: The first 16 bits of each uniform number.
    more_words: From a part, 1 or 2, and a count to as many 32-bit words.
  """
  per_law = len(heads) // len(laws)
  outcomes = [sorted(law) for law in laws]
  cuts = []
  for law, ordered in zip(laws, outcomes, strict=True):
    sums = list(itertools.accumulate(law[k] for k in ordered))
    cuts.append([int(mpmath.floor(s * 2**111)) for s in sums[:-1]])
  numbers = [int(head) << 95 for head in heads]

  def undecided(free_bits: int) -> list[int]:
    found = [{cut >> free_bits for cut in law_cuts} for law_cuts in cuts]
    return [
      i
      for i, number in enumerate(numbers)
      if number >> free_bits in found[i // per_law]
    ]

  open_places = undecided(95)
  for i, word in zip(open_places, more_words(1, len(open_places)), strict=True):
    numbers[i] += int(word) << 63
  open_places = undecided(63)
  words = iter(more_words(2, 2 * len(open_places)))
  for i in open_places:
    numbers[i] += next(words) | (next(words) & 0x7FFFFFFF) << 32
  return [
    outcomes[i // per_law][bisect.bisect_right(cuts[i // per_law], u)]
    for i, u in enumerate(numbers)
  ]
