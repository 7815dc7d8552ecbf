# SPDX-License-Identifier: Apache-2.0
"""What the server sees of a vector is uniform, whatever the vector is.

Pearson's chi-square of counts in up to 256 buckets, whose expected sizes are
those of uniform coordinates. A test rejects at a significance of 10^-6: over
the 36 statistics of this module there is a false alarm in 4 of 10^5 runs.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
from scipy import stats

from tests.secagg.malicious import VICTIM, Attacker, World
from tff_secagg_ext.secagg import keys, ring
from tff_secagg_ext.secagg.setup import Security, VectorSpec

SIGNIFICANCE = 1e-6
ODD = (3, 5, 251, (1 << 20) - 1, (1 << 61) - 1)
EVEN = (2, 6, 1 << 20, 1 << 62)
LENGTH = 1 << 17


def p_value(found, modulus: int) -> float:
  """The p-value of uniform coordinates in [0, m)."""
  buckets = min(modulus, 256)
  # Bucket i holds the coordinates from ceil(i m / buckets) on.
  bounds = [-(-i * modulus // buckets) for i in range(buckets + 1)]
  edges = np.array(bounds[1:-1], np.int64)
  index = np.searchsorted(edges, np.asarray(found, np.int64), side='right')
  counts = np.bincount(index, minlength=buckets)
  shares = np.diff(np.array(bounds, object)).astype(float) / modulus
  return float(stats.chisquare(counts, shares * len(found)).pvalue)


@pytest.mark.parametrize('modulus', ODD + EVEN)
def test_masks_are_uniform(modulus):
  mask = ring.Ring(modulus).mask(LENGTH, os.urandom(32))
  assert p_value(mask, modulus) > SIGNIFICANCE


@pytest.mark.parametrize('modulus', [3, 5, 251])
def test_pairs_of_successive_coordinates_are_uniform(modulus):
  mask = ring.Ring(modulus).mask(LENGTH, os.urandom(32))
  pairs = mask[::2] * modulus + mask[1::2]
  assert p_value(pairs, modulus**2) > SIGNIFICANCE


@pytest.mark.parametrize('modulus', [5, 251])
def test_a_mask_by_reduction_is_rejected(modulus):
  """256 is 1 modulo 5 and 5 modulo 251: the first values are too frequent."""
  biased = np.frombuffer(os.urandom(1 << 22), np.uint8) % modulus
  assert p_value(biased, modulus) < SIGNIFICANCE


def attacker(modulus: int, length: int) -> Attacker:
  """A server of three real clients."""
  security = Security('malicious', 0.0, 0.0, neighbors=2, threshold=2)
  return Attacker(
    World(
      honest=(VICTIM, 2, 3),
      corrupt=(),
      security=security,
      verify=False,
      vectors=(VectorSpec('x', length, modulus),),
    )
  )


def masked_input(server: Attacker, value: int) -> np.ndarray:
  """What a client sends, in a new session, if all coordinates are the same."""
  (spec,) = server.setup.vectors
  vector = np.full(spec.length, value)
  server.vectors = dict.fromkeys(server.clients, vector)
  server.setup = dataclasses.replace(server.setup, session=os.urandom(32))
  server.begin()
  server.until_masked(degree=2, threshold=2)
  return server.ring.reduce(server.masked[VICTIM])


@pytest.mark.parametrize('modulus', ODD + EVEN)
@pytest.mark.parametrize('is_largest', [False, True])
def test_the_view_of_a_masked_vector_is_uniform(modulus, is_largest):
  value = modulus - 1 if is_largest else 0
  found = masked_input(attacker(modulus, LENGTH), value)
  assert p_value(found, modulus) > SIGNIFICANCE


@pytest.mark.parametrize('modulus', ODD + EVEN)
@pytest.mark.parametrize('is_largest', [False, True])
def test_a_vector_without_masks_is_rejected(modulus, is_largest, monkeypatch):
  monkeypatch.setattr(ring.Ring, 'apply_masks', lambda *_: None)
  value = modulus - 1 if is_largest else 0
  found = masked_input(attacker(modulus, LENGTH), value)
  assert (found == value).all()
  assert p_value(found, modulus) < SIGNIFICANCE


def test_the_view_is_uniform_over_sessions():
  """Each session has new keys: a coordinate is seen as another each time."""
  server = attacker(5, 4)
  views = np.array([masked_input(server, 0) for _ in range(500)])
  for coordinate in views.T:
    assert p_value(coordinate, 5) > SIGNIFICANCE


@pytest.mark.parametrize('role', ['self', 'mask'])
def test_either_kind_of_mask_hides_alone(role, monkeypatch):
  """Of a survivor the server takes off one kind, of a dropout the other."""
  derive = keys.derive
  monkeypatch.setattr(
    keys,
    'derive',
    lambda secret, digest, kind, *rest: (
      kind != role.encode() and derive(secret, digest, kind, *rest)
    ),
  )
  real = ring.Ring.apply_masks
  monkeypatch.setattr(
    ring.Ring,
    'apply_masks',
    lambda self, total, masks: real(
      self, total, [mask for mask in masks if mask[0]]
    ),
  )
  found = masked_input(attacker(251, LENGTH), 0)
  assert p_value(found, 251) > SIGNIFICANCE
