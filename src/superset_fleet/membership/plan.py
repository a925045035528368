"""Which servers HAProxy shall have: what to do next, and why, from what is and what is wanted.

`plan` is called again and again with what is seen at that moment. Nothing is remembered from one
time to the next, so it does not matter who did the last step, or whether it was done at all.
"""

from __future__ import annotations

import http.client
import math
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from .haproxy import HAProxy, HAProxyError, Server, Unreachable

PROBE_SECONDS = 2.0
PROBES = 64  # at a time

DOING = ("add", "ready", "drain", "delete")
WAITING = ("wait", "keep")  # nothing is done: a server is not ready, not idle, or must not go


class Action(NamedTuple):
    """One step for one server."""

    verb: str  # one of DOING and WAITING
    server: str
    address: str
    reason: str


def plan(
    current: Mapping[str, Server],
    wanted: Mapping[str, str],
    answering: Collection[str],
    leaving: Mapping[str, str],
    removable: float,
) -> list[Action]:
    """Return the next step for each server that is not as wanted: newcomers first.

    wanted: the servers that shall be, each with its address:port.
    answering: which of these answered a probe just now; no other one is let in.
    leaving: servers that are known to leave or to be gone, each with how this is known.
    removable: share of the servers in use that may be missing from wanted at once. Where more
    are missing, those stay that are not known to leave: it may be the answer that is wrong.
    """
    stay = {name for name, server in current.items() if wanted.get(name) == server.address}
    used = [name for name, server in current.items() if server.state != "maint"]
    entering = [
        name
        for name in sorted(wanted)
        if name not in current or (name in stay and current[name].state != "ready")
    ]
    going = [name for name in sorted(current) if name not in stay]
    left = [name for name in used if name in stay and name not in entering]
    left += [name for name in entering if name in answering]
    least = math.ceil(len(used) * (1 - removable))
    steps = [enter(name, current, wanted[name], name in answering) for name in entering]
    for name in going:
        server = current[name]
        why = leaving.get(name, "is not among the wanted servers")
        if name in wanted:
            why = f"its address is {wanted[name]} now"
        if server.state == "ready" and len(left) < least and name not in leaving:
            steps.append(Action("keep", name, server.address, doubt(len(left), len(used), least)))
        else:
            steps.append(leave(name, server, why))
    return sorted(steps, key=lambda step: (*DOING, *WAITING).index(step.verb))


def enter(name: str, current: Mapping[str, Server], address: str, answers: bool) -> Action:
    """Return the next step of a server that is wanted and not in use."""
    if not answers:
        return Action("wait", name, address, "does not answer yet")
    if name not in current:
        return Action("add", name, address, "is wanted and answers")
    return Action("ready", name, address, f"is wanted, answers, and was in {current[name].state}")


def leave(name: str, server: Server, why: str) -> Action:
    """Return the next step of a server that is not wanted."""
    if server.state == "ready":
        return Action("drain", name, server.address, why)
    if server.sessions:
        return Action("wait", name, server.address, f"still serves {server.sessions} requests")
    return Action("delete", name, server.address, f"{why}, and serves no request")


def doubt(left: int, used: int, least: int) -> str:
    """Return in words why servers are kept."""
    return (
        f"without those that are missing, {left} of {used} servers would be left, "
        f"at least {least} must be, and nothing says that this one is gone"
    )


def carry_out(haproxy: HAProxy, step: Action, options: str) -> None:
    """Do one step. Raises HAProxyError; what was half done is found so and finished later."""
    match step.verb:
        case "add":
            haproxy.add(step.server, step.address, options)
            haproxy.ready(step.server)
        case "ready":
            haproxy.ready(step.server)
        case "drain":
            haproxy.drain(step.server)
        case "delete":
            haproxy.delete(step.server)


def carry_out_all(
    haproxy: HAProxy, steps: Iterable[Action], options: str
) -> list[tuple[Action, HAProxyError | None]]:
    """Do every step that there is to do, as far as HAProxy answers; return each with its error."""
    done: list[tuple[Action, HAProxyError | None]] = []
    for step in steps:
        if step.verb in WAITING:
            continue
        try:
            carry_out(haproxy, step, options)
            done.append((step, None))
        except HAProxyError as error:
            done.append((step, error))
            if isinstance(error, Unreachable):
                break
    return done


# -- Probes ---------------------------------------------------------------------------------------
def unproven(current: Mapping[str, Server], wanted: Mapping[str, str]) -> dict[str, str]:
    """Return the wanted servers that are not in use, to be probed, with their addresses."""
    return {
        name: address
        for name, address in wanted.items()
        if name not in current or current[name].state != "ready"
    }


def probe(servers: Mapping[str, str], path: str) -> set[str]:
    """Return which servers answer 200 at a path, all asked at the same time."""
    if not servers:
        return set()
    with ThreadPoolExecutor(max_workers=min(PROBES, len(servers))) as pool:
        answers = pool.map(lambda address: answers_at(address, path), servers.values())
        return {name for name, answer in zip(servers, answers, strict=True) if answer}


def answers_at(address: str, path: str) -> bool:
    """Tell whether what listens at address:port answers 200 at a path."""
    connection = http.client.HTTPConnection(address, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


# -- The servers file -----------------------------------------------------------------------------
def rendered(servers: Mapping[str, Server]) -> str:
    """Return the lines of HAProxy's configuration for the servers in use.

    Those that enter or leave are not among them: after a restart they would get requests.
    """
    return "".join(
        f"    server {name} {server.address}\n"
        for name, server in sorted(servers.items())
        if server.state == "ready"
    )
