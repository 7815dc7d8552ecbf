# SPDX-License-Identifier: Apache-2.0
"""Noise that is exact after dropouts: layers, and sessions with them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
import dataclasses
from fractions import Fraction
import json
import os
import pathlib
import types
from typing import Any

import hypothesis
from hypothesis import strategies
import numpy as np
import pytest
from scipy import stats

from tests.oracles import layers as oracle
from tests.oracles import secagg as protocol
from tests.secagg import sessions
from tff_secagg_ext import _dropout_noise, _tables
from tff_secagg_ext._dropout_noise import DropoutNoise
from tff_secagg_ext.secagg import (
  client,
  errors,
  inspection,
  layers,
  messages,
  ring,
  transcript,
  unmasking,
)
from tff_secagg_ext.secagg.report import Outcome
from tff_secagg_ext.secagg.setup import (
  PlacedNoise,
  Security,
  Setup,
  VectorSpec,
)

MECHANISMS = _dropout_noise.MECHANISMS
NOISE = DropoutNoise('distributed_dgauss', 30.0, 5, 1 << 20, 7, 3)
PASSIVE = Security('curious', neighbors=8, threshold=4)
ACTIVE = Security('malicious', neighbors=8, threshold=5)
SPARSE = Security('curious', dropout=0.4, neighbors=6, threshold=2)
NINE = dataclasses.replace(NOISE, clients=9)


def as_oracle(noise: DropoutNoise, start: int = 0) -> oracle.Noise:
  law = MECHANISMS.index(noise.mechanism)
  return oracle.Noise(
    0,
    start,
    noise.dimension,
    law,
    noise.share_stddev,
    noise.clients,
    noise.dropouts,
    noise.colluders,
  )


# How much noise there is.


@hypothesis.given(strategies.data())
def test_share_and_layers_up_to_d_are_what_is_needed_after_d_dropouts(data):
  clients = data.draw(strategies.integers(2, 2000))
  colluders = data.draw(strategies.integers(0, clients - 2))
  dropouts = data.draw(strategies.integers(1, clients - colluders - 1))
  stddev = data.draw(strategies.floats(1, 50)) * clients**0.5
  try:
    noise = DropoutNoise(
      MECHANISMS[0], stddev, 1, 2, clients, dropouts, colluders
    )
  except ValueError:
    hypothesis.reject()
  lost = data.draw(strategies.integers(0, dropouts))
  contributors = clients - lost
  assert noise.layers_kept(contributors) == lost
  each = Fraction(stddev) ** 2 + sum(
    map(noise.layer_variance, range(1, lost + 1))
  )
  target = Fraction(stddev) ** 2 * (clients - colluders)
  assert each * (contributors - colluders) == target


def test_layers_of_ten_clients_of_which_three_may_drop_out():
  noise = DropoutNoise(MECHANISMS[0], 30.0, 5, 1 << 20, 10, 3)
  # S = 9000: S/90, S/72, S/56.
  assert [noise.layer_variance(j) for j in (1, 2, 3)] == [
    Fraction(100),
    Fraction(125),
    Fraction(9000, 56),
  ]
  assert noise.layer_variance(-1) == noise.layer_variance(3)
  assert noise.layer_stddevs(2) == pytest.approx((10.0, 125**0.5))
  assert [noise.layers_kept(m) for m in (12, 10, 9, 7)] == [0, 0, 1, 3]
  with pytest.raises(ValueError, match=r'At least 7 of 10 clients.*Found 6'):
    noise.layers_kept(6)


@pytest.mark.parametrize(
  ('changes', 'match'),
  [
    ({'mechanism': 'laplace'}, '`mechanism` must be'),
    ({'share_stddev': float('nan')}, '`share_stddev` must be finite'),
    ({'dropouts': 0}, '`dropouts` must be at least 1'),
    ({'dropouts': 7}, 'at most 6. Found 7. Somebody who does not collude'),
    ({'colluders': 4}, 'at most 2. Found 3. Somebody who does not collude'),
    ({'share_stddev': 0.5}, r'in \[1/4, 3000\]. Found 0.*more bits'),
    ({'share_stddev': 1e5}, r'in \[1/4, 3000\].*fewer if they are too wide'),
    ({'dimension': 0}, '`dimension` must be at least 1'),
    ({'modulus': 1}, '`modulus` must be at least 2'),
    ({'clients': 2**32}, '`clients` must be at most'),
  ],
)
def test_noise_that_is_none(changes: dict[str, object], match: str):
  with pytest.raises(ValueError, match=match):
    dataclasses.replace(NOISE, **changes)


# How a layer is drawn.


@pytest.mark.parametrize('mechanism', MECHANISMS)
@pytest.mark.parametrize('stddev', [2.0, 40.0, 200.0])
def test_a_layer_is_that_of_the_oracle(mechanism: str, stddev: float):
  noise = DropoutNoise(mechanism, stddev, 400, 1 << 20, 9, 2, 1)
  for layer in (1, 2):
    key = os.urandom(32)
    (drawn,) = layers.laws_of(noise)[layer - 1].draw(ring.Keystream(key), 400)
    assert drawn.tolist() == oracle.coordinates(key, as_oracle(noise), layer)


def test_a_long_layer_is_drawn_in_chunks(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(layers, 'CHUNK', 64)
  monkeypatch.setattr(oracle, 'CHUNK', 64)
  key = os.urandom(32)
  noise = dataclasses.replace(NOISE, dimension=150)
  chunks = list(layers.laws_of(noise)[0].draw(ring.Keystream(key), 150))
  assert [chunk.size for chunk in chunks] == [64, 64, 22]
  expected = oracle.coordinates(key, as_oracle(noise), 1)
  assert np.concatenate(chunks).tolist() == expected


class Scripted:
  """A keystream of given bytes."""

  def __init__(self, data: bytes):
    self._data = data

  def read(self, count: int) -> np.ndarray:
    taken, self._data = self._data[:count], self._data[count:]
    return np.frombuffer(taken, np.uint8)


@pytest.mark.parametrize('mechanism', MECHANISMS)
def test_the_last_bits_decide_at_a_threshold(mechanism: str):
  noise = dataclasses.replace(NOISE, mechanism=mechanism, dimension=1)
  (law, *_) = layers.laws_of(noise)
  for index in range(0, law.table.high.size, 7):
    high, low = int(law.table.high[index]), int(law.table.low[index])
    head = (high >> 32).to_bytes(2, 'little')
    middle = (high & 0xFFFFFFFF).to_bytes(4, 'little')
    for last, position in ((low, index + 1), (low - 1, index)):
      # The highest of the last 64 bits does not count.
      tail = (last + 2**63).to_bytes(8, 'little')
      (drawn,) = law.draw(Scripted(head + middle + tail), 1)
      assert drawn.tolist() == [position - law.centre]


@pytest.mark.parametrize('modulus', [1 << 5, 1 << 20, 1_000_003, 1 << 62])
def test_what_is_added_is_taken_off(modulus: int):
  noise = dataclasses.replace(NOISE, modulus=modulus)
  spec = VectorSpec('x', 9, modulus, (PlacedNoise(2, noise),))
  setup = Setup(bytes(32), 0, PASSIVE, False, 4, (spec,))
  modulo = ring.ring_of(spec)
  total = modulo.zeros(9)
  session, seed = (setup, bytes(32)), os.urandom(32)
  layers.apply(total, spec, session, (1, seed), 1)
  added = modulo.reduce(total).tolist()
  expected = [0] * 9
  for layer in (1, 2, 3):
    chained = oracle.seed_of(seed, layer)
    parts = oracle.layer_of(chained, bytes(32), 'x', as_oracle(noise, 2), layer)
    expected[2:7] = [a + b for a, b in zip(expected[2:7], parts, strict=True)]
  assert added == [value % modulus for value in expected]
  layers.apply(total, spec, session, (1, seed), -1)
  assert not modulo.reduce(total).any()


def test_seeds_are_a_chain_all_of_which_can_be_shared():
  setup = a_setup()
  draws = iter([b'\xff' * 32, bytes(range(32))])
  seeds = layers.draw_seeds(lambda _: next(draws), setup)
  assert list(seeds) == [oracle.seed_of(bytes(range(32)), j) for j in (1, 2, 3)]
  assert layers.draw_seeds(lambda _: b'', a_setup(noise=())) == ()


def a_setup(
  noise: tuple[PlacedNoise, ...] = (PlacedNoise(1, NOISE),),
  security: Security = PASSIVE,
  verify: bool = False,
  min_survivors: int = 4,
) -> Setup:
  spec = VectorSpec('x', 8, 1 << 20, noise)
  plain = VectorSpec('y', 8, 1 << 20)
  return Setup(bytes(32), 5, security, verify, min_survivors, (plain, spec))


# Setups.


def test_a_setup_with_noise_has_its_bytes():
  setup = a_setup()
  body = messages.encode_setup(setup)
  part = as_oracle(NOISE, 1)._replace(vector=1)
  without = messages.encode_setup(a_setup(noise=()))
  assert body == without + (1).to_bytes(4, 'little') + part.body
  assert messages.decode_setup(memoryview(body)) == setup
  assert messages.decode_setup(memoryview(without)) == a_setup(noise=())


def with_noise(setup: Setup, *parts: oracle.Noise) -> bytes:
  bare = [dataclasses.replace(spec, noise=()) for spec in setup.vectors]
  body = messages.encode_setup(dataclasses.replace(setup, vectors=tuple(bare)))
  count = len(parts).to_bytes(4, 'little')
  return body + count + b''.join(part.body for part in parts)


PART = as_oracle(NOISE, 1)._replace(vector=1)


@pytest.mark.parametrize(
  ('parts', 'match'),
  [
    ((), 'must be in the order of vectors'),
    ((PART, PART._replace(vector=0)), 'must be in the order of vectors'),
    ((PART, PART), 'ascending, none twice'),
    ((PART._replace(start=4),), 'must be of coordinates of the vector'),
    ((PART._replace(vector=2),), 'index out of range'),
    ((PART._replace(law=2),), 'index out of range'),
    ((PART._replace(dropouts=7),), '`dropouts` must be at most'),
    (
      (PART._replace(vector=0), PART._replace(dropouts=2)),
      'must be for the same clients and dropouts',
    ),
    ((PART._replace(clients=9),), '`min_survivors` must be at least 6'),
  ],
)
def test_setups_with_noise_that_are_none(
  parts: tuple[oracle.Noise, ...], match: str
):
  with pytest.raises(errors.MessageError, match=match):
    messages.decode_setup(memoryview(with_noise(a_setup(), *parts)))


def test_a_setup_with_noise_is_not_verified():
  with pytest.raises(ValueError, match='`verify` must be False with noise'):
    a_setup(security=ACTIVE, verify=True)


# Sessions: the sum is right to the bit, for whoever knows the seeds.


def drop(**stages: Collection[int]) -> Callable[[str, int], bool]:
  return lambda stage, who: who in stages.get(stage, ())


@dataclasses.dataclass
class Known:
  """A session, and the first seeds of its clients."""

  group: sessions.Group
  setup: Setup
  seeds: Mapping[int, bytes]

  def expected(self, survivors: Collection[int]) -> list[int]:
    """The sum with the layers that belong to it."""
    spec = self.setup.vectors[0]
    placed = spec.noise[0]
    noise = as_oracle(placed.noise, placed.start)
    digest = messages.setup_digest(messages.encode_setup(self.setup))
    total = sessions.sums_of(survivors, (spec,))[spec.name]
    for owner in survivors:
      for layer in range(1, noise.clients - len(survivors) + 1):
        seed = oracle.seed_of(self.seeds[owner], layer)
        drawn = oracle.layer_of(seed, digest, spec.name, noise, layer)
        for j, value in enumerate(drawn, placed.start):
          total[j] = (total[j] + value) % spec.modulus
    return total


def known_session(
  monkeypatch: pytest.MonkeyPatch,
  security: Security,
  noise: DropoutNoise,
  sharing: Collection[int] = range(9),
) -> Known:
  spec = VectorSpec('x', 8, noise.modulus, (PlacedNoise(1, noise),))
  group = sessions.Group(
    security,
    range(9),
    verify=False,
    min_survivors=noise.clients - noise.dropouts,
    specs=(spec, VectorSpec('count', 1, 1 << 20)),
  )
  seeds: dict[int, bytes] = {}
  real = layers.draw_seeds

  def note(draw: Callable[[int], bytes], setup: Setup) -> tuple[bytes, ...]:
    found = real(draw, setup)
    # Clients are asked in the order of their ids.
    seeds[next(ids)] = found[0]
    return found

  ids = iter(sharing)
  monkeypatch.setattr(layers, 'draw_seeds', note)
  return Known(group, group.setup(), seeds)


def run(known: Known, dropouts: Callable[[str, int], bool]) -> Outcome:
  transport = known.group.transport(dropouts)
  return known.group.run(transport, setup=known.setup)


@pytest.mark.parametrize('mechanism', MECHANISMS)
@pytest.mark.parametrize(
  'security', [PASSIVE, SPARSE, ACTIVE], ids=['passive', 'sparse', 'active']
)
@pytest.mark.parametrize(
  'lost',
  [
    {},
    {'mask': [2]},
    {'mask': [0, 6], 'unmask': [3]},
    {'mask': [1, 3, 4]},
    {'mask': [5], 'confirm': [1], 'unmask': [2]},
  ],
  ids=str,
)
def test_the_sum_has_the_layers_that_belong_to_it(
  monkeypatch: pytest.MonkeyPatch,
  mechanism: str,
  security: Security,
  lost: dict[str, list[int]],
):
  noise = dataclasses.replace(NINE, mechanism=mechanism)
  known = known_session(monkeypatch, security, noise)
  outcome = run(known, drop(**lost))
  survivors = [i for i in range(9) if i not in lost.get('mask', ())]
  assert outcome.survivors == tuple(survivors)
  assert outcome.report.noise == (noise,)
  assert outcome.sums['x'].tolist() == known.expected(survivors)
  # The count has none.
  plain = sessions.sums_of(survivors, known.group.specs)
  assert outcome.sums['count'].tolist() == plain['count']


def test_who_never_shared_counts_as_a_dropout(monkeypatch: pytest.MonkeyPatch):
  left = (0, 1, 2, 3, 4, 7, 8)
  known = known_session(monkeypatch, PASSIVE, NINE, left)
  transport = known.group.transport(drop(invite=[6], share=[5]))
  outcome = known.group.run(transport, setup=known.setup)
  assert outcome.survivors == left
  assert outcome.sums['x'].tolist() == known.expected(outcome.survivors)


def test_more_clients_than_expected_lose_all_layers(
  monkeypatch: pytest.MonkeyPatch,
):
  noise = dataclasses.replace(NOISE, clients=5)
  known = known_session(monkeypatch, PASSIVE, noise)
  outcome = run(known, drop(mask=[1]))
  assert len(outcome.survivors) == 8
  assert outcome.sums['x'].tolist() == known.expected(outcome.survivors)


def test_more_dropouts_than_are_tolerated_end_the_session(
  monkeypatch: pytest.MonkeyPatch,
):
  known = known_session(monkeypatch, PASSIVE, NINE)
  with pytest.raises(errors.Aborted, match='At least 6 clients must be left'):
    run(known, drop(mask=[1, 2, 3, 4]))


@pytest.mark.parametrize('clients', [7, 12])
def test_an_active_session_with_noise_needs_the_complete_graph(clients: int):
  security = Security('malicious', neighbors=6, threshold=4)
  noise = dataclasses.replace(NOISE, clients=clients)
  group = sessions.Group(
    security,
    range(clients),
    verify=False,
    min_survivors=clients - 3,
    specs=(VectorSpec('x', 5, 1 << 20, (PlacedNoise(0, noise),)),),
  )
  if clients == 7:
    assert len(group.run().survivors) == 7
  else:
    with pytest.raises(
      errors.Aborted, match='Name neighbors=11 and threshold=6'
    ):
      group.run()


def test_the_transcript_tells_the_noise():
  spec = VectorSpec('x', 8, 1 << 20, (PlacedNoise(1, NOISE),))
  group = sessions.Group(
    sessions.ACTIVE, verify=False, min_survivors=4, specs=(spec,)
  )
  written = transcript.Transcript.in_memory()
  setup = group.setup()
  group.run(setup=setup, transcript=written)
  assert inspection.check(written.lines).survivors == 7
  fields = transcript.setup_fields(setup)
  assert fields['noise'] == [
    ['x', 1, 'distributed_dgauss', 30.0, 5, 1 << 20, 7, 3, 0]
  ]


# Sessions: how much noise is in the sum.

CLIENTS, TOLERATED, LENGTH = 20, 6, 20_000
STDDEV = 40.0  # Of all honest noise together.


def is_of(sample: np.ndarray, stddev: float) -> bool:
  """Whether a sample has this standard deviation, at a level of 1e-6."""
  law = stats.chi2(sample.size)
  statistic = float((sample.astype(float) ** 2).sum()) / stddev**2
  return bool(2 * min(law.cdf(statistic), law.sf(statistic)) > 1e-6)


@pytest.mark.parametrize('mechanism', MECHANISMS)
@pytest.mark.parametrize('stage', ['share', 'mask', 'unmask'])
@pytest.mark.parametrize('lost', [0, 2, 6])
def test_the_noise_is_the_target_whatever_drops_out(
  mechanism: str, stage: str, lost: int
):
  noise = DropoutNoise(
    mechanism,
    STDDEV / CLIENTS**0.5,
    LENGTH,
    1 << 16,
    CLIENTS,
    TOLERATED,
  )
  share = Fraction(noise.share_stddev) ** 2
  weights = layers._WEIGHTS[mechanism](share)
  table = _tables.lay_out([weights.both_sides])
  law = layers.Law(table, weights.last)

  class Noised(sessions.Group):
    """Clients whose vectors are their shares of noise alone."""

    def vectors(self, client_id: int) -> dict[str, np.ndarray]:
      stream = ring.Keystream(os.urandom(32))
      drawn = np.concatenate(list(law.draw(stream, LENGTH)))
      return {'x': drawn.astype(np.int64) % (1 << 16)}

  group = Noised(
    Security('curious', 0.0, 0.3),
    range(CLIENTS),
    min_survivors=CLIENTS - TOLERATED,
    specs=(VectorSpec('x', LENGTH, 1 << 16, (PlacedNoise(0, noise),)),),
  )
  outcome = group.run(group.transport(drop(**{stage: range(lost)})))
  total = (outcome.sums['x'] + (1 << 15)) % (1 << 16) - (1 << 15)
  assert len(outcome.survivors) == CLIENTS - (0 if stage == 'unmask' else lost)
  assert is_of(total, STDDEV)
  assert not is_of(total, 0.9 * STDDEV)
  assert not is_of(total, 1.1 * STDDEV)


def test_the_oracle_speaks_of_the_protocol():
  assert protocol.derive(
    bytes(32), bytes(32), protocol.Role('layer', 3, 1, 'x')
  ) == layers.keys.derive(bytes(32), bytes(32), b'layer', (3, 1), b'x')


# Known answers.


def load() -> list[dict[str, Any]]:
  folder = pathlib.Path(__file__).parent.parent / 'vectors' / '1' / 'secagg'
  return json.loads((folder / 'layers.json').read_text())['cases']


@pytest.mark.parametrize('case', load(), ids=lambda case: str(case['noise']))
def test_known_layers(case: dict[str, Any]):
  body = bytes.fromhex(case['setup_body'])
  setup = messages.decode_setup(memoryview(body))
  assert messages.encode_setup(setup) == body
  digest = messages.setup_digest(body)
  assert digest.hex() == case['setup_digest']
  first = bytes.fromhex(case['seeds'][0])
  drawn = layers.draw_seeds(lambda _: first, setup)
  assert [seed.hex() for seed in drawn] == case['seeds']
  spec = setup.vectors[1]
  modulo = ring.ring_of(spec)
  for j, seed in enumerate(drawn, 1):
    total = modulo.zeros(spec.length)
    layers.apply(total, spec, (setup, digest), (j, seed), 1)
    expected = np.sum(case['layers'][j - 1 :], axis=0) % spec.modulus
    assert modulo.reduce(total)[2:22].tolist() == expected.tolist()
    assert not total[:2].any()
    assert not total[22:].any()


@pytest.mark.parametrize('case', load(), ids=lambda case: str(case['noise']))
def test_known_shares_that_reveal_layers(case: dict[str, Any]):
  setup = messages.decode_setup(memoryview(bytes.fromhex(case['setup_body'])))
  known = case['unmask_shares']
  ids = range(1, len(known['alive']) + 1)
  plain = dict(zip(ids, map(bytes.fromhex, known['plain']), strict=True))
  alive = [i for i in ids if known['alive'][i - 1]]
  for survivors, body in known['bodies'].items():
    found = client.revealed(plain, alive, setup, int(survivors))
    assert found.hex() == body
    others = range(100, 100 + int(survivors) - len(alive))
    cohort = types.SimpleNamespace(neighbors={0: tuple(ids)}, setup=setup)
    masked = unmasking.Masked(cohort, tuple(ids), (*alive, *others), None)
    first = layers.first_removed(setup, int(survivors))
    place = None if first is None else 32 * (1 + first)
    assert masked.read_shares(0, memoryview(found)) == [
      (
        plain[i][:32]
        + (plain[i][place : place + 32] if place is not None else b'')
        if i in alive
        else plain[i][32:64]
      )
      for i in ids
    ]
