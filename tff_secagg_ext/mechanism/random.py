# SPDX-License-Identifier: Apache-2.0
"""Secret random words inside a TensorFlow graph: kernel entropy, ChaCha20.

TensorFlow seeds its own random ops with at most 64 bits, so nothing that
privacy rests on may use them. Here a 256-bit key is read from the kernel each
time that a graph runs, on whichever machine runs it, and ChaCha20 (RFC 8439)
stretches it. Guarantees:

*   A key is fresh at every execution, in eager mode, in a `tf.function` and in
    a serialised graph: every op on its path is stateful, so TensorFlow neither
    folds nor merges nor caches it.
*   If the kernel's source is missing, short or repeats itself, the graph fails.
    It never yields a weaker key.
*   The streams of one `fresh_streams` call never share a block of keystream.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tff_secagg_ext import _validate

# One version 4 UUID for every time that the file is opened.
_SOURCE = '/proc/sys/kernel/random/uuid'
_LINES = 4
_CONSTANTS = ((0x61707865,), (0x3320646E,), (0x79622D32,), (0x6B206574,))
_DOUBLE_ROUNDS = 10
_BLOCK_WORDS = 16
# A row of state, four words a block, takes 256 KiB at this width: wider leaves
# the L2 cache, narrower is bound by the cost of starting ops.
_WIDTH = 1 << 14


def fresh_key() -> tf.Tensor:
  """Returns a new ChaCha20 key, `uint32[8]`, from the kernel's generator.

  All 256 bits are random: of each of four UUIDs, the hexadecimal digits 0-7
  and 24-31 of the line are used, which hold neither the version nor the
  variant of the UUID.

  Raises:
    tf.errors.OpError: When the graph runs, if the source cannot be read, if a
      line is not a version 4 UUID, or if two lines are the same.
  """
  lines = tf.data.TextLineDataset([_SOURCE] * _LINES)
  lines = lines.batch(_LINES, drop_remainder=True).get_single_element()
  chars = tf.ensure_shape(tf.io.decode_raw(lines, tf.uint8), [_LINES, 36])
  chars = tf.cast(chars, tf.int32)
  digits = tf.concat([chars[:, 0:8], chars[:, 24:32]], 1)
  decimal = (digits >= ord('0')) & (digits <= ord('9'))
  letter = (digits >= ord('a')) & (digits <= ord('f'))
  dashes = tf.gather(chars, [8, 13, 18, 23], axis=1)
  sound = (
    tf.reduce_all(decimal | letter)
    & tf.reduce_all(tf.equal(dashes, ord('-')))
    & tf.reduce_all(tf.equal(chars[:, 14], ord('4')))
    & tf.equal(tf.size(tf.unique(lines)[0]), _LINES)
  )
  message = f'{_SOURCE} must give {_LINES} different version 4 UUIDs.'
  with tf.control_dependencies([tf.debugging.Assert(sound, [message])]):
    nibbles = digits - tf.where(decimal, ord('0'), ord('a') - 10)
  nibbles = tf.cast(tf.reshape(nibbles, [8, 8]), tf.uint32)
  return tf.reduce_sum(nibbles * [1 << (28 - 4 * i) for i in range(8)], 1)


def _rotate_left(x: tf.Tensor, bits: int) -> tf.Tensor:
  """Rotates each word of `uint32[4, n]` left.

  Of TensorFlow's kernels, shifts are the slow ones. So the left half of a
  rotation is a product, and the right half shifts two words at once, whose
  neighbours' bits are then masked out.
  """
  pairs = tf.bitcast(tf.reshape(x, [-1, 2]), tf.uint64)
  pairs = tf.bitwise.right_shift(pairs, tf.constant(32 - bits, tf.uint64))
  own = tf.constant(0xFFFFFFFF << 32 | (1 << bits) - 1, tf.uint64)
  right = tf.bitcast(tf.bitwise.bitwise_and(pairs, own), tf.uint32)
  return x * tf.constant(1 << bits, tf.uint32) + tf.reshape(right, [4, -1])


def _quarter_rounds(
  a: tf.Tensor, b: tf.Tensor, c: tf.Tensor, d: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
  """The four quarter rounds of RFC 8439 section 2.1, one a row."""
  for first, second in ((16, 12), (8, 7)):
    a = a + b
    d = _rotate_left(tf.bitwise.bitwise_xor(d, a), first)
    c = c + d
    b = _rotate_left(tf.bitwise.bitwise_xor(b, c), second)
  return a, b, c, d


def _double_round(
  a: tf.Tensor, b: tf.Tensor, c: tf.Tensor, d: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
  """Column rounds, then diagonal rounds, as in RFC 8439 section 2.3."""
  a, b, c, d = _quarter_rounds(a, b, c, d)
  b, c, d = tf.roll(b, -1, 0), tf.roll(c, -2, 0), tf.roll(d, -3, 0)
  a, b, c, d = _quarter_rounds(a, b, c, d)
  return a, tf.roll(b, 1, 0), tf.roll(c, 2, 0), tf.roll(d, 3, 0)


@tf.function(
  autograph=False,
  input_signature=[
    tf.TensorSpec([8], tf.uint32),
    tf.TensorSpec([3], tf.uint32),
    tf.TensorSpec([], tf.int64),
    tf.TensorSpec([], tf.int64),
  ],
)
def _blocks(
  key: tf.Tensor, nonce: tf.Tensor, first: tf.Tensor, count: tf.Tensor
) -> tf.Tensor:
  """Returns `uint32[count, 16]`: the blocks `first` to `first + count - 1`.

  Traced once a process, however many streams a graph draws from.

  The state is four rows, `uint32[4, count]` each, so that one op works on the
  four columns (or diagonals) of every block.
  """
  spread = tf.zeros([1, count], tf.uint32)
  counters = tf.cast(first + tf.range(count, dtype=tf.int64), tf.uint32)
  start = (
    tf.constant(_CONSTANTS, tf.uint32) + spread,
    tf.reshape(key[:4], [4, 1]) + spread,
    tf.reshape(key[4:], [4, 1]) + spread,
    tf.concat([counters[tf.newaxis], nonce[:, tf.newaxis] + spread], 0),
  )
  _, end = tf.while_loop(
    lambda i, rows: i < _DOUBLE_ROUNDS,
    lambda i, rows: (i + 1, _double_round(*rows)),
    (0, start),
    parallel_iterations=1,
  )
  return tf.transpose(
    tf.concat([s + e for s, e in zip(start, end, strict=True)], 0)
  )


def keystream(
  key: tf.Tensor,
  nonce: tf.Tensor,
  num_words: int | tf.Tensor,
  counter: int = 0,
) -> tf.Tensor:
  """Returns the ChaCha20 keystream of RFC 8439 as `uint32[num_words]`.

  A word holds four bytes of the keystream, the first one lowest.

  Args:
    key: `uint32[8]`, words of the key as in RFC 8439 section 2.3.
    nonce: `uint32[3]`.
    num_words: At least 0. A Python integer gives a static shape and is worked
      off in pieces that fit in cache; a scalar integer tensor is for short
      streams whose length is known only when the graph runs.
    counter: The first block's counter, in [0, 2^32).

  Raises:
    ValueError: If the blocks would pass the 32-bit counter, which would repeat
      the keystream (`tf.errors.InvalidArgumentError` when the graph runs, if
      `num_words` is a tensor).
  """
  _validate.check_int(counter, 'counter', minimum=0, maximum=2**32 - 1)
  limit = _BLOCK_WORDS * (2**32 - counter)
  if tf.is_tensor(num_words):
    length = tf.cast(num_words, tf.int64)
    fits = tf.debugging.assert_less_equal(length, tf.constant(limit, tf.int64))
    with tf.control_dependencies([] if fits is None else [fits]):
      count = (length + _BLOCK_WORDS - 1) // _BLOCK_WORDS
    blocks = _blocks(key, nonce, tf.constant(counter, tf.int64), count)
    return tf.reshape(blocks, [-1])[:length]
  num_words = _validate.check_int(
    num_words,
    'num_words',
    minimum=0,
    maximum=limit,
    remedy='Take another nonce: the 32-bit block counter must not repeat.',
  )
  count = -(-num_words // _BLOCK_WORDS)
  pieces = max(1, -(-count // _WIDTH))
  width = -(-count // pieces)
  firsts = counter + width * tf.range(pieces, dtype=tf.int64)

  def piece(first: tf.Tensor) -> tf.Tensor:
    blocks = _blocks(key, nonce, first, tf.constant(width, tf.int64))
    return tf.ensure_shape(blocks, [width, _BLOCK_WORDS])

  if pieces == 1:
    words = piece(firsts[0])
  else:
    words = tf.map_fn(
      piece,
      firsts,
      parallel_iterations=1,
      fn_output_signature=tf.TensorSpec([width, _BLOCK_WORDS], tf.uint32),
    )
  return tf.reshape(words, [-1])[:num_words]


@dataclasses.dataclass(frozen=True)
class Stream:
  """A stream of secret uniform words, split from a key that nobody else has.

  Attributes:
    key: `uint32[8]`.
    number: Sets this stream apart from the others of its key.
  """

  key: tf.Tensor
  number: int

  def words(
    self,
    num_words: int | tf.Tensor,
    index: int | tf.Tensor = 0,
    part: int | tf.Tensor = 0,
  ) -> tf.Tensor:
    """Returns `uint32[num_words]`, independent for each `(index, part)`.

    The nonce is (number, index, part) and the counter starts at 0, so words are
    used twice only if a caller asks twice for the same `(index, part)`.

    Args:
      num_words: At least 0; see `keystream`.
      index: For instance an attempt or a chunk, in [0, 2^31).
      part: For instance the use within that attempt or chunk, in [0, 2^31).
    """
    nonce = [tf.cast(word, tf.uint32) for word in (self.number, index, part)]
    return keystream(self.key, tf.stack(nonce), num_words)


def split(key: tf.Tensor, count: int) -> tuple[Stream, ...]:
  """Returns `count` streams that share `key` and no block of keystream.

  Args:
    key: `uint32[8]`, to be split once and used for nothing else.
    count: At least 1.
  """
  count = _validate.check_int(count, 'count', minimum=1)
  return tuple(Stream(key, number) for number in range(count))


def fresh_streams(count: int) -> tuple[Stream, ...]:
  """Returns `count` independent streams of one `fresh_key`, which it hides.

  One call serves one client's encoding:
  `rounding, noise = random.fresh_streams(2)`.

  Args:
    count: At least 1.
  """
  return split(fresh_key(), count)
