# SPDX-License-Identifier: Apache-2.0
"""What the steps of a session cost once, in CPU seconds of one core."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import itertools
import os
import time

import numpy as np

from tff_secagg_ext._dropout_noise import DropoutNoise
from tff_secagg_ext.secagg import (
  graph,
  keys,
  layers,
  messages,
  ring,
  shamir,
  simulation,
  verify,
)
from tff_secagg_ext.secagg.setup import PlacedNoise, Security, Setup, VectorSpec

_LENGTH = 1 << 18
_RUNS = 3


@dataclasses.dataclass(frozen=True)
class UnitCosts:
  """CPU seconds of what a session does often, once.

  Attributes:
    exchange: An X25519 key pair or agreement, or an Ed25519 signature.
    verification: Of an Ed25519 signature.
    derivation: A derived key, and the cipher that it is for.
    sealing: An AES-256-GCM encryption or decryption of two shares.
    mask_byte: A byte of keystream, added; for moduli that are powers of 2.
    odd_mask_byte: The same for other moduli: a byte drawn, skipped or not.
    coordinate: One of 20 bits, reduced and packed, or unpacked and added.
    tag: A coordinate's part in the tags, for each 32 bits of the modulus.
    share: A share of a key, for each share of the threshold.
    rebuilt: A key rebuilt, for each share of the threshold.
    weights: The weights to rebuild keys from other neighbors' shares than
      before, for each share of the threshold.
    member: A member of a roster: its commitment, its place in the graph.
    hashed: A byte of a message in its checksum.
    message: A reply, for the server: sent for, received, recorded.
    pair: A client's neighbor, for the server: introduced, its shares moved.
    noise: A coordinate of a layer of noise, drawn and added.
  """

  exchange: float
  verification: float
  derivation: float
  sealing: float
  mask_byte: float
  odd_mask_byte: float
  coordinate: float
  tag: float
  share: float
  rebuilt: float
  weights: float
  member: float
  hashed: float
  message: float
  pair: float
  noise: float


# One core of a server with instructions for AES and SHA.
TYPICAL = UnitCosts(
  exchange=38e-6,
  verification=110e-6,
  derivation=17e-6,
  sealing=2.3e-6,
  mask_byte=0.23e-9,
  odd_mask_byte=1.6e-9,
  coordinate=6e-9,
  tag=16e-9,
  share=15e-9,
  rebuilt=3.3e-6,
  weights=13e-6,
  member=1.2e-6,
  hashed=0.7e-9,
  message=75e-6,
  pair=3e-6,
  noise=3.1e-9,
)


def measure_unit_costs() -> UnitCosts:
  """Measures all of them on this core; takes about a second."""
  return UnitCosts(
    **_keys(),
    **_vectors(),
    **_shares(),
    **_server(),
    member=_member(),
    hashed=_hashed(),
    noise=_noise(),
  )


def _seconds(action: Callable[[], object], calls: int = 1) -> float:
  """Returns the CPU seconds of one call: the least of several runs."""
  action()
  runs = []
  for _ in range(_RUNS):
    started = time.process_time()
    for _ in range(calls):
      action()
    runs.append((time.process_time() - started) / calls)
  return min(runs)


def _keys() -> dict[str, float]:
  pair, peer = (keys.KeyPair(os.urandom(32)) for _ in range(2))
  identity, key, digest = keys.Identity.generate(), os.urandom(32), bytes(32)
  signature = identity.sign(digest)
  byte, word = ring.Ring(1 << 8), np.zeros(1, np.uint8)

  def derive() -> None:
    derived = keys.derive(key, digest, b'mask', (0, 1), b'name')
    byte.apply_mask(word, derived, 1)

  return {
    'exchange': _seconds(lambda: pair.agree(peer.public), 300),
    'verification': _seconds(
      lambda: keys.is_signed(identity.public, signature, digest), 200
    ),
    'derivation': _seconds(derive, 1000),
    'sealing': _seconds(lambda: keys.seal(os.urandom(32), bytes(64)), 1000),
  }


def _vectors() -> dict[str, float]:
  key = os.urandom(32)

  def mask(modulus: int) -> float:
    modulo = ring.Ring(modulus)
    total = modulo.zeros(_LENGTH)
    drawn = _LENGTH * modulo.word.itemsize * (1 << modulo.bits) / modulus
    return _seconds(lambda: modulo.apply_mask(total, key, 1), 10) / drawn

  modulo = ring.Ring(1 << 20)
  masked = modulo.mask(_LENGTH, key)
  total = modulo.zeros(_LENGTH)

  def pack_and_unpack() -> None:
    packed = modulo.pack_total(masked.astype(modulo.accumulator))
    modulo.add(total, modulo.unpack(memoryview(packed), _LENGTH))

  bits = ring.Keystream(key).read(verify.keystream_bytes(_LENGTH))
  return {
    'mask_byte': mask(1 << 32),
    'odd_mask_byte': mask(3 << 30),
    'coordinate': _seconds(pack_and_unpack, 3) / (2 * _LENGTH),
    'tag': _seconds(lambda: verify.tags(bits, masked, 1 << 20), 3) / _LENGTH,
  }


def _shares() -> dict[str, float]:
  count, threshold = 128, 96
  key = shamir.draw_shareable()
  shares = shamir.share(key, count, threshold)[:threshold]
  # Points that were not seen before, in each call.
  starts = itertools.count(int.from_bytes(os.urandom(3), 'little') + 1)

  def rebuild(first: int) -> None:
    shamir.combine(range(first, first + threshold), shares)

  again = _seconds(lambda: rebuild(1), 20)
  anew = _seconds(lambda: rebuild(next(starts)), 20)
  return {
    'share': _seconds(lambda: shamir.share(key, count, threshold), 10)
    / (count * threshold),
    'rebuilt': again / threshold,
    'weights': max(0.0, anew - again) / threshold,
  }


def _server() -> dict[str, float]:
  clients, replies, degrees = 32, 4, (2, 31)
  specs, vector = [VectorSpec('v', 1, 2)], {'v': np.zeros(1, np.int64)}

  def seconds(degree: int) -> float:
    security = Security('curious', neighbors=degree, threshold=1)
    simulated = simulation.Simulation(security)
    outcomes = (
      simulated.run(range(clients), specs, lambda _: vector, round=number)
      for number in range(_RUNS)
    )
    return min(outcome.report.server_seconds for outcome in outcomes)

  few, many = map(seconds, degrees)
  pairs = clients * (degrees[1] - degrees[0])
  return {
    'message': few / (clients * replies),
    'pair': max(0.0, many - few) / pairs,
  }


def _member() -> float:
  count = 1 << 12
  roster = messages.Roster(1, tuple(range(count)), (os.urandom(32),) * count)
  body = memoryview(roster.encode())

  def place() -> None:
    for preimage in messages.Roster.decode(body).commitments:
      keys.chain(preimage, 1)
    graph.Graph(count, 2, os.urandom(32)).neighbors(0)

  return _seconds(place) / count


def _hashed() -> float:
  data = bytes(1 << 20)
  return _seconds(lambda: keys.sha256(data), 10) / len(data)


def _noise() -> float:
  noise = DropoutNoise('distributed_dgauss', 200.0, _LENGTH, 1 << 20, 100, 1)
  spec = VectorSpec('x', _LENGTH, 1 << 20, (PlacedNoise(0, noise),))
  security = Security('curious')
  session = Setup(bytes(32), 0, security, False, 99, (spec,)), bytes(32)
  total = ring.ring_of(spec).zeros(_LENGTH)
  seed = os.urandom(32)
  return (
    _seconds(lambda: layers.apply(total, spec, session, (1, seed), 1)) / _LENGTH
  )
