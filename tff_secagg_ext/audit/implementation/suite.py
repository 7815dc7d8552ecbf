# SPDX-License-Identifier: Apache-2.0
"""The checks by name, and how all are run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses

from tff_secagg_ext import _validate
from tff_secagg_ext.audit.implementation import bounds, noise, randomness
from tff_secagg_ext.audit.implementation.finding import Finding, judged
from tff_secagg_ext.audit.implementation.subject import (
  Make,
  Refused,
  Setting,
  Subject,
)


@dataclasses.dataclass(frozen=True)
class Check:
  """One attack.

  Attributes:
    name: By which it is known.
    attacks: What it attacks, in one phrase.
    run: The attack, on a subject that is built for `setting`.
    setting: For what the subject is built.
  """

  name: str
  attacks: str
  run: Callable[[Subject], Finding]
  setting: Setting = dataclasses.field(default_factory=Setting)


_SMALL = Setting(dimension=62)
_FEW_BITS = Setting(bits=12)
_LARGE = Setting(noise_multiplier=0.0, dimension=2**20 - 2)

CHECKS: tuple[Check, ...] = (
  Check(
    'seed recovery',
    'noise from seeds that can be guessed: time stamps',
    randomness.seed_recovery,
    _SMALL,
  ),
  Check(
    'shared noise',
    'clients of one round with the same noise',
    randomness.shared_noise,
  ),
  Check(
    'sampler',
    'standard deviation and tails of a share of noise',
    randomness.sampler,
  ),
  Check(
    'short noise',
    'noise that is missing when clients drop out',
    noise.short_noise,
  ),
  Check(
    'rounding inflation',
    'a noise multiplier that rounding to few bits makes smaller',
    noise.rounding_inflation,
    _FEW_BITS,
  ),
  Check(
    'participation',
    'releases that tell the size of a hidden cohort',
    noise.variance_reveals_participation,
  ),
  Check(
    'norm bound',
    'int32 and float32 overflow where norms are bounded',
    bounds.norm_bound,
    _LARGE,
  ),
  Check(
    'modular wrap',
    'messages that are not reduced, sums that wrap',
    bounds.modular_wrap,
  ),
  Check(
    'corrupt clients',
    'NaN, infinities and the largest floats',
    bounds.corrupt_clients,
  ),
  Check(
    'side channels',
    'what leaves the clients beside the noised sum',
    bounds.side_channels,
    _SMALL,
  ),
)
"""All attacks, in the order of the table."""


def run(
  make: Make, checks: Sequence[str] = (), *, settings: Setting | None = None
) -> Iterator[tuple[Check, Finding]]:
  """Runs attacks, and yields each with what it found.

  Args:
    make: Builds the subject for a setting; may keep what it built. Where it
      raises `Refused` the check holds: what is not built does not leak.
    checks: Names of checks; all of them by default.
    settings: For what to build instead of each check's own setting.

  Raises:
    ValueError: If there is no check of a name.
  """
  known = [check.name for check in CHECKS]
  for name in checks:
    _validate.check_choice(name, 'check', known)
  for check in CHECKS:
    if checks and check.name not in checks:
      continue
    try:
      subject = make(settings or check.setting)
    except Refused as refusal:
      yield check, judged(False, f'refused: {refusal}', {})
      continue
    yield check, check.run(subject)
