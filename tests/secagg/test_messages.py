# SPDX-License-Identifier: Apache-2.0
"""Messages: one encoding each, and an error for everything else."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import itertools
import struct

from hypothesis import assume, given, settings
from hypothesis import strategies as st
import pytest

from tests.secagg.sessions import ACTIVE, CURIOUS, KINDS, Group, Network
from tff_secagg_ext.secagg import codec, errors, messages
from tff_secagg_ext.secagg.codec import Channel, Kind
from tff_secagg_ext.secagg.setup import (
  MAX_MODULUS,
  THREAT_CLASSES,
  Security,
  Setup,
  VectorSpec,
)

BYTES32 = st.binary(min_size=32, max_size=32)
BYTES64 = st.binary(min_size=64, max_size=64)
U32 = st.integers(0, 2**32 - 1)
FRACTIONS = st.floats(0, 1, exclude_max=True)


@st.composite
def setups(draw: st.DrawFn) -> Setup:
  names = draw(st.lists(st.text(max_size=60), min_size=1, unique=True))
  vectors = tuple(
    VectorSpec(
      name,
      draw(st.integers(0, 2**31)),
      draw(st.integers(2, MAX_MODULUS)),
    )
    for name in names
  )
  threat = draw(st.sampled_from(THREAT_CLASSES))
  k = draw(st.none() | st.integers(1, 2**32 - 1))
  t = k and draw(st.integers(1, k))
  return Setup(
    draw(BYTES32),
    draw(st.integers(0, 2**64 - 1)),
    Security(threat, draw(FRACTIONS), draw(FRACTIONS), k, t),
    threat != 'curious' and draw(st.booleans()),
    draw(st.integers(1, 2**32 - 1)),
    vectors,
  )


@st.composite
def advertisements(draw: st.DrawFn, active: bool) -> messages.Advertisement:
  rest = (draw(BYTES32), draw(BYTES64)) if active else ()
  return messages.Advertisement(draw(BYTES32), draw(BYTES32), *rest)


@st.composite
def rosters(draw: st.DrawFn) -> messages.Roster:
  members = draw(st.sets(U32, min_size=1, max_size=9))
  commitments = [draw(BYTES32) for _ in members]
  return messages.Roster(
    draw(st.integers(1, 4)), tuple(sorted(members)), tuple(commitments)
  )


@st.composite
def neighborhoods(draw: st.DrawFn, active: bool) -> messages.Neighbors:
  clients = draw(st.integers(1, 9))
  places = draw(st.permutations(range(clients)))
  count = draw(st.integers(0, clients - 1))
  ids = sorted(draw(st.sets(U32, min_size=count, max_size=count)))
  signature = (draw(BYTES64),) if active else ()
  peers = tuple(
    messages.Peer(place, i, draw(BYTES32), draw(BYTES32), *signature)
    for place, i in zip(sorted(places[1 : count + 1]), ids, strict=True)
  )
  preimages = tuple(draw(BYTES32) for _ in range(clients)) if active else ()
  return messages.Neighbors(
    clients, draw(U32), draw(U32), places[0], peers, preimages
  )


@st.composite
def requests(draw: st.DrawFn) -> tuple[messages.UnmaskRequest, int, int | None]:
  clients = draw(st.integers(1, 30))
  flags = st.lists(st.booleans(), min_size=clients, max_size=clients)
  survivors = codec.pack_bits(draw(flags))
  if draw(st.booleans()):
    return messages.UnmaskRequest(survivors), clients, None
  confirmed = draw(st.lists(st.booleans(), max_size=12))
  signatures = tuple(draw(BYTES64) for flag in confirmed if flag)
  return (
    messages.UnmaskRequest(survivors, codec.pack_bits(confirmed), signatures),
    clients,
    len(confirmed),
  )


Decode = Callable[[memoryview], object]


@st.composite
def bodies(draw: st.DrawFn) -> tuple[object, bytes, Decode]:
  """A message, its body, and what reads the body."""
  kind = draw(st.integers(0, 4))
  active = draw(st.booleans())
  if kind == 0:
    setup = draw(setups())
    return setup, messages.encode_setup(setup), messages.decode_setup
  if kind == 1:
    roster = draw(rosters())
    return roster, roster.encode(), messages.Roster.decode
  if kind == 2:
    request, clients, neighbors = draw(requests())
    decode = functools.partial(
      messages.UnmaskRequest.decode, clients=clients, neighbors=neighbors
    )
    return request, request.encode(), decode
  if kind == 3:
    keyed = draw(advertisements(active))
    decode = functools.partial(messages.Advertisement.decode, active=active)
    return keyed, keyed.encode(), decode
  found = draw(neighborhoods(active))
  decode = functools.partial(messages.Neighbors.decode, active=active)
  return found, found.encode(), decode


@given(bodies())
def test_a_message_survives_its_bytes(drawn):
  message, body, decode = drawn
  assert decode(memoryview(body)) == message


@settings(max_examples=60)
@given(bodies())
def test_a_message_that_is_cut_anywhere_is_an_error(drawn):
  _, body, decode = drawn
  for size in range(len(body)):
    with pytest.raises(errors.MessageError):
      decode(memoryview(body[:size]))


@given(bodies(), st.binary(min_size=1, max_size=80))
def test_trailing_bytes_are_an_error(drawn, more: bytes):
  _, body, decode = drawn
  with pytest.raises(errors.MessageError):
    decode(memoryview(body + more))


@given(bodies(), st.data())
def test_other_bytes_are_another_message_or_an_error(drawn, data):
  message, body, decode = drawn
  altered = bytearray(body)
  for _ in range(data.draw(st.integers(1, 3))):
    bit = data.draw(st.integers(0, 8 * len(body) - 1))
    altered[bit // 8] ^= 1 << bit % 8
  try:
    found = decode(memoryview(bytes(altered)))
  except errors.MessageError:
    return
  if isinstance(message, Setup):
    # IEEE's zero has a sign, which is no part of its value.
    assume(message.security.corrupt and message.security.dropout)
  assert found != message or bytes(altered) == body


@given(bodies(), st.binary(max_size=300))
def test_no_bytes_crash_a_decoder(drawn, data: bytes):
  _, _, decode = drawn
  try:
    decode(memoryview(data))
  except errors.MessageError:
    return


@given(U32, BYTES32, st.sampled_from(Kind), st.binary(max_size=99))
def test_a_frame_is_opened_by_its_channel_alone(client, binding, kind, body):
  channel = Channel(client, binding)
  message = channel.seal(kind, body)
  assert channel.open(message, kind) == (kind, body)
  assert channel.open(message, *Kind) == (kind, body)
  altered = bytes([binding[0] ^ 1]) + binding[1:]
  for other in (Channel(client ^ 1, binding), Channel(client, altered)):
    with pytest.raises(
      errors.MessageError, match='altered, or is of another client or session'
    ):
      other.open(message, kind)


def recorded(security: Security) -> dict[tuple[str, bool, int], bytes]:
  group = Group(security, range(5))
  network = Network(group.transport())
  setup = group.setup()
  group.run(network, setup=setup)
  binding = messages.setup_digest(messages.encode_setup(setup))
  found = {}
  for (stage, is_up, client), message in network.sent.items():
    bound = codec.UNBOUND if KINDS[stage][is_up] == Kind.SETUP else binding
    found[stage, is_up, client] = (message, Channel(client, bound))
  return found


@pytest.mark.parametrize('security', [CURIOUS, ACTIVE], ids=['passive', 'act'])
def test_every_bit_of_every_message_of_a_session_is_checked(security):
  """Flipped bits, all of them; and whatever is cut off, or put behind."""
  seen = set()
  for (stage, is_up, client), (message, channel) in recorded(security).items():
    kind = KINDS[stage][is_up]
    if client != 2:
      continue
    seen.add(kind)
    assert channel.open(message, kind)[0] == kind
    altered = bytearray(message)
    for bit in range(8 * len(message)):
      altered[bit // 8] ^= 1 << bit % 8
      with pytest.raises(errors.MessageError):
        channel.open(bytes(altered), kind)
      altered[bit // 8] ^= 1 << bit % 8
    for size in range(len(message)):
      with pytest.raises(errors.MessageError):
        channel.open(message[:size], kind)
    with pytest.raises(errors.MessageError):
      channel.open(message + b'\0', kind)
  stages = KINDS if security.active else ('invite', 'share', 'mask', 'unmask')
  assert seen == {kind for stage in stages for kind in KINDS[stage]}


def test_no_message_of_a_session_is_that_of_another_client_or_step():
  found = recorded(ACTIVE)
  for (one, (message, _)), (other, (_, channel)) in itertools.product(
    found.items(), repeat=2
  ):
    if one != other:
      kind = KINDS[other[0]][other[1]]
      with pytest.raises(errors.MessageError):
        channel.open(message, kind)


@pytest.mark.parametrize(
  ('message', 'kinds', 'error'),
  [
    (b'', [Kind.SETUP], r'at least 18 bytes\. Found 0'),
    (bytes(17), [Kind.SETUP], r'at least 18 bytes\. Found 17'),
    (bytes(18), [Kind.SETUP], r'must be of version 1\. Found 0'),
    (b'\2' + bytes(17), [Kind.SETUP], r'of version 1\. Found 2'),
    (
      b'\1\5' + bytes(16),
      [Kind.ROSTER, Kind.RESULT],
      r'that is due is ROSTER or RESULT\. Found type 5',
    ),
    (b'\1\1' + bytes(16), [Kind.SETUP], 'checksum of a message SETUP is wrong'),
  ],
)
def test_bad_frames(message: bytes, kinds, error: str):
  with pytest.raises(errors.MessageError, match=error):
    Channel(0).open(message, *kinds)


@given(st.lists(st.booleans(), max_size=70))
def test_bitmaps(flags: list[bool]):
  data = codec.pack_bits(flags)
  assert len(data) == codec.bitmap_bytes(len(flags)) == (len(flags) + 7) // 8
  assert codec.unpack_bits(data, len(flags)) == flags
  number = int.from_bytes(data, 'little')
  assert [bool(number >> i & 1) for i in range(len(flags))] == flags
  with pytest.raises(
    errors.MessageError, match=rf'bitmap of {len(flags)} must'
  ):
    codec.unpack_bits(data + b'\0', len(flags))


def test_a_bitmap_that_names_somebody_beyond_it():
  with pytest.raises(
    errors.MessageError, match='of 5 names somebody beyond it'
  ):
    codec.unpack_bits(b'\x20', 5)


def test_items_of_another_size():
  with pytest.raises(
    errors.MessageError, match=r'must have 2 items of 3 bytes\. Found 7 bytes'
  ):
    codec.split(memoryview(b'abcdefg'), 2, 3)
  assert codec.split(memoryview(b'abcdef'), 2, 3) == [b'abc', b'def']


SETUP = Setup(bytes(32), 7, Security(), True, 2, (VectorSpec('x', 3, 8),))


def test_the_bytes_of_a_setup():
  assert messages.encode_setup(SETUP) == bytes(32) + struct.pack(
    '<QBBddIIIIB1sIQ', 7, 2, 1, 0.05, 0.1, 0, 0, 2, 1, 1, b'x', 3, 8
  )


@pytest.mark.parametrize(
  ('offset', 'layout', 'value', 'error'),
  [
    (40, 'B', 3, 'Found class 3 and verify 1'),
    (41, 'B', 2, 'Found class 2 and verify 2'),
    (42, 'd', 1.0, '`corrupt` must be below 1'),
    (42, 'd', float('nan'), '`corrupt` must be finite'),
    (50, 'd', -1.0, '`dropout` must be in'),
    (58, 'I', 3, 'must be given together'),
    (66, 'I', 0, '`min_survivors` must be at least 1'),
    (70, 'I', 0, 'A message ends 23 bytes too early'),
    (70, 'I', 2, 'A message ends 1 bytes too early'),
    (70, 'I', 2**32 - 1, 'A message ends 1 bytes too early'),
    (74, 'B', 2, 'A message ends 1 bytes too early'),
    (74, 'B', 255, 'A message ends 242 bytes too early'),
    (75, 'B', 0xFF, "can't decode byte 0xff"),
    (76, 'I', 2**31 + 1, '`length` must be at most'),
    (80, 'Q', 1, '`modulus` must be at least 2'),
    (80, 'Q', 2**62 + 1, '`modulus` must be at most'),
  ],
)
def test_setups_that_are_none(offset: int, layout: str, value, error: str):
  body = bytearray(messages.encode_setup(SETUP))
  struct.pack_into(f'<{layout}', body, offset, value)
  with pytest.raises(errors.MessageError, match=error):
    messages.decode_setup(memoryview(bytes(body)))


ROSTER = messages.Roster(1, (3, 7, 9), (b'a' * 32, b'b' * 32, b'c' * 32))


@pytest.mark.parametrize(
  ('changes', 'error'),
  [
    ({'draw': 0}, r'a draw of 1 to 4\. Found 3 members and draw 0'),
    ({'draw': 5}, 'Found 3 members and draw 5'),
    ({'members': (), 'commitments': ()}, 'Found 0 members and draw 1'),
    ({'members': (3, 9, 7)}, r'ids of a roster must ascend.*\(3, 9, 7\)'),
    ({'members': (3, 7, 7)}, r'none twice\. Found \(3, 7, 7\)'),
  ],
)
def test_rosters_that_are_none(changes, error: str):
  body = dataclasses.replace(ROSTER, **changes).encode()
  with pytest.raises(errors.MessageError, match=error):
    messages.Roster.decode(memoryview(body))


PEERS = tuple(
  messages.Peer(place, 10 + place, bytes([place]) * 32, bytes([99]) * 32)
  for place in (0, 2, 3)
)
NEIGHBORS = messages.Neighbors(4, 3, 2, 1, PEERS)


@pytest.mark.parametrize(
  ('changes', 'error'),
  [
    ({'clients': 3}, r'A client of 3 has fewer neighbors\. Found 3'),
    ({'clients': 0, 'peers': PEERS[:1]}, r'of 0 has fewer neighbors\. Found 1'),
    ({'position': 2}, r'of 4 different clients\. Found 2 and \[0, 2, 3\]'),
    ({'position': 4}, r'Found 4 and \[0, 2, 3\]'),
    ({'peers': PEERS[::-1]}, r'positions of neighbors must ascend, none twice'),
    ({'peers': (PEERS[0], PEERS[0])}, r'none twice\. Found \[0, 0\]'),
    (
      {'peers': (PEERS[0], dataclasses.replace(PEERS[1], id=10))},
      r'ids of neighbors must ascend, none twice\. Found \[10, 10\]',
    ),
    (
      {'peers': (PEERS[0], dataclasses.replace(PEERS[1], position=4))},
      r'Found 1 and \[0, 4\]',
    ),
  ],
)
def test_neighbors_that_are_none(changes, error: str):
  body = dataclasses.replace(NEIGHBORS, **changes).encode()
  with pytest.raises(errors.MessageError, match=error):
    messages.Neighbors.decode(memoryview(body), active=False)


@pytest.mark.parametrize('neighbors', [None, 4])
def test_requests_that_name_survivors_beyond_the_roster(neighbors: int | None):
  rest = bytes(0 if neighbors is None else codec.bitmap_bytes(neighbors))

  def decode(survivors: bytes) -> messages.UnmaskRequest:
    body = memoryview(survivors + rest)
    return messages.UnmaskRequest.decode(body, 11, neighbors)

  assert decode(b'\xff\x07').survivors == b'\xff\x07'
  for last in (b'\x0f', b'\x87', b'\x80'):
    with pytest.raises(
      errors.MessageError, match='A bitmap of 11 names somebody beyond it'
    ):
      decode(b'\xff' + last)


def test_bodies_that_end_elsewhere():
  body = PEERS[0].c_public + PEERS[0].s_public
  with pytest.raises(errors.MessageError, match='ends 1 bytes too early'):
    messages.Advertisement.decode(memoryview(body[:-1]), active=False)
  with pytest.raises(errors.MessageError, match='ends 2 bytes too late'):
    messages.Advertisement.decode(memoryview(body + b'ab'), active=False)


def test_the_digest_of_a_setup_is_that_of_all_of_it():
  changed = [
    SETUP,
    dataclasses.replace(SETUP, session=b'\1' * 32),
    dataclasses.replace(SETUP, round=8),
    dataclasses.replace(SETUP, verify=False),
    dataclasses.replace(SETUP, min_survivors=3),
    dataclasses.replace(SETUP, security=Security('semi-malicious')),
    dataclasses.replace(SETUP, security=Security(corrupt=0.1)),
    dataclasses.replace(SETUP, security=Security(dropout=0.2)),
    dataclasses.replace(SETUP, security=Security(neighbors=4, threshold=3)),
    dataclasses.replace(SETUP, vectors=(VectorSpec('y', 3, 8),)),
    dataclasses.replace(SETUP, vectors=(VectorSpec('x', 4, 8),)),
    dataclasses.replace(SETUP, vectors=(VectorSpec('x', 3, 9),)),
  ]
  digests = {
    messages.setup_digest(messages.encode_setup(setup)) for setup in changed
  }
  assert len(digests) == len(changed)
