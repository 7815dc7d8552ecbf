# SPDX-License-Identifier: Apache-2.0
"""A good run passes, and each broken one fails for its own reason alone."""

from __future__ import annotations

from collections.abc import Callable
import hashlib
import json
import pathlib
import re
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.gate import conftest
from tests.gate.conftest import Recipe
from tests.ledger import test_chain
from tff_secagg_ext import accounting, gate
from tff_secagg_ext.cli.app import app
from tff_secagg_ext.ledger import Ledger


def invoke(*args: object) -> Any:
  return CliRunner().invoke(
    app, ['gate', *map(str, args)], catch_exceptions=False
  )


def judge(recipe: Recipe, *args: object, run: str = 'mine') -> Any:
  return invoke(
    run,
    f'--ledger={recipe.location}',
    f'--policy={recipe.folder / "policy.toml"}',
    f'--transcripts={recipe.transcripts}',
    *args,
  )


def failed(recipe: Recipe, *args: object) -> dict[str, str]:
  """Why a run that was made fails, by check."""
  result = judge(recipe, '--json', *args)
  verdict = json.loads(result.stdout)
  assert result.exit_code == (0 if verdict['holds'] else 1)
  why = {f['check']: f['why'] for f in verdict['findings'] if not f['holds']}
  assert verdict['failed'] == list(why)
  return why


def test_a_good_run_passes_and_the_verdict_is_on_record(
  recipe: Recipe,
) -> None:
  recipe.make()
  result = judge(recipe)
  assert result.exit_code == 0, result.output
  output = ' '.join(result.output.split())
  assert 'NO' not in output
  assert 'Run mine passes the policy' in output
  with Ledger.open(recipe.location) as ledger:
    recorded = ledger.audits('mine')[-1]
    assert ledger.verify('mine').audits == len(conftest.AUDITS) + 1
  assert recorded.kind == 'gate'
  assert recorded.figures['holds'] is True
  assert recorded.figures['failed'] == []
  assert recorded.figures['entries'] == 2 * conftest.ROUNDS
  digest = hashlib.sha256(recipe.policy.encode()).hexdigest()
  assert recorded.figures['policy'] == digest
  checks = [f['check'] for f in recorded.figures['findings']]  # type: ignore[union-attr,call-overload]
  assert checks == [
    'ledger chain',
    'epsilon, release view',
    'epsilon, server view',
    'waivers',
    'audited lower bound',
    'memorization, reduction',
    'membership, auc',
    'membership, true positive rate',
    'implementation',
    'utility, accuracy',
    'aborts',
    'dropouts',
    'communication, expansion',
    'communication, bytes',
    'noise, effective over planned',
    'transcripts',
  ]
  # A verdict is no evidence: the next one is the same.
  assert failed(recipe) == {}


WAIVER = accounting.Waiver('count is exact', 'A. Reviewer', 'it is public')
EXACT = accounting.UnaccountedEvent(('loss is exact',))
SEEN = accounting.SeenByServerEvent(('norms are exact',))
BROKEN: dict[str, tuple[dict[str, Any], str, str]] = {
  'epsilon above the limit': (
    {
      'events': (conftest.noised(12.0),),
      'policy': 'epsilon.server = inf\n',
      'settings': {'aggregator': {'noise_multiplier': 0.6}},
    },
    'epsilon, release view',
    r'\d+\.\d+ is above 10$',
  ),
  'an unaccounted release': (
    {
      'events': (conftest.noised(60.0), EXACT),
      'policy': 'epsilon.server = inf\n',
    },
    'epsilon, release view',
    'unaccounted releases: loss is exact$',
  ),
  'a release that the server sees': (
    {'events': (conftest.noised(60.0), SEEN)},
    'epsilon, server view',
    'unaccounted releases: norms are exact$',
  ),
  'a waiver': (
    {'events': (conftest.noised(60.0), WAIVER)},
    'waivers',
    'count is exact is waived, by A. Reviewer: it is public$',
  ),
  'a lower bound above epsilon': (
    {'audits': {'one_shot': {'lower_bound': 7.5, 'ledger_epsilon': None}}},
    'audited lower bound',
    r'ALARM: audit 1 \(one_shot\) found at least 7\.5; the release view has \d',
  ),
  'no audit of memorization': (
    {'audits': {'memorization': None}},
    'memorization',
    "no audit 'memorization' is on record$",
  ),
  'memorization that is not reduced': (
    {'audits': {'memorization': {'reduction': 1.2}}},
    'memorization, reduction',
    'is below 2$',
  ),
  'members that are found': (
    {'audits': {'membership': {'auc': 0.71}}},
    'membership, auc',
    r'0\.71 is above 0\.6$',
  ),
  'a broken implementation': (
    {
      'audits': {
        'implementation': {
          'verdicts': {
            'ours': {
              **conftest.AUDITS['implementation']['verdicts']['ours'],
              'sampler': 'broken',
            }
          }
        }
      }
    },
    'implementation',
    'ours, sampler: broken$',
  ),
  'utility below the baseline': (
    {'audits': {'utility': {'accuracy': 0.8}}},
    'utility, accuracy',
    r'0\.8 is below 0\.87$',
  ),
  'attempts that were lost': ({'lost': 1}, 'aborts', r'0\.25 is above 0\.1'),
  'clients that were lost': (
    {'policy': f'{conftest.POLICY}[dropouts]\nmaximum_rate = 0.1\n'},
    'dropouts',
    r'0\.1667 is above 0\.1$',
  ),
  'messages that expand': (
    {'sessions': {'expansion': 30.0}},
    'communication, expansion',
    '30 is above 20$',
  ),
  'less noise than planned': (
    {'events': (conftest.noised(60.0, shares=16),)},
    'noise, effective over planned',
    r'0\.8 is below 0\.9$',
  ),
  'noise that was not measured': (
    {'settings': {'aggregator': {}}},
    'noise',
    'planned and effective noise multipliers are not on record',
  ),
  'a session without a transcript': (
    {'sessions': {'transcript': None}},
    'transcripts',
    'attempt 1 of round 1 kept no transcript; attempt 1 of round 2 kept',
  ),
  'sums in the clear': (
    {'sessions': {'threat': 'plain', 'transcript': None}},
    'transcripts',
    'attempt 1 of round 1 was summed in the clear',
  ),
  'the transcript of another session': (
    {'sessions': {'threat': 'curious'}},
    'transcripts',
    'the transcript of attempt 1 of round 1 is of another session',
  ),
}


def with_utility(policy: str) -> str:
  return policy if 'baseline' in policy else policy + conftest.POLICY


@pytest.mark.parametrize('what', BROKEN)
def test_a_broken_run_fails_for_its_reason_alone(
  recipe: Recipe, what: str
) -> None:
  changes, check, expected = BROKEN[what]
  recipe = recipe.with_(**changes)
  recipe = recipe.with_(policy=with_utility(recipe.policy)).make()
  why = failed(recipe)
  assert list(why) == [check]
  assert re.search(expected, why[check])
  with Ledger.open(recipe.location) as ledger:
    assert ledger.audits('mine')[-1].figures['failed'] == [check]


def _alter(path: pathlib.Path) -> None:
  text = path.read_bytes()
  path.write_bytes(text.replace(b'"seq":2', b'"seq":3'))


def _cut(path: pathlib.Path) -> None:
  path.write_bytes(b''.join(path.read_bytes().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
  ('change', 'expected'),
  [
    (_alter, 'jsonl is broken, line 3: is not what was written'),
    (_cut, 'the end is missing'),
    (pathlib.Path.unlink, r'no transcript of attempt 1 of round 2 ends with'),
  ],
)
def test_a_transcript_that_is_altered_or_missing_fails(
  recipe: Recipe, change: Callable[[pathlib.Path], None], expected: str
) -> None:
  recipe.make()
  change(sorted(recipe.transcripts.iterdir())[1])
  why = failed(recipe)
  assert list(why) == ['transcripts']
  assert 'no transcript of attempt 1 of round 2 ends with' in why['transcripts']
  assert re.search(expected, why['transcripts'])


@pytest.mark.parametrize(
  ('statement', 'expected'),
  [
    (
      'UPDATE entries SET release_epsilon = 0.1 WHERE sequence = 6',
      'entry 6, or the session that wrote it, was altered',
    ),
    ("UPDATE entries SET charge = '{'", 'entry 1, or the session'),
    (
      "UPDATE audits SET figures = REPLACE(figures, '0.5', '0.4')"
      ' WHERE number = 1',
      'audit 1 was altered',
    ),
  ],
)
def test_a_row_that_was_altered_fails_and_nothing_is_recorded(
  recipe: Recipe, statement: str, expected: str
) -> None:
  recipe.make()
  test_chain.forge(recipe.location, statement)
  result = judge(recipe)
  assert result.exit_code == 1
  output = ' '.join(result.output.split())
  assert 'Run mine fails 1 checks' in output
  assert 'The verdict is not recorded: nothing is added to a chain' in output
  why = failed(recipe)
  assert list(why) == ['ledger chain']
  assert expected in why['ledger chain']
  with Ledger.open(recipe.location) as ledger:
    assert len(ledger.audits('mine')) == len(conftest.AUDITS)


def test_a_kept_head_shows_what_was_cut_off(recipe: Recipe) -> None:
  recipe.make()
  with Ledger.open(recipe.location) as ledger:
    head = ledger.verify('mine')
  assert failed(recipe, f'--head={head}') == {}
  test_chain.forge(recipe.location, 'DELETE FROM audits WHERE number > 5')
  assert failed(recipe, f'--head={head}') == {}
  test_chain.forge(recipe.location, 'DELETE FROM audits WHERE number = 5')
  why = failed(recipe, f'--head={head}')
  assert 'audit 5 is missing' in why['ledger chain']


def test_audits_before_the_newest_round_do_not_count(recipe: Recipe) -> None:
  recipe.make()
  with Ledger.open(recipe.location) as ledger:
    run = ledger.open_run(
      'mine', {'aggregator': {'noise_multiplier': 3.0}}, delta=conftest.DELTA
    )
    charge = accounting.Round(recipe.events, accounting.NoSampling())
    run.commit(run.reserve(charge), charge, {}, recipe.protocols[0])
  why = failed(recipe)
  assert list(why) == [
    'audited lower bound',
    'memorization',
    'membership',
    'utility',
  ]
  for each in why.values():
    assert '1 rounds were committed after the newest audit' in each
  with Ledger.open(recipe.location) as ledger:
    recipe.record(ledger)
  assert failed(recipe) == {}


NOTHING_REQUIRED = '\n'.join(
  f'[{table}]\nrequired = false'
  for table in (
    'lower_bound',
    'memorization',
    'membership',
    'implementation',
    'utility',
    'dropouts',
    'communication',
    'noise',
    'transcripts',
  )
)


def test_what_is_not_required_may_be_absent(recipe: Recipe) -> None:
  nothing = dict.fromkeys(conftest.AUDITS)
  recipe = recipe.with_(
    audits=nothing,
    policy=NOTHING_REQUIRED,
    settings={'aggregator': {}},
  )
  recipe = recipe.with_(protocols=[{}] * 2).make()
  result = invoke(
    'mine',
    f'--ledger={recipe.location}',
    f'--policy={recipe.folder / "policy.toml"}',
  )
  assert result.exit_code == 0, result.output
  output = ' '.join(result.output.split())
  assert "no audit 'utility' is on record: not required" in output
  assert 'no folder of transcripts was given: not required' in output
  assert 'no session of the protocol is on record: not required' in output


def test_what_is_there_must_hold_required_or_not(recipe: Recipe) -> None:
  audits = {
    'one_shot': {'alarm': True},
    'memorization': {'reduction': 1.0},
    'membership': {'alarm': True},
    'implementation': {'verdicts': {}},
    'utility': {'accuracy': 0.1},
  }
  recipe.with_(audits=audits, policy=NOTHING_REQUIRED).make()
  assert list(failed(recipe)) == [
    'audited lower bound',
    'memorization, reduction',
    'membership',
    'implementation',
    'utility, accuracy',
  ]


def test_an_old_alarm_is_not_forgotten(recipe: Recipe) -> None:
  recipe = recipe.with_(audits={'one_shot': {'lower_bound': 50.0}}).make()
  with Ledger.open(recipe.location) as ledger:
    ledger.record_audit('mine', 'one_shot', conftest.AUDITS['one_shot'])
  assert list(failed(recipe)) == ['audited lower bound']


def test_no_delta_is_left_to_compare_at(recipe: Recipe) -> None:
  recipe = recipe.with_(audits={'one_shot': {'delta': 0.0}}).make()
  why = failed(recipe)
  assert list(why) == ['audited lower bound']
  assert 'is at a delta that nothing can be compared at' in why[next(iter(why))]


def test_unknown_sessions_and_folders(recipe: Recipe) -> None:
  recipe = recipe.with_(protocols=[{}] * 2).make()
  why = failed(recipe)
  assert list(why) == ['dropouts', 'communication', 'transcripts']
  assert why['dropouts'] == 'no session of the protocol is on record'
  assert 'of attempt 1 of round 1 it is not known how' in why['transcripts']
  absent = invoke(
    'mine',
    f'--ledger={recipe.location}',
    f'--policy={recipe.folder / "policy.toml"}',
    '--transcripts=/nowhere',
  )
  assert absent.exit_code == 2
  assert 'nowhere' in absent.stderr


def test_transcripts_of_others_and_of_killed_sessions_do_no_harm(
  recipe: Recipe,
) -> None:
  recipe = recipe.with_(protocols=recipe.protocols[:2]).make()
  _cut(sorted(recipe.transcripts.iterdir())[2])
  (recipe.transcripts / 'notes.txt').write_text('mine')
  assert failed(recipe) == {}


def test_a_run_without_rounds_fails(recipe: Recipe) -> None:
  recipe = recipe.with_(protocols=()).make()
  why = failed(recipe)
  assert why['aborts'] == 'no round was committed'
  assert 'epsilon, release view' not in why


def test_the_baseline_may_be_a_run(recipe: Recipe) -> None:
  policy = '[utility]\nbaseline = "plain"\nmaximum_loss = 0.02\n'
  recipe = recipe.with_(policy=policy).make()
  assert judge(recipe).exit_code == 2
  with Ledger.open(recipe.location) as ledger:
    ledger.open_run('plain', {}, delta=0.1)
  why = failed(recipe)
  assert why['utility, accuracy'] == (
    "the baseline 'plain' has no such figure on record"
  )
  with Ledger.open(recipe.location) as ledger:
    ledger.record_audit('plain', 'utility', {'accuracy': 0.96})
  assert failed(recipe) == {}
  with Ledger.open(recipe.location) as ledger:
    ledger.record_audit('plain', 'utility', {'accuracy': 0.98})
  assert 'is below 0.96' in failed(recipe)['utility, accuracy']
  test_chain.forge(
    recipe.location,
    "UPDATE audits SET figures = '{}' WHERE run_id = 2 AND number = 1",
  )
  broken = judge(recipe)
  assert broken.exit_code == 2
  assert "run 'plain' is broken: audit 1 was altered" in broken.stderr


def test_bad_usage_is_one_line_with_exit_code_2(recipe: Recipe) -> None:
  recipe.make()
  for result, message in (
    (judge(recipe, run='mime'), "The nearest is 'mine'"),
    (judge(recipe, '--head=x'), 'A head must be two numbers'),
    (judge(recipe, '--policy=none.toml'), 'none.toml'),
    (judge(recipe, '--ledger=/nowhere/x.db'), 'no ledger at'),
  ):
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.count('\n') == 1
  assert 'name the run' in invoke().stderr
  (recipe.folder / 'policy.toml').write_text('[epsilom]')
  wrong = judge(recipe)
  assert wrong.exit_code == 2
  assert 'policy.toml: The policy must have no table but' in wrong.stderr
  assert 'Found `epsilom`. The nearest is `epsilon`.' in wrong.stderr


def test_the_default_policy_is_written_once(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'mine.toml'
  first = invoke('--init', path)
  assert first.exit_code == 0
  assert path.read_text() == gate.default_policy()
  path.write_text('mine')
  again = invoke('--init', path)
  assert again.exit_code == 2
  assert 'The policy is not written' in again.stderr
  assert 'File exists' in again.stderr
  assert path.read_text() == 'mine'


def test_init_writes_here_by_default(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  assert invoke('--init').exit_code == 0
  assert (tmp_path / 'policy.toml').read_text() == gate.default_policy()


def test_the_table_fits_80_columns(recipe: Recipe) -> None:
  recipe = recipe.with_(audits={'utility': {'accuracy': 0.1}}).make()
  result = judge(recipe)
  assert result.exit_code == 1
  assert max(map(len, result.output.splitlines())) <= 80
  assert 'utility, accuracy: 0.1 is below 0.87' in result.output
  assert 'fails 1 checks' in result.output


def test_a_verdict_of_nothing_does_not_hold() -> None:
  assert not gate.Verdict('a', 'b', 0, ()).holds
  finding = gate.Finding('a', True, float('inf'), float('inf'))
  told = gate.Verdict('a', 'b', 0, [finding]).figures()
  assert told['findings'][0]['found'] == 'Infinity'
