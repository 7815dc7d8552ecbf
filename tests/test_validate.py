# SPDX-License-Identifier: Apache-2.0
"""Every check: what passes, what is refused, and what the refusal says."""

import math

import numpy as np
import pytest

from tff_secagg_ext import _validate


def test_numbers_come_back_as_plain_python_values():
  assert type(_validate.check_int(np.int32(3), 'n')) is int
  assert type(_validate.check_float(np.float32(0.5), 'x')) is float
  assert type(_validate.check_float(2, 'x')) is float


@pytest.mark.parametrize('value', [1.0, '1', True, None, math.nan])
def test_what_is_no_integer_is_a_type_error(value):
  with pytest.raises(TypeError, match=r'`n` must be an integer\. Found'):
    _validate.check_int(value, 'n')


def test_integers_outside_their_range_are_named_with_a_remedy():
  with pytest.raises(ValueError, match=r'at least 1\. Found 0\. Add clients'):
    _validate.check_int(0, 'n', minimum=1, remedy='Add clients.')
  with pytest.raises(ValueError, match=r'`n` must be at most 30\. Found 31\.$'):
    _validate.check_int(31, 'n', maximum=30)


@pytest.mark.parametrize('value', ['1', True, None, 1j])
def test_what_is_no_real_number_is_a_type_error(value):
  with pytest.raises(TypeError, match='`x` must be a real number'):
    _validate.check_float(value, 'x')


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_numbers_must_be_finite(value):
  with pytest.raises(ValueError, match=r'`x` must be finite\. Found'):
    _validate.check_float(value, 'x')


def test_ends_belong_to_a_range_unless_it_is_exclusive():
  assert _validate.check_float(0, 'x', minimum=0, maximum=1) == 0
  with pytest.raises(ValueError, match=r'in \(0, 1\)'):
    _validate.check_float(0, 'x', minimum=0, maximum=1, exclusive=True)
  with pytest.raises(ValueError, match=r'in \[0, 1\]'):
    _validate.check_float(1.5, 'x', minimum=0, maximum=1)


def test_bools_and_choices():
  assert _validate.check_bool(False, 'b') is False
  with pytest.raises(TypeError, match=r'`b` must be True or False\. Found 1'):
    _validate.check_bool(1, 'b')
  assert _validate.check_choice('a', 'c', ('a', 'b')) == 'a'
  with pytest.raises(TypeError, match="a string, 'a' or 'b'"):
    _validate.check_choice(1, 'c', ('a', 'b'))
  with pytest.raises(ValueError, match=r"'a' or 'b'\. Found 'z'"):
    _validate.check_choice('z', 'c', ('a', 'b'))


def test_the_name_most_like_another_is_the_remedy():
  known = ['one_run', 'one_shot', "it's"]
  assert _validate.nearest('one_shoot', known) == " The nearest is 'one_shot'."
  assert _validate.nearest('its', known) == ' The nearest is "it\'s".'
  shown = _validate.nearest('one_rum', known, '`{}`'.format)
  assert shown == ' The nearest is `one_run`.'
  assert _validate.nearest('gate', known) == ''
  assert _validate.nearest(7, known) == ''
