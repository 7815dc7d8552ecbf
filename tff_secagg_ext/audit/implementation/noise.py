# SPDX-License-Identifier: Apache-2.0
"""Attacks on the noise of a round: is it there, and does it tell on anyone."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from tff_secagg_ext.audit.implementation.finding import (
  FALSE_ALARM,
  Finding,
  does_not_apply,
  judged,
)
from tff_secagg_ext.audit.implementation.subject import Subject, Total

_NO_ROUND = 'it ends at the clients: there is no round to look at'


def _of_zeros(subject: Subject, clients: int) -> Total:
  assert subject.aggregate is not None
  zeros = np.zeros(subject.setting.dimension, np.float32)
  return subject.aggregate([zeros] * clients)


def _variance(total: Total) -> float:
  return float(np.mean(np.asarray(total.vector, float) ** 2))


def short_noise(subject: Subject) -> Finding:
  """Lets half of the expected clients drop out.

  The noise of what is left may be less, if the round says by how much. The
  quotient of both rounds' variances is F-distributed around what they say.
  """
  if subject.aggregate is None:
    return does_not_apply(_NO_ROUND)
  clients = subject.setting.clients
  full, half = _of_zeros(subject, clients), _of_zeros(subject, clients // 2)
  if half.aborted:
    return judged(
      bool(np.any(half.vector)),
      'the round is aborted, and its result is zero',
      {'contributors': clients // 2},
    )
  if _variance(full) == 0:
    return judged(True, 'there is no noise', {'contributors': clients})
  measured = math.sqrt(_variance(half) / _variance(full))
  claimed = half.noise_multiplier / full.noise_multiplier
  n = subject.setting.dimension
  least = claimed * math.sqrt(stats.f.ppf(FALSE_ALARM, n, n))
  broken = measured < least
  return judged(
    broken,
    'half of the clients leave less noise, and nothing says so'
    if broken
    else 'the noise is what the round says',
    {
      'contributors': clients // 2,
      'n': n,
      'claimed_ratio': claimed,
      'measured_ratio': measured,
      'lowest_accepted': least,
    },
    FALSE_ALARM,
  )


def rounding_inflation(subject: Subject) -> Finding:
  """Compares the noise multiplier after rounding with the stated one.

  Few bits mean a coarse grid, on which a client's integers may be far longer
  than its value was. The real multiplier is the noise that is measured in the
  sum, rounding included, over the norm bound after rounding.
  """
  facts = subject.facts
  if subject.aggregate is None:
    return does_not_apply(_NO_ROUND)
  if facts.unit is None or facts.sensitivity is None:
    return does_not_apply('no norm bound after rounding is stated')
  total = _of_zeros(subject, subject.setting.clients)
  stddev = math.sqrt(_variance(total)) / facts.unit
  real = stddev / facts.sensitivity
  n = subject.setting.dimension
  least = total.noise_multiplier * math.sqrt(stats.chi2.ppf(FALSE_ALARM, n) / n)
  broken = real < least
  return judged(
    broken,
    'rounding makes vectors longer, and no noise makes up for it'
    if broken
    else 'the noise is sized for rounded vectors',
    {
      'bits': subject.setting.bits,
      'n': n,
      'claimed_multiplier': total.noise_multiplier,
      'real_multiplier': real,
      'lowest_accepted': least,
      'inflation': facts.sensitivity * facts.unit / facts.clip_norm,
    },
    FALSE_ALARM,
  )


def variance_reveals_participation(subject: Subject) -> Finding:
  """Compares what cohorts of different sizes release.

  Where the number of contributors is said to be hidden, neither the noise's
  variance nor a measurement may differ.
  """
  if subject.aggregate is None:
    return does_not_apply(_NO_ROUND)
  if not subject.facts.hides_cohort:
    return does_not_apply('the number of contributors is public')
  clients, n = subject.setting.clients, subject.setting.dimension
  small = _of_zeros(subject, clients - clients // 4)
  large = _of_zeros(subject, clients + clients // 4)
  ratio = _variance(large) / _variance(small)
  most = float(stats.f.isf(FALSE_ALARM / 2, n, n))
  differ = sorted(
    name
    for name, value in small.measurements.items()
    if large.measurements.get(name) != value
  )
  off = not 1 / most <= ratio <= most
  why = 'neither the variance nor a measurement differs'
  if off:
    why = 'the variance tells the size of the cohort'
  elif differ:
    why = f'measurements tell the size of the cohort: {", ".join(differ)}'
  return judged(
    off or bool(differ),
    why,
    {
      'small_cohort': clients - clients // 4,
      'large_cohort': clients + clients // 4,
      'n': n,
      'variance_ratio': ratio,
      'highest_accepted': most,
      'measurements_that_differ': len(differ),
    },
    FALSE_ALARM,
  )
