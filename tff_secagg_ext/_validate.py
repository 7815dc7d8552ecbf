# SPDX-License-Identifier: Apache-2.0
"""Argument checks with one message shape: found, expected, remedy.

Each check returns its argument as a plain Python value, so that numpy scalars
do not travel further than the boundary where they entered. `bool` is never
accepted as a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import difflib
import math
import numbers


def _message(name: str, expected: str, found: object, remedy: str) -> str:
  return f'`{name}` must be {expected}. Found {found!r}. {remedy}'.rstrip()


def check_int(
  value: object,
  name: str,
  *,
  minimum: int | None = None,
  maximum: int | None = None,
  remedy: str = '',
) -> int:
  """Returns `value` as an `int` in `[minimum, maximum]`.

  Raises:
    TypeError: If `value` is not an integer (`bool` is not one).
    ValueError: If it is outside the range.
  """
  if isinstance(value, bool) or not isinstance(value, numbers.Integral):
    raise TypeError(_message(name, 'an integer', value, remedy))
  number = int(value)
  if minimum is not None and number < minimum:
    raise ValueError(_message(name, f'at least {minimum}', value, remedy))
  if maximum is not None and number > maximum:
    raise ValueError(_message(name, f'at most {maximum}', value, remedy))
  return number


def check_float(
  value: object,
  name: str,
  *,
  minimum: float = -math.inf,
  maximum: float = math.inf,
  exclusive: bool = False,
  remedy: str = '',
) -> float:
  """Returns `value` as a finite `float` between `minimum` and `maximum`.

  The ends belong to the range unless `exclusive`.

  Raises:
    TypeError: If `value` is not a real number (`bool` is not one).
    ValueError: If it is not finite, or outside the range.
  """
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    raise TypeError(_message(name, 'a real number', value, remedy))
  number = float(value)
  if not math.isfinite(number):
    raise ValueError(_message(name, 'finite', value, remedy))
  if exclusive:
    inside = minimum < number < maximum
  else:
    inside = minimum <= number <= maximum
  if not inside:
    ends = '()' if exclusive else '[]'
    expected = f'in {ends[0]}{minimum:g}, {maximum:g}{ends[1]}'
    raise ValueError(_message(name, expected, value, remedy))
  return number


def check_bool(value: object, name: str) -> bool:
  """Returns `value`; raises `TypeError` if it is not a `bool`."""
  if not isinstance(value, bool):
    raise TypeError(_message(name, 'True or False', value, ''))
  return value


def check_choice(value: object, name: str, choices: Sequence[str]) -> str:
  """Returns `value`, one of the strings `choices`.

  Raises:
    TypeError: If `value` is not a string.
    ValueError: If it is none of the choices.
  """
  listed = ' or '.join(repr(c) for c in choices)
  if not isinstance(value, str):
    raise TypeError(_message(name, f'a string, {listed}', value, ''))
  if value not in choices:
    raise ValueError(_message(name, listed, value, ''))
  return value


def nearest(
  name: object, known: Iterable[str], shown: Callable[[str], str] = repr
) -> str:
  """Returns a remedy for a name that is not known: the one most like it.

  Args:
    name: What was given.
    known: What might have been meant.
    shown: How the message writes a name.

  Returns:
    A sentence that begins with a blank; empty if none is like it.
  """
  near = difflib.get_close_matches(str(name), known, 1)
  return f' The nearest is {shown(near[0])}.' if near else ''
