# SPDX-License-Identifier: Apache-2.0
"""One training run: from options to a recorded, resumable run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import pathlib
from typing import Any

from rich.console import Console

from tff_secagg_ext import accounting
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.cli import progress

# How often held-out data are evaluated.
_EVALUATIONS = 12
# One attempt in so many may be lost without costing the run its amplification.
_SPARE = 10


class InputError(Exception):
  """Options that cannot be used; the message says what would do."""


@dataclasses.dataclass(frozen=True)
class Sums:
  """How vectors are summed.

  Attributes:
    protocol: 'secagg' or 'plain'.
    threat: The threat class of the protocol.
    corrupt: The largest fraction of a cohort that colludes with the server.
    dropout: The largest fraction of a cohort that drops out.
    simulate_dropouts: With which probability a client is made to drop out,
      after its work and before its vector arrives.
    transcripts: A folder for the transcripts of the sessions; `None` for none.
  """

  protocol: str = 'secagg'
  threat: str = 'malicious'
  corrupt: float = 0.05
  dropout: float = 0.2
  simulate_dropouts: float = 0.0
  transcripts: str | None = None


@dataclasses.dataclass(frozen=True)
class Options:
  """What `tff-secagg train` is asked for; `None` is the task's own setting."""

  task: str
  noise_multiplier: float
  run: str
  ledger: str
  checkpoints: str
  rounds: int | None = None
  clients_per_round: int | None = None
  bits: int = 20
  mechanism: str = 'distributed_dgauss'
  cohorts: str = 'poisson'
  delta: float | None = None
  sums: Sums = dataclasses.field(default_factory=lambda: Sums())


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a run stands.

  Attributes:
    run: Its name.
    noise_multiplier: As asked for.
    rounds: Committed rounds.
    utility: Figures on held-out data, by name.
    release: Epsilon of who sees the releases.
    server: Epsilon of the coordinator.
    delta: The delta of both.
    sampling: What the release view's epsilon assumes of the cohorts.
    secure_sums: How vectors were summed, as the ledger tells it.
    entries: All of the run, oldest first.
    interrupted: Whether rounds remain.
  """

  run: str
  noise_multiplier: float
  rounds: int
  utility: dict[str, float]
  release: accounting.Epsilon
  server: accounting.Epsilon
  delta: float
  sampling: accounting.Sampling
  secure_sums: Any
  entries: Sequence[ledger_lib.Entry]
  interrupted: bool


def train(options: Options, console: Console | None = None) -> Outcome:
  """Trains, or goes on training, the run that `options` describe.

  Raises:
    InputError: If the options cannot be used.
    LedgerError: If the ledger cannot; no round is lost by it.
  """
  from tff_secagg_ext import execution, program

  setup = _set_up(options)
  rounds = setup.plan.rounds

  with (
    _installed(setup.secure),
    progress.reporting(console or Console(), options.run, rounds) as report,
  ):

    def on_round(record: program.RoundRecord) -> None:
      number = record.entry.attempt.round
      every = max(1, rounds // _EVALUATIONS)
      if number % every == 0 or number == rounds:
        report.utility = setup.evaluate(record.state)
      report(record.entry)

    try:
      result = program.train(
        setup.recorder, setup.client_data, setup.plan, on_round=on_round
      )
    except (program.CheckpointError, execution.RoundAborted) as error:
      raise InputError(str(error)) from error
  return _outcome(options, setup, result)


@dataclasses.dataclass(frozen=True)
class _Setup:
  recorder: Any
  plan: Any
  secure: Any
  client_data: Callable[[Sequence[int]], Sequence[Any]]
  evaluate: Callable[[Any], dict[str, float]]


def _outcome(options: Options, setup: _Setup, result: Any) -> Outcome:
  run = setup.recorder.account.run
  nothing = accounting.Epsilon(0.0, ())
  return Outcome(
    run=options.run,
    noise_multiplier=options.noise_multiplier,
    rounds=result.rounds,
    utility=setup.evaluate(result.state),
    release=run.entries[-1].release if run.entries else nothing,
    server=run.entries[-1].server if run.entries else nothing,
    delta=run.delta,
    sampling=setup.plan.cohorts.sampling,
    secure_sums=setup.secure.settings,
    entries=run.entries,
    interrupted=result.interrupted,
  )


def _set_up(options: Options) -> _Setup:
  """Builds all that a run needs; refuses what it cannot use."""
  from tff_secagg_ext import program, tasks

  try:
    task = tasks.load(options.task)
    training = _resolved(options, task.training)
    cohorts = _cohorts(options.cohorts, len(task.clients), training)
    secure = _secure(options.sums, cohorts)
    aggregator = _aggregator(options, training, cohorts, secure)
    with _installed(secure):
      recorder = _recorder(options, task, training, aggregator, cohorts)
    plan = program.TrainingPlan(
      training.rounds, cohorts, pathlib.Path(options.checkpoints) / options.run
    )
  except (ValueError, TypeError, tasks.TaskDataError) as error:
    raise InputError(str(error)) from error
  return _Setup(
    recorder,
    plan,
    secure,
    lambda members: [task.client_data(task.clients[i]) for i in members],
    lambda state: task.evaluate(recorder.get_model_weights(state)),
  )


@contextlib.contextmanager
def _installed(secure: Any) -> Iterator[None]:
  """Runs the secure sums of the block as `secure` says."""
  from tff_secagg_ext import execution
  from tff_secagg_ext._compat import tff

  context = execution.create_secure_context(secure)
  with tff.framework.get_context_stack().install(context):
    yield


def _resolved(options: Options, defaults: Any) -> Any:
  """The task's settings with what the options change."""
  given = {
    name: getattr(options, name)
    for name in ('rounds', 'clients_per_round', 'delta')
    if getattr(options, name) is not None
  }
  return dataclasses.replace(defaults, **given)


def _cohorts(kind: str, population: int, training: Any) -> Any:
  from tff_secagg_ext import _validate, program

  if _validate.check_choice(kind, 'cohorts', ('poisson', 'fixed')) == 'fixed':
    return program.FixedCohorts(population, training.clients_per_round)
  return program.PoissonCohorts.for_run(
    population,
    training.clients_per_round,
    rounds=training.rounds + -(-training.rounds // _SPARE),
    delta=training.delta,
  )


def _secure(sums: Sums, cohorts: Any) -> Any:
  """The options of the secure context: no sum of fewer than must be left."""
  from tff_secagg_ext import _validate, execution

  _validate.check_float(
    sums.simulate_dropouts, 'simulate_dropouts', minimum=0.0, maximum=1.0
  )
  options = execution.SecureOptions(
    security=execution.Security(sums.threat, sums.corrupt, sums.dropout),
    dropouts=execution.Dropouts({'mask': sums.simulate_dropouts}),
    insecure_aggregates='forbid',
    transcripts=sums.transcripts,
    protocol=sums.protocol,
  )
  left = cohorts.minimum - options.lost(cohorts.minimum)
  return dataclasses.replace(options, min_contributors=left)


def _aggregator(
  options: Options, training: Any, cohorts: Any, secure: Any
) -> Any:
  """The aggregator: noise for the fewest that must be left, less colluders."""
  from tff_secagg_ext import aggregators

  poisson = options.cohorts == 'poisson'
  return aggregators.ddp_secure_aggregator(
    options.noise_multiplier,
    training.clients_per_round,
    options.bits,
    mechanism=options.mechanism,
    clipping=training.clip_norm or aggregators.DEFAULT_CLIPPING,
    cohorts=options.cohorts,
    min_contributors=secure.min_contributors,
    max_contributors=cohorts.maximum if poisson else None,
    max_colluders=secure.colluders(cohorts.maximum),
  )


def _recorder(
  options: Options, task: Any, training: Any, aggregator: Any, cohorts: Any
) -> Any:
  from tff_secagg_ext import metrics, program

  return program.PrivacyRecorder(
    task.build_process(
      aggregator, metrics.no_client_metrics, options.noise_multiplier
    ),
    aggregator,
    ledger=options.ledger,
    run=program.RunDescription(
      options.run,
      population=len(task.clients),
      unit_of_privacy=task.unit_of_privacy,
      notes={'task': task.name, 'training': dataclasses.asdict(training)},
    ),
    sampling=cohorts.sampling,
    delta=training.delta,
  )
