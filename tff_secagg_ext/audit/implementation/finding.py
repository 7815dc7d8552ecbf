# SPDX-License-Identifier: Apache-2.0
"""What a check found."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import enum

FALSE_ALARM = 1e-6
"""The probability at most that one check says `BROKEN` where all is well."""


class Verdict(enum.Enum):
  """What is to be made of a finding."""

  HOLDS = 'holds'
  BROKEN = 'broken'
  DOES_NOT_APPLY = 'does not apply'


@dataclasses.dataclass(frozen=True)
class Finding:
  """A verdict and its evidence.

  Attributes:
    verdict: What was found.
    why: One sentence.
    figures: The evidence by name, as JSON values.
    false_alarm: The probability at most of `BROKEN` where all is well; 0 for a
      check without chance.
  """

  verdict: Verdict
  why: str
  figures: Mapping[str, float | int | str] = dataclasses.field(
    default_factory=dict
  )
  false_alarm: float = 0.0


def judged(
  broken: bool,
  why: str,
  figures: Mapping[str, float | int | str],
  false_alarm: float = 0.0,
) -> Finding:
  """A finding that is broken or holds."""
  verdict = Verdict.BROKEN if broken else Verdict.HOLDS
  return Finding(verdict, why, figures, false_alarm)


def does_not_apply(why: str) -> Finding:
  """A finding for a subject that a check has nothing to say about."""
  return Finding(Verdict.DOES_NOT_APPLY, why)
