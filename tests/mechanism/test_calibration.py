# SPDX-License-Identifier: Apache-2.0
"""The constants: what they promise, and which bits are too few."""

import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from tests.mechanism.test_spec import make
from tff_secagg_ext.mechanism import calibration


@given(
  noise_multiplier=st.floats(0.1, 20),
  clients=st.integers(2, 1000),
  bits=st.integers(16, 30),
  log2_dimension=st.integers(1, 22),
  colluders=st.integers(0, 1),
)
def test_noise_multiplier_holds_after_rounding_without_colluders(
  noise_multiplier, clients, bits, log2_dimension, colluders
):
  spec = make(
    noise_multiplier=noise_multiplier,
    expected_clients_per_round=clients,
    bits=bits,
    max_colluders=colluders,
  )
  try:
    constants = calibration.calibrate(spec, 2**log2_dimension)
  except ValueError:
    return  # Too few bits; test_too_few_bits_are_refused looks at these.
  assert constants.noise_multiplier(clients - colluders) == pytest.approx(
    noise_multiplier
  )
  assert constants.wrap_probability(clients) <= spec.modclip_prob
  assert constants.norm_bound_squared < 2**62
  assert float(np.float32(constants.scale)) == constants.scale
  assert 0.5 <= constants.share_stddev <= 1e5


def test_the_scale_is_the_largest_that_fits():
  spec = make(bits=16)
  constants = calibration.calibrate(spec, 1024)
  larger = calibration._at_scale(spec, 1024, constants.scale * 1.001)
  assert larger.wrap_probability(100) > spec.modclip_prob


def test_scale_and_bound_of_a_known_case():
  """K = 3.89 deviations of sqrt((n s)^2/d + n/4 + z^2 bound^2) fill 2^15."""
  constants = calibration.calibrate(make(bits=16), 4096)
  k = 3.8905919
  bound = constants.norm_bound_squared
  variance = (100 * constants.scale) ** 2 / 4096 + 25 + bound
  assert k * math.sqrt(variance) == pytest.approx(2**15, rel=1e-3)


def test_without_noise_there_is_a_scale_and_no_share():
  constants = calibration.calibrate(make(noise_multiplier=0.0), 1024)
  assert constants.share_stddev == 0
  assert constants.scale > 1000


def test_more_bits_inflate_less():
  inflation = []
  for bits in (14, 16, 20):
    constants = calibration.calibrate(make(bits=bits), 2**20)
    inflation.append(constants.sensitivity / constants.scale)
  assert inflation == sorted(inflation, reverse=True)
  # The grid is no finer than needed for this.
  assert inflation[-1] < 1.01


@pytest.mark.parametrize(
  ['changes', 'dimension'],
  [
    ({'bits': 8}, 2**20),
    ({'bits': 2}, 16),
    ({'bits': 6, 'expected_clients_per_round': 100}, 16),
    ({'bits': 10, 'noise_multiplier': 1e-3}, 1024),
  ],
)
def test_too_few_bits_are_refused_with_the_bits_that_would_do(
  changes, dimension
):
  with pytest.raises(
    ValueError, match=r'Found \d+\. Use bits=\d+ or more'
  ) as e:
    calibration.calibrate(make(**changes), dimension)
  enough = int(str(e.value).split('bits=')[1].split(' ')[0])
  assert calibration.calibrate(make(**{**changes, 'bits': enough}), dimension)
  with pytest.raises(ValueError, match='Use bits='):
    calibration.calibrate(make(**{**changes, 'bits': enough - 1}), dimension)


def test_where_no_bits_would_do_the_error_says_so():
  spec = make(noise_multiplier=1e6, bits=30)
  with pytest.raises(ValueError, match='No number of bits up to 30 does'):
    calibration.calibrate(spec, 1024)
