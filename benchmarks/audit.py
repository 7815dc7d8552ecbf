# SPDX-License-Identifier: Apache-2.0
"""Audits: the estimates of the plain Gaussian mechanism, and what they cost.

  python benchmarks/audit.py [--repeats 50] [--plot FILE]

First what 1,000 and 1,024 canaries cost a round at 10^6 coordinates, in
processor time, beside one client's encode by the aggregator: a cohort that has
the canaries encodes as often as they are many; and what they cost where they
ride in a training, in fresh directions each round. The goal is 2 %. Then the
bound of one run at 10^5 canaries; the goal is a second. Then the plain Gaussian
mechanism at three epsilons, with the goals that the means of `known` are within
10 %, that its deviations are near what was published, and that `fitted` is
biased by about 0.4. --plot draws all repeats, with matplotlib.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Callable
import statistics
import sys
import time

import numpy as np
from scipy import optimize
import tensorflow as tf

from tff_secagg_ext import aggregators, audit
from tff_secagg_ext.audit import training, two_gaussians
from tff_secagg_ext.mechanism import round as round_lib
from tff_secagg_ext.mechanism import stage

DIMENSION, COUNT, DELTA = 10**6, 1000, 1e-6
# Epsilon, and the deviation of `known` in arXiv 2302.03098.
PUBLISHED = {1.0: 0.12, 3.0: 0.16, 10.0: 0.21}
COST_GOAL, BOUND_GOAL = 0.02, 1.0


def cpu_seconds(action: Callable[[], object], repeats: int = 5) -> float:
  """Returns the median of the processor time of `action`."""
  times = []
  for _ in range(repeats):
    start = time.process_time()
    action()
    times.append(time.process_time() - start)
  return statistics.median(times)


def encode_seconds() -> float:
  """Returns the processor time of one client's encode, compiled."""
  factory = aggregators.ddp_secure_aggregator(1.0, COUNT)
  shapes = [[DIMENSION]]
  padded = factory.padded_dimension(stage.num_elements(shapes))
  graph = round_lib.Round(factory.spec, shapes, factory.constants(padded))
  state = dict(graph.initial_state())
  encode = tf.function(lambda value: graph.encode(state, [value]))
  vector = tf.fill([DIMENSION], DIMENSION**-0.5)
  encode(vector)
  return cpu_seconds(lambda: encode(vector))


def cost() -> bool:
  """Prints what cosines cost beside a round of as many encodes."""
  encode = encode_seconds()
  print(f'one client encodes {DIMENSION:,} coordinates in {encode:.3f} s')
  met = True
  release = np.random.default_rng(0).normal(size=(1, DIMENSION))
  for count in (COUNT, 1024):
    canaries = audit.Canaries.draw(count, DIMENSION)
    seconds = cpu_seconds(lambda canaries=canaries: canaries.cosines(release))
    share = seconds / (count * encode)
    met &= share <= COST_GOAL
    print(
      f'  {count} canaries: cosines {seconds:.3f} s, {share:.2%} of a round '
      f'(goal {COST_GOAL:.0%})'
    )
    met &= riding(count, encode, release[0])
  return met


def riding(count: int, encode: float, release: np.ndarray) -> bool:
  """Prints what canaries of a training cost a round, an earlier one known."""
  canaries = training.TrainingCanaries(bytes(32), count, 0, DIMENSION)
  earlier = np.random.default_rng(1).normal(size=DIMENSION)
  seconds = cpu_seconds(lambda: canaries.observe('1/1', release, earlier))
  share = seconds / (count * encode)
  made = cpu_seconds(lambda: collections.deque(canaries.sent('1/1'), 0), 1)
  print(
    f'    riding in a training: {seconds:.3f} s, {share:.2%} of a round (goal'
    f' {COST_GOAL:.0%}); what they send instead of training is made in'
    f' {made:.2f} s'
  )
  return share <= COST_GOAL


def bound() -> bool:
  """Prints how long the bound of one run takes at its largest."""
  guesses = audit.one_run.Guesses(10**5, 10**5, 60_000)
  seconds = cpu_seconds(
    lambda: audit.one_run.epsilon_lower_bound(guesses, 1e-6)
  )
  print(f'bound of one run, 10^5 canaries, all guessed: {seconds:.3f} s')
  return seconds < BOUND_GOAL


def ratio_of(epsilon: float) -> float:
  """Returns the ratio of sensitivity and deviation that costs epsilon."""
  return float(
    optimize.brentq(
      lambda ratio: two_gaussians.epsilon(ratio, 1.0, DELTA) - epsilon, 0.01, 9
    )
  )


def estimates(repeats: int) -> dict[float, list[audit.one_shot.Estimate]]:
  """Returns the audits of each epsilon, of new canaries and noise each."""
  found: dict[float, list[audit.one_shot.Estimate]] = {e: [] for e in PUBLISHED}
  for repeat in range(repeats):
    canaries = audit.Canaries.draw(COUNT, DIMENSION)
    generator = np.random.default_rng(repeat)
    total = canaries.total()
    releases = [
      total + generator.normal(size=DIMENSION) / ratio_of(epsilon)
      for epsilon in PUBLISHED
    ]
    cosines = canaries.cosines(releases)
    audits = audit.one_shot.estimates(cosines, DELTA)
    for epsilon, one in zip(PUBLISHED, audits, strict=True):
      found[epsilon].append(one)
  return found


def figures(found: dict[float, list[audit.one_shot.Estimate]]) -> bool:
  """Prints the table of docs/audit.md."""
  print('| epsilon | known | fitted | lower bound | bounds above |')
  print('|---|---|---|---|---|')
  met = True
  for epsilon, audits in found.items():
    known, fitted, lower = (
      np.asarray([getattr(one, name) for one in audits])
      for name in ('known', 'fitted', 'lower_bound')
    )
    above = np.count_nonzero(lower > epsilon)
    print(
      f'| {epsilon:g} | {known.mean():.3f} +- {known.std(ddof=1):.3f} '
      f'| {fitted.mean():.3f} +- {fitted.std(ddof=1):.3f} '
      f'| {lower.mean():.3f} +- {lower.std(ddof=1):.3f} '
      f'| {above} of {len(audits)} |'
    )
    met &= abs(known.mean() - epsilon) <= 0.1 * epsilon
    met &= 0.2 < fitted.mean() - epsilon < 0.7
  return bool(met)


def plot(found: dict[float, list[audit.one_shot.Estimate]], path: str) -> None:
  """Draws all repeats beside the exact epsilons."""
  try:
    from matplotlib import figure
  except ImportError:
    print('no plot: matplotlib is not there; it is in the extra `notebook`')
    return
  drawn = figure.Figure(figsize=(9, 3.2), layout='constrained')
  axes = drawn.subplots(1, len(found))
  names = {'lower_bound': 'lower bound', 'known': 'known', 'fitted': 'fitted'}
  for panel, (epsilon, audits) in zip(axes, found.items(), strict=True):
    columns = [[getattr(one, name) for one in audits] for name in names]
    spread = np.random.default_rng(0).uniform(-0.15, 0.15, len(audits))
    for place, column in enumerate(columns):
      panel.plot(place + spread, column, '.', alpha=0.6)
      panel.plot(place, np.mean(column), 'k_', markersize=25)
    panel.axhline(epsilon, color='k', linewidth=0.8, linestyle='--')
    panel.set_xticks(range(len(names)), list(names.values()))
    panel.set_title(f'exact epsilon {epsilon:g}')
  axes[0].set_ylabel('epsilon at delta 1e-6')
  drawn.savefig(path, dpi=150)
  print(f'plot: {path}')


def main() -> None:
  """Prints all figures; fails if a goal is missed."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--repeats', type=int, default=50)
  parser.add_argument('--plot')
  arguments = parser.parse_args()
  met = cost()
  met &= bound()
  found = estimates(arguments.repeats)
  met &= figures(found)
  if arguments.plot:
    plot(found, arguments.plot)
  print(f'goals met: {met}')
  if not met:
    sys.exit(1)


if __name__ == '__main__':
  main()
