# SPDX-License-Identifier: Apache-2.0
"""Events and rounds: what they refuse, and that they do not change."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tff_secagg_ext import accounting

_EVENT = accounting.NoisedSumEvent('distributed_dgauss', 100.0, 10.0, 20, 64)


def test_event_is_frozen() -> None:
  with pytest.raises(dataclasses.FrozenInstanceError):
    _EVENT.client_shares = 5  # type: ignore[misc]


def test_numpy_scalars_become_python_values() -> None:
  event = accounting.NoisedSumEvent(
    'distributed_dgauss',
    np.float32(100.0),
    np.float64(10.0),
    np.int64(20),
    np.int32(64),
  )
  assert event == _EVENT
  assert hash(event) == hash(_EVENT)
  assert type(event.client_shares) is int
  assert type(event.l2_sensitivity) is float


@pytest.mark.parametrize(
  ('field', 'value', 'error', 'match'),
  [
    ('mechanism', 'laplace', ValueError, "'distributed_dgauss' or"),
    ('mechanism', 3, TypeError, 'must be a string'),
    ('l2_sensitivity', 0.0, ValueError, r'must be above 0\. Found 0\.0'),
    ('l2_sensitivity', -1.0, ValueError, 'after rounding, in integer units'),
    ('l2_sensitivity', float('nan'), ValueError, 'must be finite'),
    ('share_stddev', -0.5, ValueError, 'stddev|standard deviation'),
    ('share_stddev', '1', TypeError, 'must be a real number'),
    ('client_shares', -1, ValueError, 'at least 0'),
    ('client_shares', 2.5, TypeError, 'must be an integer'),
    ('client_shares', True, TypeError, 'must be an integer'),
    ('dimension', 0, ValueError, 'at least 1'),
    ('server_shares', -1, ValueError, 'at least 0'),
    ('colluders', -1, ValueError, 'at least 0'),
  ],
)
def test_noised_sum_refuses(
  field: str, value: object, error: type[Exception], match: str
) -> None:
  with pytest.raises(error, match=match):
    dataclasses.replace(_EVENT, **{field: value})


@pytest.mark.parametrize(
  ('reasons', 'error', 'match'),
  [
    ('exact count', TypeError, 'tuple of phrases'),
    (7, TypeError, 'tuple of phrases'),
    ((), ValueError, 'at least one thing'),
    (('ok', ' '), ValueError, 'no empty one'),
    ((1,), TypeError, 'strings only'),
  ],
)
def test_unaccounted_refuses(
  reasons: object, error: type[Exception], match: str
) -> None:
  with pytest.raises(error, match=match):
    accounting.UnaccountedEvent(reasons)  # type: ignore[arg-type]


@pytest.mark.parametrize(
  ('changes', 'error', 'match'),
  [
    ({'name': ' '}, ValueError, '`name` must not be empty'),
    ({'by': ''}, ValueError, '`by` must not be empty. Found'),
    ({'why': None}, TypeError, '`why` must be a string. Found None'),
  ],
)
def test_waiver_refuses(
  changes: dict[str, object], error: type[Exception], match: str
) -> None:
  fields = {'name': 'count is exact', 'by': 'somebody', 'why': 'public'}
  with pytest.raises(error, match=match):
    accounting.Waiver(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
  ('changes', 'error', 'match'),
  [
    ({'l2_sensitivity': 0.0}, ValueError, 'must be above 0. Found 0.0. Give'),
    ({'l2_sensitivity': 'x'}, TypeError, '`l2_sensitivity`'),
    ({'stddev': -1.0}, ValueError, 'standard deviation of the noise on the'),
    ({'name': ' '}, ValueError, '`name` must name at least one thing'),
    ({'name': 3}, TypeError, '`name` must hold strings only'),
  ],
)
def test_central_gaussian_refuses(
  changes: dict[str, object], error: type[Exception], match: str
) -> None:
  fields = {'l2_sensitivity': 1.0, 'stddev': 1.0, 'name': 'sum'}
  with pytest.raises(error, match=match):
    accounting.CentralGaussianEvent(**{**fields, **changes})  # type: ignore[arg-type]


def test_seen_by_server_refuses_no_reasons() -> None:
  with pytest.raises(ValueError, match='at least one thing'):
    accounting.SeenByServerEvent(())


def test_unaccounted_takes_any_iterable_of_phrases() -> None:
  assert accounting.UnaccountedEvent(['a', 'b']).reasons == ('a', 'b')


@pytest.mark.parametrize(
  ('events', 'sampling', 'match'),
  [
    (_EVENT, accounting.NoSampling(), 'tuple of events'),
    (5, accounting.NoSampling(), 'tuple of events'),
    (('x',), accounting.NoSampling(), 'UnaccountedEvent'),
    ((_EVENT,), 0.1, 'Without a claim, give NoSampling'),
    ((_EVENT,), None, 'FixedSizeSampling or RandomAllocation'),
  ],
)
def test_round_refuses(events: object, sampling: object, match: str) -> None:
  with pytest.raises(TypeError, match=match):
    accounting.Round(events, sampling)  # type: ignore[arg-type]


def test_round_is_hashable_whatever_sequence_it_was_given() -> None:
  one = accounting.Round([_EVENT], accounting.NoSampling())  # type: ignore[arg-type]
  other = accounting.Round((_EVENT,), accounting.NoSampling())
  assert one == other
  assert hash(one) == hash(other)
