"""What can be wrong with a fleet's variables, found before any machine is touched.

Pure: variables in, sentences out. Each sentence names the variables, their values and the remedy.
Standard library only: Ansible ships this file with the module fleet_preflight.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..roles import FLEET, ROLES, SCALED, SCHEDULER, WEB, WORKER
from ..state.jobs import BROWSER_QUEUES, QUERY_QUEUES, QUEUES


@dataclass(frozen=True)
class Rung:
    """`lower` must stay at least `margin` seconds below `upper`, because of `reason`."""

    lower: str
    upper: str
    reason: str
    margin: int = 1


# The timeout ladder. Where two parties wait for the same thing, the one that can say what
# happened must give up first.
LADDER = (
    Rung(
        "superset_webserver_timeout_seconds",
        "superset_web_timeout_seconds",
        "a browser must give up before gunicorn kills the process that serves it",
    ),
    Rung(
        "superset_web_timeout_seconds",
        "haproxy_server_timeout_seconds",
        "HAProxy must not cut a request that gunicorn still allows",
    ),
    Rung(
        "haproxy_keepalive_seconds",
        "superset_web_keepalive_seconds",
        "HAProxy must let go of an idle connection before gunicorn closes it",
    ),
    Rung(
        "haproxy_notice_seconds",
        "superset_web_drain_seconds",
        "a web server must go on serving until HAProxy has noticed that it stops",
    ),
    Rung(
        "superset_web_drain_seconds",
        "superset_web_stop_timeout_seconds",
        "systemd must not stop a web server before HAProxy has noticed that it stops",
    ),
    Rung(
        "superset_web_graceful_timeout_seconds",
        "superset_web_stop_timeout_seconds",
        "systemd must not kill gunicorn while it finishes its last requests",
    ),
    Rung(
        "superset_query_timeout_seconds",
        "superset_query_hard_timeout_seconds",
        "a worker needs a minute to record that a query was too slow before it is killed",
        margin=60,
    ),
    Rung(
        "superset_query_hard_timeout_seconds",
        "celery_worker_stop_timeout_seconds",
        "systemd must not kill a worker while it finishes its last query",
    ),
    Rung(
        "celery_worker_stop_timeout_seconds",
        "fleet_leave_longest_seconds",
        "a group must not terminate a machine whose worker finishes its last query; AWS waits for"
        " 100 times fleet_leave_timeout_seconds, but for 48 hours at most",
        margin=60,
    ),
    Rung(
        "superset_web_stop_timeout_seconds",
        "fleet_leave_timeout_seconds",
        "a group must not terminate a machine whose web server finishes its last requests, even"
        " where no heartbeat reaches it",
        margin=60,
    ),
    Rung(
        "superset_query_hard_timeout_seconds",
        "superset_visibility_timeout_seconds",
        "the broker must not hand a query that still runs to a second worker",
    ),
    Rung(
        "superset_query_hard_timeout_seconds",
        "superset_results_ttl_seconds",
        "results must outlive the slowest query, or its user finds nothing",
    ),
)

# Connections to the metadata database that one machine of a group can hold, as products.
WEB_POOLS = ("superset_web_processes", "superset_web_threads", "superset_web_max_overflow")
WORKER_POOLS = (
    "celery_worker_concurrency",
    "celery_worker_pool_size",
    "celery_worker_max_overflow",
)
READY = 1  # of a web process, beside its pool: whether the database answers
WATCHDOG = 2  # of the watchdog, beside beat's
BUDGET = ("postgres_max_connections", "postgres_reserved_connections", "fleet_surge")

# Every variable that `violations` reads.
SETTINGS = (
    *dict.fromkeys(name for step in LADDER for name in (step.lower, step.upper)),
    *WEB_POOLS,
    *WORKER_POOLS,
    *BUDGET,
)

SCALINGS = ("scaler", "cloud", "none")


def violations(settings: Mapping[str, Any], machines: Mapping[str, int]) -> list[str]:
    """Return what the timeouts and the connections break.

    `settings` holds the variables named in SETTINGS, durations in seconds. `machines` is the
    largest number of machines that each group can have, without those that a rolling replacement
    adds (`fleet_surge`).
    """
    numbers, found = numeric(settings)
    for step in LADDER:
        if step.lower not in numbers or step.upper not in numbers:
            continue
        lower, upper = numbers[step.lower], numbers[step.upper]
        if lower + step.margin > upper:
            least = lower + step.margin
            found.append(
                f"{step.upper} ({upper}) must be at least {least}, which is {step.lower}"
                f" ({lower}) + {step.margin}: {step.reason}."
                f" Raise {step.upper} or lower {step.lower}."
            )
    if set(numbers) >= {*WEB_POOLS, *WORKER_POOLS, *BUDGET}:
        found += overdraft(numbers, machines)
    return found


def numeric(settings: Mapping[str, Any]) -> tuple[dict[str, int], list[str]]:
    """Return the settings that are whole numbers, and a sentence for each that is not."""
    numbers, found = {}, []
    for name in SETTINGS:
        value = settings.get(name)
        try:
            numbers[name] = int(str(value))
        except ValueError:
            said = "is not set" if value is None else f"is {value!r}"
            found.append(f"{name} {said}: it must be a whole number.")
    return numbers, found


def overdraft(numbers: Mapping[str, int], machines: Mapping[str, int]) -> list[str]:
    """Return a sentence if the largest fleet can open more connections than PostgreSQL takes."""
    processes, threads, web_overflow = (numbers[name] for name in WEB_POOLS)
    concurrency, pool, overflow = (numbers[name] for name in WORKER_POOLS)
    each = {
        WEB: processes * (threads + web_overflow + READY),
        WORKER: (concurrency + 1) * (pool + overflow),
        SCHEDULER: pool + overflow + WATCHDOG,
    }
    limit, reserved, surge = (numbers[name] for name in BUDGET)
    most = {group: machines.get(group, 0) + surge for group in each}
    total = sum(most[group] * each[group] for group in each)
    if total <= limit - reserved:
        return []
    sums = ", ".join(f"{most[group]} {group} with {each[group]} each" for group in each)
    return [
        f"the largest fleet opens {total} connections to the metadata database ({sums}; fleet_surge"
        f" ({surge}) is in each number of machines), but postgres_max_connections ({limit}) -"
        f" postgres_reserved_connections ({reserved}) leaves {limit - reserved}. Raise"
        f" postgres_max_connections to {total + reserved}, or lower the largest size of a group,"
        f" {', '.join((*WEB_POOLS, *WORKER_POOLS))}."
    ]


def empty_groups(
    sizes: Mapping[str, int], postgres_address: str, cloud: bool, idle: Collection[str] = ()
) -> list[str]:
    """Return a sentence for each group that the fleet needs and that has no machine.

    PostgreSQL may be elsewhere: then `postgres_address` is given and its group may be empty.
    Those that are `idle` may be empty, too. The group `fleet` holds the machines of all groups:
    plays over all of them look there.
    """
    remedy = "run playbooks/provision.yml" if cloud else "add a machine to it in the inventory"
    found = [
        f"group {group} has no machine: {remedy}"
        + (", or give postgres_address if the database is elsewhere." if elsewhere else ".")
        for group in ROLES
        if not sizes.get(group) and group not in idle
        for elsewhere in [group == "postgres"]
        if not (elsewhere and postgres_address)
    ]
    if not found and not sizes.get(FLEET):
        found.append(
            f"group {FLEET} has no machine: make it the parent of the groups of roles, as"
            " inventory/static.example.yml does."
        )
    return found


def idle_roles(groups: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the roles of scaling groups that may have no machine at all for a while."""
    least: dict[str, int] = {}
    for name, group in groups.items():
        role = role_of(name, group)
        least[role] = least.get(role, 0) + int(group["min"])
    return {role for role, machines in least.items() if not machines}


def most_machines(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Return the largest number of machines that each role's scaling groups have together."""
    most: dict[str, int] = {}
    for name, group in groups.items():
        role = role_of(name, group)
        most[role] = most.get(role, 0) + int(group["max"])
    return most


def role_of(name: str, group: Mapping[str, Any]) -> str:
    """Return the role of a group's machines."""
    return str(group.get("role", name))


def faulty_groups(groups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what is wrong with the groups that scale, as fleet_groups has them."""
    found = []
    for name, group in groups.items():
        role, where = role_of(name, group), f"fleet_groups: {name}"
        if role not in SCALED:
            found.append(f"{where} has role {role}: give it one of {', '.join(SCALED)}.")
        sizes = [int(group[size]) for size in ("min", "desired", "max")]
        if sorted(sizes) != sizes:
            found.append(
                f"{where} has min {sizes[0]}, desired {sizes[1]}, max {sizes[2]}:"
                " none may be larger than the next."
            )
        if role != WORKER and {"queues", "scaling"} & {*group}:
            found.append(f"{where} has queues or scaling: only groups of workers have these.")
        if group.get("scaling", SCALINGS[0]) not in SCALINGS:
            found.append(
                f"{where} has scaling {group['scaling']}: give it one of {', '.join(SCALINGS)}."
            )
    return found


def takers(
    groups: Mapping[str, Mapping[str, Any]], queues: Collection[str]
) -> dict[str, Collection[str]]:
    """Return what each worker group that may have machines takes tasks from.

    Those without queues of their own take from `queues`.
    """
    return {
        name: taken
        for name, group in groups.items()
        if (taken := queues_of(name, group, queues)) is not None and int(group["max"])
    }


def queues_of(
    name: str, group: Mapping[str, Any], queues: Collection[str]
) -> Collection[str] | None:
    """Return what a group takes tasks from, by default `queues`; None where it has no workers."""
    return group.get("queues", queues) if role_of(name, group) == WORKER else None


def misplaced_queues(taken: Mapping[str, Collection[str]], browser: bool, slots: int) -> list[str]:
    """Return what is wrong with who takes tasks from which queues.

    `taken` holds the queues of each worker group or machine, `browser` tells whether workers have
    Chromium, `slots` is how many tasks each of them runs at a time.
    """
    found = []
    for name, queues in taken.items():
        if unknown := [queue for queue in queues if queue not in QUEUES]:
            found.append(
                f"{name} takes tasks from {' and '.join(unknown)}, which nothing is sent to: the"
                f" queues are {', '.join(QUEUES)}."
            )
        rendered = [queue for queue in BROWSER_QUEUES if queue in queues]
        if rendered and not browser:
            found.append(
                f"{name} takes tasks from {' and '.join(rendered)}, which need Chromium, and has"
                " none: set superset_browser_enabled: true, or take them off its queues."
            )
        if rendered and slots < 2 and set(QUERY_QUEUES) & {*queues}:
            found.append(
                f"{name} takes queries and tasks from {' and '.join(rendered)}, one at a time, so"
                " that a report holds up queries: raise celery_worker_concurrency to 2, or give"
                " these queues to workers of their own."
            )
    needed = [queue for queue in QUEUES if browser or queue not in BROWSER_QUEUES]
    served = {queue for queues in taken.values() for queue in queues}
    return found + [
        f"no worker takes tasks from the queue {queue}: add it to celery_worker_queues, or to the"
        " queues of a group in fleet_groups."
        for queue in needed
        if queue not in served
    ]


def never_woken(
    groups: Mapping[str, Mapping[str, Any]], queues: Collection[str], policy: str
) -> list[str]:
    """Return which queues of queries may lose their last worker, and then never get one.

    For a query that finds no worker fails unless it may wake one, and so nothing waits that would
    bring a machine. `queues` are those of groups without queues of their own.
    """
    empty = {
        name
        for name, group in groups.items()
        if int(group["min"]) == 0 and group.get("scaling") != "none"
    }
    found = []
    for queue in QUERY_QUEUES if policy != "wake" else ():
        names = [name for name, taken in takers(groups, queues).items() if queue in taken]
        if names and empty.issuperset(names):
            found.append(
                f"fleet_groups: {' and '.join(names)} may have no machine (min: 0), and without one"
                f" each task for {queue} fails, so none is ever started for it: set"
                " superset_no_worker_policy: wake, or min: 1."
            )
    return found


def missing_secrets(
    needed: Iterable[str], names: Collection[str], empty: Collection[str], cloud: bool
) -> list[str]:
    """Return a sentence for each needed secret that is not among the names, or is empty."""
    remedy = (
        "run playbooks/provision.yml, which makes those that are missing"
        if cloud
        else "set it with ansible-vault, for example in group_vars/all/vault.yml"
    )
    return [
        f"secret {name} has no value: {remedy}."
        for name in sorted(needed)
        if name not in names or name in empty
    ]


# What variables and their values were called before version 0.2.0.
FORMER_PREFIXES = {"fleetd_": "membership_"}
FORMER = {
    "haproxy_fleetd_port": "haproxy_membership_port",
    "superset_guard_reruns": "watchdog_reruns",
    "superset_worker_wake_timeout_seconds": "watchdog_wake_timeout_seconds",
}
FORMER_VALUES = {("haproxy_membership", "fleetd"): "daemon"}


def unknown_variables(
    names: Iterable[str], known: Collection[str], prefixes: Collection[str]
) -> list[str]:
    """Return a sentence for each name with a prefix of the fleet that nothing in it reads."""
    found = []
    for name in sorted({*names} - {*known}):
        if name.startswith(tuple(prefixes)):
            found.append(f"variable {name} is read by nothing in the fleet: {advice(name, known)}")
    return found


def advice(name: str, known: Collection[str]) -> str:
    """Return what to do about a variable that nothing reads."""
    for old, new in FORMER_PREFIXES.items():
        if name.startswith(old):
            return f"rename it to {new}{name.removeprefix(old)}."
    if name in FORMER:
        return f"rename it to {FORMER[name]}."
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f"did you mean {close[0]}?" if close else "remove it."


def former_values(settings: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each setting that has a value of an earlier version."""
    return [
        f"{name} ({old}): its value {old} is {new} now."
        for (name, old), new in FORMER_VALUES.items()
        if settings.get(name) == old
    ]
