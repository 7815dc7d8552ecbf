# SPDX-License-Identifier: Apache-2.0
"""Random rotations that spread a vector evenly over its coordinates.

A rotation needs no secret: server and clients derive it from a public seed, and
privacy rests on the norm alone, which a rotation keeps. It makes the modular
sum's range small: whatever the vectors are, a coordinate of their rotated sum
is close to Gaussian [KLS21, Section 4.2].
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math

import numpy as np
import numpy.typing as npt
import tensorflow as tf

# A Walsh-Hadamard transform is done as products with a small matrix along one
# axis after the other. 16 was the fastest of 2 to 1,024 on one core.
_HADAMARD_ORDER_LOG2 = 4


@dataclasses.dataclass(frozen=True)
class Rotation:
  """An orthogonal map and its inverse, both seeded.

  Attributes:
    padded: `dimension -> padded dimension` that the map acts on.
    forward: `(float32[d], seed, round) -> float32[d]`, d a padded dimension.
    inverse: The inverse of `forward` for the same seed and round.
  """

  padded: Callable[[int], int]
  forward: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
  inverse: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def _public_words(
  seed: tf.Tensor, round_number: tf.Tensor, num_words: int
) -> tf.Tensor:
  """uint32[num_words], a function of the int64 seed and the int32 round.

  Nothing secret: TensorFlow's counter-based generator does. Server and clients
  must get the same words; a known answer is tested on each supported version.
  """
  return tf.random.stateless_uniform(
    [num_words],
    tf.stack([seed, tf.cast(round_number, tf.int64)]),
    minval=None,
    maxval=None,
    dtype=tf.uint32,
    alg='philox',
  )


def _signs(
  seed: tf.Tensor, round_number: tf.Tensor, dimension: int
) -> tf.Tensor:
  """float32[dimension] of -1 and 1, a bit of the public words each."""
  words = _public_words(seed, round_number, math.ceil(dimension / 32))
  # As bytes, which take a quarter of the memory until they are floats.
  octets = tf.reshape(tf.bitcast(words, tf.uint8), [-1, 1])
  shifted = tf.bitwise.right_shift(octets, tf.constant([*range(8)], tf.uint8))
  bits = tf.bitwise.bitwise_and(shifted, tf.constant(1, tf.uint8))
  bits = tf.cast(tf.reshape(bits, [-1])[:dimension], tf.float32)
  return 1.0 - 2.0 * bits


def _hadamard_matrix(log2: int) -> npt.NDArray[np.float32]:
  """Sylvester's Hadamard matrix of order 2**log2, float32, orthonormal."""
  matrix = np.ones((1, 1))
  for _ in range(log2):
    matrix = np.block([[matrix, matrix], [matrix, -matrix]])
  return (matrix / math.sqrt(len(matrix))).astype(np.float32)


def walsh_hadamard(vector: tf.Tensor) -> tf.Tensor:
  """The orthonormal Walsh-Hadamard transform, its own inverse.

  Args:
    vector: float32[d], d a power of 2.

  Returns:
    float32[d], in Sylvester's order; O(d log d) work.
  """
  dimension = vector.shape[0]
  log2 = dimension.bit_length() - 1
  while log2 > 0:
    step = min(log2, _HADAMARD_ORDER_LOG2)
    log2 -= step
    matrix = tf.constant(_hadamard_matrix(step))
    # Transforms the last axis and makes it the first: after all axes had their
    # turn they stand in their old order.
    rows = tf.reshape(vector, [-1, 2**step])
    vector = tf.reshape(tf.matmul(matrix, rows, transpose_b=True), [dimension])
  return vector


def _next_power_of_2(dimension: int) -> int:
  return 1 << max(0, dimension - 1).bit_length()


def _hd_forward(
  vector: tf.Tensor, seed: tf.Tensor, round_number: tf.Tensor
) -> tf.Tensor:
  return walsh_hadamard(vector * _signs(seed, round_number, vector.shape[0]))


def _hd_inverse(
  vector: tf.Tensor, seed: tf.Tensor, round_number: tf.Tensor
) -> tf.Tensor:
  return walsh_hadamard(vector) * _signs(seed, round_number, vector.shape[0])


def _phases(
  seed: tf.Tensor, round_number: tf.Tensor, dimension: int
) -> tf.Tensor:
  """complex128[dimension] of modulus 1, angles uniform to 2^-32 turns."""
  words = _public_words(seed, round_number, dimension)
  angles = tf.cast(words, tf.float64) * (2 * math.pi * 2.0**-32)
  return tf.complex(tf.cos(angles), tf.sin(angles))


def _as_complex(vector: tf.Tensor) -> tf.Tensor:
  """complex128[d / 2]: TensorFlow's complex64 transforms lose three digits."""
  real, imaginary = tf.split(tf.cast(vector, tf.float64), 2)
  return tf.complex(real, imaginary)


def _as_real(values: tf.Tensor) -> tf.Tensor:
  parts = [tf.math.real(values), tf.math.imag(values)]
  return tf.cast(tf.concat(parts, axis=0), tf.float32)


def _dft_forward(
  vector: tf.Tensor, seed: tf.Tensor, round_number: tf.Tensor
) -> tf.Tensor:
  half = vector.shape[0] // 2
  values = _as_complex(vector) * _phases(seed, round_number, half)
  return _as_real(tf.signal.fft(values)) / math.sqrt(half)


def _dft_inverse(
  vector: tf.Tensor, seed: tf.Tensor, round_number: tf.Tensor
) -> tf.Tensor:
  half = vector.shape[0] // 2
  values = tf.signal.ifft(_as_complex(vector)) * math.sqrt(half)
  return _as_real(values * tf.math.conj(_phases(seed, round_number, half)))


ROTATIONS = {
  'hd': Rotation(_next_power_of_2, _hd_forward, _hd_inverse),
  'dft': Rotation(lambda d: max(2, d + d % 2), _dft_forward, _dft_inverse),
}
"""By name: randomized Hadamard (signs, then Walsh-Hadamard; padded to a power
of 2) and randomized discrete Fourier transform (random phases on pairs of
coordinates, then a unitary DFT; padded to an even dimension)."""
