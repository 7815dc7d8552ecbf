# SPDX-License-Identifier: Apache-2.0
"""Distributed differential privacy for TensorFlow Federated, with its epsilon.

`tff_secagg_ext.ddp_secure_aggregator` takes the place of
`tff.learning.ddp_secure_aggregator`; `tff_secagg_ext.PrivacyRecorder` keeps
the privacy loss of every round in a ledger.

Guarantees:

- importing this package imports neither TensorFlow nor TensorFlow Federated:
  a name is loaded when it is first used;
- `import tensorflow_federated` works after it on Python 3.12 and 3.13 too.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tff_secagg_ext import _compat

if TYPE_CHECKING:
  from tff_secagg_ext.aggregators import ddp_secure_aggregator
  from tff_secagg_ext.execution import set_secure_context
  from tff_secagg_ext.ledger import Ledger
  from tff_secagg_ext.metrics import no_client_metrics
  from tff_secagg_ext.program import PrivacyRecorder, recorded

__version__ = '0.1.0'

_HOMES = {
  'Ledger': 'ledger',
  'PrivacyRecorder': 'program',
  'ddp_secure_aggregator': 'aggregators',
  'no_client_metrics': 'metrics',
  'recorded': 'program',
  'set_secure_context': 'execution',
}
_SUBMODULES = frozenset(
  [
    'accounting',
    'aggregators',
    'audit',
    'cli',
    'execution',
    'gate',
    'ledger',
    'mechanism',
    'metrics',
    'program',
    'report',
    'secagg',
    'serve',
    'tasks',
  ]
)

__all__ = [
  'Ledger',
  'PrivacyRecorder',
  '__version__',
  'ddp_secure_aggregator',
  'no_client_metrics',
  'recorded',
  'set_secure_context',
]


def __getattr__(name: str) -> object:
  if name in _SUBMODULES:
    return importlib.import_module(f'{__name__}.{name}')
  if name in _HOMES:
    home = importlib.import_module(f'{__name__}.{_HOMES[name]}')
    value = globals()[name] = getattr(home, name)
    return value
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted(_SUBMODULES.union(__all__, globals()))


_compat.prepare_when_tff_is_imported()
