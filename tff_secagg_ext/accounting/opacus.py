# SPDX-License-Identifier: Apache-2.0
"""What Opacus has trained, as external events.

Opacus keeps a history of (noise_multiplier, sample_rate, num_steps): so many
steps of a Gaussian of that noise over the clip norm, each of a Poisson sample
of that rate. It is true where `PrivacyEngine.make_private` was called with
`poisson_sampling=True`, its default.

Nothing here needs Opacus, and Opacus' environment needs nothing of here but
numpy and scipy: a history goes from one to the other as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import json
from typing import Any

from tff_secagg_ext import _validate
from tff_secagg_ext.accounting import dp_events
from tff_secagg_ext.accounting import external as external_lib

_SEGMENT = '(noise_multiplier, sample_rate, num_steps)'


def opacus_events(
  history: Iterable[Sequence[Any]] | Mapping[str, Any],
  *,
  vouched_by: str,
  source: str = 'opacus',
  trust_domain: str = 'central',
  by_coordinator: bool = False,
) -> tuple[external_lib.ExternalEvent, ...]:
  """Returns the events of a history of Opacus, one for each item of it.

  Args:
    history: `accountant.history` of Opacus 1.x, or `accountant.state_dict()`:
      items (noise_multiplier, sample_rate, num_steps). Any of its accountants
      keeps one; so does the JSON of either.
    vouched_by: See `ExternalEvent`.
    source: See `ExternalEvent`.
    trust_domain: See `ExternalEvent`.
    by_coordinator: See `ExternalEvent`.

  Raises:
    TypeError: If an item is no such triple of numbers, or its steps are not
      whole.
    ValueError: If noise is negative or not finite, a rate is not in (0, 1], or
      steps are negative. Names the item.
  """
  if isinstance(history, Mapping):
    if 'history' not in history:
      raise ValueError(
        "`history` must be that of an accountant of Opacus, or have a 'history'"
        f' as its state_dict has. Found the keys {sorted(history)}.'
      )
    history = history['history']
  if isinstance(history, str) or not isinstance(history, Iterable):
    raise TypeError(
      f'`history` must be a list of {_SEGMENT}. Found {history!r}. Give'
      ' `accountant.history` of Opacus.'
    )
  return tuple(
    external_lib.ExternalEvent(
      _steps(item, f'history[{index}]'),
      trust_domain=trust_domain,
      vouched_by=vouched_by,
      source=source,
      by_coordinator=by_coordinator,
    )
    for index, item in enumerate(history)
  )


def _steps(item: object, where: str) -> str:
  """Returns the text of the event of an item of a history."""
  if isinstance(item, str) or not isinstance(item, Sequence) or len(item) != 3:
    raise TypeError(
      f'`{where}` must be {_SEGMENT}. Found {item!r}. Give'
      ' `accountant.history` of Opacus.'
    )
  noise, rate, steps = item
  noise = _validate.check_float(
    noise,
    f'{where}.noise_multiplier',
    minimum=0.0,
    remedy='It is noise over the clip norm.',
  )
  rate = _validate.check_float(
    rate,
    f'{where}.sample_rate',
    minimum=0.0,
    maximum=1.0,
    remedy='It is the expected batch over the number of records.',
  )
  if rate == 0.0:
    raise ValueError(
      f'`{where}.sample_rate` must be above 0. Found {item[1]!r}. Steps that'
      ' sample nobody are in no history.'
    )
  steps = _validate.check_int(
    steps, f'{where}.num_steps', minimum=0, remedy='Count whole steps.'
  )
  gaussian = {dp_events.CLASS: 'GaussianDpEvent', 'noise_multiplier': noise}
  sampled = {
    dp_events.CLASS: 'PoissonSampledDpEvent',
    'sampling_probability': rate,
    'event': gaussian,
  }
  return json.dumps(
    {dp_events.CLASS: 'SelfComposedDpEvent', 'event': sampled, 'count': steps}
  )


class EventAdapter:
  """An accountant of Opacus that records events as a model trains.

  It stands before another one, and does all that it does:

  ```python
  engine = opacus.PrivacyEngine()
  engine.accountant = EventAdapter(engine.accountant, vouched_by='the lab')
  model, optimizer, loader = engine.make_private(...)
  ...  # train; engine.get_epsilon as before
  engine.accountant.events  # for ledger.record_external, before a release
  ```

  Guarantees:
    - a step is recorded before the wrapped accountant counts it, and before the
      optimizer moves the weights;
    - steps that the wrapped accountant had counted, or loads from a checkpoint,
      are recorded too;
    - a step that no event can describe raises, and is not taken.
  """

  def __init__(self, accountant: Any, **fields: Any):
    """Wraps an accountant.

    Args:
      accountant: Any `opacus.accountants.IAccountant`.
      **fields: The keywords of `opacus_events`; `vouched_by` is needed.
    """
    self._accountant = accountant
    self._fields = fields
    self._history: list[tuple[float, float, int]] = []
    # Whatever is wrong is said now, and not by the first step.
    opacus_events([(1.0, 1.0, 1), *accountant.history], **fields)
    self._begin()

  def _begin(self) -> None:
    self._history = [tuple(item) for item in self._accountant.history]

  @property
  def events(self) -> tuple[external_lib.ExternalEvent, ...]:
    """What was trained so far."""
    return opacus_events(self._history, **self._fields)

  def step(self, *, noise_multiplier: float, sample_rate: float) -> None:
    """Records a step, and has the wrapped accountant count it."""
    _steps((noise_multiplier, sample_rate, 1), 'step')
    last = self._history[-1] if self._history else None
    if last is not None and last[:2] == (noise_multiplier, sample_rate):
      self._history[-1] = (noise_multiplier, sample_rate, last[2] + 1)
    else:
      self._history.append((noise_multiplier, sample_rate, 1))
    self._accountant.step(
      noise_multiplier=noise_multiplier, sample_rate=sample_rate
    )

  def get_optimizer_hook_fn(self, sample_rate: float) -> Callable[[Any], None]:
    """Returns what a `DPOptimizer` calls at each step.

    Args:
      sample_rate: The expected batch over the number of records.
    """

    def hook(optimizer: Any) -> None:
      self.step(
        noise_multiplier=optimizer.noise_multiplier,
        sample_rate=sample_rate * optimizer.accumulated_iterations,
      )

    return hook

  def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
    """Loads a checkpoint of the wrapped accountant."""
    opacus_events(state_dict, **self._fields)
    self._accountant.load_state_dict(state_dict)
    self._begin()

  def __len__(self) -> int:
    return len(self._accountant)

  def __getattr__(self, name: str) -> Any:
    if name == '_accountant':  # Of a copy that is being made.
      raise AttributeError(name)
    return getattr(self._accountant, name)
