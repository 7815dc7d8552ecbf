# SPDX-License-Identifier: Apache-2.0
"""What the checks of a gate found, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class Finding:
  """What one check found.

  Attributes:
    check: Its name.
    holds: Whether the run passes it.
    found: The figure that decided, or a word; `None` if there is none.
    limit: What it was compared with; `None` for a check without a limit.
    why: Why it does not hold, or holds without evidence; else empty.
  """

  check: str
  holds: bool
  found: float | str | None
  limit: float | str | None = None
  why: str = ''


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What a gate says of a run.

  Attributes:
    run: The name of the run.
    policy: SHA-256 of the policy, hexadecimal.
    entries: How many entries of the ledger it is about.
    findings: Of each check, in the order of the policy.
  """

  run: str
  policy: str
  entries: int
  findings: Sequence[Finding]

  @property
  def holds(self) -> bool:
    """Whether the run passes all checks, of which there is at least one."""
    return bool(self.findings) and all(f.holds for f in self.findings)

  @property
  def failed(self) -> tuple[str, ...]:
    """The names of the checks that it does not pass."""
    return tuple(f.check for f in self.findings if not f.holds)

  def figures(self) -> dict[str, Any]:
    """Returns it as JSON values; what is infinite is the string `Infinity`."""
    return {
      'holds': self.holds,
      'failed': list(self.failed),
      'policy': self.policy,
      'entries': self.entries,
      'findings': [
        {
          name: 'Infinity' if value == math.inf else value
          for name, value in dataclasses.asdict(finding).items()
        }
        for finding in self.findings
      ],
    }
