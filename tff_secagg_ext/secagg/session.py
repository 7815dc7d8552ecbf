# SPDX-License-Identifier: Apache-2.0
"""Drives a session over a transport, and records what happens.

The only module of the protocol that knows time. The transport moves bytes; all
decisions are those of `server` and `client`.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import time
from typing import Protocol

from tff_secagg_ext.secagg import errors, keys, ring, server, tagging
from tff_secagg_ext.secagg import transcript as transcript_lib
from tff_secagg_ext.secagg.report import Outcome, Report
from tff_secagg_ext.secagg.setup import Setup


@dataclasses.dataclass(frozen=True)
class Answer:
  """What came of a request.

  Attributes:
    client: The id of the client.
    message: Its reply; `None` if it refused.
    refusal: The name of the exception with which it refused; `None` otherwise.
    seconds: CPU seconds that it took, if they are known.
  """

  client: int
  message: bytes | None
  refusal: str | None = None
  seconds: float = 0.0


class Transport(Protocol):
  """Moves messages between the server and its clients."""

  def exchange(
    self, stage: str, requests: Mapping[int, bytes]
  ) -> Iterator[Answer]:
    """Sends the requests of a step, and yields the answers that come in time.

    Args:
      stage: The name of the step.
      requests: By id; each message is made when it is looked up.
    """

  @property
  def other_seconds(self) -> float:
    """CPU seconds of this process that are neither client's nor server's."""


@dataclasses.dataclass
class _Traffic:
  """What one client has sent and was sent."""

  up: int = 0
  down: int = 0
  seconds: float = 0.0


class _Counted(Mapping[int, bytes]):
  """Requests that count what is sent."""

  def __init__(
    self, requests: server.Requests, traffic: Mapping[int, _Traffic]
  ):
    self._requests = requests
    self._traffic = traffic

  def __getitem__(self, client: int) -> bytes:
    message = self._requests[client]
    self._traffic[client].down += len(message)
    return message

  def __iter__(self) -> Iterator[int]:
    return iter(self._requests)

  def __len__(self) -> int:
    return len(self._requests)


def run(
  setup: Setup,
  clients: Iterable[int],
  transport: Transport,
  *,
  registry: Mapping[int, bytes] | None = None,
  transcript: transcript_lib.Transcript | None = None,
) -> Outcome:
  """Runs a session to its end.

  Args:
    setup: What all agree on; its session id must be fresh.
    clients: The ids of who is invited.
    transport: Reaches them.
    registry: The public identities, by id; for the transcript.
    transcript: Where to record the session.

  Raises:
    Aborted: If it ended without a result.
  """
  if transcript is None:
    transcript = transcript_lib.Transcript.in_memory()
  return _Session(setup, clients, transport, registry or {}, transcript).run()


class _Session:
  """The state of one call of `run`."""

  def __init__(
    self,
    setup: Setup,
    clients: Iterable[int],
    transport: Transport,
    registry: Mapping[int, bytes],
    transcript: transcript_lib.Transcript,
  ):
    self._setup = setup
    self._clients = tuple(sorted(clients))
    self._transport = transport
    self._registry = registry
    self._transcript = transcript
    self._traffic: dict[int, _Traffic] = collections.defaultdict(_Traffic)
    self._dropouts: collections.Counter[str] = collections.Counter()
    self._refusals: collections.Counter[str] = collections.Counter()
    self._started = time.perf_counter()
    self._cpu = time.process_time() - transport.other_seconds

  def run(self) -> Outcome:
    """Takes all steps."""
    state: server.State = server.Inviting(self._setup, self._clients)
    self._transcript.record('setup', **transcript_lib.setup_fields(self._setup))
    try:
      while not isinstance(state, server.Finished):
        following = self._step(state)
        self._record(state, following)
        state = following
    except errors.Aborted as error:
      self._transcript.record(
        'aborted',
        reason=str(error),
        stage=error.stage,
        sum_known=error.sum_known,
      )
      raise
    else:
      return self._outcome(state.result)
    finally:
      self._transcript.close()

  def _step(self, state: server.State) -> server.State:
    """Sends the requests of a state, and gives it the replies."""
    answers: dict[int, tuple[int, int, float]] = {}
    refused: dict[int, str] = {}
    requests = _Counted(state.requests, self._traffic)

    def replies() -> Iterator[tuple[int, bytes]]:
      for answer in self._transport.exchange(state.stage, requests):
        traffic = self._traffic[answer.client]
        traffic.seconds += answer.seconds
        if answer.message is None:
          refused[answer.client] = answer.refusal or 'Refusal'
          continue
        traffic.up += len(answer.message)
        elapsed = round(time.perf_counter() - self._started, 6)
        answers[answer.client] = (traffic.up, traffic.down, elapsed)
        yield answer.client, answer.message

    before = {i: (t.up, t.down) for i, t in self._traffic.items()}
    try:
      following = state.receive(replies())
    finally:
      for client, error in state.rejected.items():
        refused.setdefault(client, type(error).__name__)
        answers.pop(client, None)
      lost = [i for i in state.requests if i not in answers]
      self._dropouts.update({state.stage: len(lost)} if lost else {})
      self._refusals.update(refused.values())
      self._transcript.record(
        'stage',
        stage=state.stage,
        answers=[
          [i, up - before.get(i, (0, 0))[0], down - before.get(i, (0, 0))[1], s]
          for i, (up, down, s) in sorted(answers.items())
        ],
        dropouts=lost,
        refusals=[[i, name] for i, name in sorted(refused.items())],
      )
    if state.stage == 'verify' and refused:
      raise errors.Aborted(
        f'All clients must accept the sum. Found {len(refused)} that refused',
        state.stage,
        sum_known=True,
      )
    return following

  def _record(self, state: server.State, following: server.State) -> None:
    """Records what all have seen after a step."""
    cohort, active = following.cohort, self._setup.security.active
    record = self._transcript.record
    if isinstance(state, server.Inviting) and active:
      record(
        'keys',
        advertisements=[
          [i, self._registry[i], k.c_public, k.s_public, k.commitment]
          + [k.signature]
          for i, k in cohort.advertised.items()
        ],
      )
    if isinstance(following, server.Sharing):
      assert cohort.graph is not None
      drawn = {
        'draw': cohort.draw,
        'preimages': list(cohort.preimages.values()),
      }
      record(
        'graph',
        clients=list(cohort.roster),
        neighbors=cohort.parameters.neighbors,
        threshold=cohort.parameters.threshold,
        seed=cohort.graph.seed,
        **(drawn if active else {}),
      )
    if isinstance(following, server.Unmasking):
      confirmed = {
        'confirmations': [[i, s] for i, s in following.confirmed.items()]
      }
      record(
        'survivors',
        survivors=list(following.survivors),
        **(confirmed if active else {}),
      )

  def _outcome(self, result: server.Result) -> Outcome:
    """Returns sums and figures, and ends the transcript."""
    seconds = time.perf_counter() - self._started
    cpu = time.process_time() - self._transport.other_seconds - self._cpu
    in_clients = sum(traffic.seconds for traffic in self._traffic.values())
    own = [self._traffic[i] for i in result.survivors]
    up = sum(t.up for t in own) / len(own)
    down = sum(t.down for t in own) / len(own)
    raw = sum(
      ring.ring_of(spec).packed_bytes(spec.length)
      for spec in self._setup.vectors
    )
    verified = None if result.accepted is None else bool(result.accepted)
    self._transcript.record(
      'result',
      digest=keys.sha256(tagging.pack(result.totals, self._setup)),
      verified=verified,
      seconds=seconds,
    )
    return Outcome(
      result.sums,
      result.survivors,
      Report(
        threat=self._setup.security.threat,
        clients=len(self._clients),
        neighbors=result.cohort.parameters.neighbors,
        threshold=result.cohort.parameters.threshold,
        survivors=len(result.survivors),
        dropouts=dict(self._dropouts),
        refusals=dict(self._refusals),
        verified=verified,
        upload_bytes=up,
        download_bytes=down,
        expansion=(up + down) / raw if raw else float('inf'),
        client_seconds=sum(t.seconds for t in own) / len(own),
        server_seconds=max(cpu - in_clients, 0.0),
        seconds=seconds,
      ),
    )
