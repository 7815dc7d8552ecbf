# SPDX-License-Identifier: Apache-2.0
"""Trains a small model with Opacus, and says what its accountants say.

Runs in an environment with Opacus, for benchmarks/hybrid.py:

  python opacus_training.py DATA.npz DELTA

DATA.npz holds `x`, of shape [clients, images, 64], and `y`, [clients, images]:
a record is all of a client's images, so that the unit of privacy is a client.
Prints a JSON object: the history, the events that an `EventAdapter` recorded
beside it, both epsilons, and the accuracy on the training data.
"""

from __future__ import annotations

import json
import sys
import warnings

import numpy as np
import opacus
from opacus import accountants
import torch

from tff_secagg_ext import accounting

_BATCH, _EPOCHS, _NOISES = 36, 6, (1.5, 1.0)


def main() -> None:
  """Trains, half of the epochs with each noise, and prints."""
  warnings.filterwarnings('ignore')
  data, delta = np.load(sys.argv[1]), float(sys.argv[2])
  x, y = torch.tensor(data['x']), torch.tensor(data['y'])
  torch.manual_seed(0)
  engine = opacus.PrivacyEngine()
  engine.accountant = accounting.EventAdapter(
    engine.accountant,
    vouched_by='benchmarks/hybrid.py',
    source=f'opacus {opacus.__version__}',
  )
  model = torch.nn.Linear(64, 10)
  model, optimizer, loader = engine.make_private(
    module=model,
    optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
    data_loader=torch.utils.data.DataLoader(
      torch.utils.data.TensorDataset(x, y), batch_size=_BATCH
    ),
    noise_multiplier=_NOISES[0],
    max_grad_norm=1.0,
  )
  for epoch in range(_EPOCHS):
    optimizer.noise_multiplier = _NOISES[epoch * len(_NOISES) // _EPOCHS]
    for images, labels in loader:
      optimizer.zero_grad()
      logits = model(images)
      loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten()
      )
      loss.backward()
      optimizer.step()
  right = model(x).argmax(-1) == y
  found = {
    'version': opacus.__version__,
    'accuracy': float(right.float().mean()),
  }
  found['history'] = engine.accountant.history
  found['events'] = [accounting.to_json(e) for e in engine.accountant.events]
  for name, accountant in (
    ('prv', accountants.PRVAccountant()),
    ('rdp', accountants.RDPAccountant()),
  ):
    accountant.history = list(engine.accountant.history)
    found[name] = float(accountant.get_epsilon(delta))
  print(json.dumps(found))


if __name__ == '__main__':
  main()
