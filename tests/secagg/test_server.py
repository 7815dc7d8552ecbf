# SPDX-License-Identifier: Apache-2.0
"""The server: whatever a client sends, it alone is lost by it."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import os
import random
import tracemalloc

import numpy as np
import pytest

from tests.secagg.sessions import (
  ACTIVE,
  CURIOUS,
  KINDS,
  SPECS,
  Group,
  Walk,
  stages_of,
  sums_of,
)
from tests.secagg.test_keys import FIELD, LOW_ORDER
from tff_secagg_ext.secagg import errors, keys, messages, server, server_state
from tff_secagg_ext.secagg.codec import Kind
from tff_secagg_ext.secagg.setup import Security, VectorSpec

BAD = 3
CLASSES = pytest.mark.parametrize(
  'security', [CURIOUS, ACTIVE], ids=['passive', 'active']
)
STEPS = pytest.mark.parametrize(
  ('security', 'stage'),
  [(which, stage) for which in (CURIOUS, ACTIVE) for stage in stages_of(which)],
  ids=lambda value: value if isinstance(value, str) else value.threat,
)


def finish(walk: Walk) -> server_state.Result:
  """Goes on with whoever is left, and returns the result."""
  while walk.server.stage != 'finished':
    walk.ask()
    walk.tell()
  return walk.server.result


def check(result: server_state.Result, survivors: list[int]) -> None:
  assert list(result.survivors) == survivors
  sums = {name: total.tolist() for name, total in result.sums.items()}
  assert sums == sums_of(survivors)


def without(lost: int) -> list[int]:
  return [i for i in range(7) if i != lost]


@CLASSES
def test_states_follow_one_another_and_are_left_once(security: Security):
  walk, seen = Walk(Group(security)), []
  while walk.server.stage != 'finished':
    state = walk.server
    seen.append(state.stage)
    walk.ask()
    walk.tell()
    assert state.rejected == {}
    with pytest.raises(
      errors.StateSpentError,
      match=f'{type(state).__name__} was left already: each step is taken once',
    ):
      state.receive([])
  assert tuple(seen) == stages_of(security)
  check(walk.server.result, list(range(7)))
  assert len(walk.server.requests) == 0
  expected = tuple(range(7)) if security.active else None
  assert walk.server.result.accepted == expected


@pytest.mark.parametrize(
  ('ids', 'error', 'message'),
  [
    ([1, 2, 1], ValueError, r'different ids. Found \(1, 1, 2\). Invite each'),
    ([1, -1], ValueError, '`client` must be at least 0'),
    ([1, 2**32], ValueError, '`client` must be at most'),
    ([1, '2'], TypeError, '`client` must be an integer'),
  ],
)
def test_bad_invitations(ids, error, message: str):
  with pytest.raises(error, match=message):
    server.Inviting(Group(CURIOUS).setup(), ids)


@STEPS
def test_strangers_and_second_replies_change_nothing(
  security: Security, stage: str
):
  walk = Walk(Group(security)).to(stage)
  walk.ask()
  replies = []
  for i, reply in walk.replies.items():
    others = (b'', reply, walk.replies[(i + 1) % 7])
    replies += [(i, reply), *((i, other) for other in others), (99, reply)]
  state = walk.server
  walk.server = state.receive(replies)
  assert state.rejected == {}
  check(finish(walk), list(range(7)))


@STEPS
def test_a_malformed_reply_loses_its_client_alone(
  security: Security, stage: str
):
  group = Group(security)
  for malformed in (
    lambda reply: b'',
    lambda reply: reply[:-1],
    lambda reply: reply + b'\0',
    lambda reply: b'\2' + reply[1:],
    lambda reply: reply[:18],
    lambda reply: os.urandom(len(reply)),
  ):
    walk = Walk(group).to(stage)
    walk.ask()
    state = walk.server
    walk.tell({**walk.replies, BAD: malformed(walk.replies[BAD])})
    assert list(state.rejected) == [BAD]
    assert type(state.rejected[BAD]) is errors.MessageError
    is_summed = stage in ('confirm', 'unmask', 'verify')
    check(finish(walk), list(range(7)) if is_summed else without(BAD))


@STEPS
def test_no_body_crashes_the_server(security: Security, stage: str):
  """Bodies of all lengths and contents, in a frame that is right."""
  group, luck = Group(security), random.Random(stage)
  for _ in range(12):
    walk = Walk(group).to(stage)
    walk.ask()
    body = bytearray(walk.replies[BAD][18:])
    kind = luck.randrange(4)
    if kind == 0:
      body = bytearray(luck.randbytes(luck.randrange(2 * len(body) + 2)))
    elif kind == 1:
      body = bytearray(luck.choice([b'\0', b'\xff'])) * len(body)
    else:
      for _ in range(luck.randint(1, 4)):
        body[luck.randrange(len(body))] ^= 1 << luck.randrange(8)
    sealed = walk.channel(BAD).seal(KINDS[stage][1], bytes(body))
    try:
      walk.tell({**walk.replies, BAD: sealed})
      while walk.server.stage != 'finished':
        walk.requests = dict(walk.server.requests)
        replies = {}
        for i, message in walk.requests.items():
          try:
            walk.states[i], replies[i] = walk.states[i].receive(message)
          except errors.SecAggError as error:
            assert not isinstance(error, errors.StateSpentError)
        walk.tell(replies)
    except errors.Aborted:
      continue
    result = walk.server.result
    # A client may send another vector than its own, and keys and shares that
    # are not its own: only the verifiable sum finds this out.
    if walk.setup.verify or stage == 'share':
      check(result, list(result.survivors))


def advertisement(
  walk: Walk, changes: dict[str, bytes], client_id: int = BAD
) -> bytes:
  """A changed Advertisement of a client, signed by it in the active class."""
  active = walk.setup.security.active
  body = memoryview(walk.replies[client_id][18:])
  found = messages.Advertisement.decode(body, active)
  found = dataclasses.replace(found, **changes)
  if active:
    content = keys.advertised_content(
      walk.binding,
      client_id,
      found.c_public + found.s_public,
      found.commitment,
    )
    signature = walk.group.identities[client_id].sign(content)
    found = dataclasses.replace(found, signature=signature)
  return walk.channel(client_id).seal(Kind.ADVERTISEMENT, found.encode())


@CLASSES
@pytest.mark.parametrize('field', ['c_public', 's_public'])
@pytest.mark.parametrize(
  'public',
  [
    *LOW_ORDER,
    (FIELD + 9).to_bytes(32, 'little'),
    (2**255 + 9).to_bytes(32, 'little'),
    b'\xff' * 32,
  ],
  ids=bytes.hex,
)
def test_a_degenerate_key_loses_its_client_and_no_neighbor(
  security: Security, field: str, public: bytes
):
  walk = Walk(Group(security))
  walk.ask()
  state = walk.server
  walk.tell({**walk.replies, BAD: advertisement(walk, {field: public})})
  with pytest.raises(
    errors.MessageError, match='must be canonical, and not of'
  ):
    raise state.rejected[BAD]
  check(finish(walk), without(BAD))


@CLASSES
@pytest.mark.parametrize(
  ('owner', 'mine', 'theirs'),
  [
    (0, 'c_public', 'c_public'),
    (0, 'c_public', 's_public'),
    (5, 's_public', 'c_public'),
    (5, 's_public', 's_public'),
    (BAD, 'c_public', 's_public'),
    (BAD, 's_public', 'c_public'),
  ],
)
def test_a_key_that_is_there_already_loses_the_second_client(
  security: Security, owner: int, mine: str, theirs: str
):
  walk = Walk(Group(security))
  walk.ask()
  copied = messages.Advertisement.decode(
    memoryview(walk.replies[owner][18:]), security.active
  )
  changed = advertisement(walk, {mine: getattr(copied, theirs)})
  state = walk.server
  del walk.replies[BAD]
  walk.tell({**walk.replies, BAD: changed})
  with pytest.raises(errors.MessageError, match=r'must be new\. Found one'):
    raise state.rejected[BAD]
  check(finish(walk), without(BAD))


def test_a_rejected_advertisement_blocks_no_key():
  """Else whoever sees a key could shut its owner out with a bad signature."""
  walk = Walk(Group(ACTIVE))
  walk.ask()
  theirs = messages.Advertisement.decode(memoryview(walk.replies[5][18:]), True)
  forged = walk.channel(BAD).seal(
    Kind.ADVERTISEMENT,
    dataclasses.replace(theirs, signature=bytes(64)).encode(),
  )
  walk.tell({**walk.replies, BAD: forged})
  check(finish(walk), without(BAD))


@pytest.mark.parametrize('change', ['signature', 'commitment', 'stranger'])
def test_a_bad_signature_of_keys_loses_its_client_alone(change: str):
  group = Group(ACTIVE)
  walk = Walk(group)
  walk.ask()
  found = messages.Advertisement.decode(
    memoryview(walk.replies[BAD][18:]), True
  )
  replies = dict(walk.replies)
  if change == 'stranger':
    walk.server.cohort.registry.pop(BAD)
  else:
    size = len(getattr(found, change))
    altered = dataclasses.replace(found, **{change: os.urandom(size)})
    replies[BAD] = walk.channel(BAD).seal(Kind.ADVERTISEMENT, altered.encode())
  state = walk.server
  walk.tell(replies)
  with pytest.raises(
    errors.MessageError, match='of client 3 must be of its registered identity'
  ):
    raise state.rejected[BAD]
  check(finish(walk), without(BAD))


def test_a_bad_confirmation_loses_its_client_alone():
  walk = Walk(Group(ACTIVE)).to('confirm')
  walk.ask()
  forged = walk.channel(BAD).seal(Kind.CONFIRMATION, os.urandom(64))
  state = walk.server
  walk.tell({**walk.replies, BAD: forged})
  with pytest.raises(errors.MessageError, match='A signature of client 3'):
    raise state.rejected[BAD]
  assert BAD not in walk.server.requests
  check(finish(walk), list(range(7)))


def test_what_was_not_committed_to_loses_its_client_alone():
  walk = Walk(Group(ACTIVE)).to('reveal')
  walk.ask()
  state = walk.server
  forged = walk.channel(BAD).seal(Kind.REVEAL, os.urandom(32))
  walk.tell({**walk.replies, BAD: forged})
  with pytest.raises(errors.MessageError, match='revealed was not committed'):
    raise state.rejected[BAD]
  assert walk.server.stage == 'reveal'
  check(finish(walk), without(BAD))


def test_a_preimage_of_another_length_loses_its_client_alone():
  """Put among the others, it would make all Neighbors unreadable."""
  walk = Walk(Group(ACTIVE))
  walk.ask()
  preimage = os.urandom(100)
  commitment = keys.sha256(preimage)
  replies = {
    **walk.replies,
    BAD: advertisement(walk, {'commitment': commitment}),
  }
  walk.tell(replies)
  state = walk.server
  asked = dict(state.requests)
  answers = {}
  for i in without(BAD):
    walk.states[i], answers[i] = walk.states[i].receive(asked[i])
  answers[BAD] = walk.channel(BAD).seal(Kind.REVEAL, preimage)
  walk.tell(answers)
  with pytest.raises(
    errors.MessageError, match=r'1 items of 32 bytes\. Found 100'
  ):
    raise state.rejected[BAD]
  check(finish(walk), without(BAD))


def test_a_verdict_of_other_sums_loses_its_client_alone():
  walk = Walk(Group(ACTIVE)).to('verify')
  walk.ask()
  state = walk.server
  forged = walk.channel(BAD).seal(Kind.VERDICT, os.urandom(32))
  walk.tell({**walk.replies, BAD: forged})
  with pytest.raises(
    errors.MessageError, match='must be of the sums that were'
  ):
    raise state.rejected[BAD]
  assert walk.server.result.accepted == tuple(without(BAD))


def test_a_word_of_a_share_that_is_no_element_loses_its_client_alone():
  walk = Walk(Group(CURIOUS)).to('unmask')
  walk.ask()
  body = b'\xff' * len(walk.replies[BAD][18:])
  state = walk.server
  walk.tell(
    {**walk.replies, BAD: walk.channel(BAD).seal(Kind.UNMASK_SHARES, body)}
  )
  with pytest.raises(errors.MessageError, match='not an element of the field'):
    raise state.rejected[BAD]
  check(finish(walk), list(range(7)))


def test_wrong_shares_of_a_private_key_end_the_session():
  """The rebuilt key is compared with the one that was advertised."""
  walk = Walk(Group(CURIOUS)).to('mask')
  walk.ask()
  gone = {i: reply for i, reply in walk.replies.items() if i != 6}
  walk.tell(gone)
  walk.ask()
  body = bytearray(walk.replies[0][18:])
  # The last neighbor of 0 is 6, which is gone. X25519 ignores the lowest bits.
  body[-16] ^= 1
  walk.replies[0] = walk.channel(0).seal(Kind.UNMASK_SHARES, bytes(body))
  with pytest.raises(
    errors.Aborted, match='The shares of client 6 give another key than it'
  ) as caught:
    walk.tell()
  assert caught.value.stage == 'unmask'
  assert not caught.value.sum_known


def tell_some(walk: Walk, count: int) -> None:
  walk.ask()
  walk.tell(dict(list(walk.replies.items())[:count]))


@CLASSES
@pytest.mark.parametrize('stage', ['invite', 'share', 'mask'])
def test_too_few_clients_end_the_session(security: Security, stage: str):
  group = Group(security, min_survivors=5)
  walk = Walk(group).to(stage)
  with pytest.raises(
    errors.Aborted,
    match=rf"At least 5 clients must be left. Found 4 \(in step '{stage}'\)",
  ) as caught:
    tell_some(walk, 4)
  assert (caught.value.stage, caught.value.sum_known) == (stage, False)
  walk = Walk(group).to(stage)
  tell_some(walk, 5)


@CLASSES
def test_survivors_that_may_be_parted_end_the_session(security: Security):
  """Of twelve clients with ten neighbors each, three may be lost."""
  sparse = Security(security.threat, 0.0, 0.25, neighbors=10, threshold=6)
  group = Group(sparse, range(12))
  for shared in (12, 9):
    walk = Walk(group).to('share')
    tell_some(walk, shared)
    with pytest.raises(
      errors.Aborted,
      match='At least 9 of 12 clients must survive.*0.25 of them may drop out.'
      r" Found 8. Assume more .* \(in step 'mask'\)",
    ) as caught:
      tell_some(walk, 8)
    assert (caught.value.stage, caught.value.sum_known) == ('mask', False)
    walk = Walk(group).to('share')
    tell_some(walk, shared)
    tell_some(walk, 9)
    assert walk.server.stage == ('confirm' if security.active else 'unmask')


@CLASSES
def test_survivors_of_the_complete_graph_are_never_parted(security: Security):
  walk = Walk(Group(security)).to('mask')
  tell_some(walk, 2)
  assert walk.server.stage == ('confirm' if security.active else 'unmask')


@pytest.mark.parametrize(('stage', 'security'), [
  ('reveal', ACTIVE), ('invite', CURIOUS),
])  # fmt: skip
def test_a_cohort_without_parameters_ends_the_session(stage, security):
  walk = Walk(Group(security)).to(stage)
  with pytest.raises(
    errors.Aborted, match='`threshold` must be at most the nu'
  ):
    tell_some(walk, security.threshold)
    tell_some(walk, security.threshold)


@CLASSES
def test_too_few_shares_end_the_session(security: Security):
  walk = Walk(Group(security)).to('unmask')
  with pytest.raises(
    errors.Aborted,
    match=r'At least \d shares of a secret of client \d are needed. Found \d',
  ) as caught:
    tell_some(walk, security.threshold - 1)
  assert not caught.value.sum_known
  walk = Walk(Group(security)).to('unmask')
  # A client holds no share of its own: t + 1 have t of every secret.
  tell_some(walk, security.threshold + 1)
  check(finish(walk), list(range(7)))


def test_four_draws_without_all_end_the_session():
  walk = Walk(Group(ACTIVE, range(12))).to('reveal')
  for draw in range(1, 4):
    tell_some(walk, 12 - draw)
    assert walk.server.stage == 'reveal'
  with pytest.raises(
    errors.Aborted, match='in one of 4 draws of the graph at least'
  ) as caught:
    tell_some(walk, 8)
  assert caught.value.stage == 'reveal'


def test_a_fourth_draw_with_all_goes_on():
  walk = Walk(Group(ACTIVE, range(12))).to('reveal')
  for draw in range(1, 4):
    tell_some(walk, 12 - draw)
  check(finish(walk), list(range(9)))
  assert walk.server.cohort.draw == 4


def test_sums_that_nobody_accepts_are_no_result():
  walk = Walk(Group(ACTIVE)).to('verify')
  with pytest.raises(
    errors.Aborted,
    match=r'At least one client must accept the sums\. Found none',
  ) as caught:
    walk.tell({})
  assert caught.value.sum_known


def test_at_most_one_secret_of_each_client_is_rebuilt(monkeypatch):
  rebuilt = []
  combine = server.unmasking.shamir.combine
  monkeypatch.setattr(
    server.unmasking.shamir,
    'combine',
    lambda points, shares: (
      rebuilt.append(combine(points, shares)) or rebuilt[-1]
    ),
  )
  walk = Walk(Group(ACTIVE)).to('mask')
  walk.ask()
  del walk.replies[6]
  walk.tell()
  check(finish(walk), without(6))
  advertised = walk.server.cohort.advertised[6].s_public
  publics = [keys.public_of(secret) for secret in rebuilt]
  assert len(rebuilt) == 7
  assert publics.count(advertised) == 1
  others = {walk.server.cohort.advertised[i].s_public for i in without(6)}
  assert not others & set(publics)


def test_requests_are_made_when_they_are_looked_up():
  made = []
  requests = server_state.Requests([3, 5], lambda i: made.append(i) or b'x')
  assert list(requests) == [3, 5]
  assert len(requests) == 2
  assert not made
  assert requests[5] == b'x'
  assert made == [5]
  with pytest.raises(KeyError):
    requests[4]


def test_the_server_never_holds_the_messages_of_all():
  """Its memory is that of a few vectors, whatever the number of clients.

  Both where vectors come (mask) and where they go (verify).
  """
  specs = (VectorSpec('x', 20_000, 2**62),)
  size = 20_064 * 8
  group = Group(ACTIVE, range(30), specs=specs)
  group.security = dataclasses.replace(ACTIVE, neighbors=4, threshold=3)
  group.clients = {i: group.client(i) for i in range(30)}
  walk = Walk(group).to('mask')

  def replies(stage: Callable[[], server_state.State]):
    for i in (state := stage()).requests:
      walk.states[i], reply = walk.states[i].receive(state.requests[i])
      yield i, reply

  for stage in ('mask', 'verify'):
    walk.to(stage)
    tracemalloc.start()
    walk.server = walk.server.receive(replies(lambda: walk.server))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < peak < 12 * size


def test_sums_have_no_tags():
  walk = Walk(Group(ACTIVE)).to('finished')
  result = walk.server.result
  assert [
    len(total) - spec.length
    for total, spec in zip(result.totals, SPECS, strict=True)
  ] == [64] * len(SPECS)
  assert [len(total) for total in result.sums.values()] == [3, 2, 2, 0]
  assert all(total.dtype == np.int64 for total in result.totals)
