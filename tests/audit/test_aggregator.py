# SPDX-License-Identifier: Apache-2.0
"""The one-shot audit of the aggregator's own rounds."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from scipy import stats

from tests.mechanism import test_round
from tff_secagg_ext import accounting, audit
from tff_secagg_ext.audit import two_gaussians

# A correct test fails this seldom.
FALSE_ALARM = 1e-6
DELTA = 1e-6
DIMENSION, COUNT = 4000, 64
SEED = bytes(range(32))


@functools.cache
def audited(
  noise_multiplier: float, claimed: float, confidence: float
) -> tuple[audit.one_shot.Estimate, float, float]:
  """Returns a round's audit, its exact ratio and the accountant's epsilon.

  All clients are canaries. The account is that of the claimed multiplier.
  """
  canaries = audit.Canaries(SEED, COUNT, DIMENSION)
  options = {'expected_clients_per_round': COUNT, 'clipping': 1.0}
  simulation = test_round.Simulation(
    (DIMENSION,), noise_multiplier=noise_multiplier, **options
  )
  release, _ = simulation.next(canaries.directions(range(COUNT)))
  [found] = audit.one_shot.estimates(
    canaries.cosines(release[None]), DELTA, confidence
  )
  constants = simulation.round.constants
  # With the variance of rounding, at most 1/4, which is far below a share's.
  variance = COUNT * (0.25 + constants.share_stddev**2)
  ratio = constants.scale / math.sqrt(variance)
  said = test_round.make_round(
    [(DIMENSION,)], noise_multiplier=claimed, **options
  ).constants
  event = accounting.NoisedSumEvent(
    'distributed_dgauss',
    said.sensitivity,
    said.share_stddev,
    COUNT,
    said.dimension,
  )
  a_round = accounting.Round((event,), accounting.NoSampling())
  account = accounting.epsilon([a_round], DELTA, view='server')
  return found, ratio, account.value


@pytest.mark.parametrize('noise_multiplier', [0.3, 1.0, 3.0])
def test_a_round_is_audited_at_what_its_noise_costs(
  noise_multiplier: float,
) -> None:
  """Rounding is part of the noise: fails twice in 10^6."""
  found, ratio, account = audited(
    noise_multiplier, noise_multiplier, 1.0 - FALSE_ALARM
  )
  off = stats.norm.isf(FALSE_ALARM / 2) / math.sqrt(COUNT)
  low, high = (
    two_gaussians.epsilon(max(0.0, ratio + x), 1.0, DELTA) for x in (-off, off)
  )
  assert low <= found.known <= high
  assert found.lower_bound <= found.known
  assert found.lower_bound <= account


@pytest.mark.parametrize('claimed', [0.3, 1.0])
def test_half_the_noise_is_an_alarm(claimed: float) -> None:
  """The estimate would have to be 6 standard deviations too low."""
  found, _, account = audited(claimed / 2.0, claimed, 0.95)
  assert found.lower_bound > account


def test_directions_survive_float32() -> None:
  canaries = audit.Canaries(SEED, COUNT, DIMENSION)
  direction = next(canaries.directions([7])).astype(np.float32)
  assert np.linalg.norm(direction) == pytest.approx(1.0, abs=1e-6)
