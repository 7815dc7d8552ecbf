# SPDX-License-Identifier: Apache-2.0
"""Attacks of servers and outsiders: refused, and what they would gain.

Each attack is run twice. With honest clients, at least one refuses with the
named exception, and the attacker, who goes on with the others, does not reach
its goal. With the one check taken out that is named beside it, it does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
import dataclasses
import re

import pytest

from tests.secagg.malicious import Attacker, World
from tff_secagg_ext.secagg import checks, client, errors, keys
from tff_secagg_ext.secagg.setup import Security

Patch = pytest.MonkeyPatch
# The clients of most worlds, and those without the victim.
ALL, WITHOUT = range(1, 9), range(2, 9)
# Complete graphs of five clients, and of three; or a circle of more.
FIVE = Security('malicious', 0.0, 0.0, neighbors=4, threshold=3)
THREE = Security('malicious', 0.0, 0.0, neighbors=2, threshold=2)


@dataclasses.dataclass(frozen=True)
class Attack:
  """What the attacker does, and what is in its way.

  Attributes:
    run: Does it, and returns whether the goal is reached.
    error: The refusal.
    match: Of its message.
    take_out: Removes the check.
    world: Who there is.
  """

  run: Callable[[Attacker], bool]
  error: type[errors.SecAggError]
  match: str
  take_out: Callable[[Patch], None]
  world: World

  @property
  def name(self) -> str:
    return f'{self.run.__name__}-{self.match}'.replace(' ', '-')


class Attacks(list[Attack]):
  """The attacks of a module."""

  def add(
    self,
    error: type[errors.SecAggError],
    match: str,
    take_out: Callable[[Patch], None],
    **world: object,
  ) -> Callable[[Callable[[Attacker], bool]], Callable[[Attacker], bool]]:
    """Decorates what an attacker does; see `Attack` and `World`."""

    def add(run: Callable[[Attacker], bool]) -> Callable[[Attacker], bool]:
      self.append(Attack(run, error, match, take_out, World(**world)))
      return run

    return add

  @property
  def each(self) -> pytest.MarkDecorator:
    """Runs a test for each of those that were added."""
    return pytest.mark.parametrize(
      'attack', list(self), ids=[one.name for one in self]
    )


def refuse(attack: Attack) -> None:
  """Asserts that honest clients do."""
  server = Attacker(attack.world)
  assert not attack.run(server)
  assert [
    error
    for error in server.refusals
    if type(error) is attack.error and re.search(attack.match, str(error))
  ], server.refusals


def succeed(attack: Attack, patch: Patch) -> None:
  """Asserts that the attack does without the check."""
  attack.take_out(patch)
  assert attack.run(Attacker(attack.world))


def no_check(where: object, name: str, result: object = None):
  """A check that lets everything pass."""
  return lambda patch: patch.setattr(where, name, lambda *_, **__: result)


def ignoring(
  where: object, name: str, error: type[errors.SecAggError]
) -> Callable[[Patch], None]:
  """A check whose refusals of one kind are ignored."""
  real = getattr(where, name)

  def lenient(*args: object) -> object:
    try:
      return real(*args)
    except error:
      return None

  return lambda patch: patch.setattr(where, name, lenient)


def survivors_with(**weaker: object) -> Callable[[Patch], None]:
  """The check of survivor lists, for a neighborhood with other fields."""
  real = checks.survivors

  def lenient(bitmap, neighborhood, shared, setup):
    fields = {
      name: value(bitmap, neighborhood) if callable(value) else value
      for name, value in weaker.items()
    }
    shared = fields.pop('shared', shared)
    least = fields.pop('min_survivors', setup.min_survivors)
    setup = dataclasses.replace(setup, min_survivors=least)
    neighborhood = dataclasses.replace(neighborhood, **fields)
    return real(bitmap, neighborhood, shared, setup)

  return lambda patch: patch.setattr(checks, 'survivors', lenient)


def together(*changes: Callable[[Patch], None]) -> Callable[[Patch], None]:
  def take_out(patch: Patch) -> None:
    for change in changes:
      change(patch)

  return take_out


# A client that forgets in which rounds it has answered.
ANSWER_AGAIN = no_check(checks, 'unanswered')


# A client that can be asked again at a step that it has left.
KEEP_STATES = together(
  lambda patch: patch.setattr(client.State, '_leave', lambda it: it._memory),
  ANSWER_AGAIN,
)


def unconfirmed(patch: Patch) -> None:
  """Clients that ask for no confirmation by others."""
  real = checks.confirmations
  patch.setattr(
    checks,
    'confirmations',
    lambda request, neighborhood, *rest: real(
      request, dataclasses.replace(neighborhood, threshold=0), *rest
    ),
  )


def sign_any_list(patch: Patch) -> None:
  """Confirmations that hold for every list."""
  real = keys.survivors_content
  patch.setattr(
    keys, 'survivors_content', lambda digest, seed, _: real(digest, seed, b'')
  )


@dataclasses.dataclass(frozen=True)
class Telling:
  """A list of who is alive, and who is asked what of it.

  Attributes:
    alive: Whom it names.
    confirm: Who is asked to confirm it.
    unmask: Who is then asked for shares.
  """

  alive: Collection[int]
  confirm: Sequence[int]
  unmask: Sequence[int]


def tell(
  server: Attacker,
  one: Telling,
  other: Telling,
  forge: Callable[[dict[int, bytes], dict[int, bytes]], None] = lambda *_: None,
) -> None:
  """Tells two groups two lists, with signatures that are made from both."""
  first, second = server.bitmap(one.alive), server.bitmap(other.alive)
  signed = server.confirm(first, *one.confirm)
  also_signed = server.confirm(second, *other.confirm)
  forge(also_signed, signed)
  server.unmask(first, signed, *one.unmask)
  server.unmask(second, also_signed, *other.unmask)
