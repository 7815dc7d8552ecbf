# SPDX-License-Identifier: Apache-2.0
"""The demonstration: its runs are processes that share one ledger."""

from tff_secagg_ext.cli import demo
from tff_secagg_ext.ledger import Ledger


def test_runs_are_processes_that_share_a_ledger(tmp_path, monkeypatch, capfd):
  monkeypatch.setattr(demo, '_NOISE_MULTIPLIERS', (1.0, 0.0))
  location = f'sqlite:///{tmp_path}/demo.db'
  assert demo.run(location, rounds=1)
  with Ledger.open(location) as ledger:
    assert sorted(ledger.names()) == ['demo1-z0', 'demo1-z1']
    for name in ledger.names():
      ledger.verify(name)
      assert len(ledger.show(name)['rounds']) == 1
    assert ledger.show('demo1-z0')['release_reasons']
    assert ledger.show('demo1-z1')['release_epsilon'] > 0.0
  out = capfd.readouterr().out
  for name in ('demo1-z1', 'demo1-z0'):
    assert f'{name}: round 1/1' in out
  assert '1 of 1 sums verified' in ' '.join(out.split())
  assert demo._next_number(location) == 2
