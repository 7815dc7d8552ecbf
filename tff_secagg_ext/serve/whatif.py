# SPDX-License-Identifier: Apache-2.0
"""What a run would cost that is not run: by the accountant that charges runs.

The figures are those of `tff-secagg budget plan`, of the same functions.
Allocated cohorts are left to it: their price takes seconds.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
from typing import TYPE_CHECKING, Literal

import pydantic

from tff_secagg_ext.report import verdicts, words
from tff_secagg_ext.report.document import Block, Figure, Figures, Text
from tff_secagg_ext.report.facts import RunFacts

if TYPE_CHECKING:
  from tff_secagg_ext import program

# Within these, an answer takes seconds at most.
MOST_CLIENTS = 100_000_000
LARGEST_COHORT = 100_000
MOST_ROUNDS = 100_000
MOST_NUMBERS = 1 << 28
NOISE = (0.1, 100.0)
BITS = (4, 31)
_AT_WORK = threading.Lock()


class Asked(pydantic.BaseModel, frozen=True, extra='forbid'):
  """What is asked: settings of a run, each within its bounds.

  Attributes:
    noise: Noise multiplier.
    cohort: Expected clients of a round.
    rounds: How many.
    bits: The sum is modulo 2^bits.
    population: How many clients there are.
    numbers: How many numbers a client sends.
    delta: At which epsilon is told.
    cohorts: 'poisson' or 'fixed'.
    run: A run that the rest is taken from, where it is not given; may be empty.
  """

  noise: float = pydantic.Field(default=1.0, ge=NOISE[0], le=NOISE[1])
  cohort: int = pydantic.Field(default=100, ge=1, le=LARGEST_COHORT)
  rounds: int = pydantic.Field(default=100, ge=1, le=MOST_ROUNDS)
  bits: int = pydantic.Field(default=20, ge=BITS[0], le=BITS[1])
  population: int = pydantic.Field(default=10_000, ge=1, le=MOST_CLIENTS)
  numbers: int = pydantic.Field(default=10_000, ge=1, le=MOST_NUMBERS)
  delta: float = pydantic.Field(default=1e-5, gt=0.0, lt=1.0)
  cohorts: Literal['poisson', 'fixed'] = 'poisson'
  run: str = pydantic.Field(default='', max_length=200)

  def like(self, facts: RunFacts) -> Asked:
    """Returns the settings of a run, but for those that were given."""
    spec = facts.mapping('aggregator')
    known = {
      'noise': facts.planned_noise,
      'cohort': spec.get('expected_clients_per_round'),
      'rounds': facts.rounds,
      'bits': spec.get('bits'),
      'population': facts.settings.get('population'),
      'numbers': facts.settings.get('dimension'),
      'delta': facts.delta,
      'cohorts': spec.get('cohorts'),
    }
    found = self
    for name, value in known.items():
      if name not in self.model_fields_set:
        found = found.with_(name, value)
    return found

  def with_(self, name: str, value: object) -> Asked:
    """Returns it with another setting, if it is within the bounds."""
    try:
      return Asked.model_validate({**self.model_dump(), name: value})
    except pydantic.ValidationError:
      return self


@dataclasses.dataclass(frozen=True)
class Answer:
  """What it would cost.

  Attributes:
    level: Of the verdict, by which it is coloured.
    headline: The verdict in two or three words.
    banner: What is said below it.
    figures: All figures.
    short: The most important of them, for narrow screens.
  """

  level: str
  headline: str
  banner: tuple[Block, ...]
  figures: tuple[Block, ...]
  short: str = ''


@dataclasses.dataclass(frozen=True)
class Slider:
  """A setting that is moved, or typed.

  Attributes:
    name: Of the setting.
    label: In plain words.
    why: What it is, in a sentence.
    value: As it is now.
    least: What may be typed, at least.
    most: And at most.
    step: Of what is typed; 'any' for any number.
    low: The left end of the slider.
    high: Its right end.
    scale: 'log' if steps multiply; 'linear' if they add.
    steps: How many it has; 0 for no slider.
    place: Where it is now, in steps.
  """

  name: str
  label: str
  why: str
  value: str
  least: float
  most: float
  step: str = '1'
  low: float = 0.0
  high: float = 0.0
  scale: str = 'log'
  steps: int = 0
  place: int = 0


def sliders(asked: Asked) -> list[Slider]:
  """Returns the settings in the order in which they are shown."""
  largest = min(asked.population, LARGEST_COHORT)
  return [
    _slider('noise', asked.noise, NOISE, 'any', (NOISE[0], 30.0)),
    _slider('cohort', asked.cohort, (1, LARGEST_COHORT), '1', (1, largest)),
    _slider('rounds', asked.rounds, (1, MOST_ROUNDS), '1', (1, 10_000)),
    _slider('bits', asked.bits, BITS, '1', (8, 28), scale='linear'),
    _slider('population', asked.population, (1, MOST_CLIENTS), '1'),
    _slider('numbers', asked.numbers, (1, MOST_NUMBERS), '1'),
    _slider('delta', asked.delta, (0, 1), 'any'),
  ]


def _slider(
  name: str,
  value: float,
  bounds: tuple[float, float],
  step: str,
  ends: tuple[float, float] | None = None,
  scale: str = 'log',
) -> Slider:
  label, why = _LABELS[name]
  plain = Slider(name, label, why, f'{value:.10g}', *bounds, step)
  if ends is None:
    return plain
  low, high = min(ends[0], value), max(ends[1], value)
  steps, place = int(high - low), value - low
  if scale == 'log':
    steps = _STEPS
    span = math.log(high / low) or 1.0
    place = steps * math.log(value / low) / span
  return dataclasses.replace(
    plain, low=low, high=high, scale=scale, steps=steps, place=round(place)
  )


_STEPS = 120
_LABELS = {
  'noise': (
    'Noise multiplier',
    'Noise over what one client can move the sum by. More noise, less ε.',
  ),
  'cohort': ('Clients in a round', 'How many are expected to take part.'),
  'rounds': ('Rounds', 'Each releases a model, and adds to ε.'),
  'bits': (
    'Bits of the sum',
    'Of each number that is summed. Fewer are cheaper, and coarser.',
  ),
  'population': ('Clients in all', 'Of whom a cohort is drawn.'),
  'numbers': ('Numbers that a client sends', 'Parameters of the model.'),
  'delta': (
    'δ',
    'The probability with which ε may not hold: well below one over the number'
    ' of clients.',
  ),
}


def answer(asked: Asked) -> Answer:
  """Returns what a run of those settings would cost.

  What cannot be, such as a cohort above the population, is told in words.
  """
  # One at a time: whoever moves a slider waits for one answer.
  with _AT_WORK:
    return _answer(asked.model_copy(update={'run': ''}))


@functools.lru_cache(maxsize=4096)
def _answer(asked: Asked) -> Answer:
  # It imports TensorFlow, which takes seconds; nothing else of a page does.
  from tff_secagg_ext import execution, program

  security = execution.SecureOptions(
    security=execution.Security('malicious', 0.05, 0.2),
    insecure_aggregates='forbid',
  )
  try:
    plan = program.RunPlan(
      asked.population,
      asked.cohort,
      asked.rounds,
      asked.delta,
      cohorts=asked.cohorts,
      bits=asked.bits,
      security=security,
    )
    found = plan.outlook(asked.noise, asked.numbers)
  except ValueError as error:
    told = Text('No run can be begun with these settings.', 'lead')
    why = Text(words.shown(error))
    return Answer('nothing', 'This cannot be run', (told, why), ())
  return _told(asked, found, program.warn_of_noise(asked.noise))


def _told(asked: Asked, found: program.Outlook, warning: str | None) -> Answer:
  release, server = found.release.value, found.server.value
  private = release <= verdicts.REASONABLE_EPSILON
  banner: list[Block] = [
    Text(
      f'ε = {words.figure(release)} at δ = {words.figure(asked.delta)}.', 'lead'
    ),
    Text(verdicts.meaning(release, asked.delta)),
  ]
  if warning:
    banner.append(Text(f'{warning[0].upper()}{warning[1:]}', 'small'))
  traffic = found.traffic
  both = traffic.upload + traffic.download
  figures = Figures(
    [
      Figure(
        'ε towards whoever sees the models', words.figure(release), _RELEASE
      ),
      Figure('ε towards the coordinator', words.figure(server), _SERVER),
      Figure(
        'error of the mean, in clip norms',
        words.figure(found.mean_error),
        _ERROR,
      ),
      Figure('a client sends in a round', words.size(traffic.upload), _BYTES),
      Figure(
        'a client is sent in a round', words.size(traffic.download), _BYTES
      ),
      Figure(
        'all clients, all rounds',
        words.size(float(both) * asked.cohort * asked.rounds),
      ),
    ]
  )
  return Answer(
    'private' if private else 'not private' if math.isinf(release) else 'weak',
    'It would be private' if private else 'It would hardly be private',
    tuple(banner),
    (figures,),
    f'ε {words.figure(release)}',
  )


_RELEASE = (
  'The release view, of all rounds: models are seen, and who took part is not.'
  ' Sampling amplifies privacy.'
)
_SERVER = (
  'The server view, of all rounds: the coordinator sees sums and who took part.'
  ' Every client is taken to be in every round.'
)
_ERROR = (
  'Standard deviation of a coordinate of the mean of a round’s updates, of'
  ' noise and rounding, as a share of the clip norm.'
)
_BYTES = (
  'Of SecAgg+ against a malicious server, with at most 5 % of a cohort'
  ' colluding and 20 % dropping out.'
)
