# SPDX-License-Identifier: Apache-2.0
"""What people read of a run: its facts, a verdict, pages and a statement.

`read` gets the facts from a ledger, and everything else is a function of them:
`verdict`, `forecast` and `dropouts` judge and price; `report` and `statement`
are documents, which `to_html` and `to_markdown` write; `to_json` is for
programs, and `draw` makes figures for papers, `card` a few lines
for notebooks.
"""

from tff_secagg_ext.report.card import card
from tff_secagg_ext.report.drawing import Drawing, draw
from tff_secagg_ext.report.export import to_json
from tff_secagg_ext.report.facts import RunFacts, Series
from tff_secagg_ext.report.forecasting import (
  Forecast,
  WhatIf,
  dropouts,
  forecast,
)
from tff_secagg_ext.report.growing import grown, sharing
from tff_secagg_ext.report.page import report
from tff_secagg_ext.report.reading import read
from tff_secagg_ext.report.render import to_html, to_markdown
from tff_secagg_ext.report.statement import statement
from tff_secagg_ext.report.verdicts import Verdict, verdict

__all__ = [
  'Drawing',
  'Forecast',
  'RunFacts',
  'Series',
  'Verdict',
  'WhatIf',
  'card',
  'draw',
  'dropouts',
  'forecast',
  'grown',
  'read',
  'report',
  'sharing',
  'statement',
  'to_html',
  'to_json',
  'to_markdown',
  'verdict',
]
