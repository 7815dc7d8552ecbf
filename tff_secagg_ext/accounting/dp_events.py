# SPDX-License-Identifier: Apache-2.0
"""dp_accounting's events as strict, canonical JSON.

An event is an object with its class and its fields, such as

  {"class": "GaussianDpEvent", "noise_multiplier": 1.1}

whose values are numbers, strings, lists and other events. Keys are sorted and
there are no blanks, so that equal events have equal texts; infinity is the
string "Infinity". dp_accounting's own named tuples name a Python module that
reading them imports; here nothing is imported because a text says so.

A class that this package prices itself must have its fields, each in its range.
Any other one is kept as it is: whether it can be priced is for the accountant
to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import json
import math
import numbers
from typing import Any, NoReturn

from tff_secagg_ext import _validate

# An event as a tree: its fields by name, and its class as 'class'.
Tree = Mapping[str, Any]
CLASS = 'class'

_SUFFIX = 'DpEvent'
_INFINITY = 'Infinity'
_DEEPEST = 50
_MOST = 2**63 - 1


def _noise(value: Any, name: str) -> float:
  return _validate.check_float(
    value, name, minimum=0.0, remedy='It is noise over sensitivity.'
  )


def _probability(value: Any, name: str) -> float:
  return _validate.check_float(
    value,
    name,
    minimum=0.0,
    maximum=1.0,
    remedy='It is the chance of a record to be in the sample.',
  )


def _count(value: Any, name: str) -> int:
  return _validate.check_int(
    value,
    name,
    minimum=0,
    maximum=_MOST,
    remedy='Count whole applications.',
  )


def _size(value: Any, name: str) -> int:
  return _validate.check_int(
    value, name, minimum=1, remedy='Count whole records.'
  )


def _event(value: Any, name: str) -> Tree:
  if not isinstance(value, Mapping):
    raise TypeError(
      f'`{name}` must be an event. Found {value!r}. Give an object with a'
      f' {CLASS!r}.'
    )
  return value


def _events(value: Any, name: str) -> list[Tree]:
  if not isinstance(value, list):
    raise TypeError(
      f'`{name}` must be a list of events. Found {value!r}. Put a single one'
      ' into a list.'
    )
  return [_event(each, name) for each in value]


_CHECKS: Mapping[str, Mapping[str, Callable[[Any, str], Any]]] = {
  'NoOpDpEvent': {},
  'NonPrivateDpEvent': {},
  'UnsupportedDpEvent': {},
  'GaussianDpEvent': {'noise_multiplier': _noise},
  'LaplaceDpEvent': {'noise_multiplier': _noise},
  'SelfComposedDpEvent': {'event': _event, 'count': _count},
  'ComposedDpEvent': {'events': _events},
  'PoissonSampledDpEvent': {
    'sampling_probability': _probability,
    'event': _event,
  },
  'SampledWithoutReplacementDpEvent': {
    'source_dataset_size': _size,
    'sample_size': _size,
    'event': _event,
  },
}


def to_text(event: Any) -> str:
  """Returns the canonical text of an event of dp_accounting.

  Args:
    event: Any `dp_accounting.DpEvent` of numbers, strings, lists and events.

  Raises:
    TypeError: If it is none, or holds anything else.
    ValueError: If a field of it is out of its range.
  """
  return _text(_checked(_from_value(event, 0)))


def canonical(text: str) -> str:
  """Returns the canonical text of the event that `text` is of.

  Raises:
    TypeError: If `text` is not a string, or a field is of the wrong kind.
    ValueError: If it is not the JSON of an event, or if a field is missing,
      unknown, repeated or out of its range.
  """
  return _text(parse(text))


def parse(text: str) -> Tree:
  """Returns the event that `text` is of, as a tree; see `canonical`."""
  if not isinstance(text, str):
    raise TypeError(
      f'`event` must be a JSON text. Found {text!r}. Use'
      ' ExternalEvent.of(event) for an event of dp_accounting.'
    )
  try:
    read = json.loads(
      text, object_pairs_hook=_unique, parse_constant=_no_constant
    )
    return _checked(_from_value(read, 0))
  except (json.JSONDecodeError, RecursionError) as error:
    raise ValueError(
      f'`event` must be the JSON of an event. Found {text[:80]!r}: {error}.'
      ' Give what ExternalEvent.of(event) holds.'
    ) from error


def build(tree: Tree) -> Any:
  """Returns the tree as an event of dp_accounting.

  Raises:
    LookupError: If the installed dp_accounting has no such class.
    TypeError: If the class has other fields.
  """
  from dp_accounting import dp_event

  cls = getattr(dp_event, tree[CLASS], None)
  if not (isinstance(cls, type) and issubclass(cls, dp_event.DpEvent)):
    raise LookupError(f'dp_accounting has no {tree[CLASS]}')
  return cls(**{k: _built(v) for k, v in tree.items() if k != CLASS})


def _built(value: Any) -> Any:
  if isinstance(value, Mapping):
    return build(value)
  if isinstance(value, list):
    return [_built(each) for each in value]
  return math.inf if value == _INFINITY else value


def _from_value(value: Any, depth: int) -> Any:
  """Returns what JSON can hold of an event: exact, or a TypeError."""
  if depth > _DEEPEST:
    raise ValueError(
      f'`event` must be nested at most {_DEEPEST} deep. Found more. Compose'
      ' what is in it as a list.'
    )
  fields = getattr(type(value), '__attrs_attrs__', None)
  if fields is not None:
    tree = {field.name: getattr(value, field.name) for field in fields}
    value = {CLASS: type(value).__name__, **tree}
  if isinstance(value, Mapping):
    return {key: _from_value(each, depth + 1) for key, each in value.items()}
  if isinstance(value, str):
    return value
  if isinstance(value, Sequence):
    return [_from_value(each, depth + 1) for each in value]
  return _number(value)


def _number(value: Any) -> Any:
  if isinstance(value, bool) or value is None:
    return value
  if isinstance(value, numbers.Integral):
    return int(value)
  if isinstance(value, numbers.Real) and not math.isnan(number := float(value)):
    if math.isinf(number):
      return _INFINITY if number > 0.0 else f'-{_INFINITY}'
    return number
  raise TypeError(
    '`event` must hold numbers, strings, lists and events of dp_accounting.'
    f' Found {value!r}, which cannot be recorded. Record what it released as'
    ' an event that can, or as an UnaccountedEvent.'
  )


def _checked(value: Any) -> Tree:
  """Returns a tree all of whose events have their fields, in their ranges."""
  name = value.get(CLASS) if isinstance(value, Mapping) else None
  if not isinstance(name, str) or not name.endswith(_SUFFIX):
    raise ValueError(
      f'`event` must have the name of a {_SUFFIX} as its {CLASS!r}. Found'
      f' {value!r}. Give an event of dp_accounting.'
    )
  checks = _CHECKS.get(name)
  tree = dict(value)
  if checks is not None:
    found = set(tree) - {CLASS}
    if found != set(checks):
      raise ValueError(
        f'A {name} must have the fields {sorted(checks)}. Found'
        f' {sorted(found)}. Another version may have written it.'
      )
    tree |= {
      field: check(tree[field], field) for field, check in checks.items()
    }
  if name == 'SampledWithoutReplacementDpEvent':
    _validate.check_int(
      tree['sample_size'],
      'sample_size',
      maximum=tree['source_dataset_size'],
      remedy='A sample without replacement is no larger than its source.',
    )
  return {key: _checked_field(each) for key, each in tree.items()}


def _checked_field(value: Any) -> Any:
  if isinstance(value, Mapping):
    return _checked(value)
  if isinstance(value, list):
    return [_checked_field(each) for each in value]
  return value


def _text(tree: Tree) -> str:
  return json.dumps(
    tree, sort_keys=True, separators=(',', ':'), allow_nan=False
  )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  record = dict(pairs)
  if len(record) != len(pairs):
    raise ValueError(
      'An event must have each field once. Found'
      f' {[name for name, _ in pairs]}. It was altered.'
    )
  return record


def _no_constant(name: str) -> NoReturn:
  raise ValueError(
    f'Numbers of an event must be finite. Found {name}. Infinity is the string'
    f' {_INFINITY!r}.'
  )
