# SPDX-License-Identifier: Apache-2.0
"""What TensorFlow Federated 0.87.0 needs in order to work.

Everything that touches private names of TFF, or of what it stands on, is in
this module, so that a move to another release is a change of one file. The
package imports TFF as `from tff_secagg_ext._compat import tff`.

Guarantees:

- importing this module imports the standard library only;
- `tff` is TFF 0.87.0, on Python 3.10 to 3.13, or an `ImportError` that says
  what to install;
- no `worker_binary` process of TFF outlives the process that started it: not
  one that ends by itself, and where `tff` was loaded first, not one that is
  killed;
- after `enable_secure_sums_in_simulation` the secure sums of a computation run
  in every native context of TFF as plain sums, and a warning says so.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Sequence
import concurrent.futures
import contextlib
import functools
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import logging
import os
import pathlib
import signal
import subprocess
import sys
import threading
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  import tensorflow_federated as tff

__all__ = [
  'current_context',
  'enable_secure_sums_in_simulation',
  'end_workers',
  'load_tff',
  'prepare',
  'prepare_when_tff_is_imported',
  'tff',
]

_TFF_VERSION = '0.87.0'
_LEGACY_KERAS = 'TF_USE_LEGACY_KERAS'
_NEW_PYTHON = sys.version_info >= (3, 12)

_logger = logging.getLogger('tff_secagg_ext')


def __getattr__(name: str) -> Any:
  if name == 'tff':
    return load_tff()
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def _module(name: str) -> Any:
  return importlib.import_module(name)


@functools.cache
def load_tff() -> Any:
  """Returns TFF, imported and adapted.

  Raises:
    ImportError: If TFF is missing, is another release than 0.87.0, or cannot
      work with the packages that are installed or imported already.
  """
  prepare()
  try:
    tff = _module('tensorflow_federated')
  except ModuleNotFoundError as error:
    raise ImportError(
      f'TensorFlow Federated cannot be imported: {error}. Expected'
      f' tensorflow-federated {_TFF_VERSION} and what it imports. Install them'
      ' with `pip install --no-deps --ignore-requires-python -r'
      ' requirements/tff.txt`.'
    ) from error
  if tff.__version__ != _TFF_VERSION:
    raise ImportError(
      f'Found tensorflow-federated {tff.__version__}, expected {_TFF_VERSION}.'
      ' Install it with `pip install --no-deps --ignore-requires-python'
      f' tensorflow-federated=={_TFF_VERSION}`.'
    )
  _tie_workers_to_this_process()
  return tff


class _PrepareOnImport(importlib.abc.MetaPathFinder):
  """Calls `prepare` when TFF is about to be imported; finds nothing itself."""

  def find_spec(
    self,
    fullname: str,
    path: Sequence[str] | None,
    target: types.ModuleType | None = None,
  ) -> importlib.machinery.ModuleSpec | None:
    del path, target  # The module is found by the finders after this one.
    if fullname == 'tensorflow_federated':
      sys.meta_path.remove(self)
      prepare()
    return None


def prepare_when_tff_is_imported() -> None:
  """Makes a later `import tensorflow_federated` call `prepare` first.

  Does the one step that must come before TensorFlow itself is imported, too:
  TFF is written for Keras 2, which TensorFlow 2.16 and later load only where
  an environment variable says so.
  """
  if _NEW_PYTHON:
    os.environ.setdefault(_LEGACY_KERAS, '1')
  if 'tensorflow_federated' not in sys.modules:
    sys.meta_path.insert(0, _PrepareOnImport())


@functools.cache
def prepare() -> None:
  """Puts in place what TFF needs before it is imported."""
  _check_wrapt()
  _lift_nesting_limit()
  if 'tensorflow_federated' in sys.modules:
    return
  _check_keras()
  _stand_in_for_vizier()
  _restore_jax_names()
  if importlib.util.find_spec('tensorflow_estimator') is None:
    _import_privacy_without_estimator()


def _check_wrapt() -> None:
  """Refuses a wrapt with which TFF cannot save a program's state.

  typing-extensions 4.6 and later look at protocol members in a way that fails
  on the `_DictWrapper` of TensorFlow, unless wrapt is 2.5.2 or later.
  """
  from packaging.version import Version

  found = importlib.metadata.version('wrapt')
  if Version(found) < Version('2.5.2'):
    raise ImportError(
      f'Found wrapt {found}, expected at least 2.5.2: without it a saved'
      ' program state fails with `_DictWrapper`. Run `pip install --no-deps'
      " 'wrapt>=2.5.2'`."
    )


def _lift_nesting_limit() -> None:
  """Lets protobuf parse messages nested deeper than 100 levels.

  Computations of TFF nest deeper: without this, its own learning processes
  with secure aggregation fail with `DecodeError: Error parsing message`.
  """
  try:
    from google._upb import _message
  except ImportError:  # The pure Python parser has no such limit to lift.
    return
  _message.SetAllowOversizeProtos(True)


def _check_keras() -> None:
  """Refuses a process in which Keras 3 already stands for `tf.keras`."""
  if not _NEW_PYTHON:
    return
  os.environ.setdefault(_LEGACY_KERAS, '1')
  tf = sys.modules.get('tensorflow')
  if tf is not None and not tf.keras.Model.__module__.startswith('tf_keras'):
    raise ImportError(
      'Found Keras 3 as `tf.keras`, expected Keras 2 (tf-keras), for which'
      ' TensorFlow Federated is written. Restart Python and import'
      ' tff_secagg_ext before TensorFlow is used, or set the environment'
      f' variable {_LEGACY_KERAS}=1.'
    )


def _stand_in_for_vizier() -> None:
  """Provides the names that TFF's annotations take from google-vizier.

  TFF imports it for one function, `train_model_with_vizier`, and the release
  that it asks for does not run on Python 3.12. Where it is installed, TFF gets
  the real one.
  """
  if importlib.util.find_spec('vizier') is not None:
    return
  names = {
    'vizier': (),
    'vizier.pyvizier': ('Measurement',),
    'vizier.client': (),
    'vizier.client.client_abc': ('StudyInterface', 'TrialInterface'),
  }
  for module_name, classes in names.items():
    module = types.ModuleType(module_name, 'A stand-in for google-vizier.')
    module.__path__ = []
    for name in classes:
      setattr(module, name, type(name, (), {'__module__': module_name}))
    sys.modules[module_name] = module
    parent, _, child = module_name.rpartition('.')
    if parent:
      setattr(sys.modules[parent], child, module)


def _restore_jax_names() -> None:
  """Gives JAX the names back that TFF uses and that JAX 0.5 to 0.7 dropped."""
  jax = _module('jax')
  lib = _module('jax.lib')
  if not hasattr(lib, 'xla_client'):
    lib.xla_client = _module('jaxlib.xla_client')
  if not hasattr(jax.stages, 'OutInfo'):
    jax.stages.OutInfo = jax.ShapeDtypeStruct


def _import_privacy_without_estimator() -> None:
  """Imports TensorFlow Privacy without its models.

  They are built on tf.estimator, which TensorFlow 2.16 removed. TFF uses the
  queries alone.
  """
  switch = 'skip_tf_privacy_import'
  setattr(sys, switch, True)
  try:
    privacy = _module('tensorflow_privacy')
  finally:
    delattr(sys, switch)
  queries = 'tensorflow_privacy.privacy.dp_query'
  for name in (
    'dp_query',
    'distributed_discrete_gaussian_query',
    'distributed_skellam_query',
    'gaussian_query',
    'nested_query',
    'no_privacy_query',
    'normalized_query',
    'quantile_adaptive_clip_sum_query',
    'quantile_adaptive_clip_tree_query',
    'quantile_estimator_query',
    'restart_query',
    'tree_aggregation',
    'tree_aggregation_query',
    'tree_range_query',
  ):
    module = _module(f'{queries}.{name}')
    setattr(privacy, name, module)
    for member, value in vars(module).items():
      if getattr(value, '__module__', None) == module.__name__:
        setattr(privacy, member, value)


# PR_SET_PDEATHSIG is 1. A parent that ended before the call sends no signal.
# TFF ends a worker by SIGINT and waits; a shell's background jobs ignore that.
_END_WITH_PARENT = (
  'import ctypes, os, signal, sys\n'
  'ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n'
  'signal.signal(signal.SIGINT, signal.SIG_DFL)\n'
  'if os.getppid() == int(sys.argv[1]): os.execv(sys.argv[2], sys.argv[2:])'
)


class _Worker(subprocess.Popen[bytes]):
  """A `worker_binary` process of TFF that ends with this process.

  The kernel ends it, be this process ended by a kill -9. It gets a session of
  its own, so that Ctrl-C reaches Python alone, and does not inherit stdout, so
  that a pipe closes when Python ends. It logs what is fatal alone: what it says
  of an operation that failed quotes data of clients.
  """

  def __init__(self, args: Sequence[str], **unused_streams: object):
    launch = [sys.executable, '-ISc', _END_WITH_PARENT, str(os.getpid())]
    started: concurrent.futures.Future[None] = concurrent.futures.Future()

    def start_and_stay() -> None:
      # The kernel watches the thread that starts a process, not its process:
      # this one stays as long as there is a process.
      try:
        super(_Worker, self).__init__(
          [*launch, *args],
          stdin=subprocess.DEVNULL,
          stdout=subprocess.DEVNULL,
          env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3'},
          start_new_session=True,
        )
      except OSError as error:
        started.set_exception(error)
      else:
        started.set_result(None)
        threading.Event().wait()

    threading.Thread(target=start_and_stay, daemon=True).start()
    started.result()


def _tie_workers_to_this_process() -> None:
  executor_factory = _module(
    'tensorflow_federated.python.core.impl.executor_stacks.executor_factory'
  )
  executor_factory.subprocess = types.SimpleNamespace(Popen=_Worker)
  atexit.register(_end_quietly)


def _end_quietly() -> None:
  """Ends the workers, and the context whose finalizer would miss them.

  At the end of Python it would look for a module that is gone, and print that.
  """
  end_workers()
  _module(
    'tensorflow_federated.python.core.impl.context_stack.set_default_context'
  ).set_no_default_context()
  gc.collect()


def _children() -> Iterator[int]:
  """Yields the process id of each child of this process."""
  for children in pathlib.Path('/proc/self/task').glob('*/children'):
    yield from map(int, children.read_text().split())


def end_workers() -> None:
  """Ends the TFF workers that this process has started, in whatever way.

  They are left for TFF to wait for, which does so before it starts another.
  """
  for pid in _children():
    # A child that has ended in the meantime needs no end.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
      command = pathlib.Path(f'/proc/{pid}/cmdline').read_bytes()
      if b'/data/worker_binary\0' in command:
        os.kill(pid, signal.SIGKILL)


def current_context() -> Any:
  """Returns the installed context; of a federated program's, what it wraps."""
  federated = load_tff()
  context = federated.framework.get_context_stack().current
  if isinstance(context, federated.program.NativeFederatedContext):
    return context._context
  return context


@functools.cache
def _say_that_sums_are_plain() -> None:
  _logger.warning(
    'Secure sums run as plain sums inside this process: TensorFlow'
    " Federated's simulation has no secure aggregation protocol. The noise and"
    ' its epsilon are real; the secrecy of single updates is not.'
    ' tff_secagg_ext.set_secure_context() runs them through a protocol.'
  )


@functools.cache
def enable_secure_sums_in_simulation() -> None:
  """Lets TFF's native contexts run computations that have secure sums.

  TFF's native compiler leaves secure sums in place, and its runtime then fails
  with `Cannot embed a federated value`. TFF has plain sums to put in their
  place, but only in its test contexts. The step changed here is one that
  every native context looks up whenever it compiles a computation: the default
  one, and those that were or will be made for a program. Contexts that know
  secure sums never hand them to this step.
  """
  load_tff()
  core = 'tensorflow_federated.python.core'
  native = _module(f'{core}.backends.native.compiler')
  plain = _module(f'{core}.backends.test.compiler')
  computation = _module(f'{core}.impl.computation.computation_impl')
  transform_to_native_form = native.transform_to_native_form

  @functools.wraps(transform_to_native_form)
  def with_plain_sums(comp: Any, *args: Any, **kwargs: Any) -> Any:
    tree, found = plain._replace_secure_intrinsics_with_insecure_bodies(
      comp.to_building_block()
    )
    if found:
      _say_that_sums_are_plain()
      # The plain sums are written with intrinsics that must be reduced again.
      tree, _ = (
        native.tensorflow_tree_transformations.replace_intrinsics_with_bodies(
          tree
        )
      )
      comp = computation.ConcreteComputation(
        computation_proto=tree.proto,
        context_stack=native.context_stack_impl.context_stack,
      )
    return transform_to_native_form(comp, *args, **kwargs)

  native.transform_to_native_form = with_plain_sums
