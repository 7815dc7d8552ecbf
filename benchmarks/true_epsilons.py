# SPDX-License-Identifier: Apache-2.0
"""What the usual formula says of epsilon, and what is true: docs/epsilons.md.

  python -m benchmarks.true_epsilons [--write]

prints the page, or writes it. All figures are of `tff_secagg_ext.accounting`;
the numbers of TFF's factory are read off the factory. A few seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import functools
import math
import pathlib

import tff_secagg_ext
from tff_secagg_ext import accounting
from tff_secagg_ext._compat import tff
from tff_secagg_ext.program import tff_factories

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'epsilons.md'

Z, CLIENTS, POPULATION, ROUNDS = 1.0, 100, 3400, 1500
DELTA = 1.0 / POPULATION
# A model of as many parameters, threshold bits included, pads to 2^20.
ELEMENTS, DIMENSION = 2**20 - 2, 2**20
CAP = 60
BITS = (20, 16, 12)
DROPOUTS = (0, 10, 30, 50)

POISSON = accounting.PoissonSampling(CLIENTS / POPULATION)
FIXED = accounting.FixedSizeSampling(CLIENTS, POPULATION)
NONE = accounting.NoSampling()
# Poisson cohorts out of their bounds take a hundredth of delta.
LEFT = 0.99 * DELTA

Events = Sequence[accounting.Event]


def release(
  events: Events, sampling: accounting.Sampling, delta: float = DELTA
) -> float:
  """Epsilon of the run towards whoever sees what was released."""
  rounds = [accounting.Round(tuple(events), sampling)] * ROUNDS
  return accounting.release_epsilon(rounds, delta).value


def server(events: Events, cap: int | None) -> float:
  """Epsilon towards the server of a client that takes part `cap` times."""
  rounds = [accounting.Round(tuple(events), NONE)] * ROUNDS
  return accounting.server_epsilon(rounds, DELTA, cap).value


def naive() -> float:
  """The usual formula: Poisson sampling, a Gaussian, the nominal multiplier."""
  return release((accounting.CentralGaussianEvent(Z, Z * Z, 'sum'),), POISSON)


@functools.cache
def tffs(bits: int, contributors: int) -> tuple[Events, float]:
  """What a round of TFF's factory releases, and its noise over the clip norm.

  Its first clip norm, without what it releases un-noised.
  """
  factory = tff.learning.ddp_secure_aggregator(Z, CLIENTS, bits)
  noise = tff_factories.read(factory).noise
  assert isinstance(noise, tff_factories.Distributed)
  events = noise.events(noise.numbers(ELEMENTS, noise.l2_clip), contributors, 0)
  return events, noise.noise_multiplier * math.sqrt(contributors / CLIENTS)


def multiplier(event: accounting.NoisedSumEvent) -> float:
  """The noise multiplier that is left, all noise that clients add counted."""
  stddev = event.share_stddev * math.sqrt(event.client_shares)
  return stddev / event.l2_sensitivity


@functools.cache
def ours(bits: int, contributors: int, poisson: bool) -> tuple[Events, float]:
  """As `tffs`, of our factory that is sized for `contributors`.

  Raises:
    ValueError: If the bits are too few for it.
  """
  sizes: dict[str, int | str] = {'min_contributors': contributors}
  if poisson:
    bounds = accounting.poisson_cohort_bounds(
      POPULATION, CLIENTS, ROUNDS, DELTA
    )
    least = bounds.minimum * contributors // CLIENTS
    sizes = {
      'cohorts': 'poisson',
      'min_contributors': least,
      'max_contributors': bounds.maximum,
    }
  factory = tff_secagg_ext.ddp_secure_aggregator(Z, CLIENTS, bits, **sizes)
  event = factory.event(DIMENSION, None if poisson else contributors)
  constants = factory.constants(DIMENSION)
  shares = event.client_shares + event.server_shares
  return (event,), event.share_stddev * math.sqrt(shares) / constants.scale


def cells(bits: int, dropouts: int) -> Iterator[tuple[str, ...]]:
  """The rows of the three tables: release view, server view, noise."""
  left = CLIENTS * (100 - dropouts) // 100
  events, tff_noise = tffs(bits, left)
  vectors = events[:1]
  mine: dict[bool, tuple[Events, float] | None] = {}
  for poisson in (False, True):
    try:
      mine[poisson] = ours(bits, left, poisson)
    except ValueError:
      mine[poisson] = None
  fixed, hidden = mine[False], mine[True]
  first = (str(bits), f'{dropouts} %')
  yield (
    *first,
    figure(naive()),
    'infinite',
    f'{multiplier(vectors[0]):.2f}',  # type: ignore[arg-type]
    figure(release(events, POISSON)),
    figure(release(events, FIXED)),
    figure(fixed and release(fixed[0], FIXED)),
    figure(hidden and release(hidden[0], POISSON, LEFT)),
  )
  yield (
    *first,
    figure(naive()),
    'infinite',
    *(figure(server(vectors, cap)) for cap in (CAP, None)),
    *(figure(fixed and server(fixed[0], cap)) for cap in (CAP, None)),
    *(figure(hidden and server(hidden[0], cap)) for cap in (CAP, None)),
  )
  yield (
    *first,
    f'{tff_noise:.2f}',
    *('refused' if m is None else f'{m[1]:.2f}' for m in (fixed, hidden)),
  )


def figure(epsilon: float | None) -> str:
  """An epsilon as it is printed; None is what the factory refuses."""
  if epsilon is None:
    return 'refused'
  return f'{epsilon:,.{2 * (epsilon < 10.0) + (10.0 <= epsilon < 100.0)}f}'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A table in Markdown."""
  lines = [head, ['---'] * len(head), *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


_TEXT = """# What epsilon is said to be, and what it is

Made by `python -m benchmarks.true_epsilons --write`; a test makes it again.

Noise multiplier {z:g}, {clients} clients a round of {population}, {rounds}
rounds, delta 1/{population}, 2^20 parameters, as for EMNIST. *Usual formula*:
Poisson sampling of a Gaussian of noise multiplier {z:g}. Every other figure is
of `tff_secagg_ext.accounting`, for the noise that is in the sum: never below
the true epsilon, given what its column says.

TFF is `tff.learning.ddp_secure_aggregator`, recorded by
`tff_secagg_ext.recorded` (docs/ledger.md). Its epsilon is infinite in both
views, since

- the zeroing quantile and the number of zeroed updates are exact;
- the noise is Skellam noise whose seeds are time stamps;

and in the server's view also since

- the server noises the clip quantile bit, and sees it before;
- it sees the number of clipped updates.

The columns *were it not for those* leave all of them out of the vectors'
epsilon, and show what is true of the rest. They also take the clip norm to
stay what it is at first, 0.1.

*Ours* is `tff_secagg_ext.ddp_secure_aggregator`, with `min_contributors` so
small that as many clients as the row says may drop out. Nothing has to be left
out of it. *Refused*: the factory finds the bits too few, and names those that
would do.

## Release view

{release}

Fixed cohorts are what TFF has: it releases the number of clients. The usual
formula is that of Poisson cohorts, whose size must stay hidden; our factory
does that with `cohorts='poisson'`, and tops the noise up to that of the largest
cohort, which is why its epsilon is below the usual one.

At 12 bits rounding takes two thirds of TFF's noise multiplier. For so little
noise the bounds for Skellam noise are not tight: discrete Gaussian noise of the
same variance has {gaussian} where the first row with 12 bits has {skellam}, and
{gaussian_half} where half drop out.

## Server view

The server knows who takes part: no sampling amplifies. With at most {cap} of
the {rounds} rounds for each client (44 on average), and with all of them.

{server}

## What it costs

The standard deviation of the noise in the sum, in clip norms, if as many
clients contribute as the row says. TFF's falls with the dropouts, and its
epsilon rises. Ours is {z:g} over the norm bound after rounding, whatever drops
out: so it has {full:.2f} if nobody drops out where half may. Poisson cohorts
pay for the largest and the smallest cohort in {rounds} rounds.

{noise}
"""


def page() -> str:
  """The page, as it must be."""
  rows = [tuple(cells(bits, lost)) for bits in BITS for lost in DROPOUTS]
  by_table = list(zip(*rows, strict=True))
  usual = 'usual formula'
  waived = 'TFF, were it not for those'
  events, _ = tffs(12, CLIENTS)
  half, _ = tffs(12, CLIENTS // 2)
  sized = ours(20, CLIENTS // 2, False)[1]
  return _TEXT.format(
    z=Z,
    clients=CLIENTS,
    population=POPULATION,
    rounds=ROUNDS,
    cap=CAP,
    gaussian=figure(release(as_discrete_gaussian(events), POISSON)),
    gaussian_half=figure(release(as_discrete_gaussian(half), POISSON)),
    skellam=by_table[0][2 * len(DROPOUTS)][5],
    full=sized * math.sqrt(2.0),
    release=table(
      (
        'bits',
        'dropouts',
        usual,
        'TFF',
        'its noise multiplier',
        f'{waived}, Poisson cohorts',
        f'{waived}, fixed cohorts',
        'ours, fixed cohorts',
        'ours, Poisson cohorts',
      ),
      by_table[0],
    ),
    server=table(
      (
        'bits',
        'dropouts',
        usual,
        'TFF',
        f'{waived}, {CAP} rounds',
        'all rounds',
        f'ours, fixed cohorts, {CAP} rounds',
        'all rounds',
        f'ours, Poisson cohorts, {CAP} rounds',
        'all rounds',
      ),
      by_table[1],
    ),
    noise=table(
      (
        'bits',
        'dropouts',
        'TFF',
        'ours, fixed cohorts',
        'ours, Poisson cohorts',
      ),
      by_table[2],
    ),
  )


def as_discrete_gaussian(events: Events) -> Events:
  """The same, with discrete Gaussian noise in the place of Skellam noise."""
  vectors = events[0]
  assert isinstance(vectors, accounting.NoisedSumEvent)
  mechanism = 'distributed_dgauss'
  return dataclasses.replace(vectors, mechanism=mechanism), *events[1:]


def main() -> None:
  """Prints the page, or writes it."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--write', action='store_true', help=f'to {PAGE}')
  if parser.parse_args().write:
    PAGE.write_text(page())
  else:
    print(page(), end='')


if __name__ == '__main__':
  main()
