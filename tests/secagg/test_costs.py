# SPDX-License-Identifier: Apache-2.0
"""Bytes as real sessions count them, seconds about as they take."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tff_secagg_ext._dropout_noise import DropoutNoise
from tff_secagg_ext.secagg import costs, errors, parameters, ring, simulation
from tff_secagg_ext.secagg.setup import (
  PlacedNoise,
  Security,
  Setup,
  VectorSpec,
)
from tff_secagg_ext.secagg.unit_costs import TYPICAL, measure_unit_costs

# A prediction is of the right size, on a machine that has other work, too.
FACTOR = 4.0

ONE = (VectorSpec('update', 1_000, 1 << 20),)
SEVERAL = (
  VectorSpec('zähler', 3, 2),
  VectorSpec('', 0, 5),
  VectorSpec('odd', 257, (1 << 31) - 1),
  VectorSpec('wide', 33, 1 << 62),
)
MANY = (
  VectorSpec('a', 20_000, 1 << 20),
  VectorSpec('b', 20_000, (1 << 32) - 5),
)


def setup(security: Security, verify: bool, specs=ONE) -> Setup:
  return Setup(bytes(32), 7, security, verify, 1, tuple(specs))


def run(clients: int, session: Setup, gone=()):
  """Returns the report of a session; those that are gone drop out at `mask`."""
  simulated = simulation.Simulation(
    session.security,
    verify=session.verify,
    min_survivors=session.min_survivors,
  )
  vectors = {s.name: np.ones(s.length, np.int64) for s in session.vectors}
  return simulated.run(
    range(clients),
    session.vectors,
    lambda _: vectors,
    dropouts=lambda stage, client: stage == 'mask' and client in gone,
  ).report


@pytest.mark.parametrize(
  ['clients', 'security', 'verify', 'specs'],
  [
    (1, Security(), True, ONE),
    (2, Security('curious'), False, SEVERAL),
    (7, Security('malicious', neighbors=6, threshold=5), True, SEVERAL),
    (7, Security('semi-malicious', neighbors=6, threshold=5), False, ONE),
    (20, Security('semi-malicious', neighbors=8, threshold=5), True, ONE),
    (33, Security('curious', neighbors=10, threshold=4), False, ONE),
    (41, Security(), True, SEVERAL),
  ],
)
def test_bytes_are_those_of_a_session(clients, security, verify, specs):
  session = setup(security, verify, specs)
  report = run(clients, session)
  cost = costs.predict(clients, session)
  assert cost.client.upload == report.upload_bytes
  assert cost.client.download == report.download_bytes
  assert cost.client == costs.traffic(clients, session)
  assert cost.expansion == report.expansion
  assert cost.server_bytes == clients * cost.client.total
  assert dataclasses.astuple(cost.parameters) == (
    report.neighbors,
    report.threshold,
  )


NOISE = DropoutNoise('distributed_dgauss', 60.0, 990, 1 << 20, 20, 6)
NOISED = (VectorSpec('update', 1_000, 1 << 20, (PlacedNoise(4, NOISE),)),)


@pytest.mark.parametrize(
  'security',
  [
    Security('curious', neighbors=8, threshold=3),
    Security('malicious', neighbors=19, threshold=10),
  ],
)
def test_bytes_with_layers_are_those_of_a_session(security):
  session = Setup(bytes(32), 7, security, False, 14, NOISED)
  report = run(20, session)
  cost = costs.predict(20, session)
  assert cost.client.upload == report.upload_bytes
  assert cost.client.download == report.download_bytes
  without = costs.traffic(20, setup(security, False))
  k = cost.parameters.neighbors
  # Six seeds shared with each neighbor, of which one is revealed.
  assert cost.client.upload - without.upload == k * 7 * 32
  assert cost.client.download - without.download == k * 6 * 32 + 4 + 33


def test_a_session_that_is_refused_has_no_cost():
  security = Security('malicious', neighbors=8, threshold=5)
  session = Setup(bytes(32), 7, security, False, 14, NOISED)
  with pytest.raises(errors.BadNeighbors, match='needs the complete graph'):
    costs.predict(20, session)


def test_seconds_grow_with_the_layers_that_are_taken_off():
  security = Security('curious', neighbors=8, threshold=3)
  session = Setup(bytes(32), 7, security, False, 14, NOISED)
  plain = setup(security, False)
  client = [costs.predict(20, s).client_seconds for s in (plain, session)]
  layers = 6 * (990 * TYPICAL.noise + TYPICAL.derivation)
  shares = 6 * 8 * 3 * TYPICAL.share
  traffic = [costs.traffic(20, s).total for s in (plain, session)]
  hashed = (traffic[1] - traffic[0]) * TYPICAL.hashed
  assert client[1] - client[0] == pytest.approx(layers + shares + hashed)
  # With 6 dropouts none is taken off, with 1 five are.
  none, five = (
    costs.predict(20, session, dropouts=lost).server_seconds
    - costs.predict(20, plain, dropouts=lost).server_seconds
    for lost in (6, 1)
  )
  assert none == pytest.approx(20 * hashed)
  expected = 19 * (layers * 5 / 6 + 3 * TYPICAL.rebuilt)
  assert five - none == pytest.approx(expected)


@pytest.mark.parametrize('threat', ['curious', 'malicious'])
def test_dropouts_make_no_more_bytes(threat):
  session = setup(Security(threat, 0.0, 0.2), threat == 'malicious')
  report = run(30, session, gone=(3, 4, 20))
  most = costs.traffic(30, session)
  assert report.survivors == 27
  assert 0.9 * most.upload < report.upload_bytes <= most.upload
  assert 0.9 * most.download < report.download_bytes <= most.download


def test_nothing_to_sum_expands_without_bound():
  session = setup(Security(), True, [VectorSpec('none', 0, 2)])
  assert costs.predict(5, session).expansion == math.inf


@pytest.mark.parametrize(
  ['clients', 'length', 'published'],
  [(1 << 10, 1 << 20, 1.73), (1 << 14, 1 << 24, 1.98)],
)
def test_published_planning_figures(clients, length, published):
  figure = costs.bonawitz_expansion(clients, length)
  assert round(figure, 2) == published
  # The same from the bytes of each direction, counted message by message.
  modulus = costs.planning_modulus(clients)
  bits = math.ceil(math.log2(modulus))
  counted = costs.bonawitz_traffic(clients, length, modulus)
  others = clients - 1
  assert counted.upload * 8 == (
    2 * 256 + 2 * others * 256 + clients * 256 + length * bits
  )
  assert counted.download * 8 == 2 * others * 256 + 2 * others * 256
  assert counted.total * 8 / (16 * length) == figure


def test_planning_modulus_holds_the_largest_sum():
  assert costs.planning_modulus(3) == 3 * 0xFFFF + 1
  # R = 2^16: 16 bits, and 3 keys.
  assert costs.bonawitz_expansion(1, 256) == (256 * 3 + 256 * 16) / (16 * 256)


@pytest.mark.parametrize(
  ['threat', 'verify'], [('curious', 0), ('malicious', 1)]
)
def test_upload_stays_below_the_formula(threat, verify):
  """20 bits, 100 clients, 100,000 coordinates, at the default fractions."""
  spec = VectorSpec('update', 100_000, 1 << 20)
  upload = costs.traffic(
    100, setup(Security(threat), bool(verify), [spec])
  ).upload
  assert upload < costs.bonawitz_traffic(100, 100_000, 1 << 20).upload
  assert upload < 0.33 * 8.7 * 100_000


@pytest.fixture(scope='module')
def measured():
  return measure_unit_costs()


def test_unit_costs_can_be_measured(measured):
  for name, seconds in dataclasses.asdict(measured).items():
    assert 0 <= seconds < 1e-3, name
    assert getattr(TYPICAL, name) > 0
  assert measured.mask_byte > 0
  assert measured.verification > measured.exchange > measured.sealing > 0


@pytest.mark.parametrize(
  ['clients', 'security', 'specs', 'dropouts'],
  [
    (20, Security('malicious', neighbors=19, threshold=14), MANY, 0),
    (40, Security('curious', neighbors=20, threshold=10), MANY, 4),
    (60, Security('semi-malicious'), ONE, 3),
  ],
)
def test_seconds_are_about_those_of_a_session(
  measured, clients, security, specs, dropouts
):
  session = setup(security, security.threat == 'malicious', specs)
  report = run(clients, session, gone=range(0, 7 * dropouts, 7))
  cost = costs.predict(clients, session, dropouts=dropouts, units=measured)
  assert report.survivors == clients - dropouts
  for predicted, seen in (
    (cost.client_seconds, report.client_seconds),
    (cost.server_seconds, report.server_seconds),
  ):
    assert seen / FACTOR < predicted < seen * FACTOR


def test_more_work_takes_longer():
  session = setup(Security(), True)
  cost = costs.predict(100, session)
  dropouts = costs.predict(100, session, dropouts=10)
  assert dropouts.server_seconds > cost.server_seconds
  assert dropouts.client_seconds == cost.client_seconds
  longer = setup(Security(), True, [VectorSpec('update', 2_000, 1 << 20)])
  assert costs.predict(100, longer).client_seconds > cost.client_seconds
  unverified = costs.predict(100, setup(Security(), False))
  assert unverified.client_seconds < cost.client_seconds


def test_raw_bytes_are_those_of_the_packed_vectors():
  cost = costs.predict(9, setup(Security(), True, SEVERAL))
  assert cost.raw_bytes == sum(
    ring.ring_of(spec).packed_bytes(spec.length) for spec in SEVERAL
  )
  assert cost.parameters == parameters.derive(9, Security())


def test_bad_arguments_are_refused():
  session = setup(Security(), True)
  with pytest.raises(ValueError, match='`dropouts` must be at most 9'):
    costs.predict(10, session, dropouts=10)
  with pytest.raises(ValueError, match='`clients` must be at least 1'):
    costs.traffic(0, session)
  with pytest.raises(ValueError, match='`length` must be at least 1'):
    costs.bonawitz_expansion(10, 0)
  with pytest.raises(ValueError, match='`modulus` must be at least 2'):
    costs.bonawitz_traffic(10, 1, 1)
  with pytest.raises(ValueError, match=r'must be at most 0\.9 in the class'):
    costs.traffic(10, setup(Security('malicious', 0.3, 0.4), True))
