# SPDX-License-Identifier: Apache-2.0
"""From a document to HTML or Markdown, by templates that come with the package.

Guarantees:

* A page of HTML is one file: it has no script and asks for nothing elsewhere;
  its own policy (CSP) forbids both.
* Whatever the ledger says is escaped in HTML and in Markdown.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import jinja2
import markupsafe

from tff_secagg_ext.report import charts, words
from tff_secagg_ext.report.charts import Chart
from tff_secagg_ext.report.document import Document

# What no line should end within.
_EQUATION = re.compile('([εδ]) = ')
_SPECIAL = re.compile(r'([\\`*_\[\]<>|#&~])')


def to_html(document: Document, *, for_paper: bool = False) -> str:
  """Returns a page.

  Args:
    document: What it says.
    for_paper: Whether explanations are open, as nobody opens them on paper.
  """
  template = environment().get_template('page.html.j2')
  return template.render(document=document, for_paper=for_paper)


def to_element(template: str, **values: Any) -> str:
  """Returns an element of HTML by one of the package's templates."""
  return environment().get_template(template).render(values)


def to_markdown(document: Document) -> str:
  """Returns a page in Markdown, with tables in the place of charts."""
  template = environment(as_html=False).get_template('page.md.j2')
  titles = {section.anchor: section.title for section in document.sections}
  titles['verdict'] = document.headline
  text = template.render(document=document, titles=titles)
  return re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'


@functools.lru_cache
def environment(*packages: str, as_html: bool = True) -> jinja2.Environment:
  """Returns where templates are, those of this package and of others.

  Args:
    *packages: Others, whose templates come first.
    as_html: Whether whatever is put into them is escaped for HTML.
  """
  found = jinja2.Environment(
    loader=jinja2.ChoiceLoader(
      [
        jinja2.PackageLoader(package)
        for package in (*packages, 'tff_secagg_ext.report')
      ]
    ),
    autoescape=as_html,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  found.filters |= {
    'chart': _chart,
    'code': _code,
    'md': _escaped,
    'shown': words.shown,
  }
  return found


def _chart(chart: Chart, identity: str) -> markupsafe.Markup:
  return markupsafe.Markup(charts.svg(chart, identity))


def _code(text: str) -> markupsafe.Markup:
  """Returns escaped text, with what is between backquotes as code."""
  kept = _EQUATION.sub('\\1\u00a0=\u00a0', words.shown(text))
  parts = str(markupsafe.escape(kept)).split('`')
  if len(parts) % 2 == 0:
    return markupsafe.Markup('`'.join(parts))
  return markupsafe.Markup(
    ''.join(
      f'<code>{part}</code>' if n % 2 else part for n, part in enumerate(parts)
    )
  )


def _escaped(text: object) -> str:
  """Returns a text that Markdown shows as it is, in one line."""
  return _SPECIAL.sub(r'\\\1', words.shown(text))
