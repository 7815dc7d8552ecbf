# SPDX-License-Identifier: Apache-2.0
"""Drives a session over a transport, and records what happens.

The only module of the protocol that knows time. The transport moves bytes; all
decisions are those of `server` and `client`.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import time
from typing import Protocol

from tff_secagg_ext.secagg import (
  errors,
  keys,
  parameters,
  server,
  server_state,
  tagging,
)
from tff_secagg_ext.secagg import transcript as transcript_lib
from tff_secagg_ext.secagg.cohort import Cohort
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


@dataclasses.dataclass
class _Step:
  """What becomes of the requests of one step.

  Attributes:
    due: The clients that have not answered.
    answers: Bytes up and down so far, and seconds since the setup.
    refused: Why a client is lost, by id.
  """

  due: set[int] = dataclasses.field(default_factory=set)
  answers: dict[int, tuple[int, int, float]] = dataclasses.field(
    default_factory=dict
  )
  refused: dict[int, str] = dataclasses.field(default_factory=dict)


class _Counted(Mapping[int, bytes]):
  """Requests that count what is sent."""

  def __init__(
    self, requests: server_state.Requests, traffic: Mapping[int, _Traffic]
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
    registry: The public identities, by id; in the active classes.
    transcript: Where to record the session.

  Raises:
    Aborted: If it ended without a result; it has a report all the same.
    TypeError: If an id is not an integer.
    ValueError: If an id is out of range or twice there, or the registry is
      missing.
  """
  if setup.security.active and registry is None:
    raise ValueError(
      f'`registry` must be given in the class {setup.security.threat!r}. Found'
      ' None. Give the public identities of the clients.'
    )
  return _Session(setup, clients, transport, registry or {}, transcript).run()


class _Session:
  """The state of one call of `run`."""

  def __init__(
    self,
    setup: Setup,
    clients: Iterable[int],
    transport: Transport,
    registry: Mapping[int, bytes],
    transcript: transcript_lib.Transcript | None,
  ):
    self._setup = setup
    self._clients = tuple(sorted(clients))
    self._transport = transport
    self._registry = registry
    self._is_kept = transcript is not None
    self._transcript = transcript or transcript_lib.Transcript.in_memory()
    self._traffic: dict[int, _Traffic] = collections.defaultdict(_Traffic)
    self._dropouts: collections.Counter[str] = collections.Counter()
    self._refusals: collections.Counter[str] = collections.Counter()
    self._started = time.perf_counter()
    self._cpu = time.process_time() - transport.other_seconds

  def run(self) -> Outcome:
    """Takes all steps."""
    with contextlib.closing(self._transcript):
      state: server_state.State = server.Inviting(
        self._setup, self._clients, self._registry
      )
      fields = transcript_lib.setup_fields(self._setup)
      self._transcript.record('setup', **fields)
      try:
        while not isinstance(state, server_state.Finished):
          following = self._step(state)
          self._record(state, following)
          state = following
      except errors.Aborted as error:
        self._abort(error, state.cohort)
        raise
      return self._outcome(state.result)

  def _step(self, state: server_state.State) -> server_state.State:
    """Sends the requests of a state, and gives it the replies."""
    step = _Step()
    requests = _Counted(state.requests, self._traffic)
    step.due.update(requests)
    before = {i: (t.up, t.down) for i, t in self._traffic.items()}
    try:
      following = state.receive(self._replies(state.stage, requests, step))
      is_refused = state.stage == 'verify' and bool(step.refused)
    finally:
      for client, error in state.rejected.items():
        step.refused.setdefault(client, type(error).__name__)
        step.answers.pop(client, None)
      self._note(state.stage, step, before)
    if is_refused:
      raise errors.Aborted(
        'All clients must accept the sum. Found'
        f' {len(step.refused)} that refused',
        state.stage,
        sum_known=True,
      )
    return following

  def _replies(
    self, stage: str, requests: Mapping[int, bytes], step: _Step
  ) -> Iterator[tuple[int, bytes]]:
    """Yields the replies of a step as they come, the first of each client."""
    for answer in self._transport.exchange(stage, requests):
      if answer.client not in step.due:
        continue
      step.due.remove(answer.client)
      traffic = self._traffic[answer.client]
      traffic.seconds += answer.seconds
      if answer.message is None:
        step.refused[answer.client] = answer.refusal or 'Refusal'
        continue
      traffic.up += len(answer.message)
      elapsed = round(time.perf_counter() - self._started, 6)
      step.answers[answer.client] = (traffic.up, traffic.down, elapsed)
      yield answer.client, answer.message

  def _note(
    self, stage: str, step: _Step, before: Mapping[int, tuple[int, int]]
  ) -> None:
    """Records who answered, who refused and who was lost."""
    lost = len(step.due) + len(step.refused)
    self._dropouts.update({stage: lost} if lost else {})
    self._refusals.update(step.refused.values())
    answers = []
    for client, (up, down, elapsed) in sorted(step.answers.items()):
      up_before, down_before = before.get(client, (0, 0))
      answers.append([client, up - up_before, down - down_before, elapsed])
    self._transcript.record(
      'stage',
      stage=stage,
      answers=answers,
      dropouts=sorted(step.due),
      refusals=[[i, name] for i, name in sorted(step.refused.items())],
    )

  def _record(
    self, state: server_state.State, following: server_state.State
  ) -> None:
    """Records what all have seen after a step."""
    cohort, active = following.cohort, self._setup.security.active
    record = self._transcript.record
    if isinstance(state, server.Inviting) and active:
      record(
        'keys',
        advertisements=[
          [
            i,
            self._registry[i],
            k.c_public,
            k.s_public,
            k.commitment,
            k.signature,
          ]
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

  def _abort(self, error: errors.Aborted, cohort: Cohort) -> None:
    """Ends the transcript, and gives the figures so far to the error."""
    verified = False if error.stage == 'verify' else None
    report = self._report(cohort, (), verified)
    self._transcript.record(
      'aborted',
      reason=str(error),
      stage=error.stage,
      sum_known=error.sum_known,
    )
    error.report = self._transcribed(report)

  def _outcome(self, result: server_state.Result) -> Outcome:
    """Returns sums and figures, and ends the transcript."""
    verified = None if result.accepted is None else bool(result.accepted)
    report = self._report(result.cohort, result.survivors, verified)
    self._transcript.record(
      'result',
      digest=keys.sha256(tagging.pack(result.totals, self._setup)),
      verified=verified,
      seconds=report.seconds,
    )
    report = self._transcribed(report)
    return Outcome(result.sums, result.survivors, report)

  def _transcribed(self, report: Report) -> Report:
    """Returns a report with the hash of a transcript that has ended."""
    if not self._is_kept:
      return report
    return dataclasses.replace(report, transcript=self._transcript.hash)

  def _report(
    self, cohort: Cohort, survivors: Sequence[int], verified: bool | None
  ) -> Report:
    """Returns the figures so far; without survivors, means are over all."""
    seconds = time.perf_counter() - self._started
    cpu = time.process_time() - self._transport.other_seconds - self._cpu
    in_clients = sum(traffic.seconds for traffic in self._traffic.values())
    own = [self._traffic[i] for i in survivors or self._clients]
    count = max(len(own), 1)
    up = sum(t.up for t in own) / count
    down = sum(t.down for t in own) / count
    raw = tagging.raw_bytes(self._setup)
    colluders, _ = parameters.counts(len(cohort.roster), self._setup.security)
    return Report(
      threat=self._setup.security.threat,
      clients=len(self._clients),
      neighbors=cohort.parameters.neighbors,
      threshold=cohort.parameters.threshold,
      colluders=colluders,
      survivors=len(survivors),
      dropouts=dict(self._dropouts),
      refusals=dict(self._refusals),
      verified=verified,
      upload_bytes=up,
      download_bytes=down,
      expansion=(up + down) / raw if raw else float('inf'),
      client_seconds=sum(t.seconds for t in own) / count,
      server_seconds=max(cpu - in_clients, 0.0),
      seconds=seconds,
      transcript=None,
      noise=self._setup.noises if survivors else (),
    )
