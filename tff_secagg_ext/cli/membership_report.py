# SPDX-License-Identifier: Apache-2.0
"""What `tff-secagg audit membership` has found, as figures and as a table."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from rich.console import Console
from rich.table import Table

from tff_secagg_ext import accounting
from tff_secagg_ext.audit import inference, membership

FALSE_POSITIVE_RATE = 1e-3
"""At which true positive rates are told."""

PLAIN = 'no privacy'
CLIPPED = 'clipping alone'
PRIVATE = 'distributed DP'
TRAININGS = (PLAIN, CLIPPED, PRIVATE)
"""Plain federated averaging; `train` without noise; `train`."""


@dataclasses.dataclass(frozen=True)
class Row:
  """What one attack found out about the models of one training.

  Attributes:
    training: One of `TRAININGS`.
    trained_by: 'process' or 'loop'.
    attack: One of `inference.ATTACKS`.
    models: How many were attacked.
    others: How many non-members they had together.
    finding: What the attack found out.
  """

  training: str
  trained_by: str
  attack: str
  models: int
  others: int
  finding: inference.Finding


@dataclasses.dataclass(frozen=True)
class Report:
  """What was found out, beside what is allowed.

  Attributes:
    settings: What was asked for, JSON values by name.
    rows: By training, by what trained, by attack.
    epsilon: Of 'distributed DP', for who sees the model, from the ledger.
    delta: Its delta.
  """

  settings: Mapping[str, Any]
  rows: tuple[Row, ...]
  epsilon: accounting.Epsilon
  delta: float

  @property
  def private(self) -> Mapping[str, inference.Finding]:
    """What each attack found out about the models of the private process."""
    return {
      row.attack: row.finding
      for row in self.rows
      if (row.training, row.trained_by) == (PRIVATE, 'process')
    }

  @property
  def alarm(self) -> bool:
    """Whether an attack on the private process is above what is allowed."""
    return any(
      inference.contradicts(finding, self.epsilon.value, self.delta)
      for finding in self.private.values()
    )

  def figures(self) -> dict[str, Any]:
    """Returns JSON values: LiRA on the private process, then all attacks.

    LiRA, whichever attack was better: a bound that is chosen by what it says
    does not have its confidence.
    """
    epsilon, rate = self.epsilon.value, FALSE_POSITIVE_RATE
    ratios = self.private['likelihood ratio']
    bound = ratios.attack.false_positive_bound
    return {
      **_figures(ratios),
      'view': 'release',
      'ledger_epsilon': epsilon if math.isfinite(epsilon) else None,
      'delta': self.delta,
      'allowed_true_positive_rate': inference.allowed_true_positive_rate(
        epsilon, self.delta, rate
      ),
      'allowed_true_positive_rate_at_bound': (
        inference.allowed_true_positive_rate(epsilon, self.delta, bound)
      ),
      'allowed_auc': inference.allowed_auc(epsilon, self.delta),
      'alarm': self.alarm,
      **self.settings,
      'attacks': [
        {
          'training': row.training,
          'trained_by': row.trained_by,
          'attack': row.attack,
          'models': row.models,
          'others': row.others,
          **_figures(row.finding),
        }
        for row in self.rows
      ],
    }


def _figures(finding: inference.Finding) -> dict[str, Any]:
  auc, rate = finding.attack.auc, finding.attack.true_positive_rate
  return {
    'auc': auc.value,
    'auc_interval': [auc.low, auc.high],
    'true_positive_rate': rate.value,
    'true_positive_rate_interval': [rate.low, rate.high],
    'false_positive_rate': FALSE_POSITIVE_RATE,
    'false_positive_bound': finding.attack.false_positive_bound,
    'lower_bound': finding.epsilon_lower_bound,
    'confidence': 0.95,
  }


def print_report(report: Report) -> None:
  """Prints the table of all attacks, and what is allowed."""
  console = Console()
  table = Table(
    'training',
    'models',
    'attack',
    'AUC',
    f'TPR at {FALSE_POSITIVE_RATE:.1%} FPR',
    'FPR at most',
    'ε at least',
  )
  for row in report.rows:
    table.add_row(*cells(row))
  console.print(table)
  console.print(allowed(report), highlight=False)
  if report.alarm:
    console.print(
      'Alarm: an attack on the private process is above what its epsilon'
      ' allows. The account, or the code under it, is wrong.',
      highlight=False,
    )


def cells(row: Row) -> tuple[str, ...]:
  """Returns the cells of a row of the table."""
  attack = row.finding.attack
  return (
    row.training,
    f'{row.models} by the {row.trained_by}',
    row.attack,
    _interval(attack.auc, '.3f'),
    _interval(attack.true_positive_rate, '.2%'),
    f'{attack.false_positive_bound:.2%}',
    f'{row.finding.epsilon_lower_bound:.2f}',
  )


def allowed(report: Report) -> str:
  """Returns in words what the epsilon of the private training allows."""
  epsilon, delta = report.epsilon.value, report.delta
  rates = [FALSE_POSITIVE_RATE] + [
    finding.attack.false_positive_bound for finding in report.private.values()
  ]
  listed = ', '.join(
    f'a TPR of {_allowed(epsilon, delta, rate):.2%} at {rate:.2%} FPR'
    for rate in sorted(set(rates))
  )
  return (
    f'{PRIVATE}: the ledger has ε = {epsilon:.4g} (release) at δ = {delta:g},'
    f' which allows an AUC of {inference.allowed_auc(epsilon, delta):.3f} and'
    f' {listed}.'
  )


_allowed = inference.allowed_true_positive_rate


def _interval(found: membership.Interval, form: str) -> str:
  return f'{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]'
