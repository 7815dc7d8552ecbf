# SPDX-License-Identifier: Apache-2.0
"""Epsilons of reference cases, each by the accountant that the case names.

  python -m tests.reference.accounting PATH/accounting_cases.json

prints one JSON object, from the case's id to epsilon. The file is a list of
objects. A parameter that a case leaves out does not apply, or follows from the
others: the integer sensitivity and noise from clip norm, bits, beta and noise
multiplier, as TensorFlow Federated's factory chooses them; the chance to take
part from the cohort and the population. What a case expects is never read.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
import dataclasses
import json
import math
import pathlib
import sys
from typing import Any

import dp_accounting
from dp_accounting import rdp
import numpy as np
from scipy import special

from tests.reference import federated, sampled_gaussian
from tff_secagg_ext.accounting import (
  arrays,
  domination,
  gaussian,
  pld,
  profiles,
  renyi,
)

Case = Mapping[str, Any]

# tff.learning.ddp_secure_aggregator: the probability that a coordinate wraps,
# and the largest scale.
_WRAPPING = 1e-4
_LARGEST_SCALE = 1e6


def rate(case: Case) -> float:
  """Returns the chance to take part."""
  if case.get('sampling') == 'none':
    return 1.0
  if 'sampling_rate' in case:
    return float(case['sampling_rate'])
  for cohort, population in (
    ('num_clients', 'num_clients_total'),
    ('n', 'N'),
  ):
    if cohort in case and population in case:
      return float(case[cohort] / case[population])
  return 1.0


def scale(case: Case) -> float:
  """Returns the factor from model updates to integers, as TFF chooses it."""
  if 'scale' in case:
    return float(case['scale'])
  deviations = -special.ndtri(_WRAPPING / 2.0)
  clients, clip = case['num_clients'], case['l2_clip']
  room = math.sqrt(4.0 ** case['bits'] - clients * deviations**2)
  variance = (clip * clients) ** 2 / case['dim']
  variance += clients * _local_stddev(case) ** 2
  return min(_LARGEST_SCALE, room / (2.0 * deviations * math.sqrt(variance)))


def _local_stddev(case: Case) -> float:
  if 'local_stddev' in case:
    return float(case['local_stddev'])
  noise = case['noise_multiplier'] * case['l2_clip']
  return float(noise / math.sqrt(case['num_clients']))


def integer_stddev(case: Case) -> float:
  """Returns the standard deviation of a client's noise, in integer units."""
  if 'local_stddev_scaled' in case:
    return float(case['local_stddev_scaled'])
  return scale(case) * _local_stddev(case)


def integer_sensitivity(case: Case) -> float:
  """Returns the norm bound after rounding, [KLS21, Prop. 22]."""
  for given in ('l2_sens', 'inflated_l2_scaled'):
    if given in case:
      return float(case[given])
  norm, root = scale(case) * case['l2_clip'], math.sqrt(case['dim'])
  always = norm + root
  if not case.get('beta'):
    return always
  tail = math.sqrt(2.0 * math.log(1.0 / case['beta']))
  square = norm**2 + root**2 / 4.0 + tail * (norm + root / 2.0)
  return min(always, math.sqrt(square))


def _l1_sensitivity(case: Case) -> float:
  """As google-research/federated takes it, which differs without rounding."""
  norm, dimension = integer_sensitivity(case), case['dim']
  if 'no rounding' in case['mechanism']:
    return norm * math.sqrt(dimension)
  return renyi.largest_l1(norm, dimension)


def renyi_gaussian(case: Case) -> float:
  """The Gaussian mechanism by dp_accounting's Renyi accountant."""
  return sampled_gaussian.epsilon(
    case['noise_multiplier'], rate(case), case['rounds'], case['delta']
  )


def renyi_without_replacement(case: Case) -> float:
  """[WBK19, Thm 27]; replacing a vector moves the sum by twice the norm."""
  population = case.get('N', case.get('num_clients_total'))
  cohort = case.get('n', case.get('num_clients'))
  event = dp_accounting.SampledWithoutReplacementDpEvent(
    population,
    cohort,
    dp_accounting.GaussianDpEvent(case['noise_multiplier'] / 2.0),
  )
  accountant = rdp.RdpAccountant(
    neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE
  )
  accountant.compose(event, case['rounds'])
  return float(accountant.get_epsilon(case['delta']))


def renyi_federated(case: Case) -> float:
  """google-research/federated's accountant of distributed noises."""
  return federated.epsilon(
    federated.Mechanism(
      discrete_gaussian='skellam' not in case['mechanism'],
      l2_sensitivity=integer_sensitivity(case),
      l1_sensitivity=_l1_sensitivity(case),
      share_stddev=integer_stddev(case),
      clients=case['num_clients'],
      dimension=case['dim'],
    ),
    rate(case),
    case['rounds'],
    case['delta'],
  )


def _composed(profile: Any, case: Case, delta: float | None = None) -> float:
  composition = pld.Composition().then(profile, case['rounds'])
  return composition.epsilon(case['delta'] if delta is None else delta)


def pld_gaussian(case: Case) -> float:
  """The Gaussian mechanism under Poisson sampling."""
  ratio = 1.0 / case['noise_multiplier']
  return _sampled(ratio, case, case['delta'])


def _sampled(ratio: float, case: Case, delta: float) -> float:
  q = rate(case)
  if q == 1.0:
    return gaussian.epsilon(ratio * math.sqrt(case['rounds']), delta)
  return _composed(profiles.Profile('poisson', ratio, q), case, delta)


def pld_dominated(case: Case) -> float:
  """Sums of discrete Gaussians, by Gaussian domination."""
  bound = domination.dominate_equal(
    integer_stddev(case) ** 2,
    case['num_clients'],
    case.get('s2', domination.SMOOTHING),
  )
  slack = case['rounds'] * case['dim'] * bound.log_range
  left = case['delta'] * math.exp(-slack)
  if left <= 0.0:
    return math.inf
  ratio = integer_sensitivity(case) / math.sqrt(bound.variance)
  return slack + _sampled(ratio, case, left)


def pld_without_replacement(case: Case) -> float:
  """Fixed cohorts under zero-out: the envelope of docs/accounting.md."""
  ratio = 1.0 / case['noise_multiplier']
  return _composed(profiles.Profile('fixed', ratio, rate(case)), case)


@dataclasses.dataclass(frozen=True)
class ReplaceOne:
  """The pair (1-q) phi_0 + q phi_-m against (1-q) phi_0 + q phi_m.

  Poisson sampling where one client's vector is replaced by its negative. Not
  a part of the package: it bounds no way in which cohorts are made there. Has
  the methods of `profiles.Profile`.
  """

  m: float
  q: float

  def losses(self, reverse: bool) -> arrays.FloatArray:
    """Returns losses that cover the pair's, increasing, 0 among them."""
    del reverse  # The pair is its own mirror image.
    x = np.linspace(0.0, self.m + 10.0, 401)[1:]
    up = self._log_mix(x) - self._log_mix(-x)
    up = up[np.diff(up, append=math.inf) > 1e-6 * up[-1]]
    return np.concatenate([-up[::-1], [0.0], up])

  def _log_mix(self, x: arrays.FloatArray) -> arrays.FloatArray:
    exponent = math.log(self.q) + self.m * x - self.m**2 / 2.0
    rest = math.log1p(-self.q) if self.q < 1.0 else -math.inf
    return np.logaddexp(rest, exponent)

  def excess(
    self, epsilon: arrays.FloatArray, reverse: bool
  ) -> arrays.FloatArray:
    """Returns H_a - [1 - a]_+ at a = e^epsilon, for any real epsilon."""
    del reverse
    size = np.abs(epsilon)
    # The ratio passes a at the root of w^2 - 2 b w - a, w = e^(m x).
    half = np.log(-np.expm1(-size), where=size > 0, out=size - np.inf) + size
    with np.errstate(divide='ignore'):
      half += np.log1p(-self.q) - math.log(2.0 * self.q) + self.m**2 / 2.0
    x = np.logaddexp(half, 0.5 * np.logaddexp(2.0 * half, size)) / self.m
    above = self.q * special.ndtr(self.m - x)
    below = self.q * np.exp(size + special.log_ndtr(-self.m - x))
    rest = (1.0 - self.q) * np.expm1(size) * special.ndtr(-x)
    profile = np.maximum(above - below - rest, 0.0)
    return np.where(epsilon >= 0.0, profile, np.exp(-size) * profile)


def pld_replace_one(case: Case) -> float:
  """The pair that dp_accounting has for Poisson sampling and REPLACE_ONE."""
  return _composed(ReplaceOne(1.0 / case['noise_multiplier'], rate(case)), case)


# By the start of the case's `accountant`; the first that fits.
_FAMILIES: tuple[tuple[str, Callable[[Case], float]], ...] = (
  ('PLD/PRV', pld_gaussian),
  ('PLD via Gaussian-domination', pld_dominated),
  ('PLD, zero-out without replacement', pld_without_replacement),
  ('PLD, pair', pld_replace_one),
  ('RDP google-research/federated', renyi_federated),
  ('RDP WOR', renyi_without_replacement),
  ('RDP', renyi_gaussian),
)


def epsilon(case: Case) -> float:
  """Returns the case's epsilon, by the accountant that it names.

  Raises:
    ValueError: If no such accountant is known.
  """
  for start, accountant in _FAMILIES:
    if case['accountant'].startswith(start):
      return accountant(case)
  raise ValueError(
    f'`accountant` of case {case["id"]!r} must start with one of '
    f'{[start for start, _ in _FAMILIES]}. Found {case["accountant"]!r}. Add '
    'its family to tests/reference/accounting.py.'
  )


def main(arguments: list[str] | None = None) -> None:
  """Prints the epsilons of a file's cases."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('cases', type=pathlib.Path)
  path = parser.parse_args(arguments).cases
  found = {case['id']: epsilon(case) for case in json.loads(path.read_text())}
  json.dump(found, sys.stdout, indent=2)
  print()


if __name__ == '__main__':
  main()
