"""Services of which one on all schedulers leads: which one does, and what if it is lost."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from testinfra.host import Host

from .fleet import BEAT, SCALER, WATCHDOG, wait

# What a service writes into its journal when it begins to lead, and when that is over.
LEADS = {BEAT: "Acquired lock", WATCHDOG: "event=leads", SCALER: "event=leads"}
CHANGES = {BEAT: LEADS[BEAT], WATCHDOG: "event=(leads|follows)", SCALER: "event=(leads|follows)"}
TAKES_OVER_SECONDS = 15
LIFE = "systemctl show --property InvocationID --value {}"
Leaders = dict[str, tuple[Host, list[Host]]]  # by unit: where it leads, and the other machines


def root(host: Host, command: str) -> str:
    """Run a command as root; return what it says."""
    with host.sudo():
        said: str = host.check_output(command)
    return said


def said(host: Host, unit: str, pattern: str) -> str:
    """Return the last line with a pattern that a unit wrote since it was started, or ''."""
    with host.sudo():
        life = host.check_output(LIFE.format(unit))
        journal = f"journalctl --quiet _SYSTEMD_INVOCATION_ID={life} --reverse --lines 1"
        line: str = host.run(f"{journal} --grep '{pattern}'").stdout
    return line


def leading(hosts: Iterable[Host], unit: str) -> list[Host]:
    """Return those of the machines whose unit leads."""
    return [host for host in hosts if LEADS[unit] in said(host, unit, CHANGES[unit])]


def one_leads(hosts: list[Host], unit: str) -> bool:
    """Tell whether the unit leads on exactly one machine."""
    return len(leading(hosts, unit)) == 1


def runs_again(host: Host, unit: str, before: str) -> bool:
    """Tell whether a unit runs in another life than before."""
    return root(host, LIFE.format(unit)) != before and bool(host.service(unit).is_running)


def leaders(hosts: list[Host], units: Iterable[str]) -> Leaders:
    """Wait until one of each unit leads, and return these."""
    found = {}
    for unit in units:
        wait(f"one {unit} leads", functools.partial(one_leads, hosts, unit))
        (one,) = leading(hosts, unit)
        found[unit] = one, [host for host in hosts if host is not one]
    return found


@contextmanager
def without(leaders: Leaders, command: str) -> Iterator[None]:
    """Let machines lose a unit each, by a command; start these again at last only."""
    for unit, (one, _) in leaders.items():
        root(one, command.format(unit))
    try:
        yield
    finally:
        for unit, (one, _) in leaders.items():
            root(one, f"systemctl start {unit}")


def wait_until_others_lead(leaders: Leaders) -> None:
    """Wait until each unit leads on another machine than before."""
    for unit, (_, others) in leaders.items():
        wait(
            f"another {unit} leads",
            functools.partial(leading, others, unit),
            TAKES_OVER_SECONDS,
        )


def check_one_leads(hosts: list[Host], unit: str) -> None:
    """Of all machines one leads, and on all of them the service has started."""
    assert len(hosts) > 1
    for host in hosts:
        assert host.service(unit).is_running
        assert host.service(unit).is_enabled
    wait(f"one {unit} leads", functools.partial(one_leads, hosts, unit))


def check_others_lead_when_the_leaders_are_killed(
    hosts: list[Host], units: Iterable[str], meanwhile: Callable[[Leaders], None] = lambda _: None
) -> None:
    """The leaders are killed at the same time; others lead, and go on to when those are back."""
    found = leaders(hosts, units)
    with without(found, "systemctl kill --signal KILL {0}; systemctl stop {0}"):
        wait_until_others_lead(found)
        meanwhile(found)
    for unit, (_, others) in found.items():
        assert leading(hosts, unit) == leading(others, unit)


def check_killed_services_start_again(hosts: list[Host], units: Iterable[str]) -> None:
    """The leaders are killed at the same time and are back; then one of each unit leads."""
    found = leaders(hosts, units)
    lives = {unit: root(one, LIFE.format(unit)) for unit, (one, _) in found.items()}
    for unit, (one, _) in found.items():
        root(one, f"systemctl kill --signal KILL {unit}")
    for unit, (one, _) in found.items():
        wait(
            f"{unit} is back",
            functools.partial(runs_again, one, unit, lives[unit]),
        )
    leaders(hosts, units)


def check_others_lead_when_the_leaders_are_stopped(hosts: list[Host], units: Iterable[str]) -> None:
    """The leaders are stopped at the same time; others lead, and each stop is a success."""
    found = leaders(hosts, units)
    with without(found, "systemctl stop {0}"):
        wait_until_others_lead(found)
        for unit, (one, _) in found.items():
            assert root(one, f"systemctl show --property Result --value {unit}") == "success"
