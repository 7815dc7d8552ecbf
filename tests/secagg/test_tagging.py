# SPDX-License-Identifier: Apache-2.0
"""The verifiable sum with keys: whose tags fit which sums."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from tests.secagg.test_keys import naive_hkdf
from tests.secagg.test_ring import naive_mask
from tff_secagg_ext.secagg import errors, ring, tagging
from tff_secagg_ext.secagg.setup import (
  MAX_MODULUS,
  Security,
  Setup,
  VectorSpec,
)

SPECS = (
  VectorSpec('even', 5, 2**20),
  VectorSpec('odd', 4, 2**20 - 1),
  VectorSpec('wide', 3, MAX_MODULUS),
  VectorSpec('empty', 0, 2),
)
SETUP = Setup(bytes(32), 2**40 + 3, Security(), True, 2, SPECS)
TAGGER = tagging.Tagger(b'K' * 32, b'd' * 32, SETUP.round)
CLIENTS = (1, 5, 2**32 - 1)


def vector_of(client: int, spec: VectorSpec) -> np.ndarray:
  random = np.random.default_rng([client, spec.modulus])
  return random.integers(0, spec.modulus, spec.length)


def totals_of(
  clients: Sequence[int],
  tagger: tagging.Tagger = TAGGER,
  specs: Sequence[VectorSpec] = SPECS,
) -> list[np.ndarray]:
  """The sums of tagged vectors, in integers of any size."""
  totals = []
  for spec in specs:
    total = sum(
      tagger.tagged(vector_of(i, spec), spec, i).astype(object) for i in clients
    )
    totals.append((total % spec.modulus).astype(np.int64))
  return totals


def check(
  totals: Sequence[np.ndarray],
  clients: Sequence[int] = CLIENTS,
  tagger: tagging.Tagger = TAGGER,
) -> None:
  body = tagging.pack(totals, SETUP)
  tagger.check(memoryview(body), SETUP, clients)


def test_the_sum_of_the_survivors_is_accepted():
  for count in (1, 2, 3):
    check(totals_of(CLIENTS[:count]), CLIENTS[:count])


@pytest.mark.parametrize(
  ('key', 'binding', 'round'),
  [
    (b'L' * 32, TAGGER.binding, TAGGER.round),
    (TAGGER.key, b'e' * 32, TAGGER.round),
    (TAGGER.key, TAGGER.binding, TAGGER.round + 1),
    (TAGGER.key, TAGGER.binding, TAGGER.round - 2**40),
  ],
  ids=['key', 'session', 'round', 'high half of the round'],
)
def test_sums_of_another_key_session_or_round_are_not(key, binding, round):
  other = tagging.Tagger(key, binding, round)
  with pytest.raises(errors.WrongSum, match=r"The sum of '\w+' is not that of"):
    check(totals_of(CLIENTS, other))


@pytest.mark.parametrize(
  'clients', [CLIENTS[:2], CLIENTS[1:], (*CLIENTS, 7), (1, 5, 6), ()]
)
def test_the_sum_of_other_survivors_is_not(clients):
  with pytest.raises(errors.WrongSum, match="sum of 'even' is not that of the"):
    check(totals_of(CLIENTS), clients)


@settings(max_examples=60)
@given(st.data())
def test_a_sum_with_an_altered_coordinate_or_tag_is_not(data: st.DataObject):
  totals = totals_of(CLIENTS)
  index = data.draw(st.integers(0, len(SPECS) - 1))
  spec, total = SPECS[index], totals[index]
  place = data.draw(st.integers(0, len(total) - 1))
  change = data.draw(st.integers(1, spec.modulus - 1))
  total[place] = (int(total[place]) + change) % spec.modulus
  with pytest.raises(errors.WrongSum, match=f"The sum of '{spec.name}' is not"):
    check(totals)


def test_a_scaled_sum_is_not_accepted():
  with pytest.raises(errors.WrongSum):
    check(
      [
        (total.astype(object) * 3 % spec.modulus).astype(np.int64)
        for total, spec in zip(totals_of(CLIENTS), SPECS, strict=True)
      ]
    )


def test_vectors_of_one_session_have_tags_of_their_own():
  """Else two of equal length and modulus could be exchanged."""
  specs = (VectorSpec('a', 3, 2**20), VectorSpec('b', 3, 2**20))
  setup = dataclasses.replace(SETUP, vectors=specs)
  totals = totals_of(CLIENTS, specs=specs)
  swapped = tagging.pack(totals[::-1], setup)
  TAGGER.check(memoryview(tagging.pack(totals, setup)), setup, CLIENTS)
  with pytest.raises(errors.WrongSum, match="The sum of 'a' is not"):
    TAGGER.check(memoryview(swapped), setup, CLIENTS)


@pytest.mark.parametrize('spec', SPECS, ids=lambda spec: spec.name)
def test_tags_are_those_of_the_definition(spec: VectorSpec):
  """A[r][j] = bits[r + j], and the pad is the mask under its key."""
  name, client = spec.name.encode(), CLIENTS[1]
  vector = vector_of(client, spec)
  prefix = b'tff-secagg-ext/1 '
  low, high = SETUP.round % 2**32, SETUP.round >> 32
  halves = low.to_bytes(4, 'little') + high.to_bytes(4, 'little')
  ids = client.to_bytes(4, 'little') * 2
  tag_key = naive_hkdf(
    TAGGER.key, TAGGER.binding, prefix + b'tag\0' + halves + name
  )
  pad_key = naive_hkdf(
    TAGGER.key, TAGGER.binding, prefix + b'pad\0' + ids + name
  )
  stream = [
    byte >> bit & 1
    for byte in naive_mask(256, spec.length // 8 + 9, tag_key)
    for bit in range(8)
  ]
  pad = naive_mask(spec.modulus, 64, pad_key)
  tagged = TAGGER.tagged(vector, spec, client)
  assert tagged.dtype == np.int64
  assert tagged[: spec.length].tolist() == vector.tolist()
  assert tagged[spec.length :].tolist() == [
    (sum(stream[r + j] * int(x) for j, x in enumerate(vector)) + pad[r])
    % spec.modulus
    for r in range(64)
  ]


def test_a_tagger_shows_nothing():
  assert 'KKK' not in repr(TAGGER)
  assert '4b4b' not in repr(TAGGER)


@pytest.mark.parametrize('verify', [False, True])
def test_bodies(verify: bool):
  setup = dataclasses.replace(SETUP, verify=verify)
  tags = 64 if verify else 0
  lengths = [tagging.summed_length(spec, setup) for spec in SPECS]
  assert lengths == [spec.length + tags for spec in SPECS]
  vectors = [
    np.arange(length) % spec.modulus
    for length, spec in zip(lengths, SPECS, strict=True)
  ]
  body = tagging.pack(vectors, setup)
  assert len(body) == tagging.body_bytes(setup)
  assert body == b''.join(
    ring.ring_of(spec).pack(vector)
    for spec, vector in zip(SPECS, vectors, strict=True)
  )
  unpacked = tagging.unpack(memoryview(body), setup)
  assert [vector.tolist() for vector in unpacked] == [
    vector.tolist() for vector in vectors
  ]
  for wrong in (body[:-1], body + b'\0', b''):
    with pytest.raises(
      errors.MessageError,
      match=rf'must have {len(body)} bytes\. Found {len(wrong)}',
    ):
      tagging.unpack(memoryview(wrong), setup)


def test_a_result_that_is_no_encoding():
  body = tagging.pack(totals_of(CLIENTS), SETUP)
  with pytest.raises(errors.MessageError, match='vectors of the session must'):
    TAGGER.check(memoryview(body[:-1]), SETUP, CLIENTS)
  with pytest.raises(errors.MessageError, match='Padding bits must be zero'):
    TAGGER.check(memoryview(b'\xff' * len(body)), SETUP, CLIENTS)
