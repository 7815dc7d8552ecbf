# SPDX-License-Identifier: Apache-2.0
"""Audits of runs, append-only and in a chain of hashes of their own."""

from __future__ import annotations

from alembic import op
import sqlalchemy as sa

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None

_WRONG = 'audits are numbered without gaps'
# It repeats the primary key because SQLite's INSERT OR REPLACE would delete the
# row in the way without asking the trigger on DELETE.
_WHEN = (
  'NEW.number <> (SELECT COALESCE(MAX(a.number), 0) + 1'
  ' FROM audits a WHERE a.run_id = NEW.run_id)'
)


def upgrade() -> None:
  op.create_table(
    'audits',
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
  if op.get_context().dialect.name == 'postgresql':
    _postgresql_triggers()
  else:
    _sqlite_triggers()


def downgrade() -> None:
  raise NotImplementedError('A ledger is append-only: it has no way back.')


def _sqlite_triggers() -> None:
  for verb in ('UPDATE', 'DELETE'):
    op.execute(
      f'CREATE TRIGGER audits_no_{verb.lower()} BEFORE {verb} ON audits'
      " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    )
  op.execute(
    'CREATE TRIGGER audits_insert BEFORE INSERT ON audits BEGIN SELECT'
    f" RAISE(ABORT, '{_WRONG}') WHERE {_WHEN}; END"
  )


def _postgresql_triggers() -> None:
  op.execute(
    'CREATE TRIGGER audits_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON'
    ' audits FOR EACH STATEMENT EXECUTE FUNCTION tff_secagg_append_only()'
  )
  op.execute(
    'CREATE FUNCTION tff_secagg_audits_insert() RETURNS trigger AS $$ BEGIN'
    f" IF {_WHEN} THEN RAISE EXCEPTION '{_WRONG}'"
    " USING ERRCODE = 'integrity_constraint_violation'; END IF;"
    ' RETURN NEW; END $$ LANGUAGE plpgsql'
  )
  op.execute(
    'CREATE TRIGGER audits_insert BEFORE INSERT ON audits FOR EACH ROW'
    ' EXECUTE FUNCTION tff_secagg_audits_insert()'
  )
