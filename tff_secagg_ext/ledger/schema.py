# SPDX-License-Identifier: Apache-2.0
"""The tables, as queries see them; `migrations/` creates them.

No row is ever updated or deleted (triggers refuse it). A round attempt has
one `reserved` entry and later at most one that settles it, `committed` or
`lost`. Entries of a run are numbered without gaps, so that of two writers
with the same picture of a run only one can append. So are its audits. Every row
is bound to the one before it by hashes; see `chain`.
"""

from __future__ import annotations

import sqlalchemy as sa

RESERVED = 'reserved'
COMMITTED = 'committed'
LOST = 'lost'

metadata = sa.MetaData()

runs = sa.Table(
  'runs',
  metadata,
  sa.Column('id', sa.Integer, primary_key=True),
  sa.Column('name', sa.String(200), nullable=False, unique=True),
  sa.Column('settings', sa.Text, nullable=False),
  sa.Column('delta', sa.Float(53), nullable=False),
  sa.Column('created_at', sa.String(32), nullable=False),
  sa.Column('inherited', sa.Text),
  sa.CheckConstraint('delta > 0 AND delta < 1', name='runs_delta'),
)

sessions = sa.Table(
  'sessions',
  metadata,
  sa.Column('id', sa.Integer, primary_key=True),
  sa.Column('run_id', sa.Integer, sa.ForeignKey('runs.id'), nullable=False),
  sa.Column('writer', sa.String(300), nullable=False),
  sa.Column('versions', sa.Text, nullable=False),
  sa.Column('opened_at', sa.String(32), nullable=False),
  sa.Column('previous', sa.String(64), nullable=False),
  sa.Column('hash', sa.String(64), nullable=False),
)

entries = sa.Table(
  'entries',
  metadata,
  sa.Column('run_id', sa.Integer, sa.ForeignKey('runs.id'), primary_key=True),
  sa.Column('sequence', sa.Integer, primary_key=True, autoincrement=False),
  sa.Column(
    'session_id', sa.Integer, sa.ForeignKey('sessions.id'), nullable=False
  ),
  sa.Column('round', sa.Integer, nullable=False),
  sa.Column('attempt', sa.Integer, nullable=False),
  sa.Column('kind', sa.String(9), nullable=False),
  sa.Column('charge', sa.Text, nullable=False),
  sa.Column('measurements', sa.Text, nullable=False),
  sa.Column('note', sa.Text, nullable=False),
  sa.Column('release_epsilon', sa.Float(53)),
  sa.Column('server_epsilon', sa.Float(53)),
  sa.Column('reasons', sa.Text, nullable=False),
  sa.Column('recorded_at', sa.String(32), nullable=False),
  sa.Column('protocol', sa.Text),
  sa.Column('salt', sa.String(64), nullable=False),
  sa.Column('previous', sa.String(64), nullable=False),
  sa.Column('hash', sa.String(64), nullable=False),
  sa.CheckConstraint('round >= 1 AND attempt >= 1', name='entries_numbers'),
  sa.CheckConstraint(
    "kind IN ('reserved', 'committed', 'lost')", name='entries_kind'
  ),
)

audits = sa.Table(
  'audits',
  metadata,
  sa.Column('run_id', sa.Integer, sa.ForeignKey('runs.id'), primary_key=True),
  sa.Column('number', sa.Integer, primary_key=True, autoincrement=False),
  sa.Column('kind', sa.String(32), nullable=False),
  sa.Column('figures', sa.Text, nullable=False),
  sa.Column('entries', sa.Integer, nullable=False),
  sa.Column('entry', sa.String(64), nullable=False),
  sa.Column('auditor', sa.String(300), nullable=False),
  sa.Column('versions', sa.Text, nullable=False),
  sa.Column('recorded_at', sa.String(32), nullable=False),
  sa.Column('salt', sa.String(64), nullable=False),
  sa.Column('previous', sa.String(64), nullable=False),
  sa.Column('hash', sa.String(64), nullable=False),
  sa.CheckConstraint('length(hash) = 64', name='audits_hash'),
)

sa.Index(
  'entries_reserved_once',
  entries.c.run_id,
  entries.c.round,
  entries.c.attempt,
  unique=True,
  sqlite_where=entries.c.kind == RESERVED,
  postgresql_where=entries.c.kind == RESERVED,
)
sa.Index(
  'entries_settled_once',
  entries.c.run_id,
  entries.c.round,
  entries.c.attempt,
  unique=True,
  sqlite_where=entries.c.kind != RESERVED,
  postgresql_where=entries.c.kind != RESERVED,
)
sa.Index(
  'entries_committed_once',
  entries.c.run_id,
  entries.c.round,
  unique=True,
  sqlite_where=entries.c.kind == COMMITTED,
  postgresql_where=entries.c.kind == COMMITTED,
)
