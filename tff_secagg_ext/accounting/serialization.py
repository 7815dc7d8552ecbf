# SPDX-License-Identifier: Apache-2.0
"""Events, samplings and rounds as strict, versioned JSON.

Each object is written as `{"kind": ..., "version": ..., fields...}`, in one
canonical form (sorted keys, no blanks), so that equal values have equal bytes.
The version is that of the format in which the kind first was as it is.
Reading is strict: an unknown kind, version or field, a missing or a repeated
field, and any value that the class refuses, raise. Floats are kept exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
from typing import Any, NoReturn, TypeAlias

from tff_secagg_ext.accounting import events as events_lib
from tff_secagg_ext.accounting import external as external_lib
from tff_secagg_ext.accounting import sampling as sampling_lib

Recordable: TypeAlias = (
  events_lib.Event | sampling_lib.Sampling | events_lib.Round
)

_VERSIONS = {
  'waiver': 2,
  'external': 3,
  'random_allocation': 3,
  'central_gaussian': 3,
  'seen_by_server': 3,
}
_FIRST_VERSION = 1
# A field that came later, and the version of records that have it: those alone
# where it is not empty.
_LATER_FIELDS = {'noised_sum': ('layer_stddevs', 3)}
_KINDS: Mapping[str, type[Any]] = {
  'noised_sum': events_lib.NoisedSumEvent,
  'central_gaussian': events_lib.CentralGaussianEvent,
  'seen_by_server': events_lib.SeenByServerEvent,
  'unaccounted': events_lib.UnaccountedEvent,
  'waiver': events_lib.Waiver,
  'external': external_lib.ExternalEvent,
  'no_sampling': sampling_lib.NoSampling,
  'poisson_sampling': sampling_lib.PoissonSampling,
  'fixed_size_sampling': sampling_lib.FixedSizeSampling,
  'random_allocation': sampling_lib.RandomAllocation,
  'round': events_lib.Round,
}
_NAMES = {cls: kind for kind, cls in _KINDS.items()}
# What a tuple may hold besides records.
_PLAIN = (str, float)


def to_json(value: Recordable) -> str:
  """Returns the canonical JSON text of an event, a sampling or a round.

  Guarantees:
    - `from_json(to_json(value)) == value`, floats to the last bit;
    - equal values have equal texts.

  Raises:
    TypeError: If `value` is of no kind that can be recorded.
  """
  return json.dumps(
    _to_object(value),
    sort_keys=True,
    separators=(',', ':'),
    allow_nan=False,
  )


def from_json(text: str) -> Recordable:
  """Returns what `to_json` wrote; refuses whatever it would not have written.

  Raises:
    TypeError: If `text` is not a string, or a field is of the wrong kind.
    ValueError: If it is not valid JSON, if a kind, version or field is
      unknown, missing or repeated, or if a value is out of its range.
  """
  if not isinstance(text, str):
    raise TypeError(
      f'`text` must be a JSON string. Found {text!r}. Give what to_json '
      'returned.'
    )
  try:
    parsed = json.loads(
      text, object_pairs_hook=_unique, parse_constant=_no_constant
    )
  except json.JSONDecodeError as error:
    raise ValueError(
      f'`text` must be valid JSON. Found {text[:80]!r}: {error}. Give what '
      'to_json returned.'
    ) from error
  value: Recordable = _from_object(parsed)
  return value


def _to_object(value: Any) -> Any:
  kind = _NAMES.get(type(value))
  if kind is None:
    listed = ', '.join(sorted(cls.__name__ for cls in _NAMES))
    raise TypeError(
      f'`value` must be one of {listed}. Found {value!r}. Nothing else can '
      'be recorded.'
    )
  version = _VERSIONS.get(kind, _FIRST_VERSION)
  later, later_version = _LATER_FIELDS.get(kind, ('', 0))
  if getattr(value, later, ()):
    version = later_version
  record = {'kind': kind, 'version': version}
  for name in _fields(type(value), version):
    content = getattr(value, name)
    if isinstance(content, tuple):
      content = [c if isinstance(c, _PLAIN) else _to_object(c) for c in content]
    elif type(content) in _NAMES:
      content = _to_object(content)
    record[name] = content
  return record


def _fields(cls: type[Any], version: int) -> list[str]:
  """Returns the names of what a record of a version has."""
  later, later_version = _LATER_FIELDS.get(_NAMES[cls], ('', 0))
  return [
    field.name
    for field in dataclasses.fields(cls)
    if field.name != later or version == later_version
  ]


def _from_object(record: Any) -> Any:
  if not isinstance(record, dict):
    raise ValueError(
      f'A record must be a JSON object. Found {record!r}. Give what to_json '
      'returned.'
    )
  cls = _class_of(record)
  names = _fields(cls, record['version'])
  found = set(record) - {'kind', 'version'}
  if found != set(names):
    raise ValueError(
      f'A record of kind {record["kind"]!r} must have the fields '
      f'{sorted(names)}. Found unknown {sorted(found - set(names))}, missing '
      f'{sorted(set(names) - found)}. Another version may have written it.'
    )
  value = cls(**{name: _from_content(record[name]) for name in names})
  later, later_version = _LATER_FIELDS.get(record['kind'], ('', 0))
  if record['version'] == later_version and not getattr(value, later):
    raise ValueError(
      f'`{later}` must be left out where there is none. Found'
      f' {record[later]!r}. Give what to_json returned.'
    )
  return value


def _class_of(record: Mapping[str, Any]) -> type[Any]:
  kind, version = record.get('kind'), record.get('version')
  if not isinstance(kind, str) or kind not in _KINDS:
    raise ValueError(
      f'`kind` must be one of {sorted(_KINDS)}. Found {kind!r}. Another '
      'version may have written it.'
    )
  expected = [_VERSIONS.get(kind, _FIRST_VERSION)]
  expected += [
    later for _, later in [_LATER_FIELDS.get(kind, ('', 0))] if later
  ]
  if type(version) is not int or version not in expected:
    listed = ' or '.join(map(str, expected))
    raise ValueError(
      f'`version` must be {listed}. Found {version!r}. Read it with the '
      'release that wrote it, or a later one.'
    )
  return _KINDS[kind]


def _from_content(content: Any) -> Any:
  if isinstance(content, list):
    return tuple(
      c if isinstance(c, _PLAIN) else _from_object(c) for c in content
    )
  return _from_object(content) if isinstance(content, dict) else content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  record = dict(pairs)
  if len(record) != len(pairs):
    names = [name for name, _ in pairs]
    raise ValueError(
      f'A record must have each field once. Found {names}. It was altered.'
    )
  return record


def _no_constant(name: str) -> NoReturn:
  raise ValueError(
    f'Numbers must be finite. Found {name}. No event has such a field.'
  )
