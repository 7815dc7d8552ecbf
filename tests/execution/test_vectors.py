# SPDX-License-Identifier: Apache-2.0
"""Tensors as vectors modulo m, and back."""

from __future__ import annotations

from typing import Any

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from tff_secagg_ext.execution import vectors as vectors_lib

DTYPES = (
  np.int8, np.int16, np.int32, np.int64,
  np.uint8, np.uint16, np.uint32, np.uint64,
)  # fmt: skip


def leaf(
  dtype: Any, maximum: int, modulus: int | None = None, shape: Any = ()
) -> vectors_lib.Leaf:
  return vectors_lib.Leaf(
    'federated_secure_sum', np.dtype(dtype), shape, maximum, modulus
  )


def test_a_modulus_has_room_for_the_sum_and_for_no_more_than_the_dtype():
  for dtype, maximum, clients, modulus in (
    (np.int32, 10, 1, 16),
    (np.int32, 10, 100, 1024),
    (np.int32, 0, 100, 2),
    (np.int32, 2**31 - 1, 2, 2**32),
    (np.int32, 2**31 - 1, 100, 2**32),
    (np.uint8, 300, 5, 256),
    (np.int64, 2**31 - 1, 100, 2**38),
    (np.int64, 2**55, 100, 2**62),
  ):
    assert leaf(dtype, maximum).modulus_of(clients) == modulus
  with pytest.raises(ValueError, match='Sum fewer bits, or fewer clients'):
    leaf(np.int64, 2**56).modulus_of(100)
  assert leaf(np.int32, 6, 7).modulus_of(100) == 7


def test_leaves_of_one_modulus_share_a_vector():
  shared = vectors_lib.Vectors(
    [
      leaf(np.int32, 6, 7, (2, 3)),
      leaf(np.int64, 10),
      leaf(np.int16, 6, 7),
      leaf(np.int32, 12, shape=(4,)),
    ],
    clients=20,
  )
  assert [(s.name, s.length, s.modulus) for s in shared.specs] == [
    ('modulo 7', 7, 7),
    ('modulo 256', 5, 256),
  ]


@hypothesis.given(st.data())
def test_packing_and_unpacking_is_the_sum(data: st.DataObject):
  clients = data.draw(st.integers(1, 100), 'clients')
  leaves = []
  for _ in range(data.draw(st.integers(1, 4), 'leaves')):
    dtype = data.draw(st.sampled_from(DTYPES))
    shape = tuple(data.draw(st.lists(st.integers(0, 3), max_size=2)))
    top = min(int(np.iinfo(dtype).max), 2**62 // clients - 1)
    modular = data.draw(st.booleans())
    bound = data.draw(st.integers(2, top) if top > 1 else st.just(top))
    leaves.append(
      leaf(dtype, bound - modular, bound if modular else None, shape)
    )
  rng = np.random.default_rng(data.draw(st.integers(0, 99)))
  values = [
    [
      rng.integers(0, x.maximum, x.shape, x.dtype, endpoint=True)
      for x in leaves
    ]
    for _ in range(clients)
  ]
  vectors = vectors_lib.Vectors(leaves, clients)
  packed = [vectors.pack(i, value) for i, value in enumerate(values)]
  sums = {}
  for spec in vectors.specs:
    for each in packed:
      assert each[spec.name].dtype == np.int64
      assert each[spec.name].shape == (spec.length,)
      assert np.all((each[spec.name] >= 0) & (each[spec.name] < spec.modulus))
    total = sum(each[spec.name].astype(object) for each in packed)
    sums[spec.name] = (total % spec.modulus).astype(np.int64)
  for index, (x, found) in enumerate(
    zip(leaves, vectors.unpack(sums), strict=True)
  ):
    expected = sum(value[index].astype(object) for value in values)
    if x.modulus is not None:
      expected %= x.modulus
    # As TFF has it: a sum that its dtype has no room for wraps.
    expected %= 1 << 8 * x.dtype.itemsize
    assert found.dtype == x.dtype
    assert found.shape == x.shape
    unsigned = np.dtype(f'u{x.dtype.itemsize}')
    np.testing.assert_array_equal(
      found.astype(unsigned).astype(object), expected
    )


def test_what_is_out_of_range_is_refused_and_not_told():
  for value in (11, -1, 987654):
    with pytest.raises(ValueError, match=r'outside of \[0, 10\]') as caught:
      vectors_lib.Vectors([leaf(np.int64, 10)], 2).pack(4, [np.int64(value)])
    assert str(caught.value).startswith('Client 4 has a value for federated_')
    assert str(value) not in str(caught.value).replace('[0, 10]', '')
