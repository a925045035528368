"""See superset."""

import sqlglot
from sqlglot import exp

from superset.exceptions import SupersetParseError

SQLGLOT_DIALECTS = {"postgresql": "postgres"}
MUTATIONS = exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Drop, exp.TruncateTable


class SQLScript:
    """Statements."""

    def __init__(self, script: str, engine: str) -> None:
        try:
            self.statements = [
                each for each in sqlglot.parse(script, dialect=SQLGLOT_DIALECTS[engine]) if each
            ]
        except sqlglot.errors.ParseError as error:
            raise SupersetParseError(str(error)) from error

    def has_mutation(self) -> bool:
        """Return whether one of them changes something."""
        return any(statement.find(*MUTATIONS) for statement in self.statements)
