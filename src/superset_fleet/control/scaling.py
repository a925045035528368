"""What the leading scaler reported, as `fleet scale` and `fleet status` show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

# Seconds after which nobody is taken to lead: the scaler reports every two, and where one dies
# another one leads after six.
SILENT_SECONDS = 15.0


def leads(scaling: Mapping[str, Any]) -> bool:
    """Tell whether there is a scaler that decides."""
    silent = scaling["silent_seconds"]
    return silent is not None and silent < SILENT_SECONDS


def by_queue(scaling: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the worker groups by the queues that are their matter; none where nobody leads."""
    groups = scaling["groups"] if leads(scaling) else []
    return {queue: group for group in groups for queue in group["queues"]}


def served(queue: Mapping[str, Any], group: Mapping[str, Any] | None) -> bool:
    """Tell whether somebody takes a queue's tasks, or would be started to.

    `group` is the worker group whose matter it is, None where no scaler says so.
    """
    return bool(queue["workers"] or (group and not in_the_way(group)))


def shown(scaling: Mapping[str, Any]) -> str:
    """Return who decided what, and why, in lines; what needs a look begins with an exclamation."""
    return "\n".join(lines(scaling))


def lines(scaling: Mapping[str, Any]) -> Iterator[str]:
    """Yield these lines."""
    yield who(scaling)
    if scaling["trouble"]:
        yield f"! no group's size is changed: {scaling['trouble']}"
    if hold := scaling["hold"]:
        yield f"! held since {hold['since']}: {hold['reason']} (fleet scale --release)"
    for group in scaling["groups"]:
        yield line(group)
        if change := group["changed"]:
            yield f"    last change {when(change['at'])}: {change['why']}"


def who(scaling: Mapping[str, Any]) -> str:
    """Return which scaler said so, and when."""
    silent, host = scaling["silent_seconds"], scaling["scaler"]
    if silent is None:
        return "! no scaler has ever reported: systemctl status fleet-scaler, on a scheduler"
    if leads(scaling):
        return f"scaler on {host}, {silent:.0f} s ago:"
    return (
        f"! no scaler leads, so nothing is decided; what the one on {host} said {silent:.0f} s ago"
        " (systemctl status fleet-scaler, on a scheduler):"
    )


def in_the_way(group: Mapping[str, Any]) -> str:
    """Return why a group does not get its size, '' where it does."""
    return str(group["obstacle"] or group["refused"])


def line(group: Mapping[str, Any]) -> str:
    """Return what was decided about a worker group, with the numbers."""
    why = in_the_way(group)
    kept = f"; not done: {why}" if why else ""
    mark = "! " if why and group["wanted"] > group["desired"] else "  "
    return f"{mark}{group['name']}: {group['why']}{kept}"


def when(seconds: float) -> str:
    """Return a time of Redis."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
