# SPDX-License-Identifier: Apache-2.0
"""What a client may give to be summed."""

from __future__ import annotations

import numpy as np
import pytest

from tff_secagg_ext.secagg import inputs
from tff_secagg_ext.secagg.setup import VectorSpec

SPEC = VectorSpec('x', 3, 16)


@pytest.mark.parametrize(
  'given', [[0, 3, 15], np.array([0, 3, 15], np.uint8), (1, 2, 3)]
)
def test_vectors_of_integers_are_accepted(given):
  checked = inputs.vector(given, SPEC)
  assert checked.dtype == np.int64
  assert checked.tolist() == list(given)


def test_vectors_come_in_the_order_of_the_session():
  specs = (VectorSpec('b', 1, 4), VectorSpec('a', 0, 4))
  given = {'a': np.zeros(0, int), 'b': np.array([3]), 'more': None}
  checked = inputs.vectors(given, specs)
  assert [vector.tolist() for vector in checked] == [[3], []]
  with pytest.raises(
    ValueError, match=r"all vectors of the session\. Found no \['b', 'a'\]"
  ):
    inputs.vectors({}, specs)


@pytest.mark.parametrize(
  ('found', 'error', 'message'),
  [
    (np.zeros(3, np.float32), TypeError, 'must be of integers. Found float32'),
    ([0.0, float('nan'), 1.0], TypeError, 'Found float64. Round and scale it'),
    ([True, False, True], TypeError, 'must be of integers. Found bool'),
    ('abc', TypeError, 'must be of integers. Found <U3'),
    ([2**70] * 3, TypeError, 'must be of integers. Found object'),
    (np.zeros((1, 3), int), ValueError, r'the shape \(3,\). Found \(1, 3\)'),
    (5, ValueError, r'must have the shape \(3,\). Found \(\)'),
    ([0, 1, 16], ValueError, r"'x' must be in \[0, 16\), and one is not. Red"),
    ([-1, 1, 2], ValueError, r'or use a larger modulus'),
    (np.array([2**64 - 1, 0, 0], np.uint64), ValueError, 'and one is not'),
  ],
)
def test_bad_vectors(found, error, message: str):
  with pytest.raises(error, match=message):
    inputs.vector(found, SPEC)
