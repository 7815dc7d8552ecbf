# SPDX-License-Identifier: Apache-2.0
"""Whole sessions: the exact sum over the declared survivors, or a clean end."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
import random

import pytest

from tests.secagg.sessions import (
  ACTIVE,
  CURIOUS,
  SPECS,
  STAGES,
  Group,
  Network,
  Walk,
  is_exact,
  is_summed,
  stages_of,
  survivors_without,
)
from tff_secagg_ext.secagg import errors, inspection, parameters, session
from tff_secagg_ext.secagg import transcript as transcripts
from tff_secagg_ext.secagg.report import Outcome
from tff_secagg_ext.secagg.setup import Security, VectorSpec
from tff_secagg_ext.secagg.transcript import Transcript

VICTIM = 3
CLASSES = pytest.mark.parametrize(
  'security', [CURIOUS, ACTIVE], ids=['passive', 'active']
)
STEPS = pytest.mark.parametrize(
  ('security', 'stage'),
  [(which, stage) for which in (CURIOUS, ACTIVE) for stage in stages_of(which)],
  ids=lambda value: value if isinstance(value, str) else value.threat,
)
MODULI = (2, 3, 2**5, 2**8, 255, 2**20, 10**6 + 3, 2**32 - 1, 2**61 - 1, 2**62)


class Schedule:
  """A random session, and who drops out of it when."""

  def __init__(self, luck: random.Random):
    self.n = luck.choice((2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 10, 12))
    self.threat = luck.choice(('curious', 'semi-malicious', 'malicious'))
    active = self.threat != 'curious'
    self.security = self._explicit(luck)
    if luck.random() < 0.4:
      # Of few clients, these fractions are nobody, or one or two.
      corrupt, dropout = luck.choice(((0.0, 0.0), (0.1, 0.1), (0.0, 0.2)))
      self.security = Security(self.threat, corrupt, dropout)
    self.verify = active and luck.random() < 0.5
    self.min_survivors = luck.choice((1, 2, min(self.n, 3)))
    self.specs = tuple(
      VectorSpec(f'v{i}', luck.randrange(5), luck.choice(MODULI))
      for i in range(luck.randint(1, 3))
    )
    self.ids = sorted(luck.sample(range(2**32), self.n))
    rate = luck.choice((0.0, 0.02, 0.05, 0.1, 0.2))
    self.drops = {
      (stage, i)
      for stage in stages_of(self.security)
      for i in self.ids
      if luck.random() < rate
    }

  def _explicit(self, luck: random.Random) -> Security:
    k = luck.choice([*range(2, self.n, 2), self.n - 1, 100])
    effective = min(k, self.n - 1)
    least = effective // 2 + 1 if self.threat != 'curious' else 1
    t = luck.randint(min(least, effective), effective)
    dropout = luck.choice((0.0, 0.1, 0.25, 0.5))
    return Security(self.threat, 0.0, dropout, k, t)

  def left(self, *stages: str) -> list[int]:
    """Who has not dropped out in some steps, by the schedule alone."""
    return [
      i
      for i in self.ids
      if not any((stage, i) in self.drops for stage in stages)
    ]

  @property
  def masked(self) -> list[int]:
    """Who is to send a masked vector, if nobody refuses."""
    return self.left(*STAGES[: STAGES.index('mask') + 1])

  def rostered(self) -> int:
    """How many are in the graph."""
    return len(self.left('invite', 'reveal'))

  def is_sparse(self) -> bool:
    derived = parameters.derive(self.rostered(), self.security)
    return derived.neighbors < self.rostered() - 1

  def least_survivors(self) -> int:
    """How many are not parted, of those in the graph."""
    n = self.rostered()
    # A hair above, for products that are integers but for rounding.
    lost = int(self.security.dropout * n + 1e-6)
    return n - lost if self.is_sparse() else 1

  def is_enough(self) -> bool:
    """Whether t are left wherever t are needed, in the complete graph."""
    steps = list(STAGES) if self.verify else list(STAGES[:-1])
    u1, u2, u3, u4, u5 = (
      set(self.left(*steps[: steps.index(stage) + 1]))
      for stage in ('reveal', 'share', 'mask', 'confirm', 'unmask')
    )
    if len(u3) < self.min_survivors:
      return False
    accepted = not self.verify or self.left(*STAGES)
    if len(u1) == 1:
      return bool(accepted)
    t = parameters.derive(len(u1), self.security).threshold
    asked = u4 if self.security.active else u3
    # Of a secret, its owner has no share; of one that is gone, all have.
    holders = min(len(u5 - {owner}) for owner in u2)
    is_met = all(len(left) - 1 >= t for left in (u2, u3))
    return bool(is_met and asked and holders >= t and accepted)

  def run(self) -> Outcome:
    group = Group(
      self.security,
      self.ids,
      verify=self.verify,
      min_survivors=self.min_survivors,
      specs=self.specs,
    )
    return group.run(group.transport(lambda *event: event in self.drops))


def test_a_thousand_schedules_of_dropouts_end_exactly_or_cleanly():
  luck = random.Random('schedules')
  sums, parted, aborts = collections.Counter(), 0, dict.fromkeys(STAGES, 0)
  for _ in range(1300):
    schedule = Schedule(luck)
    try:
      outcome = schedule.run()
    except errors.Aborted as error:
      aborts[error.stage] += 1
      assert schedule.drops
      assert error.sum_known == (error.stage == 'verify')
      parted += 'may fall apart' in str(error)
      continue
    sums[schedule.is_sparse(), len(schedule.masked) < schedule.n] += 1
    assert len(outcome.survivors) >= schedule.least_survivors()
    assert is_exact(outcome, schedule.specs)
    assert set(outcome.survivors) <= set(schedule.masked)
    assert len(outcome.survivors) >= schedule.min_survivors
    assert outcome.report.verified is (True if schedule.verify else None)
    if not outcome.report.refusals:
      assert list(outcome.survivors) == schedule.masked
  assert sums.total() >= 500
  assert sums[True, True] >= 30
  assert parted >= 30
  assert sum(aborts.values()) >= 400
  for stage in ('invite', 'reveal', 'share', 'mask', 'unmask'):
    assert aborts[stage] >= 30


def test_a_session_is_aborted_below_the_threshold_and_not_above():
  """In the complete graph, where what is needed can be counted."""
  luck = random.Random('thresholds')
  sums = aborts = 0
  while sums + aborts < 300:
    schedule = Schedule(luck)
    if schedule.security.neighbors is None:
      continue
    t = schedule.security.threshold
    k = dataclasses.replace(schedule.security, neighbors=100, threshold=t)
    schedule.security = k
    try:
      expected = schedule.is_enough()
    except ValueError:
      expected = False  # There are no k and t for so few.
    try:
      outcome = schedule.run()
    except errors.Aborted:
      assert not expected
      aborts += 1
      continue
    assert expected
    assert list(outcome.survivors) == schedule.masked
    assert is_exact(outcome, schedule.specs)
    sums += 1
  assert sums >= 100
  assert aborts >= 50


@pytest.mark.parametrize('threat', ['curious', 'semi-malicious', 'malicious'])
def test_a_session_without_dropouts_gives_the_sum(threat: str):
  for n, verify in itertools.product((1, 2, 3, 9), (False, True)):
    if verify and threat == 'curious':
      continue
    security = Security(threat, 0.0, 0.0)
    group = Group(security, range(n), verify=verify, min_survivors=1)
    outcome = group.run()
    assert is_exact(outcome)
    assert outcome.survivors == tuple(range(n))
    assert outcome.report.dropouts == outcome.report.refusals == {}


@STEPS
def test_a_client_killed_at_a_boundary_is_a_dropout(security, stage: str):
  group = Group(security)
  for lost in ([VICTIM], [0, 6]):
    outcome = group.run(
      group.transport(lambda step, i, lost=lost: step == stage and i in lost)
    )
    assert is_exact(outcome)
    assert outcome.survivors == survivors_without(stage, lost)
    assert outcome.report.dropouts == {stage: len(lost)}
    assert outcome.report.refusals == {}


@CLASSES
def test_two_clients_killed_at_any_two_boundaries(security: Security):
  group = Group(security)
  for pair in itertools.product(stages_of(security), repeat=2):
    deaths = dict(zip((1, 5), pair, strict=True))
    outcome = group.run(
      group.transport(lambda step, i, deaths=deaths: deaths.get(i) == step)
    )
    assert is_exact(outcome)
    assert outcome.survivors == tuple(
      i for i in range(7) if is_summed(deaths.get(i, 'verify'))
    )


@CLASSES
def test_below_the_threshold_a_session_ends(security: Security):
  group = Group(security)
  # All but t - 1: nobody has t neighbors, or t shares.
  lost = range(security.threshold - 1, 7)
  for stage in stages_of(security):
    if stage == 'verify':
      continue  # By then the sum is there.
    gone = {(stage, i) for i in lost}
    with pytest.raises(errors.Aborted) as caught:
      group.run(group.transport(lambda *event, gone=gone: event in gone))
    assert not caught.value.sum_known


def publics_of(walk: Walk) -> set[bytes]:
  return {
    public
    for keyed in walk.server.cohort.advertised.values()
    for public in (keyed.c_public, keyed.s_public, keyed.commitment)
    if public
  }


@STEPS
def test_a_server_that_restarts_meets_new_keys(security, stage: str):
  """Clients that are in the middle of a session are in no other."""
  group = Group(security)
  cut = Walk(group).to(stage)
  again = Walk(group)
  if cut.states:
    # The states of the clients take nothing of the new session, not even if
    # it is in the same step; and then they are gone.
    other = Walk(group).to(stage)
    for i, state in cut.states.items():
      message = other.server.requests[i]
      with pytest.raises(errors.MessageError, match='is of another client or'):
        state.receive(message)
      with pytest.raises(errors.StateSpentError):
        state.receive(cut.server.requests[i])
  again.to('finished')
  sums = {n: total.tolist() for n, total in again.server.result.sums.items()}
  assert list(again.server.result.survivors) == list(range(7))
  assert sums == {
    spec.name: [
      sum(int(group.vectors(i)[spec.name][j]) for i in range(7)) % spec.modulus
      for j in range(spec.length)
    ]
    for spec in SPECS
  }
  if cut.states:
    size = (3 if security.active else 2) * 7
    assert len(publics_of(again) | publics_of(cut)) == 2 * size


@CLASSES
def test_a_server_that_restarts_with_an_old_session_is_refused(security):
  group = Group(security)
  walk = Walk(group).to('share')
  setup = walk.setup
  transcript = Transcript.in_memory()
  with pytest.raises(errors.Aborted, match=r'At least 2 clients.*Found 0'):
    group.run(setup=setup, transcript=transcript)
  summary = inspection.check(transcript.lines)
  assert summary.refusals == {'ReplayedSession': 7}


def test_sessions_have_nothing_in_common():
  """Neither keys nor ciphertexts nor masked vectors come twice."""
  group = Group(ACTIVE)
  networks = [Network(group.transport()) for _ in range(3)]
  for network in networks:
    group.run(network)
  sent = [
    message[18:]
    for network in networks
    for (stage, is_up, _), message in network.sent.items()
    if is_up and stage != 'verify'
  ]
  assert len(set(sent)) == len(sent)


@pytest.mark.parametrize(
  ('ids', 'message'),
  [
    ([1, 2, 2], r'different ids\. Found \(1, 2, 2\)\. Invite each once'),
    ([1, 2**32], '`client` must be at most'),
  ],
)
def test_bad_ids(ids, message: str):
  group = Group(CURIOUS)
  with pytest.raises(ValueError, match=message):
    session.run(group.setup(), ids, group.transport())


def test_the_active_classes_need_a_registry():
  group = Group(ACTIVE)
  with pytest.raises(
    ValueError, match="`registry` must be given in the class 'malicious'"
  ):
    session.run(group.setup(), range(7), group.transport())


def test_clients_without_an_identity_that_is_registered_are_lost():
  group = Group(ACTIVE)
  known = {i: group.registry[i] for i in range(7) if i != VICTIM}
  outcome = session.run(
    group.setup(), range(7), group.transport(), registry=known
  )
  assert is_exact(outcome)
  assert outcome.survivors == survivors_without('invite', [VICTIM])
  assert outcome.report.refusals == {'MessageError': 1}


@CLASSES
def test_the_report_says_what_was_sent(security: Security):
  group = Group(security)
  network = Network(group.transport())
  report = group.run(network).report
  up = [len(m) for (_, is_up, _), m in network.sent.items() if is_up]
  down = [len(m) for (_, is_up, _), m in network.sent.items() if not is_up]
  assert report.upload_bytes == pytest.approx(sum(up) / 7)
  assert report.download_bytes == pytest.approx(sum(down) / 7)
  # 3 coordinates of 5 bits, 2 of 20, 2 of 62, in whole bytes a plane.
  raw = (2 + 1) + (4 + 1) + (8 + 4 + 2 + 1 + 1)
  assert report.expansion == pytest.approx((sum(up) + sum(down)) / 7 / raw, 0.2)
  assert (report.threat, report.clients) == (security.threat, 7)
  assert (report.neighbors, report.threshold) == (6, security.threshold)
  assert report.survivors == 7
  assert report.verified is (True if security.active else None)
  assert 0 < report.client_seconds < report.seconds


@STEPS
def test_an_abort_has_the_figures_so_far(security: Security, stage: str):
  """All but one are lost in a step."""
  security = dataclasses.replace(security, corrupt=0.3)
  group, transcript = Group(security), Transcript.in_memory()

  def drops(step: str, i: int) -> bool:
    return step == stage and (i > 0 or stage == 'verify')

  network = Network(group.transport(drops))
  with pytest.raises(errors.Aborted) as caught:
    group.run(network, transcript=transcript)
  report = caught.value.report
  assert report is not None
  assert caught.value.sum_known == (stage == 'verify')
  assert report.verified is (False if stage == 'verify' else None)
  assert (report.threat, report.clients) == (security.threat, 7)
  assert report.survivors == 0
  assert report.dropouts[stage] == (7 if stage == 'verify' else 6)
  up = [len(m) for (_, is_up, _), m in network.sent.items() if is_up]
  down = [len(m) for (_, is_up, _), m in network.sent.items() if not is_up]
  assert report.upload_bytes == pytest.approx(sum(up) / 7)
  assert report.download_bytes == pytest.approx(sum(down) / 7)
  assert report.expansion > 0
  assert 0 < report.client_seconds < report.seconds
  is_rostered = stage != 'invite'
  assert report.colluders == (2 if is_rostered else 0)
  is_drawn = stage not in ('invite', 'reveal')
  assert report.neighbors == (6 if is_drawn else 0)
  assert report.threshold == (security.threshold if is_drawn else 0)
  (*_, last) = transcripts.read(transcript.lines)
  assert (last.event, last.hash) == ('aborted', report.transcript)


def test_an_abort_by_refusals_says_which():
  group = Group(ACTIVE)
  setup = group.setup()
  group.run(setup=setup)
  with pytest.raises(errors.Aborted) as caught:
    group.run(setup=setup)
  report = caught.value.report
  assert report is not None
  assert report.refusals == {'ReplayedSession': 7}
  assert report.dropouts == {'invite': 7}
  assert report.transcript is None


def test_an_abort_that_no_session_has_seen_has_no_report():
  assert errors.Aborted('why', 'mask').report is None


def test_a_report_names_the_end_of_a_transcript_that_is_kept():
  group, transcript = Group(CURIOUS), Transcript.in_memory()
  assert group.run().report.transcript is None
  report = group.run(transcript=transcript).report
  (*_, last) = transcripts.read(transcript.lines)
  assert report.transcript == transcript.hash == last.hash
  # 0.05 of the 41 that took part, of 43.
  group = Group(Security('curious'), range(43))
  gone = group.transport(lambda stage, i: stage == 'invite' and i < 2)
  assert group.run(gone).report.colluders == 2


@pytest.mark.parametrize('ids', [[1, 1], ['x']])
def test_a_session_that_cannot_begin_closes_its_transcript(ids, tmp_path):
  group = Group(CURIOUS)
  setup = group.setup()
  kept = Transcript.create(tmp_path, setup.session, setup.round)
  with pytest.raises((TypeError, ValueError)):
    session.run(setup, ids, group.transport(), transcript=kept)
  with pytest.raises(ValueError, match='has ended'):
    kept.record('aborted', reason='', stage='', sum_known=False)


def test_a_session_of_empty_vectors_has_no_expansion():
  specs = (VectorSpec('x', 0, 2),)
  outcome = Group(CURIOUS, specs=specs).run()
  assert outcome.report.expansion == float('inf')
  assert outcome.sums['x'].tolist() == []


@pytest.mark.parametrize('aborts', [False, True])
@CLASSES
def test_a_transcript_is_that_of_its_session(security: Security, aborts: bool):
  group, transcript = Group(security), Transcript.in_memory()
  lost = range(1, 7) if aborts else [VICTIM]
  transport = group.transport(lambda step, i: step == 'unmask' and i in lost)
  try:
    group.run(transport, transcript=transcript)
  except errors.Aborted as error:
    assert aborts
    reason = str(error)
  else:
    assert not aborts
    reason = None
  summary = inspection.check(transcript.lines, group.registry)
  assert summary.aborted == reason
  assert summary.dropouts == {'unmask': len(lost)}
  assert summary.clients == 7
  assert (summary.signatures > 0) == security.active


def test_no_secret_is_in_a_transcript():
  drawn: list[bytes] = []

  def draw(size: int) -> bytes:
    drawn.append(os.urandom(size))
    return drawn[-1]

  group, transcript = Group(ACTIVE), Transcript.in_memory()
  group.clients = {i: group.client(i, draw) for i in range(7)}
  group.run(transcript=transcript)
  text = b''.join(transcript.lines).decode()
  revealed = [secret for secret in drawn if secret.hex() in text]
  assert len(drawn) > 7 * 5
  assert revealed == []
  assert group.verification_key.hex() not in text
