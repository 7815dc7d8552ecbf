# SPDX-License-Identifier: Apache-2.0
"""Options that several commands have, with one help text each."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

Bits: TypeAlias = Annotated[int, typer.Option(help='The sum is modulo 2^bits.')]
Cohorts: TypeAlias = Annotated[
  str, typer.Option(help='poisson, allocated or fixed.')
]
Corrupt: TypeAlias = Annotated[
  float, typer.Option(help='Largest fraction of colluding clients.')
]
Dropout: TypeAlias = Annotated[
  float, typer.Option(help='Largest fraction that drops out of a cohort.')
]
Epoch: TypeAlias = Annotated[
  int | None, typer.Option(help='Rounds of an epoch of allocated cohorts.')
]
Json: TypeAlias = Annotated[bool, typer.Option('--json', help='Print JSON.')]
Ledger: TypeAlias = Annotated[
  str, typer.Option(help='SQLAlchemy URL of the ledger.')
]
Mechanism: TypeAlias = Annotated[
  str, typer.Option(help='distributed_dgauss or distributed_skellam.')
]
Protocol: TypeAlias = Annotated[
  str, typer.Option(help='secagg; or plain: insecure, for quick work.')
]
TargetView: TypeAlias = Annotated[
  str, typer.Option(help='Whose epsilon the target is: release or server.')
]
Threat: TypeAlias = Annotated[
  str, typer.Option(help='curious, semi-malicious or malicious.')
]
