# SPDX-License-Identifier: Apache-2.0
"""One training run: from options to a recorded, resumable run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import pathlib
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tff_secagg_ext import accounting

# How often held-out data are evaluated, and a line is printed to a pipe.
_REPORTS = 12


class InputError(Exception):
  """Options that cannot be used; the message says what would do."""


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
  interrupted: bool


def train(options: Options, console: Console | None = None) -> Outcome:
  """Trains, or goes on training, the run that `options` describe.

  Raises:
    InputError: If the options cannot be used.
    LedgerError: If the ledger cannot; no round is lost by it.
  """
  from tff_secagg_ext import program

  setup = _set_up(options)
  with _reporting(console or Console(), options.run, setup.rounds) as report:

    def on_round(record: program.RoundRecord) -> None:
      number = record.entry.attempt.round
      every = max(1, setup.rounds // _REPORTS)
      if number % every == 0 or number == setup.rounds:
        report.utility = setup.evaluate(record.state)
      report(number, record.entry.release, record.entry.server)

    try:
      result = program.train(
        setup.recorder, setup.client_data, setup.plan, on_round=on_round
      )
    except program.CheckpointError as error:
      raise InputError(str(error)) from error
  entries = setup.recorder.account.run.entries
  nothing = accounting.Epsilon(0.0, ())
  return Outcome(
    run=options.run,
    noise_multiplier=options.noise_multiplier,
    rounds=result.rounds,
    utility=setup.evaluate(result.state),
    release=entries[-1].release if entries else nothing,
    server=entries[-1].server if entries else nothing,
    delta=setup.recorder.account.run.delta,
    sampling=setup.plan.cohorts.sampling,
    interrupted=result.interrupted,
  )


@dataclasses.dataclass(frozen=True)
class _Setup:
  recorder: Any
  plan: Any
  client_data: Callable[[Sequence[int]], Sequence[Any]]
  evaluate: Callable[[Any], dict[str, float]]

  @property
  def rounds(self) -> int:
    return int(self.plan.rounds)


def _set_up(options: Options) -> _Setup:
  """Builds all that a run needs; refuses what it cannot use."""
  from tff_secagg_ext import program, tasks

  try:
    task = tasks.load(options.task)
    training = _resolved(options, task.training)
    cohorts = _cohorts(options.cohorts, len(task.clients), training)
    aggregator = _aggregator(options, cohorts, training)
    recorder = _recorder(options, task, training, aggregator, cohorts)
    plan = program.TrainingPlan(
      training.rounds, cohorts, pathlib.Path(options.checkpoints) / options.run
    )
  except (ValueError, TypeError, tasks.TaskDataError) as error:
    raise InputError(str(error)) from error
  return _Setup(
    recorder,
    plan,
    lambda members: [task.client_data(task.clients[i]) for i in members],
    lambda state: task.evaluate(recorder.get_model_weights(state)),
  )


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
    rounds=training.rounds,
    delta=training.delta,
  )


def _aggregator(options: Options, cohorts: Any, training: Any) -> Any:
  from tff_secagg_ext import aggregators

  poisson = options.cohorts == 'poisson'
  # A cohort of fixed size is whole, or its round fails closed.
  smallest = cohorts.minimum if poisson else training.clients_per_round
  return aggregators.ddp_secure_aggregator(
    options.noise_multiplier,
    training.clients_per_round,
    options.bits,
    mechanism=options.mechanism,
    clipping=training.clip_norm or aggregators.DEFAULT_CLIPPING,
    cohorts=options.cohorts,
    min_contributors=smallest,
    max_contributors=cohorts.maximum if poisson else None,
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


class _Report:
  """Shows how far a run is, on a terminal or line by line."""

  def __init__(self, show: Callable[[int, str], None]):
    self.utility: dict[str, float] = {}
    self._show = show

  def __call__(
    self,
    number: int,
    release: accounting.Epsilon,
    server: accounting.Epsilon,
  ) -> None:
    figures = [f'{name} {value:.3f}' for name, value in self.utility.items()]
    figures += [
      f'ε release {release.value:.3g}',
      f'ε server {server.value:.3g}',
    ]
    self._show(number, '  '.join(figures))


@contextlib.contextmanager
def _reporting(console: Console, run: str, rounds: int) -> Iterator[_Report]:
  if not console.is_terminal:
    every = max(1, rounds // _REPORTS)

    def line(number: int, text: str) -> None:
      if number % every == 0 or number == rounds:
        console.print(
          f'{run}: round {number}/{rounds}  {text}',
          highlight=False,
          soft_wrap=True,
        )

    yield _Report(line)
    return
  columns = (
    TextColumn(run),
    BarColumn(bar_width=None),
    TextColumn('{task.completed}/{task.total}  {task.fields[text]}'),
    TimeRemainingColumn(compact=True),
  )
  with Progress(*columns, console=console) as progress:
    bar = progress.add_task(run, total=rounds, text='')
    yield _Report(
      lambda number, text: progress.update(bar, completed=number, text=text)
    )
