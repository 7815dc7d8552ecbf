# SPDX-License-Identifier: Apache-2.0
"""Why a protocol run ends early: one named exception for each reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from tff_secagg_ext.secagg.report import Report


class SecAggError(Exception):
  """The root of all errors of the protocol."""


class MessageError(SecAggError):
  """Bytes that are not the message that was due: cut, altered, or another's."""


class StateSpentError(SecAggError):
  """A state was used twice. Each step of the protocol is taken once."""


class Aborted(SecAggError):
  """The server ended the session without a result.

  Attributes:
    stage: The step in which it ended.
    sum_known: Whether the server had the sum by then. If not, nothing about
      the clients' vectors has left them.
    report: What had happened, and what it had cost; `None` where nobody counts.
  """

  def __init__(self, reason: str, stage: str, sum_known: bool = False):
    super().__init__(f'{reason} (in step {stage!r})')
    self.stage = stage
    self.sum_known = sum_known
    self.report: Report | None = None


class Refusal(SecAggError):
  """A client ended its part, because what it was asked for is not safe."""


class UnacceptableSetup(Refusal):
  """The server's setup is weaker than the client's policy."""


class ReplayedSession(Refusal):
  """The client was in this session, or has answered in its round, already."""


class CohortTooSmall(Refusal):
  """Fewer clients than the policy hides a client among."""


class LoweredThreshold(Refusal):
  """Neighbors or a threshold below what the class asks for."""


class BadKey(Refusal):
  """A public key that is the client's own, another's too, or degenerate."""


class BadSignature(Refusal):
  """A signature that is not its owner's, or not of what it should be of."""


class BadRoster(Refusal):
  """A roster without the client, or not built on what was committed."""


class BadNeighbors(Refusal):
  """Neighbors that the graph does not give the client."""


class BadShare(Refusal):
  """A share that was altered, misdelivered, or not encrypted for the client."""


class TooFewShares(Refusal):
  """Fewer neighbors than the threshold have shared their secrets."""


class BadSurvivors(Refusal):
  """A survivor list that no honest server sends to this client."""


class TooFewSurvivors(Refusal):
  """A survivor list below the threshold or below the smallest cohort."""


class NotConfirmed(Refusal):
  """Fewer neighbors than the threshold have confirmed the survivor list."""


class WrongSum(Refusal):
  """A sum whose tags do not fit: altered, replayed, or of other clients."""
