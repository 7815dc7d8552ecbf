# SPDX-License-Identifier: Apache-2.0
"""How much a model keeps of secrets, without privacy and with it.

The same task is trained three ways, at equal rounds and expected cohorts, with
the same secrets in the same clients. docs/audit.md, section 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent import futures
import dataclasses
import multiprocessing
import re
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from tff_secagg_ext import _validate
from tff_secagg_ext.audit import memorization
from tff_secagg_ext.cli import progress, training

if TYPE_CHECKING:
  from tff_secagg_ext import tasks

ARMS = ('none', 'clipping', 'private')
"""No privacy; clipping alone; distributed noise and SecAgg."""

_PREFIX, _LENGTH = 4, 5
# Above the norm of every client's update: nothing is clipped.
_NO_CLIP_NORM = 100.0
_PROCESSES = 2


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is asked for.

  Attributes:
    task: A language task.
    canaries: Secrets of each level, at least 1.
    canary_clients: The levels: how many clients hold each secret. Level 0, of
      secrets that nobody holds, is added.
    repetitions: Lines of a holder, of those that it trains on in a round, that
      begin with its secret.
    repeats: Trainings of each arm, each with new secrets.
    rounds: Of each training; `None`: as many as the task has.
    clients_per_round: Expected size of a cohort; `None`: the task's.
    noise_multiplier: Of the private arm, positive.
    protocol: How the private arm sums: 'secagg' or 'plain'.
    ledger: Where the trainings are charged.
    run: A run on record for which the result is; `None` for the private
      trainings themselves.
  """

  task: str = 'shakespeare'
  canaries: int = 6
  canary_clients: tuple[int, ...] = (1, 4, 16)
  repetitions: int = 64
  repeats: int = 2
  rounds: int | None = None
  clients_per_round: int | None = None
  noise_multiplier: float = 1.0
  protocol: str = 'secagg'
  ledger: str = 'sqlite:///runs.db'
  run: str | None = None

  def __post_init__(self) -> None:
    for name in ('canaries', 'repetitions', 'repeats'):
      _validate.check_int(getattr(self, name), name, minimum=1)
    for name in ('rounds', 'clients_per_round'):
      if getattr(self, name) is not None:
        _validate.check_int(getattr(self, name), name, minimum=1)
    if not self.canary_clients:
      raise ValueError(
        '`canary_clients` must have a level. Found none. Name how many clients'
        ' hold each secret.'
      )
    for level in self.canary_clients:
      _validate.check_int(level, 'canary_clients', minimum=1)
    if len(set(self.canary_clients)) < len(self.canary_clients):
      raise ValueError(
        '`canary_clients` must be distinct. Found'
        f' {list(self.canary_clients)}. For more secrets of a level, plant more'
        ' `canaries`.'
      )
    _validate.check_float(
      self.noise_multiplier, 'noise_multiplier', minimum=0.0, exclusive=True
    )
    _validate.check_choice(self.protocol, 'protocol', ('secagg', 'plain'))

  @property
  def levels(self) -> tuple[int, ...]:
    """How many clients hold each secret; nobody first."""
    return (0, *self.canary_clients)


@dataclasses.dataclass(frozen=True)
class Trained:
  """One training, and what its model has kept.

  Attributes:
    run: Its name in the ledger.
    utility: On held-out data, by name.
    release: Epsilon of who sees the releases; infinite without noise.
    server: Epsilon of the coordinator.
    delta: Of both.
    noise: Standard deviation of all noise in a sum over its sensitivity: more
      than the noise multiplier, which is what is left without those who may
      drop out or collude, and with the smallest cohort.
    memory: Of the secrets, level by level.
  """

  run: str
  utility: Mapping[str, float]
  release: float
  server: float
  delta: float
  noise: float
  memory: memorization.Memory


@dataclasses.dataclass(frozen=True)
class Arm:
  """The trainings of one way, [repeats, levels, secrets] each.

  Attributes:
    trained: One for each repeat.
    exposures: Bits by rank.
    extrapolated: Bits by the skew normal law.
    extracted: Whether each was.
  """

  trained: tuple[Trained, ...]
  exposures: Any
  extrapolated: Any
  extracted: Any

  @classmethod
  def of(cls, trained: Sequence[Trained], levels: int) -> Arm:
    """Returns the trainings, with figures by repeat and level."""

    def stacked(name: str) -> Any:
      rows = np.stack([getattr(one.memory, name) for one in trained])
      return rows.reshape(len(trained), levels, -1)

    return cls(
      tuple(trained),
      stacked('exposures'),
      stacked('extrapolated'),
      stacked('extracted'),
    )


@dataclasses.dataclass(frozen=True)
class Result:
  """What an audit has found.

  Attributes:
    settings: As resolved.
    arms: By name.
  """

  settings: Settings
  arms: Mapping[str, Arm]


@dataclasses.dataclass(frozen=True)
class Job:
  """One training; goes to a process of its own.

  Attributes:
    settings: Of the audit.
    arm: One of `ARMS`.
    run: Its name in the ledger.
    checkpoints: A folder.
    secrets: What is planted, level by level.
    owners: Which secret each client holds, -1 for none.
  """

  settings: Settings
  arm: str
  run: str
  checkpoints: str
  secrets: memorization.Secrets
  owners: tuple[int, ...]


def run(settings: Settings) -> Result:
  """Trains all arms, two at a time, and returns what they kept.

  Raises:
    InputError: If the settings cannot be used.
    ValueError: If a model gives no log-probabilities, such as NaN.
    LedgerError: If the ledger cannot be used.
  """
  task = language_task(settings.task)
  settings = _resolved(settings, task)
  with tempfile.TemporaryDirectory() as checkpoints:
    jobs = jobs_of(settings, task, checkpoints)
    trained = _trained(jobs)
  arms = {
    arm: Arm.of(
      [t for t, job in zip(trained, jobs, strict=True) if job.arm == arm],
      len(settings.levels),
    )
    for arm in ARMS
  }
  return Result(settings, arms)


def _trained(jobs: Sequence[Job]) -> list[Trained]:
  # TensorFlow does not survive a fork.
  with futures.ProcessPoolExecutor(
    _PROCESSES, multiprocessing.get_context('spawn')
  ) as processes:
    return list(processes.map(train, jobs))


def language_task(name: str) -> tasks.LanguageTask:
  """Returns the task of a name.

  Raises:
    InputError: If there is none, it has no text, or its data are not there.
  """
  from tff_secagg_ext import tasks

  try:
    task = tasks.load(name)
  except (ValueError, tasks.TaskDataError) as error:
    raise training.InputError(str(error)) from error
  if not isinstance(task, tasks.LanguageTask):
    raise training.InputError(
      "`task` must be a task of text, 'shakespeare'. Found"
      f' {name!r}, in which no sequence can be planted.'
    )
  return task


def _resolved(settings: Settings, task: tasks.LanguageTask) -> Settings:
  """The settings, with the task's own for what is left open."""
  usual = task.training
  clients = settings.clients_per_round or usual.clients_per_round
  try:
    _validate.check_int(
      clients, 'clients_per_round', minimum=1, maximum=len(task.clients)
    )
  except ValueError as error:
    raise training.InputError(str(error)) from error
  return dataclasses.replace(
    settings,
    rounds=settings.rounds or usual.rounds,
    clients_per_round=clients,
  )


def jobs_of(
  settings: Settings, task: tasks.LanguageTask, checkpoints: str
) -> list[Job]:
  """Returns all trainings; refuses what cannot be planted before any begins."""
  prefix = _names(settings)
  holders = np.repeat(settings.levels, settings.canaries).tolist()
  jobs = []
  for repeat in range(1, settings.repeats + 1):
    secrets = memorization.Secrets.draw(
      len(holders), task.letters, _PREFIX, _LENGTH
    )
    try:
      owners = memorization.assign(len(task.clients), holders)
      _planted(task, secrets, owners, settings.repetitions)
    except ValueError as error:
      raise training.InputError(str(error)) from error
    jobs += [
      Job(
        settings, arm, f'{prefix}-{arm}-{repeat}', checkpoints, secrets, owners
      )
      for arm in ARMS
    ]
  return jobs


def train(job: Job) -> Trained:
  """Trains, and asks the model for the secrets.

  Raises:
    InputError, LedgerError: As `training.train`.
    ValueError: If the model gives no log-probabilities.
    KeyboardInterrupt: If training was interrupted: the rest says nothing.
  """
  from tff_secagg_ext import execution

  task = _planted(
    language_task(job.settings.task),
    job.secrets,
    job.owners,
    job.settings.repetitions,
  )
  if job.arm == 'none':
    task = _unclipped(task)
  # Standard output has the result alone.
  console = Console(stderr=True, force_terminal=False)
  try:
    setup = training.set_up(options(job), task)
    with progress.reporting(console, job.run, setup.plan.rounds) as report:
      result = training.run_rounds(
        setup, setup.client_data, lambda record: report(record.entry)
      )
    if result.interrupted:
      raise KeyboardInterrupt
    weights = setup.recorder.get_model_weights(result.state).trainable
    utility = setup.evaluate(result.state)
  finally:
    execution.end_worker()
  spent = setup.recorder.account.run
  last = spent.entries[-1]
  return Trained(
    job.run,
    utility,
    last.release.value,
    last.server.value,
    spent.delta,
    float(last.measurements['effective_noise_multiplier']),
    memorization.recall(
      task.next_log_probabilities(tuple(weights)), job.secrets
    ),
  )


def _unclipped(task: tasks.LanguageTask) -> tasks.LanguageTask:
  return dataclasses.replace(
    task, training=dataclasses.replace(task.training, clip_norm=_NO_CLIP_NORM)
  )


def _planted(
  task: tasks.LanguageTask,
  secrets: memorization.Secrets,
  owners: Sequence[int],
  repetitions: int,
) -> tasks.LanguageTask:
  texts = {
    client: secrets.texts[owner]
    for client, owner in zip(task.clients, owners, strict=True)
    if owner >= 0
  }
  return task.planted(texts, repetitions)


def options(job: Job) -> training.Options:
  """The arms differ in this, and in the clip norm of 'none'.

  Without noise there is no secret to keep from the server: such sums are added
  in the clear, which gives what the protocol would.
  """
  settings, private = job.settings, job.arm == 'private'
  return training.Options(
    task=settings.task,
    noise_multiplier=settings.noise_multiplier if private else 0.0,
    run=job.run,
    ledger=settings.ledger,
    checkpoints=job.checkpoints,
    rounds=settings.rounds,
    clients_per_round=settings.clients_per_round,
    sums=training.Sums(settings.protocol if private else 'plain'),
  )


def record(result: Result, figures: Mapping[str, Any]) -> None:
  """Records figures in the ledger, for the runs that they are of.

  Raises:
    LedgerError: If they cannot be written.
  """
  from tff_secagg_ext.ledger import Ledger

  private = [one.run for one in result.arms['private'].trained]
  with Ledger.open(result.settings.ledger) as ledger:
    for name in (
      private if result.settings.run is None else [result.settings.run]
    ):
      ledger.record_audit(name, 'memorization', figures)


def _names(settings: Settings) -> str:
  """What the names of the trainings begin with: one that is on no record."""
  from tff_secagg_ext.ledger import Ledger

  with Ledger.open(settings.ledger) as opened:
    names = opened.names()
  if settings.run is not None and settings.run not in names:
    raise training.InputError(
      f'`run` must be a run of the ledger. Found {settings.run!r}. The result'
      ' is recorded for it; leave it out to record it for the trainings alone.'
    )
  numbers = [re.match(r'memorization(\d+)-', name) for name in names]
  number = 1 + max((int(n.group(1)) for n in numbers if n), default=0)
  return f'memorization{number}'
