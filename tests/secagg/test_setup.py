# SPDX-License-Identifier: Apache-2.0
"""What parties agree on: what is accepted, and what is refused with words."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from tff_secagg_ext.secagg.setup import (
  MAX_ID,
  MAX_MODULUS,
  Security,
  Setup,
  VectorSpec,
  check_id,
  modulus_for_sum,
)

VECTOR = VectorSpec('x', 3, 2**20)
SETUP = Setup(bytes(32), 0, Security(), True, 2, (VECTOR,))


@pytest.mark.parametrize('modulus', [2, 3, 2**62 - 1, 2**62])
def test_vectors_of_all_moduli(modulus: int):
  spec = VectorSpec('x', 0, modulus)
  assert (spec.length, spec.modulus) == (0, modulus)


def test_numbers_of_numpy_become_those_of_python():
  spec = VectorSpec('x', np.int64(3), np.uint32(8))
  security = Security(
    corrupt=np.float32(0), neighbors=np.int32(4), threshold=np.int32(2)
  )
  assert type(spec.length) is type(spec.modulus) is int
  assert type(security.corrupt) is float
  assert type(security.neighbors) is type(security.threshold) is int


@pytest.mark.parametrize(
  ('arguments', 'error', 'message'),
  [
    ((1, 3, 8), TypeError, '`name` must be a string. Found 1'),
    (('ä' * 128, 3, 8), ValueError, r'at most 255 bytes .* Found 256\. Short'),
    (('x', 3.0, 8), TypeError, r'`length` must be an integer. Found 3\.0'),
    (('x', -1, 8), ValueError, '`length` must be at least 0. Found -1'),
    (('x', 2**31 + 1, 8), ValueError, '`length` must be at most 2147483648'),
    (('x', 3, True), TypeError, '`modulus` must be an integer. Found True'),
    (('x', 3, 1), ValueError, '`modulus` must be at least 2. Found 1'),
    (('x', 3, MAX_MODULUS + 1), ValueError, '`modulus` must be at most 46116'),
  ],
)
def test_bad_vectors(arguments, error, message: str):
  with pytest.raises(error, match=message):
    VectorSpec(*arguments)


@given(st.integers(0, 2**40), st.integers(1, 2**20))
def test_a_sum_fits_in_its_modulus_and_not_in_half_of_it(maximum, clients):
  modulus = modulus_for_sum(maximum, clients)
  assert modulus & (modulus - 1) == 0
  assert maximum * clients < modulus
  assert modulus == 2 or maximum * clients >= modulus // 2


def test_a_sum_that_fits_in_no_modulus():
  assert modulus_for_sum((MAX_MODULUS - 1) // 3, 3) == MAX_MODULUS
  largest = (MAX_MODULUS - 1) // 3
  with pytest.raises(
    ValueError,
    match=f'`maximum` must be at most {largest} for 3 clients. Found'
    f' {largest + 1}. Sum fewer bits, or fewer clients',
  ):
    modulus_for_sum(largest + 1, 3)
  with pytest.raises(ValueError, match='`maximum` must be at least 0'):
    modulus_for_sum(-1, 3)
  with pytest.raises(ValueError, match='`clients` must be at least 1'):
    modulus_for_sum(1, 0)


@pytest.mark.parametrize(
  ('changes', 'error', 'message'),
  [
    ({'threat': 'x'}, ValueError, "`threat` must be 'curious' or"),
    ({'threat': 2}, TypeError, '`threat` must be a string'),
    ({'corrupt': 1.0}, ValueError, '`corrupt` must be below 1. Found 1.0'),
    ({'corrupt': -0.1}, ValueError, r'`corrupt` must be in \[0, inf\]'),
    ({'dropout': float('nan')}, ValueError, '`dropout` must be finite'),
    ({'dropout': '0'}, TypeError, '`dropout` must be a real number'),
    ({'dropout': 1.5}, ValueError, '`dropout` must be below 1. Found 1.5'),
    (
      {'neighbors': 3},
      ValueError,
      '`neighbors` and `threshold` must be given together. Found 3 and None',
    ),
    ({'threshold': 3}, ValueError, 'must be given together. Found None and 3'),
    (
      {'neighbors': 0, 'threshold': 1},
      ValueError,
      '`neighbors` must be at least 1. Found 0',
    ),
    (
      {'neighbors': 2**32, 'threshold': 1},
      ValueError,
      '`neighbors` must be at most 4294967295',
    ),
    (
      {'neighbors': 3, 'threshold': 4},
      ValueError,
      '`threshold` must be at most 3. Found 4',
    ),
    (
      {'neighbors': 3, 'threshold': 0},
      ValueError,
      '`threshold` must be at least 1. Found 0',
    ),
    (
      {'neighbors': 3, 'threshold': 1.0},
      TypeError,
      '`threshold` must be an integer',
    ),
  ],
)
def test_bad_assumptions(changes, error, message: str):
  with pytest.raises(error, match=message):
    Security(**changes)


def test_all_but_the_curious_class_run_the_active_protocol():
  assert not Security('curious').active
  assert Security('semi-malicious').active
  assert Security('malicious').active


@pytest.mark.parametrize(
  ('changes', 'error', 'message'),
  [
    ({'session': 'x' * 32}, TypeError, '`session` must be bytes'),
    (
      {'session': bytes(31)},
      ValueError,
      r'`session` must have 32 bytes. Found 31. Take them from os\.urandom',
    ),
    ({'round': -1}, ValueError, '`round` must be at least 0'),
    ({'round': 2**64}, ValueError, '`round` must be at most 18446744073709551'),
    ({'verify': 1}, TypeError, '`verify` must be True or False. Found 1'),
    ({'min_survivors': 0}, ValueError, '`min_survivors` must be at least 1'),
    ({'min_survivors': 2**32}, ValueError, '`min_survivors` must be at most 4'),
    (
      {'security': Security('curious')},
      ValueError,
      "`verify` must be False in the class 'curious'.* Use another class",
    ),
    ({'vectors': ()}, ValueError, r'`vectors` must be at least one.*\[\]'),
    (
      {'vectors': (VECTOR, VectorSpec('x', 1, 2))},
      ValueError,
      r"of different names. Found \['x', 'x'\]",
    ),
  ],
)
def test_bad_setups(changes, error, message: str):
  with pytest.raises(error, match=message):
    dataclasses.replace(SETUP, **changes)


@pytest.mark.parametrize('client', [0, np.int64(7), MAX_ID])
def test_ids(client):
  assert check_id(client) == client


@pytest.mark.parametrize(
  ('client', 'error', 'message'),
  [
    (-1, ValueError, '`client` must be at least 0'),
    (MAX_ID + 1, ValueError, '`client` must be at most 4294967295'),
    ('1', TypeError, '`client` must be an integer'),
  ],
)
def test_bad_ids(client, error, message: str):
  with pytest.raises(error, match=message):
    check_id(client)
