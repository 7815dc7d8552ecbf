# SPDX-License-Identifier: Apache-2.0
"""Makes tests/vectors/1/secagg/: `python -m tests.oracles.make_vectors`.

Known answers of docs/protocol.md, version 1, from the slow oracle. All that a
party would draw is drawn here from named streams, and is in the data, so that
whoever reads them needs no generator of ours. Bytes are written in hex.
"""

from __future__ import annotations

from collections.abc import Iterator
import json
import pathlib
import struct
from typing import Any

from tests.oracles import layers as layers_lib
from tests.oracles import secagg, secagg_session
from tests.oracles.secagg_messages import (
  NAMES,
  Examples,
  Stream,
  all_examples,
  make_setup,
  reason_of,
  refused_messages,
)

FOLDER = pathlib.Path(__file__).parent.parent / 'vectors' / '1' / 'secagg'

MODULI = (
  2,
  3,
  4,
  5,
  2**4,
  2**7 + 1,
  2**8,
  2**16 - 1,
  2**16,
  2**20 - 1,
  2**20,
  2**32 - 1,
  2**32,
  2**32 + 1,
  10**9 + 7,
  2**40 - 87,
  2**61 - 1,
  2**62 - 57,
  2**62,
)

Json = Any


def packing() -> Json:
  stream = Stream('packing')
  cases = []
  for modulus in MODULI:
    for length in (0, 1, 2, 7, 16, 33):
      values = stream.vector(length, modulus)
      if length == 7:
        values[:3] = 0, modulus - 1, 1
      packed = secagg.pack(values, modulus)
      cases.append({'modulus': modulus, 'values': values, 'packed': packed})
  return {'cases': cases}


def keys() -> Json:
  stream = Stream('keys')
  digest = stream(32)
  derived = []
  for role, a, b, name in (
    ('seal', 1, 2, ''),
    ('seal', 2, 1, ''),
    ('seal', 2**32 - 1, 0, ''),
    ('mask', 1, 2, 'update'),
    ('mask', 1, 2, 'weight'),
    ('mask', 7, 2**32 - 1, ''),
    ('self', 3, 3, 'update'),
    ('self', 3, 3, 'größe'),
    ('tag', 5, 0, 'update'),
    ('tag', 2**32 - 1, 2**31 + 1, 'update'),
    ('pad', 3, 3, 'update'),
    ('pad', 0, 0, 'n' * 255),
  ):
    secret = stream(32)
    key = secagg.derive(secret, digest, secagg.Role(role, a, b, name))
    derived.append(
      {
        'role': role,
        'a': a,
        'b': b,
        'name': name,
        'secret': secret,
        'key': key,
      }
    )
  return {
    'setup_digest': digest,
    'derived': derived,
    'agreed': [_agreement(stream) for _ in range(3)],
    'sealed': [_sealed(stream) for _ in range(3)],
    'chains': [_chain(stream(32)) for _ in range(3)],
  }


def _agreement(stream: Stream) -> Json:
  one, other = stream(32), stream(32)
  publics = [secagg.public_x25519(private) for private in (one, other)]
  secret = secagg.agree(one, publics[1])
  return {'privates': [one, other], 'publics': publics, 'secret': secret}


def _sealed(stream: Stream) -> Json:
  key = stream(32)
  shares = [secagg_session.draw_shareable(stream) for _ in range(2)]
  ciphertext = secagg.seal(key, *shares)
  return {
    'key': key,
    'b_share': shares[0],
    's_share': shares[1],
    'ciphertext': ciphertext,
  }


def _chain(x: bytes) -> Json:
  return {'x': x, 'elements': [secagg.hash_chain(x, i) for i in range(1, 5)]}


def masks() -> Json:
  stream = Stream('masks')
  cases = []
  for modulus in MODULI:
    for length in (0, 1, 37):
      key = stream(32)
      mask = secagg.mask(key, length, modulus)
      cases.append({'key': key, 'modulus': modulus, 'mask': mask})
  return {'cases': cases, 'long': [_long_mask(stream, m) for m in MODULI]}


def _long_mask(stream: Stream, modulus: int) -> Json:
  """So long that rejection crosses any block of a few KiB."""
  key, length = stream(32), 3001
  packed = secagg.pack(secagg.mask(key, length, modulus), modulus)
  return {
    'key': key,
    'modulus': modulus,
    'length': length,
    'sha256_of_packed': secagg.sha256(packed),
  }


def shares() -> Json:
  stream = Stream('shares')
  cases = []
  for threshold, count in ((1, 1), (1, 3), (2, 2), (3, 5), (7, 12)):
    secret = secagg_session.draw_shareable(stream)
    polynomials = secagg_session.draw_coefficients(stream, threshold)
    cases.append(_shared(secret, polynomials, count))
  largest = struct.pack('<8I', *[secagg.PRIME - 1] * 8)
  cases.append(_shared(largest, [[secagg.PRIME - 1] * 2] * 8, 4))
  cases.append(_shared(bytes(32), [[0, 0]] * 8, 4))
  return {'cases': cases, 'shareable': _shareable(stream)}


def _shared(secret: bytes, polynomials: list[list[int]], count: int) -> Json:
  threshold = len(polynomials[0]) + 1
  values = [
    secagg.share(secret, polynomials, number) for number in range(1, count + 1)
  ]
  last = range(count - threshold + 1, count + 1)
  assert secagg.rebuild({i: values[i - 1] for i in last}, threshold) == secret
  return {
    'secret': secret,
    'threshold': threshold,
    'coefficients': polynomials,
    'shares': values,
  }


def _shareable(stream: Stream) -> Json:
  cases = []
  for word in (0, 3):
    for value in (secagg.PRIME - 1, secagg.PRIME, 2**32 - 1):
      secret = bytearray(stream(32))
      secret[4 * word : 4 * word + 4] = struct.pack('<I', value)
      shareable = secagg.is_shareable(bytes(secret))
      cases.append({'secret': bytes(secret), 'shareable': shareable})
  return cases


def graphs() -> Json:
  stream = Stream('graphs')
  cases = []
  for n, k in (
    (1, 0),
    (2, 1),
    (3, 2),
    (5, 4),
    (6, 2),
    (8, 4),
    (9, 8),
    (12, 6),
    (30, 10),
    (100, 12),
  ):
    seed = stream(32)
    cases.append(
      {'seed': seed, 'n': n, 'k': k, 'neighbors': secagg.graph(seed, n, k)}
    )
  digest, preimages = stream(32), [stream(32) for _ in range(3)]
  members = [(i, stream(32)) for i in stream.ids(3)]
  fields = {'draw': 2, 'members': members}
  roster = secagg.encode(secagg.ROSTER, fields, secagg.Shape(True))
  seed = {
    'setup_digest': digest,
    'roster_body': roster,
    'preimages': preimages,
    'seed': secagg.graph_seed(digest, roster, preimages),
  }
  return {'cases': cases, 'joint_seed': seed}


def verifiable_sums() -> Json:
  stream = Stream('verifiable sums')
  cases = []
  for modulus in MODULI:
    length = stream.below(20)
    vector = secagg.Vector('update', length, modulus)
    cases.append(_verifiable_sum(stream, vector))
  cases.append(_verifiable_sum(stream, secagg.Vector('empty', 0, 11)))
  cases.append(_verifiable_sum(stream, secagg.Vector('long', 131, 2**61 - 1)))
  return {'cases': cases}


def _verifiable_sum(stream: Stream, vector: secagg.Vector) -> Json:
  key, m = stream(32), vector.modulus
  setup = make_setup(stream, threat=2, vectors=(vector,))
  ids = stream.ids(3)
  clients, total = [], [0] * (vector.length + secagg.TAGS)
  for client in ids:
    values = stream.vector(vector.length, m)
    linear = secagg.tags(secagg.tag_key(key, setup, vector.name), values, m)
    tagged = secagg.tagged(key, setup, vector, client, values)
    clients.append(
      {
        'id': client,
        'values': values,
        'linear': linear,
        'pad': secagg.pad(key, setup, vector, client),
        'tag': tagged[vector.length :],
      }
    )
    total = secagg.add(total, tagged, m)
  assert secagg.sum_is_right(key, setup, vector, ids, total)
  return {
    'key': key,
    'setup_digest': setup.digest,
    'round': setup.round,
    'vector': vector._asdict(),
    'tag_key': secagg.tag_key(key, setup, vector.name),
    'clients': clients,
    'sum': total,
  }


def messages() -> Json:
  groups = []
  for examples in all_examples().values():
    group = [
      {
        'message': NAMES[kind],
        'type': kind,
        'fields': examples.fields.get(kind, examples.setup._asdict()),
        'body': examples.body(kind),
        'bytes': examples.message(kind),
      }
      for kind in examples.kinds()
    ]
    groups.append(examples.head() | {'messages': group})
  return {'groups': groups, 'setups': [*_setups()]}


def _setups() -> Iterator[Json]:
  """Setups at the ends of their ranges."""
  stream = Stream('setups')
  many = tuple(secagg.Vector(f'v{i}', i, 2**62 - i) for i in range(9))
  for changes in (
    {'threat': 1, 'neighbors': 0, 'threshold': 0},
    {'threat': 0, 'round': 0, 'gamma': 0.0, 'delta': 0.0, 'min_survivors': 1},
    {'threat': 2, 'round': 2**64 - 1, 'gamma': 1 / 3, 'delta': 0.999},
    {'threat': 2, 'verify': False, 'vectors': many},
    {'threat': 1, 'vectors': (secagg.Vector('', 2**31, 2**62),)},
    {'threat': 1, 'vectors': (secagg.Vector('n' * 255, 0, 2),)},
    {'threat': 1, 'neighbors': 2**32 - 1, 'threshold': 2**32 - 1},
  ):
    setup = make_setup(stream, **changes)
    client = stream.below(2**32)
    yield {
      'fields': setup._asdict(),
      'client': client,
      'body': setup.body,
      'setup_digest': setup.digest,
      'bytes': secagg.frame(secagg.SETUP, setup.body, secagg.ALL_ZERO, client),
    }


def refused(examples: Examples) -> Json:
  cases = [
    {
      'message': NAMES[kind],
      'type': kind,
      'what': what,
      'reason': reason_of(kind, message, examples),
      'bytes': message,
    }
    for kind, what, message in refused_messages(examples)
  ]
  return examples.head() | {'cases': cases}


SESSION_VECTORS = (
  secagg.Vector('update', 9, 2**20),
  secagg.Vector('odd', 6, 2**20 - 1),
)


def session(
  name: str,
  silent: dict[str, list[int]],
  clients: int,
  **changes: Any,
) -> Json:
  """A whole session.

  Args:
    name: The name of the stream of all that is drawn.
    silent: For each step, who (as ordinal numbers of the invited) drops out.
    clients: How many are invited.
    **changes: Of the setup.
  """
  stream = Stream(name)
  setup = make_setup(stream, **{'vectors': SESSION_VECTORS} | changes)
  ids = stream.ids(clients)
  identities = {client: stream(32) for client in ids}
  seed = b'' if setup.active else stream(32)
  sum_key = stream(32) if setup.verify else b''
  parties = {
    client: secagg_session.Client(
      client,
      Stream(f'{name} {client}'),
      identities[client],
      {i: secagg.public_ed25519(key) for i, key in identities.items()},
      sum_key,
    )
    for client in ids
  }
  inputs = {
    client: {v.name: stream.vector(v.length, v.modulus) for v in setup.vectors}
    for client in ids
  }
  gone = {(step, ids[i]) for step, who in silent.items() for i in who}
  server = secagg_session.Server(
    setup, parties, inputs, lambda step, client: (step, client) in gone
  )
  sums = server.run(seed)
  _check_session(server, gone, sums)
  drawn = {}
  for client in ids:
    drawn[client] = {'identity': identities[client]} if setup.active else {}
    drawn[client] |= parties[client].drawn
  return {
    'setup': setup._asdict(),
    'setup_digest': setup.digest,
    'neighbors': len(next(iter(server.peers.values()))),
    'threshold': server.t,
    'sum_key': sum_key,
    'seed': server.seed,
    'drawn': drawn,
    'inputs': inputs,
    'steps': [
      {'step': step.name, 'sent': step.sent, 'answers': step.answers}
      for step in server.log
    ],
    'survivors': server.survivors,
    'sums': sums,
  }


def _check_session(
  server: secagg_session.Server,
  gone: set[tuple[str, int]],
  sums: dict[str, list[int]],
) -> None:
  """That all went as planned, and that the sum is the plain one."""
  for step in server.log:
    assert not step.refusals
    missing = step.sent.keys() - step.answers.keys()
    assert {(step.name, client) for client in missing} <= gone
    gone = gone - {(step.name, client) for client in missing}
  assert not gone
  for vector in server.setup.vectors:
    total = [0] * vector.length
    for client in server.survivors:
      values = server.inputs[client][vector.name]
      total = secagg.add(total, values, vector.modulus)
    assert sums[vector.name] == total


# One at each step, so far from one another on the circle that each client keeps
# four neighbors to the end.
DROPOUTS = {
  'invite': [5],
  'reveal 1': [13],
  'share': [4],
  'mask': [12],
  'confirm': [8],
  'unmask': [9],
  'verify': [0],
}


def sessions() -> Iterator[tuple[str, Json]]:
  yield (
    'passive_complete',
    session('passive complete', {}, 5, threat=0, threshold=3),
  )
  yield (
    'passive_sparse',
    session(
      'passive sparse',
      {'invite': [2], 'share': [5], 'mask': [1], 'unmask': [7]},
      9,
      threat=0,
      delta=0.3,
      threshold=2,
    ),
  )
  yield (
    'active_complete',
    session(
      'active complete',
      {'reveal 1': [5], 'reveal 2': [0], 'reveal 3': [3], 'mask': [4]},
      7,
      threat=1,
      neighbors=20,
      threshold=2,
    ),
  )
  yield (
    'active_sparse',
    session(
      'active sparse',
      {'invite': [3], 'reveal 1': [6], 'mask': [1], 'verify': [0]},
      10,
      threat=2,
      delta=0.2,
    ),
  )
  yield (
    'active_dropouts',
    session(
      'active dropouts',
      DROPOUTS,
      14,
      threat=2,
      delta=0.2,
      neighbors=6,
      threshold=4,
    ),
  )
  yield (
    'active_unverified',
    session(
      'active unverified',
      {'share': [2], 'mask': [6]},
      8,
      threat=2,
      verify=False,
      neighbors=7,
      threshold=5,
      vectors=(
        secagg.Vector('bits', 11, 2),
        secagg.Vector('', 0, 2**32),
        secagg.Vector('large', 3, 2**62 - 57),
      ),
    ),
  )
  yield 'alone', session('alone', {}, 1, threat=2, min_survivors=1)


def layers() -> Json:
  """Setups with noise, layers of seeds, and the shares that reveal them."""
  stream = Stream('layers')
  cases = []
  for law, stddev, clients, dropouts, colluders in (
    (0, 30.0, 7, 3, 0),
    (1, 30.0, 7, 3, 0),
    (0, 211.5, 40, 2, 7),
    (1, 5.25, 5, 1, 1),
  ):
    noise = layers_lib.Noise(
      1, 2, 20, law, stddev, clients, dropouts, colluders
    )
    setup = make_setup(
      stream,
      0,
      min_survivors=clients - dropouts,
      vectors=(secagg.Vector('y', 3, 7), secagg.Vector('x', 24, 2**20)),
    )
    body = setup.body + secagg.u32(1) + noise.body
    digest = secagg.sha256(secagg.LABEL + b'setup' + body)
    first = secagg_session.draw_shareable(stream)
    seeds = [layers_lib.seed_of(first, j + 1) for j in range(dropouts)]
    cases.append(
      {
        'noise': noise,
        'setup_body': body,
        'setup_digest': digest,
        'seeds': seeds,
        'layers': [
          layers_lib.layer_of(seed, digest, 'x', noise, j)
          for j, seed in enumerate(seeds, 1)
        ],
        'unmask_shares': _unmask_shares(stream, noise),
      }
    )
  return {'cases': cases}


def _unmask_shares(stream: Stream, noise: layers_lib.Noise) -> Json:
  shares = [
    (alive, [stream(32) for _ in range(2 + noise.dropouts)])
    for alive in (True, False, True, True)
  ]
  return {
    'alive': [alive for alive, _ in shares],
    'plain': [b''.join(parts) for _, parts in shares],
    'bodies': {
      survivors: layers_lib.unmask_shares(shares, noise, survivors)
      for survivors in range(noise.clients - noise.dropouts, noise.clients + 2)
    },
  }


def plain(value: Any) -> Json:
  """The value in JSON's kinds: bytes in hex, ids as the keys of objects."""
  if isinstance(value, bytes):
    return value.hex()
  if isinstance(value, dict):
    return {str(key): plain(item) for key, item in value.items()}
  if hasattr(value, '_asdict'):
    return plain(value._asdict())
  if isinstance(value, (list, tuple)):
    return [plain(item) for item in value]
  return value


def layout(value: Json, depth: int = 3, indent: str = '') -> str:
  """JSON with a line for each thing down to a depth."""
  if not depth or not value or not isinstance(value, (dict, list)):
    return json.dumps(value, ensure_ascii=False)
  inner = indent + ' '
  if isinstance(value, dict):
    left, right = '{', '}'
    items = [
      f'{json.dumps(key, ensure_ascii=False)}: {layout(item, depth - 1, inner)}'
      for key, item in value.items()
    ]
  else:
    left, right = '[', ']'
    items = [layout(item, depth - 1, inner) for item in value]
  lines = f',\n{inner}'.join(items)
  return f'{left}\n{inner}{lines}\n{indent}{right}'


def build() -> dict[str, str]:
  """The text of each file by its name."""
  parts = {
    'packing': packing(),
    'keys': keys(),
    'masks': masks(),
    'shares': shares(),
    'graphs': graphs(),
    'verifiable_sums': verifiable_sums(),
    'layers': layers(),
    'messages': messages(),
  }
  for name, examples in all_examples().items():
    parts[f'refused_{name}'] = refused(examples)
  for name, data in sessions():
    parts[f'session_{name}'] = data
  return {
    f'{name}.json': layout(plain(data)) + '\n' for name, data in parts.items()
  }


def main() -> None:
  FOLDER.mkdir(parents=True, exist_ok=True)
  for name, text in build().items():
    (FOLDER / name).write_text(text)


if __name__ == '__main__':
  main()
