# SPDX-License-Identifier: Apache-2.0
"""Flower's SecAgg+, in memory: one round, or a client's mask step, as JSON.

  VENV/bin/python benchmarks/flower_secagg.py round CLIENTS SHARES THRESHOLD
  VENV/bin/python benchmarks/flower_secagg.py mask NEIGHBORS

Runs in an environment that has `flwr` (see secagg.py, which makes it) and uses
nothing else. The server is Flower's `SecAggPlusWorkflow`, each client Flower's
`secaggplus_mod` around an app that returns a ready vector. Between them lies a
grid that calls the clients in turn. Seconds are of CPU, all threads, and left
out of them is what is not secure aggregation: nothing is serialized, vectors
are quantized off the clock, and the strategy does not average what is one
average already. A round whose average is not that of the vectors is an error.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
import contextlib
import importlib
import importlib.metadata
import json
import logging
import statistics
import time
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import (
  Code,
  FitRes,
  Status,
  ndarray_to_bytes,
  ndarrays_to_parameters,
  parameters_to_ndarrays,
)
from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
from flwr.common.secure_aggregation import secaggplus_utils
from flwr.common.secure_aggregation.secaggplus_constants import (
  RECORD_KEY_CONFIGS,
  Key,
)
from flwr.compat.common import recorddict_compat
from flwr.server import LegacyContext
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import (
  MAIN_CONFIGS_RECORD,
  MAIN_PARAMS_RECORD,
)
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
import numpy as np

# Its package gives this name to the function.
_MOD = importlib.import_module(
  'flwr.client.mod.secure_aggregation.secaggplus_mod'
)
_CLIP = 8.0
_WEIGHT = 1.0


class Client:
  """Flower's client mod, its state, and the vector that its app returns."""

  def __init__(self, node_id: int, vector: np.ndarray):
    self.vector = vector
    self._context = Context(0, node_id, {}, RecordDict(), {})
    self._result = FitRes(
      Status(Code.OK, ''),
      ndarrays_to_parameters([vector]),
      num_examples=int(_WEIGHT),
      metrics={},
    )

  def __call__(self, message: Message) -> Message:
    """Answers one message of the server."""
    return secaggplus_mod(message, self._context, self._app)

  def _app(self, message: Message, context: Context) -> Message:
    del context
    content = recorddict_compat.fitres_to_recorddict(self._result, True)
    return Message(content, reply_to=message)


class MemoryGrid(Grid):
  """Calls the clients in turn, and keeps their seconds and their bytes."""

  def __init__(self, clients: dict[int, Client]):
    self.clients = clients
    self.seconds = 0.0
    self.other_seconds = 0.0
    self.upload_bytes = 0
    self.vector_bytes = 0

  def send_and_receive(
    self, messages: Iterable[Message], *, timeout: float | None = None
  ) -> list[Message]:
    """Delivers messages, and returns the clients' answers."""
    del timeout
    return [self._deliver(message) for message in messages]

  def _deliver(self, message: Message) -> Message:
    node_id = message.metadata.dst_node_id
    # The mod takes entries out of its record; the server made one for all.
    content = RecordDict(message.content)
    sent = content.config_records[RECORD_KEY_CONFIGS]
    content.config_records[RECORD_KEY_CONFIGS] = ConfigRecord(dict(sent))
    message = Message(content, metadata=message.metadata)
    start, others = time.process_time(), self.other_seconds
    with self._quantizing_off_the_clock():
      reply = self.clients[node_id](message)
    end = time.process_time()
    self.seconds += end - start - (self.other_seconds - others)
    self._count(reply.content.config_records[RECORD_KEY_CONFIGS])
    self.other_seconds += time.process_time() - end
    return reply

  @contextlib.contextmanager
  def _quantizing_off_the_clock(self) -> Iterator[None]:
    quantize = _MOD.quantize

    def timed(*arguments: Any) -> Any:
      start = time.process_time()
      try:
        return quantize(*arguments)
      finally:
        self.other_seconds += time.process_time() - start

    _MOD.quantize = timed
    try:
      yield
    finally:
      _MOD.quantize = quantize

  def _count(self, record: ConfigRecord) -> None:
    """Adds what Flower says the record holds; framing is left out."""
    self.upload_bytes += record.count_bytes()
    vector = record.get(Key.MASKED_PARAMETERS, [])
    self.vector_bytes += sum(len(part) for part in vector)

  def get_node_ids(self) -> Iterable[int]:
    """The clients' ids."""
    return self.clients

  def set_run(self, run: Any) -> None:
    """Not used by the workflow."""
    raise NotImplementedError

  @property
  def run(self) -> Any:
    """Not used by the workflow."""
    raise NotImplementedError

  create_message = push_messages = pull_messages = set_run


class Proxy(ClientProxy):
  """A client as Flower's strategies see it: here, its id alone."""

  def __init__(self, node_id: int):
    super().__init__(str(node_id))
    self.node_id = node_id

  def _unused(self, *arguments: Any) -> Any:
    raise NotImplementedError

  get_properties = get_parameters = fit = evaluate = reconnect = _unused


class TakeAverage(FedAvg):
  """Takes the average, which each result holds, without averaging it again."""

  def aggregate_fit(self, server_round, results, failures):
    """The one average and no metrics."""
    del server_round
    if failures:
      raise failures[0]
    return results[0][1].parameters, {}


def make_context(clients: dict[int, Client], dimension: int) -> LegacyContext:
  """The state of a server before a round."""
  strategy = TakeAverage(
    min_fit_clients=len(clients), min_available_clients=len(clients)
  )
  context = LegacyContext(
    Context(0, 0, {}, RecordDict(), {}), strategy=strategy
  )
  for node_id in clients:
    context.client_manager.register(Proxy(node_id))
  state = context.state
  state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord(
    {WorkflowKey.CURRENT_ROUND: 1}
  )
  state.array_records[MAIN_PARAMS_RECORD] = ArrayRecord(
    [np.zeros(dimension, np.float32)]
  )
  return context


def make_clients(count: int, dimension: int) -> dict[int, Client]:
  """Clients of 63-bit ids, with random vectors inside the clipping range."""
  rng = np.random.default_rng(0)
  ids = rng.integers(1, 1 << 63, size=count).tolist()
  vectors = rng.uniform(-1, 1, size=(count, dimension)).astype(np.float32)
  return {i: Client(i, v) for i, v in zip(ids, vectors, strict=True)}


def run_round(
  count: int, shares: int, threshold: int, dimension: int
) -> dict[str, float]:
  """One round of all clients: seconds of each side, bytes of one client."""
  clients = make_clients(count, dimension)
  grid = MemoryGrid(clients)
  context = make_context(clients, dimension)
  workflow = SecAggPlusWorkflow(
    shares, threshold, max_weight=_WEIGHT, clipping_range=_CLIP
  )
  start = time.process_time()
  workflow(grid, context)
  seconds = time.process_time() - start - grid.other_seconds
  record = context.state.array_records[MAIN_PARAMS_RECORD]
  parameters = recorddict_compat.arrayrecord_to_parameters(record, True)
  (average,) = parameters_to_ndarrays(parameters)
  expected = np.mean([client.vector for client in clients.values()], axis=0)
  np.testing.assert_allclose(average, expected, atol=1e-5)
  return {
    'seconds': seconds,
    'client_seconds': grid.seconds / count,
    'server_seconds': seconds - grid.seconds,
    'upload_bytes': grid.upload_bytes / count,
    'vector_bytes': grid.vector_bytes / count,
  }


def mask_step(neighbors: int, dimension: int) -> dict[str, float]:
  """A client's masks on one vector, as in its mod, without the key exchange."""
  rng = np.random.default_rng(0)
  modulus = 1 << 32
  vector = [rng.integers(0, 1 << 22, dimension, np.int32)]
  seeds = [rng.bytes(44) for _ in range(neighbors + 1)]
  start = time.process_time()
  shapes = arithmetic.get_parameters_shape(vector)
  for index, seed in enumerate(seeds):
    mask = secaggplus_utils.pseudo_rand_gen(seed, modulus, shapes)
    if index % 2:
      vector = arithmetic.parameters_subtraction(vector, mask)
    else:
      vector = arithmetic.parameters_addition(vector, mask)
  vector = arithmetic.parameters_mod(vector, modulus)
  for array in vector:
    ndarray_to_bytes(array)
  return {'seconds': time.process_time() - start}


def _runs(arguments: argparse.Namespace) -> Iterator[dict[str, float]]:
  for _ in range(arguments.repeats):
    if arguments.task == 'mask':
      (neighbors,) = arguments.numbers
      yield mask_step(neighbors, arguments.dimension)
    else:
      count, shares, threshold = arguments.numbers
      yield run_round(count, shares, threshold, arguments.dimension)


def main() -> None:
  """Prints medians of each figure, and Flower's version."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('task', choices=('round', 'mask'))
  parser.add_argument('numbers', type=int, nargs='+')
  parser.add_argument('--dimension', type=int, default=100_000)
  parser.add_argument('--repeats', type=int, default=1)
  arguments = parser.parse_args()
  logging.getLogger('flwr').setLevel(logging.ERROR)
  TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 0
  runs = list(_runs(arguments))
  figures = {
    name: statistics.median(run[name] for run in runs) for name in runs[0]
  }
  version = importlib.metadata.version('flwr')
  print(json.dumps({'flwr': version, **figures}))


if __name__ == '__main__':
  main()
