# SPDX-License-Identifier: Apache-2.0
"""What a client checks before it takes a step: every refusal is made here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
import dataclasses

from tff_secagg_ext import _validate
from tff_secagg_ext.secagg import (
  codec,
  errors,
  keys,
  layers,
  messages,
  parameters,
)
from tff_secagg_ext.secagg.client_state import (
  Credentials,
  History,
  Neighborhood,
)
from tff_secagg_ext.secagg.graph import Graph
from tff_secagg_ext.secagg.setup import (
  Security,
  Setup,
  VectorSpec,
)


@dataclasses.dataclass(frozen=True)
class Policy:
  """What a client accepts of a server.

  Attributes:
    security: The assumptions that it was told; a setup must have the same.
    verify: Whether it takes part only in sessions that verify the sum.
    min_survivors: The smallest number of clients to be one of, at least 1.
    vectors: What it sums, and with which noise.
  """

  security: Security
  verify: bool
  min_survivors: int
  vectors: tuple[VectorSpec, ...]

  def __post_init__(self) -> None:
    _validate.check_bool(self.verify, 'verify')
    _validate.check_int(self.min_survivors, 'min_survivors', minimum=1)

  def check(self, setup: Setup) -> None:
    """Refuses a setup that is weaker, or sums something else.

    Raises:
      UnacceptableSetup: If the assumptions, the vectors with their noise, or
        the verification are not the client's.
      CohortTooSmall: If it allows fewer survivors.
    """
    for name, expected, found in (
      ('assumptions', self.security, setup.security),
      ('vectors', self.vectors, setup.vectors),
    ):
      if found != expected:
        raise errors.UnacceptableSetup(
          f'The {name} of a session must be {expected}. Found {found}.'
        )
    if self.verify and not setup.verify:
      raise errors.UnacceptableSetup(
        'The sum of a session must be verified. Found one that is not.'
      )
    if setup.min_survivors < self.min_survivors:
      raise errors.CohortTooSmall(
        f'A session must sum at least {self.min_survivors} clients. Found'
        f' {setup.min_survivors}.'
      )


def verifiable(setup: Setup, credentials: Credentials) -> None:
  """Refuses a session whose sum the client could not verify.

  Raises:
    UnacceptableSetup: If it verifies, and the client has no key.
  """
  if setup.verify and credentials.verification_key is None:
    raise errors.UnacceptableSetup(
      'The client has no key to verify sums. Found a session that does.'
    )


def unused(setup: Setup, history: History) -> None:
  """Refuses to join a session twice, or another of a round that is answered.

  Raises:
    ReplayedSession: If the client has done so before.
  """
  if (setup.session, setup.round) in history.joined:
    raise errors.ReplayedSession(
      'The client has taken part in this session and round before.'
    )
  unanswered(setup, history)


def unanswered(setup: Setup, history: History) -> None:
  """Refuses to help to unmask two sums of one round.

  They are of the same vectors. If one client is in one of them alone, it is
  their difference; and a server can say of each that it was given up.

  Raises:
    ReplayedSession: If the client has sent its shares in another session.
  """
  if setup.round in history.answered:
    raise errors.ReplayedSession(
      f'The client has answered in a session of round {setup.round} before. A'
      ' new attempt needs new vectors, and a round of its own.'
    )


def roster(
  found: messages.Roster,
  client: int,
  commitment: bytes,
  known: messages.Roster | None,
) -> None:
  """Refuses a roster that is not built on what was committed to.

  Args:
    found: What the server sent.
    client: The client's id.
    commitment: What it has committed to, or revealed in the draw before.
    known: The roster of the draw before; `None` in the first.

  Raises:
    BadRoster: If it is of another draw, does not hold the client with its
      commitment, or has members that were not there in the draw before.
  """
  draw = known.draw + 1 if known else 1
  if found.draw != draw:
    raise errors.BadRoster(
      f'The roster must be of draw {draw}. Found {found.draw}: an element of'
      ' the hash chain is revealed for one roster alone.'
    )
  pairs = dict(zip(found.members, found.commitments, strict=True))
  if pairs.get(client) != commitment:
    raise errors.BadRoster(
      'The roster must hold the client with its own commitment. Found'
      f' {"another commitment" if client in pairs else "no such member"}.'
    )
  if known is not None:
    before = dict(zip(known.members, known.commitments, strict=True))
    added = [i for i in pairs if before.get(i) != keys.chain(pairs[i], 1)]
    if added:
      raise errors.BadRoster(
        'The members of a roster must be some of the draw before, with what'
        f' they revealed in it. Found others: {added}.'
      )


def neighbors(
  found: messages.Neighbors,
  known: messages.Roster,
  body: bytes,
  channel: codec.Channel,
) -> Neighborhood:
  """Computes the graph that all members drew, and refuses any other.

  Args:
    found: What the server sent.
    known: The last roster.
    body: Its bytes.
    channel: Of the session.

  Raises:
    BadRoster: If a preimage is not that of its commitment.
    BadNeighbors: If the peers are not the client's in the graph.
  """
  expected = [keys.chain(preimage, 1) for preimage in found.preimages]
  if expected != list(known.commitments):
    raise errors.BadRoster(
      'What the members revealed must be what they committed to. Found other'
      ' preimages.'
    )
  seed = keys.digest(b'graph', channel.binding, body, *found.preimages)
  position = known.members.index(channel.client)
  try:
    places = Graph(found.clients, found.degree, seed).neighbors(position)
  except ValueError as error:
    raise errors.BadNeighbors(str(error)) from error
  drawn = [(place, known.members[place]) for place in places]
  if found.position != position or drawn != [
    (peer.position, peer.id) for peer in found.peers
  ]:
    raise errors.BadNeighbors(
      'The neighbors must be those of the graph that all members drew. Found'
      ' others.'
    )
  return dataclasses.replace(
    Neighborhood.of(found), seed=seed, members=known.members
  )


def signatures(
  found: messages.Neighbors,
  draw: int,
  registry: Mapping[int, bytes],
  channel: codec.Channel,
) -> None:
  """Refuses keys that a neighbor has not signed.

  Raises:
    BadSignature: If one has not, or has no registered identity.
  """
  for peer in found.peers:
    commitment = keys.chain(found.preimages[peer.position], draw)
    content = keys.advertised_content(
      channel.binding, peer.id, peer.c_public + peer.s_public, commitment
    )
    identity = registry.get(peer.id)
    if identity is None or not keys.is_signed(
      identity, peer.signature, content
    ):
      raise errors.BadSignature(
        f'The keys of client {peer.id} must be signed by its registered'
        ' identity. Found another signature.'
      )


def meet(found: messages.Neighbors, setup: Setup, own: Sequence[bytes]) -> None:
  """Checks parameters and keys of a neighborhood.

  Args:
    found: What the server sent.
    setup: Of the session.
    own: The client's own public keys.

  Raises:
    CohortTooSmall: If there are fewer clients than must survive.
    LoweredThreshold: If k or t are not those of the class.
    BadNeighbors: If there are more or fewer neighbors than k, or too few for
      the noise of the session.
    BadKey: If a public key is the client's own, or twice there, or not in the
      one encoding that honest clients use.
  """
  if found.clients < setup.min_survivors:
    raise errors.CohortTooSmall(
      f'At least {setup.min_survivors} clients must take part. Found'
      f' {found.clients}.'
    )
  parameters.check(found.clients, found.degree, found.threshold, setup.security)
  layers.check_graph(found.clients, found.degree, setup)
  if len(found.peers) != found.degree:
    raise errors.BadNeighbors(
      f'There must be {found.degree} neighbors. Found {len(found.peers)}.'
    )
  publics = [*own]
  for peer in found.peers:
    publics += [peer.c_public, peer.s_public]
  if len(set(publics)) < len(publics):
    raise errors.BadKey(
      'All public keys must be different. Found one twice, or the own one.'
    )
  if not all(map(keys.is_canonical, publics)):
    raise errors.BadKey(
      'A public key must be an integer below 2^255 - 19. Found one in another'
      ' encoding, in which two keys that differ may be the same.'
    )


def delivered(shares: Mapping[int, bytes], neighborhood: Neighborhood) -> None:
  """Refuses to be masked with too few neighbors.

  Args:
    shares: By the ids of the neighbors that have shared their secrets.
    neighborhood: The client's.

  Raises:
    TooFewShares: If they are fewer than t.
  """
  if len(shares) < neighborhood.threshold:
    raise errors.TooFewShares(
      f'At least {neighborhood.threshold} neighbors must have shared their'
      f' secrets. Found {len(shares)}.'
    )


def survivors(
  bitmap: bytes,
  neighborhood: Neighborhood,
  shared: Set[int],
  setup: Setup,
) -> frozenset[int]:
  """Refuses a survivor list that would open something.

  Args:
    bitmap: Over the roster.
    neighborhood: The client's.
    shared: The ids of the neighbors whose shares it holds.
    setup: Of the session.

  Returns:
    The ids of the neighbors that survived.

  Raises:
    BadSurvivors: If the list is not over the roster, names the client as
      dropped out, or a neighbor as alive that has not shared its secrets.
    TooFewSurvivors: If it names too few neighbors, or too few clients: fewer
      than must survive, or than a sparse graph surely holds together.
  """
  try:
    flags = codec.unpack_bits(bitmap, neighborhood.clients)
  except errors.MessageError as error:
    raise errors.BadSurvivors(str(error)) from error
  if not flags[neighborhood.position]:
    raise errors.BadSurvivors(
      'The client is alive. Found a list that names it as dropped out.'
    )
  alive = frozenset(
    peer.id for peer in neighborhood.peers if flags[peer.position]
  )
  if not alive <= shared:
    raise errors.BadSurvivors(
      'A neighbor that survived must have shared its secrets. Found'
      f' {sorted(alive - shared)} that have not.'
    )
  least = max(
    setup.min_survivors,
    parameters.least_survivors(neighborhood.clients, setup.security),
  )
  if sum(flags) < least or len(alive) < neighborhood.threshold:
    raise errors.TooFewSurvivors(
      f'At least {least} clients, {neighborhood.threshold} neighbors among'
      f' them, must survive. Found {sum(flags)} and {len(alive)}.'
    )
  return alive


def confirmed(request: messages.UnmaskRequest, survivors: bytes) -> None:
  """Refuses to unmask for another list than the client has confirmed.

  Raises:
    BadSurvivors: If the request is for another.
  """
  if request.survivors != survivors:
    raise errors.BadSurvivors(
      'The survivors to unmask must be those that were confirmed. Found others.'
    )


def confirmations(
  request: messages.UnmaskRequest,
  neighborhood: Neighborhood,
  registry: Mapping[int, bytes],
  channel: codec.Channel,
) -> None:
  """Refuses a survivor list that too few neighbors have confirmed.

  Raises:
    BadSignature: If a confirmation is not its owner's, or of another list.
    NotConfirmed: If fewer than t have confirmed.
  """
  flags = codec.unpack_bits(request.confirmed, len(neighborhood.peers))
  signers = [
    peer.id
    for peer, is_there in zip(neighborhood.peers, flags, strict=True)
    if is_there
  ]
  content = keys.survivors_content(
    channel.binding, neighborhood.seed, request.survivors
  )
  for signer, signature in zip(signers, request.signatures, strict=True):
    identity = registry.get(signer)
    if identity is None or not keys.is_signed(identity, signature, content):
      raise errors.BadSignature(
        f'The survivors must be confirmed by client {signer}. Found another'
        ' signature.'
      )
  if len(signers) < neighborhood.threshold:
    raise errors.NotConfirmed(
      f'At least {neighborhood.threshold} neighbors must have confirmed the'
      f' survivors. Found {len(signers)}.'
    )
