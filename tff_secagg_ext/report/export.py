# SPDX-License-Identifier: Apache-2.0
"""The facts of a run as JSON: every point of every series, nothing thinned."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np

from tff_secagg_ext import accounting
from tff_secagg_ext.report import forecasting, verdicts
from tff_secagg_ext.report.facts import RunFacts, Series

# Raised where a key changes its meaning or is gone; new keys do not raise it.
VERSION = 1


def to_json(facts: RunFacts) -> str:
  """Returns the report of a run as one JSON object.

  Numbers that are not finite, which JSON does not have, are `null` where a
  figure is not known, and the string 'Infinity' where it is infinite.
  """
  ahead = forecasting.forecast(facts)
  what_if = forecasting.dropouts(facts, forecasting.DROPPED)
  told = {
    'version': VERSION,
    'run': facts.name,
    'view': facts.view,
    'verdict': dataclasses.asdict(verdicts.verdict(facts, ahead)),
    'fault': facts.fault,
    'head': facts.head,
    'created_at': facts.created_at,
    'delta': facts.delta,
    'release_epsilon': _epsilon(facts.release),
    'server_epsilon': _epsilon(facts.server),
    'rounds': facts.rounds,
    'entries': facts.entries,
    'lost': dict(facts.notes),
    'budget': _budget(facts, ahead),
    'forecast': {
      'rounds': ahead.rounds,
      'release_epsilon': ahead.release,
      'server_epsilon': ahead.server,
    },
    'dropouts': None if what_if is None else dataclasses.asdict(what_if),
    'series': series(facts.series),
    'audits': [dataclasses.asdict(audit) for audit in facts.audits],
    'transcripts': facts.transcripts,
    'settings': facts.settings,
    'versions': facts.versions,
  }
  return json.dumps(_plain(told), indent=1, allow_nan=False) + '\n'


def series(found: Series) -> dict[str, Any]:
  """Returns the series by name, each one value an attempt."""
  return {
    field.name: getattr(found, field.name)
    for field in dataclasses.fields(found)
  }


def _epsilon(found: accounting.Epsilon) -> dict[str, Any]:
  return {
    'value': found.value,
    'reasons': found.reasons,
    'waivers': [dataclasses.asdict(waiver) for waiver in found.waivers],
  }


def _budget(
  facts: RunFacts, ahead: forecasting.Forecast
) -> dict[str, Any] | None:
  if facts.budget is None:
    return None
  spent = None if ahead.spent is None else ahead.spent.value
  return {
    **facts.budget.settings,
    'population': facts.budget.population,
    'others': facts.budget.others,
    'spent': spent,
    'rounds_left': ahead.left,
  }


def _plain(value: Any) -> Any:
  """Returns a value as JSON has it."""
  if isinstance(value, np.ndarray):
    return [_plain(each) for each in value.tolist()]
  if isinstance(value, float) and not math.isfinite(value):
    return None if math.isnan(value) else f'{"" if value > 0 else "-"}Infinity'
  if isinstance(value, dict):
    return {str(name): _plain(each) for name, each in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(each) for each in value]
  return value
