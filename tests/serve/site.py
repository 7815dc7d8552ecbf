# SPDX-License-Identifier: Apache-2.0
"""A page that is served for tests, by the real server in a thread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import http.client
import threading
import time
from typing import Any
import urllib.parse

from tff_secagg_ext.ledger import Ledger
from tff_secagg_ext.serve import server as server_lib

SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a server has answered."""

  status: int
  headers: Mapping[str, str]
  text: str


class Site:
  """A client of a page that is served."""

  def __init__(self, server: server_lib.Server):
    self.server = server
    found = urllib.parse.urlsplit(server.url)
    self.port = found.port
    self.url = f'http://127.0.0.1:{self.port}'
    self.token = dict(urllib.parse.parse_qsl(found.query)).get('token')

  def ask(
    self, path: str, method: str = 'GET', headers: Mapping[str, str] = {}
  ) -> Answer:
    """Returns what is answered to one request."""
    connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=30)
    try:
      # Whatever is asked for goes out as it is, Host included.
      connection.putrequest(
        method, path, skip_host='Host' in headers, skip_accept_encoding=True
      )
      for name, value in headers.items():
        connection.putheader(name, value)
      connection.endheaders()
      answer = connection.getresponse()
      told = {name.lower(): value for name, value in answer.getheaders()}
      return Answer(answer.status, told, answer.read().decode())
    finally:
      connection.close()

  def page(
    self, path: str, *pairs: tuple[str, Any], pending: str = 'pending'
  ) -> str:
    """Returns a page when nothing of it is being found out any more."""
    if pairs:
      path = f'{path}?{urllib.parse.urlencode(pairs)}'
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
      answer = self.ask(path)
      assert answer.status == 200, answer.text
      if pending not in answer.text and 'Is being read' not in answer.text:
        return answer.text
      time.sleep(0.05)
    raise AssertionError(f'{path} is still being found out.')

  def run(self, name: str) -> str:
    """Returns the whole page of a run."""
    return self.page('/run', ('name', name))


@contextlib.contextmanager
def served(
  location: str, options: server_lib.Options | None = None
) -> Iterator[Site]:
  """Serves a ledger on a free port."""
  options = options or server_lib.Options(port=0)
  with Ledger.open_for_reading(location) as ledger:
    server = server_lib.Server(ledger, options)
    thread = threading.Thread(target=server.run_until_stopped)
    thread.start()
    try:
      while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
      yield Site(server)
    finally:
      server.should_exit = True
      thread.join(timeout=SECONDS)
    assert not thread.is_alive()
