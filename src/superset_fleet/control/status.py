"""`fleet status`: what the cloud, HAProxy and the workers say of the fleet, on one screen.

Each is asked for itself. What one of them does not say is named as a gap; the rest is shown.
"""

from __future__ import annotations

import base64
import csv
import functools
import http.client
import io
import re
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from ..cloud import client as aws
from ..cloud import groups as cloud
from ..roles import ROLES, SCHEDULER, WEB, WORKER
from ..state.records import GroupReport
from . import scaling
from .ask import AnsibleFailed, run_module, template
from .tables import columns

EVENTS = 8  # the newest that are shown
STATS_SECONDS = 3.0  # for HAProxy's answer
REFRESH_SECONDS = 2.0  # between two screens
CLEAR = "\033[H\033[2J"  # the terminal
BACKEND = "superset_web"
# What a machine's variables say that are needed to ask the others. Each host sees its own.
KNOWN = """{
  'address': private_address, 'groups': group_names,
  'fleet': fleet_name | default(''), 'region': fleet_region | default(''),
  'config_file': fleet_aws_config_file | default(''),
  'environment': fleet_environment | default(''),
  'statistics': [haproxy_stats_port, haproxy_stats_user, haproxy_stats_password]
                if 'haproxy' in group_names else []}"""

COORDINATION = "{{ superset_facts.redis.coordination }}"
SUPERSET_PYTHON = "{{ superset_python }}"

Line = tuple[bool, list[str]]  # of a table: whether all is well, and the cells


class NotAnswered(Exception):
    """One of those who were asked did not answer; the message says who, and what to do."""


class Host(NamedTuple):
    """A machine of the inventory."""

    name: str
    address: str
    groups: list[str]
    statistics: list[Any]  # of HAProxy: port, user, password


class Inventory(NamedTuple):
    """What Ansible knows."""

    hosts: list[Host]
    fleet: str
    region: str
    config_file: str
    environment: str  # "": no cloud, machines that stand by themselves


# -- Who is asked ---------------------------------------------------------------------------------
def inventory() -> Inventory:
    """Ask Ansible. Raises AnsibleFailed."""
    said = template("all:!localhost", KNOWN)
    hosts = [
        Host(name, str(one["address"]), list(one["groups"]), list(one["statistics"]))
        for name, one in said.items()
    ]
    any_one = next(iter(said.values()))
    about = (any_one[key] for key in ("fleet", "region", "config_file", "environment"))
    return Inventory(hosts, *about)


def ask_cloud(known: Inventory) -> dict[str, Any]:
    """Return groups, instances, and the groups' last events. Raises aws.AwsError."""
    session = aws.session(Path(known.config_file) if known.config_file else None, every_call=True)
    mine = [{"Name": "tag:fleet", "Values": [known.fleet]}]
    with aws.explained(known.region):
        scaling, ec2 = (aws.client(session, name, known.region) for name in ("autoscaling", "ec2"))
        groups = cloud.groups(scaling, fleet=known.fleet)
        machines = [
            machine
            for page in aws.pages(ec2.describe_instances, Filters=mine)
            for reservation in page["Reservations"]
            for machine in reservation["Instances"]
        ]
        ids = sorted({machine["ImageId"] for machine in machines})
        # By a filter: to name an image that was removed meanwhile is an error.
        named = [{"Name": "image-id", "Values": ids}]
        images = ec2.describe_images(Filters=named)["Images"] if ids else []
        activities = [
            activity
            for group in groups
            for activity in scaling.describe_scaling_activities(
                AutoScalingGroupName=group.name, MaxRecords=EVENTS
            )["Activities"]
        ]
    return {
        "groups": [group_shown(group) for group in groups],
        "instances": instances_of(groups, machines, images),
        "events": events_of(activities),
    }


def ask_haproxy(host: Host) -> dict[str, Any]:
    """Return what a HAProxy says of its servers, by their names. Raises NotAnswered."""
    port, user, password = host.statistics
    where = f"http://{host.address}:{port}/;csv"
    key = base64.b64encode(f"{user}:{password}".encode()).decode()
    request = urllib.request.Request(where, headers={"Authorization": f"Basic {key}"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            request, timeout=STATS_SECONDS
        ) as answer:
            text = answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        why = error.reason if isinstance(error, urllib.error.URLError) else error
        raise NotAnswered(
            f"HAProxy on {host.name} ({where}): {why}: is this machine in fleet_control, and "
            "haproxy running (systemctl status haproxy)?"
        ) from error
    return servers_of(text)


def ask_workers() -> dict[str, Any]:
    """Return what the module celery_workers does. Raises AnsibleFailed."""
    options = {"redis": COORDINATION}
    results = run_module(f"{SCHEDULER}[0]", "celery_workers", options, python=SUPERSET_PYTHON)
    result = next(iter(results.values()))
    return {key: result[key] for key in ("workers", "queues", "scaling")}


# -- What they said, in one form ------------------------------------------------------------------
def group_shown(group: cloud.Group) -> dict[str, Any]:
    """Return what is shown of an auto-scaling group."""
    return {
        "name": group.name,
        "role": group.tags.get("role", ""),
        "min": group.min,
        "desired": group.desired,
        "max": group.max,
        "in_service": sum(one.lifecycle == "in_service" for one in group.members),
    }


def instances_of(
    groups: Iterable[cloud.Group],
    machines: Iterable[Mapping[str, Any]],
    images: Iterable[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return the fleet's instances; of those that are gone, only the ones still in a group."""
    members = {one.id: (group.name, one) for group in groups for one in group.members}
    known = {image["ImageId"]: image for image in images}
    found = []
    for machine in machines:
        name, state = machine["InstanceId"], machine["State"]["Name"]
        group, member = members.get(name, (None, None))
        if not member and state == "terminated":
            continue
        image = known.get(machine["ImageId"], {})
        found.append(
            {
                "id": name,
                "role": cloud.tags_of(machine.get("Tags", ())).get("role", ""),
                "group": group,
                "state": member.state if member else state,
                "healthy": member.healthy if member else True,
                "address": machine.get("PrivateIpAddress", ""),
                "zone": machine["Placement"]["AvailabilityZone"],
                "image": image.get("Name", machine["ImageId"]),
                "version": cloud.tags_of(image.get("Tags", ())).get("superset_version", ""),
                "since": stamp(machine["LaunchTime"]),
            }
        )
    return found


def events_of(activities: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the newest scaling activities, newest first."""
    newest = sorted(activities, key=lambda one: one["StartTime"], reverse=True)[:EVENTS]
    return [
        {
            "at": stamp(one["StartTime"]),
            "group": one["AutoScalingGroupName"],
            "text": one["Description"],
            "status": one["StatusCode"],
            "why": one.get("StatusMessage") or reason(one["Cause"]),
        }
        for one in newest
    ]


def reason(cause: str) -> str:
    """Return the first sentence of a cause, without its time, which the event has."""
    return re.sub(r"^At \S+ ", "", cause.split("  ")[0]).rstrip(".")


def stamp(moment: datetime) -> str:
    """Return a time as it is written everywhere here: UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def servers_of(text: str) -> dict[str, Any]:
    """Return HAProxy's servers: how they are, and how many requests they have."""
    lines = csv.DictReader(io.StringIO(text.removeprefix("# ")))
    return {
        line["svname"]: {
            "state": line["status"].lower(),
            "check": " ".join(
                word
                for word in (line["check_status"], line["check_code"], line["last_chk"])
                if word
            ),
            "requests": int(line["scur"]),
            "served": int(line["stot"]),
        }
        for line in lines
        if line["pxname"] == BACKEND and line["svname"] not in ("FRONTEND", "BACKEND")
    }


def plain_machines(hosts: Iterable[Host]) -> list[dict[str, Any]]:
    """Return the machines of an inventory without a cloud in the form of instances."""
    return [
        {
            "id": host.name,
            "role": " ".join(roles_of(host)),
            "group": None,
            "state": "",
            "healthy": True,
            "address": host.address,
            "zone": "",
            "image": "",
            "version": "",
            "since": "",
        }
        for host in hosts
    ]


def gather(known: Inventory | None = None) -> dict[str, Any]:
    """Ask everybody at the same time; return what they said, and in `gaps` who did not answer.

    Whoever does not know the inventory asks for that, too. Raises AnsibleFailed when there is none.
    """
    gaps: list[str] = []

    def answer(ask: Callable[[], Any], nothing: Any) -> Any:
        try:
            return ask()
        except (NotAnswered, aws.AwsError, AnsibleFailed) as error:
            gaps.append(str(error))
            return nothing

    with ThreadPoolExecutor(max_workers=8) as pool:
        workers = pool.submit(answer, ask_workers, {"workers": [], "queues": [], "scaling": None})
        known = known or inventory()
        balancers = [host for host in known.hosts if host.statistics]
        no_cloud = {"groups": [], "instances": plain_machines(known.hosts), "events": []}
        balanced = {
            host.name: pool.submit(answer, functools.partial(ask_haproxy, host), None)
            for host in balancers
        }
        cloud = no_cloud
        if known.environment:
            cloud = answer(functools.partial(ask_cloud, known), no_cloud)
    return {
        "fleet": known.fleet,
        "environment": known.environment,
        "at": stamp(datetime.now(UTC)),
        **cloud,
        "haproxy": {name: future.result() for name, future in balanced.items()},
        **workers.result(),
        "gaps": gaps,
    }


def named(machines: Iterable[tuple[str, Sequence[str]]]) -> dict[str, str]:
    """Return what machines are called, `superset_web 2`, as `fleet ssh` knows them.

    `machines` are the names and roles of those that can take work, in the inventory's order.
    """
    counts: Counter[str] = Counter()
    called = {}
    for name, roles in machines:
        counts.update(roles)
        called[name] = ", ".join(f"{role} {counts[role]}" for role in roles)
    return called


def name_instances(instances: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what instances are called; those that take no work have a role and no number."""
    able = [one for one in instances if one["healthy"] and in_service(one)]
    if any(one["state"] for one in able):
        able.sort(key=lambda one: str(one["id"]))  # so are they in the inventory of a cloud
    called = named((one["id"], one["role"].split()) for one in able)
    return {one["id"]: called.get(one["id"], one["role"]) for one in instances}


def name_hosts(hosts: Iterable[Host]) -> dict[str, str]:
    """Return what the machines of an inventory are called."""
    return named((host.name, roles_of(host)) for host in hosts)


def roles_of(host: Host) -> list[str]:
    return [role for role in ROLES if role in host.groups]


def in_service(instance: Mapping[str, Any]) -> bool:
    """Return whether an instance is; machines that no cloud has have no state."""
    return not instance["state"] or cloud.lifecycle_of(instance["state"]) == "in_service"


# -- The screen -----------------------------------------------------------------------------------
def older(instances: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return those of the groups' instances whose image is not the newest one of their role."""
    images: dict[str, set[str]] = {}
    for one in instances:
        if one["group"]:
            images.setdefault(one["role"], set()).add(one["image"])
    return {
        one["id"] for one in instances if one["group"] and one["image"] != max(images[one["role"]])
    }


def doing(state: Mapping[str, Any], instance: Mapping[str, Any]) -> tuple[str, bool]:
    """Return in words how an instance does its work, and whether that is as it should be."""
    if WEB in instance["role"].split():
        return serving(state["haproxy"], instance["id"])
    if instance["role"] == WORKER and instance["group"]:
        return working(state["workers"], instance["address"])
    return "", True


def serving(balancers: Mapping[str, Any], name: str) -> tuple[str, bool]:
    """Return what the load balancers do with a web instance; where they agree, once."""
    words: list[str] = []
    well = True
    for servers in balancers.values():
        if servers is None:
            continue  # it did not answer, which the gaps say
        server = servers.get(name)
        up = server is not None and server["state"].startswith("up")
        well = well and up
        if server is None:
            words.append("not in HAProxy")
            continue
        said = server["state"] + (f", {server['requests']} requests" if server["requests"] else "")
        words.append(said if up else f"{said} ({server['check']})")
    if not words:
        return "?", False
    return "; ".join(dict.fromkeys(words)), well


def address_of(worker: str) -> str:
    """Return the address of a worker's machine, by its name: AWS names hosts by address."""
    found = re.match(r"worker@ip-(\d+-\d+-\d+-\d+)(?:\.|#|$)", worker)
    return found[1].replace("-", ".") if found else ""


def working(workers: Sequence[Mapping[str, Any]], address: str) -> tuple[str, bool]:
    """Return what the worker on an instance of a group does."""
    mine = [worker for worker in workers if address_of(worker["name"]) == address]
    if not mine:
        return "no worker heard", False
    worker = max(mine, key=lambda one: -float(one["silent_seconds"]))
    if worker["silent"]:
        return f"silent for {worker['silent_seconds']:.0f} s", False
    if worker["stuck_seconds"]:
        return f"stuck for {worker['stuck_seconds']:.0f} s", False
    said = f"{worker['tasks']} of {worker['slots']} slots busy"
    return (f"draining, {said}", False) if worker["draining"] else (said, True)


def screen(state: Mapping[str, Any]) -> str:
    """Return the state as tables; a line that needs a look begins with an exclamation mark."""
    where = state["environment"] or "no cloud"
    scaler = scaling.scaling_of(state["scaling"]) if state["scaling"] else None
    groups = scaling.by_queue(scaler) if scaler else {}
    parts = [
        " ".join(filter(None, ["fleet", state["fleet"], f"({where})", state["at"]])),
        "\n".join(f"! not known: {gap}" for gap in state["gaps"]),
        table(("GROUP", "IN SERVICE", "DESIRED", "MIN", "MAX"), map(group_line, state["groups"])),
        table(
            ("INSTANCE", "MACHINE", "STATE", "ADDRESS", "VERSION", "IMAGE", "SINCE", "WORK"),
            instance_lines(state),
        ),
        table(
            ("QUEUE", "WAITING", "TAKEN", "WORKERS", "SLOTS", "GROUP", "DESIRED"),
            (queue_line(queue, groups.get(queue["name"])) for queue in state["queues"]),
        ),
        scaling.shown(scaler) if scaler else "",
        table(("AT", "GROUP", "LAST EVENTS", "WHY"), map(event_line, state["events"])),
    ]
    return "\n\n".join(part for part in parts if part)


def table(heads: Sequence[str], lines: Iterable[Line]) -> str:
    """Return a table whose lines are marked unless all is well; nothing where there are none."""
    marked = [("" if well else "!", *cells) for well, cells in lines]
    return columns([("", *heads), *marked]) if marked else ""


def group_line(group: Mapping[str, Any]) -> Line:
    """Return a group, which is well when it has the machines that it wants."""
    cells = [group["name"], *(str(group[key]) for key in ("in_service", "desired", "min", "max"))]
    return group["in_service"] == group["desired"], cells


def instance_lines(state: Mapping[str, Any]) -> Iterator[Line]:
    """Yield the instances, role by role, which are well when they work, from the newest image."""
    old = older(state["instances"])
    places = {role: place for place, role in enumerate(ROLES)}
    called = name_instances(state["instances"])

    def place(one: Mapping[str, Any]) -> tuple[int, int, str]:
        # By number, and last those that have none.
        words = called[one["id"]].split()
        number = int(words[-1]) if words and words[-1].isdigit() else len(called) + 1
        return places.get(one["role"], len(places)), number, one["since"]

    for one in sorted(state["instances"], key=place):
        work, working_well = doing(state, one)
        well = working_well and one["healthy"] and in_service(one)
        cells = [
            one["id"],
            called[one["id"]],
            one["state"] + ("" if one["healthy"] else ", unhealthy"),
            one["address"],
            one["version"],
            one["image"] + (" (older)" if one["id"] in old else ""),
            one["since"],
            work,
        ]
        yield well and one["id"] not in old, [cell or "-" for cell in cells]


def queue_line(queue: Mapping[str, Any], group: GroupReport | None) -> Line:
    """Return a queue, and the worker group that scales for it if a scaler says so."""
    cells = [queue["name"], *(str(queue[key]) for key in ("waiting", "taken", "workers", "slots"))]
    cells += [group.name, str(group.desired)] if group else ["-", "-"]
    return scaling.has_takers(queue, group), cells


def event_line(event: Mapping[str, Any]) -> Line:
    """Return an event of a group, which is well unless it failed."""
    cells = [event[key] for key in ("at", "group", "text", "why")]
    return event["status"] not in ("Failed", "Cancelled"), cells


def watch(show: Callable[[], str]) -> None:
    """Show it again and again, in place, until interrupted."""
    try:
        while True:
            print(f"{CLEAR}{show()}", flush=True)
            time.sleep(REFRESH_SECONDS)
    except KeyboardInterrupt:
        print()
