# SPDX-License-Identifier: Apache-2.0
"""Plans: what is calibrated is what is charged, and the error that it makes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tff_secagg_ext import accounting, execution, program
from tff_secagg_ext.mechanism import round as round_lib
from tff_secagg_ext.program import budgets
from tff_secagg_ext.program.releases import Releases
from tff_secagg_ext.program.terms import Terms

DELTA = 1e-4
ELEMENTS = 500
SECURITY = execution.SecureOptions(
  security=execution.Security('malicious', 0.05, 0.2),
  dropouts=execution.Dropouts({'mask': 0.1}),
)


def plan(**changes: Any) -> program.RunPlan:
  return program.RunPlan(
    **{
      'population': 1000,
      'clients_per_round': 100,
      'rounds': 30,
      'delta': DELTA,
      'security': SECURITY,
      **changes,
    }
  )


@pytest.mark.parametrize('cohorts', ['poisson', 'allocated', 'fixed'])
@pytest.mark.parametrize('view', ['release', 'server'])
@pytest.mark.parametrize('security', [SECURITY, None])
def test_what_is_planned_is_what_is_charged(
  cohorts: str, view: str, security: Any
) -> None:
  run = plan(cohorts=cohorts, security=security)
  budget = accounting.Budget(5.0, DELTA, view)
  noise = run.calibrated(budget, ELEMENTS).value
  aggregator = run.aggregator(noise)
  sampling = run.former.sampling
  terms = Terms(
    aggregator,
    Releases(aggregator.padded_dimension(ELEMENTS), ()),
    sampling,
    run.population,
    0.0 if cohorts == 'fixed' else 0.01 * DELTA,
    run.secure,
  )
  charge = run.charge(noise, ELEMENTS)
  for attempt in range(3):
    cohort = run.former.draw(program.Turn(attempt, lambda: bytes(32)))
    assert terms.planned(len(cohort.members), cohort.claim) == charge
  left = DELTA if cohorts == 'fixed' else DELTA * 0.99
  account = accounting.Accountant(left).with_round(charge, run.rounds)
  found = account.release() if view == 'release' else account.server()
  assert 5.0 * (1 - 2e-3) < found.value <= 5.0


@pytest.mark.parametrize(
  ('clients', 'epoch', 'expected'),
  [
    (100, None, (1, 10, 100)),
    (300, None, (1, 3, 333)),
    (300, 20, (6, 20, 300)),
  ],
)
def test_allocations_are_as_near_to_the_cohort_as_epochs_allow(
  clients: int, epoch: int | None, expected: tuple[int, int, int]
) -> None:
  run = plan(cohorts='allocated', clients_per_round=clients, epoch=epoch)
  sampling = run.former.sampling
  assert isinstance(sampling, accounting.RandomAllocation)
  found = (sampling.participations, sampling.rounds, run.expected)
  assert found == expected
  spec = run.aggregator(1.0).spec
  assert spec.expected_clients_per_round == run.expected
  assert spec.max_contributors == run.former.maximum


def test_an_allocation_takes_less_noise_than_coins_do() -> None:
  budget = accounting.Budget(5.0, DELTA)
  noise = {
    cohorts: plan(cohorts=cohorts).calibrated(budget, ELEMENTS).value
    for cohorts in ('poisson', 'allocated')
  }
  assert noise['allocated'] < noise['poisson']
  server = accounting.Budget(5.0, DELTA, 'server')
  for cohorts in noise:
    noise[cohorts] = plan(cohorts=cohorts).calibrated(server, ELEMENTS).value
  assert noise['allocated'] < 0.5 * noise['poisson']


def test_a_shared_budget_takes_more_noise() -> None:
  run = plan()
  alone = run.calibrated(accounting.Budget(5.0, DELTA), ELEMENTS)
  adaptive = accounting.Budget(5.0, DELTA, adaptive=True)
  shared = run.calibrated(adaptive, ELEMENTS, shared=True)
  assert alone.value < shared.value < 1.5 * alone.value
  expected = dataclasses.replace(
    adaptive, failures=budgets.SHARED_FAILURES * DELTA
  )
  empty = expected.filter(run.charge(shared.value, ELEMENTS))
  spent = empty.with_round(run.charge(shared.value, ELEMENTS), run.rounds)
  assert shared.epsilon == spent.epsilon()


def test_the_nearest_is_what_the_bits_have_room_for() -> None:
  run = plan(bits=12)
  with pytest.raises(
    accounting.UnmetTargetError, match='The nearest that can be met'
  ) as caught:
    run.calibrated(accounting.Budget(0.01, DELTA), ELEMENTS)
  nearest = caught.value.nearest
  run.charge(nearest, ELEMENTS)
  with pytest.raises(ValueError, match='`bits` must be enough'):
    run.charge(nearest * 1.001, ELEMENTS)
  met = accounting.Budget(caught.value.epsilon.value, DELTA)
  assert run.calibrated(met, ELEMENTS).value == pytest.approx(nearest, 1e-3)
  with pytest.raises(ValueError, match='`bits` must be enough'):
    plan(bits=4).calibrated(accounting.Budget(1.0, DELTA), ELEMENTS)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'clients_per_round': 1001}, 'the chance to take part would be above 1'),
    ({'rounds': -1}, '`rounds` must be at least 1'),
    ({'delta': 1.0}, r'`delta` must be in \(0, 1\)'),
    ({'population': 0}, '`population` must be at least 1'),
    ({'epoch': 9}, "`epoch` must be None unless `cohorts` is 'allocated'"),
    ({'epoch': 0, 'cohorts': 'allocated'}, '`epoch` must be at least 1'),
    (
      {'cohorts': 'other'},
      "`cohorts` must be 'poisson' or 'allocated' or 'fixed'",
    ),
  ],
)
def test_bad_plans(changes: dict[str, Any], message: str) -> None:
  with pytest.raises(ValueError, match=message):
    plan(**changes)


def test_little_noise_is_warned_of() -> None:
  assert program.warn_of_noise(1.0) is None
  warning = program.warn_of_noise(0.99)
  assert warning is not None
  assert 'below 1' in warning


def _errors(run: program.RunPlan, noise: float) -> Any:
  """Errors of the decoded mean, in clip norms: float64[5 * ELEMENTS]."""
  import tensorflow as tf

  aggregator = run.aggregator(noise)
  dimension = aggregator.padded_dimension(ELEMENTS)
  constants = aggregator.constants(dimension)
  one_round = round_lib.Round(aggregator.spec, [[ELEMENTS]], constants)
  state = one_round.initial_state()
  rng = np.random.default_rng(7)
  errors = []
  for _ in range(5):
    vectors = rng.normal(size=(run.clients_per_round, ELEMENTS))
    vectors *= 0.05 / np.linalg.norm(vectors, axis=1, keepdims=True)
    total = 0
    for vector in vectors.astype(np.float32):
      total += one_round.encode(state, [tf.constant(vector)])
    total = tf.math.floormod(total, constants.modulus)
    # The count is not centred.
    _, (mean,), _ = one_round.decode(state, total)
    errors.append(mean.numpy() - vectors.mean(axis=0))
  return np.concatenate(errors) / 0.1


@pytest.mark.parametrize('cohorts', ['poisson', 'fixed'])
def test_the_error_of_the_mean_is_as_it_says(cohorts: str) -> None:
  """A false alarm is a deviation of more than 5 standard errors, 7 %."""
  run = plan(
    population=60, clients_per_round=20, rounds=1, cohorts=cohorts, delta=1e-2,
    security=None, clipping=0.1,
  )  # fmt: skip
  measured = float(np.std(_errors(run, 1.0)))
  expected = run.mean_error(1.0, ELEMENTS)
  assert measured == pytest.approx(expected, rel=0.07)
  assert measured != pytest.approx(0.9 * expected, rel=0.03)


def test_the_error_of_rounding_alone_is_bounded() -> None:
  """Its variance is 1/4 at most, and 1/6 where fractions are uniform."""
  run = plan(
    population=60, clients_per_round=20, rounds=1, cohorts='fixed', bits=14,
    security=None, clipping=0.1,
  )  # fmt: skip
  measured = float(np.std(_errors(run, 0.0)))
  expected = run.mean_error(0.0, ELEMENTS)
  assert 0.75 * expected < measured < expected
