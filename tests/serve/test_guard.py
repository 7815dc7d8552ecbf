# SPDX-License-Identifier: Apache-2.0
"""Who is answered: methods, names, origins, tokens, and what is forbidden."""

from __future__ import annotations

import re
import urllib.parse

import pytest

from tests.serve.site import Answer, Site
from tff_secagg_ext.serve import guard, pages

PAGES = (
  '/',
  '/budgets',
  '/run?name=digits-good',
  '/run?name=nobody',
  '/nowhere',
)
NAVIGATION = {'Sec-Fetch-Mode': 'navigate', 'Sec-Fetch-Dest': 'document'}


def assert_guarded(answer: Answer) -> None:
  for name, value in guard.HEADERS.items():
    assert answer.headers[name.lower()] == value
  assert not [name for name in answer.headers if 'access-control' in name]
  assert 'server' not in answer.headers


@pytest.mark.parametrize('path', [*PAGES, '/static/serve.js', '/what-if'])
def test_every_answer_forbids_what_is_not_of_this_package(
  site: Site, path: str
) -> None:
  assert_guarded(site.ask(path))


def test_the_policy_lets_nothing_foreign_in() -> None:
  policy = dict(part.split(' ', 1) for part in guard.POLICY.split('; '))
  assert policy['default-src'] == "'none'"
  assert policy['script-src'] == policy['style-src'] == "'self'"
  assert policy['img-src'] == 'data:'
  for name in ('frame-ancestors', 'base-uri', 'form-action'):
    assert policy[name] == "'none'"
  assert 'unsafe' not in guard.POLICY


@pytest.mark.parametrize('path', PAGES)
def test_pages_have_no_inline_script_and_no_foreign_resource(
  site: Site, path: str
) -> None:
  text = site.ask(path).text
  assert re.findall(r'<script[^>]*>', text) == [
    '<script src="/static/serve.js" defer>'
  ]
  assert '<style' not in text
  assert ' style=' not in text
  assert not re.search(r'<[^>]*\son\w+=', text)
  assert set(re.findall(r'\b(?:src|href)="(\w+:[^"]*)"', text)) <= {'data:,'}


@pytest.mark.parametrize(
  'method',
  ['POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'HEAD', 'TRACE', 'PROPFIND'],
)
@pytest.mark.parametrize('path', ['/', '/run?name=digits-good', '/events'])
def test_only_get_is_answered(site: Site, method: str, path: str) -> None:
  answer = site.ask(path, method)
  assert answer.status == 405
  assert answer.headers['allow'] == 'GET'
  assert_guarded(answer)


@pytest.mark.parametrize(
  'name', ['127.0.0.1', 'localhost', '[::1]', 'LOCALHOST']
)
def test_loopback_has_its_names(site: Site, name: str) -> None:
  host = {'Host': f'{name}:{site.port}'}
  assert site.ask('/', headers=host).status == 200


@pytest.mark.parametrize(
  'host',
  [
    'rebound.example:{}',
    '127.0.0.1',
    '127.0.0.1:1',
    '127.0.0.1:{}.rebound.example',
    'localhost.rebound.example:{}',
    'a@127.0.0.1:{}',
    '127.0.0.1:{}, rebound.example',
    '',
  ],
)
def test_another_name_is_refused(site: Site, host: str) -> None:
  """A page whose name was made to lead here (DNS rebinding) learns nothing."""
  answer = site.ask('/', headers={'Host': host.format(site.port)})
  assert answer.status in (400, 421)
  assert 'digits' not in answer.text
  assert 'rebound' not in answer.text


@pytest.mark.parametrize(
  'headers',
  [
    {'Origin': 'http://other.example'},
    {'Origin': 'null'},
    {'Origin': 'https://127.0.0.1:{}'},
    {'Origin': 'http://localhost:{}'},
    {'Sec-Fetch-Site': 'cross-site'},
    {'Sec-Fetch-Site': 'same-site'},
    {
      'Sec-Fetch-Site': 'cross-site',
      'Sec-Fetch-Mode': 'no-cors',
      'Sec-Fetch-Dest': 'script',
    },
    {
      'Sec-Fetch-Site': 'cross-site',
      'Sec-Fetch-Mode': 'navigate',
      'Sec-Fetch-Dest': 'iframe',
    },
  ],
)
@pytest.mark.parametrize('path', ['/', '/events', '/static/serve.js'])
def test_a_page_of_another_origin_is_refused(
  site: Site, headers: dict[str, str], path: str
) -> None:
  sent = {name: value.format(site.port) for name, value in headers.items()}
  answer = site.ask(path, headers=sent)
  assert answer.status == 403
  assert 'digits' not in answer.text
  assert_guarded(answer)


def test_a_link_from_elsewhere_may_be_followed(site: Site) -> None:
  sent = {'Sec-Fetch-Site': 'cross-site', **NAVIGATION}
  assert site.ask('/', headers=sent).status == 200
  own = {'Origin': site.url, 'Sec-Fetch-Site': 'same-origin'}
  assert site.ask('/', headers=own).status == 200


@pytest.mark.parametrize(
  'path',
  [
    '/static/../../../../etc/passwd',
    '/static/..%2f..%2f..%2fetc%2fpasswd',
    '/static/%2e%2e/%2e%2e/setup.py',
    '/static//etc/passwd',
    '/static/..\\..\\etc\\passwd',
    '/static/serve.css%00.js',
    '/static/templates/run.html.j2',
    '//etc/passwd',
    '/run?name=../../../etc/passwd',
    '/run?name=%2Fetc%2Fpasswd',
  ],
)
def test_no_path_leads_to_a_file(site: Site, path: str) -> None:
  answer = site.ask(path)
  assert answer.status in (400, 404)
  assert 'root:' not in answer.text
  assert 'setuptools' not in answer.text


def test_the_files_are_those_of_the_package(site: Site) -> None:
  for name, (_, _, kind) in pages.FILES.items():
    answer = site.ask(f'/static/{name}')
    assert answer.status == 200
    assert answer.headers['content-type'] == f'{kind}; charset=utf-8'


class TestToken:
  def cookie(self, site: Site) -> str:
    return f'{guard.Place("", site.port).cookie}={site.token}'

  def test_nothing_is_told_without_it(self, guarded: Site) -> None:
    for path in (*PAGES, '/events', '/what-if/answer'):
      answer = guarded.ask(path)
      assert answer.status == 401
      assert 'digits' not in answer.text
      assert guarded.token not in answer.text
      assert_guarded(answer)

  def test_it_becomes_a_cookie_and_leaves_the_address(
    self, guarded: Site
  ) -> None:
    assert len(guarded.token) >= 43
    answer = guarded.ask(f'/run?name=digits-good&token={guarded.token}&a=')
    assert answer.status == 303
    assert answer.headers['location'] == '/run?name=digits-good&a='
    cookie = answer.headers['set-cookie']
    for part in ('HttpOnly', 'SameSite=strict', 'Path=/'):
      assert part in cookie
    assert 'Domain' not in cookie
    sent = {'Cookie': cookie.split(';')[0]}
    shown = guarded.ask('/run?name=digits-good', headers=sent)
    assert shown.status == 200
    assert guarded.token not in shown.text

  @pytest.mark.parametrize('given', ['', 'x', '\u20ac', 'a' * 10_000])
  def test_another_is_refused(self, guarded: Site, given: str) -> None:
    asked = urllib.parse.urlencode({'token': given})
    assert guarded.ask(f'/?{asked}').status == 401
    name = guard.Place('', guarded.port).cookie
    quoted = urllib.parse.quote(given)
    sent = {'Cookie': f'{name}={quoted}; x=";;=,'}
    assert guarded.ask('/', headers=sent).status == 401

  def test_the_redirect_stays_here(self, guarded: Site) -> None:
    for path in ('//other.example/', '/\\other.example', '/%2F/other.example'):
      answer = guarded.ask(f'{path}?token={guarded.token}')
      assert answer.headers['location'].startswith('/')
      assert not re.match(r'/[/\\]', answer.headers['location'])

  def test_it_is_no_pass_for_other_origins(self, guarded: Site) -> None:
    sent = {'Cookie': self.cookie(guarded), 'Sec-Fetch-Site': 'cross-site'}
    assert guarded.ask('/', headers=sent).status == 403
    sent = {'Cookie': self.cookie(guarded), 'Host': 'rebound.example'}
    assert guarded.ask('/', headers=sent).status == 421


def test_any_host_but_loopback_has_a_token() -> None:
  place = guard.Place('0.0.0.0', 8321, 'secret')
  assert '10.0.0.7:8321' in place.hosts('10.0.0.7')
  assert '0.0.0.0:8321' not in place.hosts('10.0.0.7')
  assert 'rebound.example:8321' not in place.hosts('10.0.0.7')
  named = guard.Place('10.0.0.7', 80, 'secret', ('lab.example',))
  assert named.hosts('10.0.0.7') == {
    '10.0.0.7:80',
    '10.0.0.7',
    'lab.example:80',
    'lab.example',
  }
