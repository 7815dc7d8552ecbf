# SPDX-License-Identifier: Apache-2.0
"""The verifiable sum: clients check what the server calls their sum.

All clients know a key K that the server does not. From K they expand, for each
session and vector, a secret 64 x d binary Hankel matrix A, A[r][j] =
bits[r + j], and for each client i a pad, uniform in Z_m^64. Client i appends
its tag, A x_i + pad_i mod m, to its vector x_i. The sum over the survivors
then ends in T = A S + the sum of their pads, for A is linear: this is what
every client checks. See docs/protocol.md, "Verifiable sum".

**Soundness.** Whatever the server computes, and for every modulus m >= 2, a
client accepts a sum that is not that of the declared survivors with probability
at most 2^-64; if the server sends q different ones to q clients, one of them
is accepted with probability at most q 2^-64.

*Proof.* First, the server's view is independent of the bits: T is all that it
has of A, and in T the pads are a one-time pad. So the bits may be drawn after
the server has chosen errors E and F, and says that the sum is S + E, T + F.

- *Another survivor list.* The sums of the pads of two different sets, neither
  empty, are independent and uniform in Z_m^64. The server knows at most one of
  them, and the client wants the other: probability m^-64.
- *The right list, E = 0.* Only F = 0 is accepted, and that is no forgery.
- *The right list, E != 0.* It is accepted if A E = F mod m. Let l be the last
  coordinate with E_l != 0 mod m. Row r of A E is

      bits[r] E_0 + bits[r + 1] E_1 + ... + bits[r + l] E_l  mod m.

  No row before r has bits[r + l]: row r - 1 ends in bits[r + l - 1]. Given all
  bits before it, its two values give row r two values that differ by E_l != 0
  mod m, of which at most one is F_r. So each row fits with probability at most
  1/2 given the rows before it, and all 64 with at most 2^-64. Nothing was
  divided by E_l: m may be even, or any composite.

Bits and pads are keystream: add the advantage against AES-256 and HKDF-SHA256.

**Assumption.** No client gives the server K. Whoever knows A and the pads can
forge a sum. Privacy does not rest on K: tags are masked as vectors are.

**Once.** Bits and pads serve one session. If two sums S, S' had the same, T -
T' = A (S - S') would give A away.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tff_secagg_ext import _validate
from tff_secagg_ext.secagg.setup import MAX_MODULUS, TAG_LENGTH

MAX_LENGTH = 1 << 31
Integers = NDArray[np.integer[Any]]

_LIMB = 32
# x is cut into blocks, and a block into rows of so many coordinates: whole
# bytes of bits, and a divisor of TAG_LENGTH.
_WIDTH = 16
_ROWS = 4096
_COLUMNS = np.arange(_WIDTH)
_DIAGONALS = np.arange(TAG_LENGTH)[:, np.newaxis] + _COLUMNS


def keystream_bytes(length: int) -> int:
  """How many bytes of keystream the matrix for `length` coordinates takes."""
  return (length + TAG_LENGTH - 1 + 7) // 8


def tags(
  bits: NDArray[np.uint8], x: Integers, modulus: int
) -> NDArray[np.int64]:
  """Returns A x mod m, int64[64], exactly.

  A product of float64 matrices does it, with 80 d multiplications for each 32
  bits of m: with x in rows of 16, and windows of 16 + 63 bits that begin where
  the rows do, G[a, j] = sum_q bits[16 q + a] x[16 q + j], and A x in row r is
  the sum of G[r + j, j] over j. Limbs of x have 32 bits and blocks 2^12 rows:
  an entry is below 2^44, hence exact, and a sum over 2^31 coordinates is
  below 2^63. Memory beyond the arguments is that of one block.

  Args:
    bits: uint8[keystream_bytes(d)] or longer; the lowest bit of each byte is
      the first.
    x: Integers [d] in [0, m), d at most 2^31.
    modulus: m, from 2 to 2^62.

  Raises:
    TypeError: If `bits` is not of uint8, or `x` not of integers.
    ValueError: If a shape, the modulus or a coordinate is out of range.
  """
  modulus = _check_modulus(modulus)
  x = _check_vector(x, 'x', modulus)
  _check_bits(bits, len(x))
  shifts = range(0, (modulus - 1).bit_length(), _LIMB)
  sums = np.zeros((len(shifts), TAG_LENGTH), np.int64)
  size = _ROWS * _WIDTH
  for start in range(0, len(x), size):
    block = x[start : start + size].astype(np.int64, copy=False)
    windows = _windows(bits[start // 8 :], -(-len(block) // _WIDTH))
    for limb, shift in zip(sums, shifts, strict=True):
      limb += _products(windows, (block >> shift) & ((1 << _LIMB) - 1))
  # As Python's integers, which do not overflow.
  exact = sum(
    limb << shift
    for limb, shift in zip(sums.astype(object), shifts, strict=True)
  )
  return np.array(exact % modulus, np.int64)


def append_tags(
  x: Integers,
  bits: NDArray[np.uint8],
  pad: Integers,
  modulus: int,
) -> NDArray[np.int64]:
  """Returns x with its tag A x + pad mod m behind it, int64[d + 64].

  Args:
    x: As in `tags`.
    bits: As in `tags`.
    pad: Integers [64] in [0, m): the client's own.
    modulus: m.

  Raises:
    TypeError: As `tags`; if `pad` is not of integers.
    ValueError: As `tags`; if `pad` is not 64 coordinates below m.
  """
  pad = _check_pad(pad, modulus)
  tag = (tags(bits, x, modulus) + pad) % modulus
  return np.concatenate([np.asarray(x, np.int64), tag])


def accepts(
  total: Integers,
  bits: NDArray[np.uint8],
  pads: Integers,
  modulus: int,
) -> bool:
  """Whether the sum's tags fit: T = A S + pads mod m.

  - A sum of `append_tags` over the survivors is accepted.
  - Any other is not, but for a probability of 2^-64 (see the module).

  Args:
    total: Integers [d + 64]: S and T. Coordinates outside [0, m), which no sum
      has, are not accepted either.
    bits: As in `tags`.
    pads: Integers [64] in [0, m): the sum mod m of the pads of all survivors,
      those of the list that the client confirmed.
    modulus: m.

  Raises:
    TypeError: As `tags`; if `total` or `pads` is not of integers.
    ValueError: As `tags`; if `total` is shorter than 64, or `pads` is not 64
      coordinates below m.
  """
  modulus = _check_modulus(modulus)
  pads = _check_pad(pads, modulus)
  total = _check_shape(total, 'total')
  length = len(total) - TAG_LENGTH
  if length < 0:
    raise ValueError(
      f'`total` must have at least {TAG_LENGTH} coordinates, the tags. Found'
      f' {len(total)}.'
    )
  _check_bits(bits, length)
  if not _is_reduced(total, modulus):
    return False
  wanted = (tags(bits, total[:length], modulus) + pads) % modulus
  return np.array_equal(total[length:], wanted)


def _windows(bits: NDArray[np.uint8], rows: int) -> NDArray[np.float64]:
  """Bits as float64[rows + 4, 16]: rows q to q + 4 are the window of row q."""
  count = (rows + TAG_LENGTH // _WIDTH) * _WIDTH
  unpacked = np.unpackbits(bits[: count // 8], bitorder='little', count=count)
  return unpacked.astype(np.float64).reshape(-1, _WIDTH)


def _products(
  windows: NDArray[np.float64], limbs: NDArray[np.int64]
) -> NDArray[np.int64]:
  """Returns the sums of bits[r + j] limbs[j] over a block, int64[64]."""
  rows = -(-len(limbs) // _WIDTH)
  x = np.zeros((rows, _WIDTH))
  x.reshape(-1)[: len(limbs)] = limbs
  products = [
    windows[shift : shift + rows].T @ x
    for shift in range(len(windows) - rows + 1)
  ]
  entries = np.concatenate(products).astype(np.int64)
  sums: NDArray[np.int64] = entries[_DIAGONALS, _COLUMNS].sum(axis=1)
  return sums


def _check_modulus(modulus: int) -> int:
  return _validate.check_int(modulus, 'modulus', minimum=2, maximum=MAX_MODULUS)


def _check_bits(bits: NDArray[np.uint8], length: int) -> None:
  if not isinstance(bits, np.ndarray) or bits.dtype != np.uint8:
    raise TypeError('`bits` must be an array of uint8, the bytes of keystream.')
  if bits.ndim != 1 or len(bits) < keystream_bytes(length):
    raise ValueError(
      f'`bits` must be at least {keystream_bytes(length)} bytes for'
      f' {length} coordinates. Found shape {bits.shape}.'
    )


def _check_shape(x: Integers, name: str) -> Integers:
  if not isinstance(x, np.ndarray) or not np.issubdtype(x.dtype, np.integer):
    found = getattr(x, 'dtype', type(x).__name__)
    raise TypeError(f'`{name}` must be an array of integers. Found {found}.')
  if x.ndim != 1:
    raise ValueError(f'`{name}` must be one vector. Found shape {x.shape}.')
  return x


def _is_reduced(x: Integers, modulus: int) -> bool:
  return not len(x) or bool(x.min() >= 0 and x.max() < modulus)


def _check_vector(x: Integers, name: str, modulus: int) -> Integers:
  """Returns x. Errors tell no coordinate: it may be a client's."""
  x = _check_shape(x, name)
  if len(x) > MAX_LENGTH:
    raise ValueError(
      f'`{name}` must have at most {MAX_LENGTH} coordinates. Found {len(x)}.'
      ' Make it several vectors.'
    )
  if not _is_reduced(x, modulus):
    raise ValueError(
      f'`{name}` must have coordinates from 0 to {modulus - 1}, and has'
      ' another. Reduce it modulo `modulus` first.'
    )
  return x


def _check_pad(pad: Integers, modulus: int) -> NDArray[np.int64]:
  pad = _check_vector(pad, 'pad', _check_modulus(modulus))
  if len(pad) != TAG_LENGTH:
    raise ValueError(
      f'`pad` must have {TAG_LENGTH} coordinates. Found {len(pad)}.'
    )
  return pad.astype(np.int64, copy=False)
