# SPDX-License-Identifier: Apache-2.0
"""Keys of runs: made once, for their owner alone, never replaced."""

from __future__ import annotations

import multiprocessing
import pathlib
import stat

import pytest

from tff_secagg_ext.program import RunKeyError, keys


def test_a_new_run_gets_a_key_that_it_keeps(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'of a run' / 'a.key'
  key = keys.kept(path, new=True)
  assert len(key) == 32 and key != keys.kept(tmp_path / 'b.key', new=True)
  assert stat.S_IMODE(path.stat().st_mode) == 0o600
  assert keys.kept(path, new=True) == keys.kept(path, new=False) == key
  assert list(path.parent.iterdir()) == [path]


def test_a_lost_key_is_not_replaced(tmp_path: pathlib.Path) -> None:
  with pytest.raises(RunKeyError, match='must be kept as long as the run'):
    keys.kept(tmp_path / 'a.key', new=False)
  assert not list(tmp_path.iterdir())


def test_a_key_that_others_can_read_is_refused(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'a.key'
  keys.kept(path, new=True)
  path.chmod(0o640)
  with pytest.raises(RunKeyError, match=r'of mode 0600\. Found 0640'):
    keys.kept(path, new=True)


def test_what_is_no_key_is_refused(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'a.key'
  path.touch(0o600)
  with pytest.raises(RunKeyError, match=r'must have 32 bytes\. Found 0'):
    keys.kept(path, new=True)


def _make(path: pathlib.Path) -> bytes:
  return keys.kept(path, new=True)


def test_of_two_that_make_it_at_once_both_get_the_first(
  tmp_path: pathlib.Path,
) -> None:
  paths = [tmp_path / 'a.key'] * 40
  with multiprocessing.get_context('spawn').Pool(2) as pool:
    found = pool.map(_make, paths, chunksize=1)
  assert len(set(found)) == 1
