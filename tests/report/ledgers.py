# SPDX-License-Identifier: Apache-2.0
"""Runs to look at, written by the ledger's API without any training.

`python -m tests.report.ledgers FILE` writes all of them into one ledger.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from typing import Any

from tff_secagg_ext import accounting
from tff_secagg_ext.ledger import Ledger

DELTA = 1e-5
POPULATION = 2_000
COHORT = 200
FEWEST, MOST = 118, 264
EXACT = 'client_work.train.loss is exact'
CHECKS = ('norm bound', 'sampler', 'messages', 'randomness')


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A run to be written.

  Attributes:
    name: Of the run.
    rounds: How many are committed.
    noise: Noise multiplier.
    epsilon: Budget of the release view; `None` for none.
    unaccounted: What leaves the clients without noise.
    dropped: The share of each cohort that drops out.
    lost_every: One attempt in so many is lost; 0 for none.
    hidden: Whether cohorts are Poisson ones; else fixed, with public counts.
    audited: Whether there are audits.
    waiver: What is waived.
    accuracy: What the utility rises to.
  """

  name: str
  rounds: int = 60
  noise: float = 3.0
  epsilon: float | None = 1.0
  unaccounted: tuple[str, ...] = ()
  dropped: float = 0.04
  lost_every: int = 0
  hidden: bool = True
  audited: bool = True
  waiver: accounting.Waiver | None = None
  accuracy: float = 0.94

  @property
  def sampling(self) -> accounting.Sampling:
    if self.hidden:
      return accounting.PoissonSampling(COHORT / POPULATION)
    return accounting.FixedSizeSampling(COHORT, POPULATION)

  @property
  def colluders(self) -> int:
    return 10

  def charge(self, contributors: int) -> accounting.Round:
    """What a round costs that so many are in."""
    scale = 2000.0
    least = FEWEST - self.colluders if self.hidden else COHORT - self.colluders
    shares = FEWEST if self.hidden else contributors
    event = accounting.NoisedSumEvent(
      'distributed_dgauss',
      l2_sensitivity=scale,
      share_stddev=self.noise * scale / math.sqrt(least),
      client_shares=shares,
      dimension=4096,
      server_shares=MOST - FEWEST if self.hidden else 0,
      colluders=self.colluders,
    )
    besides: list[accounting.Event] = []
    if self.unaccounted:
      besides.append(accounting.UnaccountedEvent(self.unaccounted))
    if self.waiver is not None:
      besides.append(self.waiver)
    return accounting.Round((event, *besides), self.sampling)

  @property
  def settings(self) -> dict[str, Any]:
    """What the recorder would write."""
    optional: dict[str, Any] = {}
    if self.epsilon is not None:
      failures = 0.01 * DELTA if self.hidden else 0.0
      budget = accounting.Budget(self.epsilon, DELTA, failures=failures)
      stated = dataclasses.asdict(budget)
      del stated['headroom']
      filter_ = budget.filter(self.charge(COHORT))
      optional['budget'] = {**stated, **filter_.settings}
    if self.waiver is not None:
      optional['waived'] = [dataclasses.asdict(self.waiver)]
    return {
      **optional,
      'aggregator': {
        'bits': 20,
        'clipping': {
          'initial_norm': 0.1,
          'target_quantile': 0.5,
          'learning_rate': 0.2,
        },
        'cohorts': 'poisson' if self.hidden else 'fixed',
        'expected_clients_per_round': COHORT,
        'max_colluders': self.colluders,
        'max_contributors': MOST if self.hidden else None,
        'mechanism': 'distributed_dgauss',
        'min_contributors': FEWEST,
        'modclip_prob': 1e-4,
        'noise_multiplier': self.noise,
        'rotation_type': 'hd',
        'zeroing': True,
      },
      'dimension': 4096,
      'notes': {'task': 'digits'},
      'population': POPULATION,
      'sampling': json.loads(accounting.to_json(self.sampling)),
      'secure_sums': {
        'clients': 'simulated in one process',
        'corrupt': 0.05,
        'dropout': 0.2,
        'min_contributors': FEWEST,
        'neighbors': None,
        'protocol': 'secagg',
        'threat': 'malicious',
        'threshold': None,
        'verify': True,
      },
      'unaccounted': list(self.unaccounted),
      'unit_of_privacy': 'client (all images of one writer)',
    }

  def protocol(self, number: int, *, lost: bool) -> dict[str, Any]:
    """How the vectors of a round were summed."""
    invited = COHORT + round(14 * math.sin(2.3 * number))
    gone = round(self.dropped * invited + 2 * math.sin(number) + 2)
    steps = {'mask': gone - gone // 3, 'invite': gone // 3}
    return {
      'threat': 'malicious',
      'clients': invited,
      'neighbors': 60,
      'threshold': 34,
      'colluders': self.colluders,
      'survivors': 0 if lost else invited - gone,
      'dropouts': {step: n for step, n in steps.items() if n},
      'refusals': {},
      'verified': None if lost else True,
      'upload_bytes': 19_800.0 + 9 * invited,
      'download_bytes': 27_400.0 + 21 * invited,
      'expansion': (47_200.0 + 30 * invited) / 21_500.0,
      'client_seconds': 0.021 + 0.002 * math.sin(number),
      'server_seconds': 0.31 + 0.4 * self.dropped,
      'seconds': 8.1 + 0.8 * math.sin(1.7 * number) + 6 * self.dropped,
      'transcript': f'{number:064x}',
    }

  def measurements(self, number: int, contributors: int) -> dict[str, Any]:
    """What the aggregator measures."""
    measured: dict[str, Any] = {
      'clip_norm': 0.1 + 0.32 * (1 - math.exp(-number / 14)),
      'zeroing_threshold': 11.0 * math.exp(-number / 40) + 4.0,
      'scale': 2000.0,
      'dimension': 4096,
      'wrap_probability': 3.1e-7 * (1 + 0.2 * math.sin(number)),
      'effective_noise_multiplier': self.noise,
      'aborted': False,
    }
    if not self.hidden:
      measured['contributors'] = contributors
    return measured

  def write(self, ledger: Ledger) -> None:
    """Writes the run, its rounds and its audits."""
    failures = 0.01 * DELTA if self.hidden else 0.0
    run = ledger.open_run(
      self.name, self.settings, delta=DELTA, failure_probability=failures
    )
    number = 0
    for done in range(self.rounds):
      number += 1
      while self.lost_every and number % self.lost_every == 0:
        protocol = self.protocol(number, lost=True)
        nothing = accounting.Round((), accounting.NoSampling())
        attempt = run.reserve(self.charge(COHORT))
        run.lose(attempt, nothing, "RoundAborted in step 'mask'", protocol)
        number += 1
      protocol = self.protocol(number, lost=False)
      contributors = min(protocol['survivors'], COHORT)
      attempt = run.reserve(self.charge(COHORT))
      run.commit(
        attempt,
        self.charge(contributors),
        self.measurements(number, contributors),
        protocol,
      )
      if self.audited and (done + 1) % 20 == 0:
        accuracy = self.accuracy - 0.5 * math.exp(-done / 12)
        self.record(ledger, 'utility', accuracy=accuracy, rounds=done + 1)
    if self.audited:
      self._audit(ledger)

  def _audit(self, ledger: Ledger) -> None:
    stated = ledger.show(self.name)['release_epsilon']
    self.record(
      ledger,
      'one_run',
      lower_bound=0.17 * (stated or 0.0),
      confidence=0.95,
      delta=DELTA,
      view='release',
      ledger_epsilon=stated,
      alarm=False,
    )
    verdicts = {'ours': dict.fromkeys(CHECKS, 'holds')}
    self.record(ledger, 'implementation', verdicts=verdicts, broken=[])
    self.record(
      ledger,
      'membership',
      auc=0.513,
      true_positive_rate=0.0012,
      false_positive_rate=0.001,
      alarm=False,
    )

  def record(self, ledger: Ledger, kind: str, **figures: Any) -> None:
    """Records an audit."""
    ledger.record_audit(self.name, kind, figures)


GOOD = Recipe('digits-good')
OVER = Recipe('digits-over-budget', noise=1.0, epsilon=3.0, rounds=90)
EXACT_METRICS = Recipe('digits-exact-metrics', unaccounted=(EXACT,))
DROPOUTS = Recipe(
  'digits-dropouts',
  noise=4.0,
  dropped=0.3,
  lost_every=7,
  hidden=False,
  epsilon=8.0,
)
PLAIN = Recipe('digits-plain', noise=0.0, epsilon=None, accuracy=0.965)
HOSTILE = Recipe('<b>"run"</b> & 🦉 `x` | {{ 7*7 }}', rounds=1, epsilon=None)
ALL = (GOOD, OVER, EXACT_METRICS, DROPOUTS, PLAIN, HOSTILE)


def write(location: str, *recipes: Recipe) -> None:
  """Writes runs into a ledger.

  Args:
    location: Where it is, or will be.
    *recipes: The runs; all of `ALL` by default.
  """
  with Ledger.open(location) as ledger:
    for recipe in recipes or ALL:
      recipe.write(ledger)


def with_(recipe: Recipe, **changes: Any) -> Recipe:
  """Returns a recipe with changes."""
  return dataclasses.replace(recipe, **changes)


if __name__ == '__main__':
  write(sys.argv[1])


# A process that writes rounds, each when it is told to, and ends.
WRITER = """
import sys
from tests.report import ledgers
from tff_secagg_ext.ledger import Ledger
recipe = ledgers.with_(ledgers.GOOD, name='mine', epsilon=None)
with Ledger.open(sys.argv[1]) as ledger:
  run = ledger.open_run('mine', recipe.settings, delta=ledgers.DELTA)
  print('open', flush=True)
  for number, _ in enumerate(sys.stdin, 1):
    charge = recipe.charge(200)
    attempt = run.reserve(charge)
    run.commit(attempt, charge, recipe.measurements(number, 200),
               recipe.protocol(number, lost=False))
"""
