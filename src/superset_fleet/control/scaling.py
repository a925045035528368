"""What the leading scaler reported, as `fleet scale` and `fleet status` show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..state.records import GroupReport, Report

# Seconds after which nobody is taken to lead: the scaler reports every two, and where one dies
# another one leads after six.
REPORT_SILENT_SECONDS = 15.0


@dataclass(frozen=True)
class Scaling:
    """The last report, and what has become of the scaler since."""

    report: Report
    silent_seconds: float | None  # since the report; None: there never was one
    hold: Mapping[str, str] | None = None  # of all groups: `reason`, and `since`, in UTC

    @property
    def leads(self) -> bool:
        """Whether there is a scaler that decides."""
        return self.silent_seconds is not None and self.silent_seconds < REPORT_SILENT_SECONDS


def scaling_of(said: Mapping[str, Any]) -> Scaling:
    """Return what the module `celery_workers` tells of the scaler."""
    return Scaling(Report.read(said), said["silent_seconds"], said["hold"])


def by_queue(scaling: Scaling) -> dict[str, GroupReport]:
    """Return by queue the worker group that scales for it; none where nobody leads."""
    groups = scaling.report.groups if scaling.leads else []
    return {queue: group for group in groups for queue in group.queues}


def has_takers(queue: Mapping[str, Any], group: GroupReport | None) -> bool:
    """Tell whether somebody takes a queue's tasks, or would be started to.

    `group` is the worker group that scales for it, None where no scaler says so.
    """
    return bool(queue["workers"] or (group and not group.in_the_way))


def shown(scaling: Scaling) -> str:
    """Return who decided what, and why, in lines; what needs a look begins with an exclamation."""
    return "\n".join(lines(scaling))


def lines(scaling: Scaling) -> Iterator[str]:
    """Yield these lines."""
    yield who(scaling)
    if scaling.report.trouble:
        yield f"! no group's size is changed: {scaling.report.trouble}"
    if hold := scaling.hold:
        yield f"! held since {hold['since']}: {hold['reason']} (fleet scale --release)"
    for group in scaling.report.groups:
        yield line(group)
        if change := group.changed:
            yield f"    last change {when(change.at)}: {change.why}"


def who(scaling: Scaling) -> str:
    """Return which scaler said so, and when."""
    silent, host = scaling.silent_seconds, scaling.report.scaler
    if silent is None:
        return "! no scaler has ever reported: systemctl status fleet-scaler, on a scheduler"
    if scaling.leads:
        return f"scaler on {host}, {silent:.0f} s ago:"
    return (
        f"! no scaler leads, so nothing is decided; what the one on {host} said {silent:.0f} s ago"
        " (systemctl status fleet-scaler, on a scheduler):"
    )


def line(group: GroupReport) -> str:
    """Return what was decided about a worker group, with the numbers."""
    kept = f"; not done: {group.in_the_way}" if group.in_the_way else ""
    mark = "! " if group.in_the_way and group.wanted > group.desired else "  "
    return f"{mark}{group.name}: {group.why}{kept}"


def when(seconds: float) -> str:
    """Return a time of Redis."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
