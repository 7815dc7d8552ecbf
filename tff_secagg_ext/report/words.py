# SPDX-License-Identifier: Apache-2.0
"""Figures and settings in words that people read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import math
import re
from typing import Any

from tff_secagg_ext import accounting

NOT_KNOWN = '–'
# Control characters, and those that turn the direction of what follows.
_UNSHOWN = re.compile(
  '[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]'
)
_RAISED = str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹')
_UNITS = ('B', 'kB', 'MB', 'GB', 'TB')


def shown(text: object) -> str:
  """Returns a text that others chose, without what garbles a page."""
  return _UNSHOWN.sub('\ufffd', str(text))


def figure(value: float | None) -> str:
  """Returns a number to four digits; ∞ if it is infinite."""
  if value is None or math.isnan(value):
    return NOT_KNOWN
  if math.isinf(value):
    return '∞' if value > 0 else '−∞'
  if float(value).is_integer() and abs(value) < 1e15:
    return f'{int(value):,}'.replace(',', '\u202f')
  text = f'{value:.4g}'
  if 'e' in text:
    mantissa, exponent = text.split('e')
    power = str(int(exponent)).translate(_RAISED)
    return f'10{power}' if mantissa == '1' else f'{mantissa}·10{power}'
  return text


def short(value: float) -> str:
  """Returns a number for an axis: few characters, thousands as k and M."""
  for limit, unit in ((1e9, 'G'), (1e6, 'M'), (1e4, 'k')):
    if abs(value) >= limit:
      scale = 1e3 if unit == 'k' else limit
      return f'{value / scale:g}{unit}'
  if value and abs(value) < 1e-3:
    mantissa, _, exponent = f'{value:.2g}'.partition('e')
    return f'{mantissa}e{int(exponent)}' if exponent else mantissa
  return f'{round(value, 10):g}'


def percent(share: float) -> str:
  """Returns a share of one as a percentage."""
  return NOT_KNOWN if math.isnan(share) else f'{100 * share:.3g} %'


def size(count: float) -> str:
  """Returns a number of bytes with its unit, decimal."""
  if math.isnan(count):
    return NOT_KNOWN
  step = 0
  while abs(count) >= 1000 and step < len(_UNITS) - 1:
    count, step = count / 1000, step + 1
  return f'{count:.3g} {_UNITS[step]}'


def duration(seconds: float) -> str:
  """Returns seconds as hours, minutes or seconds."""
  if math.isnan(seconds):
    return NOT_KNOWN
  if seconds >= 5400:
    return f'{seconds / 3600:.3g} h'
  return f'{seconds / 60:.3g} min' if seconds >= 90 else f'{seconds:.3g} s'


def plural(count: int, what: str) -> str:
  """Returns a count with what it counts."""
  return f'{figure(count)} {what}{"" if count == 1 else "s"}'


def listed(phrases: Iterable[object]) -> str:
  """Returns phrases in one, as a list in a sentence."""
  items = [shown(phrase) for phrase in phrases]
  if len(items) < 2:
    return ''.join(items)
  return f'{", ".join(items[:-1])} and {items[-1]}'


def odds(epsilon: float, delta: float) -> float:
  """Returns how often a guess about one client can be right, at most.

  Of somebody who knows all else, and for whom it is a fair coin whether the
  client took part. The errors of both kinds add up to at least
  2 (1 - delta) / (1 + e^epsilon) [KOV15, arXiv 1311.0776, Thm 2.1], so that it
  is right with probability at most (e^epsilon + delta) / (1 + e^epsilon).
  """
  if math.isinf(epsilon):
    return 1.0
  wrong = (1.0 - delta) * math.exp(-epsilon) / (1.0 + math.exp(-epsilon))
  return 1.0 - wrong


def guess(epsilon: float, delta: float) -> str:
  """Returns what `odds` says, never rounded up to certainty."""
  share = odds(epsilon, delta)
  if share < 0.9995:
    return f'guesses right at most {percent(share)} of the time'
  return 'may guess right more than 99.9 % of the time'


def sampling(claim: accounting.Sampling | None) -> str:
  """Returns what is claimed of the cohorts."""
  if isinstance(claim, accounting.PoissonSampling):
    return (
      'Poisson cohorts: each client takes part by its own coin, with'
      f' probability {figure(claim.probability)}; the size of a cohort is'
      ' secret'
    )
  if isinstance(claim, accounting.RandomAllocation):
    return (
      f'allocated cohorts: each client takes part in {claim.participations} of'
      f' every {claim.rounds} rounds, at random'
    )
  if isinstance(claim, accounting.FixedSizeSampling):
    return (
      f'fixed cohorts: {figure(claim.cohort)} of {figure(claim.population)}'
      ' clients, drawn anew for each round; their number is public'
    )
  return 'no sampling is claimed: everybody is taken to be in every cohort'


def adjacency(claim: accounting.Sampling | None) -> str:
  """Returns what two runs differ in that must look alike."""
  if claim is not None and claim.adjacency == 'substitution':
    return 'substitution: a client’s contribution is replaced by any other'
  return 'zero-out: a client’s contribution is replaced by zero'


def sums(stated: Any) -> str:
  """Returns how vectors are summed, from the settings of a run."""
  if not isinstance(stated, Mapping):
    return shown(stated) if stated else 'not on record'
  if stated.get('protocol') == 'plain':
    return 'in the clear: no protocol hides a client’s vector from the server'
  return (
    f'SecAgg+ against a {shown(stated.get("threat"))} server, with at most'
    f' {percent(stated.get("corrupt", math.nan))} of a cohort colluding and'
    f' {percent(stated.get("dropout", math.nan))} dropping out'
  )


def is_secret(stated: Any) -> bool:
  """Whether vectors are summed by a protocol."""
  return isinstance(stated, Mapping) and stated.get('protocol') == 'secagg'
