# SPDX-License-Identifier: Apache-2.0
"""A hash chain over the rows of a run; see `ledger.chain`.

Rows that are there already get the hashes of what they say now, and `inherited`
of their run says so: nothing shows what they said before. To write them, the
triggers that refuse it are dropped and made again within the transaction.
"""

from __future__ import annotations

from collections.abc import Sequence

from alembic import op
import sqlalchemy as sa

from tff_secagg_ext.ledger import records, rows

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None

_TABLES = ('runs', 'sessions', 'entries')
_COLUMNS = (
  ('runs', 'inherited'),
  ('sessions', 'previous'),
  ('sessions', 'hash'),
  ('entries', 'salt'),
  ('entries', 'previous'),
  ('entries', 'hash'),
)
_HASHED = 'length(NEW.hash) <> 64'
_UNHASHED = 'a row has a hash'


def upgrade() -> None:
  op.add_column('runs', sa.Column('inherited', sa.Text))
  for table, column in _COLUMNS[1:]:
    op.add_column(
      table,
      sa.Column(column, sa.String(64), nullable=False, server_default=''),
    )
  _drop_triggers()
  _chain_rows()
  _create_triggers()


def downgrade() -> None:
  raise NotImplementedError('A ledger is append-only: it has no way back.')


def _chain_rows() -> None:
  connection = op.get_bind()
  for run in _rows(connection, 'runs', 'id'):
    found = rows.RunRows(
      run,
      _rows(connection, 'sessions', 'id', run['id']),
      _rows(connection, 'entries', 'sequence', run['id']),
    )
    inherited = {
      'at': records.now(),
      'sessions': len(found.sessions),
      'entries': len(found.entries),
    }
    found = rows.chained_anew(found, inherited)
    _update(connection, 'runs', ('id',), [found.run])
    _update(connection, 'sessions', ('id',), found.sessions)
    _update(connection, 'entries', ('run_id', 'sequence'), found.entries)


def _rows(
  connection: sa.Connection, table: str, order: str, run_id: int | None = None
) -> Sequence[rows.Row]:
  """Returns rows with the columns that tables have in this version."""
  where = '' if run_id is None else f' WHERE run_id = {run_id:d}'
  query = sa.text(f'SELECT * FROM {table}{where} ORDER BY {order}')
  return [dict(row) for row in connection.execute(query).mappings()]


def _update(
  connection: sa.Connection,
  table: str,
  key: Sequence[str],
  changed: Sequence[rows.Row],
) -> None:
  names = [name for other, name in _COLUMNS if other == table]
  assigned = ', '.join(f'{name} = :{name}' for name in names)
  where = ' AND '.join(f'{name} = :{name}' for name in key)
  statement = sa.text(f'UPDATE {table} SET {assigned} WHERE {where}')
  for row in changed:
    values = {name: row[name] for name in (*names, *key)}
    connection.execute(statement, values)


def _drop_triggers() -> None:
  for table in _TABLES:
    if _is_postgresql():
      op.execute(f'DROP TRIGGER {table}_append_only ON {table}')
    else:
      op.execute(f'DROP TRIGGER {table}_no_update')


def _create_triggers() -> None:
  for table in _TABLES:
    if _is_postgresql():
      op.execute(
        f'CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR'
        f' TRUNCATE ON {table} FOR EACH STATEMENT'
        ' EXECUTE FUNCTION tff_secagg_append_only()'
      )
    else:
      op.execute(
        f'CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table}'
        " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
      )
  # A process of an earlier version that still has the ledger open would write
  # rows without hashes.
  for table in _TABLES[1:]:
    if _is_postgresql():
      op.execute(
        f'ALTER TABLE {table} ADD CONSTRAINT {table}_hash CHECK'
        ' (length(hash) = 64)'
      )
    else:
      op.execute(
        f'CREATE TRIGGER {table}_hash BEFORE INSERT ON {table}'
        f" BEGIN SELECT RAISE(ABORT, '{_UNHASHED}') WHERE {_HASHED}; END"
      )


def _is_postgresql() -> bool:
  return bool(op.get_context().dialect.name == 'postgresql')
