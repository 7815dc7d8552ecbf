# SPDX-License-Identifier: Apache-2.0
"""External events: exact records, exact prices, and infinity by name."""

from __future__ import annotations

from collections.abc import Iterable
import json
import math
import re
from typing import Any

from dp_accounting import dp_event
import dp_accounting.pld
import dp_accounting.rdp
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from tests.oracles import accounting as oracle
from tff_secagg_ext import accounting
from tff_secagg_ext.accounting import costs, dp_events, external_costs, renyi

DELTA = 1e-5
NONE = accounting.NoSampling()
GAUSSIAN = dp_event.GaussianDpEvent(2.0)
DP_SGD = dp_event.SelfComposedDpEvent(
  dp_event.PoissonSampledDpEvent(0.01, dp_event.GaussianDpEvent(1.0)), 1000
)
FEDERATED = accounting.NoisedSumEvent(
  'distributed_dgauss', 1000.0, 100.0, 100, 1024
)


def external(event: Any, **fields: Any) -> accounting.ExternalEvent:
  fields = {
    'trust_domain': 'central',
    'vouched_by': 'the lab',
    'source': 'opacus',
    **fields,
  }
  return accounting.ExternalEvent.of(event, **fields)


def one(event: Any, **fields: Any) -> accounting.Round:
  return accounting.Round((external(event, **fields),), NONE)


def both(
  *rounds: accounting.Round, delta: float = DELTA
) -> tuple[accounting.Epsilon, accounting.Epsilon]:
  return (
    accounting.release_epsilon(rounds, delta),
    accounting.server_epsilon(rounds, delta),
  )


def pld_of(*events: Any) -> float:
  """dp_accounting's own epsilon."""
  accountant = dp_accounting.pld.PLDAccountant()
  for event in events:
    accountant.compose(event)
  return float(accountant.get_epsilon(DELTA))


_floats = st.floats(0.0, 1e9)
_leaves = st.one_of(
  st.just(dp_event.NoOpDpEvent()),
  st.just(dp_event.NonPrivateDpEvent()),
  st.just(dp_event.UnsupportedDpEvent()),
  st.builds(dp_event.GaussianDpEvent, _floats),
  st.builds(dp_event.LaplaceDpEvent, _floats),
  st.builds(
    dp_event.SingleEpochTreeAggregationDpEvent,
    _floats,
    st.lists(st.integers(1, 99), min_size=1),
  ),
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
  return st.one_of(
    st.builds(dp_event.SelfComposedDpEvent, inner, st.integers(0, 2**63 - 1)),
    st.builds(dp_event.ComposedDpEvent, st.lists(inner, max_size=3)),
    st.builds(dp_event.PoissonSampledDpEvent, st.floats(0.0, 1.0), inner),
    st.builds(
      dp_event.SampledWithoutReplacementDpEvent,
      st.just(9),
      st.integers(1, 9),
      inner,
    ),
    st.builds(
      dp_event.RepeatAndSelectDpEvent,
      inner,
      st.floats(1.0, 9.0),
      st.floats(0.0),
    ),
  )


_events = st.recursive(_leaves, _nested, max_leaves=5)


@hypothesis.given(_events, st.sampled_from(['federated', 'central', 'enclave']))
def test_round_trip_is_exact_and_canonical(event: Any, domain: str) -> None:
  value = external(event, trust_domain=domain)
  assert dp_events.build(dp_events.parse(value.event)) == event
  text = accounting.to_json(value)
  read = accounting.from_json(text)
  assert read == value
  assert accounting.to_json(read) == text


def test_the_format() -> None:
  value = external(DP_SGD, by_coordinator=True)
  assert json.loads(accounting.to_json(value)) == {
    'kind': 'external',
    'version': 3,
    'event': '{"class":"SelfComposedDpEvent","count":1000,"event":{"class":'
    '"PoissonSampledDpEvent","event":{"class":"GaussianDpEvent",'
    '"noise_multiplier":1.0},"sampling_probability":0.01}}',
    'trust_domain': 'central',
    'vouched_by': 'the lab',
    'source': 'opacus',
    'by_coordinator': True,
  }
  spaced = ' { "noise_multiplier": 2, "class": "GaussianDpEvent" }'
  assert dp_events.canonical(spaced) == external(GAUSSIAN).event


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{', 'must be the JSON of an event. Found'),
    ('[' * 100_000, 'must be the JSON of an event. Found'),
    ('[]', 'must have the name of a DpEvent as its'),
    ('{"class":"os.system"}', 'must have the name of a DpEvent as its'),
    ('{"class":"GaussianDpEvent"}', "must have the fields .'noise_multiplier'"),
    (
      '{"class":"NoOpDpEvent","class":"NoOpDpEvent"}',
      'An event must have each field once. Found',
    ),
    (
      '{"class":"GaussianDpEvent","noise_multiplier":NaN}',
      'Numbers of an event must be finite. Found NaN',
    ),
    (
      '{"class":"GaussianDpEvent","noise_multiplier":-1.0}',
      r'`noise_multiplier` must be in \[0, inf\]. Found -1.0',
    ),
    (
      '{"class":"PoissonSampledDpEvent","sampling_probability":1.5,'
      '"event":{"class":"NoOpDpEvent"}}',
      r'`sampling_probability` must be in \[0, 1\]. Found 1.5',
    ),
    (
      '{"class":"SelfComposedDpEvent","count":-1,"event":'
      '{"class":"NoOpDpEvent"}}',
      '`count` must be at least 0. Found -1',
    ),
    (
      '{"class":"SelfComposedDpEvent","count":9223372036854775808,"event":'
      '{"class":"NoOpDpEvent"}}',
      '`count` must be at most 9223372036854775807. Found',
    ),
    (
      '{"class":"SampledWithoutReplacementDpEvent","sample_size":3,'
      '"source_dataset_size":2,"event":{"class":"NoOpDpEvent"}}',
      '`sample_size` must be at most 2. Found 3',
    ),
    ('{"class":"MineDpEvent","event":{"a":1}}', 'must have the name of a'),
    (
      '{"class":"MineDpEvent","a":' + '[' * 60 + ']' * 60 + '}',
      'must be nested at most 50 deep',
    ),
  ],
)
def test_what_is_no_event_is_refused(text: str, message: str) -> None:
  with pytest.raises(ValueError, match=message):
    accounting.ExternalEvent(text, 'central', 'me', 'mine')


@pytest.mark.parametrize(
  ('event', 'message'),
  [
    (dp_event.SelfComposedDpEvent(GAUSSIAN, 2.5), '`count` must be an integer'),
    (dp_event.SelfComposedDpEvent(3, 2), '`event` must be an event. Found 3'),
    (dp_event.ComposedDpEvent(GAUSSIAN), '`events` must be a list of events'),
    (dp_event.ComposedDpEvent([1]), '`events` must be an event. Found 1'),
    (dp_event.GaussianDpEvent('1'), '`noise_multiplier` must be a real number'),
    (dp_event.GaussianDpEvent(math.nan), 'Found nan, which cannot be recorded'),
    (dp_event.GaussianDpEvent(print), 'which cannot be recorded'),
  ],
)
def test_what_cannot_be_recorded_is_refused(event: Any, message: str) -> None:
  with pytest.raises(TypeError, match=message):
    external(event)


def test_other_arguments_are_refused() -> None:
  with pytest.raises(TypeError, match='must be a JSON text'):
    accounting.ExternalEvent(GAUSSIAN, 'central', 'me', 'mine')
  with pytest.raises(ValueError, match="`trust_domain` must be 'federated' or"):
    external(GAUSSIAN, trust_domain='local')
  with pytest.raises(ValueError, match='`vouched_by` must not be empty'):
    external(GAUSSIAN, vouched_by=' ')
  with pytest.raises(TypeError, match='`source` must be a string'):
    external(GAUSSIAN, source=None)
  with pytest.raises(TypeError, match='`by_coordinator` must be True or False'):
    external(GAUSSIAN, by_coordinator=1)


def test_it_is_a_round_of_its_own_and_not_under_substitution() -> None:
  event = external(GAUSSIAN)
  for events, sampling in (
    ((event, FEDERATED), NONE),
    ((event,), accounting.PoissonSampling(0.1)),
    ((event,), accounting.NoSampling('substitution')),
  ):
    with pytest.raises(ValueError, match='must be a round of its own'):
      accounting.Round(events, sampling)
  round_ = accounting.Round((event,), NONE)
  assert round_.external == event
  assert accounting.Round((FEDERATED,), NONE).external is None
  account = accounting.Accountant(DELTA).with_round(round_)
  substituted = accounting.NoSampling('substitution')
  with pytest.raises(ValueError, match='Two relations do not compose'):
    account.with_round(accounting.Round((FEDERATED,), substituted))


@pytest.mark.parametrize(
  ('event', 'reason'),
  [
    (dp_event.NonPrivateDpEvent(), 'NonPrivateDpEvent has no finite Renyi'),
    (dp_event.UnsupportedDpEvent(), 'UnsupportedDpEvent cannot be priced'),
    (dp_event.GaussianDpEvent(0.0), 'GaussianDpEvent without noise'),
    (dp_event.GaussianDpEvent(1e-200), 'GaussianDpEvent without noise'),
    (
      dp_event.SelfComposedDpEvent(
        dp_event.SelfComposedDpEvent(GAUSSIAN, 2**62), 2**62
      ),
      'GaussianDpEvent (more than 1e.30 times|without noise)',
    ),
    (dp_event.LaplaceDpEvent(0.0), 'LaplaceDpEvent cannot be priced'),
    (
      dp_event.SampledWithReplacementDpEvent(100, 10, GAUSSIAN),
      'SampledWithReplacementDpEvent cannot be priced',
    ),
    (
      dp_event.SingleEpochTreeAggregationDpEvent(-1.0, 4),
      'SingleEpochTreeAggregationDpEvent cannot be priced .noise_multiplier',
    ),
  ],
)
def test_what_nobody_can_price_is_infinite_by_name(
  event: Any, reason: str
) -> None:
  nested = dp_event.ComposedDpEvent(
    [GAUSSIAN, dp_event.PoissonSampledDpEvent(0.1, event)]
  )
  for found in (*both(one(event)), *both(one(nested), one(GAUSSIAN))):
    assert math.isinf(found.value)
    assert len(found.reasons) == 1
    assert found.reasons[0].startswith('opacus: ')
    assert re.search(reason, found.reasons[0])


def test_a_class_that_nobody_knows_is_infinite_by_name() -> None:
  text = '{"class":"QuantumDpEvent","noise_multiplier":-1.0}'
  event = accounting.ExternalEvent(text, 'central', 'me', 'mine')
  found = both(accounting.Round((event,), NONE))
  assert [e.reasons for e in found] == 2 * [
    (
      'mine: QuantumDpEvent cannot be priced (dp_accounting has no'
      ' QuantumDpEvent)',
    )
  ]
  # Names that dp_accounting's module has, and that are no event classes.
  with pytest.raises(LookupError, match='has no attr'):
    dp_events.build({'class': 'attr'})


def sampled(rate: float, event: Any) -> Any:
  return dp_event.PoissonSampledDpEvent(rate, event)


@pytest.mark.parametrize(
  ('event', 'simple'),
  [
    (GAUSSIAN, GAUSSIAN),
    (DP_SGD, DP_SGD),
    (
      dp_event.ComposedDpEvent([DP_SGD, GAUSSIAN, dp_event.NoOpDpEvent()]),
      dp_event.ComposedDpEvent([DP_SGD, GAUSSIAN]),
    ),
    # All that sees one sample is amplified together.
    (
      sampled(0.2, dp_event.SelfComposedDpEvent(GAUSSIAN, 4)),
      sampled(0.2, dp_event.GaussianDpEvent(1.0)),
    ),
    (
      dp_event.SelfComposedDpEvent(
        sampled(0.3, dp_event.ComposedDpEvent([GAUSSIAN] * 2)), 10
      ),
      dp_event.SelfComposedDpEvent(
        sampled(0.3, dp_event.GaussianDpEvent(2.0**0.5)), 10
      ),
    ),
  ],
)
def test_gaussians_cost_what_dp_accounting_says(
  event: Any, simple: Any
) -> None:
  release, server = both(one(event))
  assert release.value == pytest.approx(pld_of(simple), rel=1e-3)
  assert server == release


def test_what_never_happens_costs_nothing() -> None:
  for event in (
    dp_event.NoOpDpEvent(),
    dp_event.SelfComposedDpEvent(dp_event.NonPrivateDpEvent(), 0),
    dp_event.PoissonSampledDpEvent(0.0, dp_event.NonPrivateDpEvent()),
    dp_event.ComposedDpEvent([]),
  ):
    assert both(one(event)) == (accounting.Epsilon(0.0),) * 2


@pytest.mark.parametrize('sampling', [NONE, accounting.PoissonSampling(0.1)])
def test_a_federated_run_and_opacus_compose(
  sampling: accounting.Sampling,
) -> None:
  """Against dp_accounting, and against the naive oracle's convolution."""
  rounds = [accounting.Round((FEDERATED,), sampling)] * 20 + [one(DP_SGD)]
  release, server = both(*rounds)
  cost = costs.event_cost(FEDERATED, 'release', 'zero_out')
  federated = dp_event.GaussianDpEvent(cost.squared_ratio**-0.5)
  server_side = dp_event.SelfComposedDpEvent(federated, 20)
  release_side = dp_event.SelfComposedDpEvent(
    dp_event.PoissonSampledDpEvent(sampling.rate, federated), 20
  )
  assert release.accountant == server.accountant == 'pld'
  assert release.value == pytest.approx(pld_of(release_side, DP_SGD), rel=1e-3)
  assert server.value == pytest.approx(pld_of(server_side, DP_SGD), rel=1e-3)


def test_composition_is_between_the_bounds_of_a_naive_convolution() -> None:
  federated = accounting.Round((FEDERATED,), accounting.PoissonSampling(0.1))
  steps = dp_event.SelfComposedDpEvent(sampled(0.02, GAUSSIAN), 40)
  release, server = both(*[federated] * 10, one(steps))
  m = costs.event_cost(FEDERATED, 'release', 'zero_out').squared_ratio ** 0.5
  for found, q in ((release, 0.1), (server, 1.0)):
    parts = [(m, q, 10), (0.5, 0.02, 40)]
    lower, upper = (
      oracle.sampled_gaussians_epsilon(parts, DELTA, up) for up in (False, True)
    )
    assert lower <= found.value <= upper * 1.001


def test_a_cap_on_participations_drops_no_external_event() -> None:
  rounds = [accounting.Round((FEDERATED,), NONE)] * 20 + [one(DP_SGD)]
  alone = accounting.server_epsilon([one(DP_SGD)], DELTA)
  capped = accounting.server_epsilon(rounds, DELTA, 0)
  assert capped.value == pytest.approx(alone.value, rel=1e-3)
  three = accounting.server_epsilon(rounds, DELTA, 3)
  same = accounting.server_epsilon(rounds[-4:], DELTA)
  assert three == same
  only = [one(GAUSSIAN)]
  assert accounting.server_epsilon(only, DELTA, 0) == both(*only)[1]


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_one_by_one_or_at_once_is_the_same(order: list[int]) -> None:
  known = [
    accounting.Round((FEDERATED,), accounting.PoissonSampling(0.1)),
    one(dp_event.ComposedDpEvent([DP_SGD, GAUSSIAN])),
    one(DP_SGD),
    accounting.Round((FEDERATED,), NONE),
  ]
  rounds = [known[index] for index in order]
  account = accounting.Accountant(DELTA)
  for each in rounds:
    account = account.with_round(each)
    account.release(), account.server()
  assert (account.release(), account.server()) == both(*rounds)
  repeated = accounting.Accountant(DELTA).with_round(known[1], 3)
  assert repeated.release() == both(*[known[1]] * 3)[0]


def test_composing_more_never_costs_less() -> None:
  first, second, third = one(DP_SGD), one(GAUSSIAN), one(DP_SGD)
  values = [
    both(*rounds)[0].value
    for rounds in ([first], [first, second], [first, second, third])
  ]
  assert values == sorted(values)
  assert values[2] < sum(both(r)[0].value for r in (first, second, third))


def test_other_noises_are_priced_in_renyi_divergences() -> None:
  laplace = dp_event.SelfComposedDpEvent(dp_event.LaplaceDpEvent(4.0), 5)
  tree = dp_event.SingleEpochTreeAggregationDpEvent(3.0, [10, 20])
  accountant = dp_accounting.rdp.RdpAccountant(
    renyi.ORDERS[:511],
    dp_accounting.NeighboringRelation.REPLACE_SPECIAL,
  )
  accountant.compose(laplace).compose(tree)
  theirs = float(accountant.get_epsilon(DELTA))
  found = both(one(laplace), one(tree))
  assert [e.accountant for e in found] == ['renyi', 'renyi']
  assert [e.value for e in found] == pytest.approx([theirs, theirs], rel=1e-6)
  # Sampling of what is not Gaussian is not claimed, and does not hurt.
  assert both(one(sampled(0.1, laplace))) == both(one(laplace))
  mixed = both(one(laplace), one(DP_SGD))[0]
  assert mixed.accountant == 'renyi'
  least = max(both(one(laplace))[0].value, both(one(DP_SGD))[0].value)
  assert least < mixed.value


_REST = (33 / 34, 0.0)
_FIXED = ([_REST, (1 / 34, 1.0)], [_REST, (1 / 34, 0.5)])
_FIXED_REVERSED = ([_REST, (1 / 34, 0.5)], [(1.0, 0.0)])


def test_samples_of_fixed_size_are_those_of_theorem_2() -> None:
  event = dp_event.SampledWithoutReplacementDpEvent(34, 1, GAUSSIAN)
  (part,) = external_costs.parts(external(event), 'release')
  assert part.profile is not None
  at = np.array([0.1, 0.5])
  for reverse in (False, True):
    found = part.profile.excess(at, reverse)
    pair = _FIXED_REVERSED if reverse else _FIXED
    expected = [oracle.mixture_divergence(*pair, math.exp(e)) for e in at]
    assert found == pytest.approx(expected, rel=1e-6)
  fixed = accounting.FixedSizeSampling(1, 34)
  federated = [accounting.Round((FEDERATED,), fixed)] * 10
  assert both(*federated, one(event))[0].value > both(*federated)[0].value


@pytest.mark.parametrize(
  ('domain', 'reason'),
  [
    ('federated', 'opacus: its coordinator, this one, saw who took part'),
    ('central', 'opacus: its curator, the coordinator, saw the data'),
    ('enclave', None),
  ],
)
def test_what_the_coordinator_saw_is_not_private_from_it(
  domain: str, reason: str | None
) -> None:
  elsewhere = both(one(DP_SGD, trust_domain=domain))
  assert elsewhere[0] == elsewhere[1]
  release, server = both(one(DP_SGD, trust_domain=domain, by_coordinator=True))
  assert release == elsewhere[0]
  if reason is None:
    assert server == release
  else:
    assert server == accounting.Epsilon(math.inf, (reason,))
    limited = accounting.Accountant(DELTA).with_round(
      one(DP_SGD, trust_domain=domain, by_coordinator=True)
    )
    assert limited.server(0).reasons == (reason,)


def _spent(budget: accounting.Budget, rounds: Iterable[accounting.Round]):
  spent = budget.filter(
    accounting.Round((FEDERATED,), accounting.PoissonSampling(0.1))
  )
  for each in rounds:
    spent = spent.with_round(each)
  return spent.epsilon()


def test_filters_count_external_events() -> None:
  laplace = one(dp_event.LaplaceDpEvent(4.0))
  plain = accounting.Budget(5.0, DELTA)
  assert _spent(plain, [one(DP_SGD)]) == both(one(DP_SGD))[0]
  adaptive = accounting.Budget(5.0, DELTA, adaptive=True)
  least = both(one(DP_SGD))[0].value
  assert least < _spent(adaptive, [one(DP_SGD)]).value < 2.0 * least
  assert 0.25 < _spent(adaptive, [laplace]).value < math.inf
  gaussian = accounting.Budget(5.0, DELTA, view='server', adaptive=True)
  # No sampling in a Gaussian filter: 1000 steps count in full.
  assert _spent(gaussian, [one(DP_SGD)]).value > 500.0
  assert _spent(gaussian, [laplace]).reasons == (
    'noise that no Gaussian dominates, in a Gaussian filter',
  )


def test_renyi_is_asked_where_distributions_are_given_up() -> None:
  """Rounding errors leave nothing of such a delta; without sampling: 1100."""
  found = both(one(DP_SGD), delta=1e-18)[0]
  assert found.accountant == 'renyi'
  assert found.value < 20.0
