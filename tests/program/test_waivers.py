# SPDX-License-Identifier: Apache-2.0
"""Waivers are for one release each, by its name, and never for everything."""

from __future__ import annotations

from typing import Any

import pytest

from tff_secagg_ext.accounting import Waiver
from tff_secagg_ext.program.releases import Releases
from tff_secagg_ext.program.waivers import waive

RELEASES = Releases(64, ('loss is exact', 'count is exact'))
WAIVER = Waiver('count is exact', 'somebody', 'it is public')


def test_what_is_waived_is_not_unaccounted_any_more() -> None:
  left, waivers = waive(RELEASES, [WAIVER])
  assert left == Releases(64, ('loss is exact',))
  assert waivers == (WAIVER,)
  assert waive(RELEASES, []) == (RELEASES, ())


@pytest.mark.parametrize(
  ('releases', 'allowed', 'error', 'message'),
  [
    (RELEASES, ['count'], TypeError, "must hold Waivers. Found 'count'"),
    (RELEASES, [WAIVER, WAIVER], ValueError, 'Found 2 waivers for'),
    (
      Releases(64, ()),
      [WAIVER],
      ValueError,
      "must name what is released .* Found 'count is exact'",
    ),
    (
      Releases(None, RELEASES.unaccounted),
      [WAIVER],
      ValueError,
      'epsilon would be 0, and of nothing',
    ),
  ],
)
def test_other_waivers_are_refused(
  releases: Releases, allowed: Any, error: type[Exception], message: str
) -> None:
  with pytest.raises(error, match=message):
    waive(releases, allowed)
