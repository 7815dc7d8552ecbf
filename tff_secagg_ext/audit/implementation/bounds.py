# SPDX-License-Identifier: Apache-2.0
"""Attacks on what a client may add: norms, wraps, NaNs, side channels."""

from __future__ import annotations

from collections.abc import Mapping
import math

import numpy as np
from scipy import stats

from tff_secagg_ext.audit.implementation import messages
from tff_secagg_ext.audit.implementation.finding import (
  FALSE_ALARM,
  Finding,
  does_not_apply,
  judged,
)
from tff_secagg_ext.audit.implementation.subject import Array, Subject, Total

_HUGE = 3e38
# Less is how a bound that is stated exactly is rounded to a float32, and moves
# no figure of an account.
_MOST_EXCESS = 1e-6


def norm_bound(subject: Subject) -> Finding:
  """Sends values made to overflow int32 or float32, without noise.

  The norm of what leaves the client is computed in exact integers, and must be
  within the bound that the noise is sized for. A client may refuse to send.
  """
  facts = subject.facts
  if subject.encode is None or facts.sensitivity is None:
    return does_not_apply('no norm bound is stated of messages to be had')
  worst_l2 = worst_l1 = 0.0
  refused, culprit = 0, ''
  values = _hostile(subject.setting.dimension, facts.clip_norm)
  for name, value in values.items():
    (sent,) = subject.encode([value])
    if sent is None:
      refused += 1
      continue
    record = messages.centred(sent, facts.modulus)
    l2 = math.sqrt(messages.squared_norm(record)) / facts.sensitivity
    l1 = 0.0
    if facts.l1_sensitivity is not None:
      l1 = int(np.sum(np.abs(record))) / facts.l1_sensitivity
    if max(l1, l2) > max(worst_l1, worst_l2):
      culprit = name
    worst_l2, worst_l1 = max(worst_l2, l2), max(worst_l1, l1)
  broken = max(worst_l2, worst_l1) > 1 + _MOST_EXCESS
  return judged(
    broken,
    f'a value passes that is longer than the bound: {culprit}'
    if broken
    else 'no value is longer than the bound',
    {
      'values': len(values),
      'refused': refused,
      'dimension': subject.setting.dimension,
      'longest_l2_over_bound': worst_l2,
      'longest_l1_over_bound': worst_l1,
      'excess': max(worst_l2, worst_l1, 1.0) - 1.0,
    },
  )


def _hostile(dimension: int, clip_norm: float) -> Mapping[str, Array]:
  """Values of the clip norm and beyond; float32[dimension] each."""
  flat = np.full(dimension, clip_norm / math.sqrt(dimension), np.float32)
  one = np.zeros(dimension, np.float32)
  one[dimension // 2] = clip_norm
  # Added one by one in float32, the squares of the small ones would vanish
  # beside that of the large one; of 2^20 they make the norm 2.5 % longer.
  mixed = np.full(dimension, clip_norm * 2**-12.1, np.float32)
  mixed[0] = clip_norm
  signs = np.where(np.arange(dimension) % 2, flat, -flat)
  at_the_bound = {
    'flat': flat,
    'one coordinate': one,
    'one large, many small': mixed,
    'alternating signs': signs,
    'spread': messages.spread(dimension, clip_norm),
  }
  beyond = {
    'flat, a million times the norm': flat * np.float32(1e6),
    'squares overflow': np.full(dimension, 1e30, np.float32),
    'largest float': np.full(dimension, _HUGE, np.float32),
  }
  return {**at_the_bound, **beyond}


def modular_wrap(subject: Subject) -> Finding:
  """Looks for messages outside [0, m), and for more wraps than stated.

  A message that is not reduced after its noise tells on which side of a wrap
  its client was. In the sum of clients that all send the same vector of the
  clip norm, each wrapped coordinate adds m^2 to the squared error, beside
  noise, whose squared norm is that of a sum of zeros.
  """
  facts = subject.facts
  if facts.modulus is None or subject.encode is None:
    return does_not_apply('its messages are not modular')
  value = messages.spread(subject.setting.dimension, facts.clip_norm)
  sent = np.stack([np.asarray(m) for m in subject.encode([value] * 8)])
  outside = int(np.sum((sent < 0) | (sent >= facts.modulus)))
  figures: dict[str, float | int | str] = {
    'modulus': facts.modulus,
    'coordinates': sent.size,
    'outside': outside,
  }
  rare = False
  if subject.aggregate and facts.unit and facts.wrap_probability is not None:
    clients = subject.setting.clients
    error = subject.aggregate([value] * clients).vector - clients * value
    zeros = np.zeros_like(value)
    noise = subject.aggregate([zeros] * clients).vector
    wraps, deviation = _wraps(error, noise, facts.unit * facts.modulus)
    mean = facts.wrap_probability * sent.shape[1]
    most = float(stats.poisson.isf(FALSE_ALARM / 2, mean))
    most += float(stats.norm.isf(FALSE_ALARM / 2)) * deviation
    rare = wraps > most
    figures |= {
      'wraps': wraps,
      'wraps_stated': mean,
      'highest_accepted': most,
    }
  why = 'messages are reduced, and sums wrap no more than stated'
  if outside:
    why = 'messages leave [0, m), and tell their side of the wrap'
  elif rare:
    why = 'sums wrap more often than stated'
  return judged(bool(outside) or rare, why, figures, FALSE_ALARM)


def _wraps(error: Array, noise: Array, modulus: float) -> tuple[float, float]:
  """Estimates how many coordinates of a sum have wrapped.

  Returns:
    The squared norm of the error less that of noise alone, in units of m^2:
    each wrap adds one; and its standard deviation, by that of chi^2.
  """
  energy, alone = (
    float(np.sum(np.asarray(each, float) ** 2)) / modulus**2
    for each in (error, noise)
  )
  return energy - alone, 2 * alone / math.sqrt(len(noise))


def corrupt_clients(subject: Subject) -> Finding:
  """Lets one client send NaN, infinities and the largest floats.

  The round must go on, and its sum must be noise but for one vector of the
  clip norm: its energy is chi^2 of that norm, not central.
  """
  if subject.aggregate is None:
    return does_not_apply('it ends at the clients: there is no sum to spoil')
  n, clients = subject.setting.dimension, subject.setting.clients
  zeros = np.zeros(n, np.float32)
  honest = _energy(subject.aggregate([zeros] * clients))
  most = (honest + subject.facts.clip_norm**2 / n) * float(
    stats.f.isf(FALSE_ALARM / len(_CORRUPT), n, n)
  )
  spoilt: list[str] = []
  worst = 0.0
  for name, number in _CORRUPT.items():
    bad = np.full(n, number, np.float32)
    try:
      total = subject.aggregate([*[zeros] * (clients - 1), bad])
    except Exception as error:
      spoilt.append(f'{name} ends the round ({type(error).__name__})')
      continue
    energy = _energy(total)
    if honest and math.isfinite(energy):
      worst = max(worst, energy / honest)
    if not energy <= most:
      spoilt.append(f'{name} spoils the sum')
  return judged(
    bool(spoilt),
    '; '.join(spoilt) or 'corrupt values count as one vector of the clip norm',
    {
      'n': n,
      'values': len(_CORRUPT),
      'spoilt': len(spoilt),
      'largest_energy_ratio': worst,
      'highest_accepted': most / honest if honest else 0.0,
    },
    FALSE_ALARM,
  )


_CORRUPT = {
  'NaN': math.nan,
  'infinity': math.inf,
  'minus infinity': -math.inf,
  'the largest float': _HUGE,
}


def _energy(total: Total) -> float:
  """The mean square; infinite if a coordinate is no number."""
  vector = np.asarray(total.vector, float)
  if not np.all(np.isfinite(vector)):
    return math.inf
  return float(np.mean(vector**2))


def side_channels(subject: Subject) -> Finding:
  """Names what leaves the clients beside the noised sum.

  By the flow of data in the compiled round, not by a run of it.
  """
  if subject.unnoised is None:
    return does_not_apply('what else leaves its clients is up to its caller')
  return judged(
    bool(subject.unnoised),
    '; '.join(subject.unnoised)
    or 'the noised sum is all that leaves the clients',
    {'unnoised': len(subject.unnoised)},
  )
