# SPDX-License-Identifier: Apache-2.0
"""Where the page is: addresses, ports, what is printed, and how it ends."""

from __future__ import annotations

import hashlib
import http.client
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.report import ledgers
from tests.serve.site import Site, served
from tff_secagg_ext.cli.app import app
from tff_secagg_ext.ledger import Ledger, database
from tff_secagg_ext.serve import server as server_lib
from tff_secagg_ext.serve.server import AddressError, Options

ROOT = pathlib.Path(__file__).parents[2]
SHORT = ledgers.with_(ledgers.GOOD, rounds=2, audited=False)


@pytest.fixture
def short(tmp_path: pathlib.Path) -> pathlib.Path:
  path = tmp_path / 'runs.db'
  ledgers.write(str(path), SHORT)
  return path


def invoke(*arguments: Any) -> Any:
  return CliRunner().invoke(app, ['serve', *map(str, arguments)])


def test_the_ledger_is_the_same_to_the_byte(short: pathlib.Path) -> None:
  before = hashlib.sha256(short.read_bytes()).hexdigest()
  with served(str(short)) as site:
    site.run(SHORT.name)
    for path in ('/', '/budgets', f'/what-if?run={SHORT.name}'):
      site.ask(path)
  assert hashlib.sha256(short.read_bytes()).hexdigest() == before


def test_a_port_in_use_has_a_remedy(short: pathlib.Path) -> None:
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    port = taken.getsockname()[1]
    result = invoke(short, '--port', port, '--no-open')
  assert result.exit_code == 2
  assert f'Port {port} of 127.0.0.1 is in use' in result.output
  assert '--port 0' in result.output
  assert len(result.output.splitlines()) == 1


def test_a_host_that_is_none(short: pathlib.Path) -> None:
  with (
    Ledger.open_for_reading(short) as ledger,
    pytest.raises(AddressError, match='`--host` must be a name or an address'),
  ):
    server_lib.Server(ledger, Options(host='192.0.2.1', port=0))


def test_any_other_host_has_a_token_of_its_own(short: pathlib.Path) -> None:
  tokens = set()
  for _ in range(2):
    with served(str(short), Options(host='0.0.0.0', port=0)) as site:
      assert site.token
      tokens.add(site.token)
      assert site.ask('/').status == 401
      cookie = f'tff-secagg-{site.port}={site.token}'
      assert site.ask('/', headers={'Cookie': cookie}).status == 200
      rebound = {'Cookie': cookie, 'Host': f'rebound.example:{site.port}'}
      assert site.ask('/', headers=rebound).status == 421
  assert len(tokens) == 2


def test_a_ledger_that_is_not_there(tmp_path: pathlib.Path) -> None:
  result = invoke(tmp_path / 'absent.db', '--no-open')
  assert result.exit_code == 2
  assert 'There is no ledger at' in result.output
  assert not list(tmp_path.iterdir())


def test_an_older_ledger_is_left_as_it_is(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'runs.db'
  engine = database.create_engine(database.resolve(path), {})
  database._migrate(engine, '0003')
  engine.dispose()
  before = path.read_bytes()
  result = invoke(path, '--no-open')
  assert result.exit_code == 2
  assert 'ledger list --ledger' in result.output
  assert path.read_bytes() == before


def test_the_extra_is_named(
  short: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  for name in [*sys.modules]:
    if name.startswith(('fastapi', 'tff_secagg_ext.serve')):
      monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, 'uvicorn', None)
  result = invoke(short)
  assert result.exit_code == 2
  assert 'tff-secagg-ext[serve]' in result.output


def test_a_browser_that_is_not_there_is_no_error(
  short: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  def fail(url: str) -> bool:
    raise OSError(url)

  monkeypatch.setattr('webbrowser.open', fail)
  server_lib._browse('http://127.0.0.1/')


def test_a_ledger_that_is_taken_away_is_told_and_found_again(
  short: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  with served(str(short)) as site:
    assert site.ask('/').status == 200
    away = short.with_name('away.db')
    short.rename(away)
    answer = _until(site, 503)
    assert 'The ledger cannot be read' in answer
    assert str(short.parent) not in answer
    away.rename(short)
    assert SHORT.name in _until(site, 200)
  assert 'cannot be read' in capsys.readouterr().err


def _until(site: Site, status: int) -> str:
  for _ in range(100):
    answer = site.ask('/')
    if answer.status == status:
      return answer.text
  raise AssertionError(f'No answer was {status}.')


def test_the_command_prints_the_address_and_ends_with_ctrl_c(
  short: pathlib.Path,
) -> None:
  # Whoever runs the tests in the background has them ignore Ctrl-C.
  command = (
    'import signal; signal.signal(signal.SIGINT, signal.default_int_handler);'
    ' from tff_secagg_ext.cli import main; main()'
  )
  arguments = ['serve', str(short), '--port', '0', '--token', '--no-open']
  process = subprocess.Popen(
    [sys.executable, '-c', command, *arguments],
    cwd=ROOT,
    env={**os.environ, 'PYTHONUNBUFFERED': '1'},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  assert process.stdout is not None
  try:
    line = process.stdout.readline()
    found = re.fullmatch(
      r'The ledger is at http://127\.0\.0\.1:(\d+)/\?token=[\w-]{43}\n', line
    )
    assert found
    assert process.stdout.readline() == 'Ctrl-C ends it.\n'
    # Its loop runs when it answers.
    connection = http.client.HTTPConnection(
      '127.0.0.1', int(found[1]), timeout=60
    )
    connection.request('GET', '/')
    assert connection.getresponse().status == 401
    connection.close()
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[0]
    assert told.splitlines() == ['No longer served; runs go on.']
    assert process.returncode == 0
  finally:
    process.kill()
    process.wait()
