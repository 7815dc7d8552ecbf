# SPDX-License-Identifier: Apache-2.0
"""`tff-secagg audit membership`: who was in the training, told by the model.

Each client is in an audited training by a fair coin. Who is out takes part like
all others, with no data: its update is zero, which is what the ledger's epsilon
is about. Audited models are trained by the process that `train` builds; shadow
models, and as many more to attack, by `tasks.plain`.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import json
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt

from tff_secagg_ext import _validate, accounting, program, tasks
from tff_secagg_ext import ledger as ledger_lib
from tff_secagg_ext.audit import inference
from tff_secagg_ext.cli import membership_report as report
from tff_secagg_ext.cli import training
from tff_secagg_ext.ledger.view import differences
from tff_secagg_ext.tasks import plain

BoolArray = npt.NDArray[np.bool_]

_LEAST_SHADOWS = 4


@dataclasses.dataclass(frozen=True)
class Options:
  """What is audited.

  Attributes:
    noise_multiplier: Of 'distributed DP', above 0.
    task: 'digits', the one task that `tasks.plain` trains.
    rounds: Of each training, at least 1.
    shadows: Shadow models of each training, at least 4.
    repeats: Models of each training that the process trains, at least 1.
  """

  noise_multiplier: float = 1.0
  task: str = 'digits'
  rounds: int = 30
  shadows: int = 64
  repeats: int = 1

  def __post_init__(self) -> None:
    _validate.check_choice(self.task, 'task', ('digits',))
    _validate.check_float(
      self.noise_multiplier, 'noise_multiplier', minimum=0.0
    )
    if not self.noise_multiplier:
      raise ValueError(
        '`noise_multiplier` must be above 0. Found 0.0. The training without'
        f' noise, {report.CLIPPED!r}, is audited in any case.'
      )
    _validate.check_int(self.rounds, 'rounds', minimum=1)
    _validate.check_int(
      self.shadows,
      'shadows',
      minimum=_LEAST_SHADOWS,
      remedy='Each client is in half of them, and has to be in and out twice.',
    )
    _validate.check_int(self.repeats, 'repeats', minimum=1)


def audit(game: Game, tell: Callable[[str], None]) -> report.Report:
  """Trains, attacks and compares.

  Args:
    game: What to audit.
    tell: Is told what goes on.

  Raises:
    ValueError: If a loss is not finite, or shadow models do not differ.
    InputError: If a training cannot be run.
  """
  options = game.options
  rows: list[report.Row] = []
  for name in report.TRAININGS:
    tell(
      f'{name}: {options.repeats} by the process, of {game.run.rounds} rounds'
    )
    models = inference.observe(game.process(name), game.coins(options.repeats))
    tell(f'{name}: {2 * options.shadows} by the plain loop')
    loop = game.loop(name)
    shadows = inference.observe(loop, game.halves(options.shadows))
    others = inference.observe(loop, game.coins(options.shadows))
    for trained_by, audited in (('process', models), ('loop', others)):
      rows.extend(_rows(name, trained_by, audited, shadows, game.run.delta))
  return report.Report(
    {**dataclasses.asdict(options), 'rounds': game.run.rounds},
    tuple(rows),
    game.epsilon,
    game.run.delta,
  )


def of_run(ledger: str, name: str) -> Options:
  """Returns the options that train as a recorded run was trained.

  Raises:
    ValueError: If it is not a finished run of `train` with the options that
      audited models are trained with; says where it differs.
    LedgerError: If there is no such run.
  """
  with ledger_lib.Ledger.open(ledger, create=False) as opened:
    shown = opened.show(name)
  settings = shown['settings']
  notes = settings.get('notes', {})
  if 'training' not in notes or 'aggregator' not in settings:
    raise ValueError(
      f'Run {name!r} must be one of `tff-secagg train`. Found one that says'
      ' nothing of its training. Audit without --run.'
    )
  found = Options(
    settings['aggregator']['noise_multiplier'],
    notes['task'],
    notes['training']['rounds'],
  )
  committed = sum(each['status'] == 'committed' for each in shown['rounds'])
  if committed != found.rounds:
    raise ValueError(
      f'Run {name!r} must have all of its {found.rounds} rounds. Found'
      f' {committed}. Finish it with `tff-secagg train`.'
    )
  _check_planned(name, settings, found)
  return found


def _check_planned(
  name: str, settings: dict[str, Any], options: Options
) -> None:
  task = tasks.load(options.task)
  run = planned(task, options)
  aggregator = run.aggregator(options.noise_multiplier)
  wanted = {
    'aggregator': json.loads(json.dumps(aggregator.settings)),
    'sampling': json.loads(accounting.to_json(run.former.sampling)),
    'training': dataclasses.asdict(task.training) | {'rounds': options.rounds},
  }
  recorded = {**settings, 'training': settings['notes']['training']}
  differing = differences({key: recorded.get(key) for key in wanted}, wanted)
  if differing:
    raise ValueError(
      f'Run {name!r} must be one that audited models can be trained as, by'
      " `tff-secagg train` with the task's settings. Found that"
      f' {"; ".join(differing)}. Audit without --run.'
    )


def _rows(
  name: str,
  trained_by: str,
  audited: inference.Models,
  shadows: inference.Models,
  delta: float,
) -> list[report.Row]:
  return [
    report.Row(
      name,
      trained_by,
      attack,
      len(audited.members),
      int(np.count_nonzero(~audited.members)),
      inference.infer(
        scores, audited.members, delta, report.FALSE_POSITIVE_RATE
      ),
    )
    for attack, scores in inference.scores(audited, shadows).items()
  ]


class Game:
  """The task, its clients, and how each training trains.

  Attributes:
    options: What is audited.
    run: What 'distributed DP' is, but for its noise.
    epsilon: Of its newest model, as the ledger has it; 0 before there is one.
  """

  def __init__(self, options: Options):
    """Loads the task; see `Options`, `plain.Clients.of` for what is refused."""
    self.options = options
    self.task = tasks.load(options.task)
    self.clients = plain.Clients.of(self.task)
    self.run = planned(self.task, options)
    self.epsilon = accounting.Epsilon(0.0, ())
    # Of the auditor's coins and of models that nobody gets.
    self._generator = np.random.default_rng()

  def coins(self, models: int) -> BoolArray:
    """Returns bool[models, clients] independent fair coins."""
    shape = (models, len(self.task.clients))
    return self._generator.random(shape) < 0.5

  def halves(self, models: int) -> BoolArray:
    """Returns bool[models, clients]; each client is in half of the models."""
    shape = (models, len(self.task.clients))
    return inference.halves(self._generator.random(shape))

  def process(self, name: str) -> inference.Train:
    """Returns a training by the process of TFF."""

    def train(members: BoolArray) -> Any:
      def data(cohort: Any) -> list[Any]:
        sets = [self.task.client_data(self.task.clients[i]) for i in cohort]
        return [
          each if members[i] else each.take(0)
          for i, each in zip(cohort, sets, strict=True)
        ]

      if name == report.PLAIN:
        weights = self._averaged(data)
      else:
        weights = self._recorded(self._noise_multiplier(name), data)
      return self.clients.losses(tuple(map(np.asarray, weights.trainable)))

    return train

  def loop(self, name: str) -> inference.Train:
    """Returns the same training by the plain loop."""
    noise = self._noise_multiplier(name)
    settings = self.task.training
    clip = None if name == report.PLAIN else settings.clip_norm
    error = self.run.mean_error(noise, self.task.num_parameters)
    server = plain.Server(
      settings.server_rate(noise),
      settings.momentum,
      clip,
      0.0 if clip is None else clip * error,
      None if clip is None else self.run.expected,
    )

    def train(members: BoolArray) -> Any:
      cohorts = np.stack([self._cohort() for _ in range(self.run.rounds)])
      weights = plain.train(
        self.task, self.clients, server, cohorts, members, self._generator
      )
      return self.clients.losses(weights)

    return train

  def _noise_multiplier(self, name: str) -> float:
    return self.options.noise_multiplier if name == report.PRIVATE else 0.0

  def _cohort(self) -> BoolArray:
    """Returns bool[clients]; each takes part by a coin of its own."""
    share = self.run.clients_per_round / self.run.population
    return self._generator.random(self.run.population) < share

  def _averaged(self, data: Callable[[Any], list[Any]]) -> Any:
    """Weights after federated averaging, with neither clipping nor noise."""
    from tff_secagg_ext import metrics
    from tff_secagg_ext._compat import tff

    process = self.task.build_process(
      tff.aggregators.UnweightedMeanFactory(), metrics.no_client_metrics, 0.0
    )
    state = process.initialize()
    for _ in range(self.run.rounds):
      cohort = np.flatnonzero(self._cohort())
      if cohort.size:
        state = process.next(state, data(cohort)).state
    return process.get_model_weights(state)

  def _recorded(
    self, noise_multiplier: float, data: Callable[[Any], list[Any]]
  ) -> Any:
    """Weights after a run as `train` has it; its epsilon is kept."""
    with tempfile.TemporaryDirectory() as folder:
      asked = _asked(self.options, noise_multiplier, folder)
      setup = training.set_up(asked)
      state = training.run_rounds(setup, data).state
      if noise_multiplier:
        self.epsilon = setup.recorder.account.run.entries[-1].release
      return setup.recorder.get_model_weights(state)


def planned(task: tasks.Task, options: Options) -> program.RunPlan:
  """Returns the run that 'distributed DP' is, but for its noise."""
  asked = _asked(options, options.noise_multiplier, '')
  settings = training.resolved(asked, task.training)
  return training.planned(asked, settings, len(task.clients))


def _asked(
  options: Options, noise_multiplier: float, folder: str
) -> training.Options:
  return training.Options(
    task=options.task,
    noise_multiplier=noise_multiplier,
    run='audited',
    ledger=f'{folder}/ledger.db',
    checkpoints=folder,
    rounds=options.rounds,
  )
