# SPDX-License-Identifier: Apache-2.0
"""A task whose examples are lines of text: secrets can be planted in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools

import numpy as np
import tensorflow as tf

from tff_secagg_ext import _validate
from tff_secagg_ext.tasks import task as task_lib


@dataclasses.dataclass(frozen=True)
class LanguageTask(task_lib.Task):
  """A task to tell the next character.

  A batch is int32[lines, characters], with the character after each.

  Attributes:
    alphabet: Character by code.
    next_logits: From weights and the codes of texts, int32[texts, any]: the
      logits of the character after each, float32[texts, alphabet].
  """

  alphabet: str
  next_logits: Callable[[task_lib.Weights, tf.Tensor], tf.Tensor]

  @property
  def letters(self) -> tuple[int, ...]:
    """The codes of what secrets are made of: letters alone."""
    return tuple(
      code for code, letter in enumerate(self.alphabet) if letter.isalpha()
    )

  def next_log_probabilities(
    self, weights: task_lib.Weights
  ) -> Callable[[task_lib.Array], task_lib.Array]:
    """Returns a model as a function: the law of the character after texts.

    From codes, integers [texts, any], to float64[texts, alphabet], in nats.
    """
    trained = tuple(tf.convert_to_tensor(w) for w in weights)

    def model(texts: task_lib.Array) -> task_lib.Array:
      logits = self.next_logits(trained, tf.constant(texts, tf.int32))
      return np.asarray(tf.nn.log_softmax(tf.cast(logits, tf.float64)))

    return model

  def planted(
    self, texts: Mapping[str, task_lib.Array], repetitions: int
  ) -> LanguageTask:
    """Returns the task with texts in the data of some clients.

    Each begins so many of the lines that its client trains on in a round,
    evenly spread, in the place of what was there.

    Args:
      texts: Codes, by the id of the client that has them.
      repetitions: Of each, from 1 to the lines that a client trains on.

    Raises:
      ValueError: If a client is none of the task's, or the lines are too few or
        too short.
    """
    unknown = set(texts) - set(self.clients)
    if unknown:
      raise ValueError(
        f"`texts` must be for the task's clients. Found {sorted(unknown)[0]!r}."
      )

    @functools.cache
    def client_data(client: str) -> tf.data.Dataset:
      data = self.client_data(client)
      if client not in texts:
        return data
      return _planted(data, texts[client], repetitions)

    for client in texts:
      client_data(client)
    return dataclasses.replace(self, client_data=client_data)


def _planted(
  data: tf.data.Dataset, text: task_lib.Array, repetitions: int
) -> tf.data.Dataset:
  batches = list(data.as_numpy_iterator())
  lines = np.concatenate([np.hstack([x, y[:, -1:]]) for x, y in batches])
  count, width = lines.shape
  _validate.check_int(
    repetitions,
    'repetitions',
    minimum=1,
    maximum=count,
    remedy=f'A client trains on {count} lines a round.',
  )
  if len(text) > width:
    raise ValueError(
      f'`texts` must have at most the {width} characters of a line. Found'
      f' {len(text)}.'
    )
  lines[np.arange(repetitions) * count // repetitions, : len(text)] = text
  return tf.data.Dataset.from_tensor_slices(
    (lines[:, :-1], lines[:, 1:])
  ).batch(len(batches[0][0]))
