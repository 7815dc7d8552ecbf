# SPDX-License-Identifier: Apache-2.0
"""Writes the table of docs/implementation_audit.md, from runs of the attacks.

python -m tff_secagg_ext.cli.audit_page docs/implementation_audit.md
"""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
import sys

from tff_secagg_ext.cli import audit

START, END = '<!-- table -->', '<!-- end of table -->'
FACTORIES = ('ours', 'ours-fixed', 'tff', 'tfp-skellam', 'tfp-dgauss')


def table(rows: Sequence[audit.Row]) -> str:
  """One row a check, one column a factory; then all figures."""
  names = list(dict.fromkeys(name for name, _, _ in rows))
  checks = list(dict.fromkeys(check.name for _, check, _ in rows))
  verdicts = {
    (check.name, name): finding.verdict.value for name, check, finding in rows
  }
  lines = [
    f'| check | {" | ".join(names)} |',
    f'|---|{"---|" * len(names)}',
    *(
      f'| {check} | {" | ".join(verdicts[check, name] for name in names)} |'
      for check in checks
    ),
    '',
    '| check | factory | why | figures | false alarm |',
    '|---|---|---|---|---|',
  ]
  for check in checks:
    lines += [
      f'| {check} | {name} | {finding.why} | {audit.figures(finding)}'
      f' | {audit.chance(finding)} |'
      for name, made, finding in rows
      if made.name == check and finding.figures
    ]
  return '\n'.join(lines)


def main(page: str) -> None:
  """Puts the table in its place in a page.

  Raises:
    ValueError: If the page has no place for it.
  """
  path = pathlib.Path(page)
  before, start, rest = path.read_text().partition(START)
  _, end, after = rest.partition(END)
  if not end:
    raise ValueError(
      f'{page} must have a line {START!r} and a line {END!r}. The table goes'
      ' between them.'
    )
  made = table(list(audit.attacks(FACTORIES)))
  path.write_text(f'{before}{start}\n{made}\n{end}{after}')


if __name__ == '__main__':
  main(*sys.argv[1:])
