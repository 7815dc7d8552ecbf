# SPDX-License-Identifier: Apache-2.0
"""`tff-secagg audit implementation`, and the factories it attacks."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tff_secagg_ext import aggregators
from tff_secagg_ext._compat import tff
from tff_secagg_ext.audit import implementation as audit
from tff_secagg_ext.cli import audit_page
from tff_secagg_ext.cli.app import app
from tff_secagg_ext.ledger import Ledger
from tff_secagg_ext.program import subjects

COMMAND = ['audit', 'implementation']
PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'implementation_audit.md'


def invoke(*args: str) -> Any:
  return CliRunner().invoke(app, [*COMMAND, *args], catch_exceptions=False)


def test_the_flow_of_data_of_ours_has_no_side_channel():
  result = invoke('--factory', 'ours-fixed', '--check', 'side channels')
  assert result.exit_code == 0, result.output
  output = ' '.join(result.output.split())
  assert 'side channels' in output
  assert 'holds' in output


def test_what_was_found_is_recorded_for_a_run(tmp_path: pathlib.Path):
  location = f'sqlite:///{tmp_path / "runs.db"}'
  args = ['--factory=ours-fixed', '--check=side channels', '--run=mine']
  missing = invoke(*args, f'--ledger={location}')
  assert missing.exit_code == 2
  assert 'There is no ledger' in missing.stderr
  with Ledger.open(location) as ledger:
    ledger.open_run('mine', {}, delta=0.1)
  assert invoke(*args, f'--ledger={location}').exit_code == 0
  broken = ['--factory=tfp-skellam', '--check=short noise', '--run=mine']
  assert invoke(*broken, f'--ledger={location}').exit_code == 1
  with Ledger.open(location) as ledger:
    found = [audit.figures for audit in ledger.audits('mine')]
  assert found == [
    {'verdicts': {'ours-fixed': {'side channels': 'holds'}}, 'broken': []},
    {
      'verdicts': {'tfp-skellam': {'short noise': 'broken'}},
      'broken': ['tfp-skellam: short noise'],
    },
  ]


def test_a_successful_attack_is_exit_code_1():
  result = invoke('--factory=tfp-skellam', '--check=short noise', '--json')
  assert result.exit_code == 1
  (row,) = json.loads(result.stdout)
  assert row['verdict'] == 'broken'
  assert row['figures']['measured_ratio'] == pytest.approx(0.71, abs=0.03)
  assert row['false_alarm'] <= audit.FALSE_ALARM
  assert cell('short noise', 'tfp-skellam') == 'broken'


def test_time_stamped_seeds_of_tensorflow_privacy_are_recovered():
  make = subjects.named('tfp-skellam')
  ((_, finding),) = audit.run(make, ['seed recovery'])
  assert finding.verdict is audit.Verdict.BROKEN
  assert cell('seed recovery', 'tfp-skellam') == 'broken'


@pytest.mark.parametrize('name', ['sampler', 'corrupt clients'])
def test_cells_of_the_page_that_hold(name):
  make = subjects.named('tfp-dgauss')
  ((_, finding),) = audit.run(make, [name])
  assert finding.verdict is audit.Verdict.HOLDS
  assert cell(name, 'tfp-dgauss') == 'holds'


def test_an_l1_norm_overflows_in_tensorflow_privacy():
  make = subjects.named('tfp-skellam')
  ((_, finding),) = audit.run(make, ['norm bound'])
  assert finding.verdict is audit.Verdict.BROKEN
  assert finding.figures['longest_l1_over_bound'] == pytest.approx(2, abs=0.01)
  assert finding.figures['longest_l2_over_bound'] <= 1
  assert cell('norm bound', 'tfp-skellam') == 'broken'


def cell(check: str, factory: str) -> str:
  """The verdict that the page's table has."""
  rows = [
    [each.strip() for each in line.strip('|').split('|')]
    for line in PAGE.read_text().splitlines()
    if line.startswith('|')
  ]
  column = next(row for row in rows if factory in row).index(factory)
  row = next(row for row in rows if row[0] == check)
  return re.split('[:;]', row[column])[0]


def plain_mean(noise_multiplier: float, clients: int, bits: int) -> Any:
  """A factory without noise, and without a bound."""
  del noise_multiplier, clients, bits
  return tff.aggregators.UnweightedMeanFactory()


def test_any_factory_can_be_attacked():
  make = subjects.of_factory(
    lambda setting: plain_mean(1.0, setting.clients, setting.bits)
  )
  small = audit.Setting(dimension=62)
  names = ['short noise', 'sampler', 'corrupt clients', 'side channels']
  found = {
    check.name: finding
    for check, finding in audit.run(make, names, settings=small)
  }
  assert found['short noise'].why == 'there is no noise'
  assert found['sampler'].verdict is audit.Verdict.DOES_NOT_APPLY
  assert 'NaN spoils the sum' in found['corrupt clients'].why
  assert found['side channels'].verdict is audit.Verdict.BROKEN


def test_a_subject_sends_and_sums_what_its_factory_does():
  setting = audit.Setting(dimension=6, clients=3)
  make = subjects.of_factory(
    lambda setting: aggregators.ddp_secure_aggregator(
      1e-3, setting.clients, bits=setting.bits, clipping=2.0
    )
  )
  subject = make(setting)
  assert make(setting) is subject
  ones = np.full(6, 0.5, np.float32)
  (sent,) = subject.encode([ones])
  assert sent.shape == (8,)
  total = subject.aggregate([ones, ones])
  np.testing.assert_allclose(total.vector, np.ones(6), atol=0.05)
  assert total.measurements['contributors'] == 2
  assert not total.aborted
  assert subject.facts.clip_norm == 2.0
  assert subject.unnoised == ()


def test_a_factory_that_declines_is_refused():
  make = subjects.named('ours-fixed')
  with pytest.raises(audit.Refused, match='`bits` must be enough'):
    make(audit.Setting(bits=4, dimension=62))


@pytest.mark.parametrize(
  ['name', 'message'],
  [
    ('theirs', "must be one of ours, .* Found 'theirs'"),
    ('math:nothing', "can be imported. Found 'math:nothing'"),
    ('nowhere.at.all:x', 'No module named'),
    ('math:pi', 'Found a float'),
  ],
)
def test_unknown_factories_are_one_line(name, message):
  result = invoke('--factory', name)
  assert result.exit_code == 2
  assert re.search(message, result.stderr)
  assert result.stderr.count('\n') == 1


def test_unknown_checks_are_one_line():
  result = invoke('--check', 'luck')
  assert result.exit_code == 2
  assert "'seed recovery'" in result.stderr


def test_examples_of_the_page():
  blocks = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
  assert blocks
  for block in blocks:
    exec(compile(block, str(PAGE), 'exec'), {})


def test_the_table_of_the_page_is_whole():
  rows = PAGE.read_text().split(audit_page.START)[1].splitlines()
  for check in audit.CHECKS:
    assert any(row.startswith(f'| {check.name} |') for row in rows)
  for name in ('ours', 'ours-fixed'):
    for check in audit.CHECKS:
      assert cell(check.name, name) in ('holds', 'does not apply')


def test_a_table_has_every_verdict_and_its_figures():
  check, finding = audit.CHECKS[0], audit.Finding(audit.Verdict.HOLDS, 'so')
  other = audit.Finding(audit.Verdict.BROKEN, 'not so', {'n': 3, 'x': 0.25})
  table = audit_page.table([('a', check, finding), ('b', check, other)])
  assert '| seed recovery | holds | broken |' in table
  assert '| seed recovery | b | not so | n 3, x 0.25 | 0 |' in table


def test_a_page_without_a_place_is_refused(tmp_path):
  page = tmp_path / 'page.md'
  page.write_text('No table here.')
  with pytest.raises(ValueError, match=r"must have a line '<!-- table -->'"):
    audit_page.main(str(page))
