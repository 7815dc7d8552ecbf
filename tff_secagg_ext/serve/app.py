# SPDX-License-Identifier: Apache-2.0
"""The application: which address is which page.

Nothing that a request says names a file, and names of runs go into parameters
of queries and into escaped text alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import sys
import threading
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import (
  HTMLResponse,
  JSONResponse,
  Response,
  StreamingResponse,
)
from starlette.types import ASGIApp

from tff_secagg_ext.ledger import LedgerError, UnknownRunError
from tff_secagg_ext.report import words
from tff_secagg_ext.serve import (
  budgets,
  comparison,
  events,
  guard,
  pages,
  whatif,
)
from tff_secagg_ext.serve.library import Judged, Library

# Seconds that a page waits for what it shows, before it is shown without.
PATIENCE = 0.4

_Name = Annotated[str, Query(min_length=1, max_length=200)]
_Names = Annotated[list[_Name], Query(min_length=2, max_length=comparison.MOST)]


class Site:
  """The pages of a library, and what they wait for."""

  def __init__(self, library: Library):
    """Takes what they show."""
    self.library = library
    self.pages = pages.Pages(library)
    self.streams = events.Streams()
    self._lock = threading.Lock()
    self._accountant: threading.Thread | None = None

  def is_loaded(self) -> bool:
    """Whether the accountant can answer; begins to load it, if it cannot."""
    with self._lock:
      if self._accountant is None:
        self._accountant = threading.Thread(target=_load, daemon=True)
        self._accountant.start()
    return not self._accountant.is_alive()

  def judged(self, names: Sequence[str]) -> list[Judged | None]:
    """Returns what is said of runs, of those that are known within patience."""
    library = self.library
    standings = [library.standing(name) for name in names]
    for standing in standings:
      library.judged(standing)
    return [library.judged(each, PATIENCE) for each in standings]


def _load() -> None:
  whatif.answer(whatif.Asked())


def make(site: Site, place: guard.Place) -> ASGIApp:
  """Returns the application.

  Args:
    site: What it shows.
    place: Where it is, and who may see it.
  """
  app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
  _add_pages(app, site)
  _add_what_if(app, site)
  _add_events(app, site)
  _add_errors(app, site)

  def refuse(refusal: guard.Refusal) -> Response:
    text = site.pages.error(refusal.title, refusal.text, plain=True)
    return HTMLResponse(text, refusal.status, dict(refusal.headers))

  return guard.Guard(app, place, refuse)


def _add_pages(app: FastAPI, site: Site) -> None:
  library, made = site.library, site.pages

  @app.get('/', response_class=HTMLResponse)
  def runs() -> str:
    return made.runs()

  @app.get('/run', response_class=HTMLResponse)
  def run(name: _Name) -> str:
    standing = library.standing(name)
    return made.run(standing, library.judged(standing, PATIENCE))

  @app.get('/compare', response_class=HTMLResponse)
  def compare(run: _Names) -> str:
    names = list(dict.fromkeys(run))
    if len(names) < 2:
      raise HTTPException(400, 'Two runs must be named, or more. Found one.')
    found = [judged for judged in site.judged(names) if judged is not None]
    ready = len(found) == len(names)
    return made.comparison(names, comparison.compare(found) if ready else None)

  @app.get('/budgets', response_class=HTMLResponse)
  def left() -> str:
    names = [standing.name for standing in library.standings()]
    found = [judged for judged in site.judged(names) if judged is not None]
    sections = budgets.sections(library, found)
    return made.budgets(sections, len(names) - len(found))

  @app.get('/static/{name}')
  def static(name: str) -> Response:
    found = pages.file(name)
    if found is None:
      raise HTTPException(404)
    content, kind = found
    return Response(content, media_type=f'{kind}; charset=utf-8')


def _add_what_if(app: FastAPI, site: Site) -> None:
  def taken(asked: whatif.Asked) -> whatif.Asked:
    if not asked.run:
      return asked
    (judged,) = site.judged([asked.run])
    if judged is None:
      return asked
    return asked.like(judged.facts).model_copy(update={'run': asked.run})

  @app.get('/what-if', response_class=HTMLResponse)
  def what_if(asked: Annotated[whatif.Asked, Query()]) -> str:
    begun = taken(asked)
    answer = whatif.answer(begun) if site.is_loaded() else None
    return site.pages.what_if(begun, answer)

  @app.get('/what-if/answer', response_class=HTMLResponse)
  def answered(asked: Annotated[whatif.Asked, Query()]) -> Response:
    if not site.is_loaded():
      return HTMLResponse('', 202)
    return HTMLResponse(site.pages.answer(whatif.answer(asked)))


def _add_events(app: FastAPI, site: Site) -> None:
  library = site.library

  @app.get('/events')
  def stream(
    name: Annotated[str, Query(max_length=200)] = '',
  ) -> Response:
    if site.streams.full:
      text = f'{events.MOST} pages are followed already. Close one.'
      return JSONResponse({'error': text}, 503, {'Retry-After': '5'})
    look: Callable[[], dict[str, Any]] = events.of_all(library)
    if name:
      library.standing(name)
      look = events.of_run(library, site.pages, name)
    return StreamingResponse(
      events.follow(site.streams, look), media_type='text/event-stream'
    )


def _add_errors(app: FastAPI, site: Site) -> None:
  def page(status: int, title: str, text: str) -> HTMLResponse:
    return HTMLResponse(site.pages.error(title, text), status)

  @app.exception_handler(UnknownRunError)
  def unknown(request: Request, error: Exception) -> HTMLResponse:
    del error
    name = request.query_params.get('name') or _missing(site, request)
    return HTMLResponse(site.pages.unknown(name), 404)

  @app.exception_handler(LedgerError)
  def unreadable(request: Request, error: Exception) -> HTMLResponse:
    del request
    # It may name files and hosts: that is for whoever runs the server.
    print(f'Error: {error}', file=sys.stderr)
    return page(503, 'The ledger cannot be read', _UNREADABLE)

  @app.exception_handler(RequestValidationError)
  def invalid(request: Request, error: Exception) -> HTMLResponse:
    del request
    assert isinstance(error, RequestValidationError)
    return page(400, 'Not understood', _faults(error))

  @app.exception_handler(HTTPException)
  @app.exception_handler(404)
  def wrong(request: Request, error: Exception) -> HTMLResponse:
    del request
    status = getattr(error, 'status_code', 404)
    detail = str(getattr(error, 'detail', ''))
    if status != 400:
      return page(status, 'Nothing is here', _NOTHING)
    return page(status, 'Not understood', detail)

  @app.exception_handler(Exception)
  def failed(request: Request, error: Exception) -> HTMLResponse:
    # It is raised again, and so logged, when the page is sent.
    del request, error
    return page(500, 'This page could not be made', _FAILED)


def _missing(site: Site, request: Request) -> str:
  """Returns the run of several that is not there."""
  known = {standing.name for standing in site.library.standings()}
  asked = request.query_params.getlist('run')
  return next((name for name in asked if name not in known), '')


def _faults(error: RequestValidationError) -> str:
  told = []
  for fault in error.errors()[:5]:
    place = words.shown('.'.join(str(part) for part in fault['loc'][1:]))
    told.append(f'`{place}`: {words.shown(fault["msg"]).lower()}')
  return f'{"; ".join(told)}. Change it in the address, or begin at the start.'


_NOTHING = 'No page has this address. The list of runs leads to all there are.'
_UNREADABLE = (
  'It may have been moved or removed, or its database does not answer. The'
  ' terminal in which `tff-secagg serve` runs says why; this page works again'
  ' when the ledger can be read.'
)
_FAILED = (
  'That is a fault of the program. The terminal in which `tff-secagg serve`'
  ' runs says where.'
)
