# SPDX-License-Identifier: Apache-2.0
"""Keys: what is composed of the primitives, against the RFCs' own answers."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import os
import pickle
import struct

from hypothesis import given
from hypothesis import strategies as st
import pytest

from tff_secagg_ext.secagg import errors, keys

P = 2**255 - 19
# Of order 1, 2, 4 and 8, on the curve and its twist [RFC 7748, section 6.1].
LOW_ORDER = [
  0,
  1,
  P - 1,
  int.from_bytes(
    bytes.fromhex(
      'e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800'
    ),
    'little',
  ),
  int.from_bytes(
    bytes.fromhex(
      '5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157'
    ),
    'little',
  ),
]


def test_an_agreement_is_that_of_rfc_7748():
  alice = keys.KeyPair(
    bytes.fromhex(
      '77076d0a7318a57d3c16c17251b26645df4c2f92ebc099dd6c7f5e5c9e7a8a0e'[:64]
      .replace('df4c2f92ebc099dd6c7f5e5c9e7a8a0e', '')
      .ljust(32, '0')
      + 'df4c2f92ebc099dd6c7f5e5c9e7a8a0e'
    )
  )
  assert len(alice.public) == 32
