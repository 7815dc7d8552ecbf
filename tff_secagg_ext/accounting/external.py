# SPDX-License-Identifier: Apache-2.0
"""What was released outside of the federation, about the same units of privacy.

An `ExternalEvent` is an event of dp_accounting with who answers for it. It is
a claim: nothing in it was measured here, and every account that holds one is
as true as it is.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from tff_secagg_ext import _validate
from tff_secagg_ext.accounting import dp_events

TRUST_DOMAINS: tuple[str, ...] = ('federated', 'central', 'enclave')


@dataclasses.dataclass(frozen=True)
class ExternalEvent:
  """Something that was released elsewhere, priced as dp_accounting's event.

  The neighbouring world is one without the unit of privacy: in the federation
  its contributions are zero, and here its records are removed, or, where their
  number is fixed, zero. So the event must be about the account's unit: a
  client with many records is not an example of DP-SGD. docs/accounting.md,
  section 10, argues why both compose.

  The event's sampling is that of its own records, and holds against whoever
  does not see who was sampled. The coordinator of the federation is taken to be
  such a one, unless `by_coordinator` says otherwise.

  | domain | who saw raw data | server view, by default | `by_coordinator` |
  | --- | --- | --- | --- |
  | federated | nobody | as the release view | infinite: it saw who took part |
  | central | a curator | as the release view | infinite: it saw the data |
  | enclave | attested code | as the release view | the same |

  Attributes:
    event: The event of dp_accounting as JSON, see `dp_events`; any equal text
      is made canonical. `of` takes the event itself.
    trust_domain: 'federated', 'central' or 'enclave'.
    vouched_by: Who answers for it: that it was run so, with such noise.
    source: What ran it, such as 'opacus 1.6.0'.
    by_coordinator: Whether the coordinator of this federation ran it.
  """

  event: str
  trust_domain: str
  vouched_by: str
  source: str
  by_coordinator: bool = False

  def __post_init__(self) -> None:
    object.__setattr__(self, 'event', dp_events.canonical(self.event))
    _validate.check_choice(self.trust_domain, 'trust_domain', TRUST_DOMAINS)
    for field in ('vouched_by', 'source'):
      value: object = getattr(self, field)
      if not isinstance(value, str):
        raise TypeError(
          f'`{field}` must be a string. Found {value!r}. Say who answers for'
          ' the event, and what ran it.'
        )
      if not value.strip():
        raise ValueError(
          f'`{field}` must not be empty. Found {value!r}. Say who answers for'
          ' the event, and what ran it.'
        )
    _validate.check_bool(self.by_coordinator, 'by_coordinator')

  @classmethod
  def of(cls, event: Any, **fields: Any) -> ExternalEvent:
    """Returns an event of dp_accounting as an external one.

    Args:
      event: A `dp_accounting.DpEvent`.
      **fields: The other attributes.

    Raises:
      TypeError: If `event` is none, or holds what cannot be recorded.
      ValueError: If a field is out of its range.
    """
    return cls(dp_events.to_text(event), **fields)
