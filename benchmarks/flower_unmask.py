# SPDX-License-Identifier: Apache-2.0
"""A server that reads one client's vector from Flower's SecAgg+, as JSON.

  VENV/bin/python benchmarks/flower_unmask.py CLIENTS THRESHOLD

Runs Flower's own workflow and client mods (see flower_secagg.py) up to the
masked vectors. Then the server sends each of THRESHOLD clients one unmask
message, the one that the protocol provides for, with a victim among the living
and among the dead. It has t shares of the victim's private seed and t of its
private key, and takes all masks off its vector.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
import json
import logging

from flower_secagg import Client, MemoryGrid, make_clients, make_context
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message_type import MessageType
from flwr.common import bytes_to_ndarray
from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
from flwr.common.secure_aggregation.crypto import shamir, symmetric_encryption
from flwr.common.secure_aggregation.secaggplus_constants import (
  RECORD_KEY_CONFIGS,
  Key,
  Stage,
)
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import (
  WorkflowState,
)
from flwr.supercore.primitives.asymmetric import (
  bytes_to_private_key,
  bytes_to_public_key,
)
from flwr.supercore.task_identity import TaskIdentity
import numpy as np

_CLIP, _LEVELS, _MODULUS = 8.0, 1 << 22, 1 << 32
_SCALE = _LEVELS / (2 * _CLIP)
_DIMENSION = 1000


class RecordingGrid(MemoryGrid):
  """A grid that keeps the last replies, as any server can."""

  def __init__(self, clients: dict[int, Client]):
    super().__init__(clients)
    self.replies: list[Message] = []

  def send_and_receive(
    self, messages: Iterable[Message], *, timeout: float | None = None
  ) -> list[Message]:
    """Delivers messages; keeps and returns the answers."""
    self.replies = super().send_and_receive(messages, timeout=timeout)
    return self.replies


class Server:
  """Flower's server up to the masked vectors; it remembers what it was sent."""

  def __init__(self, count: int, threshold: int):
    # Multiples of the quantum: Flower's random rounding leaves them as they
    # are, so what is recovered can be compared exactly.
    self.clients = {
      node_id: Client(node_id, _on_grid(client.vector))
      for node_id, client in make_clients(count, _DIMENSION).items()
    }
    self.state = WorkflowState()
    self.masked: dict[int, list[np.ndarray]] = {}
    self._grid = RecordingGrid(self.clients)
    self._context = make_context(self.clients, _DIMENSION)
    self._workflow = SecAggPlusWorkflow(
      count,
      threshold,
      max_weight=1.0,
      clipping_range=_CLIP,
      quantization_range=_LEVELS,
      modulus_range=_MODULUS,
    )

  def collect(self) -> None:
    """Runs the protocol as it is up to its last step."""
    workflow, state = self._workflow, self.state
    for step in (workflow.setup_stage, workflow.share_keys_stage):
      _check(step(self._grid, self._context, state))
    _check(
      workflow.collect_masked_vectors_stage(self._grid, self._context, state)
    )
    for reply in self._grid.replies:
      record = reply.content.config_records[RECORD_KEY_CONFIGS]
      parts = [bytes_to_ndarray(part) for part in record[Key.MASKED_PARAMETERS]]
      self.masked[reply.metadata.src_node_id] = parts

  def ask(
    self, node_id: int, alive: Iterable[int], dead: Iterable[int]
  ) -> list[tuple[int, bytes]]:
    """Sends one unmask message; returns owners and shares."""
    configs = ConfigRecord(
      {
        Key.STAGE: Stage.UNMASK,
        Key.ACTIVE_NODE_ID_LIST: list(alive),
        Key.DEAD_NODE_ID_LIST: list(dead),
      }
    )
    message = Message(
      RecordDict({RECORD_KEY_CONFIGS: configs}),
      node_id,
      MessageType.TRAIN,
      group_id='1',
    )
    (reply,) = self._grid.send_and_receive([message])
    record = reply.content.config_records[RECORD_KEY_CONFIGS]
    return list(
      zip(record[Key.NODE_ID_LIST], record[Key.SHARE_LIST], strict=True)
    )


def _on_grid(vector: np.ndarray) -> np.ndarray:
  return (np.round(vector * _SCALE) / _SCALE).astype(np.float32)


def _check(went_on: bool) -> None:
  if not went_on:
    raise RuntimeError('Flower ended the round before the attack.')


def unmask(
  server: Server, victim: int, seed: bytes, key: bytes
) -> list[np.ndarray]:
  """Takes the victim's private mask and its pairwise masks off its vector."""
  vector = server.masked[victim]
  shapes = arithmetic.get_parameters_shape(vector)
  private = pseudo_rand_gen(seed, _MODULUS, shapes)
  vector = arithmetic.parameters_subtraction(vector, private)
  for other in server.clients.keys() - {victim}:
    (public, _) = server.state.nid_to_publickeys[other]
    shared = symmetric_encryption.generate_shared_key(
      bytes_to_private_key(key), bytes_to_public_key(public)
    )
    mask = pseudo_rand_gen(shared, _MODULUS, shapes)
    undo = (
      arithmetic.parameters_subtraction
      if victim > other
      else arithmetic.parameters_addition
    )
    vector = undo(vector, mask)
  return arithmetic.parameters_mod(vector, _MODULUS)


def attack(count: int, threshold: int) -> dict[str, int | bool]:
  """Runs a round up to the attack, and the attack."""
  server = Server(count, threshold)
  server.collect()
  victim, *others = server.clients
  seeds, keys = [], []
  for node_id in others[:threshold]:
    shares = server.ask(node_id, alive=server.clients, dead=[victim])
    seed, key = (share for owner, share in shares if owner == victim)
    seeds.append(seed)
    keys.append(key)
  seed, key = shamir.combine_shares(seeds), shamir.combine_shares(keys)
  _, recovered = unmask(server, victim, seed, key)
  expected = (server.clients[victim].vector.astype(np.float64) + _CLIP) * _SCALE
  return {
    'clients': count,
    'messages': threshold,
    'coordinates': len(recovered),
    'recovered': bool(np.array_equal(recovered, expected)),
  }


def main() -> None:
  """Prints whether the victim's quantized vector was recovered exactly."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('clients', type=int)
  parser.add_argument('threshold', type=int)
  arguments = parser.parse_args()
  logging.getLogger('flwr').setLevel(logging.ERROR)
  TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 0
  print(json.dumps(attack(arguments.clients, arguments.threshold)))


if __name__ == '__main__':
  main()
