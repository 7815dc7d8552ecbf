# SPDX-License-Identifier: Apache-2.0
"""Our mechanism as a subject, without TFF: the round's own functions."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from tests.mechanism.test_round import make_round
from tff_secagg_ext.audit import implementation as audit
from tff_secagg_ext.program import subjects

CLIP = 0.1


def subject(
  setting: audit.Setting, *, shares: float = 1.0, **choices: Any
) -> audit.Subject:
  """Our mechanism; with shares of noise of `shares` times their stddev."""
  round_ = make_round(
    [(setting.dimension,)],
    noise_multiplier=setting.noise_multiplier,
    expected_clients_per_round=setting.clients,
    bits=setting.bits,
    clipping=CLIP,
    **choices,
  )
  constants = round_.constants
  facts = audit.Facts(
    clip_norm=CLIP,
    sensitivity=constants.sensitivity,
    share_stddev=constants.share_stddev,
    unit=CLIP / constants.scale,
    modulus=constants.modulus,
    wrap_probability=round_.spec.modclip_prob,
    hides_cohort=round_.spec.cohorts == 'poisson',
  )
  louder = dataclasses.replace(
    constants, share_stddev=shares * constants.share_stddev
  )
  round_ = dataclasses.replace(round_, constants=louder)
  state = dict(round_.initial_state())
  send, decode = tf.function(round_.encode), tf.function(round_.decode)

  def sent(values: Any) -> Any:
    return [send(state, [tf.constant(v)]).numpy() for v in values]

  def aggregate(values: Any) -> audit.Total:
    total = np.sum(sent(values), axis=0, dtype=np.int64) % constants.modulus
    _, mean, measured = decode(state, total.astype(np.int32))
    measured = {name: each.numpy() for name, each in measured.items()}
    poisson = facts.hides_cohort
    divisor = setting.clients if poisson else len(values)
    return audit.Total(
      vector=mean[0].numpy().astype(float) * divisor,
      noise_multiplier=float(measured['effective_noise_multiplier']) / shares,
      measurements=measured,
      aborted=bool(measured['aborted']),
    )

  replay = None
  if constants.share_stddev:
    replay = subjects.time_stamped(constants.share_stddev, constants.dimension)
  return audit.Subject(
    setting=setting,
    facts=facts,
    encode=lambda values: [each[:-1].astype(np.int64) for each in sent(values)],
    aggregate=aggregate,
    unnoised=(),
    replay=replay,
  )
