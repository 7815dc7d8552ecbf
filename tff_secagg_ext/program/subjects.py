# SPDX-License-Identifier: Apache-2.0
"""Aggregation factories as subjects of `audit.implementation`.

A factory's process is compiled to its MapReduce form, whose `work` is what a
client runs: what it returns is the client's message. So a subject is what
would be deployed, not a copy of it.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import functools
import importlib
import math
from typing import Any

import numpy as np
import tensorflow as tf

from tff_secagg_ext import _forms, aggregators
from tff_secagg_ext._compat import tff
from tff_secagg_ext.audit import implementation as audit
from tff_secagg_ext.program import releases

# What `modclip_prob` of TFF's factory is; it can't be read off it.
_TFF_WRAP_PROBABILITY = 1e-4

MakeFactory = Callable[[audit.Setting], Any]
"""Makes the aggregation factory for a setting."""


def of_factory(make: MakeFactory, clip_norm: float = 1.0) -> audit.Make:
  """Returns what makes subjects of an unweighted aggregation factory.

  What is stated of our factory, and of `tff.learning.ddp_secure_aggregator`,
  is read off them. Of others nothing is known but their clip norm: checks that
  need more do not apply to them.

  Args:
    make: Makes the factory for a setting.
    clip_norm: L2 norm at most of one client in the result of a factory that
      is neither, in units of the value.
  """

  @functools.lru_cache(maxsize=8)
  def subject(setting: audit.Setting) -> audit.Subject:
    try:
      factory = make(setting)
      process = factory.create(tff.TensorType(np.float32, [setting.dimension]))
    except ValueError as error:
      raise audit.Refused(str(error)) from error
    return _subject(setting, _Round(process), factory, clip_norm)

  return subject


class _Round:
  """The first round of an aggregation process, as a whole and in parts."""

  def __init__(self, process: tff.templates.AggregationProcess):
    self._next = _two_results(process)
    form = _forms.of(self._next)
    self._work = form.work
    self._state = process.initialize()
    self._broadcast = form.prepare(self._state)
    self.unnoised = releases.beside_the_vector(self._next)

  def messages(self, value: Any) -> Iterator[Any]:
    """Yields all that leaves one client."""
    sent = self._work(value, self._broadcast)
    container = tff.structure.from_container(sent, recursive=True)
    yield from map(np.asarray, tff.structure.flatten(container))

  def next(self, values: Sequence[Any]) -> tuple[Any, Mapping[str, Any]]:
    """Returns the result, and the measurements with flat names."""
    results = self._next(self._state, list(values))['metrics']
    return results['result'], dict(_flat(results['measurements']))


def _two_results(process: tff.templates.AggregationProcess) -> tff.Computation:
  """The process as its MapReduce form wants it: (state, x) -> (state, y)."""

  @tff.federated_computation(process.next.type_signature.parameter)
  def next_fn(state: Any, value: Any) -> Any:
    output = process.next(state, value)
    released = collections.OrderedDict(
      result=output.result, measurements=output.measurements
    )
    return collections.OrderedDict(
      state=output.state, metrics=tff.federated_zip(released)
    )

  return next_fn


def _flat(value: Any, name: str = '') -> Iterator[tuple[str, Any]]:
  if isinstance(value, Mapping):
    for key, each in value.items():
      yield from _flat(each, f'{name}.{key}' if name else key)
  else:
    yield name, np.asarray(value).tolist()


def _subject(
  setting: audit.Setting, first: _Round, factory: Any, clip_norm: float
) -> audit.Subject:
  poisson = False
  if isinstance(factory, aggregators.DdpSecureAggregationFactory):
    facts = _our_facts(factory, setting)
    poisson = facts.hides_cohort
    # The last coordinate counts the contributors, and has no noise to audit.
    length: int | None = factory.padded_dimension(setting.dimension)
  else:
    zeros = np.zeros(setting.dimension, np.float32)
    _, measured = first.next([zeros] * setting.clients)
    facts = _their_facts(measured, setting, clip_norm)
    length = None

  def encode(values: Sequence[Any]) -> Sequence[Any]:
    return [_longest(first.messages(value))[:length] for value in values]

  def aggregate(values: Sequence[Any]) -> audit.Total:
    mean, measured = first.next(values)
    divisor = setting.clients if poisson else len(values)
    return audit.Total(
      vector=np.asarray(mean, np.float64) * divisor,
      noise_multiplier=measured.get(
        'effective_noise_multiplier', setting.noise_multiplier
      ),
      measurements=measured,
      aborted=bool(measured.get('aborted', False)),
    )

  message = _longest(first.messages(np.zeros(setting.dimension, np.float32)))
  integers = np.issubdtype(message.dtype, np.integer)
  replay = None
  if facts.share_stddev:
    replay = time_stamped(facts.share_stddev, len(message[:length]))
  return audit.Subject(
    setting=setting,
    facts=facts,
    encode=encode if integers else None,
    aggregate=aggregate,
    unnoised=first.unnoised,
    replay=replay,
  )


def _longest(leaves: Iterable[Any]) -> Any:
  """The longest tensor that leaves a client, as a vector."""
  return max(leaves, key=np.size).ravel()


def _our_facts(
  factory: aggregators.DdpSecureAggregationFactory, setting: audit.Setting
) -> audit.Facts:
  spec = factory.spec
  constants = factory.constants(factory.padded_dimension(setting.dimension))
  clipping = spec.clipping
  if isinstance(clipping, aggregators.AdaptiveClipping):
    clipping = clipping.initial_norm
  return audit.Facts(
    clip_norm=clipping,
    sensitivity=constants.sensitivity,
    share_stddev=constants.share_stddev,
    unit=clipping / constants.scale,
    modulus=constants.modulus,
    wrap_probability=spec.modclip_prob,
    hides_cohort=spec.cohorts == 'poisson',
  )


def _their_facts(
  measured: Mapping[str, Any], setting: audit.Setting, clip_norm: float
) -> audit.Facts:
  """What TFF's factory measures in its first round, if it is that one."""
  stated = {name.rpartition('.')[2]: value for name, value in measured.items()}
  if 'scaled_inflated_l2' not in stated:
    return audit.Facts(clip_norm)
  return audit.Facts(
    clip_norm=stated['l2_clip'],
    sensitivity=stated['scaled_inflated_l2'],
    share_stddev=stated['scaled_local_stddev'],
    unit=1 / stated['scale_factor'],
    modulus=2**setting.bits,
    wrap_probability=_TFF_WRAP_PROBABILITY,
  )


def time_stamped(stddev: float, size: int) -> Callable[[int, int], Any]:
  """Returns the `replay` of a subject: Skellam noise from time stamps.

  As `DistributedSkellamSumQuery` of TensorFlow Privacy 0.9 draws it.
  """

  @tf.function
  def replay(start: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    rate = tf.constant(stddev**2 / 2, tf.float64)

    def draw(stamp: tf.Tensor) -> tf.Tensor:
      poisson = tf.random.stateless_poisson(
        [size, 2], tf.stack([stamp, 0]), [rate, rate], tf.int64
      )
      return poisson[:, 0] - poisson[:, 1]

    return tf.map_fn(draw, start + tf.range(count))

  def noise(start: int, count: int) -> Any:
    as_tensor = functools.partial(tf.constant, dtype=tf.int64)
    return replay(as_tensor(start), as_tensor(count)).numpy()

  return noise


def of_query(make: Callable[..., Any], *, l1: bool = False) -> audit.Make:
  """Returns what makes subjects of a distributed query of TensorFlow Privacy.

  Its records are integers, here of at most `_STEP` a coordinate: a client's
  value is rounded to them, and refused where the query refuses it. A round is
  the plain sum of what the query lets pass.

  Args:
    make: Makes the query from `l2_norm_bound`, `local_stddev` and, if `l1`,
      `l1_norm_bound`.
    l1: Whether the query bounds the L1 norm as well.
  """

  @functools.lru_cache(maxsize=8)
  def subject(setting: audit.Setting) -> audit.Subject:
    root = math.sqrt(setting.dimension)
    # A rounding adds at most half a unit to each coordinate.
    bound = (_STEP + 0.5) * root
    stddev = setting.noise_multiplier * bound / math.sqrt(setting.clients)
    stated: dict[str, float] = {'l2_norm_bound': bound, 'local_stddev': stddev}
    if l1:
      # The query holds it as an int32.
      stated['l1_norm_bound'] = min(math.ceil(bound * root), 2**31 - 1)
    facts = audit.Facts(
      clip_norm=_STEP * root,
      sensitivity=bound,
      l1_sensitivity=stated.get('l1_norm_bound'),
      share_stddev=float(np.float32(stddev)),
    )
    return _query_subject(setting, facts, make(**stated))

  return subject


_STEP = 4095


def _query_subject(
  setting: audit.Setting, facts: audit.Facts, query: Any
) -> audit.Subject:
  parameters = query.derive_sample_params(query.initial_global_state())

  def encode(values: Sequence[Any]) -> Sequence[Any]:
    return [send(value) for value in values]

  def send(value: Any) -> Any:
    ends = np.iinfo(np.int32)
    record = np.nan_to_num(np.rint(value).astype(np.float64), nan=ends.min)
    record = np.clip(record, ends.min, ends.max).astype(np.int32)
    try:
      noised = query.preprocess_record(parameters, tf.constant(record))
      return noised.numpy().astype(np.int64)
    except tf.errors.InvalidArgumentError:
      return None

  def aggregate(values: Sequence[Any]) -> audit.Total:
    sent = [each for each in encode(values) if each is not None]
    total = np.sum(sent, axis=0).astype(np.float64)
    return audit.Total(total, setting.noise_multiplier, {})

  return audit.Subject(
    setting=setting,
    facts=facts,
    encode=encode,
    aggregate=aggregate,
    replay=time_stamped(facts.share_stddev or 0.0, setting.dimension),
  )


def named(name: str, clip_norm: float = 1.0) -> audit.Make:
  """Returns what makes subjects, by a name.

  Args:
    name: One of `NAMES`, or `module:attribute`: a function of
      (noise_multiplier, clients_per_round, bits) that makes an aggregation
      factory, as `tff.learning.ddp_secure_aggregator` is.
    clip_norm: See `of_factory`.

  Raises:
    ValueError: If there is nothing of that name.
  """
  if name in ('ours', 'ours-fixed'):
    cohorts = 'fixed' if name == 'ours-fixed' else 'poisson'
    ours = functools.partial(aggregators.ddp_secure_aggregator, cohorts=cohorts)
    return of_factory(_from_setting(ours))
  if name == 'tff':
    return of_factory(_from_setting(tff.learning.ddp_secure_aggregator))
  if name in _QUERIES:
    query = getattr(
      importlib.import_module('tensorflow_privacy'), _QUERIES[name]
    )
    return of_query(query, l1=name == 'tfp-skellam')
  return of_factory(_from_setting(_attribute(name)), clip_norm)


_QUERIES = {
  'tfp-skellam': 'DistributedSkellamSumQuery',
  'tfp-dgauss': 'DistributedDiscreteGaussianSumQuery',
}
NAMES = ('ours', 'ours-fixed', 'tff', *_QUERIES)
"""What is known by name; 'ours' has Poisson cohorts."""


def _from_setting(factory: Callable[..., Any]) -> MakeFactory:
  def make(setting: audit.Setting) -> Any:
    return factory(setting.noise_multiplier, setting.clients, bits=setting.bits)

  return make


def _attribute(name: str) -> Callable[..., Any]:
  module, _, attribute = name.partition(':')
  known = f'one of {", ".join(NAMES)}, or `module:attribute`'
  if not attribute:
    raise ValueError(f'`factory` must be {known}. Found {name!r}.')
  try:
    found = getattr(importlib.import_module(module), attribute)
  except (ImportError, AttributeError) as error:
    raise ValueError(
      f'`factory` must be {known}, that can be imported. Found {name!r}:'
      f' {error}.'
    ) from error
  if not callable(found):
    raise ValueError(
      f'`factory` must be {known}, a function of (noise_multiplier,'
      f' clients_per_round, bits). Found a {type(found).__name__}.'
    )
  made: Callable[..., Any] = found
  return made
