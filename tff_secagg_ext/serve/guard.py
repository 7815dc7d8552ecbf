# SPDX-License-Identifier: Apache-2.0
"""Who is answered, and what a browser may do with the answer.

Guarantees:

* Only GET is answered (405 otherwise): nothing that a browser sends changes
  anything.
* Only requests to a name that was bound are answered: a page of another site
  whose name was made to lead here (DNS rebinding) is refused.
* Requests that a page of another origin makes are refused; a link from it may
  be followed. No header lets another origin read an answer.
* Where a token is asked for, nothing of the ledger is told without it.
* Every answer forbids scripts and resources that are not of this package, and
  that it is framed, cached, or named to others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import hmac
from http import cookies
import socket
import urllib.parse

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN = 'token'
LOOPBACK = ('127.0.0.1', '::1', 'localhost')
# What comes with the package tells nothing of a ledger, and refusals show it.
_FILES = '/static/'
EVERYWHERE = ('0.0.0.0', '::')

POLICY = '; '.join(
  (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  )
)
HEADERS = {
  'Content-Security-Policy': POLICY,
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Permissions-Policy': 'camera=(), geolocation=(), microphone=()',
  'Cache-Control': 'no-store',
}


@dataclasses.dataclass(frozen=True)
class Refusal:
  """Why a request is not answered.

  Attributes:
    status: Of HTTP.
    title: A few words.
    text: Found, expected, remedy; nothing that the request has said.
    headers: More headers.
  """

  status: int
  title: str
  text: str
  headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Place:
  """Where the page is.

  Attributes:
    host: What it was bound to.
    port: Of TCP.
    token: What it asks for; `None` for nothing.
    names: More names under which it may be reached.
  """

  host: str
  port: int
  token: str | None = None
  names: Iterable[str] = ()

  @property
  def cookie(self) -> str:
    """The name of the cookie; pages of one host share their cookies."""
    return f'tff-secagg-{self.port}'

  def hosts(self, server: str | None = None) -> frozenset[str]:
    """Returns what a Host header may be.

    Args:
      server: The address that the request came to.
    """
    names = {self.host, *self.names}
    if self.host in LOOPBACK:
      names |= {*LOOPBACK}
    if self.host in EVERYWHERE:
      names -= {*EVERYWHERE}
      names |= {socket.gethostname().lower(), *([server] if server else ())}
    shown = {f'[{name}]' if ':' in name else name for name in names}
    bare = shown if self.port == 80 else set()
    return frozenset({*(f'{name}:{self.port}' for name in shown), *bare})


class Guard:
  """Answers what may be answered, and puts `HEADERS` on every answer."""

  def __init__(
    self, app: ASGIApp, place: Place, refuse: Callable[[Refusal], Response]
  ):
    """Wraps an application.

    Args:
      app: What answers.
      place: Where it is.
      refuse: Makes a page of a refusal.
    """
    self._app = app
    self._place = place
    self._refuse = refuse

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers a request."""
    if scope['type'] == 'lifespan':
      await self._app(scope, receive, send)
      return
    if scope['type'] != 'http':
      return

    async def send_guarded(message: Message) -> None:
      if message['type'] == 'http.response.start':
        MutableHeaders(scope=message).update(HEADERS)
      await send(message)

    answer = self._answer(scope) or self._app
    await answer(scope, receive, send_guarded)

  def _answer(self, scope: Scope) -> ASGIApp | None:
    """Returns what is answered instead of the page; `None` for the page."""
    headers = Headers(scope=scope)
    refusal = self._refusal(scope, headers)
    if refusal is not None:
      return self._refuse(refusal)
    if self._place.token is None or scope['path'].startswith(_FILES):
      return None
    given, rest = _taken(scope['query_string'].decode('latin-1'))
    if given is not None:
      return self._enter(given, scope['path'], rest)
    kept = _cookies(headers).get(self._place.cookie)
    return None if self._fits(kept) else self._refuse(_NO_TOKEN)

  def _refusal(self, scope: Scope, headers: Headers) -> Refusal | None:
    host = headers.getlist('host')
    server = scope['server'][0] if scope.get('server') else None
    if len(host) != 1 or host[0].lower() not in self._place.hosts(server):
      return _OTHER_HOST
    origin = headers.get('origin')
    if origin is not None and origin.lower() != f'http://{host[0].lower()}':
      return _OTHER_ORIGIN
    site = headers.get('sec-fetch-site', 'none')
    follows_link = (
      headers.get('sec-fetch-mode') == 'navigate'
      and headers.get('sec-fetch-dest') == 'document'
    )
    if site not in ('none', 'same-origin') and not follows_link:
      return _OTHER_ORIGIN
    return _OTHER_METHOD if scope['method'] != 'GET' else None

  def _enter(self, given: str, path: str, rest: str) -> Response:
    """Takes a token out of the address, and into a cookie."""
    if not self._fits(given):
      return self._refuse(_NO_TOKEN)
    # One slash: two would name another host.
    clean = '/' + urllib.parse.quote(path.lstrip('/\\'))
    answer = RedirectResponse(f'{clean}?{rest}' if rest else clean, 303)
    answer.set_cookie(
      self._place.cookie, given, path='/', httponly=True, samesite='strict'
    )
    return answer

  def _fits(self, given: str | None) -> bool:
    expected = self._place.token
    assert expected is not None
    return given is not None and hmac.compare_digest(
      given.encode(), expected.encode()
    )


def _taken(query: str) -> tuple[str | None, str]:
  """Returns the token of a query, and the query without it."""
  pairs = urllib.parse.parse_qsl(query, keep_blank_values=True)
  given = [value for name, value in pairs if name == TOKEN]
  rest = [pair for pair in pairs if pair[0] != TOKEN]
  return (given[0] if given else None), urllib.parse.urlencode(rest)


def _cookies(headers: Headers) -> Mapping[str, str]:
  found: cookies.SimpleCookie = cookies.SimpleCookie()
  try:
    found.load(headers.get('cookie', ''))
  except cookies.CookieError:
    return {}
  return {name: morsel.value for name, morsel in found.items()}


_OTHER_HOST = Refusal(
  421,
  'Another name',
  'This page is not reached by the name or the port that the browser has asked'
  ' for: it answers to those that it was started with. Use the address that'
  ' `tff-secagg serve` has printed; through a tunnel, the same port on both'
  ' sides. `--name` adds a name.',
)
_OTHER_ORIGIN = Refusal(
  403,
  'Asked by another page',
  'A page of another origin has asked for this one. Open it by itself.',
)
_OTHER_METHOD = Refusal(
  405,
  'Only reading',
  'This page is read, with GET; nothing can be changed by it.',
  {'Allow': 'GET'},
)
_NO_TOKEN = Refusal(
  401,
  'A token is needed',
  'This page is shown to whoever has its token. Open the whole address that'
  ' `tff-secagg serve` has printed, with `?token=` at its end.',
)
