# SPDX-License-Identifier: Apache-2.0
"""The same data through TFF's factory and ours, and theory beside both."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
from scipy import stats
import tensorflow as tf

from tff_secagg_ext import aggregators
from tff_secagg_ext._compat import tff
from tff_secagg_ext.mechanism import round as round_lib

# TFF does not export its factory.
distributed_dp = importlib.import_module(
  'tensorflow_federated.python.aggregators.distributed_dp'
)

ALPHA = 1e-6
CLIP = 2.0
MECHANISMS = ['distributed_dgauss', 'distributed_skellam']
ROTATIONS = ['hd', 'dft']


def theirs(noise_multiplier, clients, mechanism, rotation_type):
  return tff.aggregators.UnweightedMeanFactory(
    value_sum_factory=distributed_dp.DistributedDpSumFactory(
      noise_multiplier=noise_multiplier,
      expected_clients_per_round=clients,
      bits=20,
      l2_clip=CLIP,
      mechanism=mechanism,
      rotation_type=rotation_type,
    ),
    count_sum_factory=tff.aggregators.SecureSumFactory(1, 0),
  )


def ours(noise_multiplier, clients, mechanism, rotation_type, **choices):
  return aggregators.ddp_secure_aggregator(
    noise_multiplier,
    clients,
    zeroing=False,
    rotation_type=rotation_type,
    mechanism=mechanism,
    clipping=CLIP,
    **choices,
  )


def mean_of(factory, values):
  process = factory.create(tff.TensorType(np.float32, values[0].shape))
  output = process.next(process.initialize(), values)
  return np.asarray(output.result, np.float64), output.measurements


def clipped_mean(values):
  norms = [max(CLIP, np.linalg.norm(v)) / CLIP for v in values]
  return np.mean([v / n for v, n in zip(values, norms, strict=True)], axis=0)


def make_values(clients, dimension):
  """Vectors of norms from a hundredth of the clip norm to its hundredfold."""
  rng = np.random.default_rng(0)
  values = rng.normal(size=(clients, dimension))
  values /= np.linalg.norm(values, axis=1, keepdims=True)
  values *= CLIP * np.geomspace(0.01, 100, clients)[:, None]
  return list(values.astype(np.float32))


@pytest.mark.parametrize('rotation_type', ROTATIONS)
@pytest.mark.parametrize('dimension', [1, 7, 1000])
def test_without_noise_both_are_the_clipped_mean(dimension, rotation_type):
  values = make_values(4, dimension)
  choices = (0.0, 4, 'distributed_dgauss', rotation_type)
  expected = clipped_mean(values)
  our_mean, measurements = mean_of(ours(*choices), values)
  their_mean, _ = mean_of(theirs(*choices), values)
  # Four roundings of variance at most 1/4: 7 standard deviations of their sum.
  ours_off = 7 / 4 * CLIP / measurements['scale']
  np.testing.assert_allclose(our_mean, expected, atol=ours_off + 1e-6)
  # TFF's grid has 20 bits for a range that grows with 1 / sqrt(dimension).
  theirs_off = 1e-3 * CLIP
  np.testing.assert_allclose(their_mean, expected, atol=theirs_off)
  np.testing.assert_allclose(their_mean, our_mean, atol=ours_off + theirs_off)


def same_law(first, second):
  """Two-sample tests of location, shape and scale, at 1e-6 each."""
  shape = stats.ks_2samp(first, second).pvalue
  ratio = np.var(first) / np.var(second)
  scale = stats.f(len(first) - 1, len(second) - 1).cdf(ratio)
  return shape > ALPHA and ALPHA / 2 < scale < 1 - ALPHA / 2


@pytest.mark.parametrize('rotation_type', ROTATIONS)
@pytest.mark.parametrize('mechanism', MECHANISMS)
def test_with_noise_both_errors_have_the_same_law(mechanism, rotation_type):
  """False alarms: 2e-6; a stddev off by 10 % is rejected, on either side."""
  clients, dimension = 4, 2**15
  values = make_values(clients, dimension)
  factory = ours(1.0, clients, mechanism, rotation_type)
  our_mean, _ = mean_of(factory, values)
  their_mean, _ = mean_of(
    theirs(1.0, clients, mechanism, rotation_type), values
  )
  expected = clipped_mean(values)
  constants = factory.constants(factory.padded_dimension(dimension))
  # TFF sizes its noise for the clip norm alone, ours is for what rounding makes
  # of it.
  their_stddev = CLIP / clients
  our_stddev = their_stddev * constants.sensitivity / constants.scale
  our_errors = (our_mean - expected) / our_stddev
  their_errors = (their_mean - expected) / their_stddev
  assert same_law(our_errors, their_errors)
  assert not same_law(0.9 * our_errors, their_errors)
  assert not same_law(1.1 * our_errors, their_errors)


class Cohort:
  """Clients that all send the same vector; one round of the mechanism."""

  dimension = 8000

  def __init__(self, **choices):
    factory = ours(0.05, 20, **choices)
    padded = factory.padded_dimension(self.dimension)
    self.round = round_lib.Round(
      factory.spec, [[self.dimension]], factory.constants(padded)
    )
    self._state = dict(self.round.initial_state())
    self._encode = tf.function(self.round.encode)
    self._decode = tf.function(self.round.decode)
    value = np.random.default_rng(1).normal(size=self.dimension)
    self.signal = CLIP * value / np.linalg.norm(value)

  def run(self, contributors):
    modulus = self.round.constants.modulus
    value = [tf.constant(self.signal, tf.float32)]
    sent = [self._encode(self._state, value) for _ in range(contributors)]
    total = np.sum(sent, axis=0, dtype=np.int64) % modulus
    _, mean, measured = self._decode(self._state, total.astype(np.int32))
    measured = {name: value.numpy() for name, value in measured.items()}
    return mean[0].numpy().astype(np.float64), measured


def fits_theory(mean, signal, stddev):
  """Chi-square on the errors, and a normal test along the signal."""
  errors = (mean - signal) / stddev
  chi_square = stats.chi2(len(errors)).cdf(np.sum(errors**2))
  along = errors @ signal / np.linalg.norm(signal)
  return ALPHA / 2 < chi_square < 1 - ALPHA / 2 and abs(along) < stats.norm.isf(
    ALPHA / 2
  )


def check_power(mean, signal, stddev):
  assert fits_theory(mean, signal, stddev)
  assert not fits_theory(mean, signal, 0.9 * stddev)
  assert not fits_theory(mean, signal, 1.1 * stddev)
  assert not fits_theory(mean, 0.9 * signal, stddev)
  assert not fits_theory(mean, 1.1 * signal, stddev)


@pytest.fixture(scope='module', params=MECHANISMS)
def mechanism(request):
  return request.param


@pytest.fixture(scope='module', params=ROTATIONS)
def rotation_type(request):
  return request.param


def test_fixed_cohorts_match_theory(mechanism, rotation_type):
  """False alarms: 2e-6 a cohort; the right one and one of half the size."""
  cohort = Cohort(mechanism=mechanism, rotation_type=rotation_type)
  constants = cohort.round.constants
  for contributors in (20, 10):
    mean, measured = cohort.run(contributors)
    share = CLIP * constants.share_stddev / constants.scale
    check_power(mean, cohort.signal, share / math.sqrt(contributors))
    assert measured['contributors'] == contributors
    expected = constants.noise_multiplier(contributors)
    assert measured['effective_noise_multiplier'] == pytest.approx(expected)


def test_poisson_cohorts_match_theory(mechanism, rotation_type):
  """False alarms: 2e-6 a cohort; few, as many as expected, and the most.

  The variance is that of `max_contributors` shares whatever the number is, and
  the mean is over the expected number.
  """
  cohort = Cohort(
    mechanism=mechanism,
    rotation_type=rotation_type,
    cohorts='poisson',
    min_contributors=15,
    max_contributors=28,
  )
  constants = cohort.round.constants
  stddev = CLIP * constants.share_stddev / constants.scale * math.sqrt(28) / 20
  for contributors in (15, 20, 28):
    mean, measured = cohort.run(contributors)
    check_power(mean, cohort.signal * contributors / 20, stddev)
    assert not measured['aborted']
    assert measured['effective_noise_multiplier'] == pytest.approx(
      0.05 * math.sqrt(28 / 15)
    )


def test_a_shortfall_aborts_in_the_runtime_too():
  values = make_values(3, 5)
  choices = (1.0, 4, 'distributed_dgauss', 'hd')
  mean, measured = mean_of(ours(*choices, min_contributors=4), values)
  np.testing.assert_array_equal(mean, np.zeros(5))
  assert measured['aborted']
  assert measured['contributors'] == 3
  mean, measured = mean_of(ours(*choices), values)
  assert not measured['aborted']
  assert measured['effective_noise_multiplier'] == pytest.approx(
    math.sqrt(3 / 4)
  )


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_a_corrupt_client_counts_and_contributes_nothing(bad):
  values = [np.ones(5, np.float32)] * 3 + [np.float32([0, bad, 0, 0, 0])]
  mean, measured = mean_of(ours(0.0, 4, 'distributed_dgauss', 'hd'), values)
  expected = 0.75 * CLIP / math.sqrt(5)
  np.testing.assert_allclose(mean, np.full(5, expected), atol=1e-3)
  assert measured['contributors'] == 4
