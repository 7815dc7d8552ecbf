# SPDX-License-Identifier: Apache-2.0
"""Releases without noise that somebody answers for."""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses

from tff_secagg_ext.accounting import Waiver
from tff_secagg_ext.program.releases import Releases


def waive(
  releases: Releases, allowed: Iterable[Waiver]
) -> tuple[Releases, tuple[Waiver, ...]]:
  """Returns what is released besides what is waived, and the waivers.

  Args:
    releases: What leaves the clients.
    allowed: Waivers, each for one of the unaccounted releases, by its name.

  Raises:
    TypeError: If one is not a Waiver.
    ValueError: If one is for nothing that is released, if two are for the same
      release, or if nothing is noised: an epsilon of nothing is none.
  """
  waivers = tuple(allowed)
  for waiver in waivers:
    if not isinstance(waiver, Waiver):
      raise TypeError(
        f'`allow_unaccounted` must hold Waivers. Found {waiver!r}. Say what is'
        ' waived, by whom and why.'
      )
  names = [waiver.name for waiver in waivers]
  for name in names:
    if name not in (*releases.unaccounted, *releases.seen_by_server):
      raise ValueError(
        '`allow_unaccounted` must name what is released without noise:'
        f' {[*releases.unaccounted, *releases.seen_by_server]}. Found {name!r}.'
        ' Remove the waivers that are not needed.'
      )
    if names.count(name) > 1:
      raise ValueError(
        '`allow_unaccounted` must name a release once. Found'
        f' {names.count(name)} waivers for {name!r}. Keep one.'
      )
  nothing = releases.dimension is None and releases.metrics_dimension is None
  if waivers and nothing:
    raise ValueError(
      '`allow_unaccounted` must be empty where nothing is noised. Found'
      f' {names}. Without them epsilon would be 0, and of nothing.'
    )
  left, seen = (
    tuple(name for name in found if name not in names)
    for found in (releases.unaccounted, releases.seen_by_server)
  )
  left_over = dataclasses.replace(
    releases, unaccounted=left, seen_by_server=seen
  )
  return left_over, waivers
