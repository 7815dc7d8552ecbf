# SPDX-License-Identifier: Apache-2.0
"""`tff-secagg secagg`: sessions of the protocol, planned and inspected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tff_secagg_ext.cli import errors, options

if TYPE_CHECKING:
  from tff_secagg_ext.secagg.inspection import Summary
  from tff_secagg_ext.secagg.setup import Security, Setup

app = typer.Typer(
  no_args_is_help=True, help='Plan secure aggregation, and check it.'
)

# Clients and coordinates of the published planning figures.
_PUBLISHED = ((1 << 10, 1 << 20), (1 << 14, 1 << 24))
_FOOTNOTE = (
  'Expansion: all bytes to and from a client over its packed vector. Second'
  ' table: the same for coordinates of 16 bits; published: by the formula of'
  ' Bonawitz et al. 2017, without signatures or a verified sum. CPU: of one'
  ' core, typical.'
)


@app.command()
def params(
  clients: Annotated[int, typer.Option(help='Clients of a round.')],
  dim: Annotated[int, typer.Option(help='Coordinates of a vector.')],
  bits: options.Bits = 20,
  corrupt: options.Corrupt = 0.05,
  dropout: options.Dropout = 0.1,
  threat: options.Threat = 'malicious',
  verify: Annotated[
    bool | None,
    typer.Option(
      '--verify/--no-verify',
      help='Clients check the sum; by default in the class malicious.',
      show_default=False,
    ),
  ] = None,
  layers: Annotated[
    int,
    typer.Option(help='Dropouts after which the noise is exact: its layers.'),
  ] = 0,
  as_json: options.Json = False,
) -> None:
  """Prints neighbors and threshold, and what a round costs."""
  with errors.one_line(ValueError):
    from tff_secagg_ext import _validate
    from tff_secagg_ext.secagg.setup import Security

    _validate.check_int(dim, 'dim', minimum=1, maximum=1 << 31)
    _validate.check_int(bits, 'bits', minimum=1, maximum=62)
    security = Security(threat, corrupt, dropout)
    if verify is None:
      verify = threat == 'malicious' and not layers
    setup = _setup(security, verify, dim, 1 << bits)
    if layers:
      setup = _layered(setup, clients, layers)
    plan = _plan(clients, setup)
  if as_json:
    typer.echo(json.dumps(plan, indent=2, allow_nan=False))
  else:
    _print_plan(plan)


@app.command('verify')
def verify_transcript(
  file: Annotated[
    pathlib.Path, typer.Argument(help='The transcript of a session.')
  ],
  identities: Annotated[
    pathlib.Path | None,
    typer.Option(help='JSON: the known public key of each client id, in hex.'),
  ] = None,
  as_json: options.Json = False,
) -> None:
  """Checks the chain and the signatures of a transcript; 1 if it is broken."""
  from tff_secagg_ext.secagg import inspection, transcript

  broken = errors.one_line(
    transcript.TranscriptError, code=1, place=f'{file}: '
  )
  with errors.one_line(OSError, typer.BadParameter), broken:
    known = None if identities is None else _read_identities(identities)
    summary = inspection.verify_file(file, known)
  if as_json:
    found = dataclasses.asdict(summary)
    typer.echo(json.dumps(found, indent=2, allow_nan=False))
  else:
    by = 'in the file' if identities is None else 'that were given'
    for line in _summary_lines(summary, by):
      typer.echo(line)


def _read_identities(path: pathlib.Path) -> dict[int, bytes]:
  """Returns the public keys of a file, by id."""
  try:
    found = json.loads(path.read_bytes())
    known = {int(client): bytes.fromhex(key) for client, key in found.items()}
    if any(len(key) != 32 for key in known.values()):
      raise ValueError
  except (AttributeError, TypeError, ValueError):
    raise typer.BadParameter(
      f'{path} must be a JSON object of ids and of 32 bytes in hex. Found'
      ' something else. Write {"17": "5f0c..."}.'
    ) from None
  return known


def _setup(security: Security, verify: bool, dim: int, modulus: int) -> Setup:
  """Returns a session to be planned: its id is none that was drawn."""
  from tff_secagg_ext.secagg import setup as setup_lib

  vector = setup_lib.VectorSpec('update', dim, modulus)
  return setup_lib.Setup(
    session=bytes(setup_lib.SESSION_BYTES),
    round=0,
    security=security,
    verify=verify,
    min_survivors=1,
    vectors=(vector,),
  )


def _layered(setup: Setup, clients: int, layers: int) -> Setup:
  """Returns a session whose noise is exact after so many dropouts."""
  from tff_secagg_ext._dropout_noise import DropoutNoise
  from tff_secagg_ext.secagg import parameters
  from tff_secagg_ext.secagg import setup as setup_lib

  (vector,), security = setup.vectors, setup.security
  # How wide layers are makes no difference to what they cost.
  noise = DropoutNoise(
    'distributed_dgauss',
    10.0 * clients**0.5,
    vector.length,
    vector.modulus,
    clients,
    layers,
  )
  if security.active:
    corrupt, _ = parameters.counts(clients, security)
    security = dataclasses.replace(
      security,
      neighbors=clients - 1,
      threshold=(clients - 1 + corrupt) // 2 + 1,
    )
  placed = (setup_lib.PlacedNoise(0, noise),)
  return dataclasses.replace(
    setup,
    security=security,
    min_survivors=clients - layers,
    vectors=(dataclasses.replace(vector, noise=placed),),
  )


def _plan(clients: int, setup: Setup) -> dict[str, Any]:
  """Returns what `params` prints."""
  from tff_secagg_ext.secagg import costs, parameters

  cost = costs.predict(clients, setup)
  _, dropouts = parameters.counts(clients, setup.security)
  (vector,) = setup.vectors
  return {
    'clients': clients,
    'dim': vector.length,
    'bits': vector.modulus.bit_length() - 1,
    'threat': setup.security.threat,
    'corrupt': setup.security.corrupt,
    'dropout': setup.security.dropout,
    'verify': setup.verify,
    'layers': setup.layers,
    'neighbors': cost.parameters.neighbors,
    'threshold': cost.parameters.threshold,
    'vector_bytes': cost.raw_bytes,
    'upload_bytes': cost.client.upload,
    'download_bytes': cost.client.download,
    'server_bytes': cost.server_bytes,
    'expansion': cost.expansion,
    'client_seconds': cost.client_seconds,
    'server_seconds': cost.server_seconds,
    'dropouts': dropouts,
    'server_seconds_with_dropouts': costs.predict(
      clients, setup, dropouts=dropouts
    ).server_seconds,
    'published': [
      _published(setup, clients, length) for clients, length in _PUBLISHED
    ],
  }


def _published(setup: Setup, clients: int, length: int) -> dict[str, Any]:
  """Returns a published figure, and that of such a session here."""
  from tff_secagg_ext.secagg import costs

  # Neighbors are named for the graph that layers need.
  security = dataclasses.replace(setup.security, neighbors=None, threshold=None)

  def expansion(verify: bool) -> float:
    modulus = costs.planning_modulus(clients)
    own = _setup(security, verify, length, modulus)
    return costs.traffic(clients, own).total * 8 / (16 * length)

  return {
    'clients': clients,
    'dim': length,
    'formula': costs.bonawitz_expansion(clients, length),
    'here': expansion(setup.verify),
    'here_unverified': expansion(False),
  }


def _print_plan(plan: dict[str, Any]) -> None:
  """Prints a plan as two tables."""
  from rich.console import Console
  from rich.table import Table

  console = Console()
  console.print(
    f'Clients: {plan["clients"]:,}. Coordinates: {plan["dim"]:,} of'
    f' {plan["bits"]} bits. Class: {plan["threat"]},'
    f' {"" if plan["verify"] else "not "}verified.'
    + (f' Layers of noise: {plan["layers"]}.' if plan['layers'] else ''),
    highlight=False,
  )
  table = Table(show_header=False)
  table.add_column()
  table.add_column(justify='right')
  for name, value in _rows(plan):
    table.add_row(name, value)
  console.print(table)
  published = Table(
    'clients', 'coordinates', 'published', 'here', 'not verified'
  )
  for row in plan['published']:
    figures = (row['formula'], row['here'], row['here_unverified'])
    published.add_row(
      f'{row["clients"]:,}',
      f'{row["dim"]:,}',
      *(f'{figure:.2f}' for figure in figures),
    )
  console.print(published)
  console.print(_FOOTNOTE)


def _rows(plan: dict[str, Any]) -> Iterator[tuple[str, str]]:
  """Yields names and values of the first table."""
  yield 'neighbors k', f'{plan["neighbors"]:,}'
  yield 'threshold t', f'{plan["threshold"]:,}'
  yield 'a client sends', _size(plan['upload_bytes'])
  yield 'a client is sent', _size(plan['download_bytes'])
  yield 'the server moves', _size(plan['server_bytes'])
  yield 'expansion', f'{plan["expansion"]:.2f}'
  yield 'CPU of a client', _duration(plan['client_seconds'])
  yield 'CPU of the server', _duration(plan['server_seconds'])
  yield (
    f'with {plan["dropouts"]:,} dropouts',
    _duration(plan['server_seconds_with_dropouts']),
  )


def _summary_lines(summary: Summary, identities: str) -> Iterator[str]:
  """Yields what a transcript says, for people."""
  yield f'session:    {summary.session}'
  yield f'round:      {summary.round}'
  yield (
    f'cohort:     {summary.clients} clients, class {summary.threat},'
    f' k = {summary.neighbors}, t = {summary.threshold}'
  )
  if summary.aborted is not None:
    yield f'aborted:    {" ".join(summary.aborted.split())}'
  else:
    checked = {None: 'not asked for', True: 'accepted', False: 'not accepted'}
    yield f'survivors:  {summary.survivors}'
    yield f'sum:        {summary.digest}'
    yield f'clients:    verification {checked[summary.verified]}'
    yield f'duration:   {_duration(summary.seconds or 0.0)}'
  yield f'dropouts:   {_counts(summary.dropouts)}'
  yield f'refusals:   {_counts(summary.refusals)}'
  yield (
    f'traffic:    {_size(summary.upload_bytes)} from clients,'
    f' {_size(summary.download_bytes)} to them'
  )
  yield f'signatures: {summary.signatures}, by the identities {identities}'
  yield f'last line:  {summary.hash}'


def _counts(counts: Mapping[str, int]) -> str:
  return ', '.join(f'{name} {n}' for name, n in counts.items()) or 'none'


def _size(count: int) -> str:
  """Returns bytes in the unit that people read."""
  size = float(count)
  for unit in ('B', 'kB', 'MB', 'GB'):
    if size < 1000:
      return f'{size:.4g} {unit}'
    size /= 1000
  return f'{size:,.4g} TB'


def _duration(seconds: float) -> str:
  """Returns seconds in the unit that people read."""
  return f'{seconds * 1e3:.3g} ms' if seconds < 1 else f'{seconds:,.3g} s'
