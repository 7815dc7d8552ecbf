# SPDX-License-Identifier: Apache-2.0
"""Tables: they fit 80 columns, and say why an epsilon is infinite."""

import dataclasses
import io
import math

from rich.console import Console

from tff_secagg_ext import accounting, execution, ledger
from tff_secagg_ext.cli import progress, tables, training
from tff_secagg_ext.ledger import AuditRecord, view


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
    'secure_sums': execution.SecureOptions().settings,
    'sessions': [entries()[-1].protocol],
    'lost': 1,
    'interrupted': False,
  }
  return training.Outcome(**{**values, **changes})


def entries():
  """A round that was lost, and run again."""
  nothing = accounting.Round((), accounting.NoSampling())
  spent = accounting.Epsilon(1.0)
  protocol = {'threat': 'malicious', 'clients': 10, 'expansion': 9.25}
  aborted = {**protocol, 'survivors': 0, 'verified': None}
  summed = {**protocol, 'survivors': 8, 'verified': True}
  steps = [(1, 'reserved', None), (1, 'lost', aborted), (2, 'reserved', None)]
  return [
    ledger.Entry(
      sequence=sequence,
      session=1,
      attempt=ledger.Attempt(1, attempt),
      kind=kind,
      charge=nothing,
      measurements={},
      note='',
      release=spent,
      server=spent,
      recorded_at='2026-01-01T00:00:00.000000+00:00',
      protocol=protocol,
    )
    for sequence, (attempt, kind, protocol) in enumerate(
      [*steps, (2, 'committed', summed)], 1
    )
  ]


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


def test_sums_and_sessions_are_told():
  text = ' '.join(printed(outcome()).split())
  assert 'SecAgg+ against a malicious server' in text
  assert 'at most 5% of a cohort colluding and 10% dropping out' in text
  assert '80.0% of the clients survived, 9.2 times the bytes' in text
  assert '1 of 1 sums verified, 1 attempts lost' in text
  plain = execution.SecureOptions(protocol='plain').settings
  text = ' '.join(
    printed(outcome(secure_sums=plain, sessions=[], lost=0)).split()
  )
  assert 'sums have none: insecure' not in text
  assert 'sums without secrecy: insecure, vectors are added' in text
  assert '0 attempts lost' in text


def test_rounds_of_both_views_fit_80_columns():
  run = view.describe(
    {
      'name': 'demo12-z1',
      'delta': 1e-3,
      'created_at': '',
      'settings': '{"secure_sums": "simulated: in the clear"}',
    },
    [],
    entries(),
    server_view=True,
  )
  text = shown(run)
  assert '8 of 10' in text
  assert 'verified' in text
  assert 'sums are simulated: in the clear' in text
  hidden = {**run, 'rounds': [{**run['rounds'][0], 'attempts': []}]}
  hidden['rounds'][0]['attempts'] = [{'protocol': {'threat': 'malicious'}}]
  assert '8 of 10' not in shown(hidden)


def shown(run):
  out = io.StringIO()
  tables.print_run(run, Console(file=out, width=80))
  assert max(map(len, out.getvalue().splitlines())) <= 80
  assert '…' not in out.getvalue()
  return out.getvalue()


def test_lines_of_a_session():
  protocol = {**entries()[-1].protocol}
  assert progress.session(protocol) == (
    '8 of 10 clients, 9.2 times the bytes, verified'
  )
  assert progress.session({**protocol, 'threat': 'plain'}) == (
    '8 of 10 clients, in the clear'
  )
  assert progress.checked(None) == 'not checked'
  assert progress.checked(False) == 'not verified'


def test_waivers_stand_beside_the_epsilon():
  waiver = accounting.Waiver('count [x] is exact', 'A. Reviewer', 'public')
  conditional = accounting.Epsilon(6.3, (), (waiver,))
  text = printed(outcome(release=conditional))
  assert '6.3†' in text
  told = ' '.join(text.split())
  assert (
    '† ε leaves out what is waived: count [x] is exact, by A. Reviewer: public'
  ) in told
  run = view.describe(
    {
      'name': 'a',
      'delta': 1e-3,
      'created_at': '2026-01-01T00:00:00',
      'settings': '{"secure_sums": "simulated: in the clear"}',
    },
    [],
    [dataclasses.replace(e, release=conditional) for e in entries()],
  )
  assert run['waivers'] == [dataclasses.asdict(waiver)]
  assert run['rounds'][0]['waivers'] == run['waivers']
  text = ' '.join(shown(run).split())
  assert '6.3†' in text
  assert 'by A. Reviewer: public' in text
  out = io.StringIO()
  tables.print_runs([run], Console(file=out, width=80))
  assert '6.3†' in out.getvalue()
  assert 'A. Reviewer' in out.getvalue()


def test_audits_stand_below_the_epsilons():
  described = {
    'name': 'a',
    'delta': 1e-3,
    'created_at': '',
    'settings': '{"secure_sums": "simulated: in the clear"}',
  }
  figures = {'lower_bound': 1.23456, 'alarm': False, 'rounds': [1], 'b': '[c]'}
  audits = [
    AuditRecord(kind, figures, 'then', n, 2, 'x:1:1', {})
    for n, kind in enumerate(('one_shot', 'membership'), 1)
  ]
  run = view.describe(described, [], entries(), audits)
  text = ' '.join(shown(run).split())
  assert 'one_shot' in text
  assert 'lower bound 1.235, alarm False, b [c]' in text
  assert 'membership │ 2 │ unpublished: see --server-view' in text
  whole = view.describe(described, [], entries(), audits, server_view=True)
  assert 'unpublished' not in shown(whole)
  assert 'figures' not in shown(view.describe(described, [], entries()))


def test_waivers_are_told_while_a_run_goes_on():
  waiver = accounting.Waiver('count is exact', 'A. Reviewer', 'public')
  lines = []
  report = progress.Report(lambda number, text: lines.append(text))
  spent = accounting.Epsilon(1.0, (), (waiver,))
  report(dataclasses.replace(entries()[-1], release=spent))
  assert '1 releases waived' in lines[0]
