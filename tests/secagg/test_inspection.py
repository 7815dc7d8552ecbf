# SPDX-License-Identifier: Apache-2.0
"""Tests of transcripts and their inspection, on those of real sessions."""

from __future__ import annotations

import copy
import json
import pathlib

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from tests.oracles import secagg as oracle
from tff_secagg_ext.secagg import (
  errors,
  inspection,
  parameters,
  simulation,
  transcript,
)
from tff_secagg_ext.secagg.setup import Security, VectorSpec

SPECS = [VectorSpec('a', 3, 1 << 8)]


def drops(stage: str, client: int) -> bool:
  return (stage, client) in {('invite', 1), ('reveal', 2), ('mask', 3)}


def record(threat: str, kept: transcript.Transcript) -> tuple[int, ...]:
  outcome = simulation.Simulation(Security(threat, dropout=0.2)).run(
    range(12),
    SPECS,
    lambda client: {'a': np.full(3, client)},
    dropouts=drops,
    transcripts=lambda _: kept,
  )
  return outcome.survivors


@pytest.mark.parametrize('threat', ['curious', 'semi-malicious', 'malicious'])
def test_a_real_session_is_taken(threat: str):
  kept = transcript.Transcript.in_memory()
  survivors = record(threat, kept)
  summary = inspection.check(kept.lines)
  assert summary.survivors == len(survivors)
  assert summary.verified is (True if threat == 'malicious' else None)
  assert summary.dropouts['mask'] == 1
  assert (summary.signatures > 0) == (threat != 'curious')


def test_a_file_is_taken_and_never_overwritten(tmp_path: pathlib.Path):
  session = b's' * 32
  kept = transcript.Transcript.create(tmp_path, session, 7)
  record('malicious', kept)
  assert inspection.verify_file(kept.path).threat == 'malicious'
  with pytest.raises(FileExistsError):
    transcript.Transcript.create(tmp_path, session, 7)


def test_other_identities_are_found():
  kept = transcript.Transcript.in_memory()
  record('malicious', kept)
  with pytest.raises(transcript.TranscriptError, match='not known by this'):
    inspection.check(kept.lines, {0: b'i' * 32})


def test_each_altered_line_is_found():
  kept = transcript.Transcript.in_memory()
  record('malicious', kept)
  lines = kept.lines
  for number, line in enumerate(lines):
    for place in range(0, len(line) - 1, 97):
      altered = bytearray(line)
      altered[place] ^= 1
      changed = [*lines[:number], bytes(altered), *lines[number + 1 :]]
      with pytest.raises(transcript.TranscriptError):
        inspection.check(changed)


def test_missing_repeated_and_moved_lines_are_found():
  kept = transcript.Transcript.in_memory()
  record('curious', kept)
  lines = kept.lines
  for number in range(len(lines)):
    for changed in (
      lines[:number] + lines[number + 1 :],
      lines[: number + 1] + lines[number:],
      lines[:number],
    ):
      with pytest.raises(transcript.TranscriptError):
        inspection.check(changed)


def test_a_new_chain_around_a_forged_signature_is_found():
  kept = transcript.Transcript.in_memory()
  record('malicious', kept)
  forged = transcript.Transcript.in_memory()
  for line in kept.lines:
    fields = json.loads(line)
    event = fields.pop('event')
    for name in ('seq', 'prev', 'time', 'hash'):
      del fields[name]
    if event == 'survivors':
      client, signature = fields['confirmations'][0]
      last = '0' if signature[-1] != '0' else '1'
      fields['confirmations'][0] = [client, signature[:-1] + last]
    forged.record(event, **fields)
  with pytest.raises(transcript.TranscriptError, match='does not verify'):
    inspection.check(forged.lines)


def test_an_aborted_session_is_taken():
  kept = transcript.Transcript.in_memory()
  with pytest.raises(errors.Aborted, match='must be left'):
    simulation.Simulation(Security('curious'), min_survivors=5).run(
      range(5),
      SPECS,
      lambda client: {'a': np.full(3, client)},
      dropouts=lambda stage, client: stage == 'share' and client == 0,
      transcripts=lambda _: kept,
    )
  assert 'must be left' in (inspection.check(kept.lines).aborted or '')


def test_survivors_that_may_have_been_parted_are_found(monkeypatch):
  kept = transcript.Transcript.in_memory()
  with monkeypatch.context() as patch:
    # A server and clients that do not care.
    patch.setattr(parameters, 'least_survivors', lambda *_: 1)
    simulation.Simulation(Security('curious', 0.0, 0.1, 8, 1)).run(
      range(12),
      SPECS,
      lambda client: {'a': np.full(3, client)},
      dropouts=lambda stage, client: stage == 'mask' and client < 2,
      transcripts=lambda _: kept,
    )
    inspection.check(kept.lines)
  with pytest.raises(
    transcript.TranscriptError, match='10 survivors of at least 11'
  ):
    inspection.check(kept.lines)


def events_of(lines):
  """The events of a transcript, to be edited and recorded once more."""
  events = []
  for line in lines:
    fields = json.loads(line)
    for name in ('seq', 'prev', 'time', 'hash'):
      del fields[name]
    events.append((fields.pop('event'), fields))
  return events


def chain_of(events) -> tuple[bytes, ...]:
  """A new chain, as whoever keeps the file could make it."""
  kept = transcript.Transcript.in_memory()
  for event, fields in events:
    kept.record(event, **fields)
    if event in transcript.ENDS:
      break
  return kept.lines


@pytest.fixture(scope='module')
def recorded():
  """Events of a session in which clients 1, 2 and 3 are lost on the way."""
  kept = transcript.Transcript.in_memory()
  record('malicious', kept)
  return events_of(kept.lines)


def flipped(digits: str) -> str:
  return digits[:-1] + ('0' if digits[-1] != '0' else '1')


def the(events, wanted, stage=None):
  """The fields of the last event of a kind."""
  return [
    fields
    for event, fields in events
    if event == wanted and (stage is None or fields['stage'] == stage)
  ][-1]


def edit(event, field, change, stage=None):
  """An edit of one field of an event."""

  def apply(events):
    fields = the(events, event, stage)
    fields[field] = change(fields[field])

  return apply


def drop(event, field):
  def apply(events):
    del the(events, event)[field]

  return apply


def remove(event, stage=None):
  def apply(events):
    fields = the(events, event, stage)
    events[:] = [pair for pair in events if pair[1] is not fields]

  return apply


def repeat(event, stage=None):
  def apply(events):
    fields = the(events, event, stage)
    place = next(i for i, pair in enumerate(events) if pair[1] is fields)
    events.insert(place, (event, copy.deepcopy(fields)))

  return apply


def change_row(field, client, column, change):
  """Of a list of rows, an item of the row of a client."""

  def apply(rows):
    return [
      [change(item) if i == column else item for i, item in enumerate(row)]
      if row[0] == client
      else row
      for row in rows
    ]

  event = {'advertisements': 'keys', 'confirmations': 'survivors'}[field]
  return edit(event, field, apply)


def value(new):
  return lambda _: new


FORGERIES = {
  'no setup': (
    lambda events: events.pop(0),
    'a session begins with its setup',
  ),
  'two setups': (repeat('setup'), 'setup cannot follow setup'),
  'no keys': (remove('keys'), 'reveal cannot follow invite'),
  'keys twice': (repeat('keys'), 'keys cannot follow keys'),
  'no graph': (remove('graph'), 'share cannot follow reveal'),
  'no share': (remove('stage', 'share'), 'mask cannot follow graph'),
  'no mask': (remove('stage', 'mask'), 'confirm cannot follow share'),
  'mask twice': (repeat('stage', 'mask'), 'mask cannot follow mask'),
  'no survivors': (remove('survivors'), 'unmask cannot follow confirm'),
  'no unmask': (remove('stage', 'unmask'), 'verify cannot follow survivors'),
  'no verify': (remove('stage', 'verify'), 'result cannot follow unmask'),
  'no such stage': (
    edit('stage', 'stage', value('keys')),
    "`stage` must be 'invite' or 'reveal' or",
  ),
  'no draw': (
    drop('graph', 'draw'),
    'graph has draw, preimages in the active protocol alone',
  ),
  'no confirmations': (
    drop('survivors', 'confirmations'),
    'survivors has confirmations in the active protocol alone, and always',
  ),
  'another class': (
    edit('setup', 'threat', value('semi-malicious')),
    "the signature of client 0's keys does not verify",
  ),
  'another session': (
    edit('setup', 'session', flipped),
    "the signature of client 0's keys does not verify",
  ),
  'another round': (edit('setup', 'round', value(8)), 'keys does not verify'),
  'another vector': (
    edit('setup', 'vectors', value([['a', 4, 256]])),
    'keys does not verify',
  ),
  'lower corruption': (
    edit('setup', 'corrupt', value(0.0)),
    'keys does not verify',
  ),
  'no class': (
    edit('setup', 'threat', value('active')),
    "`threat` must be 'curious' or 'semi-malicious' or 'malicious'",
  ),
  'a large number of neighbors': (
    edit('setup', 'neighbors', value(1 << 32)),
    '`neighbors` must be at most 4294967295',
  ),
  'a large cohort': (
    edit('setup', 'min_survivors', value(1 << 32)),
    '`min_survivors` must be at most 4294967295',
  ),
  'a vector without a modulus': (
    edit('setup', 'vectors', value([['a', 3]])),
    'vectors must',
  ),
  'another identity': (
    change_row('advertisements', 4, 1, flipped),
    "the signature of client 4's keys does not verify",
  ),
  'another channel key': (
    change_row('advertisements', 4, 2, flipped),
    "the signature of client 4's keys does not verify",
  ),
  'another mask key': (
    change_row('advertisements', 4, 3, flipped),
    "the signature of client 4's keys does not verify",
  ),
  'another commitment': (
    change_row('advertisements', 4, 4, flipped),
    "the signature of client 4's keys does not verify",
  ),
  "another client's keys": (
    edit('keys', 'advertisements', lambda rows: [[0, *rows[1][1:]], *rows[1:]]),
    "the signature of client 0's keys does not verify",
  ),
  'a short signature': (
    change_row('advertisements', 4, 5, lambda digits: digits[2:]),
    'signature must be 64 bytes in lower-case hex',
  ),
  'upper case': (
    change_row('advertisements', 4, 5, str.upper),
    'signature must be 64 bytes in lower-case hex',
  ),
  'no hex': (
    change_row('advertisements', 4, 2, lambda digits: 'x' + digits[1:]),
    'key must be 32 bytes in lower-case hex',
  ),
  'a signature that is a number': (
    change_row('advertisements', 4, 5, value(7)),
    'signature must be a string',
  ),
  'one advertised who did not answer': (
    edit(
      'keys',
      'advertisements',
      lambda rows: [rows[0], [1, *rows[1][1:]], *rows[1:]],
    ),
    r'advertisements must be of the clients that answered invite; clients \[1]',
  ),
  'one who answered did not advertise': (
    edit('keys', 'advertisements', lambda rows: rows[:-1]),
    r'advertisements must be of the clients .* clients \[11] are not in both',
  ),
  'a roster with one more': (
    edit('graph', 'clients', lambda ids: [*ids, 12]),
    r'clients must be of the clients that answered .*\[12]',
  ),
  'a roster in another order': (
    edit('graph', 'clients', lambda ids: ids[::-1]),
    'ids of clients must ascend, none twice',
  ),
  'a lower threshold': (
    edit('graph', 'threshold', lambda t: t - 1),
    'threshold',
  ),
  'another draw': (edit('graph', 'draw', lambda draw: draw + 1), 'draw 3 of 2'),
  'no such draw': (
    edit('graph', 'draw', value(5)),
    '`draw` must be at most 4. Found 5',
  ),
  'another preimage': (
    edit('graph', 'preimages', lambda rows: [flipped(rows[0]), *rows[1:]]),
    'client 0 has revealed what it did not commit to',
  ),
  'a preimage missing': (
    edit('graph', 'preimages', lambda rows: rows[1:]),
    'one preimage a client is due',
  ),
  'another seed': (
    edit('graph', 'seed', flipped),
    'the seed is not the hash of what was revealed',
  ),
  'a survivor who did not answer': (
    edit('survivors', 'survivors', lambda ids: sorted([*ids, 3])),
    r'survivors must be of the clients that answered mask; clients \[3]',
  ),
  'a survivor who did not advertise': (
    edit('survivors', 'survivors', lambda ids: sorted([*ids, 1])),
    r'survivors must be of the clients that answered mask; clients \[1]',
  ),
  'a survivor less': (
    edit('survivors', 'survivors', lambda ids: ids[1:]),
    r'survivors must be of the clients that answered mask; clients \[0]',
  ),
  'another confirmation': (
    change_row('confirmations', 5, 1, flipped),
    "the signature of client 5's survivors does not verify",
  ),
  'a confirmation less': (
    edit('survivors', 'confirmations', lambda rows: rows[1:]),
    r'confirmations must be of the clients that answered confirm',
  ),
  'heard after dropping out': (
    edit(
      'stage',
      'answers',
      lambda rows: [*rows[:1], [1, 1, 1, 0.0], *rows[1:]],
      'share',
    ),
    r'clients \[1] have not answered the stage before',
  ),
  'answering and dropping out': (
    edit('stage', 'dropouts', value([0]), 'share'),
    'a client is two of answering, dropped out and refusing',
  ),
  'refusing and answering': (
    edit('stage', 'refusals', value([[0, 'BadKey']]), 'share'),
    'a client is two of answering, dropped out and refusing',
  ),
  'a refusal without a name': (
    edit('stage', 'refusals', value([[99, 7]]), 'invite'),
    'refusals must be a string',
  ),
  'bytes below zero': (
    edit('stage', 'answers', value([[0, -1, 1, 0.0]]), 'verify'),
    'must be at least 0. Found -1',
  ),
  'an answer without a time': (
    edit('stage', 'answers', value([[0, 1, 1]]), 'verify'),
    'answers must',
  ),
  'an id that is none': (
    edit('stage', 'answers', value([[-1, 1, 1, 0.0]]), 'verify'),
    '`answers` must be at least 0. Found -1',
  ),
  'a table that is none': (
    edit('stage', 'answers', value('none'), 'verify'),
    'answers must be a list',
  ),
  'not verified': (
    edit('result', 'verified', value(None)),
    'verified is None, where the setup has True',
  ),
  'verified, perhaps': (
    edit('result', 'verified', value('yes')),
    '`verified` must be True or False',
  ),
  'a short digest': (
    edit('result', 'digest', value('00')),
    'digest must be 32 bytes in lower-case hex',
  ),
  'no duration': (
    edit('result', 'seconds', value(-1)),
    r'`seconds` must be in \[0, inf]',
  ),
}


@pytest.mark.parametrize('name', FORGERIES)
def test_a_new_chain_around_a_forgery_is_found(recorded, name):
  forge, message = FORGERIES[name]
  events = copy.deepcopy(recorded)
  inspection.check(chain_of(events))
  forge(events)
  with pytest.raises(transcript.TranscriptError, match=message):
    inspection.check(chain_of(events))


def test_too_few_survivors_are_found():
  kept = transcript.Transcript.in_memory()
  record('curious', kept)
  events = events_of(kept.lines)
  edit('setup', 'min_survivors', value(11))(events)
  with pytest.raises(transcript.TranscriptError, match=' of at least 11'):
    inspection.check(chain_of(events))


@pytest.mark.parametrize(
  ('field', 'wrong', 'message'),
  [
    ('reason', 7, 'reason must be a string'),
    ('stage', 'then', "`stage` must be 'invite' or 'reveal'"),
    ('sum_known', None, '`sum_known` must be True or False'),
  ],
)
def test_an_abort_is_what_it_should_be(recorded, field, wrong, message):
  end = {'reason': 'why', 'stage': 'share', 'sum_known': False}
  events = [*recorded[:3], ('aborted', end)]
  assert inspection.check(chain_of(events)).aborted == 'why'
  events = [*recorded[:3], ('aborted', {**end, field: wrong})]
  with pytest.raises(transcript.TranscriptError, match=message):
    inspection.check(chain_of(events))


JSON = st.recursive(
  st.none()
  | st.booleans()
  | st.integers(-2, 1 << 70)
  | st.floats(allow_nan=False, allow_infinity=False)
  | st.text(max_size=4)
  | st.sampled_from(['00' * 32, 'ab' * 64, 'malicious', 'mask']),
  lambda inner: st.lists(inner, max_size=4),
  max_leaves=6,
)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_any_contents_are_taken_or_refused_by_line(recorded, data):
  """No chain around any JSON is a crash."""
  events = copy.deepcopy(recorded)
  number = data.draw(st.integers(0, len(events) - 1))
  place = events[number][1]
  key = data.draw(st.sampled_from(sorted(place)))
  while (
    isinstance(place[key], list) and place[key] and data.draw(st.booleans())
  ):
    place = place[key]
    key = data.draw(st.integers(0, len(place) - 1))
  place[key] = data.draw(JSON)
  try:
    inspection.check(chain_of(events))
  except transcript.TranscriptError as error:
    assert number < error.line <= len(events)


def test_signatures_are_those_of_the_page(recorded):
  """By the independent oracle: what is signed, and the seed of the graph."""
  fields = the(recorded, 'setup')
  setup = oracle.Setup(
    session=bytes.fromhex(fields['session']),
    round=fields['round'],
    threat=2,
    verify=True,
    gamma=fields['corrupt'],
    delta=fields['dropout'],
    neighbors=0,
    threshold=0,
    min_survivors=fields['min_survivors'],
    vectors=tuple(oracle.Vector(*vector) for vector in fields['vectors']),
  )
  identities = {}
  for client, *values in the(recorded, 'keys')['advertisements']:
    *head, signature = map(bytes.fromhex, values)
    identities[client], *content = head
    text = oracle.keys_text(setup.digest, client, *content)
    oracle.check_signature(identities[client], signature, text)
  graph, end = the(recorded, 'graph'), the(recorded, 'survivors')
  positions = [graph['clients'].index(client) for client in end['survivors']]
  text = oracle.survivors_text(
    setup.digest,
    bytes.fromhex(graph['seed']),
    positions,
    len(graph['clients']),
  )
  assert len(end['confirmations']) == 9
  for client, signature in end['confirmations']:
    oracle.check_signature(identities[client], bytes.fromhex(signature), text)
