# SPDX-License-Identifier: Apache-2.0
"""Whether a transcript can be that of a session, and what it says.

Guarantees, for a transcript that `check` takes:

- the chain of hashes is whole, from the setup to the end;
- nobody is heard who has not answered the step before;
- the survivors are those whose masked vectors arrived, and not too few;
- neighbors and threshold are those that the setup asks for;

and in the active classes, without trust in whoever wrote it:

- every client of the roster has signed its keys for exactly this setup;
- the seed of the graph is the hash of what these clients committed to;
- every confirmation is its client's signature of exactly these survivors.

What nobody signs (times, bytes, dropouts, the digest of the result) is as true
as its writer. Nor does a signature say whose it is: a writer can make up
clients. Give the identities that you know to have them compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
import dataclasses
import os
from typing import Any, NamedTuple

from tff_secagg_ext import _validate
from tff_secagg_ext.secagg import (
  codec,
  errors,
  keys,
  layers,
  messages,
  parameters,
  reading,
  transcript,
)
from tff_secagg_ext.secagg.setup import (
  MAX_ID,
  SESSION_BYTES,
  STAGES,
  Security,
  Setup,
)

# Stages and other events, as they follow one another to the end.
_STEPS = (
  'invite',
  'keys',
  'reveal',
  'graph',
  'share',
  'mask',
  'confirm',
  'survivors',
  'unmask',
  'verify',
  'result',
)
_ACTIVE_STEPS = ('keys', 'reveal', 'confirm')


@dataclasses.dataclass(frozen=True)
class Summary:
  """What a transcript says.

  Attributes:
    session: Its id, hex.
    round: The round of the training.
    threat: The class.
    clients: n, those on the roster; 0 if it ended before there was one.
    neighbors: k.
    threshold: t.
    survivors: Their number; 0 if it ended before they were known.
    dropouts: How many, by stage.
    refusals: How many, by class of the error.
    upload_bytes: All bytes from clients.
    download_bytes: All bytes to clients that answered.
    seconds: To the result; `None` without one.
    aborted: The reason of an abort, or `None`.
    verified: Whether clients checked the sum; `None` if they were not to.
    digest: SHA-256 of the body of Result, hex; `None` without one.
    signatures: How many there are; all were checked.
    hash: The hash of the last line, hex.
  """

  session: str
  round: int
  threat: str
  clients: int = 0
  neighbors: int = 0
  threshold: int = 0
  survivors: int = 0
  dropouts: Mapping[str, int] = dataclasses.field(default_factory=dict)
  refusals: Mapping[str, int] = dataclasses.field(default_factory=dict)
  upload_bytes: int = 0
  download_bytes: int = 0
  seconds: float | None = None
  aborted: str | None = None
  verified: bool | None = None
  digest: str | None = None
  signatures: int = 0
  hash: str = ''


def check(
  lines: Iterable[bytes], identities: Mapping[int, bytes] | None = None
) -> Summary:
  """Checks a transcript and returns what it says.

  Args:
    lines: A file that is opened to read bytes, or `Transcript.lines`.
    identities: The Ed25519 public keys that clients are known by; all that
      have signed must be among them. `None` takes those of the transcript.

  Raises:
    TranscriptError: At the first line that is wrong.
  """
  inspection: _Inspection | None = None
  last_hash = ''
  for entry in transcript.read(lines):
    try:
      if inspection is None:
        reading.demand(
          entry.event == 'setup', 'a session begins with its setup'
        )
        inspection = _Inspection(_setup(entry.fields), identities)
      else:
        inspection.take(entry.event, entry.fields)
    except (TypeError, ValueError, errors.SecAggError) as error:
      raise transcript.TranscriptError(entry.line, str(error)) from error
    last_hash = entry.hash
  assert inspection is not None  # `read` takes no transcript without lines
  return inspection.summary(last_hash)


def verify_file(
  path: str | os.PathLike[str], identities: Mapping[int, bytes] | None = None
) -> Summary:
  """Checks a transcript's file; see `check`.

  Raises:
    OSError: If it cannot be read.
    TranscriptError: At the first line that is wrong.
  """
  with open(path, 'rb') as file:
    return check(file, identities)


class _Inspection:
  """A session as far as its lines have been read."""

  def __init__(self, setup: Setup, identities: Mapping[int, bytes] | None):
    self._setup = setup
    self._active = setup.security.active
    self._digest = messages.setup_digest(messages.encode_setup(setup))
    self._known = identities
    self._steps = [
      step
      for step in _STEPS
      if (self._active or step not in _ACTIVE_STEPS)
      and (setup.verify or step != 'verify')
    ]
    self._step = 'setup'
    self._draws = 0
    self._heard: list[int] = []  # who has answered the last stage
    self._masked: list[int] = []
    self._signers: dict[int, _Signer] = {}
    self._roster: list[int] = []
    self._seed = b''
    self._dropouts: Counter[str] = Counter()
    self._refusals: Counter[str] = Counter()
    self._found: dict[str, Any] = {'upload_bytes': 0, 'download_bytes': 0}
    self._signatures = 0

  def summary(self, last_hash: str) -> Summary:
    return Summary(
      session=self._setup.session.hex(),
      round=self._setup.round,
      threat=self._setup.security.threat,
      clients=len(self._roster),
      dropouts=dict(self._dropouts),
      refusals=dict(self._refusals),
      signatures=self._signatures,
      hash=last_hash,
      **self._found,
    )

  def take(self, event: str, fields: Mapping[str, Any]) -> None:
    """Takes the next line; its errors say what is wrong with it."""
    step = event
    if event == 'stage':
      step = _validate.check_choice(fields['stage'], 'stage', STAGES)
    if event != 'aborted':
      reading.demand(
        step in self._next_steps(), f'{step} cannot follow {self._step}'
      )
    active_fields = transcript.ACTIVE_FIELDS & transcript.FIELDS[event]
    reading.demand(
      active_fields & fields.keys()
      == (active_fields if self._active else set()),
      f'{event} has {", ".join(sorted(active_fields))} in the active protocol'
      ' alone, and always',
    )
    getattr(self, f'_take_{event}')(fields)
    self._step = step

  def _next_steps(self) -> list[str]:
    if self._step == 'setup':
      return self._steps[:1]
    after = self._steps.index(self._step) + 1
    again = ['reveal'] if self._step == 'reveal' else []
    return again + self._steps[after : after + 1]

  def _take_stage(self, fields: Mapping[str, Any]) -> None:
    stage = fields['stage']
    answers = reading.rows(fields['answers'], 'answers', 4)
    refusals = reading.rows(fields['refusals'], 'refusals', 2)
    answered = [answer[0] for answer in answers]
    dropped = reading.ids(fields['dropouts'], 'dropouts')
    asked = [*answered, *dropped, *(refusal[0] for refusal in refusals)]
    reading.demand(
      len(set(asked)) == len(asked),
      'a client is two of answering, dropped out and refusing',
    )
    if stage != 'invite':
      strangers = set(asked) - set(self._heard)
      reading.demand(
        not strangers,
        f'clients {sorted(strangers)} have not answered the stage before',
      )
    for _, up, down, seconds in answers:
      self._found['upload_bytes'] += _validate.check_int(up, 'up', minimum=0)
      self._found['download_bytes'] += _validate.check_int(
        down, 'down', minimum=0
      )
      _validate.check_float(seconds, 'seconds', minimum=0.0)
    if dropped:
      self._dropouts[stage] += len(dropped)
    self._refusals.update(
      reading.text(name, 'refusals') for _, name in refusals
    )
    self._draws += stage == 'reveal'
    if stage == 'mask':
      self._masked = answered
    self._heard = answered

  def _take_keys(self, fields: Mapping[str, Any]) -> None:
    rows = reading.rows(fields['advertisements'], 'advertisements', 6)
    reading.demand_same(rows, self._heard, 'advertisements', 'invite')
    for client, *values in rows:
      identity, c_public, s_public, commitment = (
        reading.hex_bytes(value, 'key', keys.DIGEST_BYTES)
        for value in values[:-1]
      )
      reading.demand(
        self._known is None or self._known.get(client) == identity,
        f'client {client} is not known by this identity',
      )
      self._signers[client] = _Signer(identity, commitment)
      content = keys.advertised_content(
        self._digest, client, c_public + s_public, commitment
      )
      self._check_signature(client, values[-1], content, 'keys')

  def _take_graph(self, fields: Mapping[str, Any]) -> None:
    self._roster = reading.ids(fields['clients'], 'clients')
    reading.demand_same(self._roster, self._heard, 'clients', 'the last stage')
    neighbors = _validate.check_int(fields['neighbors'], 'neighbors')
    threshold = _validate.check_int(fields['threshold'], 'threshold')
    parameters.check(
      len(self._roster), neighbors, threshold, self._setup.security
    )
    layers.check_graph(len(self._roster), neighbors, self._setup)
    self._found |= {'neighbors': neighbors, 'threshold': threshold}
    self._seed = reading.hex_bytes(fields['seed'], 'seed', keys.DIGEST_BYTES)
    if self._active:
      self._check_seed(fields['draw'], fields['preimages'])

  def _check_seed(self, draw: object, listed: object) -> None:
    draw = _validate.check_int(
      draw, 'draw', minimum=1, maximum=keys.CHAIN_LENGTH
    )
    reading.demand(draw == self._draws, f'draw {draw} of {self._draws}')
    preimages = [
      reading.hex_bytes(preimage, 'preimage', keys.DIGEST_BYTES)
      for preimage in reading.items(listed, 'preimages')
    ]
    reading.demand(
      len(preimages) == len(self._roster), 'one preimage a client is due'
    )
    for client, preimage in zip(self._roster, preimages, strict=True):
      reading.demand(
        keys.chain(preimage, draw) == self._signers[client].commitment,
        f'client {client} has revealed what it did not commit to',
      )
    commitments = tuple(keys.chain(preimage, 1) for preimage in preimages)
    roster = messages.Roster(draw, tuple(self._roster), commitments)
    seed = keys.digest(b'graph', self._digest, roster.encode(), *preimages)
    reading.demand(
      seed == self._seed, 'the seed is not the hash of what was revealed'
    )

  def _take_survivors(self, fields: Mapping[str, Any]) -> None:
    survivors = reading.ids(fields['survivors'], 'survivors')
    reading.demand_same(survivors, self._masked, 'survivors', 'mask')
    least = max(
      self._setup.min_survivors,
      parameters.least_survivors(len(self._roster), self._setup.security),
    )
    reading.demand(
      len(survivors) >= least, f'{len(survivors)} survivors of at least {least}'
    )
    self._found['survivors'] = len(survivors)
    if not self._active:
      return
    rows = reading.rows(fields['confirmations'], 'confirmations', 2)
    reading.demand_same(rows, self._heard, 'confirmations', 'confirm')
    alive = set(survivors)
    content = keys.survivors_content(
      self._digest,
      self._seed,
      codec.pack_bits(client in alive for client in self._roster),
    )
    for client, signature in rows:
      self._check_signature(client, signature, content, 'survivors')

  def _take_result(self, fields: Mapping[str, Any]) -> None:
    verified = fields['verified']
    if verified is not None:
      _validate.check_bool(verified, 'verified')
    reading.demand(
      (verified is not None) == self._setup.verify,
      f'verified is {verified}, where the setup has {self._setup.verify}',
    )
    digest = reading.hex_bytes(fields['digest'], 'digest', keys.DIGEST_BYTES)
    self._found |= {
      'verified': verified,
      'digest': digest.hex(),
      'seconds': _validate.check_float(
        fields['seconds'], 'seconds', minimum=0.0
      ),
    }

  def _take_aborted(self, fields: Mapping[str, Any]) -> None:
    _validate.check_choice(fields['stage'], 'stage', STAGES)
    _validate.check_bool(fields['sum_known'], 'sum_known')
    self._found['aborted'] = reading.text(fields['reason'], 'reason')

  def _check_signature(
    self, client: int, signature: object, content: bytes, name: str
  ) -> None:
    found = reading.hex_bytes(signature, 'signature', keys.SIGNATURE_BYTES)
    reading.demand(
      keys.is_signed(self._signers[client].identity, found, content),
      f"the signature of client {client}'s {name} does not verify",
    )
    self._signatures += 1


class _Signer(NamedTuple):
  """What is known of a client that has signed its keys."""

  identity: bytes
  commitment: bytes


def _setup(fields: Mapping[str, Any]) -> Setup:
  neighbors, threshold = fields['neighbors'], fields['threshold']
  if neighbors is not None:
    _validate.check_int(neighbors, 'neighbors', maximum=MAX_ID)
  _validate.check_int(fields['min_survivors'], 'min_survivors', maximum=MAX_ID)
  return Setup(
    session=reading.hex_bytes(fields['session'], 'session', SESSION_BYTES),
    round=fields['round'],
    security=Security(
      fields['threat'],
      fields['corrupt'],
      fields['dropout'],
      neighbors,
      threshold,
    ),
    verify=fields['verify'],
    min_survivors=fields['min_survivors'],
    vectors=reading.vectors(fields),
  )
