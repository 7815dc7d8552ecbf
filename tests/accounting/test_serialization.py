# SPDX-License-Identifier: Apache-2.0
"""JSON records: exact, canonical, and strict."""

from __future__ import annotations

import json

import hypothesis
from hypothesis import strategies as st
import pytest

from tff_secagg_ext import accounting

_noised = st.builds(
  accounting.NoisedSumEvent,
  mechanism=st.sampled_from(['distributed_dgauss', 'distributed_skellam']),
  l2_sensitivity=st.floats(1e-300, 1e300),
  share_stddev=st.floats(0.0, 1e300),
  client_shares=st.integers(0, 2**70),
  dimension=st.integers(1, 2**40),
  server_shares=st.integers(0, 1000),
  colluders=st.integers(0, 1000),
)
_unaccounted = st.builds(
  accounting.UnaccountedEvent,
  reasons=st.lists(
    st.text(min_size=1).filter(lambda s: s.strip() != ''), min_size=1
  ).map(tuple),
)
_central = st.builds(
  accounting.CentralGaussianEvent,
  l2_sensitivity=st.floats(1e-300, 1e300),
  stddev=st.floats(0.0, 1e300),
  name=st.text(min_size=1).filter(lambda s: s.strip() != ''),
)
_seen = st.builds(
  accounting.SeenByServerEvent,
  reasons=st.just(('clipped count is exact',)),
)
_relation = st.sampled_from(['zero_out', 'substitution'])
_sampling = st.one_of(
  st.builds(accounting.NoSampling, _relation),
  st.builds(accounting.PoissonSampling, st.floats(1e-9, 1.0)),
  st.builds(accounting.FixedSizeSampling, st.integers(1, 9), st.just(9)),
  st.builds(
    accounting.RandomAllocation,
    st.integers(1, 9),
    st.just(9),
    st.text(),
    st.booleans(),
  ),
)
_text = st.text(min_size=1).filter(lambda s: s.strip() != '')
_waiver = st.builds(accounting.Waiver, _text, _text, _text)
_event = st.one_of(_noised, _central, _seen, _unaccounted, _waiver)
_round = st.builds(
  accounting.Round, st.lists(_event, max_size=3).map(tuple), _sampling
)


@hypothesis.given(st.one_of(_event, _sampling, _round))
def test_round_trip_is_exact_and_canonical(value: object) -> None:
  text = accounting.to_json(value)  # type: ignore[arg-type]
  read = accounting.from_json(text)
  assert read == value
  assert accounting.to_json(read) == text


def test_the_format_of_allocated_rounds() -> None:
  sampling = accounting.RandomAllocation(2, 10, 'a run/3', hidden=False)
  text = (
    '{"epoch":"a run/3","hidden":false,"kind":"random_allocation",'
    '"participations":2,"rounds":10,"version":3}'
  )
  assert accounting.to_json(sampling) == text
  assert accounting.from_json(text) == sampling


def test_the_format_of_version_1() -> None:
  a_round = accounting.Round(
    (
      accounting.NoisedSumEvent('distributed_dgauss', 1.5, 2.0, 3, 4, 5, 1),
      accounting.UnaccountedEvent(('count is exact',)),
    ),
    accounting.FixedSizeSampling(3, 10),
  )
  text = (
    '{"events":[{"client_shares":3,"colluders":1,"dimension":4,'
    '"kind":"noised_sum","l2_sensitivity":1.5,'
    '"mechanism":"distributed_dgauss","server_shares":5,"share_stddev":2.0,'
    '"version":1},{"kind":"unaccounted","reasons":["count is exact"],'
    '"version":1}],"kind":"round","sampling":{"adjacency":"zero_out",'
    '"cohort":3,"kind":"fixed_size_sampling","population":10,"version":1},'
    '"version":1}'
  )
  assert accounting.to_json(a_round) == text
  assert accounting.from_json(text) == a_round


def test_central_noise_and_what_the_server_sees_are_of_version_3() -> None:
  for event, text in (
    (
      accounting.CentralGaussianEvent(0.5, 5.0, 'clip quantile bit'),
      '{"kind":"central_gaussian","l2_sensitivity":0.5,'
      '"name":"clip quantile bit","stddev":5.0,"version":3}',
    ),
    (
      accounting.SeenByServerEvent(('clipped count is exact',)),
      '{"kind":"seen_by_server","reasons":["clipped count is exact"],'
      '"version":3}',
    ),
  ):
    assert accounting.to_json(event) == text
    assert accounting.from_json(text) == event


def test_a_waiver_is_of_version_2() -> None:
  waiver = accounting.Waiver('count is exact', 'A. Reviewer', 'it is public')
  text = (
    '{"by":"A. Reviewer","kind":"waiver","name":"count is exact","version":2,'
    '"why":"it is public"}'
  )
  assert accounting.to_json(waiver) == text
  assert accounting.from_json(text) == waiver
  with pytest.raises(ValueError, match='`version` must be 2'):
    accounting.from_json(text.replace('2', '1'))


_POISSON = {'kind': 'poisson_sampling', 'version': 1, 'probability': 0.5}


@pytest.mark.parametrize(
  ('changes', 'match'),
  [
    ({'kind': 'laplace'}, '`kind` must be one of'),
    ({'kind': ['round']}, '`kind` must be one of'),
    ({'version': 2}, 'or a later one'),
    ({'version': True}, '`version` must be 1. Found True'),
    ({'version': 1.0}, '`version` must be 1. Found 1.0'),
    ({'note': 'x'}, r"unknown \['note'\]"),
    ({'probability': 2.0}, 'over the population'),
  ],
)
def test_altered_records_are_refused(
  changes: dict[str, object], match: str
) -> None:
  with pytest.raises(ValueError, match=match):
    accounting.from_json(json.dumps({**_POISSON, **changes}))


@pytest.mark.parametrize(
  ('text', 'error', 'match'),
  [
    ('{', ValueError, 'must be valid JSON'),
    ('[]', ValueError, 'must be a JSON object'),
    ('{"kind":"no_sampling","version":1}', ValueError, "missing \\['adjac"),
    (
      '{"kind":"poisson_sampling","version":1,"probability":0.5,'
      '"probability":0.1}',
      ValueError,
      'each field once',
    ),
    (
      '{"kind":"poisson_sampling","version":1,"probability":NaN}',
      ValueError,
      'Numbers must be finite. Found NaN',
    ),
    (
      '{"kind":"poisson_sampling","version":1,"probability":"0.5"}',
      TypeError,
      'must be a real number',
    ),
    (
      '{"kind":"round","version":1,"events":[7],"sampling":{}}',
      ValueError,
      'must be a JSON object. Found 7',
    ),
    (b'{}', TypeError, 'must be a JSON string'),
  ],
)
def test_texts_that_to_json_does_not_write(
  text: str, error: type[Exception], match: str
) -> None:
  with pytest.raises(error, match=match):
    accounting.from_json(text)


def test_other_values_are_not_recorded() -> None:
  with pytest.raises(TypeError, match='Nothing else can be recorded'):
    accounting.to_json({'kind': 'round'})  # type: ignore[arg-type]
