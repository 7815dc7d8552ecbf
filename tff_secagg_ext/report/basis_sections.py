# SPDX-License-Identifier: Apache-2.0
"""Sections on what the figures rest on, and on the record itself."""

from __future__ import annotations

from collections.abc import Iterator

from tff_secagg_ext.report import words
from tff_secagg_ext.report.document import (
  Block,
  Figure,
  Figures,
  Section,
  Table,
  Text,
)
from tff_secagg_ext.report.facts import RunFacts

_RANDOMNESS = (
  'Clients draw noise and keys from the kernel (getrandom), expanded by'
  ' ChaCha20; no noise is drawn from a time stamp or a seed of a library.'
)
_TFF_RANDOMNESS = (
  'Noise is drawn by a factory of TensorFlow Federated; what is taken for'
  ' granted'
  ' of it is listed under its settings (`aggregator.assumed`).'
)


def basis(facts: RunFacts) -> Section:
  """Returns what the figures rest on."""
  found = [*_claims(facts), *_participations(facts), *_means(facts)]
  blocks: list[Block] = [Figures(found), *_versions(facts), _settings(facts)]
  return Section('basis', 'What the figures rest on', blocks)


def _claims(facts: RunFacts) -> Iterator[Figure]:
  """Yields whose privacy it is, and what is claimed of the cohorts."""
  yield Figure(
    'unit of privacy',
    words.shown(facts.settings.get('unit_of_privacy', 'client')),
    'Whose data one unit is: what ε protects is all of it.',
  )
  population = facts.settings.get('population')
  yield Figure(
    'clients in all',
    words.figure(population) if population else 'not on record',
    'δ is compared with one over it: above that, publishing one client at'
    ' random'
    ' would count as private.',
  )
  yield Figure(
    'what differs',
    words.adjacency(facts.sampling),
    'The adjacency relation: which two data sets must look alike.',
  )
  yield Figure(
    'how cohorts are chosen',
    sampling(facts),
    'Not knowing who took part protects: amplification by sampling. It is a'
    ' claim'
    ' about the run, never inferred.',
  )


def sampling(facts: RunFacts) -> str:
  """Returns what is claimed of the cohorts."""
  if facts.external:
    return 'said in the events that were told from elsewhere'
  return words.sampling(facts.sampling)


def _means(facts: RunFacts) -> Iterator[Figure]:
  """Yields how it was done."""
  yield Figure(
    'how vectors are summed',
    words.sums(facts.settings.get('secure_sums')),
    'The threat class: what the server may do and still learn the sum alone.',
  )
  yield Figure(
    'noise',
    mechanism(facts),
    'Integer noise: its privacy is not lost to floating point.'
    if facts.is_distributed
    else '',
  )
  yield Figure('randomness', randomness(facts))
  yield Figure(
    'part of δ for claims that may fail',
    words.figure(float(facts.settings.get('failure_probability', 0.0))),
    'Such as cohorts that leave their bounds; ε is composed at what is left.',
  )


def randomness(facts: RunFacts) -> str:
  """Returns where noise comes from."""
  if facts.is_distributed:
    return _RANDOMNESS
  is_tffs = 'tff' in facts.mapping('aggregator')
  return _TFF_RANDOMNESS if is_tffs else 'not on record'


def _participations(facts: RunFacts) -> Iterator[Figure]:
  cap = facts.participation
  if cap is not None:
    yield Figure(
      'participations of a client',
      f'at most {cap.most}, {cap.separation} rounds apart',
      'Enforced by the recorder, from keyed hashes; it limits the server’s ε.',
    )


def mechanism(facts: RunFacts) -> str:
  """Returns the law of the noise, and of which numbers it is."""
  aggregator = facts.mapping('aggregator')
  name = {
    'distributed_dgauss': 'discrete Gaussian, added by the clients',
    'distributed_skellam': 'Skellam, added by the clients',
  }.get(str(aggregator.get('mechanism')))
  if name is None:
    return _mechanism_of_tff(aggregator.get('tff'))
  bits = aggregator.get('bits')
  dimension = facts.settings.get('dimension')
  size = words.figure(dimension) if dimension else 'unknown'
  return f'{name}; {bits} bits, {size} coordinates'


def _mechanism_of_tff(kind: object) -> str:
  """Returns what a factory of TensorFlow Federated adds."""
  if kind is None:
    return 'not on record'
  if kind == 'central':
    return 'Gaussian, added by the server (TensorFlow Federated)'
  return f'{words.shown(kind)} (TensorFlow Federated)'


def _versions(facts: RunFacts) -> Iterator[Block]:
  if facts.versions:
    rows = [
      [words.shown(n), words.shown(v)] for n, v in facts.versions[-1].items()
    ]
    note = (
      'Of the newest of'
      f' {words.plural(len(facts.versions), "session")} of writing.'
    )
    yield Table('Versions', ('package', 'version'), rows, True, note)


def _settings(facts: RunFacts) -> Table:
  rows = [
    [words.shown(path), words.shown(value)]
    for path, value in leaves(facts.settings)
  ]
  return Table(
    'All settings, as the run was begun', ('setting', 'value'), rows, True
  )


def leaves(tree: object, path: str = '') -> list[tuple[str, object]]:
  """Returns the values of a tree of JSON values, by their paths."""
  if isinstance(tree, dict) and tree:
    return [
      leaf
      for key, value in tree.items()
      for leaf in leaves(value, f'{path}.{key}' if path else str(key))
    ]
  return [(path, tree)]


def record(facts: RunFacts) -> Section:
  """Returns how a reviewer checks that this is what was written."""
  if facts.fault is not None:
    blocks: list[Block] = [
      Text(f'It was altered: {words.shown(facts.fault)}.', 'red')
    ]
    return Section('record', 'Was the record altered?', blocks)
  blocks = [
    Text(
      'No: all rows of this run were checked against their chain of hashes when'
      ' this page was made.'
    ),
    Figures(
      [
        Figure(
          'head of the chain',
          facts.head,
          'Keep it where nobody can write who can write the ledger: with it,'
          ' rows'
          ' that are cut off or a chain that is written anew are seen.',
        ),
        Figure('entries', words.figure(facts.entries)),
        Figure('begun', facts.created_at[:19].replace('T', ' ') + ' UTC'),
      ]
    ),
    Text(
      'To check it: `tff-secagg ledger verify RUN --head HEAD`, which needs the'
      ' ledger or an export of it alone.',
    ),
    _transcripts(facts),
  ]
  return Section('record', 'Was the record altered?', blocks)


def _transcripts(facts: RunFacts) -> Text:
  if facts.transcripts is None:
    return Text(
      'Transcripts of the sessions were not looked at: `--transcripts FOLDER`'
      ' compares them.',
      'note',
    )
  if facts.transcripts:
    told = words.listed(facts.transcripts)
    return Text(f'Transcripts of the sessions: {told}.', 'red')
  return Text(
    'The transcripts of all sessions verify, and are those on record.'
  )
