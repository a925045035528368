"""A fault of one release of Superset, which is mended here until there is a newer one."""

from __future__ import annotations

import functools
from typing import Any

RELEASE = "6.1.0"


def mend(app: Any) -> None:
    """Let what builds a chart's SQL work on a copy of the chart's ORDER BY.

    Superset 6.1.0 writes the SQL of a metric that it sorts by back into the chart's request, as its
    parser has rewritten it. A chart's key in the cache is made of that request: a worker keeps the
    data under the key from before, and a web machine looks for them under the one from after.
    Newer releases copy (Superset's pull request 40993).
    """
    if app.config.get("VERSION_STRING") == RELEASE:
        from superset.models.helpers import ExploreMixin

        if not hasattr(ExploreMixin.get_sqla_query, "__wrapped__"):
            ExploreMixin.get_sqla_query = copying(ExploreMixin.get_sqla_query)


def copying(original: Any) -> Any:
    """Return a `get_sqla_query` that leaves its ORDER BY as it is."""

    @functools.wraps(original)
    def get_sqla_query(self: Any, *, orderby: Any = None, **kwargs: Any) -> Any:
        copied = [
            (dict(column) if isinstance(column, dict) else column, ascending)
            for column, ascending in orderby or []
        ]
        return original(self, orderby=copied, **kwargs)

    return get_sqla_query
