# SPDX-License-Identifier: Apache-2.0
"""Checks of arrays."""

from __future__ import annotations

import numpy as np
import pytest

from tff_secagg_ext.audit import checks


def test_numbers_of_every_kind_become_float64() -> None:
  for values in ([1, 2], np.float32([1, 2]), np.uint8([1, 2])):
    found = checks.check_array(values, 'x', (2,))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [1.0, 2.0])


def test_none_is_any_length_but_zero() -> None:
  assert checks.check_array(np.ones((3, 2)), 'x', (None, 2)).shape == (3, 2)
  with pytest.raises(
    ValueError, match=r'`x` must have the shape \[any, 2\]. F'
  ):
    checks.check_array(np.ones((0, 2)), 'x', (None, 2))


def test_remedy_is_told() -> None:
  with pytest.raises(
    ValueError, match=r'shape \[3\]. Found \[2\]. Flatten it.'
  ):
    checks.check_array([1.0, 2.0], 'x', (3,), 'Flatten it.')
  with pytest.raises(
    ValueError, match=r'Found 2 of 3 values that are not. Mend'
  ):
    checks.check_array([np.nan, 0.0, np.inf], 'x', (3,), 'Mend it.')


@pytest.mark.parametrize('values', [[True], ['a'], [1j], [None]])
def test_what_is_no_real_number(values: list[object]) -> None:
  with pytest.raises(
    TypeError, match=r'array of real numbers. Found the dtype'
  ):
    checks.check_array(values, 'x', (1,))


def test_flags() -> None:
  assert checks.check_flags([True, False], 'x', (2,)).tolist() == [True, False]
  with pytest.raises(TypeError, match=r'array of bool. Found the dtype int'):
    checks.check_flags([1, 0], 'x', (2,))
  with pytest.raises(ValueError, match=r'`x` must have the shape \[2\]. Found'):
    checks.check_flags([True], 'x', (2,))
