# SPDX-License-Identifier: Apache-2.0
"""A learning process that records what each of its rounds spends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import os
from typing import Any

from tff_secagg_ext import accounting, aggregators, execution, report
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext._compat import tff
from tff_secagg_ext.metrics import DpSumThenFinalize
from tff_secagg_ext.program import (
  budgets,
  canary_work,
  opening,
  recorded_next,
  terms,
)
from tff_secagg_ext.program import releases as releases_lib
from tff_secagg_ext.program import waivers as waivers_lib
from tff_secagg_ext.program.account import Account
from tff_secagg_ext.program.canaries import CanaryClients, CanaryError, Riders
from tff_secagg_ext.program.opening import RunDescription
from tff_secagg_ext.program.participants import Participants, Participation
from tff_secagg_ext.program.recorded_next import RecordedNext
from tff_secagg_ext.program.tff_terms import TffAggregation, TffTerms


class PrivacyRecorder(tff.learning.templates.LearningProcess):
  """A `tff.learning.templates.LearningProcess` with its rounds in a ledger.

  ```python
  process = tff.learning.algorithms.build_unweighted_fed_avg(
    model_fn, client_optimizer_fn, model_aggregator=aggregator,
    metrics_aggregator=tff_secagg_ext.no_client_metrics)
  process = tff_secagg_ext.PrivacyRecorder(
    process, aggregator, ledger='runs.db', run='mine',
    sampling=accounting.NoSampling(), delta=1e-5)
  state = process.initialize()
  output = process.next(state, client_data)  # as before
  ```

  Guarantees:

  * `initialize`, `next`, `get_model_weights` and the other computations have
    the types that those of the wrapped process have.
  * A round is charged in the ledger before it runs. Its true cost is on the
    disk before anything of it can be read: in TFF's program contexts, where
    `next` returns references, each reference waits for that.
  * A round that raises, or is interrupted, is charged and recorded as lost. If
    its cost cannot be recorded, nothing of it is returned.
  * Whatever leaves the clients besides the noised sums makes epsilon infinite,
    and is named: it is found in the compiled computation, not in what the
    user says. What is waived does not, and is told with every epsilon.
  * No more is claimed of a cohort than its size supports; `terms.Terms` lists
    the cases.
  * In a secure context (see `tff_secagg_ext.set_secure_context`) the noise of
    those who dropped out, and of those who may collude with the server, is not
    counted, and the ledger has the session's figures. A round of which a
    session ends before any mask is taken off is lost, and costs nothing.

  * An error of TensorFlow's runtime, which may quote data of a client, is
    raised as a `WithheldError` that does not.

  The context that is installed when the recorder is made is the run's: rounds
  run in it or not at all. A round is one call of `next`, also if the caller
  throws its result away.
  """

  def __init__(
    self,
    process: tff.learning.templates.LearningProcess,
    aggregator: (
      aggregators.DdpSecureAggregationFactory
      | DpSumThenFinalize
      | TffAggregation
    ),
    *,
    metrics: DpSumThenFinalize | None = None,
    allow_unaccounted: Sequence[accounting.Waiver] = (),
    ledger: ledger_lib.Ledger | str | os.PathLike[str],
    run: RunDescription | str,
    sampling: accounting.Sampling,
    delta: float,
    budget: accounting.Budget | None = None,
    participation: Participation | None = None,
    canaries: CanaryClients | None = None,
  ):
    """Opens the run, new or with the same settings, and wraps `process`.

    Args:
      process: Any learning process.
      aggregator: The factory that `process` was built with; for an evaluation,
        which has no model updates, its noised metrics. TFF's own factories:
        see `recorded`.
      metrics: The noised metrics that `process` was built with, if it was.
      ledger: An open ledger, or where it is: a path or an SQLAlchemy URL.
      run: The name of the run, or a description of it.
      sampling: What is claimed of how cohorts are chosen. `NoSampling()` is
        always true. `PoissonSampling` and `RandomAllocation` need an aggregator
        for cohorts 'poisson'; the latter is claimed by `program.train` alone,
        and calls of `next` claim nothing.
      delta: At which delta epsilon is told, in (0, 1). A hundredth of it pays
        for Poisson or allocated cohorts out of their bounds. Above one over the
        population it is warned of, in the log.
      allow_unaccounted: Releases without noise that somebody answers for, by
        the names under which the ledger would have them as reasons for an
        infinite epsilon. They are recorded, and told with every epsilon: it is
        true only if they are right.
      budget: What the run, or its named population, must stay within, at this
        delta. A round that would pass it raises `accounting.BudgetExceeded`,
        and is not run.
      participation: How often, and how far apart, any client takes part in the
        run, for the server's epsilon. A round with a client for which it would
        be too many or too soon raises `ParticipationError`, and is not run; so
        does one of which it is not known who takes part (see `of_clients`).
      canaries: Clients that ride in every round, for `audit_canaries`. The
        process must be composed of `program.with_canaries(client_work)`; `next`
        takes the data of the clients alone, as it would without, in a context
        whose results are values. `sampling` and `population` are about clients
        that are no canaries; the aggregator's numbers are about all. Not with
        `participation` or `RandomAllocation`.

    Raises:
      TypeError: If an argument is of the wrong kind.
      ValueError: If `sampling` and `aggregator`, or `process` and `metrics`,
        contradict each other, if a waiver is for nothing, or if the budget
        contradicts what is on record; see `budgets.agree`.
      ledger.LedgerError: If the ledger or the run cannot be opened; see
        `Ledger.open` and `Ledger.open_run`.
    """
    if isinstance(aggregator, DpSumThenFinalize):
      aggregator, metrics = aggregator.aggregator, aggregator
    _check_kinds(process, aggregator, sampling, metrics, participation)
    _check_canaries(process, aggregator, canaries)
    if canaries is not None:
      _check_all_rounds(sampling, participation)
    run = RunDescription(run) if isinstance(run, str) else run
    delta = opening.checked_delta(delta, run.population, budget)
    found = _released(process, aggregator, metrics)
    releases, waivers = waivers_lib.waive(found, allow_unaccounted)
    kind = _kind_of_terms(aggregator)
    failures = kind.failures(sampling, delta)
    agreed = kind(
      aggregator,  # type: ignore[arg-type]
      releases,
      sampling,
      run.population,
      failures,
      execution.installed_options(),
      None if metrics is None else metrics.aggregator,
      waivers,
      0 if canaries is None else canaries.places,
    )
    ledger = opening.ledger_at(ledger)
    scope = budgets.Scope(run.name, run.population_name)
    agreement = budgets.agree(ledger, scope, budget, agreed)
    opened = ledger.open_run(
      run.name,
      opening.settings_of(agreed, run, metrics, agreement),
      delta=delta,
      failure_probability=failures,
      participation=None if participation is None else participation.cap,
    )
    guard = budgets.guard(ledger, opened, agreement)
    participants = Participants.of_run(opened, participation)
    self._account = Account(opened, agreed, guard, participants)
    self._ledger, self._riders = ledger, None
    if canaries is not None:
      self._riders = Riders(opened, process, agreed.aggregator, canaries)
    self._wrap(process)

  def _wrap(self, process: tff.learning.templates.LearningProcess) -> None:
    """Becomes the process, but for its rounds, which are recorded."""
    self._process = process
    super().__init__(
      process.initialize,
      RecordedNext(process.next, self._account, self._riders),
      process.get_model_weights,
      process.set_model_weights,
      get_hparams_fn=process.get_hparams,
      set_hparams_fn=process.set_hparams,
    )

  @property
  def account(self) -> Account:
    """What the rounds are charged with."""
    return self._account

  @property
  def process(self) -> tff.learning.templates.LearningProcess:
    """The wrapped process, of which nothing is recorded."""
    return self._process

  @property
  def canaries(self) -> Riders | None:
    """The canaries that ride in the rounds; `None` without."""
    return self._riders

  def audit_canaries(
    self, confidence: float = 0.95
  ) -> Mapping[str, Mapping[str, Any]]:
    """Returns what the canaries found so far, and records it in the ledger.

    Returns:
      The figures of the audits `one_shot` and `one_run`, by their kind, as JSON
      values; see docs/audit.md. What is on record is not recorded again.

    Raises:
      CanaryError: If the run has no canaries, or no round that was audited.
      ledger.LedgerError: If the figures could not be recorded.
    """
    if self._riders is None:
      raise CanaryError(
        f'Run {self._account.run.name!r} must have canaries to be audited for'
        ' them. Found none. Make the recorder with `canaries`, from the first'
        ' round on.'
      )
    name = self._account.run.name
    found = self._riders.audits(confidence)
    on_record = [(a.kind, dict(a.figures)) for a in self._ledger.audits(name)]
    for kind, figures in found.items():
      if (kind, figures) not in on_record:
        self._ledger.record_audit(name, kind, figures)
    return found

  def plot(self, server_view: bool = False) -> report.Drawing:
    """Returns the run as it is now, drawn; notebooks show it.

    Args:
      server_view: Whether to draw contributors, which are the coordinator's.

    Raises:
      ValueError: If there is no round to draw.
      ImportError: If matplotlib is not installed; names the extra.
    """
    return report.draw(self.facts(server_view))

  def _repr_html_(self) -> str:
    """Returns what notebooks show: the verdict and epsilon, release view."""
    return report.card(self.facts())

  def facts(self, server_view: bool = False) -> report.RunFacts:
    """Returns what reports tell of the run, as it is now.

    Args:
      server_view: Whether to tell what is the coordinator's alone.
    """
    return report.read(self._ledger, self._account.run.name, server_view)

  @contextlib.contextmanager
  def of_clients(self, names: Sequence[object]) -> Iterator[None]:
    """Says who takes part in the rounds of the block.

    A run that claims a cap on participations has to know. A process that takes
    client ids, composed with a dataset computation, tells it by itself.

    Args:
      names: What identifies each client in all rounds of the run, in the order
        of the data: strings, bytes or integers. Kept as keyed hashes alone.
    """
    with recorded_next.of_clients(names):
      yield


def _check_canaries(
  process: tff.learning.templates.LearningProcess,
  aggregator: object,
  canaries: object,
) -> None:
  if not isinstance(canaries, (CanaryClients, type(None))):
    raise TypeError(f'`canaries` must be CanaryClients. Found {canaries!r}.')
  if canaries is not None and isinstance(aggregator, TffAggregation):
    raise ValueError(
      '`canaries` must be None for a factory of TFF. Found'
      f' {canaries}. Use an aggregator of this package.'
    )
  if canaries is None and canary_work.dimension_of(process) is not None:
    raise ValueError(
      '`canaries` must be given for a process that takes them. Found None:'
      ' nobody would count them. Say how many there are.'
    )


def _check_all_rounds(
  sampling: accounting.Sampling, participation: Participation | None
) -> None:
  """Raises `ValueError` where clients take part in some of the rounds."""
  if participation is not None or isinstance(
    sampling, accounting.RandomAllocation
  ):
    raise ValueError(
      '`canaries` must be None where clients take part in a bounded number of'
      f' rounds. Found {participation or sampling}: the epsilon of the ledger'
      ' is that of such clients, and canaries are in all rounds. Use Poisson'
      ' cohorts or fixed ones, without a cap.'
    )


def _kind_of_terms(aggregator: object) -> type[terms.Terms]:
  return TffTerms if isinstance(aggregator, TffAggregation) else terms.Terms


def _released(
  process: tff.learning.templates.LearningProcess,
  aggregator: aggregators.DdpSecureAggregationFactory | TffAggregation,
  metrics: DpSumThenFinalize | None,
) -> releases_lib.Releases:
  """Returns what leaves the clients.

  Raises:
    ValueError: If `metrics` is no part of it, or the process is not that of a
      factory of TFF.
  """
  if isinstance(aggregator, TffAggregation):
    return aggregator.releases(process)
  found = releases_lib.of_process(process, metrics=metrics is not None)
  if metrics is not None and found.metrics_dimension != metrics.dimension:
    raise ValueError(
      '`metrics` must be what the process was built with: a noised sum of'
      f' {metrics.dimension} coordinates. Found {found.metrics_dimension}. Give'
      ' the process and the recorder the same metrics aggregator.'
    )
  return found


def _check_kinds(
  process: object,
  aggregator: object,
  sampling: object,
  metrics: object,
  participation: object,
) -> None:
  for value, name, kinds in (
    (process, 'process', (tff.learning.templates.LearningProcess,)),
    (
      aggregator,
      'aggregator',
      (aggregators.DdpSecureAggregationFactory, TffAggregation),
    ),
    (metrics, 'metrics', (DpSumThenFinalize, type(None))),
    (participation, 'participation', (Participation, type(None))),
    (
      sampling,
      'sampling',
      (
        accounting.NoSampling,
        accounting.PoissonSampling,
        accounting.FixedSizeSampling,
        accounting.RandomAllocation,
      ),
    ),
  ):
    if not isinstance(value, kinds):
      expected = ' or '.join(kind.__name__ for kind in kinds)
      raise TypeError(f'`{name}` must be a {expected}. Found {value!r}.')
