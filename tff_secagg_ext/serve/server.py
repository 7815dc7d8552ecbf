# SPDX-License-Identifier: Apache-2.0
"""Serves the page of a ledger until it is interrupted."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import errno
import os
import secrets
import socket
import threading
import webbrowser

import uvicorn

from tff_secagg_ext.ledger import Ledger
from tff_secagg_ext.serve import app as app_lib
from tff_secagg_ext.serve import guard
from tff_secagg_ext.serve.library import Library

DEFAULT_PORT = 8321
_TOKEN_BYTES = 32
# Seconds until the accountant is loaded, which would delay the first page.
_SOON = 4.0


class AddressError(Exception):
  """The page cannot be where it was asked to be."""


@dataclasses.dataclass(frozen=True)
class Options:
  """Where the page is, and what it shows.

  Attributes:
    host: A name or an address of this machine.
    port: Of TCP; 0 for any that is free.
    names: More names by which it may be reached.
    server_view: Whether to show what is the coordinator's alone.
    token: Whether to ask for a token on loopback, too.
    browse: Whether to open a browser.
  """

  host: str = '127.0.0.1'
  port: int = DEFAULT_PORT
  names: tuple[str, ...] = ()
  server_view: bool = False
  token: bool = False
  browse: bool = False


class Server(uvicorn.Server):
  """A server of one page, for the thread that runs it."""

  def __init__(self, ledger: Ledger, options: Options):
    """Binds the address.

    Args:
      ledger: What it shows; open for reading.
      options: Where it is.

    Raises:
      AddressError: If the address cannot be bound; names the remedy.
    """
    self._socket = _bound(options.host, options.port)
    port = self._socket.getsockname()[1]
    asks = options.token or options.host not in guard.LOOPBACK
    token = secrets.token_urlsafe(_TOKEN_BYTES) if asks else None
    place = guard.Place(options.host, port, token, options.names)
    self.library = Library(ledger, server_view=options.server_view)
    self.site = app_lib.Site(self.library)
    self.site.streams.ended = lambda: self.should_exit
    self.url = _url(place)
    super().__init__(
      uvicorn.Config(
        app_lib.make(self.site, place),
        access_log=False,
        date_header=False,
        http='h11',
        lifespan='off',
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=2,
        ws='none',
      )
    )

  def run_until_stopped(self) -> None:
    """Answers until it is interrupted, or `should_exit` is set."""
    try:
      self.run(sockets=[self._socket])
    finally:
      self._socket.close()
      self.library.close()


def serve(
  location: str | os.PathLike[str],
  options: Options,
  tell: Callable[[str], None] = print,
) -> None:
  """Shows a ledger until it is interrupted.

  Guarantees:
    - the ledger is opened for reading alone, and not a byte of it changes;
    - on another host than loopback nobody sees anything without the token.

  Args:
    location: A path, or an SQLAlchemy URL.
    options: Where the page is.
    tell: Takes the lines that are for whoever started it, the token among them.

  Raises:
    AddressError: If the address cannot be bound; names the remedy.
    LedgerError: If the ledger cannot be read.
    ValueError: If the location is none.
  """
  with Ledger.open_for_reading(location) as ledger:
    server = Server(ledger, options)
    loading = threading.Timer(_SOON, server.site.is_loaded)
    loading.daemon = True
    loading.start()
    for line in _lines(server.url, options):
      tell(line)
    if options.browse:
      threading.Thread(target=_browse, args=(server.url,), daemon=True).start()
    server.run_until_stopped()


def _lines(url: str, options: Options) -> list[str]:
  lines = [f'The ledger is at {url}']
  if options.server_view:
    lines.append('It shows the server view, which is not to be published.')
  if options.host not in guard.LOOPBACK:
    lines.append(
      'The token is sent without encryption: an SSH tunnel to a page on'
      ' loopback is safer.'
    )
  return [*lines, 'Ctrl-C ends it.']


def _browse(url: str) -> None:
  try:
    webbrowser.open(url)
  except Exception:  # Whatever a browser fails with, its user has the URL.
    return


def _bound(host: str, port: int) -> socket.socket:
  try:
    (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    made = socket.socket(family, kind, protocol)
  except OSError as error:
    raise AddressError(
      f'`--host` must be a name or an address of this machine. Found {host!r}'
      f' ({error.strerror or error}). Leave it out for loopback.'
    ) from error
  try:
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(address)
    made.listen()
  except OSError as error:
    made.close()
    raise AddressError(_refused(host, port, error)) from error
  return made


def _refused(host: str, port: int, error: OSError) -> str:
  if error.errno == errno.EADDRINUSE:
    return (
      f'Port {port} of {host} is in use: another page is open there, or another'
      ' program. End that, or take `--port 0` for any free one.'
    )
  if error.errno == errno.EACCES:
    return (
      f'Port {port} of {host} may not be used ({error.strerror}). Take one'
      ' above 1023, or `--port 0` for any free one.'
    )
  return (
    f'`--host` must be a name or an address of this machine. Found {host!r}'
    f' ({error.strerror}). Leave it out for loopback.'
  )


def _url(place: guard.Place) -> str:
  host = place.host
  if host in guard.EVERYWHERE:
    host = socket.gethostname()
  shown = f'[{host}]' if ':' in host else host
  token = f'?{guard.TOKEN}={place.token}' if place.token else ''
  return f'http://{shown}:{place.port}/{token}'
