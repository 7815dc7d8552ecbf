# SPDX-License-Identifier: Apache-2.0
"""Noise of which, after dropouts, a sum has exactly what it shall have.

The layers of XNoise [JWC24, arXiv 2209.12528]. n clients are expected, c of
them may collude, and noise of variance S shall protect the sum. A client cannot
know how many others drop out. So it adds a share of variance S/(n - c), which
is enough if nobody does, and on top of it layers j = 1, ..., T of variances

    S/((n - c - j)(n - c - j + 1)) = S/(n - c - j) - S/(n - c - j + 1),

so that share and layers up to j have S/(n - c - j) together. Once D dropouts
are known, the layers above D are taken off the sum again. Each of the m = n - D
contributors then leaves S/(m - c): together those that do not collude leave S,
whatever D from 0 to T was.
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction

from tff_secagg_ext import _validate

MECHANISMS = ('distributed_dgauss', 'distributed_skellam')
# What one table holds to the tails, and what the weights are computed for.
_LARGEST_STDDEV = 3000
_LEAST_VARIANCE = Fraction(1, 16)
_MAX_U32 = (1 << 32) - 1


@dataclasses.dataclass(frozen=True)
class DropoutNoise:
  """How a noised vector is kept at its noise when clients drop out.

  Attributes:
    mechanism: The law of shares and layers, 'distributed_dgauss' or
      'distributed_skellam'.
    share_stddev: Standard deviation of a client's share, in integer units,
      positive; its square is S/(n - c). The share is in the vector already.
    dimension: The number of noised coordinates, at least 1.
    modulus: What the vector is summed modulo, at least 2.
    clients: n, the number of clients whose shares alone are enough.
    dropouts: T, how many of them may drop out: 1 to n - c - 1.
    colluders: c, how many of them may tell the server their noise.

  Raises:
    TypeError: If a value is of the wrong kind.
    ValueError: If a value is out of its range, or a layer is too narrow or too
      wide to be drawn.
  """

  mechanism: str
  share_stddev: float
  dimension: int
  modulus: int
  clients: int
  dropouts: int
  colluders: int = 0

  def __post_init__(self) -> None:
    _validate.check_choice(self.mechanism, 'mechanism', MECHANISMS)
    _validate.check_float(self.share_stddev, 'share_stddev', minimum=0.0)
    for name, minimum in (
      ('dimension', 1),
      ('modulus', 2),
      ('clients', 1),
      ('colluders', 0),
    ):
      _validate.check_int(getattr(self, name), name, minimum=minimum)
    _validate.check_int(self.clients, 'clients', maximum=_MAX_U32)
    _validate.check_int(
      self.dropouts,
      'dropouts',
      minimum=1,
      maximum=self.clients - self.colluders - 1,
      remedy='Somebody who does not collude must be left to add noise.',
    )
    narrowest, widest = self.layer_variance(1), self.layer_variance(-1)
    if narrowest < _LEAST_VARIANCE or widest > _LARGEST_STDDEV**2:
      raise ValueError(
        'The standard deviations of layers must be in [1/4,'
        f' {_LARGEST_STDDEV}]. Found {float(narrowest) ** 0.5:g} to'
        f' {float(widest) ** 0.5:g}. Sum with more bits if they are too narrow,'
        ' with fewer if they are too wide.'
      )

  def layer_variance(self, layer: int) -> Fraction:
    """Returns the variance of layer j, from 1 to T, exactly; it grows in j.

    From the end if j is negative: -1 is T.
    """
    number = layer if layer > 0 else self.dropouts + 1 + layer
    honest = self.clients - self.colluders
    left = honest - number
    return Fraction(self.share_stddev) ** 2 * honest / (left * (left + 1))

  def layer_stddevs(self, count: int) -> tuple[float, ...]:
    """Returns the standard deviations of the layers 1 to `count`."""
    layers = range(1, count + 1)
    return tuple(float(self.layer_variance(j)) ** 0.5 for j in layers)

  def layers_kept(self, contributors: int) -> int:
    """Returns D: how many layers belong to a sum of so many clients.

    Raises:
      ValueError: If more clients are missing than are tolerated.
    """
    missing = max(0, self.clients - contributors)
    if missing > self.dropouts:
      raise ValueError(
        f'At least {self.clients - self.dropouts} of {self.clients} clients'
        f' must contribute, or their noise is too small. Found {contributors}.'
      )
    return missing
