"""No request is lost while web machines come and go and HAProxy is reloaded; what scaling takes.

Users with keep-alive connections ask for Superset's pages at a constant rate, through the load
balancer. Meanwhile the group of web machines grows and shrinks by one again and again; HAProxy is
reloaded, then restarted; then a machine is killed outright. Where a new image is wanted (--upgrade
names a file of overrides that differs from the present one) the fleet is upgraded as well.

A restart may cost what is under way at that moment, a killed machine what it was doing; any other
failure is one too many, and the exit status is 1. With --without-drain, machines that leave are
killed instead, and the check must fail.

Of each newcomer: from `desired + 1` to its first request answered, and next to it, in the same run,
what the machine's boot and Superset's own cold start took.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "molecule"))

from shared import machines
from shared.fleet import deploy, wait
from shared.groups import Group, Rotation, localcloud
from shared.load import Load, pages

CLIENTS = 8
# When the machine began to boot, when what boots it began, when Superset's service was started and
# when it served: microseconds of the clock that all machines share.
TIMES = """
systemctl show --property=UserspaceTimestampMonotonic --value
systemctl show --property=ExecMainStartTimestampMonotonic --value fleet-boot
systemctl show --property=ExecMainStartTimestampMonotonic --value superset-web
systemctl show --property=ActiveEnterTimestampMonotonic --value superset-web
"""


class Soak:
    """The group under load, and what went wrong."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.web, self.rotation = Group("superset_web"), Rotation()
        self.rows: list[tuple[str, str]] = []
        self.wrong: list[str] = []

    @contextmanager
    def step(self, what: str, allowed: int = 0) -> Iterator[None]:
        """Do something under load; more failures than allowed are wrong."""
        failed, requests = self.load.failed.total(), self.load.requests
        yield
        self.load.more(100)
        failed = self.load.failed.total() - failed
        figure = f"{self.load.requests - requests} requests, {failed} failed"
        print(f"{time.strftime('%H:%M:%S')} {what}: {figure}", flush=True)
        self.rows.append((what, figure))
        if failed > allowed:
            self.wrong.append(f"{what}: {figure}")

    def grow(self) -> tuple[float, float, float]:
        """Add a machine; return seconds to its first request, of its boot, of Superset's start."""
        before, start = self.rotation.up(), time.monotonic()
        self.web.want(self.web.desired + 1)
        (newcomer,) = wait("a newcomer in rotation", lambda: self.rotation.up() - before, 300)
        wait("its first request", lambda: self.rotation.servers()[newcomer]["served"], 30)
        took = time.monotonic() - start
        (machine,) = machines.find(newcomer)
        begun, boot, cold, serving = (int(word) / 1e6 for word in machine.run(TIMES).split())
        return took, boot - begun, serving - cold

    def shrink(self, killed: bool) -> None:
        """Take a machine away, or kill one for comparison."""
        before = self.web.members("InService")
        self.web.want(self.web.desired - 1)
        (leaver,) = wait("a machine leaves", lambda: before - self.web.members("InService"))
        if killed:  # its group goes on waiting for it until the hook's time-out
            localcloud("kill", leaver)
        else:
            wait("it is gone", lambda: leaver not in self.web.members(), 300)
        wait("HAProxy has forgotten it", lambda: leaver not in self.rotation.servers(), 60)


def main() -> int:
    """Soak, check and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="./fleet soak scale", description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="how often to grow and to shrink")
    parser.add_argument("--upgrade", metavar="FILE", help="overrides of the release to upgrade to")
    parser.add_argument("--without-drain", action="store_true", help="must fail the check")
    options = parser.parse_args()
    known = machines.facts()
    url, authority = known["superset_url"], known["haproxy_ca_certificate"]
    (balancer,) = machines.find("haproxy")
    newcomers = []
    with Load(url, authority, pages(url, authority), clients=CLIENTS) as load:
        soak = Soak(load)
        size = soak.web.desired
        with soak.step(f"{options.times} times one more and one fewer"):
            for number in range(options.times):
                newcomers.append(soak.grow())
                soak.shrink(options.without_drain)
                print(f"  {number + 1}: {load.report().splitlines()[0]}", flush=True)
        with soak.step("HAProxy reloaded"):
            balancer.run("systemctl reload haproxy")
        with soak.step("HAProxy restarted", allowed=CLIENTS):
            balancer.run("systemctl restart haproxy")
            wait("all are in rotation", lambda: len(soak.rotation.up()) == size, 60)
        if options.upgrade:
            with soak.step("rolling upgrade"):
                overrides = str(Path(options.upgrade).resolve())
                deploy("upgrade", superset_config_overrides=overrides)
        with soak.step("a machine killed outright", allowed=CLIENTS):
            victim = min(soak.rotation.up())
            localcloud("kill", victim)
            wait("it is replaced", lambda: victim not in soak.web.members("InService"), 60)
            wait("all serve again", lambda: len(soak.rotation.up() - {victim}) == size, 300)
    print(load.report())
    took, boot, cold = (statistics.median(column) for column in zip(*newcomers, strict=True))
    soak.rows += [
        ("desired + 1 → first request answered, median", f"{took:.1f} s"),
        ("… of that the machine's boot, and Superset's cold start", f"{boot:.1f} s, {cold:.1f} s"),
        ("ratio", f"{took / (boot + cold):.2f}"),
    ]
    print("\n| what | figure |\n|---|---|")
    print("\n".join(f"| {what} | {figure} |" for what, figure in soak.rows))
    print("\n".join(["", *soak.wrong]))
    print(f"\nThe check {'fails' if soak.wrong else 'is passed'}")
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
