"""Requests that are lost while servers come and go, under a constant load of keep-alive users.

    .venv/bin/python -m benchmarks.membership.churn [changes [users]]

Each change is one server more and one fewer. Half of the requests are POST, which nobody repeats.
The last two ways are there to prove that the load notices what goes wrong.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from superset_fleet.membership.daemon import Membership, Settings, Sight
from tests.support.haproxy_server import BACKEND, OPTIONS, Balancer, Load, Web, balancer
from tests.support.waiting import until

SERVERS = 4  # at a time
Change = Callable[[dict[str, Web], Web | None], None]  # the servers from now on, and who left


def endpoints(webs: dict[str, Web]) -> dict[str, str]:
    """Return the servers' addresses."""
    return {name: web.endpoint for name, web in webs.items()}


def by_daemon(haproxy: Balancer) -> Change:
    """Let the daemon follow; AWS's answers are made here."""
    told = Sight({}, {})
    settings = Settings(
        region="",
        backend=BACKEND,
        port=0,
        server_options=OPTIONS,
        probe_path="/ready",
        poll_seconds=0,
        directory=str(haproxy.directory),
    )
    daemon = Membership(settings, haproxy.api, lambda _: told)

    def change(webs: dict[str, Web], leaver: Web | None) -> None:
        nonlocal told
        told = Sight(endpoints(webs), {})

        def followed() -> bool:
            daemon.step()
            return set(haproxy.api.servers()) == set(webs)

        until(followed, "the daemon follows")
        if leaver:
            leaver.stop()

    return change


def by_reload(haproxy: Balancer) -> Change:
    """Write the servers down and reload."""

    def change(webs: dict[str, Web], leaver: Web | None) -> None:
        haproxy.write(endpoints(webs))
        haproxy.reload()
        if leaver:
            until(lambda: not leaver.serving, "the leaver's last request is finished")
            leaver.stop()

    return change


def by_stock_reload(haproxy: Balancer) -> Change:
    """The same, without the option of the role that keeps idle connections."""
    write = haproxy.write

    def stock(servers: dict[str, str]) -> None:
        write(servers)
        text = haproxy.join.WRITTEN.read_text()
        haproxy.join.WRITTEN.write_text(text.replace("option idle-close-on-response", ""))

    haproxy.write = stock  # type: ignore[method-assign]
    return by_reload(haproxy)


def by_kill(haproxy: Balancer) -> Change:
    """As the daemon, but the leaver is gone before anybody knows."""
    follow = by_daemon(haproxy)

    def change(webs: dict[str, Web], leaver: Web | None) -> None:
        if leaver:
            leaver.kill()
        follow(webs, None)

    return change


@contextmanager
def running(way: Callable[[Balancer], Change]) -> Iterator[tuple[Balancer, Change]]:
    """Run HAProxy for one way to change servers."""
    with tempfile.TemporaryDirectory() as name, balancer(Path(name)) as haproxy:
        yield haproxy, way(haproxy)


def main(changes: int, users: int) -> None:
    """Measure, and print a table."""
    print("\n| way | changes | requests | failed | of which |\n|---|---|---|---|---|")
    for way in (by_daemon, by_reload, by_stock_reload, by_kill):
        with running(way) as (haproxy, change):
            webs = {f"i-{number}": Web() for number in range(SERVERS)}
            change(webs, None)
            with Load(haproxy.port, users) as load:
                for number in range(SERVERS, SERVERS + changes):
                    leaver = webs.pop(next(iter(webs)))
                    webs[f"i-{number}"] = Web()
                    change(webs, leaver)
                    load.more(20 * users)
            for web in webs.values():
                web.stop()
        made = load.served.total() + load.failed.total()
        name = way.__name__.removeprefix("by_").replace("_", " ")
        kinds = ", ".join(f"{what}: {times}" for what, times in load.failed.items()) or "-"
        print(f"| {name} | {changes} | {made} | {load.failed.total()} | {kinds} |")


if __name__ == "__main__":
    given = [int(each) for each in sys.argv[1:]]
    main(*(given + [30, 24][len(given) :]))
