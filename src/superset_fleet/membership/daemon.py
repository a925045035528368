"""fleet-membership: keeps the servers of this machine's HAProxy in step with auto-scaling groups.

Every few seconds it reads the whole truth, from AWS and from HAProxy, and does what leads from the
one to the other (`membership.plan`), by HAProxy's Runtime API: without a reload, so no connection
is cut. A newcomer must answer a probe before it gets requests; a leaver finishes those that it has.

What cannot be read is taken to be as it was: an error of AWS removes no server.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from ..cloud import client as aws
from ..cloud.discovery import VALUES, Cloud, LastAnswer, Region
from ..daemon.credentials import aws_config
from ..daemon.journal import begin_journal, tell
from ..daemon.loop import run, until_terminated
from ..files import replace
from . import plan as membership
from .haproxy import SOCKET, HAProxy, HAProxyError, Server
from .plan import WAITING, Action

CONFIGURATION = "/etc/fleet/membership.json"
LOOK_SECONDS = 0.5  # between two looks at servers that are about to enter or to leave
LONGEST_PAUSE_SECONDS = 10.0  # the watchdog of systemd wants to hear something
SLOWEST_POLL_SECONDS = 120.0  # while AWS throttles
GONE = ("shutting-down", "terminated", "stopping", "stopped")


@dataclass(frozen=True)
class Settings:
    """What the daemon is to do: the keys of its configuration file."""

    region: str
    backend: str
    port: int  # of the servers
    server_options: str  # as those of a line `server` in HAProxy's configuration
    probe_path: str
    fleet: str = "superset"
    role: str = "superset_web"
    poll_seconds: float = 10.0
    removable_share: float = 0.5  # of the servers, missing at once, before it is doubted
    socket: str = SOCKET
    directory: str = "/var/lib/haproxy-membership"  # for the servers file and known addresses
    aws_config_file: str = ""  # empty: the instance profile
    metrics_port: int = 0  # on the loopback address; 0: none

    @property
    def servers_file(self) -> Path:
        """The file from which HAProxy starts with the servers of the moment."""
        return Path(self.directory, "servers.cfg")


class Sight(NamedTuple):
    """What the cloud says."""

    wanted: dict[str, str]  # servers that can take work, with their addresses
    leaving: dict[str, str]  # instances that leave or are gone, with how this is known


# -- The cloud ------------------------------------------------------------------------------------
class Instances:
    """The instances of one role, read by the code that the inventory reads them with."""

    def __init__(self, settings: Settings, config_file: Path | None, keep: bool = True) -> None:
        self._settings, self._keep = settings, keep
        cloud = Cloud([settings.region], settings.fleet, [settings.role], config_file=config_file)
        with aws.explained(settings.region):
            session = aws.patient(config_file)
            self._memory = LastAnswer(Path(settings.directory), cloud, settings.region)
            self._region = Region(session, cloud, settings.region, self._memory)

    def read(self, doubted: Collection[str] = ()) -> Sight:
        """Return what the cloud says, about doubted servers too. Raises AwsError.

        With all addresses known and nothing doubted this is one call.
        """
        instances = self._region.read().instances
        known = {one.id: one.address for one in self._memory.instances}
        self._memory.instances = instances
        if self._keep and {one.id: one.address for one in instances} != known:
            self._memory.keep(instances)
        ours = [one for one in instances if one.role == self._settings.role]
        wanted = {one.id: f"{one.address}:{self._settings.port}" for one in ours if one.able}
        leaving = {
            one.id: f"is {one.state} in its group" for one in ours if one.lifecycle == "terminating"
        }
        return Sight(wanted, leaving | self._gone(doubted))

    def _gone(self, names: Collection[str]) -> dict[str, str]:
        ids = sorted(name for name in names if name.startswith("i-"))
        with aws.explained(self._settings.region):
            return {
                one["InstanceId"]: f"is {one['State']['Name']}, says EC2"
                for start in range(0, len(ids), VALUES)
                for one in self._region.describe(
                    {"Name": "instance-id", "Values": ids[start : start + VALUES]}
                )
                if one["State"]["Name"] in GONE
            }


def throttled(error: aws.AwsError) -> bool:
    """Tell whether AWS asked for fewer calls."""
    return error.code in aws.THROTTLED


# -- The loop -------------------------------------------------------------------------------------
@dataclass
class Figures:
    """What the metrics tell."""

    servers: dict[str, Server] = field(default_factory=dict)
    wanted: int = 0
    steps: Counter[str] = field(default_factory=Counter)  # of the last look, by verb
    done: Counter[str] = field(default_factory=Counter)  # since the start, by verb
    polls: Counter[str] = field(default_factory=Counter)  # by ok, throttled, error
    errors: int = 0  # of HAProxy
    answered_at: float = 0.0  # seconds since the epoch; 0: not yet

    @property
    def status(self) -> str:
        """How many servers are ready, in words."""
        ready = sum(server.state == "ready" for server in self.servers.values())
        return f"{ready} of {self.wanted} servers are ready"

    def text(self) -> str:
        """Return the metrics in the format of Prometheus."""
        states = Counter(
            "down" if server.state == "ready" and not server.up else server.state
            for server in self.servers.values()
        )
        lines = []
        for noun, kind, label, values in (
            ("servers", "gauge", "state", {"ready": 0, "down": 0, "drain": 0, "maint": 0} | states),
            ("wanted", "gauge", "", {"": self.wanted}),
            ("pending", "gauge", "verb", {verb: self.steps[verb] for verb in WAITING}),
            ("actions_total", "counter", "verb", dict.fromkeys(membership.DOING, 0) | self.done),
            (
                "polls_total",
                "counter",
                "result",
                {"ok": 0, "throttled": 0, "error": 0} | self.polls,
            ),
            ("haproxy_errors_total", "counter", "", {"": self.errors}),
            ("answered_timestamp_seconds", "gauge", "", {"": self.answered_at}),
        ):
            name = f"superset_fleet_membership_{noun}"
            lines.append(f"# TYPE {name} {kind}")
            for value, number in values.items():
                lines.append(
                    f'{name}{{{label}="{value}"}} {number}' if label else f"{name} {number}"
                )
        return "\n".join([*lines, ""])


class Membership:
    """The loop. `read` is Instances.read, called in a thread of its own: AWS may be slow."""

    def __init__(
        self, settings: Settings, haproxy: HAProxy, read: Callable[[Collection[str]], Sight]
    ) -> None:
        self._settings, self._haproxy, self._read = settings, haproxy, read
        self.figures = Figures()
        self._pool = ThreadPoolExecutor(1, "cloud")
        self._reading: Future[Sight] | None = None
        self._sight: Sight | None = None  # None: the cloud has not answered yet
        self._due = 0.0  # when to read the cloud again, by the monotonic clock
        self._failures = 0  # times in a row that AWS throttled
        self._doubted: frozenset[str] = frozenset()
        self._told: set[tuple[str, str]] = set()
        self._failing: set[str] = set()

    def run(self, terminated: Callable[[float], bool]) -> None:
        """Work until terminated tells so."""
        run(self.step, terminated, lambda: self.figures.status)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def step(self) -> float:
        """Read, and do what there is to do; return for how many seconds then to wait."""
        self._poll()
        soon = False
        if self._sight:
            try:
                soon = self._look(self._sight)
            except HAProxyError as error:
                self._failed([error])
                soon = True
        longest = LOOK_SECONDS if soon else LONGEST_PAUSE_SECONDS
        return min(longest, max(0.0, self._due - time.monotonic()))

    def _poll(self) -> None:
        """Ask the cloud when it is time to; take its answer when that is there."""
        if not self._reading:
            if time.monotonic() < self._due:
                return
            self._reading = self._pool.submit(self._read, self._doubted)
        wait([self._reading], LOOK_SECONDS)
        if not self._reading.done():
            return
        asked, self._reading = self._reading, None
        result = "ok"
        try:
            self._sight = asked.result()
            self.figures.wanted = len(self._sight.wanted)
            self.figures.answered_at = time.time()
            self._failures = 0
        except aws.AwsError as error:
            slow = throttled(error)
            result = "throttled" if slow else "error"
            self._failures += slow
            tell(f"poll_{result}", reason=f"{error}. The servers stay as they are")
        self.figures.polls[result] += 1
        self._due = time.monotonic() + pause_after(self._settings.poll_seconds, self._failures)

    def _look(self, sight: Sight) -> bool:
        """Compare HAProxy with what the cloud said; return whether to look again soon."""
        settings, current = self._settings, self._haproxy.servers()
        answering = membership.probe(
            membership.unproven(current, sight.wanted), settings.probe_path
        )
        steps = membership.plan(
            current, sight.wanted, answering, sight.leaving, settings.removable_share
        )
        self._tell_waiting(steps)
        done = membership.carry_out_all(self._haproxy, steps, settings.server_options)
        for step, error in done:
            if not error:
                self.figures.done[step.verb] += 1
                tell(step.verb, server=step.server, address=step.address, reason=step.reason)
        self._failed([error for _, error in done if error])
        if done:
            current = self._haproxy.servers()
        self.figures.servers = current
        self.figures.steps = Counter(step.verb for step in steps)
        replace(settings.servers_file, membership.rendered(current), mode=0o644)
        doubted = frozenset(step.server for step in steps if step.verb == "keep")
        if doubted - self._doubted:
            self._due = 0.0  # ask about them at once
        self._doubted = doubted
        return any(step.verb != "keep" for step in steps)

    def _tell_waiting(self, steps: list[Action]) -> None:
        """Say once of each server that waits or is kept, not at each look."""
        waiting = {(step.verb, step.server): step for step in steps if step.verb in WAITING}
        for key, step in waiting.items():
            if key not in self._told:
                tell(step.verb, server=step.server, address=step.address, reason=step.reason)
        self._told = set(waiting)

    def _failed(self, errors: list[HAProxyError]) -> None:
        """Count errors, and say each once, not at each look."""
        self.figures.errors += len(errors)
        failing = {str(error) for error in errors}
        for error in sorted(failing - self._failing):
            tell("haproxy_error", reason=error)
        self._failing = failing


def pause_after(poll_seconds: float, failures: int) -> float:
    """Return for how long not to ask AWS, which throttled so many times in a row.

    Not in step with other load balancers: by up to a quarter less.
    """
    if not failures:
        return poll_seconds
    slower = poll_seconds * 2.0 ** min(failures, 10)
    return min(slower, max(SLOWEST_POLL_SECONDS, poll_seconds)) * random.uniform(0.75, 1)


# -- The process ----------------------------------------------------------------------------------
def serve_metrics(figures: Figures, port: int) -> None:
    """Answer every request on a loopback port with the metrics, from a thread."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = figures.text().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def foretell(
    settings: Settings, haproxy: HAProxy, read: Callable[[Collection[str]], Sight]
) -> tuple[dict[str, Server], list[Action]]:
    """Return the servers and what would be done, and do nothing. Raises AwsError, HAProxyError."""
    sight, current = read(()), haproxy.servers()
    answering = membership.probe(membership.unproven(current, sight.wanted), settings.probe_path)

    def planned(sight: Sight) -> list[Action]:
        return membership.plan(
            current, sight.wanted, answering, sight.leaving, settings.removable_share
        )

    steps = planned(sight)
    if doubted := {step.server for step in steps if step.verb == "keep"}:
        steps = planned(read(doubted))
    return current, steps


def read_settings(path: str) -> Settings:
    """Return the settings of a configuration file; exit where it cannot be used."""
    try:
        given: Mapping[str, Any] = json.loads(Path(path).read_text())
        return Settings(**given)
    except (OSError, ValueError, TypeError) as error:
        sys.exit(f"fleet-membership: {path}: {error}")


def main() -> None:
    """Run until SIGTERM, or say what would be done."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", default=CONFIGURATION, metavar="FILE", help="its settings")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the servers, what would be done and why, as JSON, and do nothing",
    )
    options = parser.parse_args()
    settings = read_settings(options.config)
    haproxy = HAProxy(settings.socket, settings.backend)
    named = settings.aws_config_file
    config_file = aws_config(Path(named)) if named else None
    if named and not config_file:
        sys.exit(f"fleet-membership: {named} is missing or has no profile")
    try:
        instances = Instances(settings, config_file, keep=not options.dry_run)
        if options.dry_run:
            servers, steps = foretell(settings, haproxy, instances.read)
            told = {
                "servers": [{"name": name, **server._asdict()} for name, server in servers.items()],
                "steps": [step._asdict() for step in steps],
            }
            print(json.dumps(told, indent=2))
            return
    except (aws.AwsError, HAProxyError) as error:
        sys.exit(f"fleet-membership: {error}")
    begin_journal()
    daemon = Membership(settings, haproxy, instances.read)
    if settings.metrics_port:
        serve_metrics(daemon.figures, settings.metrics_port)
    daemon.run(until_terminated())
