# SPDX-License-Identifier: Apache-2.0
"""The options of a secure context, and who drops out."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tff_secagg_ext import execution


def test_options_say_what_they_take():
  for kwargs, kind, message in (
    ({'security': 'malicious'}, TypeError, '`security` must be a Security'),
    ({'dropouts': 0.1}, TypeError, '`dropouts` must be a Dropouts. Found 0.1'),
    ({'security': None}, TypeError, '`security` must be a Security'),
    ({'verify': 1}, TypeError, '`verify` must be True or False'),
    (
      {'min_contributors': 0},
      ValueError,
      '`min_contributors` must be at least',
    ),
    (
      {'insecure_aggregates': 'no'},
      ValueError,
      '`insecure_aggregates` must be',
    ),
    (
      {'protocol': 'none'},
      ValueError,
      "`protocol` must be 'secagg' or 'plain'",
    ),
    ({'batch_size': 0}, ValueError, '`batch_size` must be at least 1'),
  ):
    with pytest.raises(kind, match=re.escape(message)):
      execution.SecureOptions(**kwargs)


def test_a_context_takes_options_alone():
  for create in (
    execution.create_secure_context,
    execution.create_async_secure_context,
    execution.set_secure_context,
  ):
    with pytest.raises(TypeError, match='`options` must be a SecureOptions'):
      create('plain')


def test_dropouts_say_what_they_take():
  for at, kind, message in (
    (0.1, TypeError, '`at` must be a mapping from steps to'),
    ({'late': 0.1}, ValueError, "`stage` must be 'invite' or 'reveal' or"),
    ({'mask': 1.5}, ValueError, "`at['mask']` must be in [0, 1]. Found 1.5"),
    ({'mask': '3'}, TypeError, "`at['mask']`"),
    ({'share': [-1]}, ValueError, "`at['share']` must be at least 0"),
    ({'share': [0.5]}, TypeError, "`at['share']` must be an integer"),
  ):
    with pytest.raises(kind, match=re.escape(message)):
      execution.Dropouts(at)
  with pytest.raises(TypeError, match='`seed` must be an integer'):
    execution.Dropouts({}, seed='x')


def test_a_schedule_is_kept_in_every_round():
  dropouts = execution.Dropouts({'share': [3, 5], 'mask': {0}})
  for number in range(3):
    assert [i for i in range(9) if dropouts(number, 'share', i)] == [3, 5]
    assert [i for i in range(9) if dropouts(number, 'mask', i)] == [0]
    assert not any(dropouts(number, 'unmask', i) for i in range(9))


def test_coins_are_those_of_the_seed():
  dropouts = execution.Dropouts({'mask': 0.5}, seed=7)
  found = [i for i in range(16) if dropouts(3, 'mask', i)]
  # SHA-256 of '7 3 mask i', whose first bit is 0.
  assert found == [1, 4, 7, 8, 9]


def test_certain_coins():
  assert all(execution.Dropouts({'mask': 1.0})(0, 'mask', i) for i in range(99))
  assert not any(
    execution.Dropouts({'mask': 0.0})(0, 'mask', i) for i in range(99)
  )


def test_coins_have_their_probability_and_are_independent():
  at = {'share': 0.3, 'mask': 0.3}
  dropouts = execution.Dropouts(at, seed=1)
  draws = np.array(
    [
      [[dropouts(r, stage, i) for stage in at] for i in range(100)]
      for r in range(100)
    ]
  )
  # 10,000 coins each: six standard deviations are 0.0275.
  np.testing.assert_allclose(draws.mean(axis=(0, 1)), 0.3, atol=0.0275)
  assert abs(np.mean(draws[..., 0] & draws[..., 1]) - 0.09) < 0.0175
  assert abs(np.mean(draws[1:, :, 0] & draws[:-1, :, 0]) - 0.09) < 0.0175
  other = execution.Dropouts(at, seed=2)
  assert any(other(0, 'mask', i) != dropouts(0, 'mask', i) for i in range(100))
