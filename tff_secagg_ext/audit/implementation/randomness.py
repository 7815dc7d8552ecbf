# SPDX-License-Identifier: Apache-2.0
"""Attacks on the noise of clients: its seeds, its independence, its law."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
from scipy import stats

from tff_secagg_ext.audit.implementation import messages
from tff_secagg_ext.audit.implementation.finding import (
  FALSE_ALARM,
  Finding,
  does_not_apply,
  judged,
)
from tff_secagg_ext.audit.implementation.subject import Subject

_MOST_SEEDS = 400_000
_BATCH = 4096
_NO_MESSAGES = "its clients' messages can't be had"

# Below it a rounding's variance, and the step of the integers, show in bins.
_SMALLEST_STDDEV = 20.0
_PAIRS = 8
_EDGES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, math.inf)


def seed_recovery(subject: Subject) -> Finding:
  """Tries each microsecond of a message's time window as the noise's seed.

  A seed is the right one if what it leaves of the message has the norm of a
  client's integers. A wrong one leaves noise of twice the variance s^2, whose
  norm is so small with probability at most P(chi^2_D <= S^2 / (2 s^2)): a ball
  is likeliest around the mean, by Anderson's inequality.
  """
  facts = subject.facts
  if subject.encode is None or subject.replay is None:
    return does_not_apply(_NO_MESSAGES)
  if not facts.share_stddev or facts.sensitivity is None:
    return does_not_apply('neither sensitivity nor noise are stated')
  value = messages.spread(subject.setting.dimension, facts.clip_norm)
  subject.encode([value])  # Whatever is compiled is compiled by now.
  start = int(time.time() * 1e6)
  sent = np.asarray(subject.encode([value])[0], np.int64)
  window = int(time.time() * 1e6) - start + 1
  seeds = min(window, _MOST_SEEDS)
  tried, found = 0, False
  bound = facts.sensitivity**2
  while tried < seeds and not found:
    noise = subject.replay(start + tried, min(_BATCH, seeds - tried))
    left = messages.centred(sent - noise, facts.modulus)
    found = bool(np.any(np.sum(left.astype(float) ** 2, axis=1) <= bound))
    tried += len(noise)
  ratio = bound / (2 * facts.share_stddev**2)
  return judged(
    found,
    'a time stamp as the seed leaves the un-noised record'
    if found
    else 'no time stamp in the window is the seed',
    {'window_microseconds': window, 'seeds_tried': tried},
    tried * float(stats.chi2.cdf(ratio, sent.size)),
  )


def shared_noise(subject: Subject) -> Finding:
  """Looks for two clients of one round whose noise is alike.

  The energy of each pair's difference is chi^2_D times twice the variance, if
  they are independent; it is compared with the median pair's. Half of that, or
  half more, is a correlation of a half.
  """
  if subject.encode is None:
    return does_not_apply(_NO_MESSAGES)
  value = messages.spread(subject.setting.dimension, subject.facts.clip_norm)
  sent = [np.asarray(m, np.int64) for m in subject.encode([value] * 32)]
  energies = np.array(
    [
      np.mean(messages.centred(a - b, subject.facts.modulus).astype(float) ** 2)
      for a, b in itertools.combinations(sent, 2)
    ]
  )
  ratios = energies / max(float(np.median(energies)), 1e-300)
  alike = int(np.sum((ratios < 0.5) | (ratios > 1.5)))
  dimension = np.size(sent[0])
  law = stats.chi2(dimension)
  # The median is within 10 % of the mean, or half of all pairs are beyond it.
  tails = law.cdf(0.55 * dimension) + law.sf(1.35 * dimension)
  return judged(
    alike > 0,
    f'{alike} of {len(ratios)} pairs of clients have related noise',
    {
      'pairs': len(ratios),
      'related': alike,
      'smallest_ratio': float(ratios.min()),
      'largest_ratio': float(ratios.max()),
    },
    len(ratios) * float(tails),
  )


def sampler(subject: Subject) -> Finding:
  """Tests one share's standard deviation and tails against the stated law.

  Differences of two messages of one value have variance 2 s^2, and at most a
  half more by rounding. The variance is tested by chi^2 at half of the false
  alarms, each bin of |difference| by its binomial law at a share of the rest.
  """
  stated = subject.facts.share_stddev
  if subject.encode is None:
    return does_not_apply(_NO_MESSAGES)
  if stated is None or stated < _SMALLEST_STDDEV:
    return does_not_apply('no share of noise of a tested size is stated')
  difference = messages.noise_differences(subject, 2 * _PAIRS).astype(float)
  n = difference.size
  measured = float(np.mean(difference**2))
  low = 2 * stated**2 * float(stats.chi2.ppf(FALSE_ALARM / 4, n)) / n
  high = (2 * stated**2 + 0.5) * float(stats.chi2.isf(FALSE_ALARM / 4, n)) / n
  odd = _odd_bins(np.abs(difference).ravel() / math.sqrt(2 * stated**2))
  off = not low <= measured <= high
  why = 'stddev and tails are as stated'
  if off:
    why = 'the stddev is not the stated one'
  elif odd:
    why = 'the tails are not those of the stated law'
  return judged(
    off or odd > 0,
    why,
    {
      'n': n,
      'stated_stddev': stated,
      'measured_stddev': math.sqrt(measured / 2),
      'lowest_accepted': math.sqrt(low / 2),
      'highest_accepted': math.sqrt(high / 2),
      'odd_bins': odd,
    },
    FALSE_ALARM,
  )


def _odd_bins(ratios: np.ndarray[tuple[int], np.dtype[np.float64]]) -> int:
  """How many bins of standard deviations hold a count that is too rare.

  Both laws of noise are normal to within 1 / s^2 of a probability, which at a
  stddev s of 20 and more no bin of 10^5 draws can show.
  """
  counts, _ = np.histogram(ratios, _EDGES)
  shares = -np.diff(2 * stats.norm.sf(np.array(_EDGES)))
  alpha = FALSE_ALARM / 4 / len(shares)
  law = stats.binom(len(ratios), shares)
  return int(np.sum((law.cdf(counts) < alpha) | (law.sf(counts - 1) < alpha)))
