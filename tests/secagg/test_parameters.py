# SPDX-License-Identifier: Apache-2.0
"""Neighbors and threshold: published values, exact oracles, what would do."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
import math
import re
import time

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from tests.oracles import parameters as oracle
from tff_secagg_ext.secagg import errors, parameters
from tff_secagg_ext.secagg.parameters import Parameters
from tff_secagg_ext.secagg.setup import Security

# Seconds, for 10^5 clients. The goal is 0.2; a busy machine must not fail it.
DERIVE_LIMIT = 1.0

# Corrupt, dropout, clients, (k, t) of 'curious' and of 'semi-malicious': the
# tables of Google's parameter finder.
PUBLISHED = [
  (0.05, 0.05, 100, (12, 6), (16, 11)),
  (0.05, 0.05, 1_000, (30, 17), (52, 37)),
  (0.05, 0.05, 10_000, (34, 20), (62, 44)),
  (0.05, 0.05, 100_000, (36, 21), (68, 48)),
  (0.1, 0.3, 1_000, (88, 36), (414, 247)),
  (0.33, 0.33, 1_000, (286, 150), None),
]

hundredths = st.integers(0, 60).map(lambda number: number / 100)
threats = st.sampled_from(['curious', 'semi-malicious'])
cohorts = st.builds(Security, threats, hundredths, hundredths)


def derive(clients: int, security: Security, *bits: int):
  """Returns (k, t), or None if there are none."""
  try:
    found = parameters.derive(clients, security, *bits)
  except ValueError:
    return None
  return found.neighbors, found.threshold


def counts(clients: int, security: Security) -> tuple[int, int, int]:
  """Returns clients, corrupt ones, dropouts, by decimal fractions."""
  corrupt = Fraction(str(security.corrupt)) * clients
  dropouts = Fraction(str(security.dropout)) * clients
  return clients, math.floor(corrupt), math.floor(dropouts)


@pytest.mark.parametrize(
  ['corrupt', 'dropout', 'clients', 'curious', 'active'], PUBLISHED
)
def test_published_values(corrupt, dropout, clients, curious, active):
  def found(threat: str):
    return derive(clients, Security(threat, corrupt, dropout))

  assert found('curious') == curious
  assert found('semi-malicious') == active
  assert found('malicious') == active


@settings(deadline=None, max_examples=300)
@given(st.integers(2, 50), cohorts, st.integers(1, 40), st.integers(1, 20))
def test_exact_fractions_find_the_same(clients, security, sigma, eta):
  weight = 2 if security.active else 1
  expected = None
  if round(security.corrupt + weight * security.dropout, 9) <= 0.9:
    expected = oracle.derive(
      counts(clients, security), security.active, sigma, eta
    )
  assert derive(clients, security, sigma, eta) == expected


@pytest.mark.parametrize(
  'security', [Security(), Security('curious', 0.2, 0.2)]
)
@pytest.mark.parametrize('clients', [120, 400, 1_500])
def test_exact_fractions_confirm_larger_cohorts(clients, security):
  """The found pair is sound, and neither t - 1 nor k - 2 is."""
  k, t = derive(clients, security)
  cohort = counts(clients, security)

  def is_sound(k: int, t: int) -> bool:
    return oracle.is_sound(cohort, k, t, security.active, 40, 20)

  assert k < clients - 1
  assert is_sound(k, t)
  assert not is_sound(k, t - 1)
  assert not any(is_sound(k - 2, t) for t in range(1, k - 1))


@pytest.mark.parametrize('clients', range(2, 31))
def test_small_cohorts_are_exact(clients):
  """40 bits leave no room for luck: all of the corrupt may be neighbors."""
  for threat in ('curious', 'semi-malicious'):
    security = Security(threat, 0.2, 0.2)
    k, t = derive(clients, security)
    _, corrupt, dropouts = counts(clients, security)
    bad = min(k, corrupt)
    assert t <= max(0, k - dropouts)
    assert not oracle.both_open(k, t, bad) if security.active else bad < t
    assert k == clients - 1 or corrupt + dropouts < k


def test_one_client_has_no_neighbors_and_two_have_each_other():
  assert derive(1, Security()) == (0, 0)
  assert derive(1, Security(neighbors=4, threshold=3)) == (0, 0)
  for threat in ('curious', 'semi-malicious', 'malicious'):
    assert derive(2, Security(threat)) == (1, 1)
    # The other one is corrupt: there is nobody to hide among.
    assert derive(2, Security(threat, corrupt=0.5)) is None


@pytest.mark.parametrize(
  ['clients', 'k', 'bad'], [(8, 2, 3), (9, 4, 5), (11, 4, 6), (12, 6, 8)]
)
def test_union_bound_holds_for_every_set_that_leaves(clients, k, bad):
  exact = oracle.parted(clients, k, bad)
  assert 0 < exact <= oracle.parted_bound(clients, k, bad)


def test_cutting_by_choice_is_as_unlikely_as_the_module_says():
  def log2(clients: int) -> float:
    k, t = derive(clients, Security('malicious', 0.05, 0.05))
    corrupt = clients // 20
    return math.log2(oracle.cut_by_choice(clients, corrupt, k, t))

  assert -40 < log2(1_000) < -39
  assert -31 < log2(100_000) < -30


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 5_000), cohorts, hundredths, hundredths)
def test_more_of_anything_bad_needs_no_fewer_neighbors(
  clients, security, corrupt, dropout
):
  def neighbors(security: Security, *bits: int) -> float:
    found = derive(clients, security, *bits)
    return math.inf if found is None else found[0]

  k = neighbors(security)
  more = dataclasses.replace
  worse = more(security, corrupt=max(corrupt, security.corrupt))
  assert neighbors(worse) >= k
  worse = more(security, dropout=max(dropout, security.dropout))
  assert neighbors(worse) >= k
  assert neighbors(more(security, threat='malicious')) >= k
  assert neighbors(security, 41, 20) >= k
  assert neighbors(security, 40, 21) >= k


@pytest.mark.parametrize(
  'security', [Security(), Security('malicious', 0.3, 0.3)]
)
def test_deriving_for_many_clients_is_quick(security):
  start = time.perf_counter()
  parameters.derive(99_999, security)
  assert time.perf_counter() - start < DERIVE_LIMIT


def test_fractions_that_are_integers_but_for_rounding():
  assert 0.29 * 100 < 29
  security = Security('curious', corrupt=0.0, dropout=0.29)
  assert parameters.least_survivors(100, security) == 71


@settings(deadline=None)
@given(st.integers(2, 40), cohorts)
def test_each_remedy_would_do(clients, security):
  try:
    parameters.derive(clients, security)
  except ValueError as error:
    _, _, remedies = str(error).rstrip('.').partition('would do: ')
  else:
    return
  for remedy in filter(None, remedies.split('; ')):
    changed, number = security, clients
    if match := re.fullmatch(r'`(corrupt|dropout)` up to (\S+)', remedy):
      name, value = match[1], float(match[2])
      changed = dataclasses.replace(security, **{name: value})
      larger = dataclasses.replace(security, **{name: value + 1e-4})
      assert derive(clients, larger) is None
    elif match := re.fullmatch(r'(\d+) clients', remedy):
      number = int(match[1])
    else:
      assert remedy == "`threat` 'curious'"
      changed = dataclasses.replace(security, threat='curious')
    assert derive(number, changed) is not None


@pytest.mark.parametrize(
  ['clients', 'security', 'message'],
  [
    (
      1_000,
      Security('semi-malicious', 0.33, 0.33),
      r'^`corrupt` \+ 2 \* `dropout` must be at most 0\.9 in the class'
      r" 'semi-malicious'\. Found 0\.33 \+ 2 \* 0\.33 = 0\.99\. Each of these"
      r' would do: `corrupt` up to 0\.24; `dropout` up to 0\.285; `threat`'
      r" 'curious'\.$",
    ),
    (
      1_000,
      Security('curious', 0.5, 0.95),
      r'must be at most 0\.9 .* Found 0\.5 \+ 0\.95 = 1\.45\. .* would do:'
      r' `dropout` up to 0\.4\.$',
    ),
    (
      1_000,
      Security('malicious', 0.95, 0.95),
      r'Found 0\.95 \+ 2 \* 0\.95 = 2\.85\. Lower both fractions\.$',
    ),
    (
      3,
      Security('curious', 0.0, 0.9),
      r'^The corrupt clients \+ the dropouts must be fewer than n - 1 = 2 for 3'
      r" clients in the class 'curious'\. Found 0 \+ 2\. Each of these would"
      r' do: `dropout` up to 0\.6666; 11 clients\.$',
    ),
    (
      5,
      Security('malicious', 0.1, 0.4),
      r'^The corrupt clients \+ 2 \* the dropouts must be fewer than n - 1 = 4'
      r" for 5 clients in the class 'malicious'\. Found 0 \+ 2 \* 2\. Each of"
      r" these would do: `dropout` up to 0\.3999; `threat` 'curious'; 6"
      r' clients\.$',
    ),
  ],
)
def test_infeasible_requests_are_refused_with_what_would_do(
  clients, security, message
):
  with pytest.raises(ValueError, match=message):
    parameters.derive(clients, security)


def test_named_numbers_are_taken():
  security = Security('malicious', neighbors=10, threshold=7)
  assert derive(100, security) == (10, 7)
  assert derive(9, security) == (8, 7)
  assert derive(8, security) == (7, 7)
  assert derive(8, Security(neighbors=7, threshold=4)) == (7, 4)


@pytest.mark.parametrize(
  ['clients', 'security', 'message'],
  [
    (
      7,
      Security(neighbors=10, threshold=7),
      r'`threshold` must be at most the number of neighbors, 6 for 7 clients\.'
      r' Found 7\. Lower it',
    ),
    (
      9,
      Security(neighbors=5, threshold=4),
      r'`neighbors` must be even, or at least 8: all, for 9 clients\. Found 5\.'
      r' Take 6\.',
    ),
    (
      9,
      Security('semi-malicious', neighbors=6, threshold=3),
      r'`threshold` must be above half of the 6 neighbors in the class'
      r" 'semi-malicious'\. Found 3\. Take 4 and half",
    ),
  ],
)
def test_named_numbers_that_do_not_fit_are_refused(clients, security, message):
  with pytest.raises(ValueError, match=message):
    parameters.derive(clients, security)


@pytest.mark.parametrize(
  ['args', 'error', 'message'],
  [
    ((0, Security()), ValueError, '`clients` must be at least 1'),
    ((2.0, Security()), TypeError, '`clients` must be an integer'),
    ((10, Security(), 0), ValueError, '`sigma` must be at least 1'),
    ((10, Security(), 40, 0), ValueError, '`eta` must be at least 1'),
    ((10, 'malicious'), TypeError, "must be a `Security`. Found 'malicious'"),
  ],
)
def test_bad_arguments_are_refused(args, error, message):
  with pytest.raises(error, match=message):
    parameters.derive(*args)


def test_as_many_must_survive_as_do_not_part_a_sparse_graph():
  sparse = Security('curious', dropout=0.1)
  assert derive(50, sparse)[0] < 49
  assert parameters.least_survivors(50, sparse) == 45
  # The complete graph is of one piece, whoever is left.
  complete = Security('curious', neighbors=1_000, threshold=30)
  assert parameters.least_survivors(50, complete) == 1
  assert parameters.least_survivors(1, sparse) == 1


def test_a_client_accepts_what_it_derives_itself():
  parameters.check(1_000, 52, 37, Security('malicious', 0.05, 0.05))
  parameters.check(9, 8, 7, Security(neighbors=10, threshold=7))
  parameters.check(1, 0, 0, Security())


@pytest.mark.parametrize('asked', [(52, 36), (52, 38), (50, 37), (54, 37)])
def test_a_client_refuses_other_numbers(asked):
  security = Security('malicious', 0.05, 0.05)
  with pytest.raises(
    errors.LoweredThreshold,
    match=f'asks for {asked[0]} neighbors and threshold {asked[1]}. Expected 52'
    " and 37 for 1000 clients in the class 'malicious'",
  ):
    parameters.check(1_000, *asked, security)


def test_a_client_refuses_a_cohort_that_nothing_protects():
  with pytest.raises(errors.LoweredThreshold, match='must be at most 0'):
    parameters.check(1_000, 999, 665, Security('malicious', 0.33, 0.33))
  with pytest.raises(errors.LoweredThreshold, match='Lower it'):
    parameters.check(3, 2, 2, Security(neighbors=4, threshold=3))


def test_parameters_are_values():
  assert parameters.derive(100, Security('curious', 0.05, 0.05)) == Parameters(
    neighbors=12, threshold=6
  )
