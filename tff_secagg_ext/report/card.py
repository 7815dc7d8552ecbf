# SPDX-License-Identifier: Apache-2.0
"""A run in a few lines of HTML, for notebooks."""

from __future__ import annotations

import hashlib

from tff_secagg_ext.report import panels, plots, render, verdicts, words
from tff_secagg_ext.report.facts import RunFacts


def card(facts: RunFacts) -> str:
  """Returns an element with the verdict, the figures and a chart of epsilon.

  Guarantees:
    - whatever the ledger says is escaped;
    - it has no script, asks for nothing elsewhere, and takes the colours of the
      page that it is in, light or dark.

  Args:
    facts: Of the run. A budget that it shares with others is not judged, which
      takes an accountant: `report` does.
  """
  plot = plots.with_table(panels.epsilon(facts)) if len(facts.series) else None
  named = f'{facts.name} {facts.head} {facts.view}'.encode()
  return render.to_element(
    'card.html.j2',
    facts=facts,
    verdict=verdicts.verdict(facts),
    figures=figures(facts),
    plot=plot,
    # Two cards of one page that are not the same have different names.
    identity=f'tff-secagg-{hashlib.sha256(named).hexdigest()[:12]}',
  )


def figures(facts: RunFacts) -> list[tuple[str, str]]:
  """Returns the few figures that say most of a run, each with its name."""
  mark = '†' if facts.waivers else ''
  found = [
    ('ε, release view', words.figure(facts.release.value) + mark),
    ('ε, server view', words.figure(facts.server.value) + mark),
    ('δ', words.figure(facts.delta)),
    ('rounds', words.figure(facts.rounds)),
    ('attempts lost', words.figure(facts.lost)),
  ]
  if facts.budget is not None:
    budget, shared = facts.budget.budget, facts.budget.population
    whose = '' if shared is None else f', shared by population {shared}'
    told = f'ε {words.figure(budget.epsilon)}, {budget.view} view{whose}'
    found.append(('budget', told))
  return found
