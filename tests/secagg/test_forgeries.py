# SPDX-License-Identifier: Apache-2.0
"""10,000 sums and survivor lists that no honest server sends: all caught."""

from __future__ import annotations

import numpy as np
import pytest

from tff_secagg_ext.secagg import errors, ring, tagging
from tff_secagg_ext.secagg.setup import Security, Setup, VectorSpec

# A wrong sum is accepted with a probability of at most 2^-64 each.
FORGERIES = 10_000
CLIENTS = 6
MODULI = (2, 3, 255, 1 << 20, (1 << 20) - 1, (1 << 62) - 1, 1 << 62)
KEY = bytes(range(32))


class Sums:
  """Sessions of one vector, and the true sums over any survivors."""

  def __init__(self, modulus: int, session: int, rng: np.random.Generator):
    self.spec = VectorSpec('x', 6, modulus)
    self.setup = Setup(
      bytes([session]) * 32,
      session,
      Security('malicious'),
      True,
      2,
      (self.spec,),
    )
    self.tagger = tagging.Tagger(KEY, bytes([session]) * 32, session)
    x = rng.integers(modulus, size=(CLIENTS, self.spec.length))
    self.tagged = [
      self.tagger.tagged(vector, self.spec, i).astype(object)
      for i, vector in enumerate(x)
    ]

  def total(self, survivors):
    """Coordinates and tags of the sum, as Python's integers."""
    return sum(self.tagged[i] for i in survivors) % self.spec.modulus

  def is_accepted(self, total, survivors) -> bool:
    """Whether a client accepts a sum for the survivors that it confirmed."""
    modulo = ring.ring_of(self.spec)
    body = modulo.pack(total.astype(np.int64).astype(modulo.accumulator))
    try:
      self.tagger.check(memoryview(body), self.setup, survivors)
    except errors.WrongSum:
      return False
    return True


def altered(sums, other, total, survivors, rng):
  """Another value at one place or more, tags or not."""
  del other, survivors
  places = rng.choice(len(total), rng.integers(1, 4), replace=False)
  for place in places:
    total[place] += int(rng.integers(1, sums.spec.modulus))
  return total % sums.spec.modulus


def scaled(sums, other, total, survivors, rng):
  """A multiple."""
  del other, survivors
  return int(rng.integers(2, 1 << 30)) * total % sums.spec.modulus


def replayed(sums, other, total, survivors, rng):
  """The same survivors' sum of another session, or of both sessions."""
  both = rng.integers(2)
  return (other.total(survivors) + both * total) % sums.spec.modulus


def of_others(sums, other, total, survivors, rng):
  """The true sum, with its tags, over another survivor list."""
  del other, total
  while (subset := drawn(rng)) == survivors:
    pass
  return sums.total(subset)


def shifted(sums, other, total, survivors, rng):
  """The true sum plus a vector, with the tags of another vector's sum."""
  del other, survivors
  other_tags = sums.total(drawn(rng))[sums.spec.length :]
  total[: sums.spec.length] += rng.integers(0, 2, sums.spec.length)
  total[sums.spec.length :] = other_tags
  return total % sums.spec.modulus


def drawn(rng) -> list[int]:
  """A survivor list of two clients or more."""
  count = rng.integers(2, CLIENTS + 1)
  return sorted(rng.choice(CLIENTS, count, replace=False).tolist())


KINDS = (altered, scaled, replayed, of_others, shifted)


def test_all_forged_sums_and_survivor_lists_are_caught():
  rng = np.random.default_rng(20)
  pairs = [(Sums(m, 1, rng), Sums(m, 2, rng)) for m in MODULI]
  caught = 0
  while caught < FORGERIES:
    sums, other = pairs[caught % len(pairs)]
    survivors = drawn(rng)
    true = sums.total(survivors)
    kind = KINDS[caught // len(pairs) % len(KINDS)]
    forged = kind(sums, other, true.copy(), survivors, rng)
    if np.array_equal(forged, true):
      continue  # Modulo 2 and 3 a multiple may be the sum itself.
    assert not sums.is_accepted(forged, survivors), kind.__name__
    caught += 1
  assert caught == FORGERIES


@pytest.mark.parametrize('modulus', MODULI)
def test_the_true_sums_are_accepted(modulus):
  rng = np.random.default_rng(21)
  sums = Sums(modulus, 1, rng)
  for _ in range(50):
    survivors = drawn(rng)
    assert sums.is_accepted(sums.total(survivors), survivors)


@pytest.mark.parametrize('modulus', MODULI)
def test_another_survivor_list_is_caught_with_the_true_sum(modulus):
  rng = np.random.default_rng(22)
  sums = Sums(modulus, 1, rng)
  everybody = list(range(CLIENTS))
  for absent in everybody:
    others = [i for i in everybody if i != absent]
    assert not sums.is_accepted(sums.total(everybody), others)
    assert not sums.is_accepted(sums.total(others), everybody)
