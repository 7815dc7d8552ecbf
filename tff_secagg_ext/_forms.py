# SPDX-License-Identifier: Apache-2.0
"""The MapReduce form of a computation."""

from __future__ import annotations

import tensorflow as tf

from tff_secagg_ext._compat import tff

_AS_IT_IS = tf.compat.v1.ConfigProto()
_AS_IT_IS.graph_options.rewrite_options.disable_meta_optimizer = True


def of(computation: tff.Computation) -> tff.backends.mapreduce.MapReduceForm:
  """Returns one broadcast, one step of work, the sums, and one update.

  The graphs are not optimized by Grappler, which takes seconds: TFF's runtime
  does so when it runs them, and who reads them sees all that was written. An
  edge that an optimizer would have removed can only make more depend on more.

  Raises whatever compiling the computation raises.
  """
  return tff.backends.mapreduce.get_map_reduce_form_for_computation(
    computation, _AS_IT_IS
  )
