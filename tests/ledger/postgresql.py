# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL server for tests, which they may stop and kill."""

from __future__ import annotations

import contextlib
import getpass
import os
import pathlib
import shutil
import signal
import subprocess
import time

import sqlalchemy as sa


class Server:
  """A PostgreSQL server of its own, without a port."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._data = str(folder / 'data')
    self._user: list[str] = []
    if getpass.getuser() == 'root':
      # The server refuses to run as root.
      shutil.chown(folder, 'postgres')
      self._user = [
        'setpriv',
        '--reuid=postgres',
        '--regid=postgres',
        '--clear-groups',
      ]
    self._run('initdb', '-D', self._data, '-A', 'trust', '-U', 'ledger', '-N')

  def start(self, options: str = '') -> None:
    """Starts it, or starts it again."""
    options = f"-c listen_addresses='' -k {self._folder} {options}"
    log = str(self._folder / 'log')
    self._run('pg_ctl', 'start', '-D', self._data, '-o', options, '-l', log)

  def stop(self) -> None:
    """Stops it at once."""
    self._run('pg_ctl', 'stop', '-D', self._data, '-m', 'immediate')

  def kill(self) -> None:
    """Kills all its processes, as a failing machine would."""
    lock = self._folder / 'data' / 'postmaster.pid'
    main = lock.read_text().split()[0]
    children = pathlib.Path(f'/proc/{main}/task/{main}/children').read_text()
    processes = [int(main), *map(int, children.split())]
    for process in processes:
      with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    while any(map(_is_running, processes)):
      time.sleep(0.01)
    # Where no `init` buries the dead, they look alive to the next server.
    for file in (lock, *self._folder.glob('.s.PGSQL.*')):
      file.unlink(missing_ok=True)

  def make(self, database: str) -> str:
    """Makes a database, and returns its URL."""
    admin = sa.create_engine(
      self._url('postgres'), isolation_level='AUTOCOMMIT'
    )
    with admin.connect() as connection:
      connection.exec_driver_sql(f'CREATE DATABASE {database}')
    admin.dispose()
    return self._url(database)

  def _url(self, database: str) -> str:
    return f'postgresql+psycopg://ledger@/{database}?host={self._folder}'

  def _run(self, *command: str) -> None:
    subprocess.run(
      [*self._user, *command],
      check=True,
      cwd=self._folder,
      stdout=subprocess.DEVNULL,
    )


def _is_running(process: int) -> bool:
  try:
    stat = pathlib.Path(f'/proc/{process}/stat').read_text()
  except (FileNotFoundError, ProcessLookupError):
    return False
  return stat.rpartition(')')[2].split()[0] not in 'ZX'


def is_installed() -> bool:
  """Whether the programs of PostgreSQL are on the path."""
  return bool(shutil.which('initdb') and shutil.which('pg_ctl'))
