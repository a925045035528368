"""The ledger of a fleet's metadata database: every change of a query's state."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tests.support.history import CREATE, DROP, Change, History

from .machines import Machine


class Ledger:
    """The ledger in the metadata database; `postgres` is its machine."""

    def __init__(self, postgres: Machine) -> None:
        self.postgres = postgres

    def sql(self, text: str, database: str = "superset") -> str:
        """Run SQL as the database's owner."""
        psql = f"sudo -u postgres psql --no-psqlrc --quiet -At -v ON_ERROR_STOP=1 -d {database}"
        return self.postgres.run(f"cd /; {psql} <<'SQL'\n{text}\nSQL")

    def rows(self, text: str, database: str = "superset") -> list[dict[str, Any]]:
        """Return the rows of a select."""
        found = self.sql(f"select coalesce(json_agg(t), '[]') from ({text}) t", database)
        return list(json.loads(found))

    def open(self) -> None:
        """Begin to write down."""
        self.sql(f"begin; {DROP} {CREATE} commit;")

    def close(self) -> None:
        """Forget what was written down, and leave the database as it was."""
        self.sql(DROP)

    def histories(self, client_ids: Iterable[str] | None = None) -> dict[str, History]:
        """Return what became of queries, of all or of some, by the ids that their users gave."""
        chosen = ", ".join(f"'{each}'" for each in client_ids or [])
        where = f"where client_id in ({chosen})" if chosen else ""
        columns = ", ".join(Change._fields)
        found: dict[str, History] = {each: History() for each in client_ids or []}
        for row in self.rows(f"select {columns} from ledger.changes {where} order by number"):
            found.setdefault(row["client_id"], History()).append(Change(**row))
        return found

    def ends(self, client_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return status and error of queries as they stand in Superset's table."""
        chosen = ", ".join(f"'{each}'" for each in client_ids)
        columns = "client_id, id, status, error_message"
        text = f"select {columns} from query where client_id in ({chosen})"
        return {row["client_id"]: row for row in self.rows(text)} if chosen else {}
