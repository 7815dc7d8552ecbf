# SPDX-License-Identifier: Apache-2.0
"""Policies: what they leave out is strict, and what they misspell is named."""

from __future__ import annotations

import math
import pathlib

import pytest

from tff_secagg_ext.gate import Policy, PolicyError, default_policy
from tff_secagg_ext.gate.policy import tomllib


def parse(text: str) -> Policy:
  return Policy.parse(text.encode())


def test_an_empty_policy_is_the_default_one() -> None:
  empty, default = parse(''), Policy.parse(default_policy().encode())
  assert empty.digest != default.digest
  for name in tomllib.loads(default_policy()):
    assert getattr(empty, name) == getattr(default, name)
  assert default.epsilon.release == 10.0
  assert default.communication.maximum_bytes == math.inf
  assert default.waivers.allowed == ()


def test_nothing_that_can_be_required_is_left_out_by_default() -> None:
  tables = tomllib.loads(default_policy())
  assert all(table.get('required', True) for table in tables.values())


def test_each_key_of_the_default_policy_has_a_comment() -> None:
  lines = default_policy().splitlines()
  keys = [n for n, line in enumerate(lines) if ' = ' in line and line[0] != '#']
  for number in keys:
    if lines[number].startswith('required'):
      continue
    assert lines[number - 1].startswith('#'), lines[number]


def test_the_docs_name_each_table() -> None:
  page = pathlib.Path(__file__).parents[2] / 'docs' / 'gate.md'
  for name in tomllib.loads(default_policy()):
    assert f'\n| `{name}` |' in page.read_text(), name


def test_what_is_given_replaces_the_default() -> None:
  policy = parse("""
    epsilon.release = 3
    utility = {baseline = "plain", figure = "top 1"}
    waivers.allowed = ["count is exact"]
    transcripts.required = false
  """)
  assert policy.epsilon.release == 3.0
  assert policy.epsilon.server == parse('').epsilon.server
  assert policy.utility.baseline == 'plain'
  assert policy.utility.figure == 'top 1'
  assert policy.waivers.allowed == ('count is exact',)
  assert not policy.transcripts.required


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('[', 'must be TOML. Found something else: .* --init` writes one'),
    ('epsilon = 3', r'`epsilon` must be a table\. Found 3\. Write \[epsilon\]'),
    ('[member]', r'Found `member`\. The nearest is `membership`'),
    ('[xyz]', r'no table but epsilon, .* Found `xyz`\.$'),
    (
      'epsilon.relase = 1',
      '`epsilon` must have no key .* nearest is `release`',
    ),
    (
      'epsilon.release = "a"',
      r'`epsilon.release` must be a number in \[0, inf',
    ),
    ('epsilon.release = true', 'must be a number .* Found True'),
    ('epsilon.release = -1', r'must be a number in \[0, inf\]\. Found -1'),
    ('epsilon.release = nan', 'Found nan'),
    ('membership.maximum_auc = 1.5', r'in \[0, 1\]\. Found 1\.5'),
    ('aborts.maximum_rate = [1]', r'Found \[1\]'),
    ('noise.required = 1', r'`noise.required` must be true or false\. Found 1'),
    ('waivers.allowed = "a"', 'must be a list of strings'),
    ('waivers.allowed = [1]', r'must be a list of strings\. Found \[1\]'),
    ('utility.figure = 1', 'must be a string that is not empty. Found 1'),
    ('utility.figure = " "', 'must be a string that is not empty'),
    ('utility.baseline = inf', 'a finite number, or the name of a run. Found'),
    ('utility.baseline = []', 'a finite number, or the name of a run'),
  ],
)
def test_a_policy_that_cannot_be_used_is_refused(
  text: str, message: str
) -> None:
  with pytest.raises(PolicyError, match=message):
    parse(text)


def test_a_policy_in_another_encoding_is_refused() -> None:
  with pytest.raises(PolicyError, match='must be TOML'):
    Policy.parse(b'\xff')
