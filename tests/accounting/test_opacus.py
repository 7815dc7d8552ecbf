# SPDX-License-Identifier: Apache-2.0
"""Histories of Opacus: its own figures, and what is refused."""

from __future__ import annotations

import copy
import json
import math
import pathlib
import types
from typing import Any

import dp_accounting.rdp
import pytest

from tff_secagg_ext import accounting
from tff_secagg_ext.accounting import dp_events

# What Opacus' accountants printed for these histories.
_DATA = json.loads(
  (pathlib.Path(__file__).parent / 'data/opacus_epsilons.json').read_text()
)
_CASES = _DATA['cases']
# Orders of Opacus' RDPAccountant.
_ALPHAS = [1 + x / 10.0 for x in range(1, 100)] + list(range(12, 64))
HISTORY = [(1.1, 0.01, 100), (0.9, 0.02, 50)]


def events(history: Any, **fields: Any) -> Any:
  return accounting.opacus_events(history, vouched_by='the lab', **fields)


def rounds(history: Any) -> list[accounting.Round]:
  none = accounting.NoSampling()
  return [accounting.Round((event,), none) for event in events(history)]


@pytest.mark.parametrize('case', _CASES)
def test_prv_accountant(case: dict[str, Any]) -> None:
  """Opacus tells the upper end of estimate +- eps_error."""
  for view in ('release', 'server'):
    found = accounting.epsilon(rounds(case['history']), case['delta'], view)
    below = case['prv'] - found.value
    assert 0.0 <= below <= 2.0 * _DATA['eps_error']


@pytest.mark.parametrize('case', _CASES)
def test_rdp_accountant(case: dict[str, Any]) -> None:
  """The events, read back, are those that Opacus priced; ours is tighter."""
  accountant = dp_accounting.rdp.RdpAccountant(_ALPHAS)
  for event in events(case['history']):
    accountant.compose(dp_events.build(dp_events.parse(event.event)))
  orders, divergences = accountant.orders, accountant.rdp
  # Their conversion, of [CKS20, Prop. 12] as ours.
  found = min(
    d + math.log1p(-1 / a) - math.log(case['delta'] * a) / (a - 1)
    for a, d in zip(orders, divergences, strict=True)
  )
  # At fractional orders both sum a series, and end it at other terms: Opacus
  # and dp_accounting 0.4.3 sooner than 0.6.0, which is up to 1e-5 above.
  assert found == pytest.approx(case['rdp'], rel=2e-5)
  ours = accounting.release_epsilon(rounds(case['history']), case['delta'])
  assert ours.value < case['rdp']


def test_forms_of_a_history() -> None:
  expected = events(HISTORY)
  assert len(expected) == 2
  assert events(json.loads(json.dumps(HISTORY))) == expected
  assert events({'history': HISTORY, 'mechanism': 'prv'}) == expected
  assert events([]) == ()
  assert expected[0].source == 'opacus'
  assert expected[0].trust_domain == 'central'
  (other,) = events(
    HISTORY[:1], source='x', trust_domain='enclave', by_coordinator=True
  )
  assert (other.source, other.trust_domain) == ('x', 'enclave')
  assert other.by_coordinator


@pytest.mark.parametrize(
  ('item', 'error', 'message'),
  [
    ((1.0, 0.1, 2.5), TypeError, r'\[1\].num_steps. must be an integer. Found'),
    ((1.0, 0.1, 2.0), TypeError, r'\[1\].num_steps. must be an integer. Found'),
    ((1.0, 0.1, -1), ValueError, r'\[1\].num_steps. must be at least 0'),
    ((1.0, 1.1, 1), ValueError, r'\[1\].sample_rate. must be in \[0, 1\]'),
    ((1.0, -0.1, 1), ValueError, r'\[1\].sample_rate. must be in \[0, 1\]'),
    ((1.0, 0.0, 1), ValueError, r'\[1\].sample_rate. must be above 0'),
    ((1.0, math.nan, 1), ValueError, r'\[1\].sample_rate. must be finite'),
    ((math.nan, 0.1, 1), ValueError, r'noise_multiplier. must be finite'),
    ((-1.0, 0.1, 1), ValueError, r'noise_multiplier. must be in \[0, inf\]'),
    ((1.0, 0.1), TypeError, r'\[1\]. must be \(noise_multiplier, sample_rate'),
    ('abc', TypeError, r'\[1\]. must be \(noise_multiplier, sample_rate'),
    (3, TypeError, r'\[1\]. must be \(noise_multiplier, sample_rate'),
  ],
)
def test_bad_items_are_refused_and_named(
  item: Any, error: type[Exception], message: str
) -> None:
  with pytest.raises(error, match=message):
    events([(1.0, 0.1, 1), item])


def test_what_is_no_history_is_refused() -> None:
  with pytest.raises(ValueError, match=r"or have a 'history'.*\['mechanism'\]"):
    events({'mechanism': 'prv'})
  for history in (None, 'x', 3):
    with pytest.raises(TypeError, match='`history` must be a list of'):
      events(history)


def test_steps_without_noise_are_infinite() -> None:
  found = accounting.release_epsilon(rounds([(0.0, 0.1, 1)]), 1e-5)
  assert found.reasons == ('opacus: GaussianDpEvent without noise',)


class Accountant:
  """As Opacus' accountants, as far as a DPOptimizer uses them."""

  def __init__(self) -> None:
    self.history: list[tuple[float, float, int]] = []
    self.steps: list[dict[str, float]] = []

  def step(self, **step: float) -> None:
    self.steps.append(step)

  def get_epsilon(self, delta: float) -> float:
    return 2.0 * delta

  def load_state_dict(self, state_dict: dict[str, Any]) -> None:
    self.history = state_dict['history']

  def __len__(self) -> int:
    return len(self.steps)


def test_an_adapter_records_what_an_optimizer_does() -> None:
  wrapped = Accountant()
  wrapped.history = [(2.0, 0.5, 3)]
  adapter = accounting.EventAdapter(wrapped, vouched_by='the lab')
  hook = adapter.get_optimizer_hook_fn(0.01)
  optimizer = types.SimpleNamespace(
    noise_multiplier=1.1, accumulated_iterations=1
  )
  for _ in range(3):
    hook(optimizer)
  optimizer.accumulated_iterations = 2
  hook(optimizer)
  optimizer.noise_multiplier = 0.9
  hook(optimizer)
  expected = [(2.0, 0.5, 3), (1.1, 0.01, 3), (1.1, 0.02, 1), (0.9, 0.02, 1)]
  assert adapter.events == events(expected)
  assert len(adapter) == 5
  assert wrapped.steps[0] == {'noise_multiplier': 1.1, 'sample_rate': 0.01}
  assert adapter.get_epsilon(delta=0.25) == 0.5
  adapter.load_state_dict({'history': HISTORY})
  assert adapter.events == events(HISTORY)
  assert copy.deepcopy(adapter).events == adapter.events


def test_an_adapter_refuses_before_a_step_is_taken() -> None:
  wrapped = Accountant()
  adapter = accounting.EventAdapter(wrapped, vouched_by='the lab')
  with pytest.raises(
    ValueError, match=r'step.sample_rate. must be in \[0, 1\]'
  ):
    adapter.step(noise_multiplier=1.0, sample_rate=1.5)
  assert (adapter.events, wrapped.steps) == ((), [])
  with pytest.raises(ValueError, match=r'history\[0\].num_steps'):
    adapter.load_state_dict({'history': [(1.0, 0.5, -1)]})
  with pytest.raises(TypeError, match='vouched_by'):
    accounting.EventAdapter(wrapped)
  with pytest.raises(ValueError, match='`trust_domain` must be'):
    accounting.EventAdapter(wrapped, vouched_by='x', trust_domain='y')
