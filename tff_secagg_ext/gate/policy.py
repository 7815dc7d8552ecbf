# SPDX-License-Identifier: Apache-2.0
"""What a run must have shown, read from TOML; each table is of one check."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
from importlib import resources
import math
import sys
from typing import Any

from tff_secagg_ext import _validate

if sys.version_info >= (3, 11):
  import tomllib
else:
  import tomli as tomllib


class PolicyError(ValueError):
  """A policy that cannot be used; the message says what would do."""


def _range(minimum: float, maximum: float = math.inf) -> Any:
  return dataclasses.field(metadata={'range': (minimum, maximum)})


@dataclasses.dataclass(frozen=True)
class Epsilon:
  """Limits of the ledger's epsilon at the run's delta, in nats.

  Attributes:
    release: In the view of who sees the releases, in [0, inf].
    server: In the coordinator's view, in [0, inf].
  """

  release: float = _range(0.0)
  server: float = _range(0.0)


@dataclasses.dataclass(frozen=True)
class Waivers:
  """What epsilon may leave out.

  Attributes:
    allowed: Names of releases, as the ledger has them.
  """

  allowed: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Required:
  """Evidence that must hold.

  Attributes:
    required: Whether it must be there.
  """

  required: bool


@dataclasses.dataclass(frozen=True)
class Memorization(Required):
  """Limits of the audit `memorization`.

  Attributes:
    minimum_reduction: Of memorization, over that without privacy; at least 0.
  """

  minimum_reduction: float = _range(0.0)


@dataclasses.dataclass(frozen=True)
class Membership(Required):
  """Limits of the audit `membership`.

  Attributes:
    maximum_auc: Of the best attack, in [0, 1].
    maximum_true_positive_rate: At the audit's false positive rate, in [0, 1].
  """

  maximum_auc: float = _range(0.0, 1.0)
  maximum_true_positive_rate: float = _range(0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Utility(Required):
  """Limits of the audit `utility`.

  Attributes:
    figure: The name of the figure, of which more is better.
    baseline: A number, or the run whose figure it is.
    maximum_loss: How far below the baseline it may be, in [0, inf].
  """

  figure: str
  baseline: float | str = dataclasses.field(metadata={'run': True})
  maximum_loss: float = _range(0.0)


@dataclasses.dataclass(frozen=True)
class Aborts:
  """A limit of what came of attempts.

  Attributes:
    maximum_rate: Of those that were not committed, in [0, 1].
  """

  maximum_rate: float = _range(0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Dropouts(Required):
  """A limit of what came of clients.

  Attributes:
    maximum_rate: Of those that were invited and not summed, in [0, 1].
  """

  maximum_rate: float = _range(0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Communication(Required):
  """Limits of what a client sends and is sent, mean of a session.

  Attributes:
    maximum_expansion: Over the bytes of its vectors, in [0, inf].
    maximum_bytes: In [0, inf].
  """

  maximum_expansion: float = _range(0.0)
  maximum_bytes: float = _range(0.0)


@dataclasses.dataclass(frozen=True)
class Noise(Required):
  """A limit of the noise of rounds.

  Attributes:
    minimum_ratio: Of the noise multiplier over the planned one, in [0, inf].
  """

  minimum_ratio: float = _range(0.0)


@dataclasses.dataclass(frozen=True)
class Policy:
  """What a run must have shown: one table a check.

  Attributes:
    digest: SHA-256 of the text that it was read from, hexadecimal.
  """

  epsilon: Epsilon
  waivers: Waivers
  lower_bound: Required
  memorization: Memorization
  membership: Membership
  implementation: Required
  utility: Utility
  aborts: Aborts
  dropouts: Dropouts
  communication: Communication
  noise: Noise
  transcripts: Required
  digest: str

  @classmethod
  def parse(cls, data: bytes) -> Policy:
    """Reads a policy; what it leaves out is as in the default one.

    Args:
      data: TOML in UTF-8.

    Raises:
      PolicyError: If it is no TOML; if a table or a key is not known, with the
        nearest that is; or if a value is of another type or out of its range.
    """
    given, tables = _toml(data), _toml(default_policy().encode())
    _refuse_unknown('The policy', 'table', given, tables)
    sections = {}
    for name, table in tables.items():
      changed = given.get(name, {})
      if not isinstance(changed, Mapping):
        raise PolicyError(
          f'`{name}` must be a table. Found {changed!r}. Write [{name}], and'
          ' its keys below it.'
        )
      _refuse_unknown(f'`{name}`', 'key', changed, table)
      sections[name] = _section(name, table, {**table, **changed})
    return cls(**sections, digest=hashlib.sha256(data).hexdigest())


_SECTIONS: Mapping[str, type[Any]] = {
  'epsilon': Epsilon,
  'waivers': Waivers,
  'lower_bound': Required,
  'memorization': Memorization,
  'membership': Membership,
  'implementation': Required,
  'utility': Utility,
  'aborts': Aborts,
  'dropouts': Dropouts,
  'communication': Communication,
  'noise': Noise,
  'transcripts': Required,
}


def default_policy() -> str:
  """Returns the text of the default policy, with its comments."""
  return (
    resources.files(__package__)
    .joinpath('default_policy.toml')
    .read_text(encoding='utf-8')
  )


def _toml(data: bytes) -> dict[str, Any]:
  try:
    return tomllib.loads(data.decode('utf-8'))
  except ValueError as error:
    raise PolicyError(
      f'The policy must be TOML. Found something else: {error}. `tff-secagg'
      ' gate --init` writes one.'
    ) from None


def _refuse_unknown(
  where: str, what: str, given: Mapping[str, Any], known: Mapping[str, Any]
) -> None:
  for name in given:
    if name not in known:
      raise PolicyError(
        f'{where} must have no {what} but {", ".join(known)}. Found `{name}`.'
        f'{_validate.nearest(name, known, "`{}`".format)}'
      )


def _section(
  name: str, default: Mapping[str, Any], values: Mapping[str, Any]
) -> Any:
  section = _SECTIONS[name]
  fields = {field.name: field for field in dataclasses.fields(section)}
  return section(
    **{
      key: _value(f'{name}.{key}', fields[key], default[key], value)
      for key, value in values.items()
    }
  )


def _value(
  name: str, field: dataclasses.Field[Any], default: object, value: object
) -> Any:
  """Returns a value of the kind of the default one, in its range."""
  if isinstance(default, bool):
    return _of_kind(name, 'true or false', value, isinstance(value, bool))
  if isinstance(default, list):
    strings = isinstance(value, list) and all(
      isinstance(each, str) for each in value
    )
    return tuple(_of_kind(name, 'a list of strings', value, strings))
  if isinstance(default, str):
    named = isinstance(value, str) and bool(value.strip())
    return _of_kind(name, 'a string that is not empty', value, named)
  if field.metadata.get('run') and isinstance(value, str):
    return value
  return _number(name, value, field.metadata.get('range'))


def _of_kind(name: str, kind: str, value: Any, right: bool) -> Any:
  if not right:
    raise PolicyError(f'`{name}` must be {kind}. Found {value!r}.')
  return value


def _number(name: str, value: Any, limits: tuple[float, float] | None) -> float:
  """Returns a number within limits; without any, a finite one."""
  right = isinstance(value, (int, float)) and not isinstance(value, bool)
  if limits is None:
    wanted = 'a finite number, or the name of a run'
    right = right and math.isfinite(value)
  else:
    wanted = f'a number in [{limits[0]:g}, {limits[1]:g}]'
    right = right and limits[0] <= value <= limits[1]
  if not right:
    raise PolicyError(
      f'`{name}` must be {wanted}. Found {value!r}. The default policy says'
      ' what it is.'
    )
  return float(value)
