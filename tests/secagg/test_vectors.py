# SPDX-License-Identifier: Apache-2.0
"""The implementation meets the known answers of tests/vectors/1/secagg/.

An independent oracle has made them from docs/protocol.md alone.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
import contextlib
import functools
import hashlib
import io
import json
import pathlib
import types
from typing import Any

import numpy as np
import pytest

from tff_secagg_ext.secagg import (
  checks,
  client,
  client_state,
  codec,
  errors,
  keys,
  messages,
  ring,
  server,
  server_state,
  session,
  shamir,
  tagging,
  unmasking,
)
from tff_secagg_ext.secagg.codec import Channel, Kind
from tff_secagg_ext.secagg.graph import Graph
from tff_secagg_ext.secagg.setup import (
  THREAT_CLASSES,
  Security,
  Setup,
  VectorSpec,
)

FOLDER = pathlib.Path(__file__).parents[1] / 'vectors' / '1' / 'secagg'
SESSIONS = sorted(path.stem for path in FOLDER.glob('session_*.json'))

Fields = dict[str, Any]


def load(name: str) -> Any:
  return json.loads((FOLDER / f'{name}.json').read_text())


def unhex(items: list[str]) -> tuple[bytes, ...]:
  return tuple(map(bytes.fromhex, items))


def setup_of(fields: Fields) -> Setup:
  return Setup(
    bytes.fromhex(fields['session']),
    fields['round'],
    Security(
      THREAT_CLASSES[fields['threat']],
      fields['gamma'],
      fields['delta'],
      fields['neighbors'] or None,
      fields['threshold'] or None,
    ),
    fields['verify'],
    fields['min_survivors'],
    tuple(VectorSpec(**vector) for vector in fields['vectors']),
  )


class Script:
  """Gives bytes that were drawn before, in the order of the client's steps."""

  def __init__(self, drawn: Fields, active: bool):
    secrets = ['c', 's', 'x'] if active else ['c', 's']
    self._left = b''.join(bytes.fromhex(drawn[name]) for name in secrets)
    if 'b' in drawn:
      self._left += bytes.fromhex(drawn['b'])
      self._left += drawn_bytes(drawn['b_coefficients'])
      self._left += drawn_bytes(drawn['s_coefficients'])

  def __call__(self, count: int) -> bytes:
    assert count <= len(self._left)
    taken, self._left = self._left[:count], self._left[count:]
    return taken

  def is_used_up(self) -> bool:
    return not self._left


def drawn_bytes(coefficients: list[list[int]]) -> bytes:
  """The bytes of coefficients: degree by degree, in each word by word."""
  return np.array(coefficients, '<u4').T.tobytes()


# Parts of the protocol.


@pytest.mark.parametrize('kind', ['int64', 'accumulator'])
def test_packing(kind: str):
  for case in load('packing')['cases']:
    modulo = ring.Ring(case['modulus'])
    dtype = modulo.accumulator if kind == 'accumulator' else np.int64
    packed = bytes.fromhex(case['packed'])
    assert modulo.pack(np.array(case['values'], dtype)) == packed
    length = len(case['values'])
    assert modulo.packed_bytes(length) == len(packed)
    unpacked = modulo.unpack(memoryview(packed), length)
    assert unpacked.tolist() == case['values']


def test_masks():
  for case in load('masks')['cases']:
    modulo, mask = ring.Ring(case['modulus']), case['mask']
    key = bytes.fromhex(case['key'])
    assert modulo.mask(len(mask), key).tolist() == mask
    total = modulo.zeros(len(mask))
    modulo.apply_mask(total, key, -1)
    assert modulo.reduce(total).tolist() == [
      -value % case['modulus'] for value in mask
    ]


def test_long_masks():
  for case in load('masks')['long']:
    modulo = ring.Ring(case['modulus'])
    packed = modulo.pack(
      modulo.mask(case['length'], bytes.fromhex(case['key']))
    )
    assert hashlib.sha256(packed).hexdigest() == case['sha256_of_packed']


def test_derived_keys():
  data = load('keys')
  digest = bytes.fromhex(data['setup_digest'])
  for case in data['derived']:
    key = keys.derive(
      bytes.fromhex(case['secret']),
      digest,
      case['role'].encode(),
      (case['a'], case['b']),
      case['name'].encode(),
    )
    assert key.hex() == case['key'], case['role']


def test_agreements():
  for case in load('keys')['agreed']:
    one, other = map(keys.KeyPair, unhex(case['privates']))
    assert [one.public.hex(), other.public.hex()] == case['publics']
    assert one.agree(other.public).hex() == case['secret']
    assert other.agree(one.public).hex() == case['secret']


def test_sealed_shares():
  for case in load('keys')['sealed']:
    key, ciphertext = unhex([case['key'], case['ciphertext']])
    plain = bytes.fromhex(case['b_share'] + case['s_share'])
    assert keys.seal(key, plain) == ciphertext
    assert keys.unseal(key, ciphertext) == plain


def test_hash_chains():
  for case in load('keys')['chains']:
    for steps, element in enumerate(case['elements'], 1):
      assert keys.chain(bytes.fromhex(case['x']), steps).hex() == element


def test_shares():
  for case in load('shares')['cases']:
    secret, threshold = bytes.fromhex(case['secret']), case['threshold']
    shares = unhex(case['shares'])
    draw = io.BytesIO(drawn_bytes(case['coefficients'])).read
    made = shamir.share(secret, len(shares), threshold, draw)
    assert tuple(made) == shares
    assert not draw()
    for first in range(len(shares) - threshold + 1):
      points = range(first + 1, first + threshold + 1)
      chosen = shares[first : first + threshold]
      assert shamir.combine(points, chosen) == secret


def test_what_is_shareable():
  for case in load('shares')['shareable']:
    secret = bytes.fromhex(case['secret'])
    assert shamir.is_shareable(secret) == case['shareable']


def test_graphs():
  for case in load('graphs')['cases']:
    graph = Graph(case['n'], case['k'], bytes.fromhex(case['seed']))
    found = [list(graph.neighbors(i)) for i in range(case['n'])]
    assert found == case['neighbors']


def test_joint_seed_of_a_graph():
  case = load('graphs')['joint_seed']
  digest, roster = unhex([case['setup_digest'], case['roster_body']])
  seed = keys.digest(b'graph', digest, roster, *unhex(case['preimages']))
  assert seed.hex() == case['seed']


def test_verifiable_sums():
  for case in load('verifiable_sums')['cases']:
    spec = VectorSpec(**case['vector'])
    key, digest = unhex([case['key'], case['setup_digest']])
    tagger = tagging.Tagger(key, digest, case['round'])
    for one in case['clients']:
      vector = np.array(one['values'], np.int64)
      tagged = tagger.tagged(vector, spec, one['id'])
      assert tagged.tolist() == one['values'] + one['tag']
    # The digest is that of the setup in the data: this one is for its shape.
    shape = Setup(bytes(32), 0, Security(), True, 1, (spec,))
    body = tagging.pack([np.array(case['sum'], np.int64)], shape)
    ids = [one['id'] for one in case['clients']]
    tagger.check(memoryview(body), shape, ids)
    with pytest.raises(errors.WrongSum, match='not that of the survivors'):
      tagger.check(memoryview(body), shape, ids[:-1])


# Messages.


def flags(positions: list[int], count: int) -> bytes:
  return codec.pack_bits(i in positions for i in range(count))


def body_of(kind: Kind, fields: Fields, setup: Setup, shape: Fields) -> bytes:
  """The body that the implementation writes of the fields of the data."""
  match kind:
    case Kind.SETUP:
      return messages.encode_setup(setup)
    case Kind.ADVERTISEMENT | Kind.ROSTER | Kind.NEIGHBORS:
      return as_message(kind, fields).encode()
    case Kind.DELIVERY:
      bitmap = flags(fields['shared'], shape['neighbors'])
      return bitmap + b''.join(unhex(fields['ciphertexts']))
    case Kind.MASKED_INPUT | Kind.RESULT:
      vectors = [np.array(v, np.int64) for v in fields['vectors']]
      return tagging.pack(vectors, setup)
    case Kind.SURVIVORS:
      return flags(fields['survivors'], shape['roster'])
    case Kind.UNMASK_REQUEST:
      return as_request(fields, shape).encode()
    case _:
      (only,) = fields.values()
      return b''.join(unhex(only if isinstance(only, list) else [only]))


def as_message(kind: Kind, fields: Fields) -> Any:
  if kind == Kind.ADVERTISEMENT:
    return messages.Advertisement(*unhex([*fields.values()]))
  if kind == Kind.ROSTER:
    ids, commitments = zip(*fields['members'], strict=True)
    return messages.Roster(fields['draw'], ids, unhex(commitments))
  peers = tuple(
    messages.Peer(peer['position'], peer['id'], *unhex([*peer.values()][2:]))
    for peer in fields['neighbors']
  )
  head = [fields[name] for name in ('n', 'k', 't', 'position')]
  return messages.Neighbors(*head, peers, unhex(fields.get('preimages', [])))


def as_request(fields: Fields, shape: Fields) -> messages.UnmaskRequest:
  survivors = flags(fields['survivors'], shape['roster'])
  if not shape['active']:
    return messages.UnmaskRequest(survivors)
  confirmed = flags(fields['confirmed'], shape['neighbors'])
  return messages.UnmaskRequest(
    survivors, confirmed, unhex(fields['signatures'])
  )


def read(kind: Kind, body: memoryview, setup: Setup, shape: Fields) -> Any:
  """What the implementation reads in a body."""
  active = shape['active']
  match kind:
    case Kind.SETUP:
      return messages.decode_setup(body)
    case Kind.ADVERTISEMENT:
      return messages.Advertisement.decode(body, active)
    case Kind.ROSTER:
      return messages.Roster.decode(body)
    case Kind.NEIGHBORS:
      return messages.Neighbors.decode(body, active)
    case Kind.REVEAL | Kind.VERDICT:
      return codec.split(body, 1, keys.DIGEST_BYTES)
    case Kind.CONFIRMATION:
      return codec.split(body, 1, keys.SIGNATURE_BYTES)
    case Kind.SHARES:
      return codec.split(body, shape['neighbors'], keys.SEALED_SHARES_BYTES)
    case Kind.DELIVERY:
      size = codec.bitmap_bytes(shape['neighbors'])
      there = codec.unpack_bits(bytes(body[:size]), shape['neighbors'])
      return codec.split(body[size:], sum(there), keys.SEALED_SHARES_BYTES)
    case Kind.MASKED_INPUT | Kind.RESULT:
      return tagging.unpack(body, setup)
    case Kind.SURVIVORS:
      return codec.unpack_bits(bytes(body), shape['roster'])
    case Kind.UNMASK_REQUEST:
      neighbors = shape['neighbors'] if active else None
      return messages.UnmaskRequest.decode(body, shape['roster'], neighbors)
    case Kind.UNMASK_SHARES:
      owners = tuple(range(1, shape['shared'] + 1))
      cohort = types.SimpleNamespace(neighbors={0: owners}, setup=setup)
      known = unmasking.Masked(cohort, owners, owners, None)
      return known.read_shares(0, body)
  raise AssertionError(kind)


@pytest.mark.parametrize('group', [0, 1], ids=['passive', 'active'])
def test_messages(group: int):
  data = load('messages')['groups'][group]
  setup, shape = setup_of(data['setup']), data['shape']
  digest = messages.setup_digest(messages.encode_setup(setup))
  assert digest.hex() == data['setup_digest']
  for case in data['messages']:
    kind = Kind(case['type'])
    assert kind.name.replace('_', '') == case['message'].upper()
    body = body_of(kind, case['fields'], setup, shape)
    assert body.hex() == case['body'], case['message']
    binding = codec.UNBOUND if kind == Kind.SETUP else digest
    channel = Channel(data['client'], binding)
    message = channel.seal(kind, body)
    assert message.hex() == case['bytes'], case['message']
    assert channel.open(message, kind) == (kind, body)


@pytest.mark.parametrize('group', [0, 1], ids=['passive', 'active'])
def test_what_is_read_is_what_was_written(group: int):
  data = load('messages')['groups'][group]
  setup, shape = setup_of(data['setup']), data['shape']
  for case in data['messages']:
    kind, fields = Kind(case['type']), case['fields']
    body = memoryview(bytes.fromhex(case['body']))
    found = read(kind, body, setup, shape)
    if kind == Kind.SETUP:
      assert found == setup
    elif kind in (Kind.ADVERTISEMENT, Kind.ROSTER, Kind.NEIGHBORS):
      assert found == as_message(kind, fields)
    elif kind == Kind.UNMASK_REQUEST:
      assert found == as_request(fields, shape)
    elif kind in (Kind.MASKED_INPUT, Kind.RESULT):
      assert [vector.tolist() for vector in found] == fields['vectors']
    elif kind == Kind.SURVIVORS:
      assert [i for i, alive in enumerate(found) if alive] == [
        *fields['survivors']
      ]
    else:
      wanted = [*fields.values()][-1]
      assert found == [*unhex(wanted if len(found) > 1 else [wanted])]


def test_setups():
  for case in load('messages')['setups']:
    setup = setup_of(case['fields'])
    body = messages.encode_setup(setup)
    assert body.hex() == case['body']
    assert messages.setup_digest(body).hex() == case['setup_digest']
    message = Channel(case['client']).seal(Kind.SETUP, body)
    assert message.hex() == case['bytes']
    assert messages.decode_setup(memoryview(body)) == setup


def bad_messages() -> Iterator[Any]:
  for name in ('curious', 'malicious'):
    data = load(f'refused_{name}')
    head = {key: data[key] for key in data if key != 'cases'}
    for case in data['cases']:
      what = f'{name} {case["message"]}: {case["what"]}'
      yield pytest.param(head, case, id=what)


@pytest.mark.parametrize(('head', 'case'), [*bad_messages()])
def test_bad_messages_are_refused(head: Fields, case: Fields):
  setup, kind = setup_of(head['setup']), Kind(case['type'])
  digest = bytes.fromhex(head['setup_digest'])
  binding = codec.UNBOUND if kind == Kind.SETUP else digest
  channel = Channel(head['client'], binding)
  message = bytes.fromhex(case['bytes'])
  if case['reason'] in ('checksum', 'version', 'type'):
    with pytest.raises(errors.MessageError, match=case['reason']):
      channel.open(message, kind)
  else:
    with pytest.raises(errors.MessageError):
      _, body = channel.open(message, kind)
      read(kind, body, setup, head['shape'])


# Whole sessions.


class Recorded:
  """A session of the data."""

  def __init__(self, name: str):
    self.data = data = load(name)
    self.setup = setup_of(data['setup'])
    self.drawn = {int(i): drawn for i, drawn in data['drawn'].items()}
    self.steps = [
      (
        step['step'].split()[0],
        {int(i): bytes.fromhex(m) for i, m in step['sent'].items()},
        {int(i): bytes.fromhex(m) for i, m in step['answers'].items()},
      )
      for step in data['steps']
    ]
    self.registry = {
      i: self.identity(i).public
      for i in self.drawn
      if self.setup.security.active
    }

  def identity(self, i: int) -> keys.Identity:
    return keys.Identity(bytes.fromhex(self.drawn[i]['identity']))

  def client(self, i: int, script: Script) -> client.Client:
    setup, active = self.setup, self.setup.security.active
    return client.Client(
      i,
      checks.Policy(
        setup.security, setup.verify, setup.min_survivors, setup.vectors
      ),
      client_state.Credentials(
        self.identity(i) if active else None,
        self.registry,
        bytes.fromhex(self.data['sum_key']) or None,
      ),
      script,
    )

  def script(self, i: int) -> Script:
    return Script(self.drawn[i], self.setup.security.active)

  def vectors(self, i: int) -> dict[str, np.ndarray]:
    return {
      name: np.array(values, np.int64)
      for name, values in self.data['inputs'][str(i)].items()
    }

  def replay(self, i: int, count: int) -> Callable[[bytes], Any]:
    """What takes the next message of a client that has had so many."""
    own = self.client(i, self.script(i))
    take = functools.partial(own.join, vectors=lambda: self.vectors(i))
    for _, sent, _ in self.steps[:count]:
      state, _ = take(sent[i])
      take = state.receive
    return take

  def server(self) -> server_state.State:
    return server.Inviting(self.setup, self.drawn, self.registry)


@pytest.fixture(params=SESSIONS)
def recorded(request, monkeypatch) -> Recorded:
  found = Recorded(request.param)
  # The one thing that the server draws in a session: the passive graph's seed.
  seed = bytes.fromhex(found.data['seed'])
  kernel = types.SimpleNamespace(urandom=lambda count: seed[:count])
  monkeypatch.setattr(server, 'os', kernel)
  return found


def test_clients_of_the_data_are_ours(recorded: Recorded):
  (_, _, joined), *_ = recorded.steps
  for i in joined:
    script = recorded.script(i)
    own = recorded.client(i, script)
    state = None
    for stage, sent, answers in recorded.steps:
      if i not in answers:
        break
      if state is None:
        state, answer = own.join(sent[i], lambda i=i: recorded.vectors(i))
      else:
        state, answer = state.receive(sent[i])
      assert answer == answers[i], (stage, i)
    else:
      assert isinstance(state, client.Finished)
      assert script.is_used_up()


class Playback:
  """A transport that expects the requests of the data, and has its answers."""

  other_seconds = 0.0

  def __init__(self, steps: list[Any]):
    self._steps = iter(steps)

  def exchange(self, stage: str, requests: Any) -> Iterator[session.Answer]:
    name, sent, answers = next(self._steps)
    assert stage == name
    assert dict(requests) == sent, stage
    for i, message in reversed(answers.items()):
      yield session.Answer(i, message)


def test_the_server_of_the_data_is_ours(recorded: Recorded):
  transport = Playback(recorded.steps)
  outcome = session.run(
    recorded.setup, recorded.drawn, transport, registry=recorded.registry
  )
  assert next(transport._steps, None) is None
  data = recorded.data
  assert [*outcome.survivors] == data['survivors']
  sums = {name: total.tolist() for name, total in outcome.sums.items()}
  assert sums == data['sums']
  assert outcome.report.neighbors == data['neighbors']
  assert outcome.report.threshold == data['threshold']
  dropouts: collections.Counter[str] = collections.Counter()
  for stage, sent, answers in recorded.steps:
    dropouts[stage] += len(sent) - len(answers)
  assert +dropouts == outcome.report.dropouts


def damaged(message: bytes, channel: Channel) -> Iterator[bytes]:
  """What no party may accept in place of a message."""
  yield message[:-1]
  yield message + b'\0'
  yield message[:1] + bytes([message[1] % 14 + 1]) + message[2:]
  yield bytes([*message[:-1], message[-1] ^ 1])
  body = message[codec.HEADER_BYTES :]
  kind = Kind(message[1])
  yield channel.seal(kind, body + b'\0')
  yield Channel(channel.client ^ 1, channel.binding).seal(kind, body)
  yield Channel(channel.client, keys.sha256(b'another')).seal(kind, body)


def test_clients_refuse_damaged_messages(recorded: Recorded):
  digest = bytes.fromhex(recorded.data['setup_digest'])
  finished = recorded.steps[-1][2]
  i = next(iter(finished))
  for count, (_, sent, _) in enumerate(recorded.steps):
    channel = Channel(i, digest if count else codec.UNBOUND)
    for message in damaged(sent[i], channel):
      take = recorded.replay(i, count)
      with pytest.raises((errors.MessageError, errors.Refusal)):
        take(message)


def test_clients_refuse_bits_of_padding(recorded: Recorded):
  digest = bytes.fromhex(recorded.data['setup_digest'])
  i = next(iter(recorded.steps[-1][2]))
  roster = len(next(s for name, s, _ in recorded.steps if name == 'share'))
  neighbors = recorded.data['neighbors']
  for count, (stage, sent, _) in enumerate(recorded.steps):
    if stage not in ('mask', 'confirm', 'unmask'):
      continue
    width = neighbors if stage == 'mask' else roster
    if width % 8:
      body = bytearray(sent[i][codec.HEADER_BYTES :])
      body[width // 8] |= 0x80
      message = Channel(i, digest).seal(Kind(sent[i][1]), bytes(body))
      take = recorded.replay(i, count)
      with pytest.raises((errors.MessageError, errors.BadSurvivors)):
        take(message)


def test_the_server_drops_clients_with_damaged_messages(recorded: Recorded):
  digest = bytes.fromhex(recorded.data['setup_digest'])
  for count, (_, _, answers) in enumerate(recorded.steps):
    i = next(iter(answers))
    for message in damaged(answers[i], Channel(i, digest)):
      state = recorded.server()
      for _, _, good in recorded.steps[:count]:
        state = state.receive(good.items())
      with contextlib.suppress(errors.Aborted):
        state.receive((answers | {i: message}).items())
      assert state.rejected.keys() == {i}
