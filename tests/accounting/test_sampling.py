# SPDX-License-Identifier: Apache-2.0
"""Sampling claims: their rates, their relations, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tff_secagg_ext import accounting


def test_rates() -> None:
  assert accounting.NoSampling().rate == 1.0
  assert accounting.PoissonSampling(0.25).rate == 0.25
  assert accounting.FixedSizeSampling(100, 3400).rate == 100 / 3400


def test_relations() -> None:
  assert accounting.NoSampling().adjacency == 'zero_out'
  assert accounting.PoissonSampling(0.25).adjacency == 'zero_out'
  assert accounting.FixedSizeSampling(1, 2).adjacency == 'zero_out'


@pytest.mark.parametrize(
  ('make', 'error', 'match'),
  [
    (lambda: accounting.PoissonSampling(0.0), ValueError, 'must be above 0'),
    (lambda: accounting.PoissonSampling(1.5), ValueError, 'over the popul'),
    (lambda: accounting.PoissonSampling('x'), TypeError, 'a real number'),
    (lambda: accounting.FixedSizeSampling(0, 5), ValueError, 'at least 1'),
    (
      lambda: accounting.FixedSizeSampling(6, 5),
      ValueError,
      'without replacement from the population',
    ),
    (lambda: accounting.FixedSizeSampling(1, 0), ValueError, 'at least 1'),
    (lambda: accounting.FixedSizeSampling(1.0, 5), TypeError, 'an integer'),
    (
      lambda: accounting.FixedSizeSampling(1, 5, 'add_remove'),
      ValueError,
      "'zero_out' or 'substitution'",
    ),
    (
      lambda: accounting.NoSampling('replace'),
      ValueError,
      "'zero_out' or 'substitution'",
    ),
  ],
)
def test_refuses(
  make: Callable[[], object], error: type[Exception], match: str
) -> None:
  with pytest.raises(error, match=match):
    make()
