"""Addresses and secrets of a machine that runs a part of Superset, and the URLs made of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

# What each numbered database of the Redis instance `coordination` holds. The guard and the
# events of charts share one: a chart's last event and the removal of its job are one step.
BROKER, RATE_LIMITS, LOCKS, GUARD, SCHEDULE = range(5)


def load() -> Any:
    """Return the facts: from the file that $SUPERSET_FACTS names, else systemd's credential.

    Raises SystemExit, with what to do, where there is no such file or no JSON in it.
    """
    named = os.environ.get("SUPERSET_FACTS")
    path = Path(
        named or Path(os.environ.get("CREDENTIALS_DIRECTORY", "/run/credentials")) / "facts"
    )
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(
            f"The facts file {path} cannot be used: {type(error).__name__}: {error}. It is made "
            "from /etc/superset/facts.json by the unit (LoadCredential), or named by "
            "SUPERSET_FACTS."
        ) from error


def database_url(database: Mapping[str, Any]) -> str:
    """Return the URL of the metadata database, in SQLAlchemy's notation."""
    return "postgresql+psycopg2://{user}:{password}@{host}:{port}/{name}".format(
        **{key: quote(str(value), safe="") for key, value in database.items()}
    )


def redis_url(instance: Mapping[str, Any], database: int) -> str:
    """Return the URL of a numbered database of a Redis instance."""
    password = quote(instance["password"], safe="")
    return f"redis://:{password}@{instance['host']}:{instance['port']}/{database}"
