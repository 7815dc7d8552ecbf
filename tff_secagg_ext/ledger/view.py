# SPDX-License-Identifier: Apache-2.0
"""A run as JSON values, for people and programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import json
from typing import Any

from tff_secagg_ext.accounting import to_json
from tff_secagg_ext.ledger import records, schema
from tff_secagg_ext.ledger.audits import AuditRecord
from tff_secagg_ext.ledger.records import Entry


def describe(
  run: Mapping[str, Any],
  sessions: Sequence[Mapping[str, Any]],
  entries: Sequence[Entry],
  audits: Sequence[AuditRecord] = (),
  *,
  server_view: bool = False,
) -> dict[str, Any]:
  """Returns what is recorded of a run.

  Keys: `run`, `delta`, `created_at`, `settings`, `sessions` (each with
  `opened_at`, `writer`, `versions`), `release_epsilon` and `server_epsilon`
  of all attempts together with `release_reasons`, `server_reasons` and
  `waivers` (what both leave out, each with `name`, `by` and `why`), and
  `rounds`: one item a round, in order, with `round`, `status` (`committed`,
  `lost`, or `reserved` while it runs or after it was killed), `measurements`,
  both epsilons, reasons and waivers so far, and `attempts`: all of them, lost
  ones included, each with `attempt`, `status`, `charge`, `note`, `reserved_at`,
  `settled_at`, and `protocol`: how its vectors were summed, `None` if nothing
  is known of it; and `audits`, oldest first, each with `number`, `kind`,
  `entries` (how many there were), `versions`, `figures`, `recorded_at` and
  `auditor`.

  In the release view `protocol` has no more than `records.PUBLIC`, and the
  times of attempts are `None`: the rest tells the size of the cohort, which
  amplification by Poisson sampling needs to be secret, and a larger cohort
  takes longer. So are the times and the auditors of audits, and those of their
  figures that are not public (`records.is_public`). The server's view has all
  of it.

  An infinite epsilon is `None`, and its reasons are not empty.
  """
  by_round = itertools.groupby(
    sorted(entries, key=lambda e: e.attempt), key=lambda e: e.attempt.round
  )
  return {
    'run': run['name'],
    'delta': run['delta'],
    'created_at': run['created_at'],
    'settings': json.loads(run['settings']),
    'sessions': [_session(session) for session in sessions],
    **_epsilons(entries),
    'rounds': [
      _round(number, list(group), server_view) for number, group in by_round
    ],
    'audits': [_audit(audit, server_view) for audit in audits],
  }


def differences(
  found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> list[str]:
  """Returns where two trees of JSON values differ, each as one sentence."""
  before, after = dict(leaves(found)), dict(leaves(wanted))
  return [
    f'{path} is {before.get(path, "absent")!r} in the ledger and'
    f' {after.get(path, "absent")!r} now'
    for path in sorted({**before, **after})
    if before.get(path, _ABSENT) != after.get(path, _ABSENT)
  ]


_ABSENT = object()


def leaves(tree: Any, path: str = '') -> list[tuple[str, Any]]:
  """Returns what a tree of JSON values holds, each with its dotted path."""
  if isinstance(tree, Mapping) and tree:
    return [
      leaf
      for key, value in tree.items()
      for leaf in leaves(value, f'{path}.{key}' if path else key)
    ]
  return [(path, tree)]


def _session(session: Mapping[str, Any]) -> dict[str, Any]:
  return {
    'opened_at': session['opened_at'],
    'writer': session['writer'],
    'versions': json.loads(session['versions']),
  }


def _epsilons(entries: Sequence[Entry]) -> dict[str, Any]:
  """Returns both epsilons after the newest of `entries`."""
  if not entries:
    return {
      'release_epsilon': 0.0,
      'server_epsilon': 0.0,
      'release_reasons': [],
      'server_reasons': [],
      'waivers': [],
    }
  newest = max(entries, key=lambda e: e.sequence)
  return {
    'release_epsilon': records.finite(newest.release),
    'server_epsilon': records.finite(newest.server),
    'release_reasons': list(newest.release.reasons),
    'server_reasons': list(newest.server.reasons),
    'waivers': [dataclasses.asdict(waiver) for waiver in newest.waivers],
  }


def _round(
  number: int, entries: Sequence[Entry], server_view: bool
) -> dict[str, Any]:
  attempts = [
    _attempt(sorted(group, key=lambda e: e.sequence), server_view)
    for _, group in itertools.groupby(entries, key=lambda e: e.attempt)
  ]
  measurements = [
    dict(e.measurements) for e in entries if e.kind == schema.COMMITTED
  ]
  return {
    'round': number,
    'status': schema.COMMITTED if measurements else attempts[-1]['status'],
    'measurements': measurements[0] if measurements else {},
    **_epsilons(entries),
    'attempts': attempts,
  }


def _attempt(entries: Sequence[Entry], server_view: bool) -> dict[str, Any]:
  newest, settled = entries[-1], len(entries) > 1
  return {
    'attempt': newest.attempt.attempt,
    'status': newest.kind,
    'charge': json.loads(to_json(newest.charge)),
    'note': newest.note,
    'reserved_at': entries[0].recorded_at if server_view else None,
    'settled_at': newest.recorded_at if settled and server_view else None,
    'protocol': _protocol(newest, server_view),
  }


def _protocol(entry: Entry, server_view: bool) -> dict[str, Any] | None:
  if entry.protocol is None:
    return None
  return {
    name: value
    for name, value in entry.protocol.items()
    if server_view or name in records.PUBLIC
  }


def _audit(audit: AuditRecord, server_view: bool) -> dict[str, Any]:
  public = server_view or records.is_public(audit.kind, audit.figures)
  return {
    'number': audit.number,
    'kind': audit.kind,
    'entries': audit.entries,
    'versions': dict(audit.versions),
    'figures': audit.figures if public else None,
    'recorded_at': audit.recorded_at if server_view else None,
    'auditor': audit.auditor if server_view else None,
  }
