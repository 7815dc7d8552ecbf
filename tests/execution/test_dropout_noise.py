# SPDX-License-Identifier: Apache-2.0
"""What a secure context makes of noise that is to be exact after dropouts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tff_secagg_ext import execution
from tff_secagg_ext._dropout_noise import DropoutNoise
from tff_secagg_ext.execution import sums
from tff_secagg_ext.execution.vectors import Leaf, Vectors
from tff_secagg_ext.secagg.setup import PlacedNoise

NOISE = DropoutNoise('distributed_dgauss', 30.0, 5, 1 << 20, 7, 3)
CURIOUS = execution.Security('curious', 0.0, 0.5)


def leaf(size: int, modulus: int | None = 1 << 20) -> Leaf:
  return Leaf('a sum', np.dtype(np.int32), (size,), 99, modulus)


def options(*noises: Any, **changes: Any) -> execution.SecureOptions:
  given = {'security': CURIOUS, 'min_contributors': 4, **changes}
  return execution.SecureOptions(dropout_noise=noises, **given)


def test_noise_is_where_its_sum_is() -> None:
  other = dataclasses.replace(NOISE, dimension=8)
  leaves = [leaf(3), leaf(9), leaf(2, 1 << 5), leaf(6)]
  found = Vectors(leaves, 7, [NOISE, other])
  assert [(spec.length, spec.noise) for spec in found.specs] == [
    (18, (PlacedNoise(3, other), PlacedNoise(12, NOISE))),
    (2, ()),
  ]


@pytest.mark.parametrize(
  ('leaves', 'noises', 'count'),
  [
    ([leaf(5)], [NOISE], 0),
    ([leaf(6, 1 << 19)], [NOISE], 0),
    ([leaf(6), leaf(6)], [NOISE], 2),
    ([leaf(6)], [NOISE, NOISE], '1 such sums, for 2 noises'),
    ([leaf(6)], [NOISE, dataclasses.replace(NOISE, colluders=1)], '1 such'),
  ],
)
def test_it_must_be_clear_where_noise_is(
  leaves: list[Leaf], noises: list[DropoutNoise], count: int | str
) -> None:
  match = rf'must be of one secure sum .* Found {count}'
  with pytest.raises(ValueError, match=match):
    Vectors(leaves, 7, noises)


@pytest.mark.parametrize(
  ('changes', 'error', 'match'),
  [
    ({'min_contributors': 3}, ValueError, '`min_contributors` must be at leas'),
    ({'protocol': 'plain'}, ValueError, "`protocol` must be 'secagg' with"),
    ({'verify': True}, ValueError, '`verify` must be False, or None, with'),
  ],
)
def test_options_that_contradict_it(
  changes: dict[str, Any], error: type[Exception], match: str
) -> None:
  with pytest.raises(error, match=match):
    options(NOISE, **changes)


def test_options_that_are_no_noise() -> None:
  with pytest.raises(TypeError, match='`dropout_noise` must hold what'):
    options('exact')
  fewer = dataclasses.replace(NOISE, dropouts=2)
  with pytest.raises(ValueError, match='for the same clients and dropouts'):
    options(NOISE, fewer, min_contributors=5)


def test_sums_with_it_are_not_verified_and_it_is_on_record() -> None:
  malicious = execution.Security('malicious', neighbors=6, threshold=4)
  assert options(security=malicious).verified
  found = options(NOISE, security=malicious)
  assert not found.verified
  assert found.settings['dropout_noise'] == [dataclasses.asdict(NOISE)]
  assert 'dropout_noise' not in options().settings


@pytest.mark.parametrize('threat', ['curious', 'malicious'])
def test_a_session_adds_and_takes_off_layers(threat: str) -> None:
  security = execution.Security(threat, neighbors=6, threshold=4)
  given = options(NOISE, security=security)
  vectors = Vectors([leaf(6)], 7, given.dropout_noise)
  zero = {vectors.specs[0].name: np.zeros(6, np.int64)}
  outcome = sums.Sessions(given).run(vectors.specs, 7, lambda *_: zero)
  # Nobody dropped out: nothing is left.
  assert not any(total.any() for total in outcome.sums.values())
  assert outcome.report.noise == (NOISE,)
  lost = dataclasses.replace(given, dropouts=execution.Dropouts({'mask': [2]}))
  outcome = sums.Sessions(lost).run(vectors.specs, 7, lambda *_: zero)
  (total,) = outcome.sums.values()
  assert total[:5].any()
  assert total[5] == 0
