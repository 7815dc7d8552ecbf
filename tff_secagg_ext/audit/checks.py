# SPDX-License-Identifier: Apache-2.0
"""Checks of arrays, with the message shape of `_validate`."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
# What numpy makes an array of: arrays and nested sequences of numbers.
ArrayLike: TypeAlias = Any


def check_array(
  values: ArrayLike, name: str, shape: tuple[int | None, ...], remedy: str = ''
) -> FloatArray:
  """Returns `values` as finite float64 numbers of a shape.

  Args:
    values: An array of numbers, or what numpy makes one of.
    name: What to call it in errors.
    shape: The expected shape; None is any length but 0.
    remedy: What to do about it, for errors.

  Raises:
    TypeError: If the values are not real numbers.
    ValueError: If the shape is another one, or a value is not finite.
  """
  array = np.asarray(values)
  if array.dtype.kind not in 'fiu':
    raise TypeError(
      f'`{name}` must be an array of real numbers. Found the dtype '
      f'{array.dtype}. {remedy}'.rstrip()
    )
  _check_shape(array, name, shape, remedy)
  found = array.astype(np.float64)
  bad = int(np.count_nonzero(~np.isfinite(found)))
  if bad:
    raise ValueError(
      f'`{name}` must be finite. Found {bad} of {found.size} values that are '
      f'not. {remedy}'.rstrip()
    )
  return found


def check_flags(
  values: ArrayLike, name: str, shape: tuple[int | None, ...]
) -> BoolArray:
  """Returns `values` as an array of bool.

  Raises:
    TypeError: If the values are not bool.
    ValueError: If the shape is not `shape`, in which None is any length but 0.
  """
  array = np.asarray(values)
  if array.dtype != np.bool_:
    raise TypeError(
      f'`{name}` must be an array of bool. Found the dtype {array.dtype}.'
    )
  _check_shape(array, name, shape, '')
  return array


def _check_shape(
  array: npt.NDArray[Any],
  name: str,
  shape: tuple[int | None, ...],
  remedy: str,
) -> None:
  fits = len(array.shape) == len(shape) and all(
    found == expected if expected is not None else found > 0
    for found, expected in zip(array.shape, shape, strict=True)
  )
  if not fits:
    text = ', '.join('any' if n is None else str(n) for n in shape)
    raise ValueError(
      f'`{name}` must have the shape [{text}]. Found '
      f'{list(array.shape)}. {remedy}'.rstrip()
    )
