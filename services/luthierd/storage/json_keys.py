"""Changes stored JSON, for migrations: renames keys, or rewrites whole documents."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

ROWS_AT_ONCE = 500
"""Rows per batch: an evaluation can have millions of answers."""


def renamed(value: Any, keys: Mapping[str, str], parent: str = "") -> Any:
    """`value` with the keys of all its objects renamed, at any depth. `parent.key` is a key only there, `.key` only in
    the document itself.
    """
    if isinstance(value, dict):
        return {
            keys.get(f"{parent}.{key}", keys.get(key, key)): renamed(item, keys, key) for key, item in value.items()
        }
    if isinstance(value, list):
        return [renamed(item, keys, parent) for item in value]
    return value


def rename_keys(
    connection: sa.Connection, table: str, column: str, *, primary_key: Sequence[str], keys: Mapping[str, str]
) -> None:
    """Renames the keys of every document in `table.column`."""
    rewrite_documents(connection, table, column, primary_key=primary_key, rewrite=lambda found: renamed(found, keys))


def rewrite_documents(
    connection: sa.Connection, table: str, column: str, *, primary_key: Sequence[str], rewrite: Callable[[Any], Any]
) -> None:
    """Applies `rewrite` to every document in `table.column`; rows that it leaves as they are are not written."""
    known = sa.table(table, *map(sa.column, primary_key), sa.column(column, sa.JSON))
    columns = [known.c[name] for name in primary_key]
    after: tuple[Any, ...] | None = None
    while True:
        query = sa.select(*columns, known.c[column]).order_by(*columns).limit(ROWS_AT_ONCE)
        if after is not None:
            query = query.where(sa.tuple_(*columns) > sa.tuple_(*map(sa.literal, after)))
        rows = connection.execute(query).all()
        for *identity, document in rows:
            changed = rewrite(document)
            if json.dumps(changed) != json.dumps(document):
                matches = [one == value for one, value in zip(columns, identity, strict=True)]
                connection.execute(sa.update(known).where(*matches).values({column: changed}))
        if len(rows) < ROWS_AT_ONCE:
            return
        after = tuple(rows[-1][:-1])
