# SPDX-License-Identifier: Apache-2.0
"""The slow oracle of the protocol against sums, definitions and itself."""

from __future__ import annotations

import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from tests.oracles import make_vectors, secagg, secagg_session
from tests.oracles.secagg_messages import Examples, Stream

MODULI = st.integers(2, 2**62) | st.sampled_from(make_vectors.MODULI)
SUM_KEY = b'K' * 32


def make_server(seed: int, dropout: float, **changes) -> secagg_session.Server:
  """A session in which everybody drops out at every step with a probability."""
  stream, luck = Stream(f'oracle {seed}'), random.Random(seed)
  setup = secagg.Setup(
    session=stream(32),
    round=seed,
    threat=seed % 3,
    verify=seed % 3 == 2,
    gamma=0.0,
    delta=0.4,
    neighbors=luck.choice((4, 6, 100)),
    threshold=2,
    min_survivors=1,
    vectors=(
      secagg.Vector('even', 4, 2**20),
      secagg.Vector('odd', 3, 2**20 - 1),
      secagg.Vector('empty', 0, 3),
    ),
  )._replace(**changes)
  ids = stream.ids(luck.randint(5, 9))
  identities = {client: stream(32) for client in ids}
  publics = {i: secagg.public_ed25519(key) for i, key in identities.items()}
  clients = {
    client: secagg_session.Client(
      client, stream, identities[client], publics, SUM_KEY
    )
    for client in ids
  }
  inputs = {
    client: {v.name: stream.vector(v.length, v.modulus) for v in setup.vectors}
    for client in ids
  }
  return secagg_session.Server(
    setup, clients, inputs, lambda step, client: luck.random() < dropout
  )


def plain_sums(server: secagg_session.Server) -> dict[str, list[int]]:
  return {
    vector.name: [
      sum(server.inputs[i][vector.name][j] for i in server.survivors)
      % vector.modulus
      for j in range(vector.length)
    ]
    for vector in server.setup.vectors
  }


def test_sessions_give_the_sum_over_the_survivors_or_end():
  completed = 0
  for seed in range(120):
    server = make_server(seed, dropout=0.06)
    try:
      sums = server.run(seed=bytes(31) + bytes([seed]))
    except secagg_session.Aborted:
      continue
    completed += 1
    assert sums == plain_sums(server)
  assert 60 <= completed < 120


def test_a_session_without_dropouts_completes():
  for seed in range(12):
    server = make_server(seed, dropout=0.0)
    assert server.run(seed=SUM_KEY) == plain_sums(server)
    assert server.survivors == list(server.clients)
    steps = [step.name for step in server.log]
    assert ('reveal 1' in steps) == ('confirm' in steps) == (seed % 3 > 0)


def test_what_is_sent_of_a_vector_is_not_the_vector():
  server = make_server(0, dropout=0.0)
  server.run(seed=SUM_KEY)
  for client, vectors in server.masked.items():
    assert vectors[0] != server.inputs[client]['even']


@pytest.mark.parametrize('threat', [1, 2])
def test_an_active_session_ends_after_four_draws(threat):
  server = make_server(1, dropout=0.0, threat=threat)
  ids = iter(list(server.clients))
  server.silent = lambda step, client: (
    step.startswith('reveal') and client == gone[step]
  )
  gone = {f'reveal {draw}': next(ids) for draw in range(1, 5)}
  with pytest.raises(secagg_session.Aborted, match='no draw was complete'):
    server.run()


def test_too_few_clients_end_a_session():
  server = make_server(0, dropout=0.0, min_survivors=5)
  last = list(server.clients)[4:]
  server.silent = lambda step, client: step == 'mask' and client in last
  with pytest.raises(secagg_session.Aborted, match='min_survivors'):
    server.run(seed=SUM_KEY)


def nine(threat: int) -> secagg_session.Server:
  """A sparse session of nine clients, of which two may be lost."""
  server = make_server(
    1, dropout=0.0, threat=threat, verify=False, neighbors=6, delta=0.24
  )
  assert len(server.clients) == 9
  return server


@pytest.mark.parametrize('threat', [0, 1])
def test_more_losses_than_a_sparse_graph_bears_end_a_session(threat):
  for lost in (2, 3):
    server = nine(threat)
    last = list(server.clients)[-lost:]
    server.silent = lambda step, client, last=last: (
      step == 'mask' and client in last
    )
    if lost == 2:
      assert server.run(seed=SUM_KEY) == plain_sums(server)
      continue
    with pytest.raises(secagg_session.Aborted, match='may have been parted'):
      server.run(seed=SUM_KEY)


@pytest.mark.parametrize('threat', [0, 1])
def test_clients_refuse_survivors_that_may_be_parted(threat, monkeypatch):
  server = nine(threat)
  last = list(server.clients)[-3:]
  server.silent = lambda step, client: step == 'mask' and client in last
  real = secagg_session.least_survivors
  calls = []

  def lenient_server(*args):
    calls.append(args)
    return 0 if len(calls) == 1 else real(*args)

  monkeypatch.setattr(secagg_session, 'least_survivors', lenient_server)
  with pytest.raises((secagg_session.Aborted, ValueError)):
    server.run(seed=SUM_KEY)
  refusals = next(step.refusals for step in server.log if step.refusals)
  assert refusals == dict.fromkeys(server.survivors, 'few survivors')


def test_clients_refuse_keys_with_a_second_name():
  server = make_server(0, dropout=0.0, neighbors=100)
  ask, victim = server.ask, min(server.clients)

  def alter(name, kinds, bodies):
    if name == 'share':
      shape = server._shape_of(victim)
      fields = secagg.decode(secagg.NEIGHBORS, bodies[victim], shape)
      public = bytearray(fields['neighbors'][0]['c_public'])
      public[31] |= 0x80
      fields['neighbors'][0]['c_public'] = bytes(public)
      bodies[victim] = secagg.encode(secagg.NEIGHBORS, fields, shape)
    return ask(name, kinds, bodies)

  server.ask = alter
  server.run(seed=SUM_KEY)
  refusals = next(s.refusals for s in server.log if s.name == 'share')
  assert refusals == {victim: 'key'}


def test_a_forged_sum_is_refused_by_all():
  server = make_server(2, dropout=0.0)
  honest = server.unmask

  def forge():
    totals = honest()
    totals[0][0] = (totals[0][0] + 1) % 2**20
    return totals

  server.unmask = forge
  with pytest.raises(secagg_session.Aborted, match='not accepted'):
    server.run()
  assert set(server.log[-1].refusals.values()) == {'sum'}
  assert server.log[-1].refusals.keys() == server.clients.keys()


@pytest.mark.parametrize(
  ('step', 'kind', 'change', 'reason'),
  [
    ('share', secagg.NEIGHBORS, {'t': 1}, 'parameters'),
    ('share', secagg.NEIGHBORS, {'t': 3}, 'parameters'),
    ('share', secagg.NEIGHBORS, {'k': 3}, 'parameters'),
    ('confirm', secagg.SURVIVORS, {'survivors': []}, 'survivors'),
    ('unmask', secagg.UNMASK_REQUEST, {'survivors': []}, 'survivors'),
  ],
)
def test_clients_refuse_what_the_page_says(step, kind, change, reason):
  server = make_server(2, dropout=0.0, neighbors=100)
  ask = server.ask

  def alter(name, kinds, bodies):
    if name == step:
      bodies = {
        client: secagg.encode(
          kind,
          secagg.decode(kind, body, server._shape_of(client)) | change,
          server._shape_of(client),
        )
        for client, body in bodies.items()
      }
    return ask(name, kinds, bodies)

  server.ask = alter
  with pytest.raises(secagg_session.Aborted):
    server.run()
  refusals = next(s.refusals for s in server.log if s.name == step)
  assert set(refusals.values()) == {reason}


@given(st.data())
@settings(deadline=None)
def test_packing_is_undone(data):
  modulus = data.draw(MODULI)
  values = data.draw(st.lists(st.integers(0, modulus - 1), max_size=20))
  packed = secagg.pack(values, modulus)
  reader = secagg.Reader(packed)
  assert secagg.unpack(reader, len(values), modulus) == values
  reader.end()
  bits = (modulus - 1).bit_length() * len(values)
  assert 8 * len(packed) < bits + 8 * len(secagg.planes(modulus))


def test_packing_of_the_page_s_example():
  # 20 bits: a plane of the low 16, then a plane of the high 4.
  packed = secagg.pack([0x12345, 0xFEDCB, 0x00001], 2**20)
  assert packed.hex() == '4523' + 'cbed' + '0100' + 'f1' + '00'


@given(MODULI, st.binary(min_size=32, max_size=32))
@settings(max_examples=30, deadline=None)
def test_masks_are_words_below_the_modulus(modulus, key):
  mask = secagg.mask(key, 20, modulus)
  assert len(mask) == 20
  assert all(0 <= value < modulus for value in mask)
  assert secagg.mask(key, 30, modulus)[:20] == mask


def test_any_t_shares_rebuild_a_secret_and_fewer_do_not():
  stream = Stream('oracle shares')
  secret = secagg_session.draw_shareable(stream)
  polynomials = secagg_session.draw_coefficients(stream, 3)
  shares = {i: secagg.share(secret, polynomials, i) for i in range(1, 6)}
  for numbers in itertools.combinations(shares, 3):
    chosen = {i: shares[i] for i in numbers}
    assert secagg.rebuild(chosen, 3) == secret
  assert secagg.rebuild({i: shares[i] for i in (1, 2)}, 2) != secret


@pytest.mark.parametrize(('n', 'k'), [(6, 2), (9, 4), (20, 6), (7, 6), (4, 9)])
def test_the_graph_is_regular_and_symmetric(n, k):
  graph = secagg.graph(SUM_KEY, n, k)
  for i, row in enumerate(graph):
    assert len(row) == len(set(row)) == min(k, n - 1)
    assert row == sorted(row)
    assert i not in row
    assert all(i in graph[j] for j in row)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_tags_are_linear(data):
  modulus = data.draw(MODULI)
  coordinates = st.integers(0, modulus - 1)
  vectors = st.lists(coordinates, min_size=9, max_size=9)
  x, y = data.draw(vectors), data.draw(vectors)
  tags = [secagg.tags(SUM_KEY, z, modulus) for z in (x, y)]
  both = secagg.tags(SUM_KEY, secagg.add(x, y, modulus), modulus)
  assert both == secagg.add(*tags, modulus)


@pytest.mark.parametrize('threat', [0, 2])
def test_every_message_is_read_as_it_was_written(threat):
  examples = Examples('oracle', threat)
  for kind in examples.kinds():
    message = examples.message(kind)
    binding = examples.binding(kind)
    body = secagg.unframe(kind, message, binding, examples.client)
    if kind == secagg.SETUP:
      assert secagg.decode_setup(body) == examples.setup
    else:
      fields = secagg.decode(kind, body, examples.shape)
      assert fields == examples.fields[kind]


def test_the_vectors_are_what_the_generator_makes():
  files = make_vectors.build()
  assert {path.name for path in make_vectors.FOLDER.iterdir()} == set(files)
  for name, text in files.items():
    assert (make_vectors.FOLDER / name).read_text() == text, name
    assert len(text) < 200_000, name
