# SPDX-License-Identifier: Apache-2.0
"""Execution contexts for TFF whose secure sums go through the protocol.

```python
from tff_secagg_ext import execution

tff_secagg_ext.set_secure_context(
  execution.SecureOptions(
    security=execution.Security('malicious', corrupt=0.05, dropout=0.2),
    dropouts=execution.Dropouts({'mask': 0.1}),
  )
)
with execution.collect_reports() as reports:
  output = process.next(state, client_data)
```

| part | what it knows |
| --- | --- |
| `plans` | how TFF takes a computation apart |
| `vectors` | how structures of integers become vectors modulo m |
| `sums` | how a session is run, recorded and reported |
| `contexts` | how all of it is one call of `invoke` |
"""

from tff_secagg_ext.execution.contexts import (
  AsyncSecureContext,
  SecureContext,
  create_async_secure_context,
  create_secure_context,
  end_worker,
  installed_options,
  set_secure_context,
)
from tff_secagg_ext.execution.options import Dropouts, SecureOptions
from tff_secagg_ext.execution.plans import UnsupportedComputationError
from tff_secagg_ext.execution.sums import RoundAborted, collect_reports
from tff_secagg_ext.secagg.report import Report
from tff_secagg_ext.secagg.setup import Security

__all__ = [
  'AsyncSecureContext',
  'Dropouts',
  'Report',
  'RoundAborted',
  'SecureContext',
  'SecureOptions',
  'Security',
  'UnsupportedComputationError',
  'collect_reports',
  'create_async_secure_context',
  'create_secure_context',
  'end_worker',
  'installed_options',
  'set_secure_context',
]
