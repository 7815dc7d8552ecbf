# SPDX-License-Identifier: Apache-2.0
"""docs/protocol.md, version 1, once more and slowly: its parties.

A `Client` answers messages with messages; `run` is the server and the network.
Whatever is random comes from a callable that is asked for a number of bytes,
and what was drawn is kept in `Client.drawn`, for the vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from fractions import Fraction
import math
from typing import Any

from tests.oracles import secagg
from tests.oracles.secagg import Fields, Refused, demand

Draw = Callable[[int], bytes]
# From the setup and the size of the roster to k and t.
Parameters = Callable[[secagg.Setup, int], tuple[int, int]]
Vectors = Mapping[str, Sequence[int]]
# (step, id) -> whether the client is not heard of again. The steps are those of
# the page, where the draws are 'reveal 1', 'reveal 2', ...
Silent = Callable[[str, int], bool]


class Aborted(Exception):
  """The server ends the session without a result."""


def given_parameters(setup: secagg.Setup, n: int) -> tuple[int, int]:
  """Of a setup that gives both: k and t."""
  assert setup.neighbors
  if n == 1:
    return 0, 0
  return min(setup.neighbors, n - 1), setup.threshold


def least_survivors(setup: secagg.Setup, n: int, k: int) -> int:
  """How many of n must be left for the sum to be computed."""
  if k >= n - 1:
    return setup.min_survivors
  dropouts = math.floor(round(Fraction(setup.delta) * n, 9))
  return max(setup.min_survivors, n - dropouts)


def draw_shareable(draw: Draw) -> bytes:
  secret = draw(32)
  while not secagg.is_shareable(secret):
    secret = draw(32)
  return secret


def draw_coefficients(draw: Draw, threshold: int) -> list[list[int]]:
  """For each of the eight words t - 1 uniform elements of the field."""

  def element() -> int:
    value = int.from_bytes(draw(4), 'little')
    return value if value < secagg.PRIME else element()

  return [[element() for _ in range(threshold - 1)] for _ in range(8)]


@dataclasses.dataclass
class Client:
  """An honest client.

  Attributes:
    id: Its id.
    draw: Its randomness, in this order: c; s, until it is shareable; x
      (active); b, until it is shareable; the coefficients of b, then of s.
    identity: Its Ed25519 private key (active).
    identities: Everybody's public keys, by id (active).
    sum_key: K (verify).
    parameters: The only k and t that the client accepts.
  """

  id: int
  draw: Draw
  identity: bytes = b''
  identities: Mapping[int, bytes] = dataclasses.field(default_factory=dict)
  sum_key: bytes = b''
  parameters: Parameters = given_parameters

  def __post_init__(self) -> None:
    self.drawn: dict[str, Any] = {}
    self.roster: list[tuple[int, bytes]] = []
    self.first_commitments: dict[int, bytes] = {}
    self.draws = 0

  def invite(self, message: bytes) -> bytes:
    body = secagg.unframe(secagg.SETUP, message, secagg.ALL_ZERO, self.id)
    self.setup = secagg.decode_setup(body)
    self.digest = self.setup.digest
    self.shape = secagg.Shape(self.setup.active, self.setup.wire_vectors)
    self.c = self.draw(32)
    self.s = draw_shareable(self.draw)
    self.drawn |= {'c': self.c, 's': self.s}
    fields = {
      'c_public': secagg.public_x25519(self.c),
      's_public': secagg.public_x25519(self.s),
    }
    self.publics = list(fields.values())
    if self.setup.active:
      self.drawn['x'] = self.x = self.draw(32)
      end = secagg.hash_chain(self.x, secagg.DRAWS)
      text = secagg.keys_text(self.digest, self.id, *self.publics, end)
      signature = secagg.sign(self.identity, text)
      fields |= {'commitment': end, 'signature': signature}
    return self._answer(secagg.ADVERTISEMENT, fields)

  def reveal(self, message: bytes) -> bytes:
    body = self._open(secagg.ROSTER, message)
    fields = secagg.decode(secagg.ROSTER, body, self.shape)
    members = dict(fields['members'])
    demand(fields['draw'] == self.draws + 1, 'roster')
    element = secagg.DRAWS - fields['draw']
    mine = secagg.hash_chain(self.x, element + 1)
    demand(members.get(self.id) == mine, 'roster')
    demand(len(members) >= self.setup.min_survivors, 'cohort')
    if self.draws:
      before = dict(self.roster)
      demand(members.keys() <= before.keys(), 'roster')
      for client, commitment in members.items():
        demand(secagg.sha256(commitment) == before[client], 'roster')
    else:
      self.first_commitments = members
    self.draws, self.roster = fields['draw'], fields['members']
    self.roster_body = body
    preimage = secagg.hash_chain(self.x, element)
    return self._answer(secagg.REVEAL, {'preimage': preimage})

  def share(self, message: bytes) -> bytes:
    body = self._open(secagg.NEIGHBORS, message)
    fields = secagg.decode(secagg.NEIGHBORS, body, self.shape)
    self.n, self.position = fields['n'], fields['position']
    self.peers = fields['neighbors']
    self._check_parameters(fields)
    if self.setup.active:
      self._check_graph(fields)
    publics = [
      peer[key] for peer in self.peers for key in ('c_public', 's_public')
    ]
    publics += self.publics
    demand(len(set(publics)) == len(publics), 'key')
    demand(all(map(secagg.is_canonical, publics)), 'key')
    self.shape = self.shape._replace(roster=self.n, neighbors=len(self.peers))
    self.b = draw_shareable(self.draw)
    b_polynomials = draw_coefficients(self.draw, self.t)
    s_polynomials = draw_coefficients(self.draw, self.t)
    self.drawn |= {
      'b': self.b,
      'b_coefficients': b_polynomials,
      's_coefficients': s_polynomials,
    }
    ciphertexts = [
      secagg.seal(
        self._seal_key(peer, self.id, peer['id']),
        secagg.share(self.b, b_polynomials, number),
        secagg.share(self.s, s_polynomials, number),
      )
      for number, peer in enumerate(self.peers, 1)
    ]
    return self._answer(secagg.SHARES, {'ciphertexts': ciphertexts})

  def mask(self, message: bytes, vectors: Vectors) -> bytes:
    body = self._open(secagg.DELIVERY, message)
    fields = secagg.decode(secagg.DELIVERY, body, self.shape)
    demand(len(fields['shared']) >= self.t, 'few shares')
    self.sharers = [self.peers[i] for i in fields['shared']]
    self.shape = self.shape._replace(shared=len(self.sharers))
    self.received = [
      secagg.unseal(self._seal_key(peer, peer['id'], self.id), ciphertext)
      for peer, ciphertext in zip(
        self.sharers, fields['ciphertexts'], strict=True
      )
    ]
    masked = [
      self._masked(vector, vectors[vector.name])
      for vector in self.setup.vectors
    ]
    return self._answer(secagg.MASKED_INPUT, {'vectors': masked})

  def confirm(self, message: bytes) -> bytes:
    body = self._open(secagg.SURVIVORS, message)
    fields = secagg.decode(secagg.SURVIVORS, body, self.shape)
    self.survivors = fields['survivors']
    self._check_survivors()
    signature = secagg.sign(self.identity, self._survivors_text())
    return self._answer(secagg.CONFIRMATION, {'signature': signature})

  def unmask(self, message: bytes) -> bytes:
    body = self._open(secagg.UNMASK_REQUEST, message)
    fields = secagg.decode(secagg.UNMASK_REQUEST, body, self.shape)
    if self.setup.active:
      demand(fields['survivors'] == self.survivors, 'survivors')
      demand(len(fields['confirmed']) >= self.t, 'few confirmations')
      for i, signature in zip(
        fields['confirmed'], fields['signatures'], strict=True
      ):
        public = self.identities[self.peers[i]['id']]
        secagg.check_signature(public, signature, self._survivors_text())
    else:
      self.survivors = fields['survivors']
      self._check_survivors()
    shares = [
      b_share if peer['position'] in self.survivors else s_share
      for peer, (b_share, s_share) in zip(
        self.sharers, self.received, strict=True
      )
    ]
    return self._answer(secagg.UNMASK_SHARES, {'shares': shares})

  def verify(self, message: bytes) -> bytes:
    body = self._open(secagg.RESULT, message)
    fields = secagg.decode(secagg.RESULT, body, self.shape)
    ids = [self.roster[position][0] for position in self.survivors]
    for vector, total in zip(
      self.setup.vectors, fields['vectors'], strict=True
    ):
      right = secagg.sum_is_right(self.sum_key, self.setup, vector, ids, total)
      demand(right, 'sum')
    return self._answer(secagg.VERDICT, {'digest': secagg.sha256(body)})

  def _open(self, kind: int, message: bytes) -> bytes:
    return secagg.unframe(kind, message, self.digest, self.id)

  def _answer(self, kind: int, fields: Fields) -> bytes:
    body = secagg.encode(kind, fields, self.shape)
    return secagg.frame(kind, body, self.digest, self.id)

  def _check_parameters(self, fields: Fields) -> None:
    own = self.parameters(self.setup, self.n)
    demand(self.n >= self.setup.min_survivors, 'cohort')
    demand((fields['k'], fields['t']) == own, 'parameters')
    self.k, self.t = fields['k'], fields['t']
    degree = len(secagg.graph(secagg.ALL_ZERO, self.n, fields['k'])[0])
    demand(len(self.peers) == degree and self.t <= degree, 'neighbors')

  def _check_graph(self, fields: Fields) -> None:
    ids = [client for client, _ in self.roster]
    demand(self.n == len(ids) and ids[self.position] == self.id, 'neighbors')
    preimages = fields['preimages']
    for (_, commitment), preimage in zip(self.roster, preimages, strict=True):
      demand(secagg.sha256(preimage) == commitment, 'neighbors')
    self.seed = secagg.graph_seed(self.digest, self.roster_body, preimages)
    expected = secagg.graph(self.seed, self.n, fields['k'])[self.position]
    demand([peer['position'] for peer in self.peers] == expected, 'neighbors')
    for peer in self.peers:
      client = peer['id']
      demand(ids[peer['position']] == client, 'neighbors')
      text = secagg.keys_text(
        self.digest,
        client,
        peer['c_public'],
        peer['s_public'],
        self.first_commitments[client],
      )
      public = self.identities[client]
      secagg.check_signature(public, peer['signature'], text)

  def _check_survivors(self) -> None:
    demand(self.position in self.survivors, 'survivors')
    least = least_survivors(self.setup, self.n, self.k)
    demand(len(self.survivors) >= least, 'few survivors')
    sharers = {peer['position'] for peer in self.sharers}
    neighbors = {peer['position'] for peer in self.peers}
    named = neighbors & set(self.survivors)
    demand(named <= sharers, 'survivors')
    demand(len(named) >= self.t, 'few survivors')

  def _survivors_text(self) -> bytes:
    return secagg.survivors_text(self.digest, self.seed, self.survivors, self.n)

  def _seal_key(self, peer: Fields, sender: int, receiver: int) -> bytes:
    secret = secagg.agree(self.c, peer['c_public'])
    return secagg.derive(
      secret, self.digest, secagg.Role('seal', sender, receiver)
    )

  def _masked(self, vector: secagg.Vector, values: Sequence[int]) -> list[int]:
    m = vector.modulus
    if self.setup.verify:
      values = secagg.tagged(self.sum_key, self.setup, vector, self.id, values)
    total = list(values)
    if self.n == 1:
      return total
    own = self_mask(self.setup, vector, self.id, self.b)
    total = secagg.add(total, own, m)
    for peer in self.sharers:
      secret = secagg.agree(self.s, peer['s_public'])
      pair = self.id, peer['id']
      mask = pair_mask(self.setup, vector, pair, secret)
      total = secagg.add(total, mask, m, sign_of(pair))
    return total


def wire_length(setup: secagg.Setup, vector: secagg.Vector) -> int:
  return vector.length + (secagg.TAGS if setup.verify else 0)


def self_mask(
  setup: secagg.Setup, vector: secagg.Vector, client: int, b: bytes
) -> list[int]:
  role = secagg.Role('self', client, client, vector.name)
  key = secagg.derive(b, setup.digest, role)
  return secagg.mask(key, wire_length(setup, vector), vector.modulus)


def pair_mask(
  setup: secagg.Setup,
  vector: secagg.Vector,
  pair: tuple[int, int],
  secret: bytes,
) -> list[int]:
  role = secagg.Role('mask', min(pair), max(pair), vector.name)
  key = secagg.derive(secret, setup.digest, role)
  return secagg.mask(key, wire_length(setup, vector), vector.modulus)


def sign_of(pair: tuple[int, int]) -> int:
  """With which sign the first of two clients adds their mask."""
  return 1 if pair[0] < pair[1] else -1


@dataclasses.dataclass
class Step:
  """What the server sent, and what came back, by id."""

  name: str
  sent: dict[int, bytes]
  answers: dict[int, bytes]
  refusals: dict[int, str]


class Server:
  """An honest server and an honest network, but for those who are silent."""

  def __init__(
    self,
    setup: secagg.Setup,
    clients: Mapping[int, Client],
    inputs: Mapping[int, Vectors],
    silent: Silent = lambda step, client: False,
    parameters: Parameters = given_parameters,
  ):
    self.setup = setup
    self.clients = dict(sorted(clients.items()))
    self.inputs = inputs
    self.silent = silent
    self.parameters = parameters
    self.shape = secagg.Shape(setup.active, setup.wire_vectors)
    self.log: list[Step] = []

  def run(self, seed: bytes | None = None) -> dict[str, list[int]]:
    """One session; the sums, without tags.

    Args:
      seed: Of the graph, which the server draws in the passive protocol.

    Raises:
      Aborted: As the page says.
    """
    self.invite()
    if self.setup.active:
      self.reveal()
    else:
      self.seed = seed
    self.share()
    self.mask()
    if self.setup.active:
      self.confirm()
    else:
      self.confirmed = dict.fromkeys(self.survivors, b'')
    totals = self.unmask()
    if self.setup.verify:
      self.verify(totals)
    return {
      vector.name: total[: vector.length]
      for vector, total in zip(self.setup.vectors, totals, strict=True)
    }

  def ask(
    self, name: str, kinds: tuple[int, int], bodies: Mapping[int, bytes]
  ) -> dict[int, bytes]:
    """Sends a body to each, and returns the bodies of those who answer."""
    binding = self.setup.digest
    if kinds[0] == secagg.SETUP:
      binding = secagg.ALL_ZERO
    step = Step(name, {}, {}, {})
    self.log.append(step)
    answers = {}
    for client, body in bodies.items():
      message = secagg.frame(kinds[0], body, binding, client)
      step.sent[client] = message
      if self.silent(name, client):
        continue
      try:
        answer = self._answer_of(name, client, message)
        step.answers[client] = answer
        answers[client] = secagg.unframe(
          kinds[1], answer, self.setup.digest, client
        )
      except Refused as refused:
        step.refusals[client] = refused.reason
    return answers

  def _answer_of(self, name: str, client: int, message: bytes) -> bytes:
    answer = getattr(self.clients[client], name.split()[0])
    if name == 'mask':
      return answer(message, self.inputs[client])
    return answer(message)

  def invite(self) -> None:
    bodies = dict.fromkeys(self.clients, self.setup.body)
    kinds = secagg.SETUP, secagg.ADVERTISEMENT
    answers = self.ask('invite', kinds, bodies)
    self.keys = {
      client: secagg.decode(secagg.ADVERTISEMENT, body, self.shape)
      for client, body in answers.items()
    }
    self.roster = list(self.keys)
    self._check_survivors(self.roster)

  def reveal(self) -> None:
    latest = {client: keys['commitment'] for client, keys in self.keys.items()}
    for draw in range(1, secagg.DRAWS + 1):
      fields = {'draw': draw, 'members': list(latest.items())}
      body = secagg.encode(secagg.ROSTER, fields, self.shape)
      bodies = dict.fromkeys(latest, body)
      kinds = secagg.ROSTER, secagg.REVEAL
      answers = self.ask(f'reveal {draw}', kinds, bodies)
      revealed = {
        client: preimage
        for client, preimage in answers.items()
        if secagg.sha256(preimage) == latest[client]
      }
      self._check_survivors(revealed)
      if len(revealed) == len(latest):
        self.roster, self.preimages = list(latest), list(revealed.values())
        self.seed = secagg.graph_seed(self.setup.digest, body, self.preimages)
        return
      latest = revealed
    raise Aborted('no draw was complete')

  def share(self) -> None:
    n = len(self.roster)
    self.k, self.t = self.parameters(self.setup, n)
    graph = secagg.graph(self.seed, n, self.k)
    if self.t > len(graph[0]):
      raise Aborted('a threshold above the number of neighbors')
    self.peers = {
      client: [self.roster[j] for j in row]
      for client, row in zip(self.roster, graph, strict=True)
    }
    bodies = {}
    for position, client in enumerate(self.roster):
      fields = {'n': n, 'k': self.k, 't': self.t, 'position': position}
      fields['neighbors'] = [
        self.keys[peer] | {'position': self.roster.index(peer), 'id': peer}
        for peer in self.peers[client]
      ]
      if self.setup.active:
        fields['preimages'] = self.preimages
      bodies[client] = secagg.encode(secagg.NEIGHBORS, fields, self.shape)
    kinds = secagg.NEIGHBORS, secagg.SHARES
    answers = self.ask('share', kinds, bodies)
    self.sealed = {}  # (from, to) -> ciphertext
    for client, body in answers.items():
      fields = secagg.decode(secagg.SHARES, body, self._shape_of(client))
      for peer, sealed in zip(
        self.peers[client], fields['ciphertexts'], strict=True
      ):
        self.sealed[client, peer] = sealed
    self.sharers = list(answers)
    self._check_survivors(self.sharers)

  def mask(self) -> None:
    bodies = {}
    for client in self.sharers:
      peers = self.peers[client]
      shared = [i for i, peer in enumerate(peers) if peer in self.sharers]
      sealed = [self.sealed[peers[i], client] for i in shared]
      fields = {'shared': shared, 'ciphertexts': sealed}
      shape = self._shape_of(client)
      bodies[client] = secagg.encode(secagg.DELIVERY, fields, shape)
    kinds = secagg.DELIVERY, secagg.MASKED_INPUT
    answers = self.ask('mask', kinds, bodies)
    self.masked = {
      client: secagg.decode(secagg.MASKED_INPUT, body, self.shape)['vectors']
      for client, body in answers.items()
    }
    self.survivors = list(self.masked)
    self._check_survivors(self.survivors)
    if len(self.survivors) < least_survivors(
      self.setup, len(self.roster), self.k
    ):
      raise Aborted('a sparse graph that may have been parted')

  def confirm(self) -> None:
    positions = [self.roster.index(client) for client in self.survivors]
    body = secagg.bitmap(positions, len(self.roster))
    bodies = dict.fromkeys(self.survivors, body)
    kinds = secagg.SURVIVORS, secagg.CONFIRMATION
    self.confirmed = self.ask('confirm', kinds, bodies)

  def unmask(self) -> list[list[int]]:
    positions = [self.roster.index(client) for client in self.survivors]
    bodies = {}
    for client in self.confirmed:
      peers = self.peers[client]
      confirmed = [i for i, peer in enumerate(peers) if peer in self.confirmed]
      confirmed = confirmed[: self.t]
      fields = {
        'survivors': positions,
        'confirmed': confirmed,
        'signatures': [self.confirmed[peers[i]] for i in confirmed],
      }
      shape = self._shape_of(client)
      bodies[client] = secagg.encode(secagg.UNMASK_REQUEST, fields, shape)
    kinds = secagg.UNMASK_REQUEST, secagg.UNMASK_SHARES
    answers = self.ask('unmask', kinds, bodies)
    self.helpers = list(answers)
    return self._totals(self._shares(answers))

  def verify(self, totals: Sequence[Sequence[int]]) -> None:
    body = secagg.encode(secagg.RESULT, {'vectors': totals}, self.shape)
    bodies = dict.fromkeys(self.helpers, body)
    kinds = secagg.RESULT, secagg.VERDICT
    answers = self.ask('verify', kinds, bodies)
    if self.log[-1].refusals or not answers:
      raise Aborted('the sum was not accepted')
    if any(digest != secagg.sha256(body) for digest in answers.values()):
      raise Aborted('a verdict on another sum')

  def _shares(
    self, answers: Mapping[int, bytes]
  ) -> dict[int, dict[int, bytes]]:
    """For each owner, by the neighbors' numbers, the shares that came."""
    shares: dict[int, dict[int, bytes]] = {owner: {} for owner in self.sharers}
    for client, body in answers.items():
      owners = [p for p in self.peers[client] if p in self.sharers]
      shape = self._shape_of(client)._replace(shared=len(owners))
      fields = secagg.decode(secagg.UNMASK_SHARES, body, shape)
      for owner, share in zip(owners, fields['shares'], strict=True):
        shares[owner][self.peers[owner].index(client) + 1] = share
    return shares

  def _totals(
    self, shares: Mapping[int, Mapping[int, bytes]]
  ) -> list[list[int]]:
    totals = []
    for at, vector in enumerate(self.setup.vectors):
      total = [0] * wire_length(self.setup, vector)
      for client in self.survivors:
        total = secagg.add(total, self.masked[client][at], vector.modulus)
      totals.append(total)
    if len(self.roster) == 1:
      return totals
    for owner in self.sharers:
      alive = [p for p in self.peers[owner] if p in self.survivors]
      if owner not in self.survivors and not alive:
        continue
      if len(shares[owner]) < self.t:
        raise Aborted('fewer shares than the threshold')
      secret = secagg.rebuild(shares[owner], self.t)
      totals = [
        self._without(owner, secret, vector, total)
        for vector, total in zip(self.setup.vectors, totals, strict=True)
      ]
    return totals

  def _without(
    self,
    owner: int,
    secret: bytes,
    vector: secagg.Vector,
    total: list[int],
  ) -> list[int]:
    """The total without the masks that the owner's secret is the seed of."""
    m = vector.modulus
    if owner in self.survivors:
      mask = self_mask(self.setup, vector, owner, secret)
      return secagg.add(total, mask, m, -1)
    if secagg.public_x25519(secret) != self.keys[owner]['s_public']:
      raise Aborted('a private key that is not that of its public key')
    for peer in self.peers[owner]:
      if peer in self.survivors:
        agreed = secagg.agree(secret, self.keys[peer]['s_public'])
        pair = peer, owner
        mask = pair_mask(self.setup, vector, pair, agreed)
        total = secagg.add(total, mask, m, -sign_of(pair))
    return total

  def _shape_of(self, client: int) -> secagg.Shape:
    return self.shape._replace(
      roster=len(self.roster), neighbors=len(self.peers[client])
    )

  def _check_survivors(
    self, clients: Sequence[int] | Mapping[int, Any]
  ) -> None:
    if len(clients) < self.setup.min_survivors:
      raise Aborted('fewer clients than min_survivors')
