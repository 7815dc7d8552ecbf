# SPDX-License-Identifier: Apache-2.0
"""Real kills at random moments; `kill_resume --kills 50` is the long form."""

from __future__ import annotations

import pathlib
import random

from tests.program import kill_resume


def test_no_round_is_lost_hidden_or_committed_twice(
  tmp_path: pathlib.Path,
) -> None:
  seed = random.SystemRandom().randrange(2**32)
  deaths = kill_resume.kill_and_resume(tmp_path, kills=3, rounds=9, seed=seed)
  assert kill_resume.violations(tmp_path, rounds=9) == [], (seed, deaths)
