# SPDX-License-Identifier: Apache-2.0
"""One training run: from options to a recorded, resumable run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tff_secagg_ext import accounting
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.cli import progress, records

if TYPE_CHECKING:
  from tff_secagg_ext import execution, program, tasks

# How often held-out data are evaluated.
_EVALUATIONS = 12


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
  """What `tff-secagg train` is asked for; `None` is the task's own setting.

  With a target epsilon the noise multiplier is the least that meets it, and the
  one that is given is not used.
  """

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
  target_epsilon: float | None = None
  target_view: str = 'release'
  epoch: int | None = None
  canaries: int = 0
  coin_canaries: int = 0

  @property
  def has_canaries(self) -> bool:
    """Whether there are canaries."""
    return bool(self.canaries or self.coin_canaries)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a run stands.

  Attributes:
    run: Its name.
    noise_multiplier: As asked for, or as calibrated.
    rounds: Committed rounds.
    utility: Figures on held-out data, by name.
    release: Epsilon of who sees the releases.
    server: Epsilon of the coordinator.
    delta: The delta of both.
    sampling: What the release view's epsilon assumes of the cohorts.
    secure_sums: How vectors were summed, as the ledger tells it.
    sessions: How the vectors of each committed round were summed, in figures.
    lost: How many attempts gave no sum.
    interrupted: Whether rounds remain that the budget affords.
    stopped: Why the budget ended it before its last round, else `None`.
    audits: What its canaries found, by the kind of the audit.
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
  sessions: Sequence[ledger_lib.Protocol]
  lost: int
  interrupted: bool
  stopped: str | None = None
  audits: Mapping[str, Mapping[str, Any]] = dataclasses.field(
    default_factory=dict
  )


def train(options: Options, console: Console | None = None) -> Outcome:
  """Trains, or goes on training, the run that `options` describe.

  Raises:
    InputError: If the options cannot be used.
    LedgerError: If the ledger cannot; no round is lost by it.
  """
  setup = set_up(options)
  rounds = setup.plan.rounds
  console = console or Console()
  _tell(options, setup, console)

  with progress.reporting(console, options.run, rounds) as report:

    def on_round(record: program.RoundRecord) -> None:
      number = record.entry.attempt.round
      every = max(1, rounds // _EVALUATIONS)
      if number % every == 0 or number == rounds:
        report.utility = setup.evaluate(record.state)
      report(record.entry)

    result = run_rounds(setup, setup.client_data, on_round)
  outcome = _outcome(options, setup, result)
  records.utility(options.ledger, outcome.run, outcome.rounds, outcome.utility)
  return outcome


def run_rounds(
  setup: Setup,
  client_data: Callable[[Sequence[int]], Sequence[Any]],
  on_round: Callable[[program.RoundRecord], None] | None = None,
) -> program.TrainingResult:
  """Runs the rounds of a run, in its secure context; see `program.train`.

  Raises:
    InputError: If they cannot be run.
    LedgerError: If the ledger cannot; no round is lost by it.
  """
  from tff_secagg_ext import execution, program

  try:
    with installed(setup.secure):
      return program.train(
        setup.recorder, client_data, setup.plan, on_round=on_round
      )
  except (
    program.CanaryError,
    program.CheckpointError,
    program.RunKeyError,
    execution.RoundAborted,
    program.WithheldError,
  ) as error:
    raise InputError(str(error)) from error


def _tell(options: Options, setup: Setup, console: Console) -> None:
  """Says which noise a target takes, and what is wrong with it."""
  from tff_secagg_ext import program

  if options.target_epsilon is None:
    return
  console.print(
    f'{options.run}: noise multiplier {setup.noise_multiplier:.4g} meets'
    f' ε = {options.target_epsilon:g} ({options.target_view} view) after'
    f' {setup.plan.rounds} rounds.',
    highlight=False,
  )
  warning = program.warn_of_noise(setup.noise_multiplier)
  if warning:
    console.print(f'Warning: {warning}', highlight=False)


@dataclasses.dataclass(frozen=True)
class Setup:
  """All that a run needs.

  Attributes:
    recorder: Its process, with its ledger.
    plan: What to train.
    secure: The secure context.
    noise_multiplier: As asked for, or as calibrated.
    client_data: The data of the clients of some indices.
    evaluate: Figures on held-out data, by name, from a state of the process.
  """

  recorder: Any
  plan: Any
  secure: Any
  noise_multiplier: float
  client_data: Callable[[Sequence[int]], Sequence[Any]]
  evaluate: Callable[[Any], dict[str, float]]


def _outcome(options: Options, setup: Setup, result: Any) -> Outcome:
  run = setup.recorder.account.run
  entries = run.entries
  nothing = accounting.Epsilon(0.0, ())
  finished = result.rounds > 0 and not result.interrupted
  audited = options.has_canaries and finished
  committed = [e for e in entries if e.kind == 'committed']
  return Outcome(
    run=options.run,
    noise_multiplier=setup.noise_multiplier,
    rounds=result.rounds,
    utility=setup.evaluate(result.state),
    release=entries[-1].release if entries else nothing,
    server=entries[-1].server if entries else nothing,
    delta=run.delta,
    sampling=setup.plan.cohorts.sampling,
    secure_sums=setup.secure.settings,
    sessions=[dict(e.protocol) for e in committed if e.protocol],
    lost=sum(e.kind == 'lost' for e in entries),
    interrupted=result.interrupted,
    stopped=None if result.stopped is None else str(result.stopped),
    audits=setup.recorder.audit_canaries() if audited else {},
  )


def set_up(options: Options, task: tasks.Task | None = None) -> Setup:
  """Builds all that a run needs, of its own task or of one that is given.

  Raises:
    InputError: If the options cannot be used.
    LedgerError: If the ledger cannot.
  """
  from tff_secagg_ext import program, tasks

  try:
    task = task or tasks.load(options.task)
    training = resolved(options, task.training)
    run = planned(options, training, len(task.clients))
    budget, noise_multiplier = _noise(options, run, task.num_parameters)
    with installed(run.secure):
      recorder = _recorder(options, task, run, noise_multiplier, budget)
    plan = program.TrainingPlan(run.rounds, run.former, _folder(options))
  except (
    ValueError,
    TypeError,
    tasks.TaskDataError,
    program.RunKeyError,
  ) as error:
    raise InputError(str(error)) from error
  return Setup(
    recorder,
    plan,
    run.secure,
    noise_multiplier,
    lambda members: [task.client_data(task.clients[i]) for i in members],
    lambda state: task.evaluate(recorder.get_model_weights(state)),
  )


def _folder(options: Options) -> pathlib.Path:
  """Where the checkpoints and the secret keys of the run are."""
  return pathlib.Path(options.checkpoints) / options.run


@contextlib.contextmanager
def installed(secure: Any) -> Iterator[None]:
  """Runs the secure sums of the block as `secure` says."""
  from tff_secagg_ext import execution
  from tff_secagg_ext._compat import tff

  context = execution.create_secure_context(secure)
  with tff.framework.get_context_stack().install(context):
    yield


def resolved(options: Options, defaults: Any) -> Any:
  """Returns the task's settings with what the options change."""
  given = {
    name: getattr(options, name)
    for name in ('rounds', 'clients_per_round', 'delta')
    if getattr(options, name) is not None
  }
  return dataclasses.replace(defaults, **given)


def secure_options(sums: Sums) -> execution.SecureOptions:
  """Returns the options of the secure context, for cohorts of any size."""
  from tff_secagg_ext import _validate, execution

  _validate.check_float(
    sums.simulate_dropouts, 'simulate_dropouts', minimum=0.0, maximum=1.0
  )
  return execution.SecureOptions(
    security=execution.Security(sums.threat, sums.corrupt, sums.dropout),
    dropouts=execution.Dropouts({'mask': sums.simulate_dropouts}),
    insecure_aggregates='forbid',
    transcripts=sums.transcripts,
    protocol=sums.protocol,
  )


def planned(
  options: Options, training: Any, population: int
) -> program.RunPlan:
  """Returns what the run is asked to be, but for its noise.

  Args:
    options: Of the run.
    training: The task's settings, `resolved`.
    population: The number of clients.

  Raises:
    ValueError: If an option is out of range.
  """
  from tff_secagg_ext import aggregators, program

  return program.RunPlan(
    population,
    training.clients_per_round,
    training.rounds,
    training.delta,
    cohorts=options.cohorts,
    bits=options.bits,
    mechanism=options.mechanism,
    clipping=training.clip_norm or aggregators.DEFAULT_CLIPPING,
    security=secure_options(options.sums),
    epoch=options.epoch,
    canaries=options.canaries + options.coin_canaries,
  )


def _noise(
  options: Options, run: program.RunPlan, elements: int
) -> tuple[accounting.Budget | None, float]:
  """Returns the budget, and the noise that was asked for or that it takes."""
  if options.target_epsilon is None:
    return None, options.noise_multiplier
  budget = accounting.Budget(
    options.target_epsilon, run.delta, options.target_view
  )
  return budget, run.calibrated(budget, elements).value


def _recorder(
  options: Options,
  task: Any,
  run: program.RunPlan,
  noise_multiplier: float,
  budget: accounting.Budget | None,
) -> Any:
  from tff_secagg_ext import metrics, program

  aggregator = run.aggregator(noise_multiplier)
  training = dataclasses.asdict(resolved(options, task.training))
  canaries = None
  if options.has_canaries:
    canaries = program.CanaryClients(
      options.canaries, _folder(options), options.coin_canaries
    )
  return program.PrivacyRecorder(
    task.build_process(
      aggregator,
      metrics.no_client_metrics,
      noise_multiplier,
      None if canaries is None else program.with_canaries,
    ),
    aggregator,
    ledger=options.ledger,
    run=program.RunDescription(
      options.run,
      population=run.population,
      unit_of_privacy=task.unit_of_privacy,
      notes={'task': task.name, 'training': training},
    ),
    sampling=run.former.sampling,
    delta=run.delta,
    budget=budget,
    canaries=canaries,
  )
