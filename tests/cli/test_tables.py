# SPDX-License-Identifier: Apache-2.0
"""Tables: they fit 80 columns, and say why an epsilon is infinite."""

import io
import math

from rich.console import Console

from tff_secagg_ext import accounting
from tff_secagg_ext.cli import tables, training


def outcome(**changes):
  values = {
    'run': 'demo12-z1',
    'noise_multiplier': 1.0,
    'rounds': 60,
    'utility': {'accuracy': 0.95, 'loss': 0.2},
    'release': accounting.Epsilon(6.3, ()),
    'server': accounting.Epsilon(55.0, ()),
    'delta': 1e-3,
    'sampling': accounting.PoissonSampling(100 / 360),
    'interrupted': False,
  }
  return training.Outcome(**{**values, **changes})


def printed(*outcomes):
  out = io.StringIO()
  console = Console(file=out, width=80)
  tables.print_outcomes(outcomes, 'sqlite:///runs.db', console)
  return out.getvalue()


def test_outcomes_fit_80_columns_uncut():
  text = printed(outcome(), outcome(run='demo12-z4', noise_multiplier=4.0))
  assert max(map(len, text.splitlines())) <= 80
  assert '…' not in text
  for figure in ('demo12-z1', '0.950', '6.3', '55', '0.278', '0.001'):
    assert figure in text


def test_an_infinite_epsilon_comes_with_its_reason():
  infinite = accounting.Epsilon(math.inf, ('there is no noise',))
  text = printed(outcome(release=infinite, server=infinite))
  assert '∞' in text
  assert 'there is no noise' in text


def test_samplings_are_named():
  fixed = accounting.FixedSizeSampling(100, 360)
  assert 'cohorts of 100 of 360 clients' in printed(outcome(sampling=fixed))
  nothing = accounting.NoSampling()
  assert 'no sampling claimed' in printed(outcome(sampling=nothing))
