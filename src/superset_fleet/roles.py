"""The roles of the machines of a fleet, in the order in which they are shown. Imports nothing.

A role is the tag `role` of an instance, an inventory group, and what `fleet_roles` installs there.
"""

from __future__ import annotations

from typing import NamedTuple


class Role(NamedTuple):
    """What is known of the machines of a role without asking anyone."""

    unit: str = ""  # of systemd, where one service does the role's work
    scales: bool = False  # they are members of auto-scaling groups
    drains: bool = False  # they can be told to take no more work and to finish what they have

    @property
    def directory(self) -> str:
        """The unit's runtime directory, which lives as long as the unit runs."""
        return f"/run/{self.unit}"


FLEET = "fleet"  # the inventory group of all machines that can take work
WEB, WORKER, SCHEDULER = "superset_web", "celery_worker", "scheduler"
ROLES = {
    "haproxy": Role("haproxy"),
    WEB: Role("superset-web", scales=True, drains=True),
    WORKER: Role("celery-worker", scales=True, drains=True),
    SCHEDULER: Role("celery-beat", scales=True),
    "redis": Role(),
    "postgres": Role("postgresql@15-main"),
}
DRAINING = "draining"  # the file in a unit's directory that tells it to drain
SCALED = tuple(name for name, role in ROLES.items() if role.scales)
DRAINABLE = tuple(name for name, role in ROLES.items() if role.drains)
