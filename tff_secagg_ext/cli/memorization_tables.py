# SPDX-License-Identifier: Apache-2.0
"""The figures of a memorization audit, as JSON values and as tables."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from tff_secagg_ext.audit import memorization
from tff_secagg_ext.cli.memorization import Arm, Result, Settings

PUBLISHED = 2.0
"""Smart Text Selection models 'have reduced memorization by more than two-fold'
under SecAgg and distributed differential privacy [Hartmann and Kairouz, Google
Research Blog, March 2023]."""

_NAMES = {
  'none': 'no privacy',
  'clipping': 'clipping alone',
  'private': 'distributed noise, SecAgg',
}


def figures(result: Result) -> dict[str, Any]:
  """Returns all figures of the audit, as JSON values.

  `reduction` is the mean exposure by rank without privacy over that of the
  private arm, over the secrets of all levels that somebody held, equally
  weighted; `reduction_of_clipping` that over the arm of clipping alone.
  """
  settings, arms = result.settings, result.arms
  without = arms['none'].exposures[:, 1:]
  private = memorization.reduction(without, arms['private'].exposures[:, 1:])
  clipped = memorization.reduction(without, arms['clipping'].exposures[:, 1:])
  return {
    **dataclasses.asdict(settings),
    'canary_clients': list(settings.canary_clients),
    'reduction': private.value,
    'reduction_lower': private.lower,
    'reduction_upper': private.upper,
    'confidence': 0.95,
    'published_reduction': PUBLISHED,
    'reduction_of_clipping': dataclasses.asdict(clipped),
    'extracted': int(arms['private'].extracted[:, 1:].sum()),
    'extracted_without_privacy': int(arms['none'].extracted[:, 1:].sum()),
    'secrets': int(without.size),
    'unseen_exposure': memorization.UNSEEN_EXPOSURE,
    'arms': {name: _arm(arm, settings) for name, arm in arms.items()},
  }


def _arm(arm: Arm, settings: Settings) -> dict[str, Any]:
  held = arm.exposures[:, 1:]
  utility = {
    name: [one.utility[name] for one in arm.trained]
    for name in arm.trained[0].utility
  }
  return {
    'runs': [one.run for one in arm.trained],
    'release_epsilon': _number(max(one.release for one in arm.trained)),
    'server_epsilon': _number(max(one.server for one in arm.trained)),
    'delta': arm.trained[0].delta,
    'noise': arm.trained[0].noise,
    'utility': utility,
    'exposure': dataclasses.asdict(memorization.mean(held)),
    'kept_nothing': memorization.kept_nothing(held.ravel()),
    'levels': {
      str(level): _level(arm, index)
      for index, level in enumerate(settings.levels)
    },
  }


def _level(arm: Arm, index: int) -> dict[str, Any]:
  exposures = arm.exposures[:, index]
  extracted = arm.extracted[:, index]
  return {
    'exposure': dataclasses.asdict(memorization.mean(exposures[:, None])),
    'extrapolated': float(arm.extrapolated[:, index].mean()),
    'kept_nothing': memorization.kept_nothing(exposures.ravel()),
    'extracted': int(extracted.sum()),
    'secrets': int(extracted.size),
    'exposures': exposures.tolist(),
    'extrapolations': arm.extrapolated[:, index].tolist(),
  }


def _number(value: float) -> float | str:
  """Infinity is a word: JSON has no number for it."""
  return float(value) if np.isfinite(value) else 'infinity'


def lines(found: Mapping[str, Any]) -> list[str]:
  """Returns the result in words and Markdown tables."""
  reduction, lower, upper = (
    found[name] for name in ('reduction', 'reduction_lower', 'reduction_upper')
  )
  held = found['secrets']
  noise = found['arms']['private']['noise']
  most = found['arms']['none']['exposure']['value'] / found['unseen_exposure']
  return [
    *_table(found),
    '',
    *_levels(found),
    '',
    f'Mean exposure without privacy over that with it: {reduction:.2f}'
    f' ({lower:.2f} to {upper:.2f} at 95 %); it would be {most:.2f} if nothing'
    f' were kept. Extracted: {found["extracted"]} of {held}, without'
    f' privacy {found["extracted_without_privacy"]}.',
    f'Noise multiplier {found["noise_multiplier"]:g}; all noise in a sum is'
    f' {noise:.3g} times its sensitivity.',
    f'Published of production models: more than {PUBLISHED:g}-fold'
    ' (Google Research Blog, March 2023).',
  ]


def _table(found: Mapping[str, Any]) -> list[str]:
  rows = [
    '| training | accuracy | exposure, bits | 95 % interval | p, kept nothing'
    ' | extracted | epsilon, release | epsilon, server |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for name, arm in found['arms'].items():
    accuracy = arm['utility']['accuracy']
    mean = arm['exposure']
    extracted = sum(
      level['extracted'] for key, level in arm['levels'].items() if key != '0'
    )
    rows.append(
      f'| {_NAMES[name]} | {np.mean(accuracy):.3f}'
      f' ({min(accuracy):.3f} to {max(accuracy):.3f}) | {mean["value"]:.2f}'
      f' | {mean["lower"]:.2f} to {mean["upper"]:.2f}'
      f' | {arm["kept_nothing"]:.2g} | {extracted} of {found["secrets"]}'
      f' | {_epsilon(arm["release_epsilon"])}'
      f' | {_epsilon(arm["server_epsilon"])} |'
    )
  return rows


def _levels(found: Mapping[str, Any]) -> list[str]:
  rows = [
    '| clients that hold a secret | training | exposure, bits | 95 % interval'
    ' | extrapolated | p, kept nothing | extracted |',
    '|---|---|---|---|---|---|---|',
  ]
  for level in (0, *found['canary_clients']):
    for name, arm in found['arms'].items():
      one = arm['levels'][str(level)]
      mean = one['exposure']
      rows.append(
        f'| {level} | {_NAMES[name]} | {mean["value"]:.2f}'
        f' | {mean["lower"]:.2f} to {mean["upper"]:.2f}'
        f' | {one["extrapolated"]:.2f} | {one["kept_nothing"]:.2g}'
        f' | {one["extracted"]} of {one["secrets"]} |'
      )
  return rows


def _epsilon(value: float | str) -> str:
  return value if isinstance(value, str) else f'{value:.3g}'
