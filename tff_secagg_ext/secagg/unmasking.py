# SPDX-License-Identifier: Apache-2.0
"""How the server takes the masks off the sum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools

import numpy as np
import numpy.typing as npt

from tff_secagg_ext.secagg import (
  codec,
  errors,
  keys,
  layers,
  ring,
  shamir,
  tagging,
)
from tff_secagg_ext.secagg.cohort import Cohort
from tff_secagg_ext.secagg.setup import Setup


class Totals:
  """The sums of masked vectors, as they come."""

  def __init__(self, setup: Setup):
    self._setup = setup
    self.rings = [ring.ring_of(spec) for spec in setup.vectors]
    self.words = [
      modulo.zeros(tagging.summed_length(spec, setup))
      for modulo, spec in zip(self.rings, setup.vectors, strict=True)
    ]

  def add(self, body: memoryview) -> None:
    """Adds the vectors of a MaskedInput; all of them, or none.

    Raises:
      MessageError: If the body is not the encoding of such vectors.
    """
    vectors = tagging.unpack(body, self._setup)
    for modulo, total, vector in zip(
      self.rings, self.words, vectors, strict=True
    ):
      modulo.add(total, vector)

  def reduced(self) -> tuple[npt.NDArray[np.int64], ...]:
    """Returns the sums, as int64 in [0, m)."""
    return tuple(
      modulo.reduce(words)
      for modulo, words in zip(self.rings, self.words, strict=True)
    )


@dataclasses.dataclass(frozen=True)
class Masked:
  """A session whose vectors are summed, and still masked.

  Attributes:
    cohort: What is known of the session.
    shared: U2, the ids of who shared secrets.
    survivors: U3, the ids of who was summed.
    totals: The masked sums.
  """

  cohort: Cohort
  shared: tuple[int, ...]
  survivors: tuple[int, ...]
  totals: Totals

  @functools.cached_property
  def bitmap(self) -> bytes:
    """The survivors, over the roster."""
    return self.cohort.bitmap(self.survivors)

  def read_shares(self, client: int, body: memoryview) -> list[bytes]:
    """Returns the shares of an UnmaskShares, their owners ascending.

    Of a survivor, that of b, and behind it that of the seed of the first layer
    that is taken off, if there is one.

    Raises:
      MessageError: If it is not one of this client.
    """
    owners = self._owners(client)
    alive = [owner for owner in owners if owner in self._alive]
    seeds = len(alive) if self._first_removed is not None else 0
    count = len(owners) + seeds
    items = codec.split(body, count, shamir.KEY_BYTES)
    if not shamir.is_shareable(bytes(body)):
      raise errors.MessageError('A share is not an element of the field.')
    shares = dict(zip(owners, items, strict=False))
    for owner, item in zip(alive, items[len(owners) :], strict=False):
      shares[owner] += item
    return [*shares.values()]

  def unmask(
    self, shares: Mapping[int, Sequence[bytes]], stage: str
  ) -> tuple[npt.NDArray[np.int64], ...]:
    """Returns the sums without masks, int64 in [0, m).

    Args:
      shares: By who sent them, ascending; each as `read_shares` returns them.
      stage: The step, for errors.

    Raises:
      Aborted: If a secret cannot be rebuilt.
    """
    held = self._by_owner(shares)
    for owner in self.shared:
      neighbors = self.cohort.neighbors[owner]
      alive = [i for i in neighbors if i in self._alive]
      if not neighbors:
        continue  # Alone, it has no masks.
      if owner in self._alive:
        b, *seed = self._rebuild(owner, held[owner], stage)
        self._apply(b'self', [(b, (owner, owner), -1)])
        self._take_layers_off(seed)
      elif alive:
        (private,) = self._rebuild(owner, held[owner], stage)
        self._unmask_dropout(owner, alive, private)
    return self.totals.reduced()

  def _by_owner(
    self, shares: Mapping[int, Sequence[bytes]]
  ) -> Mapping[int, Mapping[int, bytes]]:
    """Returns the shares by owner, and by who sent them, both ascending."""
    held: dict[int, dict[int, bytes]] = {owner: {} for owner in self.shared}
    for holder, items in shares.items():
      for owner, item in zip(self._owners(holder), items, strict=True):
        held[owner][holder] = item
    return held

  def _rebuild(
    self, owner: int, held: Mapping[int, bytes], stage: str
  ) -> list[bytes]:
    """Returns the secrets of an owner, from the first t shares of them."""
    threshold = self.cohort.parameters.threshold
    neighbors = enumerate(self.cohort.neighbors[owner], 1)
    points = [point for point, holder in neighbors if holder in held]
    if len(points) < threshold:
      raise errors.Aborted(
        f'At least {threshold} shares of a secret of client {owner} are needed.'
        f' Found {len(points)}',
        stage,
      )
    shares = [*held.values()][:threshold]
    secrets = [
      shamir.combine(
        points[:threshold],
        [share[i : i + shamir.KEY_BYTES] for share in shares],
      )
      for i in range(0, len(shares[0]), shamir.KEY_BYTES)
    ]
    is_private_key = owner not in self._alive
    advertised = self.cohort.advertised[owner].s_public
    if is_private_key and keys.public_of(secrets[0]) != advertised:
      raise errors.Aborted(
        f'The shares of client {owner} give another key than it advertised:'
        ' somebody sent a wrong one',
        stage,
      )
    return secrets

  def _owners(self, holder: int) -> list[int]:
    """The ids of those of whose secrets a client has shares, ascending."""
    return [i for i in self.cohort.neighbors[holder] if i in self._sharers]

  @functools.cached_property
  def _sharers(self) -> frozenset[int]:
    return frozenset(self.shared)

  @functools.cached_property
  def _alive(self) -> frozenset[int]:
    return frozenset(self.survivors)

  @functools.cached_property
  def _first_removed(self) -> int | None:
    return layers.first_removed(self.cohort.setup, len(self.survivors))

  def _take_layers_off(self, seed: Sequence[bytes]) -> None:
    """Takes off the layers of a survivor that the sum must not have."""
    if self._first_removed is None:
      return
    setup, binding = self.cohort.setup, self.cohort.binding
    for spec, words in zip(setup.vectors, self.totals.words, strict=True):
      first = (self._first_removed, seed[0])
      layers.apply(words, spec, (setup, binding), first, -1)

  def _unmask_dropout(
    self, owner: int, alive: list[int], private: bytes
  ) -> None:
    """Takes off the masks that survivors share with a client that is gone."""
    pair = keys.KeyPair(private)
    masks = []
    for peer in alive:
      agreed = pair.agree(self.cohort.advertised[peer].s_public)
      masks.append((agreed, (owner, peer), -1 if peer < owner else 1))
    self._apply(b'mask', masks)

  def _apply(
    self, role: bytes, masks: Sequence[tuple[bytes, tuple[int, int], int]]
  ) -> None:
    """Adds masks, each of a secret, of two ids, and with a sign."""
    binding = self.cohort.binding
    for modulo, words, name in self._vectors():
      signed = []
      for secret, pair, sign in masks:
        pair = (min(pair), max(pair))
        signed.append((keys.derive(secret, binding, role, pair, name), sign))
      modulo.apply_masks(words, signed)

  def _vectors(self) -> Iterator[tuple[ring.Ring, ring.Words, bytes]]:
    for modulo, words, spec in zip(
      self.totals.rings,
      self.totals.words,
      self.cohort.setup.vectors,
      strict=True,
    ):
      yield modulo, words, spec.name.encode()
