# SPDX-License-Identifier: Apache-2.0
"""Runs, sessions and append-only entries."""

from __future__ import annotations

from alembic import op
import sqlalchemy as sa

revision = '0001'
down_revision = None
branch_labels = None
depends_on = None

_TABLES = ('runs', 'sessions', 'entries')

# (what is wrong, when it is) for a row about to be inserted. They repeat the
# unique indexes because SQLite's INSERT OR REPLACE would delete the row in
# the way without asking the triggers on DELETE.
_RULES = {
  'runs': (
    (
      'a run is written once',
      'EXISTS (SELECT 1 FROM runs r WHERE r.name = NEW.name OR r.id = NEW.id)',
    ),
  ),
  'sessions': (
    (
      'a session is written once',
      'EXISTS (SELECT 1 FROM sessions s WHERE s.id = NEW.id)',
    ),
  ),
  'entries': (
    (
      'entries are numbered without gaps',
      'NEW.sequence <> (SELECT COALESCE(MAX(e.sequence), 0) + 1'
      ' FROM entries e WHERE e.run_id = NEW.run_id)',
    ),
    (
      'a round is reserved once, and before it is settled',
      "(NEW.kind = 'reserved') = EXISTS (SELECT 1 FROM entries e"
      ' WHERE e.run_id = NEW.run_id AND e.round = NEW.round'
      " AND e.attempt = NEW.attempt AND e.kind = 'reserved')",
    ),
    (
      'an attempt is settled once',
      "NEW.kind <> 'reserved' AND EXISTS (SELECT 1 FROM entries e"
      ' WHERE e.run_id = NEW.run_id AND e.round = NEW.round'
      " AND e.attempt = NEW.attempt AND e.kind <> 'reserved')",
    ),
    (
      'a round is committed once',
      "NEW.kind = 'committed' AND EXISTS (SELECT 1 FROM entries e"
      ' WHERE e.run_id = NEW.run_id AND e.round = NEW.round'
      " AND e.kind = 'committed')",
    ),
  ),
}


def upgrade() -> None:
  _create_tables()
  _create_indexes()
  if op.get_context().dialect.name == 'postgresql':
    _postgresql_triggers()
  else:
    _sqlite_triggers()


def downgrade() -> None:
  raise NotImplementedError('A ledger is append-only: it has no way back.')


def _create_tables() -> None:
  op.create_table(
    'runs',
    sa.Column('id', sa.Integer, primary_key=True),
    sa.Column('name', sa.String(200), nullable=False, unique=True),
    sa.Column('settings', sa.Text, nullable=False),
    sa.Column('delta', sa.Float(53), nullable=False),
    sa.Column('created_at', sa.String(32), nullable=False),
    sa.CheckConstraint('delta > 0 AND delta < 1', name='runs_delta'),
  )
  op.create_table(
    'sessions',
    sa.Column('id', sa.Integer, primary_key=True),
    sa.Column('run_id', sa.Integer, sa.ForeignKey('runs.id'), nullable=False),
    sa.Column('writer', sa.String(300), nullable=False),
    sa.Column('versions', sa.Text, nullable=False),
    sa.Column('opened_at', sa.String(32), nullable=False),
  )
  op.create_table(
    'entries',
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
    sa.CheckConstraint('round >= 1 AND attempt >= 1', name='entries_numbers'),
    sa.CheckConstraint(
      "kind IN ('reserved', 'committed', 'lost')", name='entries_kind'
    ),
  )


def _create_indexes() -> None:
  attempt = ['run_id', 'round', 'attempt']
  for name, columns, rows in (
    ('entries_reserved_once', attempt, "kind = 'reserved'"),
    ('entries_settled_once', attempt, "kind != 'reserved'"),
    ('entries_committed_once', attempt[:2], "kind = 'committed'"),
  ):
    op.create_index(
      name,
      'entries',
      columns,
      unique=True,
      sqlite_where=sa.text(rows),
      postgresql_where=sa.text(rows),
    )


def _sqlite_triggers() -> None:
  for table in _TABLES:
    for verb in ('UPDATE', 'DELETE'):
      op.execute(
        f'CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table}'
        " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
      )
    checks = ' '.join(
      f"SELECT RAISE(ABORT, '{wrong}') WHERE {when};"
      for wrong, when in _RULES[table]
    )
    op.execute(
      f'CREATE TRIGGER {table}_insert BEFORE INSERT ON {table}'
      f' BEGIN {checks} END'
    )


def _postgresql_triggers() -> None:
  op.execute(
    'CREATE FUNCTION tff_secagg_append_only() RETURNS trigger AS $$ BEGIN'
    " RAISE EXCEPTION 'the ledger is append-only'"
    " USING ERRCODE = 'integrity_constraint_violation';"
    ' END $$ LANGUAGE plpgsql'
  )
  for table in _TABLES:
    op.execute(
      f'CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR'
      f' TRUNCATE ON {table} FOR EACH STATEMENT'
      ' EXECUTE FUNCTION tff_secagg_append_only()'
    )
    checks = ' '.join(
      f"IF {when} THEN RAISE EXCEPTION '{wrong}'"
      " USING ERRCODE = 'integrity_constraint_violation'; END IF;"
      for wrong, when in _RULES[table]
    )
    op.execute(
      f'CREATE FUNCTION tff_secagg_{table}_insert() RETURNS trigger AS'
      f' $$ BEGIN {checks} RETURN NEW; END $$ LANGUAGE plpgsql'
    )
    op.execute(
      f'CREATE TRIGGER {table}_insert BEFORE INSERT ON {table} FOR EACH ROW'
      f' EXECUTE FUNCTION tff_secagg_{table}_insert()'
    )
