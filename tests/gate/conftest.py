# SPDX-License-Identifier: Apache-2.0
"""A run that passes the default policy, made without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest

from tff_secagg_ext import accounting, gate
from tff_secagg_ext.audit import implementation
from tff_secagg_ext.ledger import Ledger
from tff_secagg_ext.secagg import simulation, transcript
from tff_secagg_ext.secagg.setup import Security, VectorSpec

DELTA = 1e-5
ROUNDS = 3
CLIENTS = 6
POLICY = """
[utility]
baseline = 0.97
"""


def noised(stddev: float, shares: int = 25) -> accounting.NoisedSumEvent:
  """A sum, of 25 shares at noise multiplier stddev / 20 towards both views."""
  return accounting.NoisedSumEvent(
    'distributed_dgauss', 100.0, stddev, shares, 64
  )


AUDITS: Mapping[str, Mapping[str, Any]] = {
  'one_shot': {
    'lower_bound': 0.5,
    'confidence': 0.95,
    'delta': DELTA,
    'view': 'release',
    'ledger_epsilon': 3.0,
    'alarm': False,
  },
  'memorization': {'reduction': 3.1, 'extracted': 0},
  'membership': {
    'auc': 0.52,
    'true_positive_rate': 0.002,
    'false_positive_rate': 0.001,
    'alarm': False,
  },
  'implementation': {
    'verdicts': {'ours': {c.name: 'holds' for c in implementation.CHECKS}},
    'broken': [],
  },
  'utility': {'accuracy': 0.95, 'rounds': ROUNDS},
}


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How a run is made, and where its transcripts are.

  Attributes:
    folder: Where its ledger and its transcripts are.
    protocols: How the vectors of each round were summed.
    events: What each round releases.
    sessions: Changes to all protocols.
    lost: How many attempts are lost besides.
    audits: Of the run, by kind; `None` leaves one out.
    settings: Changes to what the run is begun with.
    policy: TOML.
  """

  folder: pathlib.Path
  protocols: Sequence[Mapping[str, Any]]
  events: tuple[accounting.Event, ...] = (noised(60.0),)
  sessions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  lost: int = 0
  audits: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  policy: str = POLICY

  @property
  def location(self) -> str:
    return f'sqlite:///{self.folder / "runs.db"}'

  @property
  def transcripts(self) -> pathlib.Path:
    return self.folder / 'transcripts'

  def with_(self, **changes: Any) -> Recipe:
    return dataclasses.replace(self, **changes)

  def make(self) -> Recipe:
    """Writes the run 'mine', and its audits."""
    charge = accounting.Round(self.events, accounting.NoSampling())
    settings = {'aggregator': {'noise_multiplier': 3.0}, **self.settings}
    with Ledger.open(self.location) as ledger:
      run = ledger.open_run('mine', settings, delta=DELTA)
      for _ in range(self.lost):
        nothing = accounting.Round((), accounting.NoSampling())
        run.lose(run.reserve(charge), nothing, 'its process ended')
      for protocol in self.protocols:
        changed = {**protocol, **self.sessions}
        run.commit(run.reserve(charge), charge, {}, changed)
      self.record(ledger)
    (self.folder / 'policy.toml').write_text(self.policy)
    return self

  def record(self, ledger: Ledger) -> None:
    for kind, figures in AUDITS.items():
      changed = self.audits.get(kind, {})
      if changed is not None:
        ledger.record_audit('mine', kind, {**figures, **changed})


Sessions = tuple[pathlib.Path, tuple[Mapping[str, Any], ...]]


@pytest.fixture(scope='session')
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Sessions:
  """Sessions of which each loses a client: their transcripts and figures."""
  folder, figures = tmp_path_factory.mktemp('sessions') / 'transcripts', []
  for number in range(ROUNDS):
    outcome = simulation.Simulation(
      Security('malicious', 0.0, 0.2), min_survivors=2
    ).run(
      range(CLIENTS),
      [VectorSpec('update', 3, 1 << 20)],
      lambda client: {'update': np.full(3, client)},
      round=number,
      dropouts=lambda stage, client: (stage, client) == ('mask', 3),
      transcripts=lambda setup: transcript.Transcript.create(
        folder, setup.session, setup.round
      ),
    )
    protocol = dataclasses.asdict(outcome.report)
    del protocol['noise']
    # Vectors of three coordinates expand more than those of any model.
    figures.append({**protocol, 'expansion': 3.5})
  return folder, tuple(figures)


@pytest.fixture
def recipe(sessions: Sessions, tmp_path: pathlib.Path) -> Recipe:
  """A run that is good, and not made yet; its transcripts are there."""
  folder, protocols = sessions
  shutil.copytree(folder, tmp_path / 'transcripts')
  return Recipe(tmp_path, protocols)


@pytest.fixture(scope='session')
def evidence(
  sessions: Sessions, tmp_path_factory: pytest.TempPathFactory
) -> gate.Evidence:
  """What there is of a good run."""
  folder, protocols = sessions
  recipe = Recipe(tmp_path_factory.mktemp('good'), protocols).make()
  policy = gate.Policy.parse(recipe.policy.encode())
  with Ledger.open(recipe.location) as ledger:
    return gate.gather(ledger, 'mine', policy, folder=folder)
