# SPDX-License-Identifier: Apache-2.0
"""Tests of the kernel's keys and of ChaCha20 against RFC 8439."""

from __future__ import annotations

import itertools
import json
import pathlib

from cryptography.hazmat.primitives import ciphers
from cryptography.hazmat.primitives.ciphers import algorithms
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf

from tff_secagg_ext._compat import tff
from tff_secagg_ext.mechanism import random

_VECTORS = pathlib.Path(__file__).parents[1] / 'vectors' / '1'
_CHACHA20 = json.loads((_VECTORS / 'chacha20.json').read_text())['vectors']
_UUIDS = json.loads((_VECTORS / 'kernel_uuids.json').read_text())
_KEY = np.arange(8, dtype=np.uint32)
_NONCE = np.arange(3, dtype=np.uint32)


def _reference(
  key: bytes, nonce: bytes, num_words: int, counter: int = 0
) -> np.ndarray:
  """The keystream as the `cryptography` package has it."""
  start = counter.to_bytes(4, 'little') + nonce
  cipher = ciphers.Cipher(algorithms.ChaCha20(key, start), None)
  stream = cipher.encryptor().update(bytes(4 * num_words))
  return np.frombuffer(stream, '<u4')


def _keystream(key: bytes, nonce: bytes, num_words, counter=0) -> np.ndarray:
  return random.keystream(
    tf.constant(np.frombuffer(key, '<u4')),
    tf.constant(np.frombuffer(nonce, '<u4')),
    num_words,
    counter,
  ).numpy()


def _write(monkeypatch, folder: pathlib.Path, lines: list[str]) -> None:
  """Makes `fresh_key` read `lines`, one an opening."""
  paths = [folder / str(i) for i in range(len(lines))]
  for path, line in zip(paths, lines, strict=True):
    path.write_text(line + '\n')
  dataset = tf.data.TextLineDataset
  names = [str(path) for path in paths]
  monkeypatch.setattr(tf.data, 'TextLineDataset', lambda _: dataset(names))


# Keys.


def test_a_key_is_fresh_at_every_execution():
  compiled = tf.function(random.fresh_key)
  eager = [random.fresh_key().numpy() for _ in range(2)]
  keys = [*eager, *(compiled().numpy() for _ in range(2))]
  assert all(k.shape == (8,) and k.dtype == np.uint32 for k in keys)
  assert len({k.tobytes() for k in keys}) == 4


def test_two_keys_of_one_graph_differ():
  first, second = tf.function(
    lambda: (random.fresh_key(), random.fresh_key())
  )()
  assert not np.intersect1d(first, second).size


def test_thousand_keys_are_random_in_every_bit_and_repeat_no_word():
  """Each bit's frequency in 1000 keys is within 6 standard deviations.

  False-alarm rates: 256 * 2e-9 for the bits, of which a fixed one would be 31
  deviations off. Among 8000 words one may repeat; two do at a rate of 3e-5.
  """
  compiled = tf.function(random.fresh_key)
  keys = np.stack([compiled().numpy() for _ in range(1000)])
  assert len(np.unique(keys)) >= keys.size - 1
  bits = (keys[..., np.newaxis] >> np.arange(32, dtype=np.uint32)) & 1
  deviations = (bits.mean(0) - 0.5) * 2 * np.sqrt(1000)
  assert np.abs(deviations).max() < 6


def test_every_client_gets_a_key_of_its_own():
  @tff.tensorflow.computation(np.int32)
  def key_of_client(_):
    return random.fresh_key()

  @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
  def keys_of_clients(clients):
    return tff.federated_map(key_of_client, clients)

  keys = [*keys_of_clients([0, 0, 0, 0]), *keys_of_clients([0, 0])]
  assert len({np.asarray(k).tobytes() for k in keys}) == 6


@pytest.mark.parametrize('case', _UUIDS['accepted'])
def test_a_key_is_made_of_random_digits_only(case, monkeypatch, tmp_path):
  _write(monkeypatch, tmp_path, case['files'])
  expected = [int(word, 16) for word in case['key']]
  np.testing.assert_array_equal(random.fresh_key(), expected)


@pytest.mark.parametrize('case', _UUIDS['refused'], ids=lambda c: c['why'])
def test_a_bad_line_fails(case, monkeypatch, tmp_path):
  good = _UUIDS['accepted'][0]['files'][1:]
  _write(monkeypatch, tmp_path, [case['line'], *good])
  with pytest.raises(tf.errors.OpError):
    tf.function(random.fresh_key)()


def test_a_line_that_comes_twice_fails(monkeypatch, tmp_path):
  files = _UUIDS['accepted'][0]['files']
  _write(monkeypatch, tmp_path, [*files[:3], files[0]])
  with pytest.raises(
    tf.errors.InvalidArgumentError, match='must give 4 different version 4'
  ):
    tf.function(random.fresh_key)()


def test_too_few_lines_fail(monkeypatch, tmp_path):
  _write(monkeypatch, tmp_path, _UUIDS['accepted'][0]['files'][:3])
  with pytest.raises(tf.errors.OpError, match='empty'):
    tf.function(random.fresh_key)()


def test_a_missing_source_fails(monkeypatch, tmp_path):
  monkeypatch.setattr(random, '_SOURCE', str(tmp_path / 'absent'))
  with pytest.raises(tf.errors.NotFoundError, match='absent'):
    tf.function(random.fresh_key)()


def test_a_bad_source_fails_in_a_tff_worker(monkeypatch, tmp_path):
  monkeypatch.setattr(random, '_SOURCE', str(tmp_path / 'absent'))
  computation = tff.tensorflow.computation(random.fresh_key)
  with pytest.raises(Exception, match='absent'):
    computation()


# Keystream.


@pytest.mark.parametrize('vector', _CHACHA20, ids=lambda v: v['source'])
def test_keystream_of_rfc_8439(vector):
  expected = np.frombuffer(bytes.fromhex(vector['keystream']), np.uint8)
  words = _keystream(
    bytes.fromhex(vector['key']),
    bytes.fromhex(vector['nonce']),
    -(-len(expected) // 4),
    vector['counter'],
  )
  got = np.frombuffer(words.astype('<u4').tobytes(), np.uint8)
  np.testing.assert_array_equal(got[: len(expected)], expected)


@hypothesis.settings(max_examples=20)
@hypothesis.given(
  key=st.binary(min_size=32, max_size=32),
  nonce=st.binary(min_size=12, max_size=12),
  num_words=st.integers(0, 100),
  counter=st.integers(0, 2**32 - 7),
)
def test_keystream_is_that_of_cryptography(key, nonce, num_words, counter):
  expected = _reference(key, nonce, num_words, counter)
  for length in (num_words, tf.constant(num_words)):
    got = _keystream(key, nonce, length, counter)
    assert got.dtype == np.uint32
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
  ('num_words', 'counter'),
  [
    (16 * random._WIDTH, 5),
    (16 * random._WIDTH + 1, 2**31 - 100),
    (2**20 + 17, 2**32 - 2**20),
  ],
)
def test_long_keystream(num_words, counter):
  key, nonce = _KEY.tobytes(), _NONCE.tobytes()
  compiled = tf.function(
    lambda: random.keystream(_KEY, tf.constant(_NONCE), num_words, counter)
  )
  words = compiled()
  assert compiled.get_concrete_function().output_shapes == (num_words,)
  expected = _reference(key, nonce, num_words, counter)
  np.testing.assert_array_equal(words, expected)


def test_the_last_block_is_the_limit():
  last = 2**32 - 1
  expected = _reference(_KEY.tobytes(), _NONCE.tobytes(), 16, last)
  got = random.keystream(_KEY, tf.constant(_NONCE), 16, last)
  np.testing.assert_array_equal(got, expected)
  with pytest.raises(
    ValueError, match=r'`num_words` must be at most 16\. Found 17\. Take anot'
  ):
    random.keystream(_KEY, tf.constant(_NONCE), 17, last)
  with pytest.raises(tf.errors.InvalidArgumentError):
    random.keystream(_KEY, tf.constant(_NONCE), tf.constant(17), last)


@pytest.mark.parametrize(
  ('arguments', 'kind', 'message'),
  [
    ((-1,), ValueError, '`num_words` must be at least 0. Found -1'),
    ((1.5,), TypeError, '`num_words` must be an integer. Found 1.5'),
    ((1, -1), ValueError, '`counter` must be at least 0. Found -1'),
    ((1, 2**32), ValueError, '`counter` must be at most 4294967295'),
  ],
)
def test_bad_arguments(arguments, kind, message):
  with pytest.raises(kind, match=message):
    random.keystream(_KEY, tf.constant(_NONCE), *arguments)


# Streams.


def test_streams_share_no_keystream():
  streams = random.split(tf.constant(_KEY), 3)
  words = np.concatenate(
    [
      stream.words(64, index, part)
      for stream, index, part in itertools.product(streams, (0, 1), (0, 1))
    ]
  )
  assert len(np.unique(words)) == len(words)


def test_words_are_keystream_of_their_nonce():
  stream = random.split(tf.constant(_KEY), 3)[2]
  nonce = np.array([2, 7, 1], np.uint32)
  got = stream.words(100, tf.constant(7), 1)
  np.testing.assert_array_equal(
    got, _reference(_KEY.tobytes(), nonce.tobytes(), 100)
  )


def test_fresh_streams_have_a_new_key_at_every_execution():
  @tf.function
  def words():
    first, second = random.fresh_streams(2)
    return first.words(16), second.words(16)

  drawn = np.concatenate([*words(), *words()])
  assert len(np.unique(drawn)) == len(drawn)


def test_bad_count():
  with pytest.raises(ValueError, match=r'`count` must be at least 1\. Found 0'):
    random.fresh_streams(0)
