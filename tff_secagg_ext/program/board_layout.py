# SPDX-License-Identifier: Apache-2.0
"""How TensorBoard shows privacy figures: a layout of its custom scalars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import importlib
import os
import pathlib
from typing import Any, TypeAlias

# Tags by the title of a chart, and charts by their category.
Layout: TypeAlias = Mapping[str, Mapping[str, Sequence[str]]]


def charts(budget_view: str | None, server_view: bool) -> Layout:
  """Returns which figures are shown together, by category and title.

  Args:
    budget_view: Whose epsilon the budget limits: it is drawn there. `None`
      without a budget.
    server_view: Whether it is told who was invited and who dropped out.
  """
  epsilons = {
    view: [f'privacy/{view}_epsilon']
    + (['privacy/budget'] if view == budget_view else [])
    for view in ('release', 'server')
  }
  clients = {'Clients in the sum': ['clients/contributors']}
  if server_view:
    clients = {
      'Clients in the sum, and invited': [
        'clients/contributors',
        'clients/invited',
      ],
      'Clients that dropped out': ['clients/dropped_out'],
    }
  return {
    'Privacy': {
      'ε towards whoever sees the models': epsilons['release'],
      'ε towards the coordinator': epsilons['server'],
    },
    'Mechanism': {
      'Clip norm': ['mechanism/clip_norm'],
      'Zeroing threshold': ['mechanism/zeroing_threshold'],
      'Noise multiplier that rounds had': [
        'mechanism/effective_noise_multiplier'
      ],
      'Probability that a coordinate wraps': ['mechanism/wrap_probability'],
    },
    'Clients': clients,
  }


def write(
  folder: str | os.PathLike[str], budget_view: str | None, server_view: bool
) -> None:
  """Writes the layout where TensorBoard finds it.

  Args:
    folder: The log directory.
    budget_view: As in `charts`.
    server_view: As in `charts`.

  Raises:
    ImportError: If TensorBoard is not installed.
  """
  summary = _serialized(charts(budget_view, server_view))
  import tensorflow as tf

  place = pathlib.Path(folder) / 'layout'
  with tf.summary.create_file_writer(str(place)).as_default():
    tf.summary.experimental.write_raw_pb(summary, step=0)


def _serialized(layout: Layout) -> bytes:
  """Returns a layout as the summary that TensorBoard's plugin reads."""
  plugin = 'tensorboard.plugins.custom_scalar'
  try:
    protos = importlib.import_module(f'{plugin}.layout_pb2')
    summary: Any = importlib.import_module(f'{plugin}.summary')
  except ModuleNotFoundError as error:
    raise ImportError(
      f'TensorBoard cannot be imported: {error}. Install it with `pip install'
      ' tensorboard`, or do without the layout: all figures are scalars.'
    ) from error
  categories = [
    protos.Category(
      title=category,
      chart=[
        # Tags are regular expressions.
        protos.Chart(
          title=title,
          multiline=protos.MultilineChartContent(
            tag=[f'^{tag}$' for tag in tags]
          ),
        )
        for title, tags in shown.items()
      ],
    )
    for category, shown in layout.items()
  ]
  found = summary.pb(protos.Layout(category=categories))
  return bytes(found.SerializeToString())
