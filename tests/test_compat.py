# SPDX-License-Identifier: Apache-2.0
"""TFF 0.87.0 works: imported, run, saved and ended."""

from __future__ import annotations

import asyncio
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import tensorflow as tf

from tff_secagg_ext import _compat
from tff_secagg_ext._compat import tff

ROOT = pathlib.Path(__file__).parent.parent

# Starts a program as TFF starts its worker, and prints its process id.
START_A_WORKER = """
import os, sys
from tff_secagg_ext import _compat
worker = _compat._Worker([sys.argv[1], '60'])
print(worker.pid, flush=True)
"""


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
  return subprocess.Popen(
    [sys.executable, '-c', code, *arguments],
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    cwd=ROOT,
  )


def output_of(code: str, *arguments: str) -> str:
  """Returns what `code` prints, once it and all that it started have ended.

  A worker that kept stdout or stderr open would make this hang.
  """
  with python(code, *arguments) as process:
    output, errors = process.communicate(timeout=120)
  assert output, errors
  return output


def is_running(pid: int) -> bool:
  try:
    status = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except FileNotFoundError:
    return False
  return status.rpartition(')')[2].split()[0] != 'Z'


def ends(pid: int) -> bool:
  """Says whether a process that has been killed is gone within 10 s."""
  for _ in range(1000):
    if not is_running(pid):
      return True
    time.sleep(0.01)
  return False


@pytest.fixture
def worker_binary(tmp_path: pathlib.Path) -> str:
  """A program by the name of TFF's worker that only sleeps."""
  path = tmp_path / 'data' / 'worker_binary'
  path.parent.mkdir()
  shutil.copy('/bin/sleep', path)
  return str(path)


@pytest.mark.parametrize(
  'ending',
  [
    'pass',
    'raise ValueError',
    'raise KeyboardInterrupt',
    'sys.exit(3)',
    'os.kill(os.getpid(), 15)',
    'os.kill(os.getpid(), 9)',
  ],
)
def test_worker_ends_with_its_process(ending: str, worker_binary: str):
  worker = int(output_of(START_A_WORKER + ending, worker_binary))
  assert ends(worker)


def test_worker_of_a_thread_outlives_the_thread_alone(worker_binary: str):
  code = (
    'import threading, time\n'
    f'thread = threading.Thread(target=exec, args=({START_A_WORKER!r}, {{}}))\n'
    'thread.start(); thread.join(); time.sleep(0.5)\n'
    'from tff_secagg_ext._compat import _children\n'
    'print(*_children(), flush=True)'
  )
  started, left = output_of(code, worker_binary).splitlines()
  assert left == started
  assert ends(int(started))


def test_interrupt_from_the_terminal_reaches_python_alone(worker_binary: str):
  worker = _compat._Worker([worker_binary, '60'])
  try:
    assert os.getsid(worker.pid) == worker.pid != os.getsid(0)
  finally:
    worker.kill()
    worker.wait()


def test_worker_of_a_background_job_can_be_interrupted(worker_binary: str):
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  worker = _compat._Worker([worker_binary, '60'])
  signal.signal(signal.SIGINT, before)
  try:
    command = pathlib.Path(f'/proc/{worker.pid}/cmdline')
    while not command.read_text().startswith(worker_binary):
      time.sleep(0.01)  # Something else launches it.
    worker.send_signal(signal.SIGINT)
    assert worker.wait(timeout=30) == -signal.SIGINT
  finally:
    worker.kill()
    worker.wait()


def test_end_workers_spares_other_children(worker_binary: str):
  worker = _compat._Worker([worker_binary, '60'])
  with subprocess.Popen(['sleep', '60']) as other:
    _compat.end_workers()
    assert worker.wait() == -signal.SIGKILL
    assert other.poll() is None
    other.kill()


def test_program_that_cannot_be_started_is_an_error(
  monkeypatch: pytest.MonkeyPatch,
):
  monkeypatch.setattr(sys, 'executable', '/nowhere/python')
  with pytest.raises(FileNotFoundError, match='/nowhere/python'):
    _compat._Worker(['worker_binary'])


def test_worker_of_tff_ends_after_kill_9():
  code = (
    'import os\n'
    'from tff_secagg_ext._compat import tff, _children\n'
    'f = tff.federated_computation(lambda: tff.federated_value(3, '
    'tff.SERVER))\n'
    'print(f(), *_children(), flush=True)\n'
    'os.kill(os.getpid(), 9)'
  )
  value, worker = output_of(code).split()
  assert value == '3'
  assert ends(int(worker))


@pytest.mark.parametrize('first', ['tff_secagg_ext', 'tensorflow_federated'])
def test_either_import_order_gives_one_tff(first: str):
  if first == 'tensorflow_federated' and sys.version_info >= (3, 12):
    pytest.skip('TFF alone cannot be imported on Python 3.12 and later')
  second = {'tff_secagg_ext', 'tensorflow_federated'} - {first}
  code = (
    f'import sys, {first}, {second.pop()}\n'
    'from tff_secagg_ext._compat import tff\n'
    'assert tff is sys.modules["tensorflow_federated"]\n'
    'import tensorflow as tf\n'
    'print(tff.__version__, tf.keras.Model.__module__.partition(".")[0])'
  )
  keras = 'keras' if sys.version_info < (3, 12) else 'tf_keras'
  assert output_of(code).split() == ['0.87.0', keras]


@pytest.mark.skipif(sys.version_info < (3, 12), reason='has Keras 2 alone')
def test_keras_3_in_use_is_refused():
  code = (
    'import os; os.environ["TF_USE_LEGACY_KERAS"] = "0"\n'
    'import tensorflow as tf; tf.keras.layers.Dense\n'
    'from tff_secagg_ext._compat import tff'
  )
  with python(code) as process:
    _, errors = process.communicate(timeout=120)
  assert 'ImportError: Found Keras 3 as `tf.keras`' in errors
  assert 'Restart Python and import tff_secagg_ext before' in errors


def test_old_wrapt_is_refused(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr('importlib.metadata.version', lambda name: '1.14.2')
  with pytest.raises(ImportError, match=r'1\.14\.2, expected.*wrapt>=2\.5\.2'):
    _compat._check_wrapt()


def test_missing_tff_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setitem(sys.modules, 'tensorflow_federated', None)
  with pytest.raises(ImportError, match=r'-r requirements/tff\.txt'):
    _compat.load_tff.__wrapped__()


def test_other_release_is_refused(monkeypatch: pytest.MonkeyPatch):
  other = types.SimpleNamespace(__version__='0.88.0')
  monkeypatch.setitem(sys.modules, 'tensorflow_federated', other)
  with pytest.raises(ImportError, match=r'Found .* 0\.88\.0, expected 0\.87'):
    _compat.load_tff.__wrapped__()


def test_unknown_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="no attribute 'tf'"):
    getattr(_compat, 'tf')  # noqa: B009


def secure_sums(modulus: int = 7) -> tff.Computation:
  """One of each secure sum, so that none is left for the runtime to refuse.

  A computation that was compiled once is not compiled again.
  """

  @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
  def sums(values):
    return (
      tff.federated_secure_sum(values, 100),
      tff.federated_secure_sum_bitwidth(values, 7),
      tff.backends.mapreduce.federated_secure_modular_sum(values, modulus),
    )

  return sums


@pytest.fixture
def plain_sums() -> None:
  _compat.enable_secure_sums_in_simulation()


@pytest.mark.usefixtures('plain_sums')
def test_default_context_runs_secure_sums():
  assert secure_sums()([3, 4, 5]) == (12, 12, 5)


@pytest.mark.usefixtures('plain_sums')
def test_context_of_a_program_runs_secure_sums():
  context = tff.program.NativeFederatedContext(
    tff.backends.native.create_async_local_cpp_execution_context()
  )

  async def run():
    with tff.framework.get_context_stack().install(context):
      return await tff.program.materialize_value(secure_sums()([3, 4, 5]))

  assert asyncio.run(run()) == (12, 12, 5)


def test_context_made_before_runs_secure_sums():
  """Names load late: a program may make its context before it uses ours."""
  code = (
    'import numpy as np, tff_secagg_ext\n'
    'from tff_secagg_ext._compat import tff\n'
    'before = tff.backends.native.create_sync_local_cpp_execution_context()\n'
    'tff.framework.set_default_context(before)\n'
    'import tff_secagg_ext.aggregators\n'
    '@tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))\n'
    'def total(x):\n'
    '  return tff.backends.mapreduce.federated_secure_modular_sum(x, 7)\n'
    'print(total([3, 4, 5]))'
  )
  assert output_of(code).split() == ['5']


@pytest.mark.usefixtures('plain_sums')
def test_what_stands_for_secure_sums_is_said_once(
  caplog: pytest.LogCaptureFixture,
):
  _compat._say_that_sums_are_plain.cache_clear()
  for modulus in (11, 13):
    secure_sums(modulus)([1, 2])
  assert [record.levelno for record in caplog.records] == [logging.WARNING]
  assert 'Secure sums run as plain sums' in caplog.text


@pytest.mark.usefixtures('plain_sums')
def test_computation_without_secure_sums_says_nothing(
  caplog: pytest.LogCaptureFixture,
):
  _compat._say_that_sums_are_plain.cache_clear()
  tff.federated_computation(lambda: tff.federated_value(1, tff.SERVER))()
  assert not caplog.records


@pytest.mark.usefixtures('plain_sums')
def test_map_reduce_form_keeps_its_secure_sums():
  """What is changed is how native contexts run a sum, not what a sum is."""
  process = tff.aggregators.SecureModularSumFactory(100).create(
    tff.TensorType(np.int32)
  )

  @tff.federated_computation(
    tff.FederatedType((), tff.SERVER),
    tff.FederatedType(np.int32, tff.CLIENTS),
  )
  def next_fn(state, values):
    output = process.next(state, values)
    return output.state, output.result

  initialize = tff.federated_computation(
    lambda: tff.federated_value((), tff.SERVER)
  )
  iterative = tff.templates.IterativeProcess(initialize, next_fn)
  form = tff.backends.mapreduce.get_map_reduce_form_for_computation(
    iterative.next
  )
  assert form.securely_aggregates_tensors


def test_messages_nested_deeper_than_100_parse():
  value = tff.framework.serialize_computation(_nested(150))
  text = value.SerializeToString()
  assert type(value).FromString(text) == value


def _nested(depth: int) -> tff.Computation:
  value_type = tff.TensorType(np.int32)
  for _ in range(depth):
    value_type = tff.StructType([value_type])
  return tff.tensorflow.computation(lambda x: x, value_type)


def test_program_state_with_dictionaries_is_saved_and_loaded(
  tmp_path: pathlib.Path,
):
  manager = tff.program.FileProgramStateManager(tmp_path)
  state = {'a': np.float32(1.5), 'b': [np.int32(2), np.int32(3)]}

  async def run():
    await manager.save(state, version=1)
    return await manager.load(1, structure=state)

  assert asyncio.run(run()) == state


def test_keras_models_are_those_that_tff_takes():
  model = tf.keras.Sequential(
    [tf.keras.layers.InputLayer((2,)), tf.keras.layers.Dense(1)]
  )
  spec = tf.TensorSpec((None, 2)), tf.TensorSpec((None, 1))
  functional = tff.learning.models.from_keras_model(
    model, loss=tf.keras.losses.MeanSquaredError(), input_spec=spec
  )
  assert len(functional.trainable_variables) == 2
