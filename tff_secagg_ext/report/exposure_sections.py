# SPDX-License-Identifier: Apache-2.0
"""Sections on who sees what, and what anybody saw without noise."""

from __future__ import annotations

from collections.abc import Iterator

from tff_secagg_ext import accounting
from tff_secagg_ext.report import words
from tff_secagg_ext.report.document import (
  Block,
  Items,
  Section,
  Table,
  Text,
)
from tff_secagg_ext.report.facts import RunFacts

SIMULATED = (
  'The clients of this run were simulated in one process, which sees all of'
  ' them: it says what a deployment would cost, and hides nothing from whoever'
  ' ran it.'
)


def against(facts: RunFacts) -> Section:
  """Returns who sees what, and what protects from them."""
  blocks: list[Block] = [threats(facts)]
  stated = facts.settings.get('secure_sums')
  if facts.external:
    blocks = [Text(told, 'red') for told in elsewhere(facts)]
  elif len(facts.series) and not words.is_secret(stated):
    blocks.append(
      Text(
        'ε towards the coordinator holds only where it sees the sum alone. Here'
        f' vectors are summed so: {words.sums(stated)}.',
        'red',
      )
    )
  elif is_simulated(facts):
    blocks.append(Text(SIMULATED, 'note'))
  return Section('against', 'Against whom', blocks)


def is_simulated(facts: RunFacts) -> bool:
  """Whether the clients were no real ones."""
  clients = facts.mapping('secure_sums').get('clients')
  return clients == 'simulated in one process'


def threats(facts: RunFacts) -> Table:
  """Returns a table of adversaries."""
  stated = facts.mapping('secure_sums')
  secret = words.is_secret(stated)
  server = words.figure(facts.server.value) if secret else words.NOT_KNOWN
  colluders = int(facts.mapping('aggregator').get('max_colluders') or 0)
  protocol = 'SecAgg+ and noise' if secret else 'no protocol: sums in the clear'
  threat = words.shown(stated.get('threat', 'none')) if secret else 'none'
  rows = [
    (
      'whoever sees the models, and took no part',
      'models, metrics',
      'noise, sampling',
      words.figure(facts.release.value),
    ),
    ('the coordinator, honest', 'sums, who took part', protocol, server),
    (
      f'the coordinator with {words.plural(colluders, "client")}',
      'their noise and keys, too',
      'noise of the others' if secret else protocol,
      server,
    ),
    (
      'a client of the same round',
      'the model, and who took part',
      'noise of the others'
      if facts.clients_add_noise
      else 'noise of the server',
      server,
    ),
    _cheating(threat, server),
    (
      'a client that cheats',
      'its own update',
      'zeroing, clipping, norm bound',
      words.NOT_KNOWN,
    ),
  ]
  return Table(
    'Who sees what', ('against', 'it sees', 'what protects', 'ε'), rows
  )


def _cheating(threat: str, server: str) -> tuple[str, str, str, str]:
  """Returns the row of a coordinator that does not follow the protocol."""
  protects, epsilon = {
    'malicious': ('signed and checked messages; it can stop a round', server),
    'semi-malicious': ('the same, once keys are exchanged honestly', server),
  }.get(threat, (f'nothing: the threat class is “{threat}”', words.NOT_KNOWN))
  return 'a coordinator that cheats', 'whatever it asks for', protects, epsilon


def unnoised(facts: RunFacts) -> Section:
  """Returns what left the clients without noise, and who saw it."""
  return Section(
    'unnoised', 'Who saw un-noised numbers', list(_unnoised(facts))
  )


def exact_releases(facts: RunFacts) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Returns what everybody saw without noise, and what the server alone did."""
  everybody: dict[str, None] = {}
  server: dict[str, None] = {}
  for charge, _ in facts.charges:
    for event in charge.events:
      if isinstance(event, accounting.UnaccountedEvent):
        everybody |= dict.fromkeys(event.reasons)
      elif isinstance(event, accounting.SeenByServerEvent):
        server |= dict.fromkeys(event.reasons)
  return tuple(everybody), tuple(server)


def _unnoised(facts: RunFacts) -> Iterator[Block]:
  if facts.external:
    yield from (Text(told, 'red') for told in elsewhere(facts))
    return
  found = _seen(facts)
  for who, what in found.items():
    yield Text(who, 'red')
    yield Items([words.shown(each) for each in what], 'red')
  if not found:
    yield Text(_NOBODY if len(facts.series) else _NOTHING)
  stated = facts.settings.get('secure_sums')
  if len(facts.series) and not words.is_secret(stated):
    seen = (
      'Before the noise of all is summed, whoever adds the vectors sees each of'
      ' them with its own share of noise alone'
      if facts.clients_add_noise
      else 'Whoever adds the vectors sees each of them without any noise'
    )
    yield Text(f'{seen}: {words.sums(stated)}.', 'red')


def elsewhere(facts: RunFacts) -> tuple[str, ...]:
  """Returns what is known of what ran elsewhere, one sentence a source."""
  return tuple(
    f'This ran elsewhere ({words.shown(each.get("source"))}), in the trust'
    ' domain'
    f' “{words.shown(each.get("trust_domain"))}”, and'
    f' {words.shown(each.get("vouched_by"))} vouches for it. Of who saw what'
    ' there'
    ' the ledger knows nothing else.'
    for each in facts.external
  )


def _seen(facts: RunFacts) -> dict[str, list[str]]:
  """Returns what is not noised, by who saw it; nothing else is in it."""
  everybody, server = exact_releases(facts)
  found = {
    'Whoever sees what was released, without an account:': list(everybody),
    'The coordinator alone:': list(server),
    'Waived: left out of ε, and answered for by name:': [
      f'{w.name}, by {w.by}: {w.why}' for w in facts.waivers
    ],
    **{
      who: [reason for reason in why if reason not in (*everybody, *server)]
      for who, why in infinite(facts).items()
    },
  }
  return {who: what for who, what in found.items() if what}


def infinite(facts: RunFacts) -> dict[str, list[str]]:
  """Returns why no epsilon is finite, towards everybody and the coordinator."""
  release = list(facts.release.reasons)
  server = [reason for reason in facts.server.reasons if reason not in release]
  return {
    'ε is infinite, because of:': release,
    'ε towards the coordinator is infinite, because of:': server,
  }


_NOBODY = (
  'Nobody. All that leaves the clients is in a noised sum, as read off the'
  ' compiled process; what is recorded is public or noised.'
)
_NOTHING = 'Nobody: nothing has left the clients.'
