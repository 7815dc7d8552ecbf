# SPDX-License-Identifier: Apache-2.0
"""Makes links of pages that prose and docstrings name, such as docs/gate.md.

They are named so that they can be found from a source file as well; here a link
has the title of the page. A page that is named and does not exist fails the
build.
"""

from __future__ import annotations

import re
from typing import Any

from mkdocs import exceptions, utils

# What is in a link, or is code, stays as it is.
_NAMED = re.compile(r'<(a|code|pre)\b.*?</\1>|docs/([a-z_/]+\.md)', re.DOTALL)


def on_page_content(html: str, *, page: Any, files: Any, **_: Any) -> str:
  """Returns the page with links to the pages that it names."""

  def link(found: re.Match[str]) -> str:
    name = found[2]
    if name is None:
      return found[0]
    target = files.get_file_from_path(name)
    if target is None:
      raise exceptions.PluginError(
        f'{page.file.src_path} names docs/{name}, which does not exist.'
      )
    url = utils.get_relative_url(target.url, page.url)
    return f'<a href="{url}">{target.page.title}</a>'

  return _NAMED.sub(link, html)


def on_post_page(output: str, **_: Any) -> str:
  """Returns the page with a name for its search, which the theme gives none."""
  search = 'data-md-component="search" role="dialog"'
  return output.replace(search, f'{search} aria-label="Search"')
