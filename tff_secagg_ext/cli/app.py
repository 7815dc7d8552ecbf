# SPDX-License-Identifier: Apache-2.0
"""Commands and their options; what they do is imported when they run."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import pathlib
from typing import Annotated

import typer

from tff_secagg_ext.cli import audit, budget, errors, options, secagg
from tff_secagg_ext.cli import gate as gate_commands
from tff_secagg_ext.cli import ledger as ledger_commands
from tff_secagg_ext.cli import report as report_commands

app = typer.Typer(
  no_args_is_help=True,
  pretty_exceptions_enable=False,
  help='Distributed differential privacy for TensorFlow Federated.',
)
app.add_typer(ledger_commands.app, name='ledger')
app.add_typer(secagg.app, name='secagg')
app.add_typer(budget.app, name='budget')
app.add_typer(audit.app, name='audit')


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
  """Turns what the user can mend into one line and exit code 2."""
  from tff_secagg_ext.cli import training
  from tff_secagg_ext.ledger import LedgerError

  try:
    with errors.one_line(LedgerError, training.InputError):
      yield
  except KeyboardInterrupt:
    raise typer.Exit(130) from None


@app.command()
def train(
  task: Annotated[
    str, typer.Option(help='digits, shakespeare or fashion-mnist.')
  ] = 'digits',
  noise_multiplier: Annotated[
    float | None,
    typer.Option(
      help='Noise over sensitivity, 1 by default; 0 has no privacy.',
      show_default=False,
    ),
  ] = None,
  target_epsilon: Annotated[
    float | None,
    typer.Option(
      help='Take the least noise that meets it, and stop before it.'
    ),
  ] = None,
  target_view: options.TargetView = 'release',
  rounds: Annotated[
    int | None, typer.Option(help="Rounds; the task's own by default.")
  ] = None,
  clients_per_round: Annotated[
    int | None, typer.Option(help='Expected size of a cohort.')
  ] = None,
  bits: options.Bits = 20,
  mechanism: options.Mechanism = 'distributed_dgauss',
  cohorts: options.Cohorts = 'poisson',
  epoch: options.Epoch = None,
  delta: Annotated[
    float | None, typer.Option(help='At which epsilon is told.')
  ] = None,
  canaries: Annotated[
    int,
    typer.Option(
      help='Places of each cohort for canaries, which audit the noise.'
    ),
  ] = 0,
  coin_canaries: Annotated[
    int,
    typer.Option(help='More places: canaries that a coin of theirs lets in.'),
  ] = 0,
  protocol: options.Protocol = 'secagg',
  threat: options.Threat = 'malicious',
  corrupt: options.Corrupt = 0.05,
  dropout: options.Dropout = 0.2,
  simulate_dropouts: Annotated[
    float, typer.Option(help='Probability that a client is made to drop out.')
  ] = 0.0,
  transcripts: Annotated[
    str | None, typer.Option(help='Folder for the transcripts of sessions.')
  ] = None,
  run: Annotated[
    str | None, typer.Option(help='Name of the run; a known one goes on.')
  ] = None,
  ledger: options.Ledger = 'sqlite:///runs.db',
  checkpoints: Annotated[
    str, typer.Option(help='Folder for the checkpoints of all runs.')
  ] = 'checkpoints',
) -> None:
  """Trains a task with every round's epsilon in the ledger.

  Exits with 3 if the target is reached before the last round.
  """
  with _one_line_errors():
    from tff_secagg_ext.cli import canaries as canaries_lib
    from tff_secagg_ext.cli import tables, training

    noise, name = _noise_and_name(task, noise_multiplier, target_epsilon)
    asked = training.Options(
      task=task,
      noise_multiplier=noise,
      rounds=rounds,
      clients_per_round=clients_per_round,
      bits=bits,
      mechanism=mechanism,
      cohorts=cohorts,
      epoch=epoch,
      delta=delta,
      sums=training.Sums(
        protocol, threat, corrupt, dropout, simulate_dropouts, transcripts
      ),
      run=run or name,
      ledger=ledger,
      checkpoints=checkpoints,
      target_epsilon=target_epsilon,
      target_view=target_view,
      canaries=canaries,
      coin_canaries=coin_canaries,
    )
    outcome = training.train(asked)
    tables.print_outcomes([outcome], ledger)
    canaries_lib.print_audits(outcome.audits)
    _exit_if_interrupted(outcome.interrupted, outcome.rounds, outcome.run)
    _exit_if_stopped(outcome.stopped, outcome.rounds)


def _noise_and_name(
  task: str, noise_multiplier: float | None, target_epsilon: float | None
) -> tuple[float, str]:
  """Returns the noise multiplier, and the name of a run that has none."""
  if target_epsilon is None:
    noise = 1.0 if noise_multiplier is None else noise_multiplier
    return noise, f'{task}-z{noise:g}'
  if noise_multiplier is not None:
    raise typer.BadParameter(
      'give --noise-multiplier or --target-epsilon, not both: the target'
      ' decides the noise.'
    )
  return 1.0, f'{task}-e{target_epsilon:g}'


def _exit_if_stopped(stopped: str | None, rounds: int) -> None:
  if stopped is not None:
    typer.echo(f'Stopped after round {rounds}. {stopped}', err=True)
    raise typer.Exit(3)


def _exit_if_interrupted(interrupted: bool, rounds: int, run: str) -> None:
  if interrupted:
    typer.echo(
      f'Interrupted after round {rounds}. The same command goes on with run'
      f' {run}.',
      err=True,
    )
    raise typer.Exit(130)


@app.command()
def demo(
  ledger: options.Ledger = 'sqlite:///demo.db',
  rounds: Annotated[
    int | None, typer.Option(help="Of each run; the task's own by default.")
  ] = None,
) -> None:
  """Trains digits at noise multiplier 1, without noise, and at 4."""
  with _one_line_errors():
    from tff_secagg_ext.cli import demo as demo_lib

    if not demo_lib.run(ledger, rounds):
      raise typer.Exit(130)


@app.command()
def gate(
  target: Annotated[
    str | None,
    typer.Argument(
      metavar='RUN', help='Name of the run; with --init, the file to write.'
    ),
  ] = None,
  policy: Annotated[
    pathlib.Path, typer.Option(help='TOML; --init writes the default one.')
  ] = pathlib.Path(gate_commands.POLICY),
  ledger: options.Ledger = 'sqlite:///runs.db',
  transcripts: Annotated[
    pathlib.Path | None,
    typer.Option(help="Folder with the transcripts of the run's sessions."),
  ] = None,
  head: Annotated[
    str | None, typer.Option(help='A head that was printed before, and kept.')
  ] = None,
  init: Annotated[
    bool, typer.Option('--init', help='Write the default policy, and end.')
  ] = False,
  as_json: options.Json = False,
) -> None:
  """Exits with 0 if a run has shown what a policy asks for, else with 1.

  Says what holds and what does not, and records it in the ledger.
  """
  if init:
    gate_commands.init(pathlib.Path(target or gate_commands.POLICY))
    return
  if target is None:
    raise typer.BadParameter('name the run, or write a policy with --init.')
  verdict, unrecorded = gate_commands.judge(
    target, policy, ledger, transcripts, head
  )
  gate_commands.report(verdict, unrecorded, as_json=as_json)
  if not verdict.holds:
    raise typer.Exit(1)


@app.command()
def report(
  run: Annotated[str, typer.Argument(help='Name of the run.')],
  ledger: options.Ledger = 'sqlite:///runs.db',
  out: Annotated[
    pathlib.Path | None,
    typer.Option(help='A file, replaced if it is there; printed by default.'),
  ] = None,
  kind: Annotated[
    str | None,
    typer.Option(
      '--format',
      help='html, md, json, or pdf-ready: a page to be printed to a PDF. By the'
      ' suffix of --out by default.',
    ),
  ] = None,
  statement: Annotated[
    bool,
    typer.Option(
      '--statement', help='The evaluation that NIST SP 800-226 asks for.'
    ),
  ] = False,
  server_view: Annotated[
    bool, typer.Option('--server-view', help='With the sessions, unpublished.')
  ] = False,
  transcripts: Annotated[
    pathlib.Path | None,
    typer.Option(help="Folder with the transcripts of the run's sessions."),
  ] = None,
  baseline: Annotated[
    str | None, typer.Option(help='A run that utility is compared with.')
  ] = None,
) -> None:
  """Writes what people read of a run: is it private, and what did it cost?"""
  report_commands.write(
    report_commands.Asked(
      run=run,
      ledger=ledger,
      out=out,
      kind=kind,
      statement=statement,
      server_view=server_view,
      transcripts=transcripts,
      baseline=baseline,
    )
  )


@app.command()
def watch(
  run: Annotated[str, typer.Argument(help='Name of the run.')],
  ledger: options.Ledger = 'sqlite:///runs.db',
  server_view: Annotated[
    bool, typer.Option('--server-view', help='With the sessions, unpublished.')
  ] = False,
  once: Annotated[
    bool, typer.Option('--once', help='Show how it is now, and end.')
  ] = False,
) -> None:
  """Shows a run in the terminal while another process trains it.

  Ends with that process, or with Ctrl-C, which does not touch the run.
  """
  from tff_secagg_ext.cli import watch as watch_lib

  watch_lib.watch(run, ledger, server_view=server_view, once=once)


@app.command()
def plot(
  run: Annotated[str, typer.Argument(help='Name of the run.')],
  out: Annotated[
    pathlib.Path,
    typer.Option(help='A file, .pdf, .svg or .png; replaced if it is there.'),
  ],
  ledger: options.Ledger = 'sqlite:///runs.db',
  server_view: Annotated[
    bool, typer.Option('--server-view', help='With contributors, unpublished.')
  ] = False,
) -> None:
  """Draws a run for a paper: epsilon of both views, clip norm, contributors.

  Takes matplotlib, of the extra `notebook`.
  """
  from tff_secagg_ext.cli import plot as plot_lib

  plot_lib.write(run, ledger, out, server_view=server_view)


@app.command()
def serve(
  ledger: Annotated[
    str, typer.Argument(help='A file, or an SQLAlchemy URL of a ledger.')
  ] = 'sqlite:///runs.db',
  host: Annotated[
    str,
    typer.Option(help='Where it listens; any but loopback asks for a token.'),
  ] = '127.0.0.1',
  port: Annotated[
    int, typer.Option(help='0 for any that is free.', min=0, max=65535)
  ] = 8321,
  name: Annotated[
    list[str] | None,
    typer.Option(help='One more host name that it answers to; repeatable.'),
  ] = None,
  server_view: Annotated[
    bool, typer.Option('--server-view', help='With the sessions, unpublished.')
  ] = False,
  token: Annotated[
    bool, typer.Option('--token', help='Ask for a token on loopback, too.')
  ] = False,
  browse: Annotated[
    bool | None,
    typer.Option('--open/--no-open', help='Open a browser, or do not.'),
  ] = None,
) -> None:
  """Shows a ledger in the browser: live, read-only, on this machine.

  Takes FastAPI and uvicorn, of the extra `serve`. Ends with Ctrl-C.
  """
  from tff_secagg_ext.cli import serve as serve_lib

  serve_lib.serve(
    ledger,
    browse=browse,
    host=host,
    port=port,
    names=tuple(name or ()),
    server_view=server_view,
    token=token,
  )
