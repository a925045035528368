"""The command line `fleet`: what an operator asks a running fleet."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..roles import DRAINABLE, DRAINING, ROLES, SCHEDULER, WEB, WORKER
from . import scaling
from .ask import AnsibleFailed, run_module, template, variables
from .status import (
    COORDINATION,
    SUPERSET_PYTHON,
    Host,
    NotAnswered,
    address_of,
    ask_haproxy,
    ask_workers,
    gather,
    inventory,
    name_hosts,
    screen,
    watch,
)
from .tables import columns


def facts(*names: str) -> dict[str, Any]:
    """Return variables as the first load balancer sees them."""
    return next(iter(variables("haproxy[0]", list(names)).values()))


def access(_: argparse.Namespace) -> None:
    """Print where Superset is and how to log in."""
    print(
        f"""
  Superset   {facts("superset_url")["superset_url"]}
  user       admin
  password   ./fleet password

  Try next:  ./fleet query "select origin, count(*) from flights group by origin"
             ./fleet query "select warehouse.slow(20)"    # and look at SQL > Query history
             .venv/bin/ansible-playbook playbooks/site.yml     # changes nothing
             ./fleet down
"""
    )


def password(_: argparse.Namespace) -> None:
    """Print the admin's password."""
    print(facts("superset_admin_password")["superset_admin_password"])


def query(arguments: argparse.Namespace) -> None:
    """Run a query as a user would and print its rows."""
    options = {
        "url": "{{ superset_url }}",
        "password": "{{ superset_admin_password }}",
        "ca_certificate": "{{ haproxy_ca_certificate }}",
        "database": arguments.database,
        "sql": arguments.sql,
        "timeout": arguments.timeout,
    }
    result = next(iter(run_module("haproxy[0]", "superset_query", options).values()))
    print("\t".join(result["columns"]))
    for row in result["rows"]:
        print("\t".join(str(row[column]) for column in result["columns"]))
    seconds = ", ".join(f"{what} {value}" for what, value in result["seconds"].items())
    said = f"-- {len(result['rows'])} rows from worker {result['worker']}; seconds: {seconds}"
    print(said, file=sys.stderr)


def workers(arguments: argparse.Namespace) -> None:
    """Show who takes tasks from which queues, since when, and what they run."""
    if arguments.json:
        print(json.dumps(ask_workers(), indent=2))
        return
    with ThreadPoolExecutor() as pool:
        state, known = pool.submit(ask_workers), pool.submit(inventory)
    hosts = known.result().hosts
    called = name_hosts(hosts)
    print(tables(state.result(), {host.address: called[host.name] for host in hosts}))


def tables(state: dict[str, Any], machines: Mapping[str, str]) -> str:
    """Return workers and queues as tables; marked is who takes no tasks, and what nobody takes.

    `machines` says what the machine of an address is called.
    """
    groups = scaling.by_queue(scaling.scaling_of(state["scaling"]))
    heads = ("", "WORKER", "MACHINE", "SINCE", "SLOTS", "RUNS", "QUEUES")
    lines = [
        (
            "!" if worker["silent"] or worker["draining"] or worker["stuck_seconds"] else "",
            worker["name"],
            machines.get(address_of(worker["name"]), "-"),
            worker["since"],
            str(worker["slots"]),
            runs(worker),
            ",".join(worker["queues"]),
        )
        for worker in state["workers"]
    ]
    heads_of_queues = ("", "QUEUE", "WORKERS", "SLOTS", "WAITING")
    queues = [
        (
            "" if scaling.has_takers(queue, groups.get(queue["name"])) else "!",
            queue["name"],
            *(str(queue[number]) for number in ("workers", "slots", "waiting")),
        )
        for queue in state["queues"]
    ]
    return f"{columns([heads, *lines])}\n\n{columns([heads_of_queues, *queues])}"


def runs(worker: dict[str, Any]) -> str:
    """Return in words what a worker does."""
    said = [f"silent for {worker['silent_seconds']:.0f} s"] if worker["silent"] else []
    said += ["draining"] if worker["draining"] else []
    said += [f"stuck for {worker['stuck_seconds']:.0f} s"] if worker["stuck_seconds"] else []
    said += [
        job["job"] + ("" if job["seconds"] is None else f" ({job['seconds']:.0f} s)")
        for job in worker["jobs"]
    ]
    others = worker["tasks"] - len(worker["jobs"])
    said += [f"{others} other task{'s' * (others > 1)}"] if others > 0 else []
    return ", ".join(said) or "-"


def membership(arguments: argparse.Namespace) -> None:
    """Show HAProxy's servers, and with --dry-run what fleet-membership would do now, and why."""
    way = facts("haproxy_membership")["haproxy_membership"]
    if way != "daemon":
        raise AnsibleFailed(
            f"haproxy_membership is {way}: HAProxy gets its servers from the inventory; see what a "
            "run would change: .venv/bin/ansible-playbook playbooks/haproxy.yml --check --diff"
        )
    python = "/opt/fleet/venv/bin/python"
    ask = {"argv": [python, "-m", "superset_fleet.membership", "--dry-run"]}
    results = run_module("haproxy", "ansible.builtin.command", ask, become=True)
    told = {host: json.loads(result["stdout"]) for host, result in results.items()}
    if not arguments.dry_run:
        told = {host: {"servers": state["servers"]} for host, state in told.items()}
    if arguments.json:
        print(json.dumps(told, indent=2))
    else:
        called = name_hosts(inventory().hosts)
        tables = (
            f"{called.get(host, host)}\n{membership_table(said, called)}"
            for host, said in told.items()
        )
        print("\n\n".join(tables))


def membership_table(state: dict[str, Any], machines: Mapping[str, str]) -> str:
    """Return one HAProxy's servers, and what would be done where that is known, as tables.

    `machines` says what the machine of a server is called.
    """
    servers = [
        (
            "" if server["state"] == "ready" and server["up"] else "!",
            server["name"],
            machines.get(server["name"], "-"),
            server["address"],
            "down" if server["state"] == "ready" and not server["up"] else server["state"],
            str(server["sessions"]) if server["state"] == "drain" else "",
        )
        for server in state["servers"]
    ]
    shown = columns([("", "SERVER", "MACHINE", "ADDRESS", "STATE", "REQUESTS"), *servers])
    if "steps" not in state:
        return shown
    steps = [("", step["verb"], step["server"], step["reason"]) for step in state["steps"]]
    if not steps:
        return f"{shown}\n\nAll is as wanted: nothing would be done."
    return f"{shown}\n\n{columns([('', 'WOULD', 'SERVER', 'WHY'), *steps])}"


def scale(arguments: argparse.Namespace) -> None:
    """Show how many machines each worker group is to have, and why; hold that, or release it."""
    if arguments.hold == "":
        raise AnsibleFailed("say why it is held: fleet scale --hold REASON")
    if arguments.hold or arguments.release:
        options = {"redis": COORDINATION, "reason": arguments.hold or ""}
        run_module(f"{SCHEDULER}[0]", "scaler_hold", options, python=SUPERSET_PYTHON)
    said = ask_workers()["scaling"]
    if arguments.json:
        print(json.dumps(said, indent=2))
    else:
        if arguments.dry_run:
            print("Nothing is done by this command. What the scaler decides, every two seconds:")
        print(scaling.shown(scaling.scaling_of(said)))
    if not scaling.scaling_of(said).leads:
        sys.exit(1)


def status(arguments: argparse.Namespace) -> None:
    """Show the fleet: groups, machines and what they do, queues, last events."""
    if arguments.watch:
        known = inventory()
        watch(lambda: screen(gather(known)))
        return
    state = gather()
    print(json.dumps(state, indent=2) if arguments.json else screen(state))
    if state["gaps"]:
        sys.exit(1)


# -- A machine that takes work, or no more --------------------------------------------------------
IN_ROTATION, IDLE = "gets requests", "serves nothing"
TAKES, NOTHING = "takes tasks", "runs nothing"
UNDO_SECONDS = 30  # for a worker, which looks every second


def drain(arguments: argparse.Namespace) -> None:
    """Let a machine take no more work until its service starts anew; --undo: let it again."""
    name, undo = arguments.instance, arguments.undo
    hosts = inventory().hosts
    roles = {host.name: [role for role in DRAINABLE if role in host.groups] for host in hosts}
    if not roles.get(name):
        raise AnsibleFailed(
            f"{name} is no machine of {' or '.join(DRAINABLE)} that can take work; these are: "
            f"{', '.join(sorted(one for one in roles if roles[one]))}"
        )
    for role in roles[name]:
        if role == WEB:
            drain_web(name, undo, [host for host in hosts if host.statistics])
        else:
            drain_worker(name, undo)


def mark(name: str, role: str, undo: bool) -> None:
    """Write down on a machine that it drains, or take that back."""
    path = f"{ROLES[role].directory}/{DRAINING}"
    file = {"path": path, "state": "absent" if undo else "touch"}
    run_module(name, "ansible.builtin.file", file, become=True)


def drain_web(name: str, undo: bool, balancers: Sequence[Host]) -> None:
    """Take a web machine out of rotation, or back in."""
    mark(name, WEB, undo)
    patience = facts("haproxy_notice_seconds", "haproxy_server_timeout_seconds")
    seconds = sum(int(value) for value in patience.values()) + 30

    def look() -> dict[str, str]:
        return {host.name: state_in_words(ask_haproxy(host).get(name)) for host in balancers}

    tell_until(IN_ROTATION if undo else IDLE, look, name, seconds)


def drain_worker(name: str, undo: bool) -> None:
    """Let a worker leave its queues, or take tasks again."""
    known = facts("superset_guard_enabled", "celery_worker_stop_timeout_seconds")
    if str(known["superset_guard_enabled"]).lower() != "true":
        raise AnsibleFailed(
            "superset_guard_enabled is false, and without the guard a worker cannot be drained. "
            f"On {name}, systemctl stop celery-worker lets it finish what it runs, and stop"
        )
    asked = run_module(name, "ansible.builtin.command", {"argv": ["hostname"]})
    host = asked[name]["stdout"]
    mark(name, WORKER, undo)

    def look() -> dict[str, str]:
        return {name: worker_in_words(ask_workers()["workers"], host)}

    seconds = UNDO_SECONDS if undo else int(known["celery_worker_stop_timeout_seconds"])
    tell_until(TAKES if undo else NOTHING, look, "its worker", seconds)


def tell_until(goal: str, look: Callable[[], dict[str, str]], whom: str, seconds: int) -> None:
    """Print what is seen when it changes, until all who look see the goal. Raises AnsibleFailed."""
    deadline = time.monotonic() + seconds
    told: dict[str, str] = {}
    while True:
        words = look()
        for who in words:
            if words[who] != told.get(who):
                print(f"{who}: {whom} {words[who]}", flush=True)
        told = words
        if set(words.values()) <= {goal}:
            return
        if time.monotonic() > deadline:
            raise AnsibleFailed(f"{whom} still does not do what was wanted after {seconds} s")
        time.sleep(0.5)


def worker_in_words(workers: Sequence[Mapping[str, Any]], host: str) -> str:
    """Return what the worker of a machine does; one that is not heard takes no tasks."""
    heard = [one for one in workers if one["host"] == host and not one["silent"]]
    if any(not (one["draining"] or one["stuck_seconds"]) for one in heard):
        return TAKES
    tasks = sum(one["tasks"] for one in heard)
    return f"takes no more tasks, {tasks} not over yet" if tasks else NOTHING


def state_in_words(server: Mapping[str, Any] | None) -> str:
    """Return what a server of HAProxy's does; None is one that it does not have."""
    if server is None:
        return IDLE
    if server["state"].startswith("up"):
        return IN_ROTATION
    requests = server["requests"]
    return f"gets no more requests, {requests} not over yet" if requests else IDLE


def ssh(arguments: argparse.Namespace) -> None:
    """Replace this process by an ssh session on a machine of a group."""
    names = ["ansible_host", "ansible_user", "ansible_ssh_private_key_file"]
    names.append("ansible_ssh_common_args")
    # What an inventory leaves out is ssh's own business.
    given = ", ".join(f"'{name}': {name} | default('')" for name in names)
    machine = template(f"{arguments.group}[{arguments.number - 1}]", f"{{{given}}}")
    address, user, key, options = (next(iter(machine.values()))[name] for name in names)
    command = ["ssh", *shlex.split(options)]
    command += ["-i", key] if key else []
    command += ["-l", user] if user else []
    os.execvp("ssh", [*command, address, *arguments.command])


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="fleet", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(function.__name__, help=function.__doc__)
        added.set_defaults(run=function)
        return added

    command(access)
    command(password)
    asked = command(query)
    asked.add_argument("sql", metavar="SQL")
    asked.add_argument("--database", default="warehouse", help="its name in Superset")
    asked.add_argument("--timeout", type=int, default=300, help="seconds to wait for the result")
    seen = command(status)
    ways = seen.add_mutually_exclusive_group()
    ways.add_argument("--json", action="store_true", help="for programs")
    ways.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
    shown = command(workers)
    shown.add_argument("--json", action="store_true", help="for programs")
    balanced = command(membership)
    balanced.add_argument("--dry-run", action="store_true", help="what would be done, and why")
    balanced.add_argument("--json", action="store_true", help="for programs")
    scaled = command(scale)
    brake = scaled.add_mutually_exclusive_group()
    brake.add_argument("--hold", metavar="REASON", help="let no group's size be changed")
    brake.add_argument("--release", action="store_true", help="let sizes be changed again")
    brake.add_argument("--dry-run", action="store_true", help="only show; so it is without, too")
    scaled.add_argument("--json", action="store_true", help="for programs")
    drained = command(drain)
    drained.add_argument("instance", metavar="INSTANCE", help="its name in the inventory")
    drained.add_argument("--undo", action="store_true", help="let it take work again")
    machine = command(ssh)
    machine.add_argument("group", metavar="GROUP")
    machine.add_argument("number", metavar="N", nargs="?", type=int, default=1)
    machine.add_argument("command", nargs=argparse.REMAINDER, help="instead of a shell")
    return top


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors of the fleet stop it with one message and status 1."""
    chosen = parser().parse_args(arguments)
    try:
        chosen.run(chosen)
    except (AnsibleFailed, NotAnswered) as error:
        sys.exit(f"fleet: {error}")
