# SPDX-License-Identifier: Apache-2.0
"""How fast noise is drawn, beside TensorFlow Privacy's samplers.

  python benchmarks/sampler.py [--draws 1000000] [--rounds 9]

One process, one thread, the samplers in turns in each round, medians. The goal
is at least twice the draws a second of TensorFlow Privacy, at the standard
deviations 10 and 2000. Ours takes a new key from the kernel in every run.

TensorFlow Privacy's discrete Gaussian needs a release of
tensorflow-probability that goes with the TensorFlow that is installed: 0.22
with TensorFlow 2.14.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import functools
import statistics
import time

import tensorflow as tf

from tff_secagg_ext import _compat
from tff_secagg_ext.mechanism import noise, random

_GOAL = 2.0


def _ours(make: Callable[[float], noise.Sampler], stddev: float, draws: int):
  sampler = make(stddev)

  def draw() -> tf.Tensor:
    (stream,) = random.fresh_streams(1)
    return sampler.sample(stream, draws)

  return tf.function(draw, autograph=False)


def _privacy_discrete_gaussian(stddev: float, draws: int):
  from tensorflow_privacy.privacy.dp_query import discrete_gaussian_utils

  sample = discrete_gaussian_utils.sample_discrete_gaussian
  return tf.function(functools.partial(sample, int(stddev), [draws]))


def _privacy_skellam(stddev: float, draws: int):
  """Draws what `DistributedSkellamSumQuery` adds to a vector of zeros."""
  from tensorflow_privacy.privacy.dp_query import distributed_skellam_query

  query = distributed_skellam_query.DistributedSkellamSumQuery(1.0, 1.0, stddev)
  return tf.function(
    lambda: query.add_noise_to_sample(stddev, tf.zeros([draws], tf.int32)),
    autograph=False,
  )


def _seconds(draw: Callable[[], tf.Tensor]) -> float:
  start = time.perf_counter()
  # Reading one value waits for the whole result.
  int(draw()[0])
  return time.perf_counter() - start


def _compare(stddev: float, draws: int, rounds: int) -> None:
  pairs = {
    'discrete Gaussian': (
      _ours(noise.discrete_gaussian, stddev, draws),
      _privacy_discrete_gaussian(stddev, draws),
    ),
    'Skellam': (
      _ours(noise.skellam, stddev, draws),
      _privacy_skellam(stddev, draws),
    ),
  }
  for name, pair in pairs.items():
    for draw in pair:
      _seconds(draw)
    times = [[_seconds(draw) for draw in pair] for _ in range(rounds)]
    ours, theirs = (statistics.median(t) for t in zip(*times, strict=True))
    print(
      f'{name:18s} stddev {stddev:6g}: {draws / ours / 1e6:6.1f} M/s, '
      f'TensorFlow Privacy {draws / theirs / 1e6:5.1f} M/s, '
      f'ratio {theirs / ours:4.1f} (goal {_GOAL:g})'
    )


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--draws', type=int, default=1_000_000)
  parser.add_argument('--rounds', type=int, default=9)
  arguments = parser.parse_args()
  _compat.prepare()
  tf.config.threading.set_intra_op_parallelism_threads(1)
  tf.config.threading.set_inter_op_parallelism_threads(1)
  for stddev in (10.0, 2000.0):
    _compare(stddev, arguments.draws, arguments.rounds)


if __name__ == '__main__':
  main()
