"""What superset_config.py has otherwise in the harness: the tasks that there are, and patience.

A quarter of a fleet's patience with databases would be too little where fleets share a machine.
"""

from typing import Any

CeleryConfig.imports = ("superset.sql_lab", "superset.tasks.async_queries")  # type: ignore[name-defined] # noqa: F821
PATIENCE = {"connect_timeout": 30}
SQLALCHEMY_ENGINE_OPTIONS["connect_args"] |= PATIENCE  # type: ignore[name-defined] # noqa: F821
SQLALCHEMY_ENGINE_OPTIONS["connect_args"].pop("connection_factory", None)  # type: ignore[name-defined] # noqa: F821


def DB_CONNECTION_MUTATOR(url: Any, options: dict[str, Any], *_: Any) -> Any:
    """Let a connection have time."""
    return url, {**options, "connect_args": PATIENCE}
