# SPDX-License-Identifier: Apache-2.0
"""`tff-secagg budget`: what a budget affords, before anything is run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import json
import math
from typing import TYPE_CHECKING, Annotated

import typer

from tff_secagg_ext.cli import errors, options

if TYPE_CHECKING:
  from tff_secagg_ext import accounting, program

app = typer.Typer(no_args_is_help=True, help='Plan what a budget affords.')

# What is looked at by default: parts of the population, and rounds.
_COHORTS = (100, 30, 10)
_ROUNDS = (100, 300, 1000)
_SMALLEST = 10
_FOOTNOTE = (
  'z: noise multiplier towards the server, the least that meets the target.'
  ' Error: standard deviation of a coordinate of the mean, of noise and'
  ' rounding, over the clip norm. MB: of one client in one round of the'
  ' expected size.'
)


@dataclasses.dataclass(frozen=True)
class Choice:
  """A row: what a cohort and a number of rounds take.

  Attributes:
    clients_per_round: The expected size of a cohort.
    rounds: The number of rounds.
    noise_multiplier: The least that meets the target; `None` if none does.
    release_epsilon: Of who sees the releases.
    server_epsilon: Of the coordinator.
    mean_error: Standard deviation of a coordinate of the mean, in clip norms.
    bits: The sum is modulo 2^bits.
    upload_bytes: What a client sends in a round.
    download_bytes: What it is sent.
    warning: What is wrong with it.
    refused: Why there is none; the figures are `None` then.
    nearest_epsilon: The least that can be met then, if any can.
  """

  clients_per_round: int
  rounds: int
  bits: int
  noise_multiplier: float | None = None
  release_epsilon: float | None = None
  server_epsilon: float | None = None
  mean_error: float | None = None
  upload_bytes: int | None = None
  download_bytes: int | None = None
  warning: str | None = None
  refused: str | None = None
  nearest_epsilon: float | None = None


@app.callback()
def group() -> None:
  """Plan what a budget affords."""


@app.command()
def plan(
  target_epsilon: Annotated[float, typer.Option(help='Epsilon to be met.')],
  delta: Annotated[float, typer.Option(help='At which it is met.')],
  population: Annotated[int, typer.Option(help='Clients there are.')],
  dim: Annotated[int, typer.Option(help='Numbers that a client sends.')],
  target_view: options.TargetView = 'release',
  clients_per_round: Annotated[
    list[int] | None,
    typer.Option(help='Expected size of a cohort; may be repeated.'),
  ] = None,
  rounds: Annotated[
    list[int] | None, typer.Option(help='Rounds; may be repeated.')
  ] = None,
  cohorts: options.Cohorts = 'poisson',
  epoch: options.Epoch = None,
  bits: options.Bits = 20,
  mechanism: options.Mechanism = 'distributed_dgauss',
  threat: options.Threat = 'malicious',
  corrupt: options.Corrupt = 0.05,
  dropout: options.Dropout = 0.2,
  as_json: options.Json = False,
) -> None:
  """Prints the noise that a target takes, by cohort and number of rounds."""
  with errors.one_line(ValueError, TypeError):
    from tff_secagg_ext import _validate, accounting, program
    from tff_secagg_ext.cli import training

    budget = accounting.Budget(target_epsilon, delta, target_view)
    _validate.check_int(population, 'population', minimum=1)
    _validate.check_int(dim, 'dim', minimum=1, maximum=1 << 31)
    sums = training.Sums(threat=threat, corrupt=corrupt, dropout=dropout)
    security = training.secure_options(sums)
    clients = clients_per_round or _parts(population)
    runs = [
      program.RunPlan(
        population,
        size,
        number,
        delta,
        cohorts=cohorts,
        bits=bits,
        mechanism=mechanism,
        security=security,
        epoch=epoch,
      )
      for size, number in itertools.product(clients, rounds or _ROUNDS)
    ]
    choices = [_choice(run, budget, dim) for run in runs]
    _check_any(choices)
  warning = accounting.warn_of_delta(delta, population)
  if warning:
    typer.echo(f'Warning: {warning}', err=True)
  if as_json:
    found = [dataclasses.asdict(choice) for choice in choices]
    typer.echo(json.dumps(found, indent=2, allow_nan=False))
  else:
    _print(choices, budget)


def _parts(population: int) -> list[int]:
  """Cohorts to look at, if none are named."""
  sizes = {max(_SMALLEST, population // part) for part in _COHORTS}
  return sorted({min(size, population) for size in sizes})


def _choice(
  run: program.RunPlan, budget: accounting.Budget, dim: int
) -> Choice:
  """Returns the row of a run; one that is refused says why."""
  from tff_secagg_ext import accounting, program

  choice = Choice(run.clients_per_round, run.rounds, run.bits)
  try:
    noise = run.calibrated(budget, dim).value
  except accounting.UnmetTargetError as error:
    return dataclasses.replace(
      choice, refused=str(error), nearest_epsilon=_finite(error.epsilon)
    )
  except ValueError as error:
    return dataclasses.replace(choice, refused=str(error))
  found = run.outlook(noise, dim)
  return dataclasses.replace(
    choice,
    noise_multiplier=noise,
    release_epsilon=_finite(found.release),
    server_epsilon=_finite(found.server),
    mean_error=found.mean_error,
    upload_bytes=found.traffic.upload,
    download_bytes=found.traffic.download,
    warning=program.warn_of_noise(noise),
  )


def _check_any(choices: Sequence[Choice]) -> None:
  """Refuses a plan without any choice, by the one that comes nearest."""
  if any(choice.refused is None for choice in choices):
    return
  nearest = min(
    choices,
    key=lambda c: math.inf if c.nearest_epsilon is None else c.nearest_epsilon,
  )
  raise ValueError(
    f'with {nearest.clients_per_round} clients a round and {nearest.rounds}'
    f' rounds: {nearest.refused}'
  )


def _finite(epsilon: accounting.Epsilon) -> float | None:
  return epsilon.value if math.isfinite(epsilon.value) else None


def _print(choices: Sequence[Choice], budget: accounting.Budget) -> None:
  """Prints the choices as a table, and what is wrong with each below it."""
  from rich.console import Console
  from rich.table import Table

  console = Console()
  console.print(
    f'Target: ε = {budget.epsilon:g} at δ = {budget.delta:g}, {budget.view}'
    f' view. Sums of {choices[0].bits} bits.',
    highlight=False,
  )
  table = Table()
  for name in ('clients', 'rounds', 'z', 'ε release', 'ε server', 'error'):
    table.add_column(name, justify='right', no_wrap=True)
  table.add_column('MB up, down', justify='right', no_wrap=True)
  for choice in choices:
    table.add_row(*_cells(choice))
  console.print(table)
  console.print(_FOOTNOTE)
  for choice in choices:
    if choice.refused:
      console.print(
        f'{choice.clients_per_round} clients, {choice.rounds} rounds:'
        f' {choice.refused}',
        highlight=False,
      )
  for warning in {choice.warning for choice in choices} - {None}:
    console.print(f'! {warning}', highlight=False)


def _cells(choice: Choice) -> Iterator[str]:
  yield f'{choice.clients_per_round:,}'
  yield f'{choice.rounds:,}'
  if choice.refused is not None:
    yield from ('none', '', '', '', '')
    return
  yield f'{choice.noise_multiplier:.3g}{" !" if choice.warning else ""}'
  for epsilon in (choice.release_epsilon, choice.server_epsilon):
    yield '∞' if epsilon is None else f'{epsilon:.4g}'
  yield f'{choice.mean_error:.1e}'
  assert choice.upload_bytes is not None
  assert choice.download_bytes is not None
  yield f'{choice.upload_bytes / 1e6:.2f}, {choice.download_bytes / 1e6:.2f}'
