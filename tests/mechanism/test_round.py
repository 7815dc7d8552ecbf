# SPDX-License-Identifier: Apache-2.0
"""Whole rounds, client and server, without TFF."""

import math

import numpy as np
import pytest
from scipy import stats
import tensorflow as tf

from tests.mechanism.test_spec import make
from tff_secagg_ext.mechanism import (
  calibration,
  encoding,
  norms,
  rotation,
  stage,
)
from tff_secagg_ext.mechanism import round as round_lib
from tff_secagg_ext.mechanism import spec as spec_lib


def make_round(shapes, **changes):
  spec = make(**changes)
  num_elements = stage.num_elements(shapes) + len(encoding.Bits.of(spec))
  padded = rotation.ROTATIONS[spec.rotation_type].padded(num_elements)
  return round_lib.Round(spec, shapes, calibration.calibrate(spec, padded))


class Simulation:
  """A round's functions, compiled once, with a modular sum between them."""

  def __init__(self, shape, **changes):
    self.round = make_round([shape], **changes)
    self.state = dict(self.round.initial_state())
    self._encode = tf.function(self.round.encode)
    self._decode = tf.function(self.round.decode)

  def sum(self, values):
    total = np.zeros(self.round.constants.dimension + 1, np.int64)
    for value in values:
      sent = self._encode(self.state, [tf.constant(value, tf.float32)]).numpy()
      assert sent.min() >= 0
      assert sent.max() < self.round.constants.modulus
      total += sent
    return (total % self.round.constants.modulus).astype(np.int32)

  def next(self, values):
    state, mean, measured = self._decode(self.state, self.sum(values))
    self.state = dict(state)
    return mean[0].numpy(), {k: v.numpy() for k, v in measured.items()}


@pytest.mark.parametrize('rotation_type', ['hd', 'dft'])
@pytest.mark.parametrize('shape', [(), (1,), (3, 5), (1000,)])
def test_without_noise_the_mean_is_that_of_the_clipped_values(
  shape, rotation_type
):
  rng = np.random.default_rng(0)
  values = [rng.normal(size=shape) * 10.0 ** (i % 3) for i in range(8)]
  simulation = Simulation(
    shape,
    noise_multiplier=0.0,
    expected_clients_per_round=8,
    rotation_type=rotation_type,
    clipping=2.0,
    zeroing=False,
  )
  mean, measured = simulation.next(values)
  clipped = [v * min(1, 2 / np.linalg.norm(v)) for v in values]
  # Eight roundings of variance at most 1/4 a coordinate: 7 standard deviations.
  step = 2.0 / simulation.round.constants.scale
  tolerance = 7 * step * math.sqrt(8 / 4) / 8 + 1e-6
  np.testing.assert_allclose(mean, np.mean(clipped, axis=0), atol=tolerance)
  assert measured['contributors'] == 8
  assert measured['effective_noise_multiplier'] == 0
  assert not measured['aborted']


@pytest.mark.parametrize('mechanism', sorted(encoding.SAMPLERS))
@pytest.mark.parametrize('cohort', [12, 20, 30])
def test_poisson_cohorts_get_the_noise_of_the_most_contributors(
  mechanism, cohort
):
  """False alarms: 1e-6; a variance off by 10 % is rejected."""
  simulation = Simulation(
    (4000,),
    mechanism=mechanism,
    cohorts='poisson',
    expected_clients_per_round=20,
    min_contributors=10,
    max_contributors=30,
    clipping=1.0,
    zeroing=False,
  )
  _, decoded, measured = _noise_of(simulation, cohort)
  # z = 1 is reached by 10 shares, and there are always 30.
  expected = math.sqrt(3) * simulation.round.constants.sensitivity
  expected /= simulation.round.constants.scale * 20
  assert _accepts(decoded, expected)
  assert not _accepts(decoded, 0.9 * expected)
  assert not _accepts(decoded, 1.1 * expected)
  assert measured['effective_noise_multiplier'] == pytest.approx(math.sqrt(3))
  assert 'contributors' not in measured


@pytest.mark.parametrize('cohort', [10, 20])
def test_fixed_cohorts_have_the_noise_of_those_who_came(cohort):
  """False alarms: 1e-6; a variance off by 10 % is rejected."""
  simulation = Simulation(
    (4000,), expected_clients_per_round=20, clipping=1.0, zeroing=False
  )
  _, decoded, measured = _noise_of(simulation, cohort)
  share = simulation.round.constants.share_stddev
  expected = share * math.sqrt(cohort) / simulation.round.constants.scale
  expected /= cohort
  assert _accepts(decoded, expected)
  assert not _accepts(decoded, 0.9 * expected)
  assert not _accepts(decoded, 1.1 * expected)
  assert measured['effective_noise_multiplier'] == pytest.approx(
    math.sqrt(cohort / 20)
  )


def _noise_of(simulation, cohort):
  values = [np.zeros(4000)] * cohort
  mean, measured = simulation.next(values)
  return values, mean, measured


def _accepts(sample, stddev):
  """Whether a chi-square test at 1e-6 takes the sample as N(0, stddev^2)."""
  statistic = np.sum((sample / stddev) ** 2)
  return 1e-6 < stats.chi2(len(sample)).cdf(statistic) < 1 - 1e-6


def test_clip_norm_and_zeroing_quantile_converge_on_skewed_data():
  """By default to the quantiles 0.5 and 0.98.

  With little noise: at noise multiplier 1, 40 clients leave the threshold to
  wander from the quantile 0.975 to above all values. At 0.1 the medians of 35
  rounds were between 0.493 and 0.504, and between 0.978 and 0.989.
  """
  rng = np.random.default_rng(4)

  def clients(size):
    directions = rng.normal(size=(size, 16))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions * rng.lognormal(sigma=1.0, size=(size, 1))

  simulation = Simulation(
    (16,),
    noise_multiplier=0.1,
    expected_clients_per_round=40,
    clipping=spec_lib.AdaptiveClipping(initial_norm=1.5),
  )
  history = []
  for _ in range(55):
    simulation.next(clients(40))
    state = simulation.state
    history.append([state['clip_norm'], state['zeroing_quantile']])
  clip_norm, quantile = np.median(np.array(history[20:], float), axis=0)
  many = clients(10**5)
  norms_of_many = np.linalg.norm(many, axis=1)
  assert np.mean(norms_of_many <= clip_norm) == pytest.approx(0.5, abs=0.1)
  peaks = np.max(np.abs(many), axis=1)
  assert np.mean(peaks <= quantile) == pytest.approx(0.98, abs=0.02)


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf, 1e38])
def test_corrupt_clients_count_and_contribute_nothing(bad):
  simulation = Simulation(
    (3,),
    noise_multiplier=0.0,
    expected_clients_per_round=4,
    clipping=10.0,
  )
  good = np.ones(3)
  mean, measured = simulation.next([good, good, good, [1.0, bad, 0.0]])
  np.testing.assert_allclose(mean, 0.75 * good, atol=1e-3)
  assert measured['contributors'] == 4


@pytest.mark.parametrize(
  ['changes', 'cohort', 'aborted'],
  [
    ({}, 0, True),
    ({}, 1, False),
    ({}, 9, False),
    ({'min_contributors': 3}, 2, True),
    ({'min_contributors': 3}, 3, False),
    ({'max_contributors': 5}, 6, True),
    ({'cohorts': 'poisson', 'min_contributors': 3}, 2, True),
    ({'cohorts': 'poisson', 'max_contributors': 5}, 6, True),
  ],
)
def test_cohorts_outside_their_bounds_abort_and_change_nothing(
  changes, cohort, aborted
):
  simulation = Simulation((2,), expected_clients_per_round=4, **changes)
  before = simulation.state
  mean, measured = simulation.next([np.ones(2)] * cohort)
  after = simulation.state
  assert measured['aborted'] == aborted
  assert (not np.any(mean)) == aborted
  assert (after['clip_norm'] == before['clip_norm']) == aborted
  assert (after['zeroing_quantile'] == before['zeroing_quantile']) == aborted
  assert after['rotation_seed'] == before['rotation_seed']
  assert after['round'] == 1


def test_measurements_are_what_was_used():
  simulation = Simulation((10,), expected_clients_per_round=50)
  constants = simulation.round.constants
  before = simulation.state
  _, measured = simulation.next([np.ones(10)] * 40)
  assert list(measured) == [
    'clip_norm',
    'zeroing_threshold',
    'scale',
    'dimension',
    'contributors',
    'wrap_probability',
    'effective_noise_multiplier',
    'aborted',
  ]
  assert measured['clip_norm'] == before['clip_norm'] == np.float32(0.1)
  assert measured['zeroing_threshold'] == norms.zeroing_threshold(10.0)
  assert measured['scale'] == constants.scale
  assert measured['dimension'] == constants.dimension == 16
  assert measured['contributors'] == 40
  assert measured['wrap_probability'] == pytest.approx(
    constants.wrap_probability(40), rel=1e-3
  )
  assert measured['effective_noise_multiplier'] == pytest.approx(
    constants.noise_multiplier(40)
  )


def test_no_output_depends_on_the_number_of_poisson_contributors():
  """But for the noised sum itself, and `aborted`."""
  measured, states = [], []
  for cohort in (12, 20):
    simulation = Simulation(
      (4,),
      cohorts='poisson',
      expected_clients_per_round=16,
      min_contributors=10,
      max_contributors=24,
      clipping=1.0,
      zeroing=False,
    )
    measured.append(simulation.next([np.zeros(4)] * cohort)[1])
    states.append(simulation.state)
  assert measured[0] == measured[1]
  assert states[0]['clip_norm'] == states[1]['clip_norm']


def test_clients_with_the_same_value_send_independent_vectors():
  simulation = Simulation((64,), expected_clients_per_round=10)
  first, second = simulation.sum([np.ones(64)]), simulation.sum([np.ones(64)])
  assert np.mean(first[:-1] == second[:-1]) < 0.2


def test_noise_moves_a_threshold_by_a_factor_of_e_to_a_fifth_at_most():
  rule = norms.ZEROING_RULE
  assert rule.damped(0.05) == rule
  assert rule.damped(0.5).learning_rate == pytest.approx(0.4)
  noisy = make_round([(2,)], expected_clients_per_round=10)
  assert noisy._fraction_stddev == pytest.approx(0.5, rel=0.01)
