# SPDX-License-Identifier: Apache-2.0
"""What a session costs before it is run: bytes exactly, seconds about.

Bytes follow from the formats of docs/protocol.md. Seconds are those of one
core: how often a session does what is dear, times what that costs once.
"""

from __future__ import annotations

import dataclasses

from tff_secagg_ext import _validate
from tff_secagg_ext.secagg import (
  codec,
  keys,
  layers,
  messages,
  parameters,
  ring,
  shamir,
  tagging,
)
from tff_secagg_ext.secagg.parameters import Parameters
from tff_secagg_ext.secagg.setup import Setup
from tff_secagg_ext.secagg.unit_costs import TYPICAL, UnitCosts


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Bytes of one client in one session, headers included.

  Attributes:
    upload: What it sends.
    download: What it is sent.
  """

  upload: int
  download: int

  @property
  def total(self) -> int:
    """Both together."""
    return self.upload + self.download


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a session of n clients costs.

  Attributes:
    parameters: k and t.
    client: Bytes of a client when nobody drops out; the most that there can be.
    server_bytes: Those of all clients.
    raw_bytes: The packed vectors of a client, without masks or tags.
    client_seconds: CPU of a client that survives.
    server_seconds: CPU of the server.
  """

  parameters: Parameters
  client: Traffic
  server_bytes: int
  raw_bytes: int
  client_seconds: float
  server_seconds: float

  @property
  def expansion(self) -> float:
    """A client's bytes over those of its packed vectors."""
    if not self.raw_bytes:
      return float('inf')
    return self.client.total / self.raw_bytes


def traffic(clients: int, setup: Setup) -> Traffic:
  """Returns the bytes of each client of a session in which nobody drops out.

  Exact if the graph is drawn once; whoever drops out makes them fewer, but for
  a draw of the graph that is taken again.

  Args:
    clients: n, at least 1.
    setup: The session's; which id and round it has makes no difference.

  Raises:
    BadNeighbors: If there is noise for which the graph is too sparse.
    TypeError: As `parameters.derive`.
    ValueError: As `parameters.derive`.
  """
  derived = parameters.derive(clients, setup.security)
  k, t = derived.neighbors, derived.threshold
  layers.check_graph(clients, k, setup)
  active = setup.security.active
  over_roster = codec.bitmap_bytes(clients)
  over_neighbors = codec.bitmap_bytes(k)
  vectors = tagging.body_bytes(setup)
  sealed = k * layers.sealed_bytes(setup)
  # Of b, and with layers of the first seed to be revealed.
  shares = k * shamir.KEY_BYTES * (2 if setup.layers else 1)
  preimages = clients * keys.DIGEST_BYTES
  # Of the messages of every session; then of those that some have.
  up = [2 * keys.KEY_BYTES, sealed, vectors, shares]
  down = [
    len(messages.encode_setup(setup)),
    5 * 4 + k * (2 * 4 + 2 * keys.KEY_BYTES),
    over_neighbors + sealed,
    over_roster,
  ]
  if active:
    up[0] += keys.DIGEST_BYTES + keys.SIGNATURE_BYTES
    up += [keys.DIGEST_BYTES, keys.SIGNATURE_BYTES]
    down[1] += k * keys.SIGNATURE_BYTES + preimages
    down[3] += over_neighbors + t * keys.SIGNATURE_BYTES
    down += [1 + 4 + clients * 4 + preimages, over_roster]
  if setup.verify:
    up.append(keys.DIGEST_BYTES)
    down.append(vectors)
  return Traffic(
    *(sum(size + codec.HEADER_BYTES for size in way) for way in (up, down))
  )


def predict(
  clients: int,
  setup: Setup,
  *,
  dropouts: int = 0,
  units: UnitCosts | None = None,
) -> Cost:
  """Returns what a session costs.

  Args:
    clients: n, at least 1.
    setup: The session's.
    dropouts: How many share their secrets and then drop out, from 0 to n - 1:
      for the server the dearest moment, for each of them costs it the masks of
      all neighbors.
    units: As `measure_unit_costs` gives them; by default, `TYPICAL`.

  Raises:
    TypeError: As `parameters.derive`.
    ValueError: As `parameters.derive`; if `dropouts` is out of range.
  """
  found = parameters.derive(clients, setup.security)
  _validate.check_int(dropouts, 'dropouts', minimum=0, maximum=clients - 1)
  work = _Work(clients, found, setup, units or TYPICAL)
  client = traffic(clients, setup)
  return Cost(
    parameters=found,
    client=client,
    server_bytes=clients * client.total,
    raw_bytes=tagging.raw_bytes(setup),
    client_seconds=work.client() + client.total * work.units.hashed,
    server_seconds=(
      work.server(dropouts) + clients * client.total * work.units.hashed
    ),
  )


@dataclasses.dataclass(frozen=True)
class _Work:
  """Counts what clients and server do."""

  clients: int
  parameters: Parameters
  setup: Setup
  units: UnitCosts

  def client(self) -> float:
    """Seconds of a client that survives."""
    k, t = self.parameters.neighbors, self.parameters.threshold
    units, vectors = self.units, len(self.setup.vectors)
    seconds = (2 + 2 * k) * units.exchange
    seconds += 2 * k * (units.derivation + units.sealing)
    seconds += (2 + self.setup.layers) * k * t * units.share
    seconds += self.layers(self.setup.layers)
    seconds += (k + 1) * self.mask() + self.coordinates()
    if self.setup.security.active:
      seconds += 2 * units.exchange + (k + t) * units.verification
      seconds += self.clients * units.member
    if self.setup.verify:
      # Its own tags, and those of the sum with everybody's pads.
      seconds += 2 * self.tags() + self.coordinates()
      seconds += (3 + self.clients) * vectors * units.derivation
    return seconds

  def server(self, dropouts: int) -> float:
    """Seconds of the server."""
    k, t = self.parameters.neighbors, self.parameters.threshold
    units, survivors = self.units, self.clients - dropouts
    replies = 4 + 2 * self.setup.security.active + self.setup.verify
    seconds = self.clients * (replies * units.message + k * units.pair)
    seconds += survivors * (self.coordinates() + self.mask())
    seconds += self.clients * t * units.rebuilt
    removed = max(0, self.setup.layers - dropouts)
    if removed:
      seconds += survivors * (t * units.rebuilt + self.layers(removed))
    # With all neighbors there, everybody's key is rebuilt from the same ones.
    seconds += (self.clients if dropouts else 1) * t * units.weights
    alive = k * survivors / max(1, self.clients - 1)
    seconds += dropouts * units.exchange
    seconds += dropouts * alive * (units.exchange + self.mask())
    if self.setup.security.active:
      seconds += self.clients * units.member
    return seconds

  def mask(self) -> float:
    """Seconds to expand the masks of one secret, and to add them."""
    seconds = 0.0
    for spec in self.setup.vectors:
      modulo = ring.ring_of(spec)
      size = tagging.summed_length(spec, self.setup) * modulo.word.itemsize
      if modulo.is_binary:
        seconds += size * self.units.mask_byte
      else:
        drawn = size * (1 << modulo.bits) / modulo.modulus
        seconds += drawn * self.units.odd_mask_byte
      seconds += self.units.derivation
    return seconds

  def layers(self, count: int) -> float:
    """Seconds to draw so many layers of noise, and to add them."""
    noised = sum(noise.dimension for noise in self.setup.noises)
    each = noised * self.units.noise + self.units.derivation
    return count * each

  def coordinates(self) -> float:
    """Seconds to pack the vectors once, or to unpack them."""
    lengths = (
      tagging.summed_length(spec, self.setup) for spec in self.setup.vectors
    )
    return sum(lengths) * self.units.coordinate

  def tags(self) -> float:
    """Seconds to compute the tags of all vectors."""
    limbs = (
      spec.length * -(-ring.ring_of(spec).bits // 32)
      for spec in self.setup.vectors
    )
    return sum(limbs) * self.units.tag


def bonawitz_traffic(clients: int, length: int, modulus: int) -> Traffic:
  """Returns the bytes of a client by the formula of Bonawitz et al. 2017.

  2 n a_K + (5 n - 4) a_S + m ceil(log2 R) bits, with keys and shares of
  a_K = a_S = 256 bits: keys, shares and coordinates alone, without headers,
  signatures or tags, on the complete graph. It sends two keys, two encrypted
  shares to each other client, n shares to unmask, and the vector.

  Args:
    clients: n, at least 1.
    length: m, the number of coordinates, at least 0.
    modulus: R, at least 2.
  """
  clients = _validate.check_int(clients, 'clients', minimum=1)
  length = _validate.check_int(length, 'length', minimum=0)
  modulus = _validate.check_int(modulus, 'modulus', minimum=2)
  vector = -(-length * (modulus - 1).bit_length() // 8)
  return Traffic(3 * clients * 32 + vector, 4 * (clients - 1) * 32)


def bonawitz_expansion(clients: int, length: int) -> float:
  """Returns the published planning figure for coordinates of 16 bits.

  [256 (7 n - 4) + m ceil(log2 R)]/(16 m), R = n (2^16 - 1) + 1 [Bonawitz et
  al. 2017]: 1.73 for n = 2^10, m = 2^20; 1.98 for n = 2^14, m = 2^24.

  Args:
    clients: n, at least 1.
    length: m, the number of coordinates, at least 1.
  """
  clients = _validate.check_int(clients, 'clients', minimum=1)
  length = _validate.check_int(length, 'length', minimum=1)
  bits = (planning_modulus(clients) - 1).bit_length()
  return (256 * (7 * clients - 4) + length * bits) / (16 * length)


def planning_modulus(clients: int) -> int:
  """R = n (2^16 - 1) + 1: sums of n coordinates of 16 bits do not wrap."""
  return clients * ((1 << 16) - 1) + 1
